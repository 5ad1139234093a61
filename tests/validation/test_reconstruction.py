from __future__ import annotations

import csv

import numpy as np
import pytest
from known_truth import cohort, make_case
from skimage.metrics import structural_similarity

from medsynth.validation import reconstruction

TRAIN, HOLDOUT = cohort(range(20)), cohort(range(100, 120))


def measured(folder, reconstruct):
    case = make_case(folder, TRAIN, HOLDOUT, HOLDOUT, reconstruct=reconstruct)
    return {f.name.removeprefix("reconstruction."): f for f in reconstruction.measure(case)}


def test_without_an_autoencoder_nothing_is_measured(tmp_path):
    assert measured(tmp_path, None) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_perfect_autoencoder_has_no_error(tmp_path):
    found = measured(tmp_path, lambda images: images)
    assert found["mse"].value == 0
    assert found["psnr"].value == pytest.approx(100)
    assert found["ssim"].value == pytest.approx(1)
    assert found["ms_ssim"].value == pytest.approx(1)


def test_a_known_error_is_measured_on_the_scale_of_white(tmp_path):
    found = measured(tmp_path, lambda images: np.where(images > 0, images - 0.2, images + 0.2))
    assert found["mse"].value == pytest.approx(0.01, rel=1e-4)
    assert found["psnr"].value == pytest.approx(20, abs=1e-3)


def test_more_noise_is_worse_in_every_measure(tmp_path):
    def noisy(spread):
        rng = np.random.default_rng(0)
        return lambda images: images + spread * rng.standard_normal(images.shape)

    little, much = measured(tmp_path, noisy(0.1)), measured(tmp_path, noisy(0.5))
    assert much["mse"].low > little["mse"].high
    for name in ("psnr", "ssim", "ms_ssim"):
        assert much[name].high < little[name].low, name


def test_ssim_agrees_with_scikit_image():
    rng = np.random.default_rng(1)
    a = HOLDOUT.floats(slice(3))
    b = np.clip(a + 0.2 * rng.standard_normal(a.shape), -1, 1).astype(np.float32)
    wanted = [
        structural_similarity(
            (x + 1) / 2,
            (y + 1) / 2,
            data_range=1.0,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for x, y in zip(a, b, strict=True)
    ]
    assert reconstruction.compare(a, b)["ssim"] == pytest.approx(wanted, abs=2e-3)


@pytest.mark.parametrize(
    ("size_px", "count"), [(16, 1), (32, 2), (64, 3), (128, 4), (256, 5), (1024, 5)]
)
def test_ms_ssim_takes_as_many_scales_as_hold_its_window(size_px, count):
    assert reconstruction.scales(size_px) == count
    if size_px <= 128:
        image = np.random.default_rng(0).uniform(-1, 1, (1, 1, size_px, size_px))
        assert reconstruction.compare(image, image)["ms_ssim"] == pytest.approx([1])


def test_the_reference_is_training_patients(tmp_path):
    known = {image.tobytes() for image in TRAIN.floats()}

    def by_heart(images):
        return np.stack([x if x.tobytes() in known else x * 0.5 for x in images])

    found = measured(tmp_path, by_heart)
    assert found["mse"].reference == 0
    assert found["mse"].low > 0


def test_the_worst_images_come_first_in_the_private_table(tmp_path):
    spoilt = HOLDOUT.floats([7])[0]

    def spoil(images):
        return np.stack([-x if (x == spoilt).all() else x * 0.99 for x in images])

    measured(tmp_path, spoil)
    rows = list(csv.DictReader((tmp_path / "reconstructions.csv").read_text().splitlines()))
    assert rows[0]["holdout"] == HOLDOUT.records[7].id
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "reconstructions_worst.png",
        "reconstructions_typical.png",
    }
