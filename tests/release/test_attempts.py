"""Attempts are counted, and what a test rejected stays rejected."""

import json
import multiprocessing

import numpy as np
import pytest

from medsynth.errors import StageError, StaleError
from medsynth.release import attempts


def put(path, evidence, *, generator="g", rejected=False, sketch=()):
    """Put evidence before the gate: count it and write it down."""
    log = attempts.Log(path, sketch)
    number = attempts.number(log, evidence)
    attempts.record(log, evidence=evidence, generator=generator, rejected=rejected)
    return number


def rejected(path, generator, **options):
    return list(attempts.rejections(attempts.Log(path), generator, **options).values())


def images(numbers):
    """Made-up images, each like no other."""
    return [np.full((4, 4), number, np.uint16) for number in numbers]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "attempts.jsonl"


def test_the_same_evidence_is_the_same_attempt_and_new_evidence_the_next(path):
    assert [put(path, digest) for digest in ("a", "a", "b", "a", "c", "c")] == [1, 1, 2, 1, 3, 3]
    assert len(path.read_text().splitlines()) == 3


def test_a_rejection_stays_with_its_generator_whatever_comes_later(path):
    put(path, "a", rejected=True)
    put(path, "b")
    put(path, "a", rejected=False)  # judged again, under softer rules
    put(path, "c", generator="another")
    assert rejected(path, "g") == [1]
    assert rejected(path, "g", besides="a") == []
    assert rejected(path, "another") == []


def test_a_line_that_a_kill_cut_in_two_does_not_count(path):
    put(path, "a")
    path.write_text(path.read_text() + '{"attempt": 2, "evid')
    assert put(path, "b") == 2
    assert [json.loads(line)["evidence"] for line in path.read_text().splitlines()] == ["a", "b"]


@pytest.mark.parametrize(
    "damage", ["first line gone", "middle line gone", "rubbish", "twice", "verdict taken out"]
)
def test_a_log_of_attempts_that_was_changed_stops_the_gate(path, damage):
    for digest in "abc":
        put(path, digest)
    a, b, c = path.read_text().splitlines(keepends=True)
    path.write_text({
        "first line gone": b + c,
        "middle line gone": a + c,
        "rubbish": a + "?\n" + b,
        "twice": a + b + b,
        "verdict taken out": a + b.replace('"rejected"', '"other"'),
    }[damage])  # fmt: skip
    with pytest.raises(StaleError, match=r"attempts\.jsonl was changed"):
        attempts.number(attempts.Log(path), "d")


# Of a site --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [0, 100, 200, 400])
def test_sketches_tell_how_much_two_sets_share(shared):
    a = attempts.sketch(images(range(400)))
    b = attempts.sketch(images(range(400 - shared, 800 - shared)))
    truth = shared / (800 - shared)
    assert attempts.alike(a, b) == pytest.approx(truth, abs=0.2)
    assert attempts.alike(a, a) == 1


def test_a_sketch_knows_no_order():
    assert attempts.sketch(images(range(9))) == attempts.sketch(images(reversed(range(9))))


def test_a_site_counts_all_runs_on_mostly_the_same_images(path):
    first = attempts.sketch(images(range(200)))
    grown = attempts.sketch(images(range(240)))
    others = attempts.sketch(images(range(1000, 1200)))
    assert put(path, "a", sketch=first) == 1
    assert put(path, "b", sketch=others) == 1
    assert put(path, "c", sketch=grown) == 2
    assert put(path, "a", sketch=first) == 1
    assert len(path.read_text().splitlines()) == 3


def test_a_rejection_is_known_to_another_run_on_the_same_images(path):
    first = attempts.sketch(images(range(200)))
    put(path, "a", rejected=True, sketch=first)
    assert attempts.rejections(attempts.Log(path, first), "g") == {"a": 1}
    others = attempts.sketch(images(range(1000, 1200)))
    assert attempts.rejections(attempts.Log(path, others), "g") == {}


def test_without_a_site_only_the_run_s_own_log_counts(tmp_path, monkeypatch):
    monkeypatch.delenv(attempts.SITE, raising=False)
    assert attempts.logs(tmp_path, images(range(3))) == (attempts.Log(tmp_path / "attempts.jsonl"),)


def test_a_site_s_folder_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setenv(attempts.SITE, str(tmp_path / "nowhere"))
    with pytest.raises(StageError, match="MEDSYNTH_SITE names no folder"):
        attempts.logs(tmp_path, [np.zeros((3, 4, 4))])


def _count(site, number):
    """One run of a site: it counts, and puts its evidence down."""
    log = attempts.Log(site / attempts.NAME, attempts.sketch(images(range(50))))
    with attempts.alone([log]):
        attempts.number(log, str(number))
        attempts.record(log, evidence=str(number), generator="g", rejected=False)


def test_runs_that_count_at_the_same_time_leave_a_whole_log(tmp_path):
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=_count, args=(tmp_path, i)) for i in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    log = attempts.Log(tmp_path / attempts.NAME, attempts.sketch(images(range(50))))
    assert attempts.number(log, "new") == 9
