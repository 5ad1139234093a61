"""Phantom chest radiographs: a sum of what the ray passes through, bright where it is dense."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import canvas

# Outlines for a person of middle build, as seen in the image: the patient's right is on the left.
TORSO = np.array(
    [
        [-0.30, -1.2],
        [-0.27, -0.90],
        [-0.62, -0.78],
        [-0.93, -0.60],
        [-1.05, 0.0],
        [-1.02, 1.2],
        [1.02, 1.2],
        [1.05, 0.0],
        [0.93, -0.60],
        [0.62, -0.78],
        [0.27, -0.90],
        [0.30, -1.2],
    ]
)
LUNG = np.array(
    [
        [0.30, -0.80],
        [0.50, -0.68],
        [0.65, -0.35],
        [0.73, 0.05],
        [0.76, 0.42],
        [0.72, 0.64],
        [0.60, 0.50],
        [0.42, 0.41],
        [0.22, 0.47],
        [0.15, 0.20],
        [0.15, -0.25],
        [0.17, -0.62],
    ]
)
HEART = np.array(
    [
        [-0.15, -0.18],
        [-0.24, 0.14],
        [-0.18, 0.46],
        [0.10, 0.56],
        [0.38, 0.58],
        [0.52, 0.42],
        [0.47, 0.20],
        [0.33, -0.02],
        [0.21, -0.20],
        [0.16, -0.34],
        [0.00, -0.36],
    ]
)
CLAVICLE = np.array([[0.09, -0.55], [0.28, -0.60], [0.48, -0.70], [0.78, -0.74]])
RIBS = 10
STRUCTURES = ("lung", "heart")


@dataclass(frozen=True)
class Anatomy:
    """What stays the same in a person from visit to visit."""

    size: np.ndarray
    lungs: tuple[np.ndarray, np.ndarray]
    heart: np.ndarray
    rib_tops: np.ndarray
    rib_slope: float
    rib_width: float
    clavicle_tilt: np.ndarray
    fat: float
    bone: float
    vessels: np.ndarray


def draw(
    person: np.random.Generator,
    part: np.random.Generator,
    shot: np.random.Generator,
    image: int,
    size_px: int,
) -> tuple[np.ndarray, dict[str, str], np.ndarray]:
    """Draw one visit, (H, W, 1) float32 in [0, 1]; whether there is an opacity is the visit's; and
    the shares of each pixel that are lung beside the heart and heart, (2, H, W)."""
    anatomy = _anatomy(person)
    pose = (shot.normal(0, 0.015), shot.normal(0, 0.02, 2), shot.normal(1.0, 0.015))
    dense = _soft_tissue(anatomy, pose, size_px) + _bones(anatomy, pose, size_px)
    opaque = bool(shot.random() < 0.5)
    if opaque:
        dense = dense + _opacity(shot, anatomy, pose, size_px)
    heart = _filled([anatomy.heart], anatomy, pose, size_px)
    lungs = _filled(list(anatomy.lungs), anatomy, pose, size_px) * (1 - heart)
    labels = {"finding": "opacity" if opaque else "normal"}
    return _on_film(dense, shot, size_px), labels, np.stack([lungs, heart])


def _anatomy(rng: np.random.Generator) -> Anatomy:
    shapes = []
    for side in (-1.0, 1.0):
        lung = LUNG + rng.normal(0, 0.022, LUNG.shape)
        liver = -0.05 if side < 0 else 0.0  # it lifts the right dome
        lung[5:9, 1] += rng.normal(liver, 0.04)
        lung[2:6, 0] += rng.normal(0, 0.03)
        shapes.append(lung * [side, 1.0])
    width, height = rng.uniform(0.80, 1.22), rng.uniform(0.92, 1.08)
    heart = HEART * [np.where(HEART[:, 0] > 0, width, 1.0).mean(), 1.0]
    heart = np.stack([HEART[:, 0] * width, HEART[:, 1] * height], -1) * 0.5 + heart * 0.5
    gaps = rng.uniform(0.85, 1.15, RIBS)
    return Anatomy(
        size=np.array([rng.uniform(0.93, 1.08), rng.uniform(0.93, 1.07)]),
        lungs=(shapes[0], shapes[1]),
        heart=heart + rng.normal(0, 0.012, HEART.shape),
        rib_tops=-0.86 + np.cumsum(gaps) * rng.uniform(0.135, 0.165),
        rib_slope=rng.uniform(0.7, 1.35),
        rib_width=rng.uniform(0.048, 0.066),
        clavicle_tilt=rng.normal(0, 0.07, 2),
        fat=rng.uniform(0.0, 1.0),
        bone=rng.uniform(0.75, 1.2),
        vessels=np.concatenate([_lung_vessels(rng, side) for side in (-1.0, 1.0)]),
    )


def _lung_vessels(rng: np.random.Generator, side: float) -> np.ndarray:
    """Fan eight vessels out of one hilum, (8, 10, 2)."""
    angle = np.linspace(-1.25, 1.35, 8) + rng.normal(0, 0.12, 8)
    bend = angle[:, None] + rng.normal(0, 0.5, (8, 1)) * np.linspace(0, 1, 10)
    step = rng.uniform(0.32, 0.52, (8, 1, 1)) / 9
    points = np.cumsum(np.stack([np.cos(bend) * 0.9, np.sin(bend)], -1) * step, axis=1)
    start = np.array([0.17, 0.0]) + rng.normal(0, 0.03, (8, 1, 2))
    return (points + start) * [side, 1.0]


Pose = tuple[float, np.ndarray, float]


def _posed(points: np.ndarray, anatomy: Anatomy, pose: Pose) -> np.ndarray:
    return canvas.rotate(points * anatomy.size * pose[2], pose[0]) + pose[1]


def _blurred(mask: np.ndarray, share: float) -> np.ndarray:
    """Blur a mask by a share of the image's side."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(mask, share * mask.shape[0], truncate=2.5)


