"""Maps of images, and images from maps.

What is drawn from a patient's map is derived: its record says so, and no release takes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .. import domains
from ..cohort import Cohort, Record
from ..data import controls
from ..data.control_files import Maps, read_maps, say_origin, write_maps
from ..errors import DataError
from ..ownership import holds_something
from ..runtime import derive_seed, digest_files, digest_json, run_stage, write_bytes
from ..vocabulary import Vocabulary
from .control import open_fitted, sampler
from .obeyed import refuse_ignored
from .run import Progress, Run, silent

MOST_PIXELS = 400_000_000


def extract_controls(
    images: Path,
    out: Path,
    kinds: Sequence[str],
    *,
    domain: str,
    size_px: int,
    nobody: bool = False,
    progress: Progress = silent,
) -> int:
    """Write the maps of a folder's images to OUT/KIND/NAME.png, and return how many images.

    Images are cropped as the domain crops them. `nobody` is a person's word that they show no
    patient (phantoms, or a released cohort). Raises DataError where OUT holds something, or an
    image can't be read.
    """
    from ..data.masks import by_name

    if holds_something(out):
        raise DataError(f"{out.name}/ holds something already: choose another folder")
    files = by_name(images)
    out.mkdir(parents=True, exist_ok=True, mode=0o700)  # a vessel tree tells whose eye it is
    for done, (name, path) in enumerate(sorted(files.items()), start=1):
        square = _read_square(path, domain, size_px)[None] * 2 - 1
        write_maps(out, [name], controls.extract(square, kinds), kinds)
        progress("maps", done / len(files))
    say_origin(out, "synthetic" if nobody else "derived")
    return len(files)


def _read_square(path: Path, domain: str, size_px: int) -> np.ndarray:
    """Read an image as the domain crops it, (C, size_px, size_px) in [0, 1]."""
    from ..data.badimage import BadImage
    from ..data.options import ReadOptions
    from ..data.preparation import to_square
    from ..data.readers import read_image, to_channels

    try:
        image = read_image(path, ReadOptions(MOST_PIXELS))
        return to_square(to_channels(image, domains.domain(domain).channels), domain, size_px)
    except BadImage as error:
        raise DataError(f"{path.name}: {error.reason}, {error.detail}") from None


def sample_controlled(
    run: Run,
    name: str,
    maps: Path,
    out: Path,
    *,
    labels: Mapping[str, str],
    ignored: bool = False,
    progress: Progress = silent,
) -> Cohort:
    """Draw one image a map under the control NAME into OUT: a cohort, and PNG pairs of image and
    map with the same number. Every image has the same labels.

    Again = go on. Raises as `open_fitted` and `read_maps` do, and RefusedError where the control is
    ignored, unless `ignored` is a person's word that they want its images all the same.
    """
    opened = open_fitted(run, name)
    if not ignored:
        refuse_ignored(run, name)
    given = read_maps(maps, opened.kinds, values=opened.values, size_px=run.protocol.image.size_px)
    Vocabulary.read(run.folder / "diffusion" / "vocabulary.json").encode(labels)
    run_stage(
        out,
        lambda folder: _draw(run, opened, given, labels, folder, progress),
        inputs={"control": opened.digest, "maps": digest_json(digest_files(maps))},
        settings={
            "labels": dict(labels),
            "sample": run.protocol.section("sample"),
            "seed": run.protocol.seed,
        },
    )
    return Cohort.read(out)


def _draw(run: Run, opened, given: Maps, labels, folder: Path, progress: Progress) -> None:
    from .. import synthesis

    draw, count = sampler(opened), len(given.names)
    seed = derive_seed(run.protocol.seed, "controlled")
    synthesis.sample_cohort(
        lambda rows, conditions, seeds: draw(given.maps[rows], conditions, seeds),
        [labels] * count,
        bits=run.protocol.image.bits,
        batch=run.protocol.sample.batch,
        seed=seed,
        folder=folder,
        progress=progress,
    )
    drawn = synthesis.join_blocks(
        [labels] * count, domain=run.protocol.domain, seed=seed, folder=folder
    )
    records = tuple(
        _record(record, i, given.origin) for i, record in enumerate(drawn.records, start=1)
    )
    cohort = Cohort(drawn.domain, records, drawn.pixels)
    cohort.write(folder)
    _write_pairs(folder, cohort, given, opened)


def _record(drawn: Record, number: int, origin: str) -> Record:
    """Say of a drawn image whose map it follows; a map's name may be a patient's, so it is not
    kept."""
    parent = f"map-{number:06d}" if origin == "derived" else ""
    return Record(
        f"control-{number:06d}", origin, labels=drawn.labels, seed=drawn.seed, parent=parent
    )


def _write_pairs(folder: Path, cohort: Cohort, given: Maps, opened) -> None:
    from ..release.pictures import encode_png

    names = [record.id for record in cohort.records]
    (folder / "images").mkdir(exist_ok=True)
    for name, image in zip(names, cohort.pixels, strict=True):
        marked = encode_png(image, synthetic=given.origin == "synthetic")
        write_bytes(folder / "images" / f"{name}.png", marked)
    write_maps(folder / "maps", names, given.maps, opened.kinds, values=opened.values)
    say_origin(folder / "maps", given.origin)
