import numpy as np
import pytest
import torch

from medsynth import protocol
from medsynth.errors import DataError
from medsynth.models.denoiser import (
    Denoiser,
    drop_condition,
    encode_conditions,
    guided,
    guided_times,
)
from medsynth.models.diffusion import Schedule
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


def test_guided_times_are_those_of_noise_levels_above_the_low_and_up_to_the_high_end():
    schedule = Schedule("cosine", 1000)
    level = np.sqrt((1 - schedule.abar) / schedule.abar)
    at_200, at_600 = level[200], level[600]
    # A hair off the levels themselves, which rounding puts on either side.
    inside = guided_times(schedule, (at_200 * (1 + 1e-9), at_600 * (1 + 1e-9)))
    assert inside.nonzero().flatten().tolist() == list(range(201, 601))
    assert guided_times(schedule, None) is None
    assert guided_times(schedule, (0.0, 1e9)).all()


def test_guidance_in_an_interval_is_full_inside_and_one_plain_pass_elsewhere():
    denoiser, x = build(), torch.randn(2, 4, 8, 8)
    condition, passes = torch.tensor([[1, 2], [3, 4]]), []

    def counted(x, t, condition):
        passes.append(len(x))
        return denoiser(x, t, condition)

    times = torch.arange(1000) >= 500
    partly = guided(counted, condition, 3.0, times=times)
    late, early = torch.tensor([500, 900]), torch.tensor([10, 499])
    torch.testing.assert_close(partly(x, late), guided(denoiser, condition, 3.0)(x, late))
    assert torch.equal(partly(x, early), denoiser(x, early, condition))
    assert passes == [4, 2]
    both = partly(x, torch.tensor([10, 900]))  # an image at each kind of time
    torch.testing.assert_close(both[0], denoiser(x, early, condition)[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        both[1], guided(denoiser, condition, 3.0)(x, late)[1], atol=1e-5, rtol=1e-4
    )


def test_unknown_value_is_named():
    vocabulary = Vocabulary.from_labels([{"view": "PA"}])
    with pytest.raises(DataError, match="no token for view=AP"):
        encode_conditions(vocabulary, [{"view": "AP"}])
