"""Phantom retinas: disc, fovea, a random vessel tree, and lesions of diabetic retinopathy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import canvas

POINTS = 16  # of one vessel
VEIN = np.float32([0.50, 1.15, 0.90])  # absorbance of red, green, blue
ARTERY = np.float32([0.22, 0.80, 0.62])
BLOOD = ((True, VEIN), (False, ARTERY))
SUPERIOR_AND_INFERIOR = np.array([-1.0, 1.0])
STRUCTURES = ("vessel",)


@dataclass(frozen=True)
class Habit:
    """What both eyes of a person share."""

    colour: np.ndarray
    calibre: float
    tortuosity: float
    disc: np.ndarray
    disc_radii: np.ndarray
    fovea: np.ndarray
    sick: bool


@dataclass(frozen=True)
class Vessels:
    """Vessels of one generation: (B, POINTS, 2) points, (B, POINTS) widths, (B,) is it a vein."""

    points: np.ndarray
    widths: np.ndarray
    vein: np.ndarray


def draw(
    person: np.random.Generator,
    part: np.random.Generator,
    shot: np.random.Generator,
    image: int,
    size_px: int,
) -> tuple[np.ndarray, dict[str, str], np.ndarray]:
    """Draw one photograph, (H, W, 3) float32 in [0, 1]: even images are right eyes, odd left; and
    the share of each pixel that a vessel covers, (1, H, W)."""
    habit = _habit(person)
    pose = _pose(shot, first=image < 2)
    trees = _tree(part, habit)
    lesions = _lesions(part, habit)
    light = _light(shot, habit, pose, size_px, part)
    covered = _cover(trees, habit, pose, size_px)
    light = light * np.exp(-sum(covered[vein][..., None] * colour for vein, colour in BLOOD))
    light = _draw_lesions(light, lesions, pose, size_px) if habit.sick else light
    picture = _through_the_camera(light, shot, size_px)
    left = image % 2 == 1
    vessels = (np.maximum(*covered.values()) * _field(size_px))[None]
    labels = {
        "disease": "diabetic_retinopathy" if habit.sick else "healthy",
        "laterality": "left" if left else "right",
    }
    if left:
        picture, vessels = picture[:, ::-1], vessels[..., ::-1]
    return picture, labels, vessels


def _habit(rng: np.random.Generator) -> Habit:
    pale = rng.beta(2, 2)
    colour = np.float32([0.80, 0.36, 0.13]) + pale * np.float32([0.10, 0.13, 0.12])
    radius = rng.uniform(0.115, 0.16)
    return Habit(
        colour=colour + rng.normal(0, 0.015, 3).astype(np.float32),
        calibre=rng.uniform(0.028, 0.040),
        tortuosity=rng.uniform(0.10, 0.55),
        disc=np.array([rng.uniform(0.46, 0.64), rng.normal(-0.02, 0.04)]),
        disc_radii=np.array([radius * rng.uniform(0.82, 0.98), radius]),
        fovea=np.array([rng.uniform(-0.22, -0.06), rng.normal(0.05, 0.03)]),
        sick=bool(rng.random() < 0.5),
    )


def _pose(rng: np.random.Generator, *, first: bool) -> tuple[float, np.ndarray]:
    angle = rng.normal(0, 0.03 if first else 0.06)
    return angle, rng.normal(0, 0.015 if first else 0.035, 2)


def _posed(points: np.ndarray, pose: tuple[float, np.ndarray]) -> np.ndarray:
    return canvas.rotate(points, pose[0]) + pose[1]


# The vessel tree ----------------------------------------------------------------------------------


def _tree(rng: np.random.Generator, habit: Habit) -> list[Vessels]:
    trunks = _trunks(rng, habit)
    branches = _branch(rng, habit, trunks, each=5, lengths=(0.22, 0.70))
    twigs = _branch(rng, habit, branches, each=2, lengths=(0.10, 0.32))
    return [twigs, branches, trunks]


def _trunks(rng: np.random.Generator, habit: Habit) -> Vessels:
    """Grow the four arcades out of the disc, an artery and a vein each."""
    side = np.tile(SUPERIOR_AND_INFERIOR, 4)
    temporal = np.repeat([True, False], 4)
    vein = np.tile(np.repeat([True, False], 2), 2)
    count = len(side)
    angle = np.where(temporal, rng.uniform(1.45, 2.05, count), rng.uniform(0.45, 1.15, count))
    turn = np.where(temporal, rng.uniform(0.85, 1.45, count), rng.uniform(-0.35, 0.25, count))
    turn = np.where(temporal, np.clip(turn, 2.85 - angle, 3.35 - angle), turn)
    length = np.where(temporal, rng.uniform(1.45, 1.9, count), rng.uniform(0.7, 1.0, count))
    start = habit.disc + rng.normal(0, 0.018, (count, 2))
    width = habit.calibre * np.where(vein, 1.0, 0.72) * np.where(temporal, 1.0, 0.72)
    points = _grow(rng, start, angle * side, turn * side, length, habit.tortuosity)
    return Vessels(points, width[:, None] * np.linspace(1.0, 0.35, POINTS), vein)


def _branch(
    rng: np.random.Generator,
    habit: Habit,
    parents: Vessels,
    *,
    each: int,
    lengths: tuple[float, float],
) -> Vessels:
    """Grow `each` branches off every parent, to either side in turn."""
    count = len(parents.points) * each
    parent = np.repeat(np.arange(len(parents.points)), each)
    steps = np.linspace(3, POINTS - 4, each)[None] + rng.uniform(
        -1.6, 1.6, (len(parents.points), each)
    )
    at = np.clip(np.rint(steps), 1, POINTS - 2).astype(int).ravel()
    start = parents.points[parent, at]
    ahead = parents.points[parent, at + 1] - parents.points[parent, at - 1]
    side = np.where((np.arange(count) + rng.integers(0, 2)) % 2, 1.0, -1.0)
    heading = np.arctan2(ahead[:, 1], ahead[:, 0]) + side * rng.uniform(0.45, 1.05, count)
    bend = -side * rng.uniform(0.0, 0.7, count)
    points = _grow(rng, start, heading, bend, rng.uniform(*lengths, count), 1.3 * habit.tortuosity)
    width = parents.widths[parent, at] * rng.uniform(0.5, 0.75, count)
    return Vessels(points, width[:, None] * np.linspace(1.0, 0.4, POINTS), parents.vein[parent])


def _grow(
    rng: np.random.Generator,
    start: np.ndarray,
    heading: np.ndarray,
    turn: np.ndarray,
    length: np.ndarray,
    tortuosity: float,
) -> np.ndarray:
    """Walk from (B, 2) starts; the heading turns, fast at first, and sways. (B, POINTS, 2)."""
    s = np.linspace(0, 1, POINTS)[None]
    phase = rng.uniform(0, 2 * np.pi, (2, len(start), 1))
    waves = rng.uniform(1.0, 3.0, (len(start), 1)) * length[:, None]
    sway = np.sin(2 * np.pi * waves * s + phase[0]) + 0.6 * np.sin(
        5.1 * np.pi * waves * s + phase[1]
    )
    angle = heading[:, None] + turn[:, None] * s**0.75 + tortuosity * s**0.3 * sway
    steps = np.stack([np.cos(angle), np.sin(angle)], -1) * (length[:, None, None] / (POINTS - 1))
    steps[:, 0] = 0
    return start[:, None] + np.cumsum(steps, axis=1)


def _cover(
    trees: list[Vessels], habit: Habit, pose: tuple[float, np.ndarray], size_px: int
) -> dict[bool, np.ndarray]:
    """Return how far veins (True) and arteries cover each pixel, (H, W)."""
    masks = {True: canvas.Mask(size_px), False: canvas.Mask(size_px)}
    for vessels in trees:
        posed = _posed(vessels.points, pose)
        for vein, mask in masks.items():
            mask.ribbons(posed[vessels.vein == vein], vessels.widths[vessels.vein == vein])
    fovea = _posed(habit.fovea, pose)
    x, y = canvas.grid(size_px)
    # the centre of the fovea has no vessels
    seen = 1.0 - canvas.falloff(np.hypot(x - fovea[0], y - fovea[1]), 0.07, 0.22)
    return {vein: mask.reduced() * seen for vein, mask in masks.items()}


# Light and lesions --------------------------------------------------------------------------------


def _light(
    shot: np.random.Generator,
    habit: Habit,
    pose: tuple[float, np.ndarray],
    size_px: int,
    part: np.random.Generator,
) -> np.ndarray:
    """Return the retina without vessels, (H, W, 3): colour, choroid, disc, fovea."""
    x, y = canvas.grid(size_px)
    choroid = canvas.clouds(part, size_px, 4, 3)[..., None] * np.float32([0.03, 0.028, 0.018])
    light = habit.colour * (1.0 - 0.22 * (x**2 + y**2)[..., None]) + choroid
    fovea, disc = _posed(habit.fovea, pose), _posed(habit.disc, pose)
    near = np.hypot(x - fovea[0], y - fovea[1])
    dark = 0.75 * np.exp(-((near / 0.10) ** 2)) + 0.45 * np.exp(-((near / 0.24) ** 2))
    light = light * np.exp(-dark[..., None] * np.float32([0.38, 0.55, 0.40]))
    return _draw_disc(light, habit, disc, x, y)


def _draw_disc(
    light: np.ndarray, habit: Habit, disc: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    radius = np.hypot((x - disc[0]) / habit.disc_radii[0], (y - disc[1]) / habit.disc_radii[1])
    rim = canvas.falloff(radius, 0.86, 1.14)[..., None]
    cup = canvas.falloff(radius, 0.25, 0.62)[..., None]
    halo = np.exp(-((radius / 1.7) ** 2))[..., None] * 0.14
    light = light * (1 + halo)
    light = light * (1 - rim) + rim * np.float32([0.98, 0.72, 0.40])
    return light * (1 - 0.7 * cup) + 0.7 * cup * np.float32([1.0, 0.90, 0.66])


def _lesions(rng: np.random.Generator, habit: Habit) -> tuple[np.ndarray, np.ndarray]:
    """Return outlines (B, 14, 2) of hard exudates, in clusters, and of haemorrhages."""
    clusters = rng.normal(0, 0.33, (rng.integers(2, 5), 1, 2)) + habit.fovea
    hard = (clusters + rng.normal(0, 0.09, (len(clusters), rng.integers(4, 11), 2))).reshape(-1, 2)
    bled = rng.normal(0, 0.42, (rng.integers(8, 22), 2))
    return _blots(rng, hard, 0.012, 0.038), _blots(rng, bled, 0.014, 0.055)


def _blots(rng: np.random.Generator, centres: np.ndarray, small: float, large: float) -> np.ndarray:
    count = len(centres)
    radii = rng.uniform(small, large, (count, 1)) * rng.uniform(0.65, 1.0, (count, 2))
    shapes = canvas.ellipses(radii, rng.uniform(0, np.pi, count), 14)
    return centres[:, None] + shapes * rng.uniform(0.75, 1.25, (count, 14, 1))


def _draw_lesions(
    light: np.ndarray,
    lesions: tuple[np.ndarray, np.ndarray],
    pose: tuple[float, np.ndarray],
    size_px: int,
) -> np.ndarray:
    hard, bled = canvas.Mask(size_px), canvas.Mask(size_px)
    hard.polygons(_posed(lesions[0], pose), 0.85)
    bled.polygons(_posed(lesions[1], pose), 0.8)
    light = light * np.exp(-bled.reduced()[..., None] * np.float32([0.75, 1.5, 1.1]))
    bright = hard.reduced()[..., None]
    return light * (1 - bright) + bright * np.float32([1.0, 0.88, 0.50])


def _through_the_camera(light: np.ndarray, rng: np.random.Generator, size_px: int) -> np.ndarray:
    """Apply exposure, uneven light, the round field of view and noise."""
    x, y = canvas.grid(size_px)
    centre = rng.normal(0, 0.15, 2)
    vignette = 1.0 - rng.uniform(0.22, 0.36) * ((x - centre[0]) ** 2 + (y - centre[1]) ** 2)
    light = light * (rng.uniform(0.88, 1.08) * vignette)[..., None]
    light = light + rng.normal(0, 0.008, light.shape)
    return np.clip(light, 0, 1) * _field(size_px)[..., None] + np.float32(0.012)


def _field(size_px: int) -> np.ndarray:
    """Return the round field of view, (H, W) in [0, 1]."""
    field = canvas.Mask(size_px)
    field.polygons(canvas.ellipses(np.full((1, 2), 0.965), np.zeros(1), 120))
    return field.reduced()
