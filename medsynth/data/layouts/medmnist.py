"""MedMNIST: one .npz a set, with the arrays {train,val,test}_{images,labels}."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...errors import DataError
from .folder import TWO_COPIES, Folder
from .layout import Layout, whether
from .listing import Entry

PARTS = ("train", "val", "test")
FILE = re.compile(r"(?:^|/)([a-z]+mnist)(?:_(?:64|128|224))?\.npz$")


@dataclass(frozen=True)
class Flag:
    """One set of MedMNIST: its domain, its attribute, and its labels' words in their order.

    `many` is True where each image has a yes or no for every word.
    """

    domain: str
    attribute: str
    words: tuple[str, ...]
    many: bool = False


FLAGS = {
    "chestmnist": Flag(
        "chest_xray", "",
        ("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia",
         "pneumothorax", "consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia"),
        many=True,
    ),
    "pneumoniamnist": Flag("chest_xray", "diagnosis", ("normal", "pneumonia")),
    "retinamnist": Flag("fundus", "retinopathy", ("0", "1", "2", "3", "4")),
    "pathmnist": Flag(
        "histology", "tissue",
        ("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle",
         "normal colon mucosa", "cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
    ),
}  # fmt: skip


def _files(folder: Folder) -> list[tuple[str, str]]:
    """Return (path, flag) of the files of sets that medsynth has a domain for."""
    found = [(path, match[1]) for path in folder.files if (match := FILE.search(path))]
    return [(path, flag) for path, flag in found if flag in FLAGS]


def _domain(folder: Folder) -> str:
    """The domain of the one set that is there."""
    flags = {flag for _, flag in _files(folder)}
    if len(flags) > 1:
        raise DataError(f"{' and '.join(sorted(flags))} are different sets: give one of them")
    return FLAGS[flags.pop()].domain


def _read(folder: Folder) -> Iterator[Entry]:
    _domain(folder)
    files = _files(folder)
    if len(files) > 1:
        raise DataError(f"{files[0][0]} and {files[1][0]}: {TWO_COPIES}")
    path, flag = files[0]
    for number, label in enumerate(_labels(folder, path)):
        yield Entry(path, "", _named(FLAGS[flag], label), number)


def _labels(folder: Folder, path: str) -> np.ndarray:
    """All labels, (N, 1) or (N, words), in the order in which the images are counted."""
    try:
        with np.load(folder.raw / path, allow_pickle=False) as arrays:
            return np.concatenate([arrays[f"{part}_labels"] for part in PARTS])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: not as MedMNIST publishes it ({type(error).__name__}): expected the arrays "
            f"train_labels, val_labels and test_labels"
        ) from None


def _named(flag: Flag, label: np.ndarray) -> dict[str, str]:
    if flag.many:
        return {word: whether(bool(said)) for word, said in zip(flag.words, label, strict=True)}
    return {flag.attribute: flag.words[int(label[0])]}


MEDMNIST = Layout(
    name="medmnist",
    title="MedMNIST",
    domain=_domain,
    detect=lambda folder: bool(_files(folder)),
    read=_read,
    attributes=("diagnosis", "retinopathy", "tissue", *FLAGS["chestmnist"].words),
    propose=("diagnosis", "retinopathy", "tissue", "pneumothorax", "effusion"),
    caveats=("MedMNIST names no patients, and several images of one person stand in its files.",),
    notes=(
        f"The sets that medsynth has a domain for are {', '.join(FLAGS)}, of any size.",
        "Its training, validation and test parts are put together: medsynth divides anew.",
    ),
    source="Yang et al., MedMNIST v2, Sci Data 2023, doi 10.1038/s41597-022-01721-8",
    licence="CC BY 4.0",
)

LAYOUTS = (MEDMNIST,)
