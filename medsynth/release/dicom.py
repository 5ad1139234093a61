"""DICOM files that say that they are synthetic, and the check that they still do.

Secondary Capture, because the objects of real devices would need a detector or a lens to be made
up. Nothing comes from a real header: the patients are invented, the UIDs follow from the cohort,
and no clock is read.
Source: DICOM PS3.3, C.12.1.1.1 (Synthetic Data), C.7.6.1 (Image Type), A.8.1 (Secondary Capture).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, domains
from ..errors import DataError

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SYNTHESIZING = ("109100", "DCM", "Synthesizing Equipment")
UNTOLD = (  # highdicom reads the clock for these; all may be absent
    "InstanceCreationDate",
    "InstanceCreationTime",
    "ContentDate",
    "ContentTime",
    "DateOfSecondaryCapture",
    "TimeOfSecondaryCapture",
    "SeriesDate",
    "SeriesTime",
    "ContributionDateTime",
)
REQUIRED = {  # Secondary Capture's mandatory modules; a test holds it against highdicom's tables
    "PatientName": "2",
    "PatientID": "2",
    "PatientBirthDate": "2",
    "PatientSex": "2",
    "StudyDate": "2",
    "StudyTime": "2",
    "AccessionNumber": "2",
    "ReferringPhysicianName": "2",
    "StudyInstanceUID": "1",
    "StudyID": "2",
    "Modality": "1",
    "SeriesInstanceUID": "1",
    "SeriesNumber": "2",
    "ConversionType": "1",
    "InstanceNumber": "2",
    "SamplesPerPixel": "1",
    "PhotometricInterpretation": "1",
    "Rows": "1",
    "Columns": "1",
    "BitsAllocated": "1",
    "BitsStored": "1",
    "HighBit": "1",
    "PixelRepresentation": "1",
    "SOPClassUID": "1",
    "SOPInstanceUID": "1",
}
EQUIPMENT = ("Manufacturer", "PurposeOfReferenceCodeSequence")  # type 1 in its sequence
CODE = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
WRITTEN = {  # whatever else a file holds came from somewhere else
    *REQUIRED,
    *EQUIPMENT,
    *CODE,
    "SpecificCharacterSet",
    "SyntheticData",
    "ImageType",
    "DerivationDescription",
    "ContributingEquipmentSequence",
    "ManufacturerModelName",
    "SoftwareVersions",
    "ContributionDescription",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "ContentQualification",
    "SeriesDescription",
    "ImageComments",
    "PatientOrientation",
    "PlanarConfiguration",
    "PixelData",
}


@dataclass(frozen=True)
class Kind:
    """What a file of one kind holds: attributes that PS3.3 requires, with their types, all that
    medsynth writes, its Image Type, and the bits that a pixel may have."""

    required: Mapping[str, str]
    written: Set[str]
    image_type: tuple[str, str]
    bits: tuple[int, ...]


IMAGE = Kind(REQUIRED, WRITTEN, ("DERIVED", "SECONDARY"), (8, 16))
UNKNOWN = ("PatientBirthDate", "PatientSex", "StudyDate", "AccessionNumber",
           "ReferringPhysicianName")  # fmt: skip
UIDS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
DIGEST = re.compile(r"\b(\w+) sha256 [0-9a-f]{64}\b")
LONGEST = 1024  # characters of a Short Text


@dataclass(frozen=True)
class Study:
    """What all images of a release share: the cohort's digest, the domain's name, and digests of
    what made them, by name."""

    cohort: str
    domain: str
    digests: Mapping[str, str]

    def uid(self, *parts: str) -> str:
        """Return a UID that follows from the cohort and these words alone: 2.25 and a UUID."""
        name = "/".join((self.cohort, *parts))
        return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}"

    @property
    def prefix(self) -> str:
        return f"SYN-{self.cohort[:8].upper()}"


def write_image(
    path: Path, image: np.ndarray, study: Study, *, number: int, labels: Mapping[str, str]
) -> Any:
    """Write (H, W, 1 or 3) uint8 or (H, W, 1) uint16 as a Secondary Capture file; return the data
    set. Raises DataError where highdicom is not installed."""
    highdicom = open_highdicom()
    key, grey = str(number), image.shape[2] == 1
    patient = f"{study.prefix}-{number}"
    dataset = highdicom.sc.SCImage(
        pixel_array=np.ascontiguousarray(image[..., 0] if grey else image),
        photometric_interpretation="MONOCHROME2" if grey else "RGB",
        bits_allocated=8 * image.dtype.itemsize,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        study_instance_uid=study.uid("study", key),
        series_instance_uid=study.uid("series", key),
        series_number=1,
        sop_instance_uid=study.uid("image", key),
        instance_number=1,
        manufacturer="medsynth",
        patient_id=patient,
        patient_name=f"Synthetic^{patient}",
        study_id=key,
        contributing_equipment=[equipment(study)],
    )
    say_synthetic(dataset, study, noun="image")
    dataset.ImageType = list(IMAGE.image_type)
    dataset.ConversionType = "SYN"
    if study.domain != "chest_xray":
        dataset.PatientOrientation = None  # highdicom asks for one, but here none is known
    if labels:
        words = "; ".join(f"{name}: {value}" for name, value in sorted(labels.items()))
        dataset.ImageComments = words[:10240]
    dataset.save_as(path, enforce_file_format=True)
    return dataset


def open_highdicom() -> Any:
    """Return highdicom. Raises DataError where it is not installed."""
    try:
        import highdicom
        import highdicom.sc
        import highdicom.seg
    except ImportError:
        raise DataError(
            "dicom needs highdicom, which is not installed: pip install 'medsynth[export]'"
        ) from None
    return highdicom


def equipment(study: Study) -> Any:
    """Return what says that a model made a data set."""
    from highdicom.sr.coding import CodedConcept

    return open_highdicom().ContributingEquipment(
        manufacturer="medsynth",
        manufacturer_model_name="medsynth",
        software_versions=__version__,
        purpose_of_reference=CodedConcept(*SYNTHESIZING),
        contribution_description=_made_by(study),
    )


def _made_by(study: Study) -> str:
    digests = "; ".join(f"{name} sha256 {sha}" for name, sha in sorted(study.digests.items()))
    return f"Made by a generative model, medsynth {__version__}; {digests}"[:LONGEST]


def say_synthetic(dataset: Any, study: Study, *, noun: str) -> None:
    """Mark an image or a mask as synthetic, and take the clock's words out of it."""
    dataset.SpecificCharacterSet = "ISO_IR 192"  # UTF-8: labels are in any language
    dataset.SyntheticData = "YES"
    dataset.DerivationDescription = (
        f"Synthetic {noun}, no patient was imaged; not for clinical use. {_made_by(study)}"
    )[:LONGEST]
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "Synthetic: there is no patient"
    dataset.ContentQualification = "RESEARCH"
    dataset.SeriesDescription = f"Synthetic {domains.domain(study.domain).title}"[:64]
    for part in (dataset, *dataset.ContributingEquipmentSequence):
        for keyword in UNTOLD:
            if keyword in part:
                delattr(part, keyword)


