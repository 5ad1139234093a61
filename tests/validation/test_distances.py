from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from medsynth.validation.distances import frechet, frechet_interval, kernel, kernel_interval


class Same(torch.nn.Module):
    """Hand (N, D, 1, 1) "images" on as their features."""

    num_features = 6

    def forward(self, x):
        return x.reshape(len(x), -1).double()


def clouds(n=200, m=150, d=6):
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((d, d))
    return rng.standard_normal((n, d)), rng.standard_normal((m, d)) @ mix / 2 + 0.3


def test_frechet_agrees_with_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    a, b = clouds()
    metric = FrechetInceptionDistance(
        feature=Same(), normalize=True, input_img_size=(6, 1, 1)
    ).set_dtype(torch.float64)
    metric.update(torch.from_numpy(a)[:, :, None, None], real=True)
    metric.update(torch.from_numpy(b)[:, :, None, None], real=False)
    assert frechet(a, b) == pytest.approx(float(metric.compute()), rel=1e-4)


def test_frechet_of_gaussians_is_the_closed_form():
    rng = np.random.default_rng(1)
    spread_a, spread_b, apart = np.array([1, 2, 0.5]), np.array([2, 1, 0.5]), np.array([0, 3, 1])
    whitened = rng.standard_normal((500, 3))
    whitened = np.linalg.solve(
        np.linalg.cholesky(np.cov(whitened.T)), (whitened - whitened.mean(0)).T
    ).T
    wanted = ((spread_a - spread_b) ** 2).sum() + (apart**2).sum()
    assert frechet(whitened * spread_a, whitened * spread_b + apart) == pytest.approx(wanted)


def test_frechet_of_fewer_images_than_features_is_finite_and_zero_for_itself():
    a = np.random.default_rng(2).standard_normal((10, 40))
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)


def test_kernel_agrees_with_a_loop():
    a, b = clouds(30, 20, 4)

    def k(x, y):
        return (x @ y / 4 + 1) ** 3

    def within(x):
        pairs = [k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]
        return np.mean(pairs)

    across = np.mean([k(x, y) for x in a for y in b])
    assert kernel(a, b) == pytest.approx(within(a) + within(b) - 2 * across)


@pytest.mark.filterwarnings("ignore:Metric .Kernel Inception Distance. will save")
def test_kernel_agrees_with_torchmetrics():
    from torchmetrics.image.kid import KernelInceptionDistance

    a, b = clouds(50, 50)
    metric = KernelInceptionDistance(feature=Same(), subsets=1, subset_size=50, normalize=True)
    metric.update(torch.from_numpy(a)[:, :, None, None], real=True)
    metric.update(torch.from_numpy(b)[:, :, None, None], real=False)
    assert kernel(a, b) == pytest.approx(float(metric.compute()[0]), rel=1e-4)


@pytest.mark.parametrize("measure", [frechet, kernel])
def test_order_does_not_matter(measure):
    a, b = clouds()
    assert measure(a[::-1], b[::-1]) == pytest.approx(measure(a, b))


@pytest.mark.parametrize("measure", [frechet, kernel])
def test_farther_clouds_are_farther(measure):
    a = clouds()[0]
    assert measure(a, a + 0.1) < measure(a, a + 1) < measure(a, a + 3)


@pytest.mark.parametrize(
    ("measure", "plain"), [(frechet_interval, frechet), (kernel_interval, kernel)]
)
def test_the_interval_stands_around_the_value(measure, plain):
    a, b = clouds()
    found = measure(a, b, np.arange(200) % 20, np.arange(150) % 20)
    assert found.value == pytest.approx(plain(a, b))
    assert found.low < found.value < found.high


def test_the_kernel_interval_covers_zero_for_equal_sources():
    covered = 0
    for seed in range(100):
        a, b = np.random.default_rng(seed).standard_normal((2, 100, 4))
        found = kernel_interval(a, b, np.arange(100) % 20, np.arange(100) % 20)
        covered += found.low <= 0 <= found.high
    assert covered >= stats.binom.ppf(0.001, 100, 0.95)
