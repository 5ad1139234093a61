"""Any autoencoder that lies on disk, as one thing: images in, the same images out.

A medsynth run or its autoencoder/; a diffusers autoencoder's folder, or a pipeline's folder with
one in it; a MONAI bundle; a network saved by torch.export. What a folder says of itself only
chooses from the lists below: no class is imported and no expression evaluated because a file
names it, and pickled weights are read as tensors alone.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import DataError
from ..runtime import read_json
from . import bundle
from .autoencoder import Autoencoder

DIFFUSERS = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC", "VQModel")
INSIDE = ("autoencoder", "vae", "vqvae", "movq")  # of a run's or a pipeline's folder
WEIGHTS = "diffusion_pytorch_model"
BATCH_PIXELS = 16 * 256 * 256

Coder = Callable[[torch.Tensor], torch.Tensor]
"""(N, C, H, W) in the network's own range, sides a multiple of its own -> the same again."""


class Foreign(nn.Module):
    """An autoencoder of any make.

    `kind` says in words what it is. `channels` is how many it takes, `multiple_px` what a side
    must be a multiple of, `low` and `high` the values of black and white that it was made for.
    """

    def __init__(
        self,
        net: nn.Module,
        coder: Coder,
        *,
        kind: str,
        channels: int,
        multiple_px: int = 1,
        low: float = -1.0,
        high: float = 1.0,
    ):
        super().__init__()
        self.net, self.coder, self.kind = net.eval().requires_grad_(False), coder, kind
        self.channels, self.multiple_px, self.low, self.high = channels, multiple_px, low, high

    def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        """Return images (N, C, H, W) in [-1, 1] after coding and decoding, in the same form.

        Nothing is drawn: latents are the posterior's mean. A grey image goes into a network for
        colour three times over, and the mean of what comes out is taken; a colour image goes into
        a grey one channel by channel. Sides are filled up by reflection, then cut off again.
        Raises DataError where channels neither fit nor can be made to, or where the network
        refuses the size.
        """
        batch = max(1, BATCH_PIXELS // (images.shape[-1] * images.shape[-2]))
        with torch.inference_mode():
            parts = [self._few(images[i : i + batch]) for i in range(0, len(images), batch)]
        return torch.cat(parts) if parts else images

    def _few(self, images: torch.Tensor) -> torch.Tensor:
        n, channels, height, width = images.shape
        x = filled_up(_with_channels(images, self.channels), self.multiple_px)
        x = (x + 1) / 2 * (self.high - self.low) + self.low
        try:
            y = self.coder(x)[..., :height, :width]
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, AssertionError):
            raise DataError(
                f"{self.kind} does not take images of {width} x {height} px: choose another --size"
            ) from None
        y = (y - self.low) / (self.high - self.low) * 2 - 1
        if channels == 1 and self.channels == 3:
            y = y.mean(1, keepdim=True)
        return y.reshape(n, channels, height, width).float().clamp(-1.0, 1.0)


def open_foreign(path: Path, *, device: str = "cpu") -> Foreign:
    """Open an autoencoder from its folder or its .pt2 file, without a network.

    Raises DataError where there is none, or one of a kind that is not known.
    """
    if path.suffix == ".pt2" and path.is_file():
        return _exported(path).to(device)
    folder = find(path)
    if (folder / "medsynth.json").exists():
        opened = _own(folder)
    elif (folder / "config.json").exists():
        opened = _diffusers(folder)
    else:
        opened = _bundle(folder)
    return opened.to(device)


def find(path: Path) -> Path:
    """Return the folder that holds the autoencoder: this one, or one in it (a run's, a pipeline's).

    Raises DataError where there is none.
    """
    if not path.is_dir():
        raise DataError(f"expected an autoencoder's folder or .pt2 file, {path.name} is neither")
    for folder in (path, *(path / name for name in INSIDE)):
        if (folder / "medsynth.json").exists() or _class_of(folder) or bundle.is_bundle(folder):
            return folder
    raise DataError(
        f"{path.name}/ holds no autoencoder: expected a medsynth run, a diffusers folder with "
        f"config.json, or a MONAI bundle with configs/ and models/"
    )


def filled_up(images: torch.Tensor, multiple_px: int) -> torch.Tensor:
    """Reflect images at their right and lower edges until both sides are multiples of a number."""
    down, right = (-side % multiple_px for side in images.shape[-2:])
    while down or right:  # a reflection is at most as long as the image, less one
        height, width = images.shape[-2:]
        below, beside = min(down, max(1, height - 1)), min(right, max(1, width - 1))
        way = "reflect" if min(height, width) > 1 else "replicate"
        images = F.pad(images, (0, beside, 0, below), mode=way)
        down, right = down - below, right - beside
    return images


