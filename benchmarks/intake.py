"""How fast files come in: medsynth beside bare decoding and beside a plain MONAI pipeline.

    python benchmarks/intake.py --files 40 --size 2000
    python benchmarks/intake.py --loader

Files are phantoms at the asked size with a sensor's noise, written to a folder that is removed
again. For each kind of file three ways take turns, round after round, in processes that have been
warmed up and compute with one thread each:

    bare      unpack to an array with the codec that medsynth uses, and nothing else
    MONAI     LoadImaged with the right reader, then Resized by area
    medsynth  what one file goes through in `medsynth ingest`: sniffed, header de-identified,
              unpacked, checked, cropped, reduced, rounded

Time is the processor's, so that other work on the machine counts little, and a rate is that of one
core. `ingest` is the whole stage by the clock once its processes run: the same, then duplicates
and writing. Ratios are medians over the rounds, of what was measured side by side; the range is
that of all rounds (for 5 rounds a 94 % interval of the median).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

SIZE_PX = 256
SCENES = 4  # phantoms that are drawn; each file has noise of its own
KINDS = {  # kind: domain, file ending
    "JPEG, colour": ("fundus", ".jpg"),
    "PNG, 16 bits": ("chest_xray", ".png"),
    "JPEG 2000 DICOM": ("chest_xray", ".dcm"),
    "JPEG lossless DICOM": ("chest_xray", ".dcm"),
}


# Files ------------------------------------------------------------------------------------------


def write_files(folder: Path, kind: str, files: int, size: int) -> list[Path]:
    """Write `files` images of one kind and return their paths."""
    domain, suffix = KINDS[kind]
    scenes = [_scene(domain, number, size) for number in range(min(SCENES, files))]
    paths = []
    for number in range(files):
        rng = np.random.default_rng(number)
        path = folder / f"{number:04d}{suffix}"
        _WRITERS[kind](path, scenes[number % len(scenes)], rng)
        paths.append(path)
    return paths


def _scene(domain: str, number: int, size: int) -> np.ndarray:
    """A phantom at half the size, enlarged: (size, size, C) float32 in [0, 1]."""
    from PIL import Image

    from medsynth.data import phantoms

    pixels = phantoms.draw(domain, number, 0, 1, size // 2)[0]
    image = Image.fromarray(pixels.squeeze()).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32).reshape(size, size, -1) / 255


def _noisy(scene: np.ndarray, rng: np.random.Generator, sigma: float, white: int) -> np.ndarray:
    noise = rng.standard_normal(scene.shape, np.float32) * sigma * np.sqrt(scene + 0.01)
    return np.rint((scene + noise).clip(0, 1) * white).astype(np.uint8 if white < 256 else "u2")


def _write_jpeg(path: Path, scene: np.ndarray, rng: np.random.Generator) -> None:
    from PIL import Image

    Image.fromarray(_noisy(scene, rng, 0.02, 255)).save(path, quality=92)


def _write_png(path: Path, scene: np.ndarray, rng: np.random.Generator) -> None:
    from PIL import Image

    Image.fromarray(_noisy(scene, rng, 0.01, 4095)[..., 0] << 4).save(path)


def _write_dicom(path: Path, scene: np.ndarray, rng: np.random.Generator, lossless: bool) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

    pixels = _noisy(scene, rng, 0.01, 4095)[..., 0]
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"  # computed radiography
    data.SOPInstanceUID, data.Modality = generate_uid(), "CR"
    data.PatientID, data.PatientName = f"P{path.stem}", "Phantom"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.WindowCenter, data.WindowWidth = 2048, 4096
    data.PixelData = pixels.tobytes()
    if not lossless:
        data.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg")
    data.save_as(path, enforce_file_format=True)
    if lossless:
        _to_jpeg_lossless(path)


def _to_jpeg_lossless(path: Path) -> None:
    import gdcm

    reader, change, writer = (
        gdcm.ImageReader(),
        gdcm.ImageChangeTransferSyntax(),
        gdcm.ImageWriter(),
    )
    reader.SetFileName(str(path))
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    if not reader.Read():
        raise SystemExit("gdcm can't read what pydicom wrote")
    change.SetInput(reader.GetImage())
    if not change.Change():
        raise SystemExit("gdcm can't compress")
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    writer.Write()


_WRITERS: dict[str, Callable] = {
    "JPEG, colour": _write_jpeg,
    "PNG, 16 bits": _write_png,
    "JPEG 2000 DICOM": partial(_write_dicom, lossless=False),
    "JPEG lossless DICOM": partial(_write_dicom, lossless=True),
}


# Three ways to read them ------------------------------------------------------------------------


def bare(path: Path) -> tuple[int, ...]:
    """Unpack and nothing else."""
    if path.suffix != ".dcm":
        from PIL import Image

        return np.asarray(Image.open(path)).shape
    import pydicom
    from pydicom.pixels import get_decoder

    from medsynth.data.dicom_codecs import choose_plugin

    data = pydicom.dcmread(path)
    syntax = data.file_meta.TransferSyntaxUID
    plugin = choose_plugin(syntax, data.BitsStored)
    return get_decoder(syntax).as_array(data, decoding_plugin=plugin)[0].shape


def plain_monai(path: Path) -> tuple[int, ...]:
    """MONAI's loader and its resize by area, in the right orientation."""
    return tuple(_monai_pipeline(path.suffix)({"image": path})["image"].shape)


_PIPELINES: dict[str, Callable] = {}


def _monai_pipeline(suffix: str) -> Callable:
    if suffix not in _PIPELINES:
        from monai.data import PILReader, PydicomReader
        from monai.transforms import Compose, LoadImaged, Resized

        reader = (
            PydicomReader(swap_ij=False) if suffix == ".dcm" else PILReader(reverse_indexing=False)
        )
        load = LoadImaged("image", reader=reader, ensure_channel_first=True)
        _PIPELINES[suffix] = Compose([load, Resized("image", (SIZE_PX, SIZE_PX), mode="area")])
    return _PIPELINES[suffix]


