"""The networks' weights as a folder that plain diffusers and MONAI open; only where a protocol
releases them, which needs a rule on attacks that use them.

    model/   README.md, model.json, extra.safetensors, draw.py, vae/, unet/, scheduler/, configs/

Nothing is pickled, and no path of the hospital is in a config.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, domains
from ..errors import DataError
from ..finding import Finding, Verdict
from ..protocol import WHITE_BOX, Protocol
from ..runtime import read_json, write_json, write_text
from . import cards
from .waivers import waivers

NAME = "model"
NETWORK = ("config.json", "diffusion_pytorch_model.safetensors")
SAFE = {".safetensors", ".json", ".md", ".py"}
ASKED = ("membership.", "canary.", "privacy.")  # findings about who was trained on
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "flow": "v_prediction"}
TEMPLATES = Path(__file__).parent / "templates"
AUTOENCODERS = {
    "patients": "The autoencoder, which learned from the training patients too: the attacks ask "
    "the denoiser.",
    "phantoms": "The autoencoder; it learned from made-up images, and no patient is in it.",
    "public": "The autoencoder; it comes from elsewhere, and no patient of this study is in it.",
}


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What is released of a run: the folders of its networks, the schedule's betas (T,), and which
    labels at least `rarest` training patients have, as {attribute: values}."""

    autoencoder: Path
    diffusion: Path
    betas: Sequence[float]
    common: Mapping[str, Sequence[str]]
    rarest: int


def write(
    folder: Path,
    weights: Weights,
    *,
    protocol: Protocol,
    findings: Mapping[str, Finding],
    verdict: Verdict,
) -> None:
    """Write model/ into a release's folder."""
    place = folder / NAME
    (place / "configs").mkdir(parents=True)
    _network(weights.autoencoder, place / "vae")
    _network(weights.diffusion, place / "unet")
    (place / "scheduler").mkdir()
    write_json(place / "scheduler" / "scheduler_config.json", _scheduler(weights, protocol))
    about, extra = _labels_and_extra(weights, protocol)
    write_json(place / "model.json", about)
    _save(extra, place / "extra.safetensors")
    shutil.copyfile(TEMPLATES / "draw.py", place / "draw.py")
    write_json(place / "configs" / "metadata.json", _metadata(protocol, about))
    write_json(place / "configs" / "inference.json", _inference())
    write_text(place / "README.md", _card(about, extra, weights, protocol, findings, verdict))


def faults(folder: Path, protocol: Protocol, verdict: Verdict) -> Iterable[str]:
    """Say where weights are released that the protocol keeps or no rule guards, or as a pickle."""
    place = folder / NAME
    if place.exists() != bool(protocol.card.weights):
        yield f"{NAME}/: the protocol {'keeps' if place.exists() else 'releases'} the weights"
    if not place.exists():
        return
    outcomes = [item.outcome for item in verdict.judgements if item.finding == WHITE_BOX]
    if not outcomes or set(outcomes) != {"passed"}:
        yield f"{NAME}/: weights left without passing a rule on {WHITE_BOX}"
    for path in sorted(place.rglob("*")):
        if path.is_file() and path.suffix not in SAFE:
            yield f"{path.relative_to(folder).as_posix()}: may run code when it is opened"


def reasons(protocol: Protocol, verdict: Verdict, weights: Weights | None) -> Iterable[str]:
    """Say why weights may not leave although the gate passed; nothing where they stay."""
    if bool(protocol.card.weights) != (weights is not None):
        yield "the protocol's card.weights and what is to be released do not agree"
    elif weights is not None:
        outcomes = {item.outcome for item in verdict.judgements if item.finding == WHITE_BOX}
        if outcomes != {"passed"}:
            yield f"weights need {WHITE_BOX} to pass, and it did not"


# The networks -----------------------------------------------------------------------------------


def _network(source: Path, target: Path) -> None:
    """Copy diffusers' two files, without the path that a network was once loaded from."""
    target.mkdir()
    missing = [name for name in NETWORK if not (source / name).is_file()]
    if missing:
        raise DataError(f"{source.name}/ has no {missing[0]}: its weights can't be released")
    config = read_json(source / NETWORK[0])
    write_json(target / NETWORK[0], {k: v for k, v in config.items() if k != "_name_or_path"})
    shutil.copyfile(source / NETWORK[1], target / NETWORK[1])


def _scheduler(weights: Weights, protocol: Protocol) -> dict[str, Any]:
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": protocol.diffusion.timesteps,
        "trained_betas": [float(beta) for beta in weights.betas],
        "prediction_type": PREDICTIONS[protocol.diffusion.objective],
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "timestep_spacing": "trailing",
    }