def _filled(outlines: list[np.ndarray], anatomy: Anatomy, pose: Pose, size_px: int) -> np.ndarray:
    mask = canvas.Mask(size_px)
    for outline in outlines:
        mask.polygons(_posed(canvas.curve(outline, closed=True), anatomy, pose)[None])
    return mask.reduced()


# What the ray passes through ----------------------------------------------------------------------


def _soft_tissue(anatomy: Anatomy, pose: Pose, size_px: int) -> np.ndarray:
    x, y = canvas.grid(size_px)
    x, y = x - pose[1][0], y - pose[1][1]
    torso = _blurred(_filled([TORSO], anatomy, pose, size_px), 0.012)
    lungs = _blurred(_filled(list(anatomy.lungs), anatomy, pose, size_px), 0.009)
    heart = _blurred(_filled([anatomy.heart], anatomy, pose, size_px), 0.010)
    middle = np.exp(-((x / 0.18) ** 2)) * 0.16
    knob = np.exp(-(((x - 0.19) / 0.07) ** 2 + ((y + 0.32) / 0.09) ** 2)) * 0.16
    belly = canvas.falloff(-y, -0.75, -0.30) * 0.16
    wall = torso * (0.50 + 0.10 * anatomy.fat + belly)
    air = lungs * (0.44 + 0.05 * y - 0.10 * x**2)
    windpipe = np.exp(-((x / 0.055) ** 2)) * canvas.falloff(y, -0.55, -0.25) * 0.12
    tissue = torso * (middle + knob - windpipe) + heart * (0.02 + 0.36 * lungs)
    return wall - air + tissue + lungs * _vessels(anatomy, pose, size_px) * 0.17


def _vessels(anatomy: Anatomy, pose: Pose, size_px: int) -> np.ndarray:
    mask = canvas.Mask(size_px)
    lines = _posed(anatomy.vessels, anatomy, pose)
    mask.ribbons(lines, np.tile(np.linspace(0.055, 0.008, 10), (len(lines), 1)))
    return _blurred(mask.reduced(), 0.008)


def _bones(anatomy: Anatomy, pose: Pose, size_px: int) -> np.ndarray:
    behind, inner, before = (
        _lines(lines, width, anatomy, pose, size_px)
        for lines, width in (
            (_ribs_behind(anatomy), 1.0),
            (_ribs_behind(anatomy), 0.55),
            (_ribs_before(anatomy), 1.15),
        )
    )
    ribs = _blurred(0.15 * behind - 0.06 * inner + 0.05 * before, 0.004)
    collar = _blurred(_collar_bones(anatomy, pose, size_px), 0.004)
    return anatomy.bone * (ribs + 0.16 * collar + _spine(anatomy, pose, size_px))


