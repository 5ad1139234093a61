"""Phantom tiles of tissue, stained with haematoxylin and eosin by the law of Beer and Lambert."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import canvas

HAEMATOXYLIN = np.float32([0.65, 0.70, 0.29])  # absorbance of red, green, blue (Ruifrok 2001)
EOSIN = np.float32([0.09, 0.95, 0.28])
TISSUES = ("stroma", "gland")
STRUCTURES = ("nucleus",)


@dataclass(frozen=True)
class Slide:
    """What all tiles of a patient share."""

    haematoxylin: np.ndarray
    eosin: np.ndarray
    nucleus: float
    variety: float
    crowding: float


@dataclass(frozen=True)
class Nuclei:
    """(N, 2) centres, (N, 2) radii, (N,) angles and (N,) darkness."""

    centres: np.ndarray
    radii: np.ndarray
    angles: np.ndarray
    dark: np.ndarray


@dataclass(frozen=True)
class Gland:
    """A ring of cells around a lumen."""

    centre: np.ndarray
    outline: np.ndarray
    lumen: np.ndarray


def draw(
    person: np.random.Generator,
    part: np.random.Generator,
    shot: np.random.Generator,
    image: int,
    size_px: int,
) -> tuple[np.ndarray, dict[str, str], np.ndarray]:
    """Draw one tile of about 0.12 mm, (H, W, 3) float32 in [0, 1]; and the share of each pixel
    that a nucleus covers, (1, H, W)."""
    slide = _slide(person)
    tissue = TISSUES[int(shot.integers(len(TISSUES)))]
    flow = shot.uniform(0, np.pi)
    glands = _glands(shot) if tissue == "gland" else []
    eosin, inside, lumen = _ground(shot, flow, glands, size_px)
    stroma = _stroma_nuclei(shot, slide, flow, len(glands) > 0)
    stroma = _outside(stroma, glands)
    dark, nuclei = (
        np.maximum(*both)
        for both in zip(
            _nuclei(shot, stroma, size_px), _lined(shot, slide, glands, size_px), strict=True
        )
    )
    blue = dark * (1 - lumen) + 0.16 * inside * (1 - lumen)
    tile = _stained(shot, slide, blue, eosin, size_px)
    return tile, {"tissue": tissue}, (nuclei * (1 - lumen))[None]


def _slide(rng: np.random.Generator) -> Slide:
    return Slide(
        haematoxylin=(HAEMATOXYLIN + rng.normal(0, 0.035, 3)) * rng.uniform(0.95, 1.55),
        eosin=(EOSIN + rng.normal(0, 0.03, 3)) * rng.uniform(0.40, 0.72),
        nucleus=rng.uniform(0.070, 0.105),
        variety=rng.uniform(0.06, 0.22),
        crowding=rng.uniform(0.30, 0.75),
    )


# The ground: collagen, cytoplasm, lumen -----------------------------------------------------------


def _ground(
    rng: np.random.Generator, flow: float, glands: list[Gland], size_px: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the eosin of the tile, and where cells of glands and lumens are, (H, W) each."""
    fibres = _fibres(rng, flow, size_px)
    inside, lumen = canvas.Mask(size_px), canvas.Mask(size_px)
    if glands:
        inside.polygons(np.stack([gland.outline for gland in glands]))
        lumen.polygons(np.stack([gland.lumen for gland in glands]))
    cells, holes = inside.reduced(), lumen.reduced()
    cytoplasm = 0.62 + 0.07 * canvas.clouds(rng, size_px, 10, 2)
    ground = fibres * (1 - cells) + cytoplasm * cells
    return ground * (1 - 0.94 * holes), cells, holes


