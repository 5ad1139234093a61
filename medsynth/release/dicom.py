"""DICOM files that say that they are synthetic, and the check that they still do.

Secondary Capture, because the objects of real devices would need a detector or a lens to be made
up. Nothing comes from a real header: the patients are invented, the UIDs follow from the cohort,
and no clock is read.
Source: DICOM PS3.3, C.12.1.1.1 (Synthetic Data), C.7.6.1 (Image Type), A.8.1 (Secondary Capture).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
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
    dataset.ImageType = ["DERIVED", "SECONDARY"]
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
    and the marks that say that it is synthetic. Needs pydicom alone; reads no pixel."""
    import pydicom

    from . import segmentation

    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    kinds = {SECONDARY_CAPTURE: REQUIRED, segmentation.SEGMENTATION: segmentation.REQUIRED}
    required = kinds.get(dataset.get("SOPClassUID"))
    if required is None:
        yield "is no Secondary Capture image and no segmentation"
    for keyword, kind in (required or REQUIRED).items():
        if keyword not in dataset:
            yield f"has no {keyword}"
        elif kind == "1" and dataset[keyword].is_empty:
            yield f"has an empty {keyword}"
    if dataset.get("SyntheticData") != "YES" or not _is_synthesized(dataset):
        yield "does not say that it is synthetic"
    if not str(dataset.get("PatientID", "")).startswith("SYN-"):
        yield "names a patient who was not invented"


def _is_synthesized(dataset: Any) -> bool:
    purposes = [
        purpose
        for equipment in dataset.get("ContributingEquipmentSequence", ())
        for purpose in equipment.get("PurposeOfReferenceCodeSequence", ())
    ]
    return any(
        (code.CodeValue, code.CodingSchemeDesignator) == SYNTHESIZING[:2] for code in purposes
    )
