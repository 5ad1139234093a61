"""A release loads in other people's libraries: each test opens it with the real one."""

import json
import os
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from made_up import PROTOCOL, judged, make_cohort, make_findings
from PIL import Image

from medsynth import protocol
from medsynth.cohort import Cohort
from medsynth.release.export import write_release
from medsynth.release.formats import FORMATS
from medsynth.release.verify import verify
from medsynth.runtime import digest_files

# Other people's libraries leave files open and call what is deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
ALL = ("parquet", "webdataset", "npz", "dicom")


@pytest.fixture(scope="module")
def settings():
    return protocol.parse(PROTOCOL)


@pytest.fixture(scope="module")
def findings():
    return make_findings()


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    """Images of which every fifth has no label."""
    made = make_cohort(24)
    records = [
        replace(record, labels={}) if i % 5 == 4 else record
        for i, record in enumerate(made.records)
    ]
    return Cohort(made.domain, tuple(records), made.pixels)


@pytest.fixture(scope="module")
def released(tmp_path_factory, cohort, settings, findings):
    folder = tmp_path_factory.mktemp("release")
    write_release(folder, **judged(settings, cohort, findings), also=ALL)
    return folder


def disease(cohort):
    return [record.labels.get("disease") for record in cohort.records]


def test_every_format_of_the_protocol_and_the_command_line_is_known(settings):
    from typing import get_args

    from medsynth.cli.stages import Format

    names = get_args(get_args(type(settings.card).model_fields["formats"].annotation)[0])
    assert tuple(FORMATS) == names == tuple(Format) == ALL


def test_a_release_with_every_format_verifies_and_is_the_same_each_time(
    tmp_path, released, cohort, settings, findings
):
    write_release(tmp_path, **judged(settings, cohort, findings), also=ALL)
    assert digest_files(tmp_path) == digest_files(released)
    assert verify(released).faults == ()


def test_datasets_reads_the_folder_of_images(released, cohort, tmp_path):
    found = _load("imagefolder", tmp_path, data_dir=str(released / "images"))
    assert [row["id"] for row in found] == [record.id for record in cohort.records]
    assert [row["disease"] or None for row in found] == disease(cohort)
    assert np.array_equal(np.asarray(found[3]["image"]), cohort.pixels[3])


def test_datasets_and_pandas_read_the_parquet_tables(released, cohort, tmp_path):
    import pandas

    files = str(released / "parquet" / "*.parquet")
    found = _load("parquet", tmp_path, data_files=files)
    assert [row["disease"] for row in found] == disease(cohort)
    assert np.array_equal(np.asarray(found[3]["image"]), cohort.pixels[3])
    table = pandas.read_parquet(released / "parquet")
    assert list(table["id"]) == [record.id for record in cohort.records]


def _load(kind, cache, **where):
    import datasets

    os.environ["HF_HUB_OFFLINE"] = "1"
    datasets.disable_progress_bars()
    return datasets.load_dataset(kind, split="train", cache_dir=str(cache), **where)


def test_webdataset_reads_the_tar_files(released, cohort):
    import webdataset

    shards = sorted(str(path) for path in (released / "webdataset").glob("*.tar"))
    found = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in found] == [record.id for record in cohort.records]
    assert [sample["json"].get("disease") for sample in found] == disease(cohort)
    assert np.array_equal(found[3]["png"], cohort.pixels[3])


def test_a_thousand_images_a_tar_and_no_clock_in_it(released):
    with tarfile.open(released / "webdataset" / "cohort-000000.tar") as tar:
        assert {(member.mtime, member.uid, member.uname) for member in tar} == {(0, 0, "")}


def test_the_npz_is_medmnists_and_unknown_labels_are_minus_one(released, cohort):
    values = json.loads((released / "npz" / "labels.json").read_text())["disease"]
    with np.load(released / "npz" / "cohort.npz") as arrays:
        assert np.array_equal(arrays["train_images"], cohort.pixels)
        said = [values[i] if i >= 0 else None for i in arrays["train_labels"][:, 0]]
        assert {len(arrays[f"{part}_images"]) for part in ("val", "test")} == {0}
    assert said == disease(cohort)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_monai_reads_the_images(released, cohort):
    from monai.transforms import LoadImage

    path = released / "images" / f"{cohort.records[3].id}.png"
    image = LoadImage("PILReader", image_only=True, reverse_indexing=False)(path)
    assert np.array_equal(np.asarray(image, np.uint8), cohort.pixels[3])


def test_mlcroissant_reads_images_with_their_labels(released, cohort):
    import mlcroissant

    described = mlcroissant.Dataset(jsonld=str(released / "croissant.json"))
    assert not described.metadata.ctx.issues.errors
    rows = {row["images/id"].decode(): row for row in described.records("images")}
    assert sorted(rows) == sorted(record.id for record in cohort.records)
    for record, image in zip(cohort.records, cohort.pixels, strict=True):
        row = rows[record.id]
        assert np.array_equal(np.asarray(row["images/image"]), image)


def test_rocrate_reads_the_crate_and_every_part_of_it_is_there(released):
    from rocrate.rocrate import ROCrate

    crate = ROCrate(str(released))
    assert "synthetic" in crate.description
    parts = {part.id.rstrip("/") for part in crate.root_dataset["hasPart"]}
    assert parts == {path.name for path in released.iterdir()} - {"ro-crate-metadata.json"} | {
        "images/metadata.csv"
    }


def test_the_published_date_is_said_only_where_a_person_wrote_one(released, tmp_path, cohort):
    from medsynth.protocol import Card
    from medsynth.release.descriptions import croissant, ro_crate

    assert "datePublished" not in json.loads((released / "croissant.json").read_text())
    card = Card(published="2026-11-22")
    said = croissant(card, name="x", columns=["id"], metadata_sha256="0" * 64)
    assert said["datePublished"] == "2026-11-22"
    assert ro_crate(card, name="x", files={})["@graph"][1]["datePublished"] == "2026-11-22"


def test_pngs_of_every_format_bear_the_mark(released, cohort):
    import io

    import pyarrow.parquet

    table = pyarrow.parquet.read_table(released / "parquet").to_pylist()
    picture = Image.open(io.BytesIO(table[0]["image"]["bytes"]))
    assert "trainedAlgorithmicMedia" in picture.info["XML:com.adobe.xmp"]
