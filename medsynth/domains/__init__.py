"""What kind of image: one file a domain, found by its module's name.

A new domain is one new file in this folder that defines `DOMAIN = Domain(...)`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from ..errors import ProtocolError

if TYPE_CHECKING:
    from monai.transforms import Compose

STRIP = 32  # rows of areas that are worked out at once
Symmetry = Literal["identity", "flip", "rotations", "flips and rotations"]


@dataclass(frozen=True)
class Domain:
    """What medsynth must know of a kind of image.

    `channels` is 1 (grey) or 3 (RGB). `symmetries` are the changes under which a copy is still
    looked for: "flip" left-right only, "flips and rotations" all eight of the square.
    `augmentations` are the ones under which a new training image is still a plausible one.
    `crop` returns the MONAI transforms that bring a (C, H, W) float32 image in [0, 1] of any size
    to a square that shows what matters. `identity_risk` is printed on every card. `mirrored`
    says which labels a left-right flip changes, {attribute: {value: value of the mirror image}}.
    A file may be reduced to `headroom` times the final size before it is cropped: the sharper what
    matters, the more. `negatives` says that a copy is looked for with black and white exchanged
    too.
    """

    name: str
    title: str
    channels: int
    symmetries: Symmetry
    augmentations: Symmetry
    structures: tuple[str, ...]
    identity_risk: str
    crop: Callable[[], list]
    mirrored: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    headroom: float = 1.9
    negatives: bool = False

    def mirror(self, labels: Mapping[str, str]) -> dict[str, str]:
        """Return the labels of an image's mirror image: a flipped left eye is a right one."""
        return {
            name: self.mirrored.get(name, {}).get(value, value) for name, value in labels.items()
        }

    def prepare(self, size_px: int) -> Compose:
        """Return the MONAI transform of (C, H, W) float32 in [0, 1] to (C, size_px, size_px)."""
        from monai.transforms import Compose

        return Compose([*self.crop(), *fit(size_px)])


def fit(size_px: int) -> list:
    """Return the MONAI transforms that average a cropped image down to (C, size_px, size_px)."""
    from monai.transforms import Lambda

    return [Lambda(lambda image: area_mean(image, size_px).clip(0.0, 1.0))]


def area_mean(image, size_px: int):
    """Return a (C, H, W) tensor as (C, size_px, size_px): each pixel the mean over its area.

    A pixel that lies in two areas counts in each for its part. MONAI's "area" lets it count in
    full in both, which blurs the more the smaller the image is: by half where it is 2 to 1.
    """
    import torch

    height, width = image.shape[1:]
    down, strips = _parts(height, size_px), []
    for first in range(0, size_px, STRIP):  # an area is made of the rows near it and no others
        end = min(first + STRIP, size_px)
        top, bottom = first * height // size_px, -(-end * height // size_px)
        strips.append(down[first:end, top:bottom] @ image[:, top:bottom])
    return torch.cat(strips, dim=1) @ _parts(width, size_px).T


@lru_cache(maxsize=64)
def _parts(pixels: int, areas: int):
    """(areas, pixels): the share of each area that each pixel along a side makes up."""
    import torch

    ends = torch.linspace(0, pixels, areas + 1, dtype=torch.float64)
    first = torch.arange(pixels, dtype=torch.float64)
    overlap = torch.minimum(ends[1:, None], first + 1) - torch.maximum(ends[:-1, None], first)
    return (overlap.clamp(min=0) * areas / pixels).float()


def names() -> tuple[str, ...]:
    """Return the names of all domains, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def domain(name: str) -> Domain:
    """Return a domain by name. Raises ProtocolError where there is none, naming those there are."""
    if name not in names():
        raise ProtocolError("domain", [f"no domain {name!r}: expected one of {', '.join(names())}"])
    return importlib.import_module(f"{__name__}.{name}").DOMAIN
