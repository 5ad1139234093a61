"""What may leave a DICOM header: a closed list, read after the confidentiality profile was applied.

Only PatientID is read before that, for the pseudonym that a patient becomes. Labels are the
standard's own terms as listed below, an age is a band of ten years, and any other word is dropped:
a name that was typed into a code's field can't get through.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ProtocolError
from ..protocol import Deidentify
from .badimage import BadImage, silence
from .dicom import open_dicom
from .dicom_terms import MODALITIES, PARTS, SEXES, SIDES, VIEWS

if TYPE_CHECKING:
    from .confidentiality import Audit

LABEL_KEYWORDS = {  # what data.label_columns may name where images come without a table
    "Modality": "how it was acquired: CR, DX, OP, MG ...",
    "BodyPartExamined": "CHEST, BREAST, EYE ...",
    "ViewPosition": "PA, AP, LL ...",
    "Laterality": "L, R, B or U, of the image or else of the series",
    "PatientSex": "M, F or O; patient characteristics must be retained",
    "PatientAge": "a band of ten years, 90+ the last; patient characteristics must be retained",
}
CHARACTERISTICS = ("PatientSex", "PatientAge")
RETAIN = "patient characteristics"
AGE = re.compile(r"(\d{3})([DWMY])")
OLDEST_BAND = 90


@dataclass(frozen=True)
class DicomFacts:
    """What the closed list lets out of a header; `patient` is raw and must become a pseudonym.

    `labels` are those of LABEL_KEYWORDS that the header knows. `audit` counts what the profile took
    out of the header, and holds no value.
    """

    patient: str | None
    modality: str
    height: int
    width: int
    bits: int
    grey: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    audit: Audit | None = None


def read_facts(path: Path, settings: Deidentify | None = None) -> DicomFacts:
    """Read what may be known of a file without touching its pixels.

    `settings` say what the profile retains; None retains nothing. Raises BadImage on a damaged
    header, or where the profile can't be applied to it.
    """
    from .confidentiality import apply

    with silence():
        try:
            header = open_dicom(path, pixels=False)
            confidential, audit = apply(header, settings or Deidentify())
            return _facts(confidential, patient_key(header), audit)
        except BadImage:
            raise
        except MemoryError:
            raise BadImage("took too much memory", "header") from None
        except Exception as error:  # a damaged header may raise anything, and quote what it holds
            raise BadImage("truncated or damaged", f"header ({type(error).__name__})") from None


def patient_key(header: Any) -> str | None:
    """Return the raw word for a patient: PatientID, whoever issued it.

    Within a hospital some consoles name the issuer of a number and others don't. Two people of
    two hospitals who share a number then count as one, which wastes a patient; one person who
    counted as two could stand on both sides of the split, which would spoil the evidence.
    """
    return str(header.get("PatientID") or "").strip() or None


def check_retained(columns: Sequence[str], settings: Deidentify) -> None:
    """Check at the start that the profile leaves the labels that headers are to give.

    `columns` are the label columns that no table gives. Raises ProtocolError with the knob that
    would mend it.
    """
    lost = [name for name in columns if name in CHARACTERISTICS]
    if lost and RETAIN not in settings.retain:
        fault = (
            f"data.label_columns asks DICOM headers for {' and '.join(lost)}, which the "
            f"confidentiality profile takes out: deidentify.retain must name {RETAIN!r}"
        )
        raise ProtocolError("the protocol", [fault])


def _facts(header: Any, patient: str | None, audit: Audit) -> DicomFacts:
    return DicomFacts(
        patient=patient,
        modality=_term(header.get("Modality"), MODALITIES),
        height=int(header.get("Rows") or 0),
        width=int(header.get("Columns") or 0),
        bits=int(header.get("BitsStored") or 0),
        grey=str(header.get("PhotometricInterpretation") or "").startswith("MONO"),
        labels=_labels(header),
        audit=audit,
    )


def _labels(header: Any) -> dict[str, str]:
    sides = (_term(header.get(name), SIDES) for name in ("ImageLaterality", "Laterality"))
    labels = {
        "Modality": _term(header.get("Modality"), MODALITIES),
        "BodyPartExamined": _term(header.get("BodyPartExamined"), PARTS),
        "ViewPosition": _term(header.get("ViewPosition"), VIEWS),
        "Laterality": next(filter(None, sides), ""),
        "PatientSex": _term(header.get("PatientSex"), SEXES),
        "PatientAge": _band(str(header.get("PatientAge") or "")),
    }
    return {name: value for name, value in labels.items() if value}


def _term(value: Any, terms: Collection[str]) -> str:
    text = str(value or "").strip()
    return text if text in terms else ""


def _band(age: str) -> str:
    """Return "045Y" as "40-49"; days, weeks and months are years first."""
    found = AGE.fullmatch(age.strip())
    if not found:
        return ""
    years = int(found[1]) // {"D": 365, "W": 52, "M": 12, "Y": 1}[found[2]]
    low = years // 10 * 10
    return f"{OLDEST_BAND}+" if low >= OLDEST_BAND else f"{low}-{low + 9}"
