"""What doctor says of a folder, a clock and a job's limits."""

import os
import time
from types import SimpleNamespace

import pytest

from medsynth import doctor


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return doctor.examine(tmp_path_factory.mktemp("place") / "not" / "there" / "yet")


def test_everything_that_a_night_of_training_may_lack_is_named(found):
    assert {"processor", "threads", "memory", "gpu", "free disk", "run folder", "temporary",
            "DICOM codecs", "clock", "new files", "weights", "network"} <= set(found)  # fmt: skip
    assert found["free disk"].endswith("GiB for yet")
    assert found["run folder"] == "can be written to, knows locks"
    assert f"{len(os.sched_getaffinity(0))} of them for this job" in found["processor"]


def test_looking_leaves_nothing_behind(tmp_path):
    assert doctor.faults(tmp_path / "run") == []
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_fault(tmp_path, monkeypatch):
    little = SimpleNamespace(free=2**30)
    monkeypatch.setattr("shutil.disk_usage", lambda place: little)
    assert doctor.faults(tmp_path / "run") == [
        "only 1.0 GiB are free for run: a run takes some GiB"]  # fmt: skip


def test_a_folder_that_cannot_be_written_to_is_a_fault(tmp_path, monkeypatch):
    def shut(**where):
        raise PermissionError(13, "Permission denied", str(tmp_path / "x"))

    monkeypatch.setattr("tempfile.TemporaryFile", shut)
    assert doctor.faults(tmp_path) == [f"{tmp_path.name} can't be written to: Permission denied"]


def test_a_clock_of_the_last_century_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 86_400.0)
    said = " ".join(doctor.faults(tmp_path))
    assert "before this version was made" in said
    assert "differ" in said  # from the disk's, which is right


def test_switches_that_are_set_are_named(monkeypatch):
    for name in doctor.SWITCHES:
        monkeypatch.delenv(name, raising=False)
    assert "no library is told so" in doctor._switches()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert doctor._switches() == "libraries are told so by HF_HUB_OFFLINE"


def test_others_may_not_see_a_folder_that_only_its_owner_may(tmp_path):
    tmp_path.chmod(0o700)
    assert "others" not in doctor._disk(tmp_path)["run folder"]
    tmp_path.chmod(0o755)
    assert "others may see the names in it (chmod 700)" in doctor._disk(tmp_path)["run folder"]
