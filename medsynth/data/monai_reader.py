"""medsynth's reader where MONAI wants one; on its own, for importing MONAI takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from monai.data import ImageReader

from .options import ReadOptions
from .readers import read_image


class MedImageReader(ImageReader):
    """Read image files for MONAI pipelines as `read_image` does: (C, H, W) float32 in [0, 1].

    Call it directly, or give it to no one but a transform of your own: MONAI's `LoadImage` falls
    back to other readers without a word where one fails, and adds the file's path to the metadata.
    """

    def __init__(self, options: ReadOptions):
        self.options = options

    def verify_suffix(self, filename: Sequence[str | Path] | str | Path) -> bool:
        """Return True: the content decides, when it is read."""
        return True

    def read(self, data: Sequence[str | Path] | str | Path, **kwargs) -> np.ndarray:
        """Read one file. Raises BadImage."""
        path = data if isinstance(data, str | Path) else data[0]
        return read_image(Path(path), self.options)

    def get_data(self, img: np.ndarray) -> tuple[np.ndarray, dict]:
        """Return the image and its shape; no path and no tag goes along."""
        return img, {"spatial_shape": np.array(img.shape[1:]), "original_channel_dim": 0}
