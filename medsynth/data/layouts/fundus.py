"""Public sets of colour fundus photographs."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from .folder import Folder
from .layout import Layout, age_band, known, sex_of, whether
from .listing import Entry
from .tables import rows_of
from .walk import stem_of, suffix_of

EYE = re.compile(r"(\d+)_(left|right)")
CHASE = re.compile(r"Image_(\d\d)([LR])")
HRF = re.compile(r"\d\d_(dr|g|h)")
DRIVE = re.compile(r"\d\d_(training|test)")
SIDES = {"L": "left", "R": "right"}
JPEG = (".jpg", ".jpeg")
GOOD_PART = 0.3  # two maps of the vessels may lie beside each image
NUMBERED = (
    "The file names number images, and the set does not say that no two of them are of one "
    "person: no patient is known."
)


# AIROGS -----------------------------------------------------------------------------------------


def _airogs(folder: Folder) -> list[str]:
    names = folder.named("train_labels.csv")
    return [path for path in names if {"challenge_id", "class"} <= set(folder.header(path))]


def _read_airogs(folder: Folder) -> Iterator[Entry]:
    for table in _airogs(folder):
        for row in rows_of(folder.table(table)):
            path = folder.image(row["challenge_id"], near=table) or row["challenge_id"]
            yield Entry(path, "", known(glaucoma=row["class"]))


AIROGS = Layout(
    name="airogs",
    title="Rotterdam EyePACS AIROGS",
    domain="fundus",
    detect=lambda folder: bool(_airogs(folder)),
    read=_read_airogs,
    attributes=("glaucoma",),
    propose=("glaucoma",),
    caveats=(
        "AIROGS names no patients, though it holds both eyes and several visits of many people.",
    ),
    notes=("glaucoma is RG (referable) or NRG (not referable).",),
    source="de Vente et al., AIROGS, IEEE TMI 2024, doi 10.1109/TMI.2023.3313786",
    licence="CC BY-NC-ND 4.0",
)

LIGHT = ("train", "validation", "test")


def _airogs_light(folder: Folder) -> Iterator[str]:
    for label in ("RG", "NRG"):
        for path in folder.by_folder.get(label, ()):
            above = posixpath.basename(posixpath.dirname(posixpath.dirname(path)))
            if above in LIGHT and suffix_of(path) in JPEG:
                yield path


def _read_airogs_light(folder: Folder) -> Iterator[Entry]:
    for path in _airogs_light(folder):
        yield Entry(path, "", {"glaucoma": posixpath.basename(posixpath.dirname(path))})


AIROGS_LIGHT = Layout(
    name="airogs_light",
    title="EyePACS-AIROGS-light",
    domain="fundus",
    detect=lambda folder: any(_airogs_light(folder)),
    read=_read_airogs_light,
    attributes=("glaucoma",),
    propose=("glaucoma",),
    caveats=(
        "EyePACS-AIROGS-light names no patients, though AIROGS holds several images of many "
        "people.",
    ),
    notes=("glaucoma is RG (referable) or NRG (not referable).",),
    source="Kiefer et al., EyePACS-AIROGS-light, Kaggle 2023",
    licence="as AIROGS: CC BY-NC-ND 4.0",
)


# EyePACS ----------------------------------------------------------------------------------------


def _eyepacs(folder: Folder) -> list[str]:
    """The tables of the training and the test part; the second name is a public copy's."""
    train = folder.named("trainLabels.csv") or folder.named("trainLabels_cropped.csv")
    names = [*train, *folder.named("retinopathy_solution.csv")]
    return [path for path in names if {"image", "level"} <= set(folder.header(path))]


def _read_eyepacs(folder: Folder) -> Iterator[Entry]:
    for table in _eyepacs(folder):
        for row in rows_of(folder.table(table)):
            eye = EYE.fullmatch(row["image"])
            path = folder.image(row["image"], near=table) or row["image"]
            number, side = eye.groups() if eye else ("", "")
            yield Entry(path, number, known(level=row["level"], laterality=side))


EYEPACS = Layout(
    name="eyepacs",
    title="EyePACS, Kaggle diabetic retinopathy detection",
    domain="fundus",
    detect=lambda folder: bool(_eyepacs(folder)),
    read=_read_eyepacs,
    attributes=("level", "laterality"),
    propose=("level", "laterality"),
    patients="the number before _ in the file name: both eyes are one patient's",
    notes=("level is the grade of diabetic retinopathy, 0 to 4.",),
    source="EyePACS, Kaggle Diabetic Retinopathy Detection 2015",
    licence="Kaggle competition rules: research only",
)