def _labels_and_extra(
    weights: Weights, protocol: Protocol
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return model.json and the tensors beside the networks; rare labels are in neither."""
    from safetensors.numpy import load_file

    known = read_json(weights.diffusion / "vocabulary.json")
    table = load_file(weights.diffusion / "tokens.safetensors")["weight"]
    kept = [i for i, (a, v) in enumerate(known["tokens"]) if v in weights.common.get(a, ())]
    extra = {"tokens": np.ascontiguousarray(table[[0, *(i + 1 for i in kept)]])}
    fold_px = read_json(weights.autoencoder / "medsynth.json")["fold_px"]
    net = read_json(weights.autoencoder / NETWORK[0])
    path = weights.autoencoder / "medsynth.safetensors"
    linear = load_file(path) if path.exists() else {}
    extra |= {
        name.removeprefix("principal."): value
        for name, value in linear.items()
        if name.startswith("principal.")
    }
    about = {
        "attributes": known["attributes"],
        "tokens": [known["tokens"][i] for i in kept],
        "objective": protocol.diffusion.objective,
        "fold_px": fold_px,
        "square_px": fold_px * 2 ** (len(net["block_out_channels"]) - 1),
        "size_px": protocol.image.size_px,
        "channels": domains.domain(protocol.domain).channels,
    }
    return about, extra


def _save(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)


# MONAI ------------------------------------------------------------------------------------------


def _metadata(protocol: Protocol, about: Mapping[str, Any]) -> dict[str, Any]:
    picture = {
        "type": "image",
        "format": "magnitude",
        "modality": domains.domain(protocol.domain).title,
        "num_channels": about["channels"],
        "spatial_shape": [about["size_px"], about["size_px"]],
        "dtype": "float32",
        "value_range": [-1, 1],
        "is_patch_data": False,
        "channel_def": {"0": "image"},
    }
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": __version__,
        "changelog": {__version__: "as released"},
        "monai_version": "1.5",
        "pytorch_version": "2.8",
        "numpy_version": "1.26",
        "required_packages_version": {"diffusers": "0.35", "safetensors": "0.4.5"},
        "task": "Drawing synthetic images; not for clinical use",
        "name": protocol.name,
        "description": f"{protocol.card.title}. Every image that it makes is synthetic.",
        "authors": protocol.card.contact or "not given",
        "copyright": protocol.card.licence,
        "intended_use": "Not for clinical use. README.md says what was found of the weights.",
        "network_data_format": {"inputs": {"image": picture}, "outputs": {"image": picture}},
    }


def _inference() -> dict[str, Any]:
    def opened(kind: str, name: str) -> dict[str, str]:
        return {
            "_target_": f"diffusers.{kind}.from_pretrained",
            "pretrained_model_name_or_path": f"$@bundle_root + '/{name}'",
        }

    return {
        "imports": ["$import runpy", "$import torch"],
        "bundle_root": ".",
        "device": "$'cuda' if torch.cuda.is_available() else 'cpu'",
        "count": 4,
        "labels": "$[{}] * @count",
        "steps": 50,
        "network_def": opened("UNet2DConditionModel", "unet"),
        "autoencoder_def": opened("AutoencoderKL", "vae"),
        "scheduler": opened("DDIMScheduler", "scheduler"),
        "drawing": "$runpy.run_path(@bundle_root + '/draw.py')",
        "model": "$@drawing['Model'](@bundle_root, @device)",
        "images": "$@drawing['draw'](@model, @labels, range(@count), @steps)",
        "run": ["$@images"],
    }


# The card ---------------------------------------------------------------------------------------


def _card(
    about: Mapping[str, Any],
    extra: Mapping[str, np.ndarray],
    weights: Weights,
    protocol: Protocol,
    findings: Mapping[str, Finding],
    verdict: Verdict,
) -> str:
    study = cards.study_rows(protocol)
    example = "".join(f" --label {name}={value}" for name, value in about["tokens"][:1])
    return (
        cards.environment()
        .get_template("weights_card.md.j2")
        .render(
            front_matter=_front_matter(protocol),
            protocol=protocol,
            domain=domains.domain(protocol.domain),
            verdict=verdict,
            waivers=waivers(verdict),
            findings=[findings[name] for name in sorted(findings) if name.startswith(ASKED)],
            autoencoder=AUTOENCODERS[protocol.autoencoder.source],
            study=study,
            sampling=dict(study)["Sampling"],
            left_out=_left_out(weights, protocol),
            example=example,
            fold_px=about["fold_px"],
            linear="components" in extra,
            version=__version__,
        )
    )


def _left_out(weights: Weights, protocol: Protocol) -> str:
    if protocol.diffusion.private is not None:
        return "The labels are those that the protocol names."
    return (
        f"Of labels it knows those that at least {weights.rarest} training patients have; the "
        f"vectors of rarer ones are left out."
    )


def _front_matter(protocol: Protocol) -> str:
    values = {
        **cards.licence(protocol.card.licence),
        "library_name": "diffusers",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["synthetic", "medical", "medical-imaging", protocol.domain, "medsynth", "monai"],
    }
    return cards.yaml_lines(values)
