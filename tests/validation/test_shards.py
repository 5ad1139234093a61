from __future__ import annotations

import os
import pickle
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from known_truth import cohort, make_case

from medsynth.validation import Case, attack, search, shards
from medsynth.validation.nearest import to_arrays

SCRIPT = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_shards import looked_up, small_case
from medsynth.runtime import ranks
folder = Path(sys.argv[2])
found = looked_up(small_case(folder, scratch=folder / "blocks"))
(folder / f"rank{ranks()[0]}").write_bytes(pickle.dumps(found))
"""


def small_case(folder: Path, **changes) -> Case:
    """Three batches of synthetic images, whose search takes about as long as it can be short."""
    sides = cohort(range(12)), cohort(range(20, 30)), cohort(range(40, 55), origin="synthetic")
    return make_case(folder, *sides, **changes)


def looked_up(case: Case) -> dict[str, bytes]:
    """What the attack finds of synthetic and held-out images, as bytes."""
    attack.plant_copies, usual = lambda case: [], attack.plant_copies
    search.BATCH, batch = 5, search.BATCH
    attack.SHARED, shared = 5, attack.SHARED
    try:
        found = attack.run_attack(case)
    finally:
        attack.plant_copies, search.BATCH, attack.SHARED = usual, batch, shared
    arrays = to_arrays({**found.synthetic, "holdout": found.holdout})
    return {name: array.tobytes() for name, array in arrays.items()}


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def numbered(count: int, done: list[int], part_of: str = "work") -> list[shards.Block]:
    """Blocks that say in `done` when they are computed."""

    def compute(number: int):
        def run(progress):
            done.append(number)
            progress(0.5)
            return {"number": np.array([number])}

        return run

    return [shards.Block(part_of, compute(number)) for number in range(count)]


def silent(what: str, share: float) -> None:
    """Show nothing."""


def test_killed_work_goes_on_and_does_nothing_twice(tmp_path):
    done: list[int] = []

    def killed(what, share):
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards.work_off(numbered(6, done), tmp_path / "b", "key", killed)
    assert 0 < len(done) < 6
    found = shards.work_off(numbered(6, done), tmp_path / "b", "key", silent)
    assert [int(each["number"][0]) for each in found] == [0, 1, 2, 3, 4, 5]
    # The block in which it was killed is the only one that may have been begun twice.
    assert len(done) <= 7
    shards.work_off(numbered(6, done), tmp_path / "b", "key", silent)
    assert len(done) <= 7


def test_what_depends_on_something_else_is_computed_again(tmp_path):
    done: list[int] = []
    for key in ("one", "other"):
        shards.work_off(numbered(2, done), tmp_path / "b", key, silent)
    assert done == [0, 1, 0, 1]


def test_without_a_folder_nothing_is_kept():
    done: list[int] = []
    for _ in range(2):
        shards.work_off(numbered(2, done), None, "key", silent)
    assert done == [0, 1, 0, 1]


def test_only_the_owner_may_look_into_the_folder(tmp_path):
    shards.work_off(numbered(1, []), tmp_path / "b", "key", silent)
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o700


@pytest.mark.parametrize("folder", [None, "blocks"])
def test_each_part_of_the_work_is_shown_from_its_start_to_its_end(tmp_path, folder):
    shown: dict[str, list[float]] = {}
    blocks = [*numbered(3, [], "first"), *numbered(2, [], "then")]
    shards.work_off(
        blocks,
        folder and tmp_path / folder,
        "key",
        lambda what, share: shown.setdefault(what, []).append(share),
    )
    assert {what: shares[-1] for what, shares in shown.items()} == {"first": 1.0, "then": 1.0}
    assert all(shares == sorted(shares) for shares in shown.values())


def test_processes_divide_the_work_and_wait_for_one_another(tmp_path, monkeypatch):
    done: dict[int, list[int]] = {0: [], 1: []}
    waited = []
    monkeypatch.setattr(shards, "wait_for_everyone", lambda: waited.append(len(done[1])))
    monkeypatch.setattr(shards, "_read", lambda path: path.name)
    for rank in (1, 0):
        monkeypatch.setattr(shards, "ranks", lambda rank=rank: (rank, 2))
        shards.work_off(numbered(5, done[rank]), tmp_path / "b", "key", silent)
    assert done == {0: [0, 2, 4], 1: [1, 3]}
    assert len(waited) == 2


def test_a_killed_search_finds_the_same_bytes_and_searches_nothing_twice(
    tmp_path, monkeypatch, one_thread
):
    searched = []

    def watched(queries, *args, **options):
        searched.append(len(queries))
        return usual(queries, *args, **options)

    usual = search.search
    monkeypatch.setattr(search, "search", watched)
    whole = looked_up(small_case(tmp_path))
    uninterrupted = len(searched)

    def killed(what, share):
        if what == "synthetic images" and share > 0.5:
            raise KeyboardInterrupt

    case = small_case(tmp_path, scratch=tmp_path / "blocks")
    with pytest.raises(KeyboardInterrupt):
        looked_up(replace(case, progress=killed))
    kept = len(list((tmp_path / "blocks").iterdir()))
    assert kept == 3  # the held-out images, and the first synthetic ones
    searched.clear()
    assert looked_up(case) == whole
    assert len(searched) == uninterrupted - kept


def test_two_processes_find_the_same_bytes_as_one(tmp_path, one_thread):
    script = tmp_path / "two.py"
    script.write_text(SCRIPT)
    launch = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    result = subprocess.run(
        [sys.executable, *launch, str(script), str(Path(__file__).parent), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MEDSYNTH_DEVICE": "cpu"},
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    alone = looked_up(small_case(tmp_path))
    for rank in (0, 1):
        assert pickle.loads((tmp_path / f"rank{rank}").read_bytes()) == alone
