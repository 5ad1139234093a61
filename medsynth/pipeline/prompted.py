"""A text-conditioned base in the place of a run's own denoiser: pinned, copied, never trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import protocol
from ..data.loader import Frames
from ..errors import DataError, StageError
from ..runtime import digest_files, digest_json, read_json, write_json, writes
from ..vocabulary import Vocabulary, named
from .run import Progress, Run, open_autoencoder, parts_of

PARTS = ("scheduler", "text_encoder", "tokenizer", "unet")
"""The folders of a base that are read; its autoencoder is pinned for itself."""


def take_base(run: Run, folder: Path, progress: Progress) -> None:
    """Copy the base that the protocol pins into `folder`, for the labels of the training patients.

    Raises StageError where it is another than is pinned, or where the protocol's noise, latents or
    labels are not the base's.
    """
    from ..models.prompted import open_base

    settings = run.protocol.diffusion.base
    source = Path(settings.weights)
    if (found := digest_base(source)) != settings.sha256:
        raise StageError(
            f"diffusion.base: {source.name}/ is not the folder that diffusion.base.sha256 pins: "
            f"its digest is {found}"
        )
    _check_noise(source, run.protocol.diffusion)
    vocabulary = _vocabulary(run, settings.prompt)
    autoencoder = open_autoencoder(run, "cpu")
    side = run.protocol.image.size_px // autoencoder.downscale
    base = open_base(source, vocabulary, settings.prompt, latent_px=side)
    _check_latents(base.unet.config, side, autoencoder.net.config.latent_channels)
    if writes():
        vocabulary.write(folder / "vocabulary.json")
        base.save(folder)
        write_json(folder / "source.json", {"source": "public", "sha256": settings.sha256})
    progress("base", 1.0)


def digest_base(folder: Path) -> str:
    """Return the digest of a base's parts. Raises DataError where one is missing."""
    if missing := [part for part in PARTS if not (folder / part).is_dir()]:
        raise DataError(
            f"{folder.name}/ is no Stable Diffusion folder: it has no {', '.join(missing)}"
        )
    return digest_json({part: digest_files(folder / part) for part in PARTS})


def _check_noise(source: Path, settings: protocol.Diffusion) -> None:
    from ..models.prompted import noise_of

    wanted = noise_of(source)
    has = settings.model_dump(mode="json", include=set(wanted))
    if has != wanted:
        told = ", ".join(f"{name}: {json.dumps(value)}" for name, value in wanted.items())
        raise StageError(
            f"diffusion.base: its noise is another than the protocol says; write {told}"
        )


def _vocabulary(run: Run, prompt: str) -> Vocabulary:
    cohort, parts = parts_of(run)
    vocabulary = Vocabulary.from_labels(Frames(cohort, parts["train"]).labels)
    told, known = named(prompt), set(vocabulary.attributes)
    if told != known:
        raise StageError(
            f"diffusion.base.prompt has places for {', '.join(sorted(told))}, and the training "
            f"patients' labels are {', '.join(sorted(known)) or 'none'}: name each of them, so "
            f"that no image has a label that was not told, or leave it out of data.label_columns"
        )
    return vocabulary


def _check_latents(config: Mapping[str, Any], side: int, channels: int) -> None:
    if config["in_channels"] != channels:
        raise StageError(
            f"diffusion.base draws {config['in_channels']} latent channels, the autoencoder has "
            f"{channels}: pin the base's own, its vae/"
        )
    step = 2 ** (len(config["block_out_channels"]) - 1)
    if side % step:
        raise StageError(
            f"diffusion.base halves latents {len(config['block_out_channels']) - 1} times, and "
            f"{side} is no multiple of {step}: choose another image.size_px"
        )


def said(run: Run) -> tuple[str, ...]:
    """Return what a verdict must say where a base drew the images; nothing without one."""
    if run.protocol.diffusion.base is None:
        return ()
    return (
        "The images were drawn by a text-conditioned network that others trained. Whom it learned "
        "from was not audited: the evidence is about the patients of this study alone.",
    )


# Drafting -----------------------------------------------------------------------------------------


def draft_base(folder: Path, prompt: str) -> dict[str, dict[str, Any]]:
    """Return the sections autoencoder and diffusion of a protocol that pin a base and its
    autoencoder. Raises DataError where the folder holds no base."""
    from ..models.prompted import noise_of

    digest, vae = digest_base(folder), folder / "vae"
    if not (vae / "config.json").is_file():
        raise DataError(f"{folder.name}/ has no vae/, the autoencoder of its latents")
    said = read_json(vae / "config.json")
    noise = {name: value for name, value in noise_of(folder).items() if value is not None}
    where = folder.resolve()
    return {
        "autoencoder": {
            "source": "public",
            "weights": str(where / "vae"),
            "sha256": digest_json(digest_files(vae)),
            "widths": said["block_out_channels"],
            "groups": said["norm_num_groups"],
            "latent_channels": said["latent_channels"],
        },
        "diffusion": {
            "base": {"weights": str(where), "sha256": digest, "prompt": prompt},
            **noise,
        },
    }