# ODIR-5K ----------------------------------------------------------------------------------------

ODIR_TABLES = ("full_df.csv", "data.csv", "data.xlsx")
ODIR_COLUMNS = {"ID", "Left-Fundus", "Right-Fundus", "Left-Diagnostic Keywords"}
REJECTED = ("no fundus image", "anterior segment image")
REMARKS = (
    "lens dust",
    "low image quality",
    "image offset",
    "optic disk photographically invisible",
)
DISEASES = {
    "diabetes": ("diabetic retinopathy", "proliferative retinopathy"),
    "glaucoma": ("glaucoma",),
    "cataract": ("cataract",),
    "amd": ("age-related macular degeneration",),
    "hypertension": ("hypertensive retinopathy",),
    "myopia": ("myopi",),
}


def _odir(folder: Folder) -> list[str]:
    """The annotation tables, of which the first is enough: csv comes first, it needs no extra."""
    official = [path for path in folder.files if "Annotations" in path and path.endswith(".xlsx")]
    names = [*folder.named(*ODIR_TABLES[:2]), *folder.named(ODIR_TABLES[2]), *official]
    return [path for path in names if set(folder.header(path)) >= ODIR_COLUMNS]


def _read_odir(folder: Folder) -> Iterator[Entry]:
    table = _odir(folder)[0]
    seen: set[str] = set()
    for row in rows_of(folder.table(table)):
        for side in ("Left", "Right"):
            stem = stem_of(row[f"{side}-Fundus"])
            words = _keywords(row[f"{side}-Diagnostic Keywords"])
            if not stem or stem in seen or any(word in REJECTED for word in words):
                continue
            seen.add(stem)  # one copy of the table has a row for each eye, with both eyes in it
            person = known(sex=sex_of(row["Patient Sex"]), age=age_band(row["Patient Age"]))
            labels = {"laterality": side.lower(), **person, **_odir_labels(words)}
            yield Entry(_odir_image(folder, stem, table), row["ID"], labels)


def _odir_image(folder: Folder, stem: str, table: str) -> str:
    """The original image: one public copy also has preprocessed ones under the same names."""
    paths = [p for p in folder.by_stem.get(stem, ()) if "preprocessed" not in p.lower()]
    return paths[0] if len(paths) == 1 else folder.image(stem, near=table) or stem


def _keywords(cell: str) -> list[str]:
    return [word.strip().lower() for word in re.split("[,，]", cell) if word.strip()]


def _odir_labels(words: list[str]) -> dict[str, str]:
    """Each eye's own labels from its own keywords: the flags N to O are the person's."""
    words = [word for word in words if word not in REMARKS]
    if not words:
        return {}  # only said how good the photograph is
    found = {
        name: {word for word in words if any(key in word for key in keys)}
        for name, keys in DISEASES.items()
    }
    rest = set(words).difference({"normal fundus"}, *found.values())
    return {
        "normal": whether(words == ["normal fundus"]),
        **{name: whether(bool(hits)) for name, hits in found.items()},
        "other": whether(bool(rest)),
    }


ODIR = Layout(
    name="odir",
    title="ODIR-5K",
    domain="fundus",
    detect=lambda folder: bool(_odir(folder)),
    read=_read_odir,
    attributes=("normal", *DISEASES, "other", "laterality", "sex", "age"),
    propose=("diabetes", "laterality"),
    patients="ID: both eyes are one patient's",
    notes=(
        "Labels are each eye's own, from its diagnostic keywords: the set's flags N to O are the "
        "person's. Suspected counts as positive, as in the flags.",
        "Images that the keywords call no fundus or anterior segment images are left out.",
    ),
    source="ODIR-2019; Li et al., Bench 2020, doi 10.1007/978-3-030-71058-3_11",
    licence="challenge rules: research only",
)


# IDRiD ------------------------------------------------------------------------------------------

IDRID_TABLE = re.compile(r"IDRiD_Disease Grading_(Training|Testing) Labels\.csv$")


def _idrid(folder: Folder) -> list[str]:
    return [path for path in folder.files if IDRID_TABLE.search(path)]


