"""Whole slides made for tests: phantom tissue on glass, as pyramidal TIFF and as DICOM."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from medsynth.data import phantoms

SIDE = 128  # pixels of a tile's side
GLASS = (243, 242, 240)
PEN = (25, 110, 190)


def tissue_tiles(count: int, side: int = SIDE) -> list[np.ndarray]:
    """Draw phantom tissue, each (side, side, 3) uint8."""
    return [
        phantoms.draw("histology", patient=number, image=0, seed=5, size_px=side)[0]
        for number in range(count)
    ]


def glass(height: int, width: int) -> np.ndarray:
    """Draw empty glass with as much noise as a real scan has, (height, width, 3) uint8."""
    noise = np.random.default_rng(0).normal(0, 0.5, (height, width, 1))
    return np.clip(np.array(GLASS) + noise, 0, 255).astype(np.uint8)


def canvas(plan: Sequence[str]) -> np.ndarray:
    """Draw a slide from rows of letters, a tile each: . glass, t tissue, b blurred tissue, p a
    stroke of a pen over tissue, i the same on glass."""
    from scipy.ndimage import gaussian_filter

    rows, columns = len(plan), len(plan[0])
    pixels = glass(rows * SIDE, columns * SIDE)
    drawn = iter(tissue_tiles(sum(letter in "tbp" for row in plan for letter in row)))
    for row, letters in enumerate(plan):
        for column, letter in enumerate(letters):
            place = pixels[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
            if letter in "tbp":
                place[:] = next(drawn)
            if letter == "b":
                place[:] = gaussian_filter(place, (3, 3, 0))
            if letter in "pi":
                place[SIDE // 3 : 3 * SIDE // 5] = PEN
    return pixels


def write_pyramid(
    path: Path,
    pixels: np.ndarray,
    *,
    um_per_px: tuple[float, float] | None = (0.5, 0.5),
    shrinks: Sequence[int] = (1, 2, 4),
    tile: int | None = 128,
) -> Path:
    """Write a TIFF of several levels as a slide scanner does, without loss."""
    import tifffile

    with tifffile.TiffWriter(path) as tiff:
        for shrink in shrinks:
            scale = {}
            if um_per_px:
                per_cm = tuple(1e4 / (um * shrink) for um in um_per_px)
                scale = {"resolution": per_cm, "resolutionunit": "CENTIMETER"}
            tiff.write(
                shrunk(pixels, shrink),
                tile=(tile, tile) if tile else None,
                photometric="rgb",
                subfiletype=int(shrink > 1),
                metadata=None,
                compression="deflate",
                compressionargs={"level": 1},
                **scale,
            )
    return path


def write_large(
    path: Path,
    block: np.ndarray,
    *,
    side: int,
    first: int,
    shrinks: Sequence[int],
    tile: int,
    scanned: bool,
) -> Path:
    """Write a square slide with a block of pixels that starts at `first`, down and across.

    Around it is flat glass, or nothing where no more was scanned; first, side and block are
    multiples of tile * shrink. It takes a file and a memory of about the block's size."""
    import tifffile

    flat = zlib.compress(bytes(GLASS) * tile**2) if scanned else b""

    with tifffile.TiffWriter(path) as tiff:
        for shrink in shrinks:
            tiff.write(
                _packed_tiles(shrunk(block, shrink), side // shrink, first // shrink, tile, flat),
                shape=(side // shrink, side // shrink, 3),
                dtype="uint8",
                tile=(tile, tile),
                photometric="rgb",
                subfiletype=int(shrink > 1),
                metadata=None,
                compression="deflate",
                resolution=(20_000 / shrink, 20_000 / shrink),
                resolutionunit="CENTIMETER",
            )
    return path


def _packed_tiles(
    block: np.ndarray, side: int, first: int, tile: int, around: bytes
) -> Iterator[bytes]:
    for y in range(-first, side - first, tile):
        for x in range(-first, side - first, tile):
            inside = 0 <= y < len(block) and 0 <= x < len(block)
            yield (
                zlib.compress(block[y : y + tile, x : x + tile].tobytes(), 1) if inside else around
            )


def shrunk(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Average over squares; what is left at the right and below is dropped."""
    height, width = (side // factor * factor for side in pixels.shape[:2])
    squares = pixels[:height, :width].reshape(height // factor, factor, width // factor, factor, 3)
    return np.round(squares.mean(axis=(1, 3))).astype(np.uint8)


def write_dicom(
    folder: Path, pixels: np.ndarray, *, um_per_px: float = 0.5, shrinks: Sequence[int] = (1, 4)
) -> list[Path]:
    """Write a slide as a DICOM series: a file a level, and one with a picture of its label."""
    from pydicom.uid import generate_uid

    series, frame = generate_uid(), generate_uid()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, shrink in enumerate(shrinks, start=1):
        level = _dicom_level(shrunk(pixels, shrink), um_per_px * shrink, series, frame)
        level.ImageType = ["ORIGINAL" if shrink == 1 else "DERIVED", "PRIMARY", "VOLUME", "NONE"]
        paths.append(_saved(level, folder / f"level{number}.dcm", number))
    label = _dicom_level(np.full((SIDE, SIDE, 3), 77, np.uint8), um_per_px, series, frame)
    label.ImageType = ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]
    label.BarcodeValue = "S-1234-NAME"
    return [*paths, _saved(label, folder / "zlabel.dcm", len(paths) + 1)]


def _saved(dataset, path: Path, number: int) -> Path:
    dataset.InstanceNumber = number
    dataset.save_as(path, enforce_file_format=True)
    return path


def _dicom_level(pixels: np.ndarray, um_per_px: float, series: str, frame: str):
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, VLWholeSlideMicroscopyImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    level = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    level.SOPClassUID = meta.MediaStorageSOPClassUID
    level.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    level.SeriesInstanceUID, level.FrameOfReferenceUID = series, frame
    level.StudyInstanceUID = generate_uid()
    level.PatientID, level.PatientName, level.Modality = "MRN-5501", "Doe^Slide", "SM"
    height, width = pixels.shape[:2]
    tiles = _padded_tiles(pixels)
    level.Rows = level.Columns = SIDE
    level.TotalPixelMatrixRows, level.TotalPixelMatrixColumns = height, width
    level.TotalPixelMatrixFocalPlanes = level.NumberOfOpticalPaths = 1
    level.NumberOfFrames = len(tiles)
    level.DimensionOrganizationType = "TILED_FULL"
    level.ImagedVolumeWidth, level.ImagedVolumeHeight = (
        side * um_per_px / 1000 for side in (width, height)
    )
    level.ImagedVolumeDepth = 0.001
    level.SamplesPerPixel, level.PlanarConfiguration = 3, 0
    level.PhotometricInterpretation = "RGB"
    level.BitsAllocated = level.BitsStored = 8
    level.HighBit, level.PixelRepresentation = 7, 0
    level.LossyImageCompression = "00"
    measures, shared, path_item = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [f"{um_per_px / 1000:.8f}"] * 2
    measures.SliceThickness = "0.001"
    shared.PixelMeasuresSequence = [measures]
    level.SharedFunctionalGroupsSequence = [shared]
    path_item.OpticalPathIdentifier = "1"
    level.OpticalPathSequence = [path_item]
    level.PixelData = np.stack(tiles).tobytes()
    level["PixelData"].VR = "OB"
    return level


def _padded_tiles(pixels: np.ndarray) -> list[np.ndarray]:
    height, width = (-(-side // SIDE) * SIDE for side in pixels.shape[:2])
    whole = np.full((height, width, 3), 255, np.uint8)
    whole[: pixels.shape[0], : pixels.shape[1]] = pixels
    return [
        whole[y : y + SIDE, x : x + SIDE]
        for y in range(0, height, SIDE)
        for x in range(0, width, SIDE)
    ]
