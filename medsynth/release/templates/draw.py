"""Draw images from this folder with diffusers alone; medsynth is not needed.

    python draw.py OUT --count 4 --label finding=normal

writes PNG files. `load` and `draw` do the same from Python. Every image is synthetic and not for
clinical use; README.md says what the weights may have learned of patients.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file


class Model:
    """What the folder holds: three diffusers models, the labels' vectors, and model.json."""

    def __init__(self, folder=Path(__file__).parent, device="cpu"):
        folder = Path(folder)
        self.device = device
        self.vae = AutoencoderKL.from_pretrained(folder / "vae").to(device).eval()
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet").to(device).eval()
        self.scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
        self.about = json.loads((folder / "model.json").read_text())
        self.extra = load_file(folder / "extra.safetensors", device=device)

    def condition(self, labels):
        """Return the vectors (N, L, D) of N label mappings; what is not given is left open."""
        known = {tuple(pair): row for row, pair in enumerate(self.about["tokens"], start=1)}
        unknown = {pair for row in labels for pair in row.items()} - known.keys()
        if unknown:
            raise ValueError(f"no such label: {unknown}; there are {sorted(known)}")
        names = self.about["attributes"] or [""]
        rows = [[known.get((name, row.get(name)), 0) for name in names] for row in labels]
        return self.extra["tokens"][torch.tensor(rows, device=self.device)]

    def predict(self, x, t, words, guidance=1.0):
        """Return what the scheduler asks for at time t, with classifier-free guidance."""
        null = self.extra["tokens"][0].expand_as(words)
        made = self._ask(x, t, null if guidance == 0 else words)
        if guidance not in (0, 1):
            without = self._ask(x, t, null)
            made = without + guidance * (made - without)
        if self.about["objective"] == "flow":  # eps - x_0, which the scheduler takes as v
            signal = self.scheduler.alphas_cumprod[t] ** 0.5
            noise = (1 - self.scheduler.alphas_cumprod[t]) ** 0.5
            x_0 = (x - noise * made) / (signal + noise)
            eps = (x + signal * made) / (signal + noise)
            made = signal * eps - noise * x_0
        return made

    def _ask(self, x, t, words):
        times = torch.full((len(x),), int(t), device=x.device)
        return self.unet(x, times, words, class_labels=words.mean(1)).sample

    @torch.no_grad()
    def latents(self, labels, seeds, steps=50, guidance=1.0):
        """Return latents (N, c, h, w): image i follows from labels[i] and seeds[i] alone."""
        side, channels = self.unet.config.sample_size, self.unet.config.in_channels
        draws = (torch.Generator().manual_seed(seed) for seed in seeds)
        x = torch.stack([torch.randn(channels, side, side, generator=g) for g in draws])
        x, words = x.to(self.device), self.condition(labels)
        self.scheduler.set_timesteps(steps)
        for t in self.scheduler.timesteps:
            made = self.predict(x, t, words, guidance)
            x = self.scheduler.step(made, t, x).prev_sample
        return x

    @torch.no_grad()
    def decode(self, latents):
        """Return images (N, C, H, W) in [-1, 1]."""
        column, config = (1, -1, 1, 1), self.vae.config
        mean, std = config.latents_mean or [0.0], config.latents_std or [1.0]
        z = latents * torch.tensor(std).to(latents).reshape(column)
        z = z + torch.tensor(mean).to(latents).reshape(column)
        images = F.pixel_shuffle(self.vae.decode(z).sample, self.about["fold_px"])
        if "components" in self.extra:  # the linear code that the network adds detail to
            rows = (self.extra["components"] * self.extra["scale"][:, None]).T[..., None, None]
            linear = F.conv2d(z, rows) + self.extra["mean"].reshape(column)
            images = images + F.pixel_shuffle(linear, self.about["square_px"])
        return images.clamp(-1, 1)


def draw(model, labels, seeds, steps=50, guidance=1.0):
    """Return images (N, C, H, W) in [-1, 1]; steps must divide the schedule's times."""
    return model.decode(model.latents(labels, seeds, steps, guidance))


def main():
    """Write PNG files, as the command line says."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("out", type=Path)
    ask.add_argument("--count", type=int, default=4)
    ask.add_argument("--label", action="append", default=[], metavar="NAME=VALUE")
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--steps", type=int, default=50)
    ask.add_argument("--guidance", type=float, default=1.0)
    given = ask.parse_args()
    model = Model()
    labels = [dict(pair.split("=", 1) for pair in given.label)] * given.count
    seeds = range(given.seed, given.seed + given.count)
    images = draw(model, labels, seeds, given.steps, given.guidance)
    given.out.mkdir(parents=True, exist_ok=True)
    mark = PngInfo()
    mark.add_text("Source", "Synthetic image, made by a generative model; not for clinical use")
    for seed, image in zip(seeds, images, strict=True):
        pixels = ((image + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        picture.save(given.out / f"synthetic-{seed}.png", pnginfo=mark)


if __name__ == "__main__":
    main()
