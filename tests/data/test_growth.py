"""Ingest that was killed, and folders that grow: only what is new is read, and nothing differs."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from medsynth.data import intake, phantoms
from medsynth.data.deidentify import pseudonym
from medsynth.data.intake import ingest
from medsynth.data.journal import Form, Journal, Shelf
from medsynth.data.original import Known, look_over
from medsynth.data.preparation import Reading
from medsynth.data.worker import NEEDED
from medsynth.errors import DataError
from medsynth.protocol import Data, parse

SECRET = b"k" * 32


def protocol(**data):
    document = {
        "name": "test", "domain": "chest_xray", "image": {"size_px": 32},
        "data": {"max_bad_share": 0.5, **data},
        "gate": {"rules": [{"finding": "memorization.p_value", "at_least": 0.05}]},
    }  # fmt: skip
    return parse(json.dumps(document))


@pytest.fixture
def raw(tmp_path) -> Path:
    phantoms.write_folder(
        tmp_path / "raw", domain="chest_xray", patients=10, seed=1, size_px=48, images_each=2,
        bad_files=3, formats=("png", "dicom"),
    )  # fmt: skip
    return tmp_path / "raw"


@pytest.fixture
def counted(monkeypatch):
    """The paths that were read, of which there are none where nothing had to be."""
    paths = []

    def read(self, entry):
        paths.append(entry.path)
        return read_one(self, entry)

    read_one = Reading.__call__
    monkeypatch.setattr(Reading, "__call__", read)
    return paths


def take_in(raw, space, settings=None, **options):
    space.mkdir(exist_ok=True)
    return ingest(raw, space, settings or protocol(), SECRET, **{"workers": 0, **options})


def results(space):
    """All that counts as a result; when files were last changed is none."""
    files = (path for path in space.iterdir() if path.is_file() and path.name != "files.jsonl")
    return {path.name: path.read_bytes() for path in files}


def go(raw, space):
    """Take in a folder in a process that can be killed; slowly, so that it can be met anywhere."""
    ingest(raw, space, protocol(), SECRET, lambda *_: time.sleep(0.01), workers=0)


def test_killed_at_random_moments_it_ends_with_the_same_bytes(raw, tmp_path):
    draw, space = random.Random(7), tmp_path / "killed"
    space.mkdir()
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(list(NEEDED))
    lengths = []
    for _ in range(8):
        process = processes.Process(target=go, args=(raw, space))
        process.start()
        time.sleep(draw.uniform(0.1, 0.5))
        process.kill()
        process.join()
        journal = space / "read" / "now" / "files.jsonl"
        lengths.append(journal.read_bytes().count(b"\n") if journal.exists() else 0)
    take_in(raw, space)
    take_in(raw, tmp_path / "whole")
    assert results(space) == results(tmp_path / "whole")
    assert lengths == sorted(lengths)


@pytest.mark.parametrize("files", [1, 11, 22])
def test_what_was_read_before_a_stop_is_not_read_again(raw, tmp_path, counted, files):
    def stop(done, total):
        if done == files:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take_in(raw, tmp_path / "stopped", progress=stop)
    del counted[:]
    take_in(raw, tmp_path / "stopped")
    assert len(counted) == 23 - files
    take_in(raw, tmp_path / "whole")
    assert results(tmp_path / "stopped") == results(tmp_path / "whole")


@pytest.mark.parametrize("place", ["pixels.npy", "files.jsonl", "duplicates.csv"])
def test_a_stop_at_the_very_end_costs_no_reading(raw, tmp_path, counted, monkeypatch, place):
    def stop(path, *rest):
        if getattr(path, "name", place) == place:
            raise KeyboardInterrupt
        return rename(path, *rest)

    space, rename = tmp_path / "stopped", Path.rename
    with monkeypatch.context() as patch:
        late = place == "duplicates.csv"
        patch.setattr(*((intake, "write_links") if late else (Path, "rename")), stop)
        with pytest.raises(KeyboardInterrupt):
            take_in(raw, space)
    del counted[:]
    take_in(raw, space)
    assert counted == []
    take_in(raw, tmp_path / "whole")
    assert results(space) == results(tmp_path / "whole")


def test_too_many_bad_files_are_not_read_twice_to_learn_that_more_are_allowed(
    raw, tmp_path, counted
):
    space = tmp_path / "intake"
    with pytest.raises(DataError, match="3 of 23 files can't be used"):
        take_in(raw, space, protocol(max_bad_share=0.0))
    del counted[:]
    take_in(raw, space, protocol(max_bad_share=0.2))
    assert counted == []


# A folder that grows ----------------------------------------------------------------------------


@pytest.fixture
def before(raw, tmp_path, counted):
    """What was taken in when four images were not there yet, and no table."""
    (raw / "labels.csv").unlink()
    aside = tmp_path / "aside"
    aside.mkdir()
    for path in sorted((raw / "images").glob("p000[1369]_1.*")):
        path.rename(aside / path.name)
    take_in(raw, tmp_path / "before")
    for path in aside.iterdir():
        path.rename(raw / "images" / path.name)
    return tmp_path / "before"


@pytest.fixture
def again(raw, before, tmp_path, counted):
    """Take in what there is now; return the names of what had to be read for it.

    What comes out must be what comes out where nothing was known before.
    """

    def take_in_again(settings=None, **options):
        del counted[:]
        take_in(raw, tmp_path / "again", settings, earlier=before, **options)
        names = [Path(path).name for path in counted]
        take_in(raw, tmp_path / "fresh", settings)
        assert results(tmp_path / "again") == results(tmp_path / "fresh")
        return names

    return take_in_again


def test_of_a_grown_folder_only_what_is_new_is_read(again):
    assert again() == ["p0001_1.dcm", "p0003_1.dcm", "p0006_1.dcm", "p0009_1.dcm"]


def test_what_left_the_folder_leaves_the_cohort(raw, before, again):
    for path in (raw / "images").glob("p000[13569]_1.*"):
        path.unlink()
    (raw / "images" / "bad00_empty.png").unlink()
    assert again() == []


def test_a_file_that_was_touched_is_read_again_and_a_changed_one_too(raw, again):
    os.utime(raw / "images" / "p0000_0.png", (1, 1))
    shutil.copy(raw / "images" / "p0004_0.png", raw / "images" / "p0002_0.png")
    names = again()
    assert names[:3] == ["p0000_0.png", "p0001_1.dcm", "p0002_0.png"]
    assert len(names) == 6


def test_a_file_that_moved_is_read_again(raw, again):
    (raw / "images" / "p0000_0.png").rename(raw / "images" / "q.png")
    assert again()[-1] == "q.png"


@pytest.mark.parametrize("changes", [{"max_pixels": 10**8}, {"max_seconds": 9.0}])
def test_other_settings_of_reading_read_all_again(again, changes):
    assert len(again(protocol(**changes))) == 23


def test_another_version_of_a_decoder_reads_all_again(again, monkeypatch):
    monkeypatch.setattr(intake, "versions", lambda packages: {"pydicom": "99"})
    assert len(again()) == 23


def test_another_secret_knows_no_file(raw, before, tmp_path, counted):
    del counted[:]
    (tmp_path / "other").mkdir()
    ingest(raw, tmp_path / "other", protocol(), b"x" * 32, earlier=before, workers=0)
    assert len(counted) == 23


def test_knobs_that_only_choose_images_read_nothing_again():
    assert set(intake.CHOOSING) <= set(Data.model_fields)


def test_what_the_machine_could_not_do_is_tried_again(raw, tmp_path, counted, monkeypatch):
    def fail(self, entry):
        file = read(self, entry)
        return type(file)("codec missing") if entry.path.endswith("_1.dcm") else file

    read = Reading.__call__
    with monkeypatch.context() as patch:
        patch.setattr(Reading, "__call__", fail)
        take_in(raw, tmp_path / "before", protocol(max_bad_share=0.9))
    del counted[:]
    settings = protocol(max_bad_share=0.9)
    told = take_in(raw, tmp_path / "again", settings, earlier=tmp_path / "before")
    assert len(counted) == 10
    assert told.bad == 3


def test_a_mended_table_is_followed_without_reading(raw, tmp_path, counted):
    take_in(raw, tmp_path / "before")
    table = (raw / "labels.csv").read_text()
    (raw / "labels.csv").write_text(table.replace("P0003", "P0002"))
    del counted[:]
    told = take_in(raw, tmp_path / "again", earlier=tmp_path / "before")
    assert counted == []
    assert told.patients == 9


def test_a_header_is_asked_for_its_patient_once_no_table_names_one(raw, tmp_path, counted):
    take_in(raw, tmp_path / "before")
    del counted[:]
    settings = protocol(patient_column=None)
    told = take_in(raw, tmp_path / "again", settings, earlier=tmp_path / "before")
    assert len(counted) == 23
    assert told.patients == 10  # of the DICOM files, each its own


def test_a_damaged_cache_is_not_believed(before, again):
    path = before / "pixels.npy"
    data = bytearray(path.read_bytes())
    data[128 + 32 * 32 * 5] ^= 1  # the sixth image, p0003_0.png after two bad ones went
    path.write_bytes(bytes(data))
    names = again()
    assert 4 < len(names) < 23


def test_a_folder_that_changes_while_it_grows_loses_nothing(raw, before, tmp_path, counted):
    """Killed, then other files came, killed again: all that was read serves in the end."""

    def stop(done, total):
        if done == 15:
            raise KeyboardInterrupt

    for name in ("p0000_0.png", "p0001_0.dcm"):
        with pytest.raises(KeyboardInterrupt):
            take_in(raw, tmp_path / "again", progress=stop)
        os.utime(raw / "images" / next((raw / "images").glob(name[:7] + ".*")).name, (1, 1))
    del counted[:]
    take_in(raw, tmp_path / "again")
    assert len(counted) == 23 - 15 + 1
    take_in(raw, tmp_path / "fresh")
    assert results(tmp_path / "again") == results(tmp_path / "fresh")


# Its parts --------------------------------------------------------------------------------------

FORM = Form(reading="r", shape=(4, 4, 3), dtype="uint16")


@pytest.mark.parametrize("counts", [(), (1,), (3, 0, 2)])
def test_pixels_are_what_numpy_would_have_written(tmp_path, counts):
    draw = np.random.default_rng(0)
    images = [draw.integers(0, 65535, (n, 4, 4, 3)).astype(np.uint16) for n in counts]
    wanted = [Known(str(i), 1, 1) for i in range(len(counts))]
    with Journal(tmp_path, FORM, wanted) as journal:
        for known, image in zip(wanted, images, strict=True):
            journal.add(known, {"reason": ""}, image)
        journal.finish()
    whole = np.concatenate([np.zeros((0, 4, 4, 3), np.uint16), *images])
    np.save(tmp_path / "expected.npy", whole)
    assert (tmp_path / "pixels.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    shelf = Shelf(tmp_path, FORM)
    assert list(shelf.lines) == wanted
    assert [b"".join(shelf.images(line)) for line in shelf.lines.values()] == [
        image.tobytes() for image in images
    ]


@pytest.mark.parametrize("keep", range(0, 400, 23))
def test_a_journal_cut_anywhere_holds_what_is_whole(tmp_path, keep):
    wanted = [Known(str(i), 1, 1) for i in range(3)]
    with Journal(tmp_path, FORM, wanted) as journal:
        for known in wanted:
            journal.add(known, {"reason": ""}, np.ones((2, 4, 4, 3), np.uint16))
    path = tmp_path / "read" / "now" / "files.jsonl"
    text = path.read_bytes()
    path.write_bytes(text[:keep])
    with Journal(tmp_path, FORM, wanted) as journal:
        there = [known for known in wanted if journal.has(known)]
        assert len(there) == max(0, text[:keep].count(b"\n") - 1)
        for known in wanted[len(there) :]:
            journal.add(known, {"reason": ""}, np.ones((2, 4, 4, 3), np.uint16))
    assert path.read_bytes() == text


def test_the_look_of_a_folder_follows_its_files_and_nothing_hidden(tmp_path):
    looks = [look_over(tmp_path)]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"1")
    looks.append(look_over(tmp_path))
    (tmp_path / "a" / "1.png").write_bytes(b"12")
    looks.append(look_over(tmp_path))
    os.utime(tmp_path / "a" / "1.png", (1, 1))
    looks.append(look_over(tmp_path))
    (tmp_path / "a" / "1.png").rename(tmp_path / "1.png")
    looks.append(look_over(tmp_path))
    assert len(set(looks)) == 5
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "1.png").write_bytes(b"x")
    assert look_over(tmp_path) == looks[-1]


def test_two_images_of_one_file_are_told_apart_and_so_are_two_secrets():
    from medsynth.data.layouts import Entry
    from medsynth.data.original import Look, known_by

    look, entries = Look(1, 2), [Entry("a"), Entry("a", member=0), Entry("a", "P1"), Entry("b")]
    keys = {known_by(secret, entry, look).key for entry in entries for secret in (b"1", b"2")}
    assert len(keys) == 8
    assert pseudonym(SECRET, "source", "a\udcff") != pseudonym(SECRET, "source", "a")
