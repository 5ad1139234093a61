"""Whole slides: which files are slides, which tiles come out, and that nothing else does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_slides import SIDE, canvas, write_dicom, write_large, write_pyramid
from PIL import Image

from medsynth import protocol
from medsynth.data.badimage import BadImage
from medsynth.data.slide_files import is_slide, parts_of_slides
from medsynth.data.slides import read_tiles

PLAN = [
    "........",
    ".tttttt.",
    ".ttbbtt.",
    ".ttttpt.",
    ".tttttt.",
    "..i.....",
]
GOOD = {8 * row + column + 1 for row in range(6) for column in range(8) if PLAN[row][column] == "t"}
BLURRED, MARKED = {20, 21}, {30}
MANY = 400_000_000
REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "histology" / "whole_slide"
SVS = REAL / "CMU-1-Small-Region.svs"
needs_svs = pytest.mark.skipif(not SVS.is_file(), reason="no real slide on this machine")


def tiles_of(path: Path, *, seed: int = 0, tile_px: int = SIDE, max_pixels: int = MANY, **slides):
    image = protocol.Image(size_px=tile_px, tile_px=tile_px)
    asked = protocol.Slides(**slides)
    return dict(read_tiles(path, image, asked, seed, max_pixels=max_pixels))


def refused(path: Path, **asked) -> BadImage:
    with pytest.raises(BadImage) as caught:
        tiles_of(path, **asked)
    assert str(path.parent) not in str(caught.value)
    assert path.name not in str(caught.value)
    return caught.value


def crop(pixels: np.ndarray, number: int) -> np.ndarray:
    """A tile of PLAN by its number, (3, SIDE, SIDE) in [0, 1]."""
    row, column = divmod(number - 1, len(PLAN[0]))
    place = pixels[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
    return np.moveaxis(place, -1, 0) / 255


def alike(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), two.ravel())[0, 1])


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return canvas(PLAN)


@pytest.fixture(scope="module")
def slide(pixels, tmp_path_factory) -> Path:
    return write_pyramid(tmp_path_factory.mktemp("slide") / "slide.tif", pixels)


@pytest.fixture(scope="module")
def dicom(pixels, tmp_path_factory) -> list[Path]:
    return write_dicom(tmp_path_factory.mktemp("dicom"), pixels)


# Which files are slides -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fields(pixels, tmp_path_factory) -> list[Path]:
    """Files that are no slides."""
    from pydicom.data import get_testdata_file

    folder = tmp_path_factory.mktemp("fields")
    for name in ("a.png", "b.jpg", "c.tif"):
        Image.fromarray(pixels).save(folder / name)
    tiled = write_pyramid(folder / "d.tif", pixels, shrinks=[1])
    (folder / "e.svs").write_bytes(b"II*\0 and nothing else")
    (folder / "f.svs").write_bytes(b"")
    field = Path(get_testdata_file("SC_rgb.dcm", download=False))
    return [*(folder / f"{name}" for name in ("a.png", "b.jpg", "c.tif")), tiled,
            folder / "e.svs", folder / "f.svs", folder / "absent.svs", folder, field]  # fmt: skip


@pytest.fixture(params=["with OpenSlide", "without"])
def openslide_or_not(request, monkeypatch):
    if request.param == "without":
        monkeypatch.setitem(sys.modules, "openslide", None)


@pytest.mark.usefixtures("openslide_or_not")
def test_a_pyramid_and_every_dicom_level_are_slides(slide, dicom):
    assert all(is_slide(path) for path in [slide, *dicom])


@pytest.mark.usefixtures("openslide_or_not")
def test_pictures_and_damaged_files_are_no_slides(fields):
    assert [path.name for path in fields if is_slide(path)] == []


def test_a_tiled_tiff_larger_than_any_camera_s_is_a_slide_without_a_pyramid(pixels, tmp_path):
    path = tmp_path / "large.tif"
    block, shrinks = pixels[:512, :512], (1,)
    write_large(path, block, side=12_288, first=512, shrinks=shrinks, tile=512, scanned=False)
    assert is_slide(path)


@needs_svs
@pytest.mark.usefixtures("openslide_or_not")
def test_a_scanner_s_file_is_a_slide_even_with_one_level():
    assert is_slide(SVS)


def test_a_missing_extra_is_named(slide, monkeypatch):
    monkeypatch.setitem(sys.modules, "openslide", None)
    error = refused(slide)
    assert error.reason == "codec missing"
    assert "medsynth[slides]" in error.detail


def test_a_dicom_series_stands_once_in_a_listing(pixels, tmp_path):
    for folder in ("one", "two"):
        write_dicom(tmp_path / folder, pixels[:256, :256])
    paths = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.dcm")]
    assert set(paths) - parts_of_slides(tmp_path, paths) == {"one/level1.dcm", "two/level1.dcm"}


def test_two_dicom_slides_in_one_folder_are_two(pixels, tmp_path):
    for _ in range(2):
        for path in write_dicom(tmp_path / "new", pixels[:256, :256]):
            path.rename(tmp_path / f"{len(list(tmp_path.glob('*.dcm')))}.dcm")
    paths = [path.name for path in tmp_path.glob("*.dcm")]
    assert len(paths) == 6
    assert set(paths) - parts_of_slides(tmp_path, paths) == {"0.dcm", "3.dcm"}


def test_files_that_belong_to_a_slide_are_no_images_of_their_own(tmp_path):
    own = ["a/x.mrxs", "b/y.vms", "b/z.jpg", "c.png"]
    parts = ["a/x/Data0000.dat", "a/x/1.jpg", "b/y.jpg", "b/y_macro.jpg", "b/y(1,0).jpg"]
    assert parts_of_slides(tmp_path, [*own, *parts]) == set(parts)


# Which tiles come out ---------------------------------------------------------------------------


def test_every_tile_of_tissue_in_focus_and_without_ink_comes_out_once_pixel_by_pixel(slide, pixels):
    tiles = tiles_of(slide, tiles=None)
    assert tiles.keys() == GOOD
    for number, tile in tiles.items():
        assert tile.dtype == np.float32
        np.testing.assert_allclose(tile, crop(pixels, number), atol=1e-6)


@pytest.mark.parametrize(
    ("kept", "more"), [("reject_blurred", BLURRED), ("reject_pen", MARKED | {43})]
)
def test_blurred_and_marked_tiles_come_out_where_they_are_not_rejected(slide, kept, more):
    found = tiles_of(slide, tiles=None, tissue=0.2, **{kept: False}).keys()
    assert found == GOOD | more


def test_a_limit_draws_some_of_the_same_tiles_and_replaces_the_rejected(slide):
    every = tiles_of(slide, tiles=None)
    for seed in range(8):
        drawn = tiles_of(slide, tiles=len(GOOD) - 1, seed=seed)
        assert len(drawn) == len(GOOD) - 1
        assert drawn.keys() < GOOD
        assert all((drawn[number] == every[number]).all() for number in drawn)


def test_a_draw_depends_on_the_seed_and_neither_on_the_path_nor_on_the_format(slide, dicom, pixels):
    drawn = tiles_of(slide, tiles=5)
    assert len(drawn) == 5
    assert tiles_of(slide, tiles=5, seed=1).keys() != drawn.keys()
    copy = write_pyramid(slide.with_name("another name.tif"), pixels, shrinks=(1, 8))
    for same in (copy, *dicom):
        tiles = tiles_of(same, tiles=5)
        assert tiles.keys() == drawn.keys()
        assert all((tiles[number] == drawn[number]).all() for number in drawn)


def test_a_smaller_draw_is_part_of_a_larger_one(slide):
    small, large = (tiles_of(slide, tiles=count, seed=3).keys() for count in (4, 9))
    assert small < large


@pytest.mark.parametrize("shrinks", [(1, 2, 4), (1,), (1, 4)])
@pytest.mark.parametrize("um_per_px", [1.0, 2.0])
def test_tiles_are_brought_to_the_asked_scale_by_areas(pixels, tmp_path, shrinks, um_per_px):
    from skimage.transform import downscale_local_mean

    path = write_pyramid(tmp_path / "s.svs", pixels, shrinks=[*shrinks, 8])
    factor = round(um_per_px / 0.5)
    side = SIDE // factor
    tiles = tiles_of(path, tiles=None, um_per_px=um_per_px, tile_px=side, reject_blurred=False)
    assert tiles.keys() == GOOD | BLURRED
    for number, tile in tiles.items():
        expected = downscale_local_mean(crop(pixels, number), (1, factor, factor))
        assert tile.shape == (3, side, side)
        np.testing.assert_allclose(tile, expected, atol=1.6 / 255)


def test_a_scale_between_levels_is_the_asked_one(pixels, tmp_path):
    from skimage.transform import resize

    path = write_pyramid(tmp_path / "s.tif", pixels)
    tiles = tiles_of(path, tiles=None, um_per_px=0.8, tile_px=80)
    assert tiles.keys() == GOOD
    for number, tile in tiles.items():
        expected = resize(crop(pixels, number), (3, 80, 80), anti_aliasing=True)
        assert alike(tile, expected) > 0.97


def test_a_scanner_s_rounding_does_not_resample(pixels, tmp_path):
    path = write_pyramid(tmp_path / "s.tif", pixels, um_per_px=(0.4985, 0.503))
    tiles = tiles_of(path, tiles=None, um_per_px=0.5)
    assert tiles.keys() == GOOD
    assert all(np.allclose(tiles[n], crop(pixels, n), atol=1e-6) for n in GOOD)


def test_pixels_that_are_not_square_become_square(pixels, tmp_path):
    path = write_pyramid(tmp_path / "s.tif", pixels, um_per_px=(0.25, 0.5), shrinks=(1, 4))
    tiles = tiles_of(path, tiles=None, um_per_px=0.5, tile_px=64)
    assert tiles
    for number, tile in tiles.items():
        row, column = divmod(number - 1, 8)
        place = pixels[row * 64 : row * 64 + 64, column * 128 : column * 128 + 128] / 255
        expected = np.moveaxis(place.reshape(64, 64, 2, 3).mean(axis=2), -1, 0)
        np.testing.assert_allclose(tile, expected, atol=1.1 / 255)


def test_a_slide_without_a_scale_is_cut_at_its_finest_level_only(pixels, tmp_path):
    path = write_pyramid(tmp_path / "s.tif", pixels, um_per_px=None)
    assert refused(path, um_per_px=0.5).reason == "unknown scale"
    assert tiles_of(path, tiles=None).keys() == GOOD


@pytest.mark.parametrize("said", ["nan", "inf", "0", "-0.5", "", "half"])
def test_a_scale_that_can_t_be_is_no_scale(slide, monkeypatch, said):
    from openslide import lowlevel

    monkeypatch.setattr(lowlevel, "get_property_value", lambda *_: said)
    assert refused(slide, um_per_px=0.5).reason == "unknown scale"


def test_a_slide_coarser_than_asked_is_refused(slide):
    error = refused(slide, um_per_px=0.25)
    assert error.reason == "too small"
    assert "0.50 um/px" in error.detail


def test_a_slide_smaller_than_a_tile_is_refused(slide):
    assert refused(slide, tile_px=1024).reason == "too small"


@pytest.mark.parametrize("plan", [["....", "...."], [".bb.", ".bb."], ["pppp", "pppp"]])
def test_a_slide_without_a_good_tile_is_refused(tmp_path, plan):
    path = write_pyramid(tmp_path / "s.tif", canvas(plan))
    assert refused(path).reason == "no tissue"


def test_what_was_not_scanned_is_white_and_no_tissue(pixels, tmp_path):
    path, block = tmp_path / "s.tif", pixels[SIDE : 3 * SIDE, SIDE : 3 * SIDE]
    shrinks = (1, 2, 4)
    write_large(path, block, side=1024, first=512, shrinks=shrinks, tile=64, scanned=False)
    tiles = tiles_of(path, tissue=0.9)
    assert tiles.keys() == {37, 38, 45, 46}
    edge = tiles_of(path, tissue=0.1, tile_px=320)[5]
    np.testing.assert_allclose(edge[:, 192:, 192:], np.moveaxis(block[:128, :128], -1, 0) / 255)
    assert (edge[:, :192] == 1).all()
    assert (edge[:, :, :192] == 1).all()


# What can go wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_slide_is_refused_and_does_not_crash(dicom, tmp_path, share):
    whole = dicom[0].read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[: int(len(whole) * share)])
    assert is_slide(tmp_path / "cut.dcm")
    assert refused(tmp_path / "cut.dcm").reason == "truncated or damaged"


def test_tiles_that_can_t_be_unpacked_refuse_the_slide(slide, tmp_path):
    data = bytearray(slide.read_bytes())
    data[2000 : len(data) // 2] = b"\xaa" * (len(data) // 2 - 2000)
    (tmp_path / "bad.tif").write_bytes(data)
    assert refused(tmp_path / "bad.tif").reason == "truncated or damaged"


def test_a_slide_without_a_pyramid_may_not_unpack_to_more_than_max_pixels(pixels, tmp_path):
    path = write_pyramid(tmp_path / "s.tif", pixels, shrinks=[1])
    assert refused(path, max_pixels=500_000).reason == "decompression bomb"
    pyramid = write_pyramid(tmp_path / "p.tif", pixels, shrinks=[1, 8])
    assert tiles_of(pyramid, max_pixels=500_000).keys() == GOOD


def test_a_tile_may_not_unpack_to_more_than_max_pixels(pixels, tmp_path):
    path = write_pyramid(tmp_path / "s.tif", pixels, shrinks=[1, 8])
    assert (
        refused(path, um_per_px=3.5, tile_px=64, max_pixels=50_000).reason == "decompression bomb"
    )


LARGE = """
import sys
from pathlib import Path
import numpy as np, openslide, scipy.ndimage, skimage.filters
from medsynth import protocol
from medsynth.data.slides import read_tiles

