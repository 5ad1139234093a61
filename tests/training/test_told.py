"""What the denoiser is told of an image's changes comes into no sample."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from medsynth import protocol
from medsynth.cohort import Cohort, Record
from medsynth.data.loader import Frames
from medsynth.models.autoencoder import Autoencoder
from medsynth.models.denoiser import Denoiser, guided
from medsynth.models.diffusion import Schedule, ddim, spaced_times
from medsynth.training import diffusion
from medsynth.training.diffusion import fit_diffusion
from medsynth.training.told import Told, change, draw_amounts, encode_changed

ZOOM, TURN, ACROSS, DOWN, MIRROR = range(protocol.AMOUNTS)


def spot(size: int = 32, at: tuple[int, int] = (0, 0), width: float = 2.0) -> torch.Tensor:
    """(1, 1, size, size): a bright spot on black, `at` places right and down of the middle."""
    places = torch.arange(size) - (size - 1) / 2
    across, down = (torch.exp(-(((places - shift) / width) ** 2) / 2) for shift in at)
    return 2 * (down[:, None] * across[None, :])[None, None] - 1


def done(images: torch.Tensor, settings: protocol.Told, **amounts: float) -> torch.Tensor:
    row = torch.zeros(len(images), protocol.AMOUNTS)
    for name, value in amounts.items():
        row[
            :, {"zoom": ZOOM, "turn": TURN, "across": ACROSS, "down": DOWN, "mirror": MIRROR}[name]
        ] = value
    return change(images, row, settings)


def test_no_amount_changes_nothing():
    images = torch.rand(3, 3, 24, 24) * 2 - 1
    torch.testing.assert_close(done(images, protocol.Told()), images, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "at"), [("across", (8, 0)), ("down", (0, 8))])
@pytest.mark.parametrize("amount", [1.0, -0.5])
def test_shifts_move_right_and_down_by_a_share_of_the_side(name, at, amount):
    moved = done(spot(), protocol.Told(shift=0.25), **{name: amount})
    expected = spot(at=tuple(int(amount * step) for step in at))
    torch.testing.assert_close(moved, expected, atol=0.02, rtol=0)


def test_zooming_in_makes_larger_and_out_smaller_by_the_same():
    settings = protocol.Told(zoom=0.5)
    torch.testing.assert_close(done(spot(), settings, zoom=1.0), spot(width=3.0), atol=0.03, rtol=0)
    torch.testing.assert_close(
        done(spot(width=3.0), settings, zoom=-1.0), spot(), atol=0.03, rtol=0
    )


def test_turns_and_mirrors_are_those_of_the_array():
    image, settings = spot(at=(7, 4)), protocol.Told(degrees=90)
    quarters = [done(image, settings, turn=amount) for amount in (1.0, -1.0)]
    for made, expected in zip(
        quarters, (image.rot90(1, (2, 3)), image.rot90(-1, (2, 3))), strict=True
    ):
        torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(done(image, settings, mirror=1.0), image.flip(3), atol=1e-4, rtol=0)


def test_a_mirror_image_is_shifted_as_any_other():
    """The order is written down: mirrored first, then turned, zoomed and shifted."""
    settings = protocol.Told(shift=0.25)
    both = done(spot(at=(1, 0)), settings, mirror=1.0, across=1.0)
    torch.testing.assert_close(both, spot(at=(7, 0)), atol=0.02, rtol=0)


def test_amounts_are_spread_evenly_and_follow_from_the_seed_and_the_view():
    settings = protocol.Told(mirror=True)
    views = [draw_amounts(settings, 4000, view=k, seed=1) for k in range(3)]
    for view, amounts in enumerate(views):
        assert amounts.shape == (4000, protocol.AMOUNTS)
        assert np.abs(amounts[:, :MIRROR].mean(0)).max() < 0.05
        assert np.allclose(amounts[:, :MIRROR].std(0), 1 / np.sqrt(3), atol=0.03)
        assert (amounts[:, MIRROR] == view % 2).all()
    assert np.array_equal(views[0], draw_amounts(settings, 4000, view=0, seed=1))
    assert not np.array_equal(views[0][:, 0], views[2][:, 0])
    assert not draw_amounts(protocol.Told(), 9, view=1, seed=1)[:, MIRROR].any()


def test_every_view_is_the_code_of_the_image_changed_by_its_amounts(tmp_path):
    torch.manual_seed(0)
    settings = protocol.Autoencoder(
        fold_px=4, widths=(16,), training=protocol.Optimiser(images=8, batch=8, learning_rate=1)
    )
    model, rng = Autoencoder.build(settings, channels=1).eval(), np.random.default_rng(0)
    pixels = rng.integers(0, 256, (70, 16, 16, 1), np.uint8)
    records = tuple(Record(f"r{i}", "real", patient=f"p{i}") for i in range(70))
    frames, told = (
        Frames(Cohort("chest_xray", records, pixels), np.arange(70)),
        protocol.Told(views=2),
    )
    z, amounts = encode_changed(model, frames, told, tmp_path / "z.npy", seed=5, device="cpu")
    assert z.shape == (2, 70, 8, 4, 4)
    assert np.array_equal(amounts[1], draw_amounts(told, 70, view=1, seed=5))
    some = [0, 66]
    changed = change(
        torch.from_numpy(frames[np.array(some)]), torch.from_numpy(amounts[1, some]), told
    )
    with torch.no_grad():
        np.testing.assert_allclose(z[1, some], model.encode(changed).numpy(), atol=1e-4)


def numbered(views: int = 3, count: int = 50) -> Told:
    """Views whose latents, amounts and conditions say which they are."""
    number = 100 * np.arange(1, views + 1, dtype=np.float32)[:, None] + np.arange(count)
    latents = np.broadcast_to(number[..., None, None, None], (views, count, 1, 2, 2)).copy()
    amounts = np.repeat(number[..., None].astype(np.float32), protocol.AMOUNTS, 2)
    return Told(latents, amounts, torch.from_numpy(number).long()[..., None], 0.3)


def test_a_share_is_replaced_by_changed_views_of_itself_and_the_others_say_so():
    torch.manual_seed(0)
    told, chosen = numbered(), np.random.default_rng(0).integers(0, 50, 6000)
    z = chosen.astype(np.float32)[:, None, None, None] * np.ones((1, 1, 2, 2), np.float32)
    mixed, condition, amounts = told.mix(z, torch.from_numpy(chosen)[:, None], chosen, slice(None))
    number = mixed[:, 0, 0, 0]
    changed = number >= 100
    assert changed.mean() == pytest.approx(0.3, abs=0.02)
    assert np.array_equal(number % 100, chosen)
    assert np.bincount((number // 100).astype(int))[1:].min() > 500  # every view has its turn
    assert np.array_equal(condition[:, 0].numpy(), number)
    assert np.array_equal(amounts[:, 0].numpy(), np.where(changed, number, 0))


SETTINGS = protocol.Diffusion(
    widths=(16, 16),
    attention=(False, False),
    middle_attention=False,
    layers=1,
    groups=8,
    ema=0.98,
    min_snr_gamma=None,
    told=protocol.Told(views=1),
    training=protocol.Optimiser(images=38_400, batch=128, learning_rate=5e-3, warmup_images=640),
)


def test_saved_and_loaded_it_hears_the_same_and_silence_is_no_change(tmp_path):
    torch.manual_seed(0)
    model = Denoiser.build(SETTINGS, latent_channels=1, latent_px=8, tokens=2).eval()
    model.save(tmp_path)
    x, t, words = torch.randn(2, 1, 8, 8), torch.tensor([3, 500]), torch.ones(2, 1, dtype=int)
    amounts = torch.rand(2, protocol.AMOUNTS)
    with torch.no_grad():
        silent, zero, told = (
            model(x, t, words),
            model(x, t, words, 0 * amounts),
            model(x, t, words, amounts),
        )
        again = Denoiser.load(tmp_path)(x, t, words, amounts)
    assert torch.equal(silent, zero)
    assert not torch.allclose(silent, told)
    assert torch.equal(again, told)
    plain = SETTINGS.model_copy(update={"told": None})
    Denoiser.build(plain, latent_channels=1, latent_px=8, tokens=2).save(tmp_path / "plain")
    assert Denoiser.load(tmp_path / "plain").told is None


class Toy(nn.Module):
    """A denoiser of 8 x 8 places that learns in seconds, with the real one's way of being told."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(64 + 16 + 8, 128),
            nn.SiLU(),
            nn.Linear(128, 128),
            nn.SiLU(),
            nn.Linear(128, 64),
        )
        self.told = nn.Linear(protocol.AMOUNTS, 8, bias=False)

    @classmethod
    def build(cls, settings, **shape) -> Toy:
        return cls()

    def forward(self, x, t, condition, amounts=None):
        angles = t[:, None] / 1000 * math.pi / 2 * torch.arange(1, 9)
        heard = torch.zeros(len(x), 8) if amounts is None else self.told(amounts)
        seen = torch.cat([x.flatten(1), angles.sin(), angles.cos(), heard], 1)
        return self.body(seen).reshape(x.shape)

    def save(self, folder) -> None:
        """Nothing is kept of it."""