def _fibres(rng: np.random.Generator, flow: float, size_px: int) -> np.ndarray:
    """Return wavy bundles of collagen along `flow`, with clefts between them."""
    x, y = canvas.grid(size_px)
    across = -x * np.sin(flow) + y * np.cos(flow)
    along = x * np.cos(flow) + y * np.sin(flow)
    wave = rng.uniform(0.03, 0.10) * np.sin(
        2 * np.pi * along * rng.uniform(0.5, 1.0) + rng.uniform(0, 6)
    )
    across = across + wave + 0.10 * canvas.noise(rng, size_px, 3)
    thick = np.sin(2 * np.pi * across * rng.uniform(2.2, 3.4) + canvas.noise(rng, size_px, 4))
    thin = np.sin(2 * np.pi * across * rng.uniform(7.0, 10.0) + 1.6 * canvas.noise(rng, size_px, 6))
    cleft = canvas.falloff(-thick - 0.35 * canvas.noise(rng, size_px, 5), -1.25, -0.75)
    bundles = 0.78 + 0.14 * thick + 0.09 * thin + 0.07 * canvas.clouds(rng, size_px, 12, 2)
    return np.clip(bundles, 0.2, 1.3) * (0.25 + 0.75 * (1 - cleft))


def _glands(rng: np.random.Generator) -> list[Gland]:
    """Place one to three glands, so that they touch but don't cover one another."""
    first = rng.uniform(-0.45, 0.45, 2)
    away = rng.uniform(0, 2 * np.pi)
    radius = rng.uniform(0.45, 0.68)
    glands = [_gland(rng, first, radius)]
    for turn in (0.0, rng.uniform(1.6, 4.6)):
        other = rng.uniform(0.42, 0.65)
        gap = radius * 1.12 + other * 1.12 + 0.06
        centre = first + gap * np.array([np.cos(away + turn), np.sin(away + turn)])
        if np.abs(centre).max() < 1.3:
            glands.append(_gland(rng, centre, other))
    return glands


def _gland(rng: np.random.Generator, centre: np.ndarray, radius: float) -> Gland:
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    waves = sum(rng.normal(0, 0.09 / k) * np.cos(k * turn + rng.uniform(0, 6)) for k in (2, 3, 4))
    stretch = canvas.rotate(
        np.stack([np.cos(turn), np.sin(turn) * rng.uniform(0.72, 1.0)], -1), rng.uniform(0, np.pi)
    )
    shape = stretch * (radius * (1 + waves))[:, None]
    wall = rng.uniform(0.30, 0.52)
    ragged = sum(rng.normal(0, 0.05) * np.cos(k * turn + rng.uniform(0, 6)) for k in (3, 5, 8, 11))
    return Gland(centre, centre + shape, centre + shape * (wall * (1 + ragged))[:, None])


# Nuclei -------------------------------------------------------------------------------------------


def _stroma_nuclei(rng: np.random.Generator, slide: Slide, flow: float, sparse: bool) -> Nuclei:
    """Scatter spindle cells along the fibres, and a few round lymphocytes, on a shaken lattice."""
    spacing = 3.4 * slide.nucleus
    line = np.arange(-1.0 - spacing, 1.0 + spacing, spacing)
    centres = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    centres = centres + rng.uniform(-0.42, 0.42, centres.shape) * spacing
    centres = centres[rng.random(len(centres)) < slide.crowding * (0.6 if sparse else 1.0)]
    round_ = rng.random(len(centres)) < 0.18
    size = slide.nucleus * np.exp(rng.normal(0, slide.variety, len(centres)))
    long = np.where(round_, 0.72, rng.uniform(1.15, 1.75, len(centres))) * size
    wide = np.where(round_, 0.70, rng.uniform(0.28, 0.52, len(centres))) * size
    angles = flow + rng.normal(0, 0.22, len(centres))
    dark = np.where(round_, 1.0, rng.uniform(0.70, 1.0, len(centres)))
    return Nuclei(centres, np.stack([long, wide], -1), angles, dark)


def _outside(nuclei: Nuclei, glands: list[Gland]) -> Nuclei:
    """Drop the nuclei that lie in or on a gland."""
    keep = np.ones(len(nuclei.centres), bool)
    for gland in glands:
        offset, rim = nuclei.centres - gland.centre, gland.outline - gland.centre
        bearing = np.arctan2(rim[:, 1], rim[:, 0])
        order = np.argsort(bearing)
        reach = np.interp(
            np.arctan2(offset[:, 1], offset[:, 0]),
            bearing[order],
            np.linalg.norm(rim, axis=-1)[order],
            period=2 * np.pi,
        )
        keep &= np.linalg.norm(offset, axis=-1) > reach + 0.06
    return Nuclei(nuclei.centres[keep], nuclei.radii[keep], nuclei.angles[keep], nuclei.dark[keep])


