"""What all phantoms are drawn with: anti-aliased masks, smooth noise, curves.

Coordinates run from -1 to 1 over the image, x to the right and y downwards.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

FINEST_PX = 256  # masks are drawn on at least so many pixels, then reduced


class Mask:
    """A coverage mask that is drawn at 2 to 16 times the size and averaged down."""

    def __init__(self, size_px: int):
        self.reduction = max(2, -(-FINEST_PX // size_px))
        self.side = size_px * self.reduction
        self.image = Image.new("L", (self.side, self.side))
        self._draw = ImageDraw.Draw(self.image)

    def polygons(self, shapes: np.ndarray, values: np.ndarray | float = 1.0) -> None:
        """Fill (B, N, 2) outlines with values in [0, 1], later ones over earlier ones."""
        corners = ((shapes + 1.0) * (self.side / 2.0) - 0.5).reshape(len(shapes), -1).tolist()
        fills = np.rint(np.broadcast_to(values, len(shapes)) * 255).astype(int).tolist()
        for outline, fill in zip(corners, fills, strict=True):
            self._draw.polygon(outline, fill=fill)

    def ribbons(self, lines: np.ndarray, widths: np.ndarray) -> None:
        """Draw lines (B, N, 2) with full widths (B, N); what is thinner than a pixel is fainter."""
        drawn = np.maximum(widths, 2.0 / self.side)
        self.polygons(ribbon(lines, drawn), (widths / drawn).mean(-1))

    def reduced(self) -> np.ndarray:
        """Return the mask as (H, W) float32 in [0, 1]."""
        return np.asarray(self.image.reduce(self.reduction), np.float32) / 255.0


def grid(size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the x and y of all pixel centres, (H, W) float32 each."""
    line = ((np.arange(size_px, dtype=np.float32) + 0.5) * (2.0 / size_px)) - 1.0
    y, x = np.meshgrid(line, line, indexing="ij")
    return x, y


def noise(rng: np.random.Generator, size_px: int, cells: int) -> np.ndarray:
    """Return smooth noise with `cells` bumps a side, (H, W) float32, mean about 0, sd about 1."""
    coarse = Image.fromarray(rng.standard_normal((cells + 2, cells + 2)).astype(np.float32))
    box = (1.0, 1.0, cells + 1.0, cells + 1.0)
    fine = coarse.resize((size_px, size_px), Image.Resampling.BICUBIC, box=box)
    return np.asarray(fine) * np.float32(1.35)


def clouds(rng: np.random.Generator, size_px: int, cells: int, octaves: int) -> np.ndarray:
    """Return noise with structure at several scales, each half as strong as the coarser one."""
    layers = [noise(rng, size_px, cells * 2**k) * 0.5**k for k in range(octaves)]
    return np.sum(layers, axis=0)


def ellipses(radii: np.ndarray, angles: np.ndarray, corners: int) -> np.ndarray:
    """Return outlines (B, corners, 2) about the origin from radii (B, 2) and angles (B,)."""
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], -1)
    return rotate(circle * radii[:, None], angles[:, None])


def rotate(points: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    """Turn (..., 2) points about the origin by angles in radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.stack(
        [points[..., 0] * c - points[..., 1] * s, points[..., 0] * s + points[..., 1] * c], -1
    )


def ribbon(points: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Return outlines (..., 2N, 2) of lines through points (..., N, 2) with widths (..., N)."""
    along = np.gradient(points, axis=-2)
    half = widths / 2 / np.maximum(np.hypot(along[..., 0], along[..., 1]), 1e-9)
    across = np.stack([-along[..., 1] * half, along[..., 0] * half], -1)
    return np.concatenate([points + across, (points - across)[..., ::-1, :]], axis=-2)


def curve(knots: np.ndarray, samples: int = 12, *, closed: bool = False) -> np.ndarray:
    """Return a smooth line through (K, 2) knots, `samples` points between neighbours."""
    if closed:
        padded = np.concatenate([knots[-1:], knots, knots[:2]])
    else:
        before, after = 2 * knots[:1] - knots[1:2], 2 * knots[-1:] - knots[-2:-1]
        padded = np.concatenate([before, knots, after])
    a, b, c, d = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = (np.arange(samples) / samples)[None, :, None]
    a, b, c, d = (part[:, None] for part in (a, b, c, d))
    points = 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )
    points = points.reshape(-1, 2)
    return points if closed else np.concatenate([points, knots[-1:]])


def falloff(distance: np.ndarray, near: float, far: float) -> np.ndarray:
    """Return 1 below `near`, 0 above `far`, and a smooth fall between."""
    t = np.clip((far - distance) / (far - near), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)
