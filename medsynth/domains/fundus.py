"""Colour photographs of the retina."""

from __future__ import annotations

from . import Domain

BACKGROUND = 0.08  # the black around the field of view, JPEG noise included

PAIRS = (("left", "right"), ("L", "R"), ("OS", "OD"), ("l", "r"), ("Left", "Right"))
EYES = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}


def in_field_of_view(image):
    """Return a (C, H, W) mask, true where any channel is brighter than the black surround."""
    return (image.amax(0, keepdim=True) > BACKGROUND).expand_as(image)


def square(image):
    """Pad a (C, H, W) image with black to a square."""
    from monai.transforms import SpatialPad

    return SpatialPad([max(image.shape[1:])] * 2)(image)


def crop() -> list:
    """Crop to the field of view, then pad to a square with black."""
    from monai.transforms import CropForeground, Lambda

    return [CropForeground(select_fn=in_field_of_view, allow_smaller=True), Lambda(square)]


DOMAIN = Domain(
    name="fundus",
    title="colour fundus photographs",
    channels=3,
    symmetries="flips and rotations",
    augmentations="flip",  # left and right eyes mirror each other
    structures=("optic disc", "fovea", "vessels", "lesions"),
    identity_risk=(
        "The vessel tree of a retina is unique to a person and is used for identification: "
        "a copied tree is a leak even where colours differ."
    ),
    crop=crop,
    mirrored={"laterality": EYES, "eye": EYES, "side": EYES},
)