def medsynth_reads(path: Path, domain: str) -> tuple[int, ...]:
    """What a file goes through in the stage `ingest`."""
    from medsynth.data.layouts import Entry
    from medsynth.data.preparation import Reading

    file = Reading(path.parent, study(domain))(Entry(path.name))
    if file.pixels is None:
        raise SystemExit(f"refused: {file.reason}: {file.detail}")
    return file.pixels.shape


def study(domain: str):
    """The protocol that files are read by."""
    from medsynth.protocol import parse

    document = {
        "name": "benchmark", "domain": domain, "image": {"size_px": SIZE_PX},
        "gate": {"rules": [{"finding": "memorization.p_value", "not_rejected_at": 0.05}]},
    }  # fmt: skip
    return parse(json.dumps(document))


def whole_ingest(folder: Path, domain: str, processes: int) -> float:
    """Files a second of the whole stage, from the first file that is done on."""
    from medsynth.data.intake import ingest

    done: list[float] = []

    def progress(*_: int) -> None:
        done.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as space:
        ingest(folder, Path(space), study(domain), bytes(32), progress, workers=processes)
    return (len(done) - 1) / (time.perf_counter() - done[0])


# Rounds -----------------------------------------------------------------------------------------


def race(
    ways: dict[str, Callable], paths: Sequence[Path], processes: int, rounds: int
) -> dict[str, list[float]]:
    """Files a second and core, of each way and round; who begins changes from round to round."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with multiprocessing.get_context("spawn").Pool(processes, _settle) as pool:
        for way in ways.values():
            pool.map(partial(_seconds, way), paths[: 2 * processes], chunksize=1)
        for number in range(rounds):
            names = list(ways)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                spent = pool.map(partial(_seconds, ways[name]), paths, chunksize=1)
                rates[name].append(len(paths) / sum(spent))
    return rates


def _seconds(way: Callable, path: Path) -> float:
    start = time.process_time()
    way(path)
    return time.process_time() - start


def _settle() -> None:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def _ratio(ours: list[float], theirs: list[float]) -> str:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def compare(kind: str, args: argparse.Namespace) -> str:
    """Measure one kind of file and return its row."""
    domain = KINDS[kind][0]
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(Path(folder), kind, args.files, args.size)
        size = sum(path.stat().st_size for path in paths) / len(paths)
        ways = {
            "bare": bare,
            "monai": plain_monai,
            "medsynth": partial(medsynth_reads, domain=domain),
        }
        rates = race(ways, paths, args.processes, args.rounds)
        whole_ingest(Path(folder), domain, args.processes)  # imports what it needs
        stage = whole_ingest(Path(folder), domain, args.processes)
    per_second = " | ".join(f"{median(rates[name]):.1f}" for name in ways)
    beside = " | ".join(_ratio(rates["medsynth"], rates[other]) for other in ("bare", "monai"))
    return f"| {kind} | {size / 1e6:.2f} MB | {per_second} | {stage:.1f} | {beside} |"


# Training ---------------------------------------------------------------------------------------


def waiting_share(size_px: int, images: int) -> str:
    """Measure how long training the autoencoder waits for its batches, of the time of a step."""
    import torch

    from medsynth.cohort import Cohort, Record
    from medsynth.data.loader import Frames, draw
    from medsynth.protocol import Autoencoder, Optimiser
    from medsynth.training.autoencoder import fit_autoencoder

    torch.set_num_threads(1)
    rng, batch, steps = np.random.default_rng(0), 8, 10
    pixels = rng.integers(0, 256, (images, size_px, size_px, 3), np.uint8)
    records = tuple(Record(f"real-{n:06d}", "real") for n in range(images))
    settings = Autoencoder(
        fold_px=4, principal_start=True, widths=(64,), latent_channels=4,
        training=Optimiser(images=batch * steps, batch=batch, learning_rate=1e-3),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        Cohort("fundus", records, pixels).write(Path(folder))
        frames = Frames(Cohort.read(Path(folder)), np.arange(images))
        waits = []
        for number in range(100):
            start = time.perf_counter()
            frames[draw(images, start=number * batch, count=batch, seed=1, groups=frames.groups)]
            waits.append(time.perf_counter() - start)
        ends: list[float] = []
        fit_autoencoder(
            frames, Frames(frames.cohort, np.arange(batch)), settings, symmetry="flip", seed=0,
            folder=Path(folder), device="cpu",
            progress=lambda *_: ends.append(time.perf_counter()),
        )  # fmt: skip
    step = median(np.diff(ends[:steps]))
    wait = median(waits)
    return (
        f"{images} images of {size_px} px, batches of {batch}: {1e3 * wait:.2f} ms for a batch, "
        f"{1e3 * step:.0f} ms for a step: {wait / step:.2%} of the time is waiting"
    )


def main() -> None:
    """Print a table of what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--size", type=int, default=2000, help="side of the images in pixels")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--loader", action="store_true", help="measure training's waiting instead")
    args = parser.parse_args()
    if args.loader:
        print(waiting_share(64, 4000), waiting_share(256, 1000), sep="\n")
        return
    print(
        f"{args.files} files of {args.size} px a kind, to {SIZE_PX} px, {args.processes} processes "
        f"on {os.cpu_count()} cores, {args.rounds} rounds; files a second and core:\n\n"
        "| kind | a file | bare | MONAI | medsynth | ingest | over bare | over MONAI |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for kind in args.kinds:
        print(compare(kind, args), flush=True)


if __name__ == "__main__":
    main()
