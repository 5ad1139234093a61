import pytest
import torch
from diffusers import ControlNetModel

from medsynth import protocol
from medsynth.models.control import Controlled, build_control, open_control
from medsynth.models.denoiser import Denoiser, guided

X, T = (3, 4, 8, 8), torch.tensor([10, 500, 990])
CONDITION = torch.tensor([[1, 2], [3, 0], [0, 0]])


def base(attention=(False, True), middle=True) -> Denoiser:
    torch.manual_seed(0)
    settings = protocol.Diffusion(
        widths=(16, 32), attention=attention, middle_attention=middle, layers=1, groups=8
    )
    return Denoiser.build(settings, latent_channels=4, latent_px=8, tokens=5).eval()


def trained(denoiser: Denoiser, *, channels: int = 2, downscale: int = 4) -> Controlled:
    """A control whose zero convolutions are zero no more."""
    controlled = Controlled(
        denoiser, build_control(denoiser, channels=channels, downscale=downscale)
    )
    torch.manual_seed(1)
    for weight in controlled.net.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    return controlled.eval()


@pytest.mark.parametrize("downscale", [1, 2, 4, 8, 16])
@pytest.mark.parametrize(("attention", "middle"), [((False, False), False), ((True, True), True)])
def test_before_training_the_controlled_denoiser_is_the_base_bit_for_bit(
    attention, middle, downscale
):
    denoiser, x = base(attention, middle), torch.randn(X)
    net = build_control(denoiser, channels=2, downscale=downscale)
    maps = torch.rand(3, 2, 8 * downscale, 8 * downscale)
    with torch.no_grad():
        made = Controlled(denoiser, net)(x, T, CONDITION, maps)
        assert torch.equal(made, denoiser(x, T, CONDITION))


def test_maps_of_a_side_that_is_no_power_of_two_of_the_latents_are_refused():
    with pytest.raises(ValueError, match="power of 2, got 6"):
        build_control(base(), channels=1, downscale=6)


def test_the_copy_starts_with_the_weights_of_the_base():
    denoiser = base()
    net = build_control(denoiser, channels=1, downscale=4)
    own, copied = net.state_dict(), denoiser.unet.state_dict()
    shared = [name for name in own if name in copied]
    heads = ("conv_in", "time_embedding", "class_embedding", "down_blocks", "mid_block")
    assert {name.split(".")[0] for name in shared} == set(heads)
    assert all(torch.equal(own[name], copied[name]) for name in shared)


def test_a_trained_control_answers_to_its_map_and_each_image_to_its_own():
    controlled, x = trained(base()), torch.randn(X)
    maps = torch.rand(3, 2, 32, 32)
    with torch.no_grad():
        one = controlled(x, T, CONDITION, maps)
        other = controlled(x, T, CONDITION, torch.cat([1 - maps[:1], maps[1:]]))
    assert not torch.allclose(one[0], other[0], atol=1e-4)
    torch.testing.assert_close(one[1:], other[1:], atol=1e-5, rtol=1e-4)


def test_the_base_is_in_no_optimiser_and_gets_no_gradient():
    denoiser = base()
    controlled = trained(denoiser)
    controlled(torch.randn(X), T, CONDITION, torch.rand(3, 2, 32, 32)).sum().backward()
    own = {id(weight) for weight in controlled.parameters()}
    assert own == {id(weight) for weight in controlled.net.parameters()}
    assert all(weight.grad is not None for weight in controlled.parameters())
    assert all(weight.grad is None for weight in denoiser.parameters())
    assert all(name.startswith("net.") for name in controlled.state_dict())


def test_both_branches_of_guidance_are_controlled():
    controlled, x = trained(base()), torch.randn(X)
    maps = torch.rand(3, 2, 32, 32)
    with torch.no_grad():
        made = guided(controlled.under(maps), CONDITION, 2.0)(x, T)
        null = controlled(x, T, torch.zeros_like(CONDITION), maps)
        full = controlled(x, T, CONDITION, maps)
    torch.testing.assert_close(made, 2 * full - null, atol=1e-4, rtol=1e-3)


def test_saved_it_opens_in_plain_diffusers_and_predicts_the_same(tmp_path):
    denoiser, x, maps = base(), torch.randn(X), torch.rand(3, 2, 32, 32)
    controlled = trained(denoiser)
    controlled.net.save_pretrained(tmp_path)
    with torch.no_grad():
        wanted = controlled(x, T, CONDITION, maps)
        for net in (open_control(tmp_path), ControlNetModel.from_pretrained(tmp_path).eval()):
            assert torch.equal(Controlled(denoiser, net)(x, T, CONDITION, maps), wanted)
