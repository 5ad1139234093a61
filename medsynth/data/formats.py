"""Every file format that is read, for the pages and for `medsynth doctor`.

A file's content decides what it is; its ending only says that it may be an image at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from .layouts.tables import PACKAGES as TABLE_PACKAGES
from .layouts.walk import DICOM


@dataclass(frozen=True)
class Format:
    """One file format: `reader` is the function that reads it, as module.function of this package.

    `read` and `dropped` say what of a file is used and what never leaves it. `needs` are packages
    without which nothing is read; `extra` brings them, or what only some of the files need.
    """

    name: str
    suffixes: tuple[str, ...]
    reader: str
    read: str
    dropped: str
    needs: tuple[str, ...] = ()
    extra: str = ""

    @property
    def missing(self) -> tuple[str, ...]:
        """The packages that it needs and that are not installed."""
        return tuple(name for name in self.needs if find_spec(name) is None)


def readable() -> dict[str, str]:
    """Return {format or kind of table: "read", or what is missing and how to get it}."""
    needs = {one.name: (one.missing, one.extra) for one in FORMATS}
    for suffix, package in TABLE_PACKAGES.items():
        needs[f"{suffix} tables"] = ((package,) if find_spec(package) is None else ()), "formats"
    return {
        name: f"needs {', '.join(missing)}: pip install 'medsynth[{extra}]'" if missing else "read"
        for name, (missing, extra) in needs.items()
    }


FORMATS = (
    Format(
        "PNG", (".png",), "raster.read_png",
        "8 and 16 bits, grey, RGB, palettes; an alpha channel that hides nothing",
        "text chunks, EXIF, XMP, colour profiles, gamma",
    ),
    Format(
        "JPEG", (".jpg", ".jpeg"), "raster.read_jpeg",
        "grey and RGB, upright by the EXIF orientation, reduced as it is unpacked where that is "
        "enough",
        "all other EXIF, XMP, comments, thumbnails, colour profiles",
    ),
    Format(
        "TIFF", (".tif", ".tiff"), "tiff.read_tiff",
        "one page, smaller copies of it aside; grey, RGB, palettes, 8 and 16 bits, floats with a "
        "declared range",
        "all tags but those that say what pixels are",
    ),
    Format(
        "DICOM", DICOM, "dicom.read_dicom",
        "one frame of CR, DX, OP, SC and others, through modality and VOI tables over the declared "
        "range, inverted where the file asks for it; files without an ending too; raw detector "
        "data only by data.for_processing; most compressed ones need the extra",
        "all tags but the labels below, the size and the patient, who becomes a pseudonym; "
        "overlays",
        (), "dicom",
    ),
    Format(
        "NIfTI", (".nii", ".nii.gz"), "nifti.read_nifti",
        "slices by data.slice_plane and slice_step, turned as a radiologist looks at them, through "
        "data.window or the range that the header declares",
        "the header's texts and extensions",
    ),
    Format(
        "NumPy arrays", (".npz",), "arrays.read_array",
        "images of the arrays that are named ...images, one by one",
        "other arrays; pickled objects are never loaded",
    ),
    Format(
        "HDF5", (".h5", ".hdf5"), "arrays.read_array",
        "images of the arrays that are named x or ...images, one by one",
        "other arrays, attributes, and links to other files",
        ("h5py",), "formats",
    ),
    Format(
        "Whole slides",
        (".svs", ".ndpi", ".mrxs", ".scn", ".svslide", ".bif", ".vms", ".vmu", ".czi"),
        "slides.read_tiles",
        "tiles of tissue, image.tile_px wide at slides.um_per_px; pyramidal TIFF and DICOM series "
        "are told from single pictures",
        "label and macro images, and all that the scanner noted but the size of a pixel",
        ("openslide",), "slides",
    ),
)  # fmt: skip
