"""Chest radiographs."""

from __future__ import annotations

from . import Domain


def crop() -> list:
    """Take the largest central square: what is left out is shoulder or collimator."""
    from monai.transforms import Lambda

    return [Lambda(central_square)]


def central_square(image):
    """Crop a (C, H, W) image to its largest central square."""
    from monai.transforms import CenterSpatialCrop

    return CenterSpatialCrop([min(image.shape[1:])] * 2)(image)


DOMAIN = Domain(
    name="chest_xray",
    title="chest radiographs",
    channels=1,
    symmetries="flips and rotations",
    augmentations="identity",  # a mirrored chest has its heart on the wrong side
    structures=("lungs", "heart", "diaphragm", "ribs", "opacities"),
    identity_risk=(
        "Chest radiographs stay re-identifiable: rib cage, clavicles and heart shape match a "
        "person across years, also where no pixel is copied."
    ),
    crop=crop,
    negatives=True,  # some archives keep bone black (MONOCHROME1)
)
