"""One process at a time, for its owner's eyes, and a full or shut disk in words."""

import errno
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from medsynth.errors import DataError, StageError
from medsynth.ownership import LOCK, holds_something, reserve, working_in
from medsynth.runtime import write_text

ROOT = Path(__file__).parents[1]


def start(code: str, folder: Path, **given) -> subprocess.Popen:
    """Start Python with `code`, which finds `folder`, and wait for its first line."""
    text = (
        "import sys, time, pathlib; from medsynth.ownership import working_in\n"
        f"folder = pathlib.Path({str(folder)!r})\n{textwrap.dedent(code)}"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", text], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **given,
    )  # fmt: skip


HOLD = """
with working_in(folder):
    print("in", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that works in tmp_path/run."""
    process = start(HOLD, tmp_path / "run")
    assert process.stdout.readline() == "in\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_told_who_works_there(other, tmp_path):
    with (
        pytest.raises(StageError, match=rf"process {other.pid} on {socket.gethostname()}"),
        working_in(tmp_path / "run"),
    ):
        pass
    assert (tmp_path / "run" / LOCK).exists()  # still the other's


def test_when_it_is_done_the_next_may(other, tmp_path):
    other.communicate("")
    with working_in(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["process"] == os.getpid()
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_lock_of_a_killed_process_is_taken_over(other, tmp_path):
    other.kill()
    other.wait()
    assert (tmp_path / "run" / LOCK).exists()
    with working_in(tmp_path / "run"):
        pass


@pytest.mark.parametrize(
    ("holder", "free"),
    [
        ({"process": 2**22 + 1, "host": socket.gethostname()}, True),  # no such process
        ({"process": os.getpid(), "host": socket.gethostname()}, False),
        ({"process": 1, "host": "another-node"}, False),  # nobody here can know
        (None, True),
    ],
)
def test_where_a_disk_knows_no_locks_the_file_is_believed(tmp_path, monkeypatch, holder, free):
    def unsupported(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", unsupported)
    (tmp_path / LOCK).write_text(json.dumps(holder) if holder else "")
    if free:
        with working_in(tmp_path):
            pass
    else:
        with pytest.raises(StageError, match="another medsynth works in"), working_in(tmp_path):
            pass


def test_only_one_of_many_that_start_at_once_gets_in(tmp_path):
    code = """
    sys.stdin.readline()
    try:
        with working_in(folder):
            print("in", flush=True)
            sys.stdin.read()
    except Exception as error:
        print(type(error).__name__, flush=True)
    """
    processes = [start(code, tmp_path / "run") for _ in range(4)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.stdout.readline().strip() for process in processes]
    for process in processes:
        process.communicate("")
    assert sorted(said) == ["StageError"] * 3 + ["in"]


def test_its_own_calls_may_go_into_each_other(tmp_path):
    with working_in(tmp_path):
        with working_in(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()


def test_the_other_processes_of_one_run_need_no_lock(other, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with working_in(tmp_path / "run"):
        pass


def test_what_is_made_is_the_owners_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        with working_in(tmp_path / "runs" / "run"):
            write_text(tmp_path / "runs" / "run" / "a.txt", "a")
            (tmp_path / "runs" / "run" / "folder").mkdir()
        assert os.umask(0) == 0  # and is put back
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "runs").rglob("*")}
    assert modes == {"run": 0o700, "folder": 0o700, "a.txt": 0o600}


def test_nothing_is_left_of_a_folder_in_which_nothing_was_done(tmp_path):
    with pytest.raises(DataError), working_in(tmp_path / "run"):
        raise DataError("no")
    assert not (tmp_path / "run").exists()


def test_a_lock_is_no_content(tmp_path):
    with working_in(tmp_path):
        assert not holds_something(tmp_path)
        (tmp_path / "a").touch()
        assert holds_something(tmp_path)


# Disks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "x"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "x"),
        OSError(errno.EFBIG, "File too large", "x"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_said_to_be_full(tmp_path, error):
    full = pytest.raises(StageError, match=r"is full .* the same command goes on")
    with full as caught, working_in(tmp_path / "run"):
        raise error
    assert str(tmp_path) not in str(caught.value)


def test_a_library_that_hides_the_systems_number_is_seen_through(tmp_path):
    error = ValueError("could not write")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(StageError, match="is full"), working_in(tmp_path):
        raise error


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (OSError(errno.EIO, "I/O"), RuntimeError("shapes"), FileNotFoundError(2, "x")):
        with pytest.raises(type(error)), working_in(tmp_path):
            raise error
    elsewhere = PermissionError(errno.EACCES, "denied", str(tmp_path / "raw" / "image.png"))
    with pytest.raises(PermissionError), working_in(tmp_path / "run"):
        raise elsewhere


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_that_cannot_be_written_to_is_said_to_be_shut(tmp_path):
    for path in [tmp_path, *list(tmp_path.parents)[:3]]:
        path.chmod(path.stat().st_mode | 0o055)
    code = """
    import os
    os.setuid(65534)
    try:
        with working_in(folder):
            pass
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    """
    said = start(code, tmp_path / "run").communicate()[0]
    assert said.startswith("StageError run/ can't be written to")


def test_a_file_too_large_for_the_disk_leaves_the_old_one_and_no_half(tmp_path):
    """The system's own limit on a file's size stands for a full disk."""
    code = """
    import resource, signal
    from medsynth.runtime import write_bytes
    with working_in(folder):
        write_bytes(folder / "a", b"old")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        with working_in(folder):
            write_bytes(folder / "a", b"new" * 10000)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    """
    said = start(code, tmp_path / "run").communicate()[0]
    assert said.startswith("StageError the disk of run/ is full")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == {"a": b"old"}


def test_room_is_reserved_before_a_file_is_written_through_memory(tmp_path, monkeypatch):
    path = tmp_path / "latents.npy"
    latents = np.lib.format.open_memmap(path, "w+", np.float32, (512, 1024))
    assert path.stat().st_blocks * 512 < 2**20  # a hole: writing into it may kill the process
    reserve(path)
    assert path.stat().st_blocks * 512 >= 2**21
    latents[-1] = 1
    latents.flush()
    assert np.load(path)[-1].min() == 1


def can_mount() -> bool:
    apart = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"]
    return (
        shutil.which("unshare") is not None
        and not subprocess.run(apart, capture_output=True, check=False).returncode
    )


FULL_DISK = """
import os, pathlib, subprocess, sys
from medsynth.errors import StageError
from medsynth.ownership import working_in
from medsynth.runtime import digest_files, run_stage, write_bytes

place = pathlib.Path(sys.argv[1])
mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
subprocess.run(mount, check=True)

def stage(name, inputs):
    def build(workspace):
        for i in range(6):
            part = workspace / f"{i}.bin"
            if not part.exists():
                write_bytes(part, bytes([i]) * 150_000)
    with working_in(place / "run"):
        return run_stage(place / "run" / name, build, inputs=inputs, settings=None)

first = stage("intake", {})
try:
    stage("split", {"intake": first.digest})
except StageError as error:
    print(error)
print(sorted(p.name for p in (place / "run").iterdir()))
print(digest_files(place / "run" / "intake", skip=["stage.json", "key.json"]) == first.outputs)
subprocess.run([*mount[:4], "remount,size=4m", *mount[5:]], check=True)
print(stage("split", {"intake": first.digest}).digest == first.digest)
subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
try:
    stage("lens", {})
except StageError as error:
    print(error)
"""


@pytest.mark.skipif(not can_mount(), reason="no right to mount a small disk")
def test_a_small_disk_fills_up_and_nothing_is_lost(tmp_path):
    """Six files of 150 kB a stage do not go twice into 1 MiB; with more room it goes on."""
    command = ["unshare", "-m", sys.executable, "-c", FULL_DISK, tmp_path]
    said = subprocess.check_output(command, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    full, names, whole, same, shut = said.splitlines()
    assert full.startswith("the disk of run/ is full (0.00 GiB free")
    assert names == "['intake', 'split.tmp']"
    assert (whole, same) == ("True", "True")
    assert shut.startswith("run/ can't be written to: it is read-only here")