def _with_channels(images: torch.Tensor, channels: int) -> torch.Tensor:
    n, has, height, width = images.shape
    if has == channels:
        return images
    if (has, channels) == (1, 3):
        return images.expand(n, 3, height, width)
    if (has, channels) == (3, 1):
        return images.reshape(n * 3, 1, height, width)
    raise DataError(f"the autoencoder takes {channels} channels, the images have {has}")


# Of each make -------------------------------------------------------------------------------------


def _own(folder: Path) -> Foreign:
    net = Autoencoder.load(folder)
    channels = net.net.config.in_channels // net.fold_px**2
    size = {"channels": channels, "multiple_px": net.downscale}
    return Foreign(net, net.reconstruct, kind=_say("a medsynth autoencoder", net.downscale), **size)


def _class_of(folder: Path) -> str:
    """Return the class that a diffusers config names, "" where there is no such config."""
    path = folder / "config.json"
    return str(read_json(path).get("_class_name") or "") if path.is_file() else ""


def _diffusers(folder: Path) -> Foreign:
    net = open_diffusers(folder)
    name, config = type(net).__name__, net.config
    levels = config.get("block_out_channels") or config["encoder_block_out_channels"]
    smaller = 2 ** (len(levels) - 1)
    return Foreign(
        net,
        lambda x: net.decode(_latents(net.encode(x))).sample,
        kind=_say(f"a diffusers {name}", smaller),
        channels=config.in_channels,
        multiple_px=smaller,
    )


def open_diffusers(folder: Path) -> nn.Module:
    """Open a diffusers autoencoder of DIFFUSERS in float32, whatever its weights were saved in.

    Raises DataError on another class, on one for video, and where no weights lie there.
    """
    import diffusers

    name = _class_of(folder)
    if name not in DIFFUSERS:
        raise DataError(
            f"{folder.name}/config.json says {name!r}: expected one of {', '.join(DIFFUSERS)}"
        )
    options = {"local_files_only": True, "torch_dtype": torch.float32, "low_cpu_mem_usage": False}
    if not any((folder / f"{WEIGHTS}.{end}").exists() for end in ("safetensors", "bin")):
        found = sorted(folder.glob(f"{WEIGHTS}.*.safetensors"))
        if not found:
            raise DataError(f"{folder.name}/ holds no weights: expected {WEIGHTS}.safetensors")
        options["variant"] = found[0].name.split(".")[1]
    try:
        return getattr(diffusers, name).from_pretrained(folder, **options).eval()
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder.name}/ is no whole {name}: its weights and its config.json do not fit "
            f"together ({type(error).__name__})"
        ) from None


def _latents(encoded) -> torch.Tensor:
    """Return what an encoder says: the posterior's mean, or the latents themselves."""
    for name in ("latent_dist", "latents", "latent"):
        if (found := getattr(encoded, name, None)) is not None:
            return found.mode() if name == "latent_dist" else found
    raise DataError("the encoder gives no latents")


def _bundle(folder: Path) -> Foreign:
    made = bundle.open_bundle(folder)
    return Foreign(
        made.net,
        made.reconstruct,
        kind=_say(f"a MONAI {type(made.net).__name__}", made.multiple_px),
        channels=made.channels,
        multiple_px=made.multiple_px,
        low=made.low,
        high=made.high,
    )


def _exported(path: Path) -> Foreign:
    """Open a network saved by torch.export: images in [0, 1] in, the same images out."""
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path.name} was not saved by torch.export")
    program = torch.export.load(path)
    if not program.example_inputs:
        raise DataError(f"{path.name} does not say what it takes: export it with its inputs")
    shape = program.example_inputs[0][0].shape
    if len(shape) != 4:
        raise DataError(f"{path.name} takes {len(shape)} axes: expected images (N, C, H, W)")
    module = _Module(program.module())

    def coder(x: torch.Tensor) -> torch.Tensor:
        y = module.call(x)
        return y[0] if isinstance(y, tuple | list) else y

    kind = "a network saved by torch.export"
    return Foreign(module, coder, kind=kind, channels=shape[1], low=0.0, high=1.0)


class _Module(nn.Module):
    """An exported network, which has no mode to be put into."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.call = network

    def train(self, mode: bool = True) -> _Module:
        return self


def _say(what: str, smaller: int) -> str:
    return f"{what}, {smaller} times smaller a side"