class Echo:
    """An autoencoder for the preview alone."""

    def to(self, device: str) -> Echo:
        return self

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z[:, :1]


def samples_of_spots(folder, *, tell: bool) -> np.ndarray:
    """How far right of the middle spots lie in samples, after training on spots in the middle and
    on ones that were moved by 2 of 8 places; (N,)."""
    count, side = 64, 8
    sides = np.where(np.arange(count) % 2, 1.0, -1.0)
    middle = spot(side, width=1.2).numpy()
    moved = [spot(side, at=(2 * int(x), 0), width=1.2).numpy() for x in sides]
    amounts = np.zeros((1, count, protocol.AMOUNTS), np.float32)
    amounts[0, :, ACROSS] = sides * tell
    words = torch.zeros(1, count, 1, dtype=torch.int64)
    latents = np.repeat(middle[None], count, 1)
    told = Told(np.concatenate(moved)[None], amounts, words, 0.6)
    model = fit_diffusion(
        latents, words, (latents[0, :8], words[0, :8]), Echo(), SETTINGS,
        tokens=1, seed=0, folder=folder, device="cpu", told=told,
    )  # fmt: skip
    schedule = Schedule.of(SETTINGS)
    noise = torch.randn(48, 1, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        denoise = guided(model, words[0, :48], 1.0)
        made = ddim(denoise, noise, schedule, spaced_times(schedule, 12), objective="v")
    light = (made[:, 0].numpy() + 1).clip(0).sum(1)
    places = np.arange(side) - (side - 1) / 2
    return (light * places).sum(1) / light.sum(1)


def test_samples_that_are_told_nothing_are_unchanged_and_leak_where_training_kept_silent(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(diffusion, "Denoiser", Toy)
    for name in ("told", "silent"):
        (tmp_path / name).mkdir()
    told = samples_of_spots(tmp_path / "told", tell=True)
    silent = samples_of_spots(tmp_path / "silent", tell=False)
    assert np.abs(told).max() < 0.5
    assert (np.abs(silent) > 0.5).mean() > 0.3
    assert silent.std() > 3 * told.std()