def peak_mib():
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024

before = peak_mib()
asked = protocol.Slides(um_per_px=0.5, tiles=None), 0
count = sum(1 for _ in read_tiles(Path(sys.argv[1]), protocol.Image(), *asked, max_pixels=10**8))
print(count, peak_mib() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux says the peak there")
def test_a_slide_of_20000_pixels_takes_the_memory_of_a_few_tiles(tmp_path):
    block = np.tile(canvas(["tttt"] * 4), (4, 4, 1))
    path, shrinks = tmp_path / "large.tif", (1, 4, 8)
    write_large(path, block, side=20_480, first=8192, shrinks=shrinks, tile=256, scanned=True)
    run = subprocess.run([sys.executable, "-c", LARGE, str(path)], capture_output=True, text=True)
    assert not run.stderr
    count, mib = run.stdout.split()
    assert int(count) == 64
    assert float(mib) < 150  # its finest level alone is 1200


# Nothing else of the file -----------------------------------------------------------------------

ALLOWED = {"openslide.mpp-x", "openslide.mpp-y"} | {
    f"openslide.bounds-{name}" for name in ("x", "y", "width", "height")
}


@pytest.fixture
def asked_for(monkeypatch) -> set[str]:
    """Names of the properties that are read; a picture beside the slide's plane can't be."""
    from openslide import lowlevel

    asked, read = set(), lowlevel.get_property_value

    def watched(slide, name):
        asked.add(name)
        return read(slide, name)

    def never(*_):
        raise AssertionError("a label, a macro image or the list of properties was asked for")

    monkeypatch.setattr(lowlevel, "get_property_value", watched)
    for name in ("read_associated_image", "get_associated_image_names", "get_property_names"):
        monkeypatch.setattr(lowlevel, name, never)
    return asked


def test_neither_label_nor_scanner_properties_are_read(dicom, asked_for):
    assert is_slide(dicom[0])
    assert tiles_of(dicom[0], um_per_px=0.5)
    assert asked_for == ALLOWED


def test_the_watch_on_properties_sees_them(dicom, asked_for):
    from openslide import OpenSlide

    with OpenSlide(dicom[0]) as slide:
        assert "dicom.PatientID" not in asked_for
        slide.properties.get("dicom.PatientID")
        assert "dicom.PatientID" in asked_for
        with pytest.raises(AssertionError, match="label"):
            list(slide.associated_images)


@needs_svs
def test_of_a_real_slide_neither_label_nor_scanner_properties_are_read(asked_for):
    assert is_slide(SVS)
    assert tiles_of(SVS, um_per_px=0.5, tile_px=256)
    assert asked_for == ALLOWED


# A real slide, and a whole ingest ----------------------------------------------------------------


@pytest.fixture(scope="module")
def real_pixels() -> np.ndarray:
    """The finest level of the real slide, unpacked by libtiff and not by OpenSlide."""
    with Image.open(SVS) as image:
        assert image.size == (2220, 2967)
        return np.asarray(image.convert("RGB"))


@needs_svs
@pytest.mark.parametrize(("um_per_px", "side"), [(0.5, 256), (1.0, 128)])
def test_a_real_slide_gives_tissue_at_the_asked_scale(real_pixels, um_per_px, side):
    from skimage.transform import downscale_local_mean

    tiles = tiles_of(SVS, um_per_px=um_per_px, tile_px=side, tissue=0.6)
    assert 20 <= len(tiles) <= 40  # of 88, of which 45 show some tissue
    for number, tile in tiles.items():
        row, column = divmod(number - 1, 8)
        place = real_pixels[row * 256 : row * 256 + 256, column * 256 : column * 256 + 256]
        stained = np.ptp(place.astype(int), axis=-1) > 20
        assert stained.mean() > 0.4
        small = downscale_local_mean(np.moveaxis(place, -1, 0), (1, 256 // side, 256 // side))
        assert alike(tile, small) > 0.99


@needs_svs
def test_a_real_slide_gives_the_same_tiles_in_other_formats(real_pixels, tmp_path):
    asked = {"tile_px": 128, "um_per_px": 0.998, "tiles": 12}
    tiles = tiles_of(SVS, **asked)
    assert len(tiles) == 12
    pyramid = write_pyramid(tmp_path / "s.tif", real_pixels, um_per_px=(0.499, 0.499))
    series = write_dicom(tmp_path / "s", real_pixels, um_per_px=0.499, shrinks=(1, 4))
    for copy in (pyramid, series[0]):
        copied = tiles_of(copy, **asked)
        assert copied.keys() == tiles.keys()
        assert min(alike(copied[number], tiles[number]) for number in tiles) > 0.99


def ingested(raw: Path, space: Path, image: dict, **slides):
    """Ingest a folder of slides, and return the cohort."""
    from medsynth.cohort import Cohort
    from medsynth.data.intake import ingest

    document = {
        "name": "test", "domain": "histology", "image": image, "slides": slides,
        "gate": {"rules": [{"finding": "memorization.p_value", "at_least": 0.05}]},
    }  # fmt: skip
    space.mkdir()
    ingest(raw, space, protocol.parse(json.dumps(document)), b"k" * 32)
    return Cohort.read(space)


def written(space: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(space.rglob("*")) if path.is_file())


@pytest.mark.parametrize("tile_px", [SIDE, None])
def test_an_ingest_takes_a_dicom_slide_once_and_nothing_of_its_label(pixels, tmp_path, tile_px):
    write_dicom(tmp_path / "raw" / "series", pixels)
    image = {"size_px": SIDE, "tile_px": tile_px}
    cohort = ingested(tmp_path / "raw", tmp_path / "intake", image, tiles=None)
    assert len(cohort.records) == len(GOOD)
    expected = np.stack([crop(pixels, number) for number in sorted(GOOD)]).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(np.asarray(cohort.pixels) / 255, expected, atol=1.1 / 255)
    assert len(set(cohort.patients)) == 1
    for word in (b"MRN-5501", b"Doe", b"S-1234", b"level1", b"zlabel"):
        assert word not in written(tmp_path / "intake")


@needs_svs
def test_an_ingest_of_a_real_slide_holds_nothing_that_the_scanner_noted(real_pixels, tmp_path):
    from openslide import OpenSlide

    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / SVS.name).write_bytes(SVS.read_bytes())
    cohort = ingested(raw, tmp_path / "intake", {"size_px": 64, "tile_px": 256}, um_per_px=0.5)
    assert 20 <= len(cohort.records) <= 40
    with OpenSlide(SVS) as slide:
        noted = {
            value for name, value in slide.properties.items()
            if name.startswith(("aperio.", "tiff.", "openslide.comment")) and len(value) >= 5
        }  # fmt: skip
        label = slide.associated_images["label"].convert("RGB").resize((64, 64))
    found = written(tmp_path / "intake")
    assert len(noted) > 8
    assert [value for value in noted if value.encode() in found] == []
    assert max(alike(np.asarray(label), tile) for tile in np.asarray(cohort.pixels)) < 0.5
