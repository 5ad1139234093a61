from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from medsynth import domains
from medsynth.cohort import Cohort, Record
from medsynth.data import canaries, phantoms
from medsynth.data.canaries import Canaries, Joined
from medsynth.data.loader import Frames
from medsynth.runtime import read_json


def made(count: int = 20, **changes) -> Canaries:
    wanted = {"domain": "chest_xray", "size_px": 32, "bits": 8, "seed": 3}
    return canaries.make(count, **{**wanted, **changes})


def test_same_seed_gives_the_same_canaries_and_coins_and_another_gives_others():
    first, again, other = made(), made(), made(seed=4)
    assert first.cohort.digest == again.cohort.digest
    assert (first.included == again.included).all()
    assert not (first.cohort.pixels == other.cohort.pixels).all((1, 2, 3)).any()


def test_more_canaries_leave_the_first_ones_as_they_were():
    few, many = made(20), made(40)
    assert (few.cohort.pixels == many.cohort.pixels[:20]).all()
    assert (few.included == many.included[:20]).all()


@pytest.mark.parametrize("domain", domains.names())
def test_every_domain_has_canaries_of_both_strengths(domain):
    found = made(domain=domain)
    assert found.cohort.channels == domains.domain(domain).channels
    assert found.strengths.tolist() == ["strong", "weak"] * 10
    assert {record.origin for record in found.cohort.records} == {"canary"}
    assert not any(record.labels or record.patient for record in found.cohort.records)


def test_codes_are_black_and_white_in_equal_parts_and_all_different():
    found = made(200)
    codes = found.cohort.pixels[found.strengths == "strong"]
    assert set(np.unique(codes)) == {0, 255}
    assert (codes.mean((1, 2)) == 127.5).all()
    bits = codes[:, ::4, ::4].reshape(len(codes), -1) > 0
    differing = (bits[:, None] != bits[None]).sum(2)[np.triu_indices(len(codes), 1)]
    assert differing.min() >= 10  # of 64 cells


def test_sixteen_bits_hold_the_same_picture():
    narrow, wide = made().cohort, made(bits=16).cohort
    assert wide.pixels.dtype == np.uint16
    assert np.allclose(wide.floats(), narrow.floats(), atol=1e-6)


def test_weak_ones_are_nobody_of_the_phantoms_that_a_study_may_be_made_of():
    found = made()
    weak = found.cohort.pixels[found.strengths == "weak"]
    others = np.stack([phantoms.draw("chest_xray", p, 0, 3, 32)[0] for p in range(20)])
    assert not (weak[:, None] == others[None]).all((2, 3, 4)).any()


def test_coins_are_fair_and_independent():
    tossed = np.stack([canaries.toss(100, seed=seed) for seed in range(400)])
    assert stats.binomtest(int(tossed.sum()), tossed.size).pvalue > 1e-3
    counts = tossed.sum(1)  # a fixed half would have no spread
    assert 20 < counts.var() < 32  # 25 expected
    columns = np.corrcoef(tossed.T)[np.triu_indices(100, 1)]
    assert np.abs(columns).max() < 5 / np.sqrt(400)


def test_written_canaries_are_read_again(tmp_path):
    found = made()
    found.write(tmp_path)
    found.write(tmp_path)  # a training that was interrupted writes them again
    again = Canaries.read(tmp_path)
    assert again.cohort.digest == found.cohort.digest
    assert (again.included == found.included).all()
    listed = read_json(tmp_path / "canaries.json")
    assert (listed["count"], len(listed["included"])) == (20, found.included.sum())


def test_a_folder_without_canaries_has_none(tmp_path):
    assert Canaries.read(tmp_path) is None


# Beside the training images -----------------------------------------------------------------------


def joined() -> tuple[Frames, Canaries, Joined]:
    pixels = np.arange(6 * 32 * 32, dtype=np.uint16).reshape(6, 32, 32, 1).astype(np.uint8)
    patients = ["a", "a", "b", "c", "c", "d"]
    records = tuple(Record(f"r{i}", "real", p, {"x": p}) for i, p in enumerate(patients))
    frames = Frames(Cohort("chest_xray", records, pixels), np.array([0, 1, 2, 4, 5]))
    found = made(21)
    return frames, found, Joined(frames, found)


def test_images_come_in_order_patients_first_and_then_the_included_canaries():
    frames, found, both = joined()
    expected = np.concatenate([frames[:], found.cohort.floats(np.flatnonzero(found.included))])
    assert len(both) == len(expected)
    for size in (1, 4, 100):
        assert (np.concatenate(list(both.chunks(size))) == expected).all()
    assert (both[:1] == expected[:1]).all()


def test_each_canary_is_a_patient_and_a_picture_of_its_own_without_labels():
    frames, found, both = joined()
    count = int(found.included.sum())
    for numbers, real in ((both.patients, frames.patients), (both.groups, frames.groups)):
        assert (numbers[: len(frames)] == real).all()
        assert len(set(numbers[len(frames) :]) - set(real)) == count
    assert both.labels == [*frames.labels, *[{}] * count]
