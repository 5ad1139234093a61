"""A mask as a DICOM segmentation of the released image that it lies on.

Nothing comes from a real header, as of the images (dicom.py); UIDs follow from the cohort, and
the day that the standard asks for is the same in every file.
Source: DICOM PS3.3, A.51 (Segmentation), C.8.20.2 (Segment Description); PS3.16, CID 7150.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from .dicom import IMAGE as OF_AN_IMAGE
from .dicom import Kind, Study, equipment, open_highdicom, say_synthetic

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
ANATOMY = ("123037004", "SCT", "Anatomical Structure")
FAMILY = ("123110", "DCM", "Artificial Intelligence")
SCHEME = "99MEDSYNTH"  # a private one: a protocol's words are nobody's codes
NO_DAY, NO_TIME = "19700101", "000000"  # the standard asks for one, and no clock is read

REQUIRED = {
    **{name: kind for name, kind in OF_AN_IMAGE.required.items() if name != "ConversionType"},
    "ReferencedSeriesSequence": "1",
    "SegmentSequence": "1",
    "SegmentationType": "1",
    "NumberOfFrames": "1",
    "ContentDate": "1",
    "ContentLabel": "1",
}
WRITTEN = OF_AN_IMAGE.written - {"ConversionType", "ImageComments", "PatientOrientation",
                                 "PlanarConfiguration"}  # fmt: skip
WRITTEN |= {
    *REQUIRED,
    "AlgorithmFamilyCodeSequence",
    "AlgorithmName",
    "AlgorithmVersion",
    "ContentDescription",
    "ContentTime",
    "DerivationCodeSequence",
    "DerivationImageSequence",
    "DeviceSerialNumber",
    "DimensionDescriptionLabel",
    "DimensionIndexPointer",
    "DimensionIndexSequence",
    "DimensionIndexValues",
    "DimensionOrganizationSequence",
    "DimensionOrganizationUID",
    "FrameContentSequence",
    "FunctionalGroupPointer",
    "LossyImageCompression",
    "PerFrameFunctionalGroupsSequence",
    "PresentationLUTShape",
    "ReferencedInstanceSequence",
    "ReferencedSOPClassUID",
    "ReferencedSOPInstanceUID",
    "ReferencedSegmentNumber",
    "SegmentAlgorithmName",
    "SegmentAlgorithmType",
    "SegmentIdentificationSequence",
    "SegmentLabel",
    "SegmentNumber",
    "SegmentationAlgorithmIdentificationSequence",
    "SegmentedPropertyCategoryCodeSequence",
    "SegmentedPropertyTypeCodeSequence",
    "SegmentsOverlap",
    "SharedFunctionalGroupsSequence",
    "SourceImageSequence",
    "SpatialLocationsPreserved",
}
MASK = Kind(REQUIRED, WRITTEN, ("DERIVED", "PRIMARY"), (1,))


def write_segmentation(
    path: Path, mask: np.ndarray, image: Any, study: Study, *, classes: Mapping[int, str]
) -> None:
    """Write a mask (H, W) uint8 as one binary segment a class, over `image`, the data set that
    `write_image` wrote. Classes that it does not show have a segment without frames."""
    highdicom = open_highdicom()
    values = [value for value in classes if value]
    key = str(image.StudyID)
    dataset = highdicom.seg.Segmentation(
        source_images=[image],
        pixel_array=np.stack([mask == value for value in values], -1)[None].astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[
            _describe(number, classes[value]) for number, value in enumerate(values, start=1)
        ],
        series_instance_uid=study.uid("masks", key),
        series_number=2,
        sop_instance_uid=study.uid("mask", key),
        instance_number=1,
        manufacturer="medsynth",
        manufacturer_model_name="medsynth",
        software_versions=__version__,
        device_serial_number=study.prefix,
        contributing_equipment=[equipment(study)],
        omit_empty_frames=bool(mask.any()),
    )
    say_synthetic(dataset, study, noun="mask")
    dataset.ContentDate, dataset.ContentTime = NO_DAY, NO_TIME
    for part in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        part.DimensionOrganizationUID = study.uid("dimensions", key)  # highdicom draws one
    dataset.save_as(path, enforce_file_format=True)


def _describe(number: int, name: str) -> Any:
    highdicom = open_highdicom()
    code = name.replace(" ", "_").upper()[:16]
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=highdicom.sr.CodedConcept(*ANATOMY),
        segmented_property_type=highdicom.sr.CodedConcept(code, SCHEME, name),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="medsynth",
            family=highdicom.sr.CodedConcept(*FAMILY),
            version=__version__,
        ),
    )
