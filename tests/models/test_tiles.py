"""Where memory is short, images come in parts and tiles, and come out as they would whole."""

import pytest
import torch
from torch import nn

from medsynth import protocol
from medsynth.models import tiles
from medsynth.models.autoencoder import Autoencoder
from medsynth.models.tiles import decode_tiled, within_memory


def autoencoder(**knobs) -> Autoencoder:
    """A network with random weights, whose normalisations find different statistics everywhere."""
    torch.manual_seed(0)
    knobs = {"widths": (16, 16, 32), "latent_channels": 3, "layers": 1} | knobs
    made = Autoencoder.build(protocol.Autoencoder(**knobs), channels=1)
    for module in made.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, 0.0, 0.3)
    return made.eval()


def uneven(*shape: int) -> torch.Tensor:
    """Latents that differ from place to place in mean and deviation, as an image's border does."""
    z = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    slope = torch.linspace(-3, 3, shape[-1])
    return z * slope.abs() + slope[:, None]


KNOBS = [
    {},
    {"widths": (16,), "fold_px": 4, "deep_supervision": False},
    {"widths": (16, 16), "fold_px": 2, "layers": 2},
]


@pytest.mark.parametrize("knobs", KNOBS)
@pytest.mark.parametrize("count", [2, 3])
def test_tiles_come_to_what_the_whole_comes_to(knobs, count):
    net, z = autoencoder(**knobs), uneven(2, 3, 20, 20)
    with torch.inference_mode():
        whole = net.decode_raw(z)[0]
        tiled = decode_tiled(net, z, tiles=count)
    assert whole.std() > 0.05
    torch.testing.assert_close(tiled, whole, atol=2e-5, rtol=1e-4)


def test_a_tile_by_itself_would_not(monkeypatch):
    """What is tested above is not true of any way of cutting."""
    net, z = autoencoder(), uneven(1, 3, 20, 20)
    with torch.inference_mode():
        whole = net.decode_raw(z)[0]
        alone = net.decode_raw(z[..., :10])[0]
    assert (alone[..., :32] - whole[..., :32]).abs().max() > 0.05


def test_the_principal_part_is_there_too():
    net = autoencoder(widths=(16, 16), principal_start=True)
    net.start_from(torch.rand(8, 1, 24, 24))
    z = uneven(1, 3, 24, 24)
    with torch.inference_mode():
        torch.testing.assert_close(
            decode_tiled(net, z, tiles=2), net.decode_raw(z)[0], atol=2e-5, rtol=1e-4
        )


def short(function, most: int, sizes: list[int]):
    """A function that has room for so many rows at a time."""

    def run(rows):
        sizes.append(len(rows))
        if len(rows) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return function(rows)

    return run


def test_fewer_rows_at_a_time_come_out_in_order():
    sizes, rows = [], torch.arange(11.0)
    assert torch.equal(within_memory(short(lambda x: 2 * x, 3, sizes), rows), 2 * rows)
    assert sizes == [11, 6, 3, 3, 5, 3, 2]


def test_a_row_that_does_not_fit_is_handed_on_or_is_an_error():
    never = short(lambda x: x, 0, [])
    assert torch.equal(within_memory(never, torch.arange(3), lambda x: -x), -torch.arange(3))
    with pytest.raises(torch.OutOfMemoryError):
        within_memory(never, torch.arange(3))


def test_decoding_takes_tiles_where_not_one_image_fits(monkeypatch):
    net, z = autoencoder(), uneven(2, 3, 20, 20)
    asked = []
    tiled = tiles.decode_tiled

    def watched(autoencoder, z, *, tiles):
        asked.append(tiles)
        if tiles < 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return tiled(autoencoder, z, tiles=tiles)

    with torch.inference_mode():
        whole, rebuilt = net.decode(z), net.encode(net.decode(z))
        monkeypatch.setattr(net, "decode_raw", short(net.decode_raw, 0, []))
        monkeypatch.setattr(net, "moments", short(net.moments, 1, []))
        monkeypatch.setattr(tiles, "decode_tiled", watched)
        torch.testing.assert_close(net.decode(z), whole, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(net.encode(whole), rebuilt, atol=2e-5, rtol=1e-4)
    assert asked == [2, 4, 2, 4]
