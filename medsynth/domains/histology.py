"""Tiles of stained tissue."""

from __future__ import annotations

from . import Domain


def crop() -> list:
    """Take the largest central square of a tile."""
    from monai.transforms import CenterSpatialCrop, Lambda

    return [Lambda(lambda tile: CenterSpatialCrop([min(tile.shape[1:])] * 2)(tile))]


DOMAIN = Domain(
    name="histology",
    title="histology tiles",
    channels=3,
    symmetries="flips and rotations",
    augmentations="flips and rotations",
    structures=("nuclei", "glands", "stroma"),
    identity_risk=(
        "A tile shows no face, but a copied tile can be found again in its slide by whoever "
        "holds the slide; many tiles are one patient."
    ),
    crop=crop,
    headroom=2.9,  # the edges of nuclei
)
