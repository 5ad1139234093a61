from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from torchmetrics.functional import image as metrics

from medsynth.validation import perception


def test_without_torchvision_it_is_left_out_and_says_why(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "torchvision" in perception.missing()


def test_without_weights_it_is_left_out_and_says_which_would_be_needed(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert perception.WEIGHTS in perception.missing()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / perception.WEIGHTS).touch()
    assert perception.missing() == ""


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_compared_one_by_one_in_colour(monkeypatch, channels):
    def stand_in(a, b, net_type):
        assert a.shape == b.shape == (1, 3, 16, 16)
        return (a - b).abs().mean()

    monkeypatch.setattr(metrics, "learned_perceptual_image_patch_similarity", stand_in)
    images = np.zeros((3, channels, 16, 16), np.float32)
    shifted = images + np.array([0, 0.5, 1], np.float32).reshape(3, 1, 1, 1)
    assert perception.lpips(images, shifted) == pytest.approx([0, 0.5, 1])
