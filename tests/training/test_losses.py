import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from medsynth import protocol
from medsynth.cohort import Cohort, Record
from medsynth.data.loader import Frames
from medsynth.models.autoencoder import Autoencoder
from medsynth.models.diffusion import Schedule
from medsynth.training.augment import (
    compress,
    disguise,
    draw_turns,
    flip_and_turn,
    move,
    soften,
    views_of,
)
from medsynth.training.autoencoder import fit_autoencoder, kl_divergence
from medsynth.training.detail import ReconstructionLoss
from medsynth.training.diffusion import denoising_loss, encode_views, times_at
from medsynth.training.lens import contrast


def cohort(images: int = 24, size: int = 32, channels: int = 1) -> Cohort:
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (images, channels, 4, 4)))
    smooth = F.interpolate(coarse, size, mode="bilinear").numpy()
    pixels = np.rint(smooth).astype(np.uint8).transpose(0, 2, 3, 1)
    records = tuple(Record(f"r{i}", "real", patient=f"p{i}") for i in range(images))
    return Cohort("chest_xray", records, pixels)


def test_kl_is_that_of_two_normals():
    mean, log_variance = torch.randn(2, 3, 4, 5, 5).unbind(0)
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    standard = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(normal, standard).flatten(1).sum(1).mean()
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)


def test_reconstruction_loss_is_zero_for_the_same_and_grows_with_error():
    loss, images = ReconstructionLoss(1.0), torch.rand(2, 1, 16, 16) * 2 - 1
    noise = torch.randn_like(images)
    values = [loss(images + amount * noise, images).item() for amount in (0.0, 0.05, 0.2)]
    assert values[0] == pytest.approx(0.0, abs=1e-6)
    assert values[0] < values[1] < values[2]


@pytest.mark.parametrize("objective", ["v", "eps", "flow"])
def test_perfect_prediction_has_no_loss(objective):
    schedule = Schedule("cosine", 100)
    settings = protocol.Diffusion(objective=objective)
    z, eps, t = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4), torch.tensor([1, 50, 98])
    truth = schedule.target(z, eps, t, objective)
    loss = denoising_loss(lambda *_: truth, z, None, t, eps, schedule, settings)
    assert torch.equal(loss, torch.zeros(3))


def test_logit_normal_times_are_distributed_as_their_name_says():
    settings = protocol.Diffusion(times="logit_normal")
    shares = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    times = times_at(shares, Schedule.of(settings), settings)
    logits = torch.logit((times + 0.5) / 1000)
    assert logits.mean().item() == pytest.approx(0.0, abs=0.01)
    assert logits.std().item() == pytest.approx(1.0, abs=0.01)
    plain = times_at(shares, Schedule("cosine", 1000), protocol.Diffusion())
    assert torch.equal(plain.bincount(), torch.full((1000,), 100))
    ends = times_at(torch.tensor([0.0, 1.0 - 1e-9]).double(), Schedule("flow", 1000), settings)
    assert ends.tolist()[0] == 0
    assert ends.max() <= 999


def test_contrast_is_low_for_pairs_and_high_for_strangers():
    rows = F.normalize(torch.randn(16, 8), dim=1)
    patients = torch.arange(16)
    assert contrast(rows, rows, patients) < contrast(rows, rows.flip(0), patients)


def test_contrast_neither_pulls_nor_pushes_other_images_of_the_same_patient():
    first, second = torch.randn(2, 4, 8).unbind(0)
    patients = torch.tensor([0, 0, 1, 2])
    before = contrast(first, second, patients)
    a, b = F.normalize(first, dim=1), F.normalize(second, dim=1)
    scores = (a @ b.T / 0.1).clone()
    scores[0, 1] = scores[1, 0] = -torch.inf
    own = torch.arange(4)
    expected = (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
    torch.testing.assert_close(before, expected)


@pytest.mark.parametrize(
    ("symmetry", "views"), [("identity", 1), ("flip", 2), ("flips and rotations", 8)]
)
def test_flips_and_turns_give_exactly_the_symmetry_s_views(symmetry, views):
    torch.manual_seed(0)
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    turns = draw_turns(400, symmetry, "cpu")
    made = flip_and_turn(image.repeat(400, 1, 1, 1), turns)
    found = {tuple(view.flatten().tolist()) for view in made}
    expected = set()
    for quarter, mirrored in views_of(symmetry):
        view = image.rot90(quarter, (2, 3))
        expected.add(tuple((view.flip(3) if mirrored else view).flatten().tolist()))
    assert len(views_of(symmetry)) == len(expected) == views
    assert found == expected


def test_moving_by_nothing_changes_nothing():
    images = torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(move(images, zoom=1.0, degrees=0.0, shift=0.0), images)


def test_bending_moves_as_far_as_it_says_and_smoothly():
    torch.manual_seed(0)
    ramp = torch.linspace(-1, 1, 64).expand(300, 1, 64, 64)
    still = {"zoom": 1.0, "degrees": 0.0, "shift": 0.0}
    moved = (move(ramp, **still, bend=0.02) - ramp)[:, 0, 8:-8, 8:-8]
    far = moved.square().mean((1, 2)).sqrt() / 2  # white to black is 2, a side is 1
    assert 0.005 < far.mean() < 0.015  # the share is drawn from 0 to 0.02
    assert far.max() < 0.03
    assert moved.diff(dim=2).abs().mean() < 0.25 * moved.abs().mean()


def test_softening_is_a_binomial_blur_of_every_second_image():
    torch.manual_seed(0)
    image = torch.zeros(1, 1, 7, 7)
    image[0, 0, 3, 3] = 16.0
    made = soften(image.repeat(200, 1, 1, 1))[:, 0]
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
    changed = (made != image[0]).any(1).any(1)
    assert 70 < changed.sum() < 130
    assert (made[changed][:, 2:5, 2:5] == kernel).all()
    torch.testing.assert_close(soften(torch.ones(9, 2, 5, 5)), torch.ones(9, 2, 5, 5))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 28)])