def _lines(
    lines: np.ndarray, width: float, anatomy: Anatomy, pose: Pose, size_px: int
) -> np.ndarray:
    """Draw (B, N, 2) lines and their mirror images, `width` ribs wide."""
    mask = canvas.Mask(size_px)
    both = _posed(np.concatenate([lines, lines * [-1.0, 1.0]]), anatomy, pose)
    mask.ribbons(both, np.full(both.shape[:2], anatomy.rib_width * width))
    return mask.reduced()


def _ribs_behind(anatomy: Anatomy) -> np.ndarray:
    """Return the ribs' way behind the lung: out of the spine, a little up, around and down."""
    reach = np.minimum(0.76, 0.46 + 0.09 * np.arange(RIBS))[:, None]
    s = np.linspace(0, 1, 16)
    x = 0.05 + (reach - 0.05) * np.sin(s * np.pi / 2)
    rise = 0.07 * np.sin(np.minimum(s * 1.6, 1.0) * np.pi)
    y = anatomy.rib_tops[:, None] - rise + 0.26 * anatomy.rib_slope * s**2.6
    return np.stack([x, y], -1)


def _ribs_before(anatomy: Anatomy) -> np.ndarray:
    """Return the ribs' way before the lung: from the side down towards the breast bone."""
    s = np.linspace(0, 1, 10)
    y = anatomy.rib_tops[2:7, None] + 0.26 * anatomy.rib_slope + 0.20 * s - 0.08 * s**2
    return np.stack(np.broadcast_arrays(0.70 - 0.44 * s, y), -1)


def _collar_bones(anatomy: Anatomy, pose: Pose, size_px: int) -> np.ndarray:
    mask = canvas.Mask(size_px)
    for side, tilt in zip((-1.0, 1.0), anatomy.clavicle_tilt, strict=True):
        knots = CLAVICLE + np.stack([np.zeros(4), tilt * (CLAVICLE[:, 0] - 0.1)], -1)
        line = _posed(canvas.curve(knots, 6) * [side, 1.0], anatomy, pose)
        mask.ribbons(line[None], np.linspace(0.085, 0.06, len(line))[None])
    return mask.reduced()


def _spine(anatomy: Anatomy, pose: Pose, size_px: int) -> np.ndarray:
    x, y = canvas.grid(size_px)
    x, y = x - pose[1][0] + pose[0] * y, y - pose[1][1]
    spacing = float(np.mean(np.diff(anatomy.rib_tops)))
    discs = 0.5 + 0.5 * np.cos(2 * np.pi * (y - anatomy.rib_tops[0]) / spacing)
    column = canvas.falloff(np.abs(x), 0.075, 0.115)
    return column * (0.04 + 0.05 * discs)


def _opacity(rng: np.random.Generator, anatomy: Anatomy, pose: Pose, size_px: int) -> np.ndarray:
    """Return a cloudy consolidation in one lung."""
    side = rng.choice([-1.0, 1.0])
    centre = _posed(
        np.array([rng.uniform(0.30, 0.55) * side, rng.uniform(-0.35, 0.35)]), anatomy, pose
    )
    x, y = canvas.grid(size_px)
    radii = rng.uniform(0.15, 0.27, 2)
    distance = np.hypot((x - centre[0]) / radii[0], (y - centre[1]) / radii[1])
    edge = distance + 0.22 * canvas.clouds(rng, size_px, 6, 3)
    lungs = _blurred(_filled(list(anatomy.lungs), anatomy, pose, size_px), 0.01)
    return lungs * canvas.falloff(edge, 0.35, 1.25) * rng.uniform(0.20, 0.32)


def _on_film(dense: np.ndarray, rng: np.random.Generator, size_px: int) -> np.ndarray:
    """Apply scatter, exposure and noise; bright is dense."""
    scatter = 0.85 * dense + 0.15 * _blurred(dense, 0.05)
    film = rng.normal(0.0, 0.02) + scatter * rng.normal(1.0, 0.04)
    # film saturates: the spine behind the heart is hardly brighter than the heart
    film = 0.03 + 1.15 * (1 - np.exp(-1.7 * np.clip(film, 0, None) ** rng.uniform(1.1, 1.3)))
    film = film + rng.normal(0, 0.010, film.shape)
    return np.clip(film, 0, 1)[..., None].astype(np.float32)