def _lined(rng: np.random.Generator, slide: Slide, glands: list[Gland], size_px: int) -> np.ndarray:
    """Line each gland's wall with upright nuclei near its base; as `_nuclei`."""
    drawn = np.zeros((2, size_px, size_px), np.float32)
    for gland in glands:
        drawn = np.maximum(drawn, _nuclei(rng, _lining(rng, slide, gland), size_px))
    return drawn


def _lining(rng: np.random.Generator, slide: Slide, gland: Gland) -> Nuclei:
    rim = gland.outline - gland.centre
    around = np.linalg.norm(np.diff(rim, axis=0, append=rim[:1]), axis=-1)
    way = np.concatenate([[0.0], np.cumsum(around)])
    count = max(6, int(way[-1] * 0.8 / (1.55 * slide.nucleus)))
    at = (np.arange(count) + rng.uniform(-0.18, 0.18, count)) * way[-1] / count
    closed = np.concatenate([rim, rim[:1]])
    base = np.stack([np.interp(at % way[-1], way, closed[:, k]) for k in (0, 1)], -1)
    size = slide.nucleus * np.exp(rng.normal(0, slide.variety, count))
    radii = np.stack(
        [size * rng.uniform(0.90, 1.2, count), size * rng.uniform(0.60, 0.78, count)], -1
    )
    depth = rng.uniform(0.72, 0.84, (count, 1))
    angles = np.arctan2(base[:, 1], base[:, 0]) + rng.normal(0, 0.18, count)
    return Nuclei(gland.centre + base * depth, radii, angles, rng.uniform(0.75, 1.0, count))


def _nuclei(rng: np.random.Generator, nuclei: Nuclei, size_px: int) -> np.ndarray:
    """Draw nuclei with a darker membrane and clumped chromatin, (H, W) in [0, about 1]; and the
    share of each pixel that they cover: (2, H, W)."""
    whole, core, outlines = (canvas.Mask(size_px) for _ in range(3))
    shapes = canvas.ellipses(nuclei.radii, nuclei.angles, 20) * _dents(rng, len(nuclei.dark), 20)
    whole.polygons(nuclei.centres[:, None] + shapes, nuclei.dark)
    core.polygons(nuclei.centres[:, None] + shapes * 0.74, nuclei.dark)
    outlines.polygons(nuclei.centres[:, None] + shapes)
    chromatin = 0.10 * canvas.noise(rng, size_px, min(size_px, 48))
    dark = whole.reduced() * (1 + chromatin) - 0.22 * core.reduced()
    return np.stack([dark, outlines.reduced()])


def _dents(rng: np.random.Generator, count: int, corners: int) -> np.ndarray:
    """Return smooth factors (count, corners, 1) about 1 that make round outlines uneven."""
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    waves = [
        rng.normal(0, 0.05, (count, 1)) * np.cos(k * turn + rng.uniform(0, 6, (count, 1)))
        for k in (2, 3)
    ]
    return 1 + np.sum(waves, axis=0)[..., None]


def _stained(
    rng: np.random.Generator, slide: Slide, blue: np.ndarray, pink: np.ndarray, size_px: int
) -> np.ndarray:
    """Turn stain into light: what passes is exp(-absorbance)."""
    thick = 1.0 + 0.06 * canvas.noise(rng, size_px, 2) + rng.normal(0, 0.04)
    absorbed = (
        blue[..., None] * slide.haematoxylin + (pink * (1 - 0.55 * blue))[..., None] * slide.eosin
    )
    light = 0.955 * np.exp(-absorbed * thick[..., None])
    return np.clip(light + rng.normal(0, 0.010, light.shape), 0, 1).astype(np.float32)
