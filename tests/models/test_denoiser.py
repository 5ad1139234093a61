import pytest
import torch

from medsynth import protocol
from medsynth.errors import DataError
from medsynth.models.denoiser import Denoiser, drop_condition, encode_conditions, guided
from medsynth.vocabulary import NULL, Vocabulary


def build(attention=(False, True)) -> Denoiser:
    torch.manual_seed(0)
    settings = protocol.Diffusion(
        widths=(16, 32),
        attention=attention,
        layers=1,
        groups=8,
        training=protocol.Optimiser(images=8, batch=8, learning_rate=1e-3),
    )
    return Denoiser.build(settings, latent_channels=4, latent_px=8, tokens=5).eval()


@pytest.mark.parametrize("attention", [(False, False), (False, True), (True, True)])
def test_condition_changes_the_prediction_with_and_without_attention(attention):
    denoiser, x, t = build(attention), torch.randn(2, 4, 8, 8), torch.tensor([10, 900])
    one = denoiser(x, t, torch.tensor([[1, 2], [1, 2]]))
    other = denoiser(x, t, torch.tensor([[3, 2], [3, 2]]))
    assert one.shape == x.shape
    assert not torch.allclose(one, other)


def test_saved_and_loaded_it_predicts_the_same(tmp_path):
    denoiser = build()
    denoiser.save(tmp_path)
    again = Denoiser.load(tmp_path)
    x, t, c = torch.randn(2, 4, 8, 8), torch.tensor([10, 900]), torch.tensor([[1, 2], [3, 0]])
    assert torch.equal(again(x, t, c), denoiser(x, t, c))


def test_dropping_makes_whole_conditions_null_one_coin_a_sample():
    generator = torch.Generator().manual_seed(0)
    condition = torch.tensor([[1, 2]]).repeat(20_000, 1)
    dropped = drop_condition(condition, 0.2, generator)
    null = (dropped == NULL).all(1)
    assert (null | (dropped == condition).all(1)).all()
    assert null.float().mean().item() == pytest.approx(0.2, abs=0.015)


def test_guidance_is_a_line_through_null_and_condition():
    denoiser, x, t = build(), torch.randn(2, 4, 8, 8), torch.tensor([10, 900])
    condition = torch.tensor([[1, 2], [3, 4]])
    null = guided(denoiser, condition, 0.0)(x, t)
    full = guided(denoiser, condition, 1.0)(x, t)
    assert torch.equal(full, denoiser(x, t, condition))
    assert torch.equal(null, denoiser(x, t, torch.zeros_like(condition)))
    torch.testing.assert_close(
        guided(denoiser, condition, 3.0)(x, t), null + 3 * (full - null), atol=1e-5, rtol=1e-4
    )


def test_unknown_value_is_named():
    vocabulary = Vocabulary.from_labels([{"view": "PA"}])
    with pytest.raises(DataError, match="no token for view=AP"):
        encode_conditions(vocabulary, [{"view": "AP"}])