def test_compressing_rounds_as_jpeg_does(height, width):
    torch.manual_seed(0)
    rows, columns = torch.arange(height)[:, None] / 5, torch.arange(width)[None] / 3
    image = (rows.sin() * columns.cos() * 0.7 + 0.2 * torch.randn(height, width)).clamp(-1, 1)
    made = compress(image.repeat(20, 1, 1, 1), worst=30, best=30)[:, 0]
    changed = made[(made != image).any(1).any(1)]
    buffer = io.BytesIO()
    grey = ((image + 1) * 127.5).round().byte().numpy()
    Image.fromarray(grey).save(buffer, "JPEG", quality=30)
    jpeg = torch.from_numpy(np.asarray(Image.open(buffer), np.float32) / 127.5 - 1)
    assert 3 < len(changed) < 17
    assert (changed[0] - jpeg).abs().mean() < 0.15 * (image - jpeg).abs().mean()


def test_disguise_keeps_range_and_shape():
    images = torch.rand(8, 3, 32, 32) * 2 - 1
    made = disguise(images)
    assert made.shape == images.shape
    assert made.min() >= -1
    assert made.max() <= 1
    assert not torch.allclose(made, images)


def small(**knobs) -> protocol.Autoencoder:
    training = protocol.Optimiser(images=64, batch=8, learning_rate=1e-3)
    return protocol.Autoencoder(widths=(16, 16), latent_channels=4, training=training, **knobs)


@pytest.mark.parametrize(
    "adversarial", [None, protocol.Adversarial(after_images=32, learning_rate=1e-4)]
)
def test_autoencoder_learns_and_stores_a_scale_that_normalises_latents(tmp_path, adversarial):
    frames = Frames(cohort(), np.arange(20))
    held = Frames(cohort(), np.arange(20, 24))
    model = fit_autoencoder(
        frames,
        held,
        small(adversarial=adversarial),
        symmetry="identity",
        seed=0,
        folder=tmp_path,
        device="cpu",
    )
    with torch.no_grad():
        z = Autoencoder.load(tmp_path).encode(torch.from_numpy(frames[slice(None)]))
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(4), atol=1e-2, rtol=0)
    assert model.training is False
    log = (tmp_path / "log.jsonl").read_text()
    assert ("discriminator" in log) == (adversarial is not None)


def test_a_lens_of_the_same_images_adds_its_distance_and_outlives_a_kill(tmp_path):
    frames, held = Frames(cohort(), np.arange(20)), Frames(cohort(), np.arange(20, 24))
    training = protocol.Optimiser(images=40, batch=10, learning_rate=1e-3)
    asked = protocol.Perceptual(weight=0.1, width=8, training=training)

    def weights(name: str, settings, progress=lambda what, share: None) -> torch.Tensor:
        (tmp_path / name).mkdir(exist_ok=True)
        model = fit_autoencoder(
            frames, held, settings, symmetry="identity", seed=0, folder=tmp_path / name,
            device="cpu", progress=progress,
        )  # fmt: skip
        return torch.cat([value.detach().flatten() for value in model.parameters()])

    class Killed(Exception):
        pass

    def dies(what: str, share: float) -> None:
        if what == "autoencoder" and share > 0.4:
            raise Killed

    whole = weights("whole", small(perceptual=asked))
    assert not torch.equal(whole, weights("without", small()))
    with pytest.raises(Killed):
        weights("killed", small(perceptual=asked), dies)
    assert torch.equal(whole, weights("killed", small(perceptual=asked)))


def test_latents_are_encoded_in_order_for_every_view(tmp_path):
    model = Autoencoder.build(small(), channels=1).eval()
    frames = Frames(cohort(70), np.arange(69, -1, -1))
    latents = encode_views(model, frames, "flip", tmp_path / "z.npy", "cpu")
    assert latents.shape == (2, 70, 4, 16, 16)
    with torch.no_grad():
        last = torch.from_numpy(frames[np.array([69])])
        torch.testing.assert_close(
            torch.from_numpy(latents[0, 69]), model.encode(last)[0], atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(
            torch.from_numpy(latents[1, 69]), model.encode(last.flip(3))[0], atol=1e-5, rtol=1e-4
        )