def _read_idrid(folder: Folder) -> Iterator[Entry]:
    for table in _idrid(folder):
        part = IDRID_TABLE.search(table)[1]  # both parts number their images from 001
        for row in rows_of(folder.table(table)):
            labels = known(
                retinopathy=row["Retinopathy grade"], macular_edema=row["Risk of macular edema"]
            )
            yield Entry(_idrid_image(folder, row["Image name"], table, part), "", labels)


def _idrid_image(folder: Folder, stem: str, table: str, part: str) -> str:
    top = posixpath.dirname(posixpath.dirname(table))
    paths = folder.by_stem.get(stem, ())
    beside = [p for p in paths if f"{part} Set" in p and p.startswith(f"{top}/" if top else "")]
    return beside[0] if len(beside) == 1 else stem


IDRID = Layout(
    name="idrid",
    title="IDRiD, disease grading",
    domain="fundus",
    detect=lambda folder: bool(_idrid(folder)),
    read=_read_idrid,
    attributes=("retinopathy", "macular_edema"),
    propose=("retinopathy",),
    site="one eye clinic in Nanded, India",
    caveats=("IDRiD names no patients and no eyes; images of one person can't be told.",),
    notes=("retinopathy is a grade from 0 to 4, macular_edema a risk from 0 to 2.",),
    source="Porwal et al., IDRiD, Data 2018, doi 10.3390/data3030025",
    licence="CC BY 4.0",
)


# DRIVE, CHASE_DB1, HRF --------------------------------------------------------------------------


def _matching(folder: Folder, pattern: re.Pattern, suffixes: tuple[str, ...]) -> Iterator[str]:
    for path in folder.files:
        if suffix_of(path) in suffixes and pattern.fullmatch(stem_of(path)):
            yield path


def _holds(folder: Folder, pattern: re.Pattern, suffixes: tuple[str, ...]) -> bool:
    """True if a good part of the images have such names: a few may by chance."""
    same_ending = sum(suffix_of(path) in suffixes for path in folder.files)
    count = sum(1 for _ in _matching(folder, pattern, suffixes))
    return count > 0 and count >= GOOD_PART * same_ending


def _drive(folder: Folder) -> list[str]:
    return [p for p in _matching(folder, DRIVE, (".tif",)) if "images/" in p]


def _read_drive(folder: Folder) -> Iterator[Entry]:
    for path in _drive(folder):
        yield Entry(path, "")


DRIVE_SET = Layout(
    name="drive",
    title="DRIVE",
    domain="fundus",
    detect=lambda folder: bool(_drive(folder)),
    read=_read_drive,
    site="one screening programme in the Netherlands",
    caveats=(NUMBERED,),
    source="Staal et al., IEEE TMI 2004, doi 10.1109/TMI.2004.825627",
    licence="research only",
)


def _read_chase(folder: Folder) -> Iterator[Entry]:
    for path in _matching(folder, CHASE, (*JPEG, ".png")):
        child, side = CHASE.fullmatch(stem_of(path)).groups()
        yield Entry(path, child, {"laterality": SIDES[side]})


CHASE_DB1 = Layout(
    name="chase_db1",
    title="CHASE_DB1",
    domain="fundus",
    detect=lambda folder: _holds(folder, CHASE, (*JPEG, ".png")),
    read=_read_chase,
    attributes=("laterality",),
    propose=("laterality",),
    patients="the number in the file name: both eyes are one child's",
    site="schools in England (CHASE study)",
    source="Fraz et al., IEEE TBME 2012, doi 10.1109/TBME.2012.2205687",
    licence="CC BY 4.0",
)

GROUPS = {"dr": "diabetic_retinopathy", "g": "glaucoma", "h": "healthy"}


def _read_hrf(folder: Folder) -> Iterator[Entry]:
    for path in _matching(folder, HRF, JPEG):  # vessel maps have the same names, as .tif
        yield Entry(path, "", {"diagnosis": GROUPS[HRF.fullmatch(stem_of(path))[1]]})


HRF_SET = Layout(
    name="hrf",
    title="HRF",
    domain="fundus",
    detect=lambda folder: _holds(folder, HRF, JPEG),
    read=_read_hrf,
    attributes=("diagnosis",),
    propose=("diagnosis",),
    caveats=(NUMBERED,),
    source="Budai et al., Int J Biomed Imaging 2013, doi 10.1155/2013/154860",
    licence="CC BY 4.0",
)

LAYOUTS = (AIROGS, AIROGS_LIGHT, EYEPACS, ODIR, IDRID, DRIVE_SET, CHASE_DB1, HRF_SET)
