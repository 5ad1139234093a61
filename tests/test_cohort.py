"""Cohorts: closed records, digests, files, and who counts as one patient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsynth.cohort import (
    ORIGINS,
    Cohort,
    Record,
    group_patients,
    group_pictures,
    parse_records,
    records_csv,
    to_pixels,
)
from medsynth.errors import DataError

# what csv and text files must carry: quotes, commas, line ends, other scripts
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=6)
records = st.builds(
    Record, id=texts, origin=st.sampled_from(ORIGINS), patient=texts,
    labels=st.dictionaries(texts, texts.filter(bool), max_size=3), source=texts,
    link=st.integers(-1, 10**6), seed=st.none() | st.integers(0, 2**63 - 1), parent=texts,
)  # fmt: skip
groups = st.lists(
    st.tuples(st.sampled_from(["", "a", "b", "c", "d"]), st.integers(-1, 4)), max_size=14
)


def cohort(count=4, size=8, channels=3, dtype=np.uint8, **changes):
    rows = tuple(
        Record(f"i{k}", "real", patient=f"p{k // 2}", labels={"d": str(k % 2)})
        for k in range(count)
    )
    pixels = np.random.default_rng(0).integers(
        0, np.iinfo(dtype).max, (count, size, size, channels), dtype
    )
    return Cohort(**{"domain": "fundus", "records": rows, "pixels": pixels, **changes})


@settings(max_examples=60)
@given(st.lists(records, max_size=4))
def test_records_survive_csv(rows):
    assert parse_records(records_csv(rows)) == tuple(rows)


@settings(max_examples=30)
@given(st.lists(records, min_size=1, max_size=4, unique_by=lambda record: record.id))
def test_records_survive_the_folder(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("cohort")
    before = Cohort("fundus", tuple(rows), np.zeros((len(rows), 8, 8, 1), np.uint8))
    before.write(folder)
    after = Cohort.read(folder)
    assert after.records == before.records
    assert after.digest == before.digest


def test_csv_has_one_column_an_attribute_in_order():
    rows = [Record("a", "real", labels={"z": "1"}), Record("b", "real", labels={"y": "2"})]
    head = records_csv(rows).splitlines()[0]
    assert head == "id,origin,patient,source,link,seed,parent,label:y,label:z"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_folder_holds_the_cohort(dtype, tmp_path):
    before = cohort(dtype=dtype)
    before.write(tmp_path)
    after = Cohort.read(tmp_path)
    assert (after.domain, after.records, after.digest) == ("fundus", before.records, before.digest)
    assert np.array_equal(after.pixels, before.pixels)
    assert isinstance(after.pixels, np.memmap)


def test_folder_that_is_no_cohort_is_refused_naming_what_is_missing(tmp_path):
    cohort().write(tmp_path)
    (tmp_path / "records.csv").unlink()
    with pytest.raises(DataError, match=r"is no cohort: records\.csv is missing"):
        Cohort.read(tmp_path)


def test_digest_changes_with_every_thing_that_a_cohort_is():
    plain = cohort()
    pixels = plain.pixels.copy()
    pixels[3, 7, 7, 2] ^= 1
    others = [
        replace(plain, pixels=pixels),
        replace(plain, domain="histology"),
        replace(plain, records=(*plain.records[:3], replace(plain.records[3], patient="else"))),
        replace(plain, records=(*plain.records[:3], replace(plain.records[3], labels={"d": "9"}))),
        plain.take([1, 0, 2, 3]),
        plain.take([0, 1, 2]),
        replace(plain, pixels=plain.pixels.astype(np.uint16)),
    ]
    digests = {one.digest for one in others}
    assert len(digests) == len(others)
    assert plain.digest not in digests
    assert cohort().digest == plain.digest


def test_take_keeps_pixels_with_their_records():
    plain = cohort()
    taken = plain.take(np.array([3, 1]))
    assert [record.id for record in taken.records] == ["i3", "i1"]
    assert np.array_equal(taken.pixels, plain.pixels[[3, 1]])
    taken.pixels[:] = 0
    assert plain.pixels[3].any()


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint8, 8), (np.uint16, 16)])
def test_floats_reach_both_ends_and_come_back_exactly(dtype, bits):
    plain = cohort(dtype=dtype)
    plain.pixels[0, 0, 0] = np.iinfo(dtype).max
    plain.pixels[0, 0, 1] = 0
    floats = plain.floats()
    assert floats.shape == (4, 3, 8, 8)
    assert floats.dtype == np.float32
    assert (floats.min(), floats.max()) == (-1.0, 1.0)
    assert np.array_equal(to_pixels(floats, bits=bits), plain.pixels)


def test_to_pixels_clips_what_is_out_of_range():
    assert to_pixels(np.array([-3.0, 3.0]).reshape(2, 1, 1, 1)).ravel().tolist() == [0, 255]


def test_labels_that_an_image_lacks_are_empty():
    assert cohort().labels("d") == ["0", "1", "0", "1"]
    assert cohort().labels("x") == [""] * 4


@pytest.mark.parametrize(("changes", "message"), [
    ({"pixels": np.zeros((4, 8, 8), np.uint8)}, r"pixels \(N, H, W, 1 or 3\), got \(4, 8, 8\)"),
    ({"pixels": np.zeros((4, 8, 8, 2), np.uint8)}, r"got \(4, 8, 8, 2\)"),
    ({"pixels": np.zeros((4, 8, 8, 3), np.float32)}, "uint8 or uint16 pixels, got float32"),
    ({"pixels": np.zeros((5, 8, 8, 3), np.uint8)}, "4 records for 5 images"),
    ({"records": (Record("a", "real"),) * 4}, "two records have the same id"),
    ({"records": tuple(Record(str(k), "fake") for k in range(4))}, "unknown origin fake"),
])  # fmt: skip
def test_what_is_no_cohort_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        cohort(**changes)


def test_all_faults_come_in_one_message():
    with pytest.raises(DataError, match=r"got float32; 2 records for 4 images; two records"):
        cohort(pixels=np.zeros((4, 8, 8, 3), np.float32), records=(Record("a", "real"),) * 2)


# Who counts as one patient ------------------------------------------------------------------------


def as_records(pairs):
    return [Record(str(k), "real", patient=p, link=link) for k, (p, link) in enumerate(pairs)]


def connected(pairs):
    """An independent oracle: reachability by repeated squaring of the who-shares-what matrix."""
    n = len(pairs)
    joined = np.eye(n, dtype=bool)
    for i in range(n):
        for j in range(n):
            (p, a), (q, b) = pairs[i], pairs[j]
            joined[i, j] |= (p == q != "") or (a == b >= 0)
    for _ in range(n):
        joined = (joined.astype(int) @ joined.astype(int)) > 0
    return joined


@given(groups)
def test_patients_are_the_connected_groups_of_pseudonyms_and_links(pairs):
    numbers = group_patients(as_records(pairs))
    assert np.array_equal(numbers[:, None] == numbers[None], connected(pairs))


@given(groups)
def test_patients_are_numbered_by_first_appearance(pairs):
    numbers = group_patients(as_records(pairs)).tolist()
    assert list(dict.fromkeys(numbers)) == list(range(len(set(numbers))))


def test_images_of_unknown_patients_are_patients_of_their_own():
    assert group_patients(as_records([("", -1), ("", -1)])).tolist() == [0, 1]


def test_tiles_of_one_file_are_one_patient_where_nobody_knows_whose():
    rows = [Record(str(k), "real", source=source) for k, source in enumerate("aabc")]
    rows += [Record("4", "real", patient="p", source="a"), Record("5", "real", source="c")]
    assert group_patients(rows).tolist() == [0, 0, 1, 2, 3, 2]


def test_duplicates_join_two_pseudonyms_into_one_patient():
    pairs = [("a", -1), ("b", 7), ("a", 7), ("c", -1), ("b", -1)]
    assert group_patients(as_records(pairs)).tolist() == [0, 0, 0, 1, 0]


def test_linked_images_show_one_picture_and_all_others_one_each():
    links = [4, -1, 4, -1, 0]
    records = [Record(f"i{i}", "real", patient="p", link=link) for i, link in enumerate(links)]
    assert group_pictures(records).tolist() == [0, 1, 0, 2, 3]


# Masks --------------------------------------------------------------------------------------------


def test_masks_go_where_their_images_go(tmp_path):
    masks = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((4, 8, 8), np.uint8)
    masked = replace(cohort(), masks=masks)
    masked.write(tmp_path)
    back = Cohort.read(tmp_path)
    assert back.digest == masked.digest
    assert back.take([2, 0]).masks[:, 0, 0].tolist() == [2, 0]
    assert Cohort.read(tmp_path).pixels.shape == (4, 8, 8, 3)


def test_another_mask_is_another_cohort_and_none_is_what_it_was():
    plain, masks = cohort(), np.zeros((4, 8, 8), np.uint8)
    first, second = replace(plain, masks=masks), replace(plain, masks=masks + 1)
    assert len({plain.digest, first.digest, second.digest}) == 3
    assert replace(first, masks=None).digest == plain.digest


def test_masks_of_another_size_or_type_are_no_masks():
    with pytest.raises(DataError, match=r"expected masks \(4, 8, 8\) uint8, got \(4, 8\) uint8"):
        replace(cohort(), masks=np.zeros((4, 8), np.uint8))
    with pytest.raises(DataError, match=r"got .* int64"):
        replace(cohort(), masks=np.zeros((4, 8, 8), np.int64))
