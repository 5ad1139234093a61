"""A denoiser that is told in words: the text-conditioned network of a Stable Diffusion folder.

It answers as the run's own denoiser does. A condition's tokens are turned into a sentence (see
vocabulary.describe), which the frozen text encoder reads; where everything is unknown the sentence
is empty, as such networks were trained to be guided away from. A concept's vectors stand among the
words of the sentence, where a value would, so that they go through the text encoder too: that is
where textual inversion has its place (Gal et al., arXiv 2208.01618).

Nothing is looked for on a network, and only safetensors are opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.func import functional_call

from ..errors import DataError, StageError
from ..runtime import read_json, write_json
from ..vocabulary import Vocabulary, describe
from .denoiser import Denoiser, Heard, predict

if TYPE_CHECKING:
    from .concept import Concept

HERE = "\0"  # where a concept stands in a sentence


class Prompted(nn.Module):
    """A frozen text-conditioned network under a vocabulary and a sentence with its attributes."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        encoder: nn.Module,
        tokenizer: Any,
        vocabulary: Vocabulary,
        prompt: str,
    ):
        super().__init__()
        self.unet, self.encoder = unet, encoder
        self.tokenizer, self.vocabulary, self.prompt = tokenizer, vocabulary, prompt
        self._read: dict[tuple[int, ...], torch.Tensor] = {}
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Prompted:
        """Stay as it is: a frozen network has no dropout."""
        return super().train(False)

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Predict for x (N, C, h, w), times t (N,) and conditions (N, L) int64 tokens."""
        return predict(self.unet, x, t, self.hear(condition))

    def hear(self, condition: torch.Tensor, concept: Concept | None = None) -> Heard:
        """Return the encoded sentences of conditions (N, L) int64, in which a concept's token may
        stand."""
        rows, place = condition.unique(dim=0, return_inverse=True)
        words = [self._words(tuple(row), concept) for row in rows.tolist()]
        return Heard(torch.stack(words)[place])

    @property
    def known(self) -> int:
        """How many tokens it knows, the null token included: the number of a concept's token."""
        return self.vocabulary.size

    def vector(self, token: int) -> torch.Tensor:
        """Return (D,): the mean of what the text encoder takes for a value's words, before it has
        read them; of null, for an empty place, that of the padding."""
        value = dict(enumerate(self.vocabulary.tokens, start=1)).get(token, ("", ""))[1]
        numbers = self._numbers(value.replace("_", " ")) or [self.tokenizer.pad_token_id]
        return self._table[numbers].detach().mean(0)

    @property
    def _table(self) -> torch.Tensor:
        return self.encoder.get_input_embeddings().weight

    def _words(self, row: tuple[int, ...], concept: Concept | None) -> torch.Tensor:
        """Return one condition's encoded sentence (S, D); those without a concept are kept."""
        if concept is not None and concept.token in row:
            return self._encode(self._sentence(row, concept), concept.vectors)
        if row not in self._read:
            with torch.inference_mode(False), torch.no_grad():
                self._read[row] = self._encode(self._sentence(row))
        return self._read[row].to(self._table.device)

    def _sentence(self, row: tuple[int, ...], concept: Concept | None = None) -> list[int]:
        """Return the numbers of a condition's words, filled up to the encoder's length; a concept's
        vectors have those that follow the encoder's own.

        Raises DataError where the sentence is longer.
        """
        labels = self.vocabulary.decode([n for n in row if concept is None or n != concept.token])
        if concept is not None:
            labels[self.vocabulary.attributes[row.index(concept.token)]] = HERE
        before, *after = describe(self.prompt, labels).split(HERE)
        numbers = self._numbers(before)
        for text in after:
            own = range(len(self._table), len(self._table) + len(concept.vectors))
            numbers += [*own, *self._numbers(text)]
        most, end = self.tokenizer.model_max_length - 2, self.tokenizer.eos_token_id
        if len(numbers) > most:
            raise DataError(
                f"a sentence of diffusion.base.prompt has {len(numbers)} tokens, the text encoder "
                f"reads {most}: shorten it, or learn fewer vectors"
            )
        filled = [self.tokenizer.pad_token_id] * (most - len(numbers))
        return [self.tokenizer.bos_token_id, *numbers, end, *filled]

    def _numbers(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _encode(self, sentence: list[int], vectors: torch.Tensor | None = None) -> torch.Tensor:
        """Read one sentence: (S, D), with the gradient of `vectors` (V, D) where there are any.

        The encoder's table is replaced by the rows that the sentence needs, so that nothing is
        added to the encoder and no gradient of a whole table is computed.
        """
        table = self._table
        used, places = torch.tensor(sentence, device=table.device).unique(return_inverse=True)
        rows, new = table[used.clamp(max=len(table) - 1)], used >= len(table)
        if vectors is not None:
            rows = rows.index_put((new,), vectors.to(table)[used[new] - len(table)])
        name = next(name for name, weight in self.encoder.named_parameters() if weight is table)
        return functional_call(self.encoder, {name: rows}, (places[None],)).last_hidden_state[0]

    def save(self, folder: Path) -> None:
        """Write the network as diffusers does, the text encoder's two folders and `prompt.json`."""
        self.unet.save_pretrained(folder)
        self.encoder.save_pretrained(folder / "text_encoder")
        self.tokenizer.save_pretrained(folder / "tokenizer")
        write_json(folder / "prompt.json", {"prompt": self.prompt})

    @classmethod
    def load(cls, folder: Path) -> Prompted:
        """Read what `save` wrote, and `vocabulary.json` beside it."""
        return cls(
            UNet2DConditionModel.from_pretrained(folder, local_files_only=True),
            *_open_text(folder),
            Vocabulary.read(folder / "vocabulary.json"),
            read_json(folder / "prompt.json")["prompt"],
        )


AnyDenoiser = Denoiser | Prompted


def open_denoiser(folder: Path) -> AnyDenoiser:
    """Open a run's denoiser: its own, or the base that stands in its place."""
    return (Prompted if (folder / "prompt.json").exists() else Denoiser).load(folder)


# Folders of others --------------------------------------------------------------------------------


def open_base(folder: Path, vocabulary: Vocabulary, prompt: str, *, latent_px: int) -> Prompted:
    """Open a folder as diffusers saves a Stable Diffusion pipeline, for latents of a size.

    Raises DataError where a part is missing, is pickled or is of another kind.
    """
    unet = _open(folder / "unet", UNet2DConditionModel, "diffusion_pytorch_model", torch_dtype=True)
    encoder, tokenizer = _open_text(folder)
    if faults := list(_faults(unet, encoder, tokenizer)):
        raise DataError(f"{folder.name}/ can't be a base: {'; '.join(faults)}")
    unet.register_to_config(sample_size=latent_px)
    return Prompted(unet, encoder, tokenizer, vocabulary, prompt)


def _faults(unet: UNet2DConditionModel, encoder: nn.Module, tokenizer: Any) -> Iterator[str]:
    config, width, words = unet.config, encoder.config.hidden_size, encoder.config.vocab_size
    heard = config.cross_attention_dim
    if config.in_channels != config.out_channels:
        yield f"its unet takes {config.in_channels} channels and gives {config.out_channels}"
    if config.class_embed_type or config.addition_embed_type or config.encoder_hid_dim_type:
        yield "its unet wants more than a sentence (a second text encoder, or a class)"
    if heard != width:
        yield f"its unet hears {heard} numbers a word, its text encoder says {width}"
    if len(tokenizer) > words:
        yield f"its tokenizer has {len(tokenizer)} words, its text encoder {words}"


def _open_text(folder: Path) -> tuple[nn.Module, Any]:
    """Return the text encoder and the tokenizer that lie in a folder."""
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
        from transformers.utils.logging import disable_progress_bar
    except ImportError:
        raise StageError(
            "diffusion.base needs transformers, which is not installed: pip install "
            "'medsynth[text]'"
        ) from None
    disable_progress_bar()  # bars are the command's own
    encoder = _open(folder / "text_encoder", CLIPTextModel, "model", dtype=True)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{folder.name}/tokenizer holds no CLIPTokenizer ({type(error).__name__})"
        ) from None
    tokenizer.model_max_length = encoder.config.max_position_embeddings
    return encoder, tokenizer