def check(path: Path) -> Iterable[str]:
    """Yield in words what is wrong with a released DICOM file: the standard's required attributes,
    the marks that say that it is synthetic, and whatever medsynth does not write. Needs pydicom
    alone; unpacks no pixel."""
    import pydicom

    from . import segmentation

    dataset = pydicom.dcmread(path)
    known = {SECONDARY_CAPTURE: IMAGE, segmentation.SEGMENTATION: segmentation.MASK}
    kind = known.get(dataset.get("SOPClassUID"), IMAGE)
    if dataset.get("SOPClassUID") not in known:
        yield "is no Secondary Capture image and no segmentation"
    yield from _not_conforming(dataset, kind)
    yield from _not_synthetic(dataset, kind)
    strange = {element.keyword or "a private attribute" for element in dataset.iterall()}
    for keyword in sorted(strange - kind.written):
        yield f"has {keyword}, which medsynth does not write"


def _not_conforming(dataset: Any, kind: Kind) -> Iterable[str]:
    """Yield what PS3.3 requires of a file of its kind and is not there."""
    for keyword, needed in kind.required.items():
        if keyword not in dataset:
            yield f"has no {keyword}"
        elif needed == "1" and dataset[keyword].is_empty:
            yield f"has an empty {keyword}"
    if dataset.get("SamplesPerPixel") == 3 and "PlanarConfiguration" not in dataset:
        yield "has no PlanarConfiguration"
    for equipment in dataset.get("ContributingEquipmentSequence", ()):
        codes = equipment.get("PurposeOfReferenceCodeSequence", ())
        wanted = [(equipment, name) for name in EQUIPMENT]
        wanted += [(code, name) for code in codes for name in CODE]
        for part, name in wanted:
            if name not in part or part[name].is_empty:
                yield f"has no {name} in its ContributingEquipmentSequence"
    if dataset.get("BitsAllocated") not in kind.bits or "PixelData" not in dataset:
        yield f"has no pixels of {' or '.join(map(str, kind.bits))} bits"


def _not_synthetic(dataset: Any, kind: Kind) -> Iterable[str]:
    """Yield where a file does not say what it is, or names somebody who was not invented."""
    if dataset.get("SyntheticData") != "YES" or not _is_synthesized(dataset):
        yield "does not say that it is synthetic"
    if tuple(dataset.get("ImageType", ())) != kind.image_type:
        yield f"is not of the type {', '.join(kind.image_type)}"
    told = set(DIGEST.findall(str(dataset.get("DerivationDescription", ""))))
    if not {"protocol", "diffusion"} <= told:
        yield "does not tell the digests of the model and the protocol that made it"
    if not all(str(dataset.get(name, "")).startswith("2.25.") for name in UIDS):
        yield "has a UID that medsynth did not make"
    who = str(dataset.get("PatientID", ""))
    if not who.startswith("SYN-") or dataset.get("PatientName") != f"Synthetic^{who}":
        yield "names a patient who was not invented"
    if any(dataset.get(name) for name in UNKNOWN):
        yield "tells of a patient, where there is none"


def _is_synthesized(dataset: Any) -> bool:
    purposes = [
        purpose
        for equipment in dataset.get("ContributingEquipmentSequence", ())
        for purpose in equipment.get("PurposeOfReferenceCodeSequence", ())
    ]
    return any(
        (code.CodeValue, code.CodingSchemeDesignator) == SYNTHESIZING[:2] for code in purposes
    )
