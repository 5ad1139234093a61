import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention

from medsynth import protocol
from medsynth.errors import DataError
from medsynth.models.autoencoder import Autoencoder, Principal

TRAINING = {"images": 8, "batch": 8, "learning_rate": 1e-3}


def settings(**knobs) -> protocol.Autoencoder:
    return protocol.Autoencoder(training=protocol.Optimiser(**TRAINING), **knobs)


def small(**knobs) -> Autoencoder:
    torch.manual_seed(0)
    knobs = {"widths": (16, 16, 32), "latent_channels": 4, **knobs}
    return Autoencoder.build(settings(**knobs), channels=3)


def pictures(count: int = 6, size: int = 32) -> torch.Tensor:
    """Smooth random images: neighbouring pixels agree, as in photographs."""
    torch.manual_seed(1)
    coarse = torch.randn(count, 3, 4, 4)
    return torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(-1, 1)


def test_published_network_makes_latents_eight_times_smaller_with_eight_channels():
    published = Autoencoder.build(protocol.Autoencoder(), channels=3)
    mean, log_variance = published.moments(torch.zeros(1, 3, 64, 64))
    assert mean.shape == log_variance.shape == (1, 8, 8, 8)
    assert not any(isinstance(module, Attention) for module in published.modules())


@pytest.mark.parametrize("widths", [(16, 16), (16, 16, 32), (16, 16, 32, 32)])
@pytest.mark.parametrize("fold_px", [1, 2])
def test_second_output_has_half_the_size(widths, fold_px):
    made, half, _, _ = small(widths=widths, fold_px=fold_px)(pictures())
    assert made.shape == (6, 3, 32, 32)
    assert half.shape == (6, 3, 16, 16)


@pytest.mark.parametrize(("fold_px", "widths"), [(4, (16,)), (2, (16, 16, 16))])
def test_saved_and_loaded_it_reconstructs_the_same(tmp_path, fold_px, widths):
    model = small(fold_px=fold_px, widths=widths)
    model.start_from(pictures(40))
    model.set_scale(torch.arange(4.0), torch.arange(1.0, 5.0))
    model.eval().save(tmp_path)
    again = Autoencoder.load(tmp_path)
    assert torch.equal(again.reconstruct(pictures()), model.reconstruct(pictures()))
    assert torch.equal(again.encode(pictures()), model.encode(pictures()))


def test_published_layout_opens_in_plain_diffusers_with_its_scale(tmp_path):
    model = small().eval()
    model.set_scale(torch.arange(4.0), torch.arange(1.0, 5.0))
    model.save(tmp_path)
    plain = AutoencoderKL.from_pretrained(tmp_path)
    mean = plain.encode(pictures()).latent_dist.mode()
    scale = torch.tensor(plain.config.latents_std).reshape(-1, 1, 1)
    shift = torch.tensor(plain.config.latents_mean).reshape(-1, 1, 1)
    torch.testing.assert_close((mean - shift) / scale, model.encode(pictures()))
    torch.testing.assert_close(
        plain.decode(mean).sample.clamp(-1, 1), model.reconstruct(pictures())
    )


@pytest.mark.parametrize(
    ("fold_px", "widths", "square_px"), [(4, (16,), 4), (2, (16, 16), 4), (1, (16, 16, 16), 4)]
)
def test_principal_start_begins_as_the_best_linear_code(fold_px, widths, square_px):
    """The oracle: numpy's singular vectors of the same squares."""
    import numpy as np

    model = small(fold_px=fold_px, widths=widths).eval()
    images = pictures(40)
    model.start_from(images)
    folded = torch.nn.functional.pixel_unshuffle(images, square_px)
    squares = folded.permute(0, 2, 3, 1).reshape(-1, folded.shape[1]).double().numpy()
    mean = squares.mean(0)
    _, _, rows = np.linalg.svd(squares - mean, full_matrices=False)
    best = (squares - mean) @ rows[:4].T @ rows[:4] + mean
    with torch.no_grad():
        made = model.decode_raw(model.moments(images)[0])[0]
    made = torch.nn.functional.pixel_unshuffle(made, square_px).permute(0, 2, 3, 1)
    np.testing.assert_allclose(made.reshape(-1, folded.shape[1]).numpy(), best, atol=1e-4)


def test_principal_code_has_unit_variance():
    images = torch.randn(50, 3, 16, 16) * torch.linspace(0.1, 2, 3)[:, None, None]
    code = Principal.fit(images, 3, square_px=2).encode(images)
    torch.testing.assert_close(code.std((0, 2, 3)), torch.ones(3), atol=1e-2, rtol=0)


def test_reconstruction_is_deterministic():
    model = small().eval()
    assert torch.equal(model.reconstruct(pictures()), model.reconstruct(pictures()))


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no medsynth autoencoder"):
        Autoencoder.load(tmp_path)
