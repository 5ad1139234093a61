"""Seeds, digests, files that are whole or absent, and stages that resume."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsynth import runtime
from medsynth.errors import StageError, StaleError
from medsynth.runtime import derive_seed, require_stage, run_stage, verify_stage

parts = st.lists(st.integers() | st.text(max_size=5), max_size=4)


class Killed(BaseException):
    """Stands for a kill: nothing of the build's own cleaning up may be needed."""


def build_two(workspace):
    (workspace / "a.txt").write_text("a")
    (workspace / "sub").mkdir(exist_ok=True)
    (workspace / "sub" / "b.txt").write_text("b")


def run(folder, build=build_two, inputs=None, settings=None):
    return run_stage(folder, build, inputs=inputs or {"raw": "0"}, settings=settings or {"n": 1})


# Seeds --------------------------------------------------------------------------------------------


@given(parts)
def test_seed_fits_every_generator_and_comes_again(path):
    seed = derive_seed(*path)
    assert 0 <= seed < 2**63
    assert derive_seed(*path) == seed


@given(parts, parts)
def test_different_paths_give_different_seeds(one, other):
    assert (derive_seed(*one) == derive_seed(*other)) == (one == other)


def test_a_number_and_its_name_are_different_but_numpys_number_is_the_same():
    assert derive_seed(1) != derive_seed("1")
    assert derive_seed("image", np.int64(5)) == derive_seed("image", 5)


def test_seeds_of_neighbours_share_no_bits():
    """Each of 63 bits is set in about half of the seeds."""
    seeds = np.array([derive_seed(0, "image", k) for k in range(2000)], np.uint64)
    share = ((seeds[:, None] >> np.arange(63, dtype=np.uint64)) & np.uint64(1)).mean(0)
    assert np.abs(share - 0.5).max() < 0.06


# Digests and files --------------------------------------------------------------------------------

NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_digests_are_sha256(tmp_path):
    (tmp_path / "empty").touch()
    assert runtime.digest_bytes(b"") == NOTHING
    assert runtime.digest_file(tmp_path / "empty") == NOTHING


def test_json_digest_ignores_the_order_of_keys_but_not_of_items():
    assert runtime.digest_json({"a": 1, "b": 2}) == runtime.digest_json({"b": 2, "a": 1})
    assert runtime.digest_json([1, 2]) != runtime.digest_json([2, 1])


def test_json_digest_refuses_nan():
    with pytest.raises(ValueError, match="not JSON compliant"):
        runtime.digest_json({"a": math.nan})


def test_digest_of_files_names_them_all_but_those_left_out(tmp_path):
    build_two(tmp_path)
    assert list(runtime.digest_files(tmp_path)) == ["a.txt", "sub/b.txt"]
    assert list(runtime.digest_files(tmp_path, skip=["a.txt"])) == ["sub/b.txt"]


def test_write_leaves_the_old_file_where_it_is_cut_short(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    runtime.write_text(path, "old")

    def cut(*_):
        raise Killed

    monkeypatch.setattr(os, "fsync", cut)
    with pytest.raises(Killed):
        runtime.write_text(path, "new")
    assert path.read_text() == "old"


def test_json_file_holds_null_for_what_json_has_no_word_for(tmp_path):
    runtime.write_json(tmp_path / "x", {"a": math.nan, "b": [math.inf, 1.5], "c": (1, "ü")})
    assert runtime.read_json(tmp_path / "x") == {"a": None, "b": [None, 1.5], "c": [1, "ü"]}


def test_log_of_nothing_is_empty(tmp_path):
    assert runtime.read_jsonl(tmp_path / "none.jsonl") == []


def test_line_that_a_kill_cut_is_left_out_and_spoils_no_other(tmp_path):
    path = tmp_path / "log.jsonl"
    runtime.append_jsonl(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"a": 2, "lo')
    assert runtime.read_jsonl(path) == [{"a": 1}]
    runtime.append_jsonl(path, {"a": 3})
    runtime.append_jsonl(path, {"a": math.nan})
    assert runtime.read_jsonl(path) == [{"a": 1}, {"a": 3}, {"a": None}]


# Stages -------------------------------------------------------------------------------------------


def test_stage_records_what_went_in_and_what_came_out(tmp_path):
    record = run(tmp_path / "stage")
    assert record.name == "stage"
    assert record.inputs == {"raw": "0"}
    assert record.settings == {"n": 1}
    assert record.outputs == {
        "a.txt": runtime.digest_bytes(b"a"),
        "sub/b.txt": runtime.digest_bytes(b"b"),
    }
    assert record.versions["medsynth"]
    assert require_stage(tmp_path / "stage", by="test") == record
    assert not (tmp_path / "stage.tmp").exists()


def test_unchanged_stage_is_skipped(tmp_path):
    first = run(tmp_path / "stage")
    assert run(tmp_path / "stage", build=pytest.fail) == first


@pytest.mark.parametrize("change", [{"inputs": {"raw": "1"}}, {"settings": {"n": 2}}])
def test_changed_input_or_setting_builds_again(tmp_path, change):
    first = run(tmp_path / "stage")
    second = run(tmp_path / "stage", build=lambda w: (w / "c.txt").write_text("c"), **change)
    assert second.key != first.key
    assert sorted(second.outputs) == ["c.txt"]
    assert not (tmp_path / "stage" / "a.txt").exists()
    assert not (tmp_path / "stage.old").exists()


def test_digest_depends_on_results_and_not_on_logs_or_times(tmp_path):
    def noisy(workspace):
        build_two(workspace)
        (workspace / "log.jsonl").write_text("{}\n")
        for name in ("state", "previews"):
            (workspace / name).mkdir()
            (workspace / name / "x").write_text("x")

    assert run(tmp_path / "plain").digest == run(tmp_path / "noisy", build=noisy).digest


def test_build_that_fails_leaves_the_old_folder(tmp_path):
    first = run(tmp_path / "stage")

    def fail(workspace):
        (workspace / "half.txt").write_text("half")
        raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "stage", build=fail, settings={"n": 2})
    assert verify_stage(tmp_path / "stage") == first


def test_interrupted_build_finds_what_it_left(tmp_path):
    calls = []

    def build(workspace):
        calls.append(sorted(path.name for path in workspace.iterdir() if path.name != "key.json"))
        (workspace / "half.txt").write_text("half")
        if len(calls) == 1:
            raise Killed
        (workspace / "whole.txt").write_text("whole")

    with pytest.raises(Killed):
        run(tmp_path / "stage", build=build)
    assert run(tmp_path / "stage", build=build).outputs.keys() == {"half.txt", "whole.txt"}
    assert calls == [[], ["half.txt"]]


def test_what_was_left_for_other_settings_is_thrown_away(tmp_path):
    def fail(workspace):
        (workspace / "half.txt").write_text("half")
        raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "stage", build=fail)
    assert "half.txt" not in run(tmp_path / "stage", settings={"n": 2}).outputs


