"""Reading in many processes: in order, in bounds, and whatever a file does to its reader."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from medsynth.data import pool
from medsynth.data.pool import cores, read_all
from medsynth.data.worker import Limits, Lost
from medsynth.errors import StageError

LIMITS = Limits(seconds=10.0, memory_gib=1.0)
posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")


def act(item):
    """Do what a file might do to the one who reads it."""
    deed, value = item
    if deed == "wait":
        time.sleep(value)
    elif deed == "hang":
        ctypes.PyDLL(None).sleep(60)  # in C, and it never lets another thread of Python run
    elif deed == "die":
        os.kill(os.getpid(), value)
    elif deed == "die once" and not Path(value).exists():
        Path(value).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    elif deed == "allocate":
        np.ones(value, np.uint8)
    elif deed == "raise":
        raise value("MRN0001 Doe^Jane")
    elif deed == "exit":
        os._exit(value)
    elif deed == "large":
        return np.zeros(value, np.uint8)
    return item


def patience(item):
    return 20.0 if item[1] == 1.2 else 0.5


def run(items, *, limits=LIMITS, workers=2, **options):
    return list(read_all(act, items, limits=limits, workers=workers, **options))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_the_order_of_the_items(workers):
    items = [("wait", 0.02 * (i % 3)) for i in range(20)]
    assert run(items, workers=workers) == items


def test_nothing_to_read_starts_nothing():
    assert run([]) == []


@posix
@pytest.mark.parametrize(
    ("deed", "value", "detail"),
    [
        ("die", signal.SIGSEGV, "ended by SIGSEGV"),
        ("die", signal.SIGKILL, "ended by SIGKILL"),
        ("exit", 3, "exit code 3"),
        ("raise", ZeroDivisionError, "ZeroDivisionError"),
    ],
)
def test_who_kills_its_reader_is_named_and_its_neighbours_are_read(deed, value, detail):
    items = [("wait", i) for i in (0, 0.01, 0.02)]
    results = run([*items, (deed, value), *items], workers=1)
    assert results == [*items, Lost("crashed the decoder", detail), *items]


@posix
def test_who_dies_of_something_else_is_read_again(tmp_path):
    item = ("die once", str(tmp_path / "mark"))
    assert run([("wait", 0), item, ("wait", 0)]) == [("wait", 0), item, ("wait", 0)]


def test_an_error_s_words_never_come_back():
    (lost,) = run([("raise", ValueError)])
    assert lost == Lost("crashed the decoder", "ValueError")


@posix
def test_a_reader_that_hangs_in_c_is_given_up_in_time():
    start = time.monotonic()
    items = [("wait", 0), ("hang", 0), ("wait", 0.01)]
    results = run(items, limits=Limits(0.5, 1.0), workers=1)
    assert results == [items[0], Lost("took too long", "more than 0.5 seconds"), items[2]]
    assert time.monotonic() - start < 30


def test_an_item_may_be_given_more_time_than_others():
    items = [("wait", 1.2), ("wait", 1.3), ("wait", 0)]
    results = run(items, limits=Limits(0.5, 1.0), patience=patience)
    assert results == [items[0], Lost("took too long", "more than 0.5 seconds"), items[2]]


@linux
def test_memory_is_limited_and_what_fits_is_read():
    items = [("allocate", 2**20), ("allocate", 2**30), ("allocate", 2**27), ("allocate", 2**28)]
    results = run(items, limits=Limits(10.0, 0.5))
    assert results == [items[0], Lost("took too much memory"), *items[2:]]


@linux
def test_what_waits_for_its_turn_is_bounded(monkeypatch):
    monkeypatch.setattr(pool, "HELD_BYTES", 2**22)
    items = [("wait", 1.0), *[("large", 2**20)] * 40]
    held = []
    with closing(read_all(act, items, limits=LIMITS, workers=3)) as results:
        crew = results.gi_frame
        for _ in results:
            held.append(crew.f_locals["crew"].held)
    assert len(held) == 41
    assert 2**22 <= max(held) <= 2**22 + 4 * 2**20


def test_items_are_taken_up_no_faster_than_they_are_read():
    taken = []

    def items():
        for i in range(1000):
            taken.append(i)
            yield ("wait", 0)

    with closing(read_all(act, items(), limits=LIMITS, workers=1)) as results:
        next(results)
        assert len(taken) <= pool.AHEAD + 1


def test_a_slow_listener_is_not_the_reader_s_fault():
    with closing(read_all(act, [("wait", 0)] * 8, limits=Limits(0.4, 1.0), workers=1)) as results:
        got = [next(results)]
        time.sleep(1.0)
        assert got + list(results) == [("wait", 0)] * 8


def test_processes_that_can_t_start_are_an_error(monkeypatch):
    monkeypatch.setattr(pool, "serve", os.abort)
    with pytest.raises(StageError, match="could not start"):
        run([("wait", 0)])


@linux
def test_a_reader_prints_nothing(capfd):
    assert run([("wait", 0), ("die", signal.SIGABRT)])[1].reason == "crashed the decoder"
    assert capfd.readouterr() == ("", "")


SCRIPT = """
    import sys, time
    sys.path[:0] = {path!r}
    from medsynth.data import pool
    from medsynth.data.worker import Limits
    from test_pool import act

    items = [("wait", 0), ("wait", 0)] + [("hang", 60)] * 4
    results = pool.read_all(act, items, limits=Limits(60, 1.0), workers=2)
    for n, _ in enumerate(results):
        print(n, flush=True)
"""


def descendants(pid):
    """The ids of all processes that a process started, and that those started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@linux
def test_killed_it_leaves_no_process_behind(tmp_path):
    """And a script without a guard is not run again by those that it starts, nor is anything
    imported from the folder in which it runs."""
    raw, script = tmp_path / "raw", tmp_path / "script.py"
    raw.mkdir()
    (raw / "pickle.py").write_text("raise SystemExit(1)")
    path = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    script.write_text(textwrap.dedent(SCRIPT).format(path=path))
    command = [sys.executable, script]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=raw)
    with process:
        assert [process.stdout.readline() for _ in range(2)] == ["0\n", "1\n"]
        started = descendants(process.pid)
        process.kill()
    assert len(started) >= 3  # two readers and their server
    end = time.monotonic() + 20
    while any(map(alive, started)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [pid for pid in started if alive(pid)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("cpu.max", "150000 100000\n", 2),
        ("cpu.max", "max 100000\n", sys.maxsize),
        ("absent", "", sys.maxsize),
    ],
)
def test_a_container_s_quota_counts_full_processors(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert pool._quota(tmp_path) == expected
    assert 1 <= cores() <= os.cpu_count()
