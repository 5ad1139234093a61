"""A released image is known again after its marks are gone, and no other image is."""

import io

import numpy as np
import pytest
from made_up import make_cohort
from PIL import Image
from scipy.fft import dctn
from test_verify import reseal

from medsynth.data import phantoms
from medsynth.errors import DataError
from medsynth.release import recognition
from medsynth.release.recognition import WITHIN, find, hash_image
from medsynth.release.verify import verify


def saved(picture: Image.Image, folder, name: str, **options):
    path = folder / name
    picture.save(path, **options)
    return path


CHANGES = {
    "stripped": lambda picture: (picture, "x.png", {}),
    "jpeg": lambda picture: (picture, "x.jpg", {"quality": 50}),
    "half": lambda picture: (picture.resize((32, 32), Image.Resampling.BICUBIC), "x.png", {}),
    "twice": lambda picture: (picture.resize((128, 128), Image.Resampling.BICUBIC), "x.tif", {}),
    "brighter": lambda picture: (picture.point(lambda v: 0.8 * v + 30), "x.png", {}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_named(released, tmp_path, change):
    picture = Image.open(released / "images" / "syn-000007.png")
    picture.load()
    picture.info.clear()
    changed, name, options = CHANGES[change](picture)
    matches = find(saved(changed, tmp_path, name, **options), released)
    assert matches[0].id == "syn-000007"
    assert matches[0].distance <= WITHIN


def test_a_file_as_released_has_no_bit_changed(released):
    matches = find(released / "images" / "syn-000011.png", released)
    assert matches[0] == ("syn-000011", 0)


def test_images_of_others_are_not_recognised(released, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(20):
        pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
        path = saved(Image.fromarray(pixels), tmp_path, f"{number}.png")
        assert find(path, released)[0].distance > WITHIN


def test_of_a_thousand_pairs_of_phantoms_none_counts_as_the_same_picture():
    cases = [phantoms.draw("chest_xray", patient, 0, 5, 32)[0] for patient in range(46)]
    bits = np.unpackbits(np.stack([hash_image(case) for case in cases]), axis=1)
    distances = (bits[:, None] != bits[None]).sum(2)
    assert distances[np.triu_indices(46, 1)].min() > WITHIN


def test_the_bits_are_the_signs_of_the_lowest_frequencies():
    image = np.random.default_rng(1).random((64, 64)).astype(np.float32)
    signs = dctn(image.astype(float), type=2)[:16, :16].ravel()[1:] > 0
    assert np.array_equal(np.unpackbits(hash_image(image))[:255], signs)


def test_a_hash_knows_neither_range_nor_depth():
    image = make_cohort(images=1).pixels[0]
    deep = image.astype(np.uint16) * 257
    assert np.array_equal(hash_image(image), hash_image(deep))
    assert np.array_equal(hash_image(image), hash_image(image / np.float32(255)))


def test_the_list_holds_the_released_images_and_no_other(released, study):
    rows = (released / recognition.NAME).read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [r.id for r in study["cohort"].records]
    path = released / recognition.NAME
    path.write_text("\n".join([*rows, f"patient-1,{'0' * 64}"]) + "\n")
    reseal(released)
    assert "hashes.csv: its rows are not the images" in "".join(verify(released).faults)


def test_a_changed_list_is_not_believed_and_no_image_is_said(released, tmp_path):
    image = released / "images" / "syn-000001.png"
    no_image = tmp_path / "notes.txt"
    no_image.write_text("no image")
    with pytest.raises(DataError):
        find(no_image, released)
    with (released / recognition.NAME).open("a") as file:
        file.write(f"x,{'0' * 64}\n")
    with pytest.raises(DataError, match=r"hashes\.csv was changed"):
        find(image, released)
    (released / recognition.NAME).unlink()
    with pytest.raises(DataError, match="can't be recognised"):
        find(image, released)


def test_sixteen_bit_and_dicom_files_are_found_too(released, tmp_path):
    from medsynth.release.dicom import Study, write_image

    grey = Image.open(released / "images" / "syn-000005.png").convert("RGB")
    deep = (np.asarray(grey, np.float64).mean(2) * 257).round().astype(np.uint16)
    write_image(tmp_path / "x.dcm", deep[..., None], Study("ab" * 32, "fundus", {}), number=1,
                labels={})  # fmt: skip
    buffer = io.BytesIO()
    Image.fromarray(deep).save(buffer, "PNG")
    (tmp_path / "x.png").write_bytes(buffer.getvalue())
    for name in ("x.dcm", "x.png"):
        assert find(tmp_path / name, released)[0].id == "syn-000005"