@pytest.mark.parametrize("moment", ["before either rename", "between the renames"])
def test_kill_while_the_folder_is_replaced_is_mended_by_the_same_command(
    tmp_path, moment, monkeypatch
):
    run(tmp_path / "stage")
    rename, done = type(tmp_path).rename, []

    def kill(self, target):
        if len(done) == (moment == "between the renames"):
            raise Killed
        done.append(self)
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "rename", kill)
        with pytest.raises(Killed):
            run(tmp_path / "stage", settings={"n": 2})
    record = run(tmp_path / "stage", settings={"n": 2})
    assert verify_stage(tmp_path / "stage") == record
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stage"]


@settings(max_examples=3)
@given(st.floats(0.02, 0.15))
def test_stage_that_is_killed_ends_as_one_that_was_not(tmp_path_factory, seconds):
    tmp_path = tmp_path_factory.mktemp("kill")
    code = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from medsynth.runtime import run_stage, write_text
        def build(workspace):
            for k in range(30):
                if not (workspace / f"{k}.txt").exists():
                    write_text(workspace / f"{k}.txt", str(k))
                    time.sleep(0.004)
        print("ready", flush=True)
        run_stage(Path(sys.argv[1]), build, inputs={}, settings={})
    """)
    command = [sys.executable, "-c", code]
    child = subprocess.Popen([*command, str(tmp_path / "killed")], stdout=subprocess.PIPE)
    with child:
        child.stdout.readline()
        try:
            child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
    for name in ("killed", "whole"):
        subprocess.run([*command, str(tmp_path / name)], check=True, capture_output=True)
    killed, whole = (verify_stage(tmp_path / name) for name in ("killed", "whole"))
    assert killed.digest == whole.digest


@pytest.mark.parametrize("harm", ["change", "remove", "add"])
def test_results_that_changed_after_the_stage_are_stale(tmp_path, harm):
    folder = tmp_path / "stage"
    run(folder)
    target = folder / ("new.txt" if harm == "add" else "sub/b.txt")
    target.unlink() if harm == "remove" else target.write_text("other")
    with pytest.raises(
        StaleError, match=rf"stage/ changed after it was made: {target.relative_to(folder)}"
    ):
        verify_stage(folder)


def test_verification_passes_over_logs_and_names_at_most_five(tmp_path):
    run(tmp_path / "stage")
    (tmp_path / "stage" / "log.jsonl").write_text("{}\n")
    verify_stage(tmp_path / "stage")
    for k in range(7):
        (tmp_path / "stage" / f"n{k}").touch()
    with pytest.raises(StaleError, match=r"n0, n1, n2, n3, n4 …\. Delete the folder"):
        verify_stage(tmp_path / "stage")


def test_stage_that_is_not_finished_is_named_with_what_to_do(tmp_path):
    with pytest.raises(
        StageError, match=r"decide needs the folder evidence/, which is not finished"
    ):
        require_stage(tmp_path / "evidence", by="decide")


def test_stage_file_is_plain_json(tmp_path):
    record = run(tmp_path / "stage")
    assert json.loads((tmp_path / "stage" / "stage.json").read_text())["digest"] == record.digest


# The machine --------------------------------------------------------------------------------------


def test_named_device_wins(monkeypatch):
    monkeypatch.setenv("MEDSYNTH_DEVICE", "somewhere")
    assert runtime.choose_device() == "somewhere"


def test_one_process_is_the_first_of_one_unless_it_is_told_otherwise(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert runtime.ranks() == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert runtime.ranks() == (2, 4)


def test_kill_while_scratch_is_cleared_leaves_a_finished_stage(tmp_path, monkeypatch):
    """Half a training state must never be there to go on from."""

    def build(workspace):
        (workspace / "state").mkdir()
        (workspace / "state" / "moments").write_text("half")
        (workspace / "result").write_text("whole")

    def killed(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(runtime, "_clear_scratch", killed)
    with pytest.raises(KeyboardInterrupt):
        runtime.run_stage(tmp_path / "fit", build, inputs={}, settings={})
    monkeypatch.undo()
    record = runtime.verify_stage(tmp_path / "fit")
    assert set(record.outputs) == {"result"}
    assert runtime.run_stage(tmp_path / "fit", build, inputs={}, settings={}) == record
    assert not (tmp_path / "fit" / "state").exists()
