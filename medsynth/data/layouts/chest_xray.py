"""Public sets of chest radiographs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...errors import DataError
from .folder import TWO_COPIES, Folder
from .layout import Layout, age_band, known, sex_of, whether
from .listing import Entry
from .tables import rows_of

NO_FINDING = "No Finding"
FRONTAL = {"view": ("PA", "AP")}


# NIH ChestX-ray14 -------------------------------------------------------------------------------

NIH_FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis",
    "Hernia", "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip


def _nih(folder: Folder) -> list[str]:
    """The newest of the two published tables; a folder may hold both."""
    tables = sorted(folder.named("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv"))
    tables = [t for t in tables if {"Image Index", "Finding Labels"} <= set(folder.header(t))]
    return tables[-1:]


def _read_nih(folder: Folder) -> Iterator[Entry]:
    for table in _nih(folder):
        for row in rows_of(folder.table(table)):
            found = set(row["Finding Labels"].split("|"))
            about = known(
                view=row["View Position"],
                sex=sex_of(row.get("Patient Gender") or row.get("Patient Sex", "")),
                age=age_band(row["Patient Age"]),
            )
            labels = {name: whether(name in found) for name in (NO_FINDING, *NIH_FINDINGS)}
            name = row["Image Index"]
            path = folder.image(name.removesuffix(".png"), near=table) or name
            yield Entry(path, row["Patient ID"], {**labels, **about})


NIH = Layout(
    name="nih_chestxray14",
    title="NIH ChestX-ray14",
    domain="chest_xray",
    detect=lambda folder: bool(_nih(folder)),
    read=_read_nih,
    attributes=(NO_FINDING, *NIH_FINDINGS, "view", "sex", "age"),
    propose=(NO_FINDING, "view"),
    patients="Patient ID, with up to 184 images of one patient",
    site="NIH Clinical Center",
    notes=(
        "Each finding is positive or negative: negative means that the report-mining labeller "
        "did not find it.",
        "RSNA pneumonia is a part of this set: never put the two into one study.",
    ),
    source="Wang et al., ChestX-ray8, CVPR 2017, doi 10.1109/CVPR.2017.369",
    licence="no restriction; acknowledge the NIH Clinical Center",
)


# CheXpert ---------------------------------------------------------------------------------------

CHEXPERT_FINDINGS = (
    NO_FINDING, "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion",
    "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion",
    "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
STATES = {1.0: "positive", 0.0: "negative", -1.0: "uncertain"}
CHEXPERT_PATH = re.compile(r"(patient\d+)/study\d+/[^/]+$")
FOUR_STATES = (
    "Findings keep four states: positive, negative, uncertain and not mentioned. A blank is not "
    "mentioned, which is not negative."
)


def _states(row: dict[str, str]) -> dict[str, str]:
    found = {name: row[name] for name in CHEXPERT_FINDINGS if name in row}
    return {n: STATES[float(cell)] if cell else "not mentioned" for n, cell in found.items()}


def _chexpert(folder: Folder) -> list[str]:
    tables = folder.named("train.csv", "valid.csv", "test.csv")
    return [t for t in tables if {"Path", "Frontal/Lateral", "AP/PA"} <= set(folder.header(t))]


def _read_chexpert(folder: Folder) -> Iterator[Entry]:
    """The first folder of a Path is another one in every copy, so paths are found by their end."""
    ends: dict[str, str] = {}
    for path in folder.images:
        if end := CHEXPERT_PATH.search(path):
            if end[0] in ends:
                raise DataError(f"{path} and {ends[end[0]]}: {TWO_COPIES}")
            ends[end[0]] = path
    for table in _chexpert(folder):
        for row in rows_of(folder.table(table)):
            end = CHEXPERT_PATH.search(row["Path"])
            about = known(
                view=_chexpert_view(row), sex=sex_of(row["Sex"]), age=age_band(row["Age"])
            )
            path = ends.get(end[0] if end else "", row["Path"])
            yield Entry(path, end[1] if end else "", {**_states(row), **about})


def _chexpert_view(row: dict[str, str]) -> str:
    """PA or AP; the column is blank for laterals, and for few others says LL or RL."""
    return "lateral" if row["Frontal/Lateral"] == "Lateral" else row["AP/PA"] or "frontal"


CHEXPERT = Layout(
    name="chexpert",
    title="CheXpert and CheXpert-small",
    domain="chest_xray",
    detect=lambda folder: bool(_chexpert(folder)),
    read=_read_chexpert,
    attributes=(*CHEXPERT_FINDINGS, "view", "sex", "age"),
    propose=(NO_FINDING, "view"),
    keep=FRONTAL,
    patients="patientNNNNN in the path",
    site="Stanford Hospital",
    notes=(FOUR_STATES, "An age of 0 means missing."),
    source="Irvin et al., CheXpert, AAAI 2019, arXiv 1901.07031",
    licence="Stanford University data set research use agreement",
)


# MIMIC-CXR-JPG ----------------------------------------------------------------------------------

MIMIC = re.compile(r"mimic-cxr-2\.\d+\.\d+-(metadata|chexpert)\.csv(\.gz)?$")
LATERAL = ("LATERAL", "LL", "RL")


def _mimic(folder: Folder, kind: str) -> list[str]:
    """The table of this kind, unpacked or not; a folder may hold both."""
    found = [p for p in folder.files if (m := MIMIC.search(p)) and m[1] == kind]
    return sorted(found)[:1]


def _read_mimic(folder: Folder) -> Iterator[Entry]:
    studies = {
        (row["subject_id"], row["study_id"]): _states(row)
        for table in _mimic(folder, "chexpert")
        for row in rows_of(folder.table(table))
    }
    for table in _mimic(folder, "metadata"):
        for row in rows_of(folder.table(table)):
            labels = studies.get((row["subject_id"], row["study_id"]), {})
            view = "lateral" if row["ViewPosition"] in LATERAL else row["ViewPosition"]
            path = folder.image(row["dicom_id"], near=table) or f"{row['dicom_id']}.jpg"
            yield Entry(path, row["subject_id"], {**labels, **known(view=view)})


MIMIC_CXR = Layout(
    name="mimic_cxr_jpg",
    title="MIMIC-CXR-JPG",
    domain="chest_xray",
    detect=lambda folder: bool(_mimic(folder, "metadata")),
    read=_read_mimic,
    attributes=(*CHEXPERT_FINDINGS, "view"),
    propose=(NO_FINDING, "view"),
    keep=FRONTAL,
    patients="subject_id",
    site="Beth Israel Deaconess Medical Center",
    notes=(
        FOUR_STATES + " They are the study's: all its images have the same.",
        "The JPEGs are histogram-equalised: never mix them with windowed DICOM.",
        "The data use agreement forbids sharing the images, and asks for care with what is "
        "derived from them.",
    ),
    source="Johnson et al., MIMIC-CXR-JPG, PhysioNet, doi 10.13026/jsn5-t979",
    licence="PhysioNet credentialed health data use agreement",
)


# RSNA pneumonia ---------------------------------------------------------------------------------

RSNA = re.compile(r"stage_[12]_(train_labels|detailed_class_info)\.csv$")


def _rsna(folder: Folder, kind: str) -> list[str]:
    return [p for p in folder.files if (m := RSNA.search(p)) and m[1] == kind]


def _read_rsna(folder: Folder) -> Iterator[Entry]:
    classes = {
        row["patientId"]: row["class"]
        for table in _rsna(folder, "detailed_class_info")
        for row in rows_of(folder.table(table))
    }
    seen: set[str] = set()
    for table in _rsna(folder, "train_labels"):
        for row in rows_of(folder.table(table)):
            name = row["patientId"]
            if name in seen:
                continue
            seen.add(name)  # a row for each box, and one for an image without any
            labels = {"opacity": whether(row["Target"] == "1")}
            labels |= known(**{"class": classes.get(name, "")})
            yield Entry(folder.image(name, near=table) or f"{name}.dcm", "", labels)


RSNA_PNEUMONIA = Layout(
    name="rsna_pneumonia",
    title="RSNA pneumonia detection challenge",
    domain="chest_xray",
    detect=lambda folder: bool(_rsna(folder, "train_labels")),
    read=_read_rsna,
    attributes=("opacity", "class"),
    propose=("opacity",),
    site="NIH Clinical Center (a part of NIH ChestX-ray14)",
    caveats=(
        "RSNA pneumonia's patientId is an image's number and no person's: no patient is known, "
        "and the set holds several images of many people.",
        "Its images are a part of NIH ChestX-ray14: the two sets are no independent evidence for "
        "one another.",
    ),
    source="Shih et al., Radiology: AI 2019, doi 10.1148/ryai.2019180041",
    licence="Kaggle competition rules; images from the NIH Clinical Center",
)


# VinDr-CXR --------------------------------------------------------------------------------------

VINDR_TABLES = ("image_labels_train.csv", "image_labels_test.csv")
BOX_COLUMNS = {"image_id", "class_name", "class_id", "rad_id"}
NO_NAMES = {"image_id", "rad_id"}


def _vindr(folder: Folder) -> list[str]:
    """Tables of PhysioNet's form, one row a reader; or else of Kaggle's, one row a box."""
    tables = [t for t in folder.named(*VINDR_TABLES) if "image_id" in folder.header(t)]
    return tables or [t for t in folder.named("train.csv") if set(folder.header(t)) >= BOX_COLUMNS]


def _read_vindr(folder: Folder) -> Iterator[Entry]:
    for table in _vindr(folder):
        readers: dict[str, set[str]] = {}
        votes: dict[str, dict[str, set[str]]] = {}
        findings: dict[str, None] = {}
        for image, reader, finding, said in _opinions(folder, table):
            readers.setdefault(image, set()).add(reader)
            findings.setdefault(finding)
            if said:
                votes.setdefault(image, {}).setdefault(finding, set()).add(reader)
        for image, asked in readers.items():
            yes = votes.get(image, {})
            labels = {f: whether(2 * len(yes.get(f, ())) > len(asked)) for f in findings}
            yield Entry(folder.image(image, near=table) or f"{image}.dicom", "", labels)


def _opinions(folder: Folder, table: str) -> Iterator[tuple[str, str, str, bool]]:
    """Yield (image, reader, finding, whether the reader saw it); the test set has one consensus."""
    for row in rows_of(folder.table(table)):
        image, reader = row["image_id"], row.get("rad_id", "")
        if "class_name" in row:
            yield image, reader, row["class_name"], True
            continue
        for finding, said in row.items():
            if finding not in NO_NAMES:
                yield image, reader, finding, float(said or 0) == 1


VINDR_CXR = Layout(
    name="vindr_cxr",
    title="VinDr-CXR (PhysioNet) and VinBigData (Kaggle)",
    domain="chest_xray",
    detect=lambda folder: bool(_vindr(folder)),
    read=_read_vindr,
    attributes=("No finding",),
    propose=("No finding",),
    caveats=(
        "VinDr-CXR names no patients: its image numbers are random, and images of one person "
        "can't be told.",
    ),
    notes=(
        "A finding is positive where more than half of an image's readers say so.",
        "There is one attribute for each finding column of the tables.",
    ),
    source="Nguyen et al., VinDr-CXR, Sci Data 2022, doi 10.1038/s41597-022-01498-w",
    licence="PhysioNet credentialed health data use agreement",
)

LAYOUTS = (NIH, CHEXPERT, MIMIC_CXR, RSNA_PNEUMONIA, VINDR_CXR)