def _open(folder: Path, kind: type, stem: str, **precision: bool) -> nn.Module:
    """Open a network of a kind in float32, every weight of which lies in safetensors.

    `precision` names the argument that says so, which differs between libraries.
    """
    found = sorted(path.name for path in folder.glob(f"{stem}*.safetensors"))
    if not found:
        raise DataError(
            f"{folder.parent.name}/{folder.name} holds no {stem}.safetensors: pickled weights are "
            f"not opened, save them with safe_serialization=True"
        )
    parts = found[0].split(".")
    options: dict[str, Any] = dict.fromkeys(precision, torch.float32)
    if len(parts) == 3:  # NAME.fp16.safetensors
        options["variant"] = parts[1].split("-")[0]
    try:
        net, said = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder.parent.name}/{folder.name} is no whole {kind.__name__}: its weights and its "
            f"config.json do not fit together ({type(error).__name__})"
        ) from None
    if missing := sorted(said["missing_keys"]):
        raise DataError(
            f"{folder.parent.name}/{folder.name} lacks {len(missing)} weights of a "
            f"{kind.__name__}, {missing[0]} among them"
        )
    return net.eval()


def noise_of(folder: Path) -> dict[str, Any]:
    """Return the knobs of a protocol's diffusion section that a base's scheduler asks for.

    Raises DataError where its noise is none that medsynth knows.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    said = read_json(path) if path.is_file() else {}
    objective = {"epsilon": "eps", "v_prediction": "v"}.get(said.get("prediction_type", "epsilon"))
    schedule = {"scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}.get(
        said.get("beta_schedule")
    )
    if objective is None or schedule is None or said.get("trained_betas"):
        raise DataError(
            f"{folder.name}/scheduler/scheduler_config.json: expected prediction_type epsilon or "
            f"v_prediction, and beta_schedule scaled_linear or squaredcos_cap_v2"
        )
    betas = [float(said["beta_start"]), float(said["beta_end"])]
    return {
        "objective": objective,
        "schedule": schedule,
        "timesteps": int(said["num_train_timesteps"]),
        "betas": betas if schedule == "scaled_linear" else None,
        "zero_terminal_snr": True if said.get("rescale_betas_zero_snr") else None,
    }
