"""Every knob of a study: one YAML file, one frozen, strict object.

The defaults live here and nowhere else. `gate` has none: a person writes the rules, before the
data is seen. A file may hold `profiles`, named sets of changes (a full setting for a GPU beside
a small one for two cores), of which at most one is chosen when the protocol is read.

    load("protocols/fundus.yaml", profile="full", changes={"sample.steps": 100})
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from . import domains
from .errors import ProtocolError
from .runtime import digest_json
from .vocabulary import named

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


WHITE_BOX = "membership.model.p_value"
"""The finding of attacks on the weights that a rule must be on where weights are released."""

ControlKind = Literal["canny", "hough", "soft_edges", "vessels", "keypoints", "mask"]


class Section(BaseModel):
    """A part of the protocol: unknown keys, wrong types and later changes are errors."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        use_attribute_docstrings=True,
        serialize_by_alias=True,
        validate_by_alias=True,
    )


class Image(Section):
    """What every image is brought to."""

    size_px: Annotated[int, Field(ge=16, le=1024, multiple_of=8)] = 256
    """Side of the square images, in pixels."""
    bits: Literal[8, 16] = 8
    """Bits a channel at which images are kept and released."""
    tile_px: Annotated[int, Field(ge=16)] | None = None
    """Cut each file into squares of this side, in its own pixels, before resizing; null keeps it
    whole, and cuts whole slides into squares of size_px. For histology fields and slides."""


class Data(Section):
    """Where images, patients and labels are found in the raw folder, and how files are read."""

    layout: str | None = None
    """A public data set's layout by name, as in docs/formats.md; null goes by tables, or by
    folders where there is no table."""
    tables: str = "labels.csv"
    """Name of the tables that list images (.csv, .tsv, .parquet or .xlsx), looked for in the raw
    folder and below; where there is none, every image file is taken and its folder is its label."""
    path_column: str = "path"
    """Column with the image's path, relative to its table."""
    path_format: Annotated[str, Field(pattern=r"\{\}")] = "{}"
    """What makes a cell of path_column a path: "images/{}.png" where cells are bare names."""
    patient_column: str | None = "patient_id"
    """Column with the patient's number; null where no patient is known."""
    label_columns: tuple[str, ...] = ()
    """Columns that become condition attributes; of DICOM files without a table, the keywords of
    docs/formats.md."""
    keep: Mapping[str, tuple[str, ...]] = {}
    """Only rows with one of these values in these columns: {view: [PA, AP]}."""
    rename: Mapping[str, Mapping[str, str]] = {}
    """Words for the values of label columns: {level: {"0": none, "1": mild}}."""
    max_bad_share: Share = 0.02
    """The run stops where more than this share of the files can't be used."""
    max_pixels: Count = 400_000_000
    """A file that unpacks to more pixels is refused as a decompression bomb."""
    max_seconds: Positive = 10.0
    """A file that takes longer than this is given up; a whole slide may take a hundred times as
    long, and an image ten times where text is looked for."""
    max_memory_gib: Positive = 4.0
    """A process that reads files may take this much memory; a file that needs more is refused."""
    frame: Annotated[int, Field(ge=0)] | None = None
    """Which frame or page of a file with several to take, from 0; null refuses such files."""
    slice_plane: Literal["axial", "coronal", "sagittal"] = "axial"
    """The plane in which NIfTI volumes are cut."""
    slice_step: Count | None = None
    """Take every so many slices of a NIfTI volume; null takes the middle one."""
    window: tuple[float, float] | None = None
    """Which values are black and white where a file does not say: NIfTI, TIFF with floats,
    FOR PROCESSING DICOM; null refuses such files unless they declare a range."""
    for_processing: bool = False
    """Take DICOM files marked FOR PROCESSING, raw detector data, too."""
    duplicate_correlation: Share = 0.9
    """Two images whose detail correlates at least this much, as it is or as a negative, are
    near-duplicates; 1 links exact copies alone."""


class Slides(Section):
    """How whole slides are cut into tiles of image.tile_px (image.size_px where that is null),
    which are then resized."""

    um_per_px: Positive | None = None
    """Micrometres a pixel of the tiles that are cut; null takes the slide's finest level."""
    tiles: Count | None = 500
    """At most so many tiles a slide, drawn at random from its tissue; null takes all."""
    tissue: Share = 0.5
    """A tile is taken where at least this share of it is tissue."""
    reject_blurred: bool = True
    """Leave out tiles that are out of focus at the size at which they are kept."""
    reject_pen: bool = True
    """Leave out tiles with marks of a pen; false for trichrome, Alcian blue and other stains that
    are as blue or green as ink."""


Retained = Literal[
    "patient characteristics",
    "device identity",
    "institution identity",
    "full dates",
    "uids",
]


class Deidentify(Section):
    """What is taken from DICOM headers (PS3.15, Basic Application Level Confidentiality Profile)
    and from pixels before anything is kept."""

    retain: tuple[Retained, ...] = ()
    """Options of the profile that keep something; patient characteristics (sex, age) must be
    retained to be labels."""
    declared_text: Literal["quarantine", "screen"] = "quarantine"
    """What happens to files that declare burned-in text; `screen` leaves it to text_screen, which
    must not be off."""
    text_screen: Literal["off", "quarantine", "mask"] = "off"
    """Look for text in every image (extra [ocr]), and refuse the image or black the text out."""
    shortest_text: Count = 3
    """Words with fewer letters and digits than this are markers (L, R, AP), not text."""

    @model_validator(mode="after")
    def _is_screened(self) -> Deidentify:
        if self.declared_text == "screen" and self.text_screen == "off":
            raise ValueError("declared_text: screen needs a text_screen that is not off")
        return self


class Split(Section):
    """How patients are divided, at random, before anything is trained."""

    validation: Share = 0.1
    """Share of the patients for curves and early stopping."""
    holdout: Share = 0.4
    """Share of the patients that no model ever sees: the gate compares with them."""
    half: Literal["first", "second"] | None = None
    """One of two runs on exchanged halves, each the other's held-out patients, for few patients
    (medsynth run --halves); holdout is then not used. Null is a run by itself."""

    @model_validator(mode="after")
    def _leaves_patients_to_train_on(self) -> Split:
        if self.validation + self.holdout >= 0.95:
            raise ValueError("validation + holdout must leave at least 5 % of patients to train on")
        return self


class Optimiser(Section):
    """How a network is trained; training is counted in images, not in steps."""

    images: Count
    """How many images it sees, repeats counted."""
    batch: Count
    """Images a step, over all GPUs."""
    learning_rate: Positive
    """Peak rate of AdamW."""
    warmup_images: Annotated[int, Field(ge=0)] = 0
    """The rate rises linearly over these."""
    decay: Literal["cosine", "constant"] = "cosine"
    """What the rate does after that; cosine falls to a hundredth."""
    weight_decay: NonNegative = 0.0
    """AdamW's weight decay."""
    clip: Positive = 1.0
    """The gradient's norm is clipped to this."""
    microbatch: Count | None = None
    """So many images go through the network at a time, a step's gradients being added up: for
    little memory. Changes no result but rounding; null takes all at once."""
    checkpointing: bool | None = None
    """Compute what lies inside a network again in the backward pass instead of keeping it: less
    memory, about a third more time. Null keeps it."""
    channels_last: bool | None = None
    """Lay the network out with channels last in memory, which is faster on many GPUs and slower on
    a CPU; null does not."""
    compile: bool | None = None
    """Compile the network on a GPU, which takes a minute and may then be faster; nothing on a CPU.
    Null does not."""

    @property
    def is_plain(self) -> bool:
        """True where a step is computed whole and as the network comes."""
        return not (self.microbatch or self.checkpointing or self.channels_last or self.compile)


class Lens(Section):
    """The feature extractor that the evidence is measured in; trained on training and held-out
    patients alike, or taken from a local file."""

    weights: str | None = None
    """A local weights file instead of training: a lens of an earlier run (.safetensors) or any
    network saved by torch.export (.pt2) from (N, 3, H, W) in [0, 1] to (N, D)."""
    sha256: Sha256 | None = None
    """The weights file's sha256; required with `weights`."""
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 32
    """Channels of its first layer; doubled at each halving."""
    features: Count = 128
    """Length of a feature vector."""
    training: Optimiser = Optimiser(images=200_000, batch=128, learning_rate=1e-3)
    """How it is trained."""

    @model_validator(mode="after")
    def _batch_is_whole(self) -> Lens:
        if self.training.microbatch or self.training.checkpointing:
            raise ValueError(
                "the lens compares all images of a batch, and is small: training.microbatch and "
                "training.checkpointing must be null"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_pinned(self) -> Lens:
        if (self.weights is None) != (self.sha256 is None):
            raise ValueError("weights and sha256 come together: a file is pinned or not used")
        return self


class Adversarial(Section):
    """The autoencoder's second stage: a patch discriminator with hinge loss."""

    after_images: Annotated[int, Field(ge=0)]
    """It starts after these images."""
    weight: Positive = 1.0
    """Weight on top of the adaptive one."""
    learning_rate: Positive = 1e-6
    """Rate of the discriminator, and of the autoencoder from then on."""


class Perceptual(Section):
    """A loss in the features of a lens that is first trained on what the autoencoder learns from,
    and on nobody else: not the lens of the evidence, which saw the held-out patients."""

    weight: Positive
    """Weight of the distance, a mean over its three levels."""
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 16
    """Channels of its first layer; doubled at each halving."""
    training: Optimiser = Optimiser(images=20_000, batch=64, learning_rate=2e-3)
    """How it is trained, as `lens.training`."""

    @model_validator(mode="after")
    def _batch_is_whole(self) -> Perceptual:
        if self.training.microbatch or self.training.checkpointing:
            raise ValueError("a lens compares all images of a batch: no microbatch, checkpointing")
        return self


class Autoencoder(Section):
    """The Medfusion autoencoder, a diffusers AutoencoderKL; defaults are the published ones."""

    source: Literal["patients", "phantoms", "public"] = "patients"
    """What it learns from: the training patients; made-up images, so that no patient is in it; or
    nothing, `public` takes weights in which no patient of this study had a part."""
    weights: str | None = None
    """A local folder: the autoencoder/ of an earlier run, or a diffusers AutoencoderKL. `public`
    takes it as it is and needs it; with `patients` training starts from it; `phantoms` has none."""
    sha256: Sha256 | None = None
    """The digest of that folder, as its stage.json has it; required with `weights`."""
    fold_px: Literal[1, 2, 4, 8] = 1
    """Fold squares of this side into channels first; 1 is the published network."""
    principal_start: bool = False
    """Start from the principal components of the squares that a latent's place stands for."""
    widths: tuple[Count, ...] = (64, 128, 256, 512)
    """Channels a level; each further level halves the size."""
    layers: Count = 1
    """Residual blocks a level."""
    latent_channels: Count = 8
    """Channels of the latent."""
    latents: Literal["raw"] | None = None
    """`raw` hands the denoiser latents as the encoder makes them, as published; null brings each
    channel to mean 0 and deviation 1."""
    groups: Count = 8
    """Groups of the group normalisation."""
    ssim_weight: NonNegative = 1.0
    """Weight of 1 - SSIM beside the squared error."""
    ssim_scales: Count | None = None
    """SSIM is a mean over so many sizes, each half the last, as far as the size allows; null takes
    one."""
    gradient_weight: NonNegative | None = None
    """Weight of the absolute error of slopes (Sobel), which keeps edges; null leaves it out."""
    frequency_weight: NonNegative | None = None
    """Weight of the focal frequency loss (arXiv 2012.12821); null leaves it out."""
    energy_weight: NonNegative | None = None
    """Weight of the error in the strength of fine detail around each place, which keeps texture as
    strong as it is and may make some up; null leaves it out."""
    perceptual: Perceptual | None = None
    """A distance in features of a lens of the training patients alone; null leaves it out."""
    kl_weight: NonNegative = 1e-6
    """Weight of the KL divergence."""
    deep_supervision: bool = True
    """A second output at half size with the same loss (needs at least two widths)."""
    adversarial: Adversarial | None = None
    """A second stage with a discriminator; null trains without."""
    training: Optimiser = Optimiser(images=800_000, batch=8, learning_rate=1e-4, decay="constant")
    """How it is trained."""

    @model_validator(mode="after")
    def _weights_are_pinned(self) -> Autoencoder:
        if (self.weights is None) != (self.sha256 is None):
            raise ValueError("weights and sha256 come together: a folder is pinned or not used")
        if self.source != "patients" and (self.weights is None) == (self.source == "public"):
            raise ValueError(
                "weights are needed with source: public, may be given with source: patients, to "
                "start from, and not with source: phantoms"
            )
        if self.fine_tuned and self.principal_start:
            raise ValueError("principal_start would undo the weights that training starts from")
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Autoencoder:
        if self.principal_start and self.downscale == 1:
            raise ValueError("principal_start needs fold_px > 1 or more than one width")
        if any(width % self.groups for width in self.widths):
            raise ValueError(f"every one of widths must be a multiple of groups ({self.groups})")
        return self

    @property
    def fine_tuned(self) -> bool:
        """True where training starts from the weights of another autoencoder."""
        return self.source == "patients" and self.weights is not None

    @property
    def downscale(self) -> int:
        """How many times smaller a latent's side is than its image's."""
        return self.fold_px * 2 ** (len(self.widths) - 1)


class Private(Section):
    """Differential privacy of the denoiser, by patient (DP-SGD; extra [private]). training.batch
    is then the expected number of patients a step, training.clip is not used, and sample.labels
    is required."""

    epsilon: Positive
    """The budget, for all trainings of a run together: how much an attacker may learn of whether
    a patient was among them. No default: a person writes it."""
    delta: Annotated[float, Field(gt=0, lt=1)]
    """The probability with which epsilon may not hold; below 1 / training patients."""
    clip: Positive = 0.1
    """A patient's gradient is cut to this norm."""
    noise_levels: Count = 8
    """Each patient's gradient is the mean over so many times and noises."""
    microbatch: Count = 16
    """Patients whose gradients are held in memory at a time; changes no result but rounding."""
    accountant: Literal["prv", "rdp"] = "prv"
    """How epsilon is reckoned; prv is tighter."""


class Choose(Section):
    """Which of the denoiser's weights are taken: of several kept on the way, the last ones before
    it copies, found by drawing images from each and holding them against training and validation
    patients. Held-out patients have no part in it."""

    checkpoints: Annotated[int, Field(ge=2, le=100)] = 8
    """So many weights are kept, evenly spaced over training, the last ones among them."""
    images: Annotated[int, Field(ge=20)] = 200
    """Images drawn from each, with the same seeds; they are thrown away."""
    steps: Annotated[int, Field(ge=1)] = 20
    """Sampling steps of these images; all else of how they are drawn is as in sample."""
    false_alarms: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """An image is flagged where it is nearer to one training patient than all but this share of
    the validation patients are."""
    level: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Weights are taken to copy where so many flagged images have at most this probability by
    chance (exact test)."""


class Averages(Section):
    """Moving averages of the weights by powers of time, from which one of any length is made when
    training is over (arXiv 2312.02696); `ema` is then what is looked at on the way."""

    kept: Annotated[int, Field(ge=4, le=100)] = 16
    """So often two averages are kept on the way, evenly spaced; each takes twice the network's
    room on disk while it trains."""
    length: Annotated[float, Field(ge=0.03, le=0.25)] | None = None
    """The standard deviation of the average's profile, as a share of the training; null tries some
    and takes the one with the lowest loss on validation patients."""


class Canaries(Section):
    """Made-up images of which a random half is trained on beside the patients, to bound from below
    what the denoiser gives away of anybody; docs/measures.md says how."""

    count: Annotated[int, Field(ge=20)] = 100
    """How many, those that are not trained on included; one in two is a code unlike any image, the
    others are phantoms of the domain."""


AMOUNTS = 5
"""How many numbers say how an image was changed: zoom, turn, shift across and down, mirrored."""


class Told(Section):
    """Augmentation that the denoiser is told of, so that it does not come into the samples (arXiv
    2206.00364): each training image is also encoded changed; for cohorts of a few hundred images.
    """

    views: Annotated[int, Field(ge=1, le=64)] = 8
    """So many changed views of each image, by amounts drawn for each; they take as much room each
    as the latents."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of what training draws that is changed."""
    zoom: NonNegative = 0.15
    """In and out by up to this share."""
    degrees: Annotated[float, Field(ge=0, le=180)] = 10.0
    """Turned by up to this, either way."""
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Shifted by up to this share of the side, each way."""
    mirror: bool = False
    """Mirror every second view left-right, also where the domain allows no flips: the network is
    told, and labels that a flip changes are changed."""


class Base(Section):
    """A text-conditioned network that somebody else trained, in the place of a denoiser of the
    run's own (extra [text]). Nothing of it is trained: it is what samples, controls, concepts and
    variations start from. Needs autoencoder.source: public, the base's own."""

    weights: str
    """A folder as diffusers saves a Stable Diffusion pipeline: unet/, text_encoder/, tokenizer/,
    scheduler/, weights as safetensors; medsynth init --base DIR writes the whole section."""
    sha256: Sha256
    """The digest of these four."""
    prompt: str
    """What it is told, with label columns in braces: "a chest x-ray, {label}, {view} view". What
    stands between two commas is left out where a label in it is not known."""

    @field_validator("prompt")
    @classmethod
    def _says_something(cls, prompt: str) -> str:
        if not named(prompt):
            raise ValueError(
                "the prompt names no label: what is not told apart by a label is drawn from an "
                'empty sentence; write for example "a chest x-ray, {label}"'
            )
        return prompt


class Diffusion(Section):
    """The denoiser, a diffusers UNet2DConditionModel, and its noise schedule."""

    base: Base | None = None
    """A pinned text-conditioned network instead of one that is trained here: the knobs of network
    and training below are then not used, and those of noise must be the base's; null trains."""

    widths: tuple[Count, ...] = (128, 256, 384)
    """Channels a level; each further level halves the latent."""
    attention: tuple[bool, ...] = (False, True, True)
    """At which levels it attends to itself and to the condition's tokens."""
    middle_attention: bool = True
    """Whether it does so in the middle block, below the last level."""
    layers: Count = 2
    """Residual blocks a level."""
    groups: Count = 32
    """Groups of the group normalisation."""
    objective: Literal["v", "eps", "flow"] = "v"
    """What the network predicts: v, noise, or noise less image (rectified flow, arXiv
    2209.03003)."""
    schedule: Literal["scaled_linear", "cosine", "flow"] = "cosine"
    """How noise grows; scaled_linear is Medfusion's and Stable Diffusion's; flow is the straight
    line of rectified flow, which ends in pure noise."""
    betas: tuple[Positive, Positive] | None = None
    """First and last noise a step of scaled_linear; null is Medfusion's, 0.002 and 0.02. Stable
    Diffusion's are 0.00085 and 0.012."""
    timesteps: Annotated[int, Field(ge=10)] = 1000
    """Steps of the schedule."""
    zero_terminal_snr: bool | None = None
    """Rescale the schedule to end in pure noise (arXiv 2305.08891); null leaves it."""
    times: Literal["logit_normal"] | None = None
    """How training draws its times: logit_normal draws those in the middle more often (arXiv
    2403.03206); null draws all alike."""
    min_snr_gamma: Positive | None = None
    """Min-SNR loss weighting (arXiv 2303.09556, which takes 5); null weighs all times alike."""
    loss: Literal["l1", "l2"] = "l2"
    """Error between prediction and target."""
    condition_dropout: Share = 0.1
    """Share of the samples whose condition becomes null, one coin each, for guidance."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the weights' moving average, a step; 0 switches it off."""
    averages: Averages | None = None
    """Find the moving average's length after training; null takes ema's."""
    patience: Count | None = None
    """End when the loss on validation patients has not fallen for so many looks, of 20 in a whole
    training, and take the weights at its lowest (with choose: none later); null goes on."""
    private: Private | None = None
    """A privacy budget; null trains without one."""
    choose: Choose | None = None
    """Take the last weights before copying sets in; null takes those at the end."""
    canaries: Canaries | None = None
    """Canaries for an audit; null plants none."""
    told: Told | None = None
    """Augmentation that does not come into the samples, for small cohorts; null has none."""
    training: Optimiser = Optimiser(
        images=3_200_000, batch=32, learning_rate=1e-4, warmup_images=10_000, weight_decay=0.01
    )
    """How it is trained."""

    @model_validator(mode="after")
    def _base_is_not_trained(self) -> Diffusion:
        trained = ("private", "choose", "canaries", "told", "averages", "patience")
        if self.base is not None and any(getattr(self, knob) is not None for knob in trained):
            raise ValueError(f"base is not trained: with it, {', '.join(trained)} must be null")
        if self.betas is not None and self.schedule != "scaled_linear":
            raise ValueError("betas are those of schedule: scaled_linear")
        return self

    @model_validator(mode="after")
    def _choice_is_not_free(self) -> Diffusion:
        if self.private is not None and self.choose is not None:
            raise ValueError(
                "choose looks at training and validation patients without noise, which no privacy "
                "budget covers: with private it must be null"
            )
        return self

    @model_validator(mode="after")
    def _budget_covers_it(self) -> Diffusion:
        if self.private is None:
            return self
        if self.patience is not None or (self.averages and self.averages.length is None):
            raise ValueError(
                "with private, patience must be null and averages needs a length: both look at "
                "validation patients without noise"
            )
        if self.told is not None or not self.training.is_plain:
            raise ValueError(
                "private trains by steps of its own: told, training.microbatch, checkpointing, "
                "channels_last and compile must be null"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_averaged_one_way(self) -> Diffusion:
        if self.averages is None:
            return self
        if self.choose is not None or self.patience is not None or not self.ema:
            raise ValueError(
                "averages takes the weights at the end of the whole training: choose and patience "
                "must be null, and ema above 0"
            )
        return self

    @model_validator(mode="after")
    def _noise_can_be_told_apart(self) -> Diffusion:
        if self.objective == "eps" and (self.zero_terminal_snr or self.schedule == "flow"):
            raise ValueError(
                "objective eps says nothing where there is only noise: with zero_terminal_snr or "
                "schedule flow it must be v or flow"
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Diffusion:
        if len(self.attention) != len(self.widths):
            raise ValueError(f"attention needs one entry a level: {len(self.widths)}")
        if any(width % self.groups for width in self.widths):
            raise ValueError(f"every one of widths must be a multiple of groups ({self.groups})")
        return self


class Control(Section):
    """A ControlNet on the trained denoiser, by `medsynth control fit`, whose `--kind` and `--set`
    go before what is written here; null takes the defaults."""

    kinds: Annotated[tuple[ControlKind, ...], Field(min_length=1)] = ("canny",)
    """What the maps show, stacked in this order; `mask` is read from files."""
    condition_dropout: Share = 0.5
    """Share of the samples whose condition becomes null, so that the map has to be read."""
    images: Annotated[int, Field(ge=2)] = 100
    """At most so many held-out images, whose maps are drawn from and looked for again."""
    training: Optimiser = Optimiser(
        images=400_000, batch=16, learning_rate=1e-4, warmup_images=4_000, weight_decay=0.01
    )
    """How it is trained."""

    @field_validator("kinds")
    @classmethod
    def _kinds_differ(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(kinds)) < len(kinds):
            raise ValueError("the same kind comes twice")
        return kinds

    @field_validator("training", mode="before")
    @classmethod
    def _fills_in(cls, given: Any) -> Any:
        usual = cls.model_fields["training"].default.model_dump(mode="json")
        return {**usual, **given} if isinstance(given, Mapping) else given


ClassNumber = Annotated[str, Field(pattern=r"^(?:[1-9]\d?|1\d\d|2[0-4]\d|25[0-5])$")]
ClassName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_ -]{0,63}$")]


class Masks(Section):
    """Images with masks: a diffusion model of its own (`medsynth masks fit`) draws masks that are
    no patient's, and a control of kind mask an image under each. Null draws images alone."""

    classes: Mapping[ClassNumber, ClassName] = {}
    """What the masks' values mean: {1: vessel}; a value without a word is class 1, class 2 and so
    on, and 0 is background."""
    control: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = "mask"
    """The control that draws the images, by its name; mask is its only kind."""
    covers: Annotated[float, Field(gt=0, le=1)] = 0.5
    """A pixel shows a class, the largest there, where classes cover at least this share of it; take
    less for what is thinner than a pixel."""
    fold_px: Literal[1, 2, 4, 8] = 2
    """Fold squares of this side into channels first: larger is faster and coarser."""
    diffusion: Diffusion = Diffusion(
        widths=(64, 128, 256),
        attention=(False, False, True),
        layers=1,
        training=Optimiser(
            images=400_000, batch=32, learning_rate=3e-4, warmup_images=4_000, weight_decay=0.01
        ),
    )
    """The masks' denoiser."""

    @model_validator(mode="after")
    def _learns_plainly(self) -> Masks:
        taken = ("private", "choose", "canaries", "told")
        if given := [name for name in taken if getattr(self.diffusion, name) is not None]:
            raise ValueError(f"masks.diffusion has no {' and no '.join(given)}: leave it null")
        return self

    def name_of(self, value: int) -> str:
        """Return what a mask's value means."""
        return self.classes.get(str(value), f"class {value}")


class Student(Section):
    """A copy of the denoiser that learns to take few steps where it takes sample.steps: from what
    it draws out of noise, labels as in sample, guidance included. No patient's image is looked at,
    so that it costs a privacy budget nothing."""

    steps: Count = 4
    """Its steps; sample.steps is a multiple."""
    walks: Annotated[int, Field(ge=20)] = 20_000
    """So many images are drawn by the denoiser for it to learn from, and are thrown away."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the weights' moving average, a step; 0 switches it off."""
    training: Optimiser = Optimiser(
        images=800_000, batch=32, learning_rate=1e-4, warmup_images=10_000
    )
    """How it is trained; an image is one of its steps."""


class Sample(Section):
    """The synthetic cohort."""

    images: Count = 1000
    """How many images."""
    steps: Annotated[int, Field(ge=1)] = 50
    """Steps, each of one pass through the network."""
    sampler: Literal["ddim", "dpm", "unipc"] | None = None
    """How a step is made: ddim, of first order; dpm, DPM-Solver++(2M, arXiv 2211.01095); unipc
    (UniPC-2, arXiv 2302.04867), which needs the fewest steps. Null takes ddim."""
    spacing: Literal["angle", "even"] | None = None
    """Where the steps are: even in the angle between signal and noise, or even in time, as
    Medfusion samples. Null takes angle."""
    eta: Share = 0.0
    """Noise added at each step of ddim: 0 is deterministic, 1 as much as DDPM."""
    guidance: NonNegative = 1.0
    """Classifier-free guidance: 0 ignores the condition, 1 follows it, more exaggerates it."""
    guidance_interval: tuple[NonNegative, NonNegative] | None = None
    """Guide only above the first and up to the second noise level (noise over signal: 0 is clean,
    1 is half and half); elsewhere the condition is followed, in one pass instead of two (arXiv
    2404.07724). Null guides everywhere."""
    student: Student | None = None
    """Draw by a student of the denoiser in few steps; all else here says how the denoiser draws
    that it learns from. Null draws by the denoiser."""
    batch: Count = 32
    """Images at a time; what an image looks like does not depend on it."""
    labels: Mapping[str, Mapping[str, NonNegative]] | None = None
    """Wished shares by attribute and value; null follows the training cohort's joint counts.
    Attributes that are not listed keep the patients' shares, or, with diffusion.private, are left
    out: {} asks for no labels."""
    rarest: Count | None = None
    """A combination of labels that fewer training patients than this have is not drawn: attributes
    are left unknown until as many have the rest. Null takes 5, and 1 draws all; with
    diffusion.private the wished labels are public and all are drawn."""
    generator: Literal["diffusion", "memorize"] = "diffusion"
    """`memorize` hands out training images through the autoencoder, to show that the gate works."""

    @model_validator(mode="after")
    def _can_be_drawn(self) -> Sample:
        if self.eta > 0 and self.sampler in ("dpm", "unipc"):
            raise ValueError(
                f"eta {self.eta:g} is DDIM's: sampler {self.sampler} adds no noise; set eta to 0, "
                f"or sampler to ddim"
            )
        if self.student is not None:
            self._student_can_learn(self.student.steps)
        if self.guidance_interval is not None:
            low, high = self.guidance_interval
            if low >= high:
                raise ValueError(f"guidance_interval must rise, got {low:g} to {high:g}")
            if self.guidance in (0.0, 1.0):
                raise ValueError(
                    f"guidance_interval says where to guide, which guidance {self.guidance:g} does "
                    f"nowhere: set guidance above 1, or guidance_interval to null"
                )
        return self

    def _student_can_learn(self, steps: int) -> None:
        if self.eta > 0:
            raise ValueError(
                f"a student learns where noise leads, which eta {self.eta:g} leaves to chance: set "
                f"eta to 0, or student to null"
            )
        if self.steps % steps or self.steps == steps:
            raise ValueError(
                f"sample.steps {self.steps} must be twice student.steps ({steps}), or another "
                f"multiple: a step of the student stands for so many of the denoiser"
            )


class Concept(Section):
    """How a concept is learned: new token vectors alone, everything else as it is (textual
    inversion, arXiv 2208.01618). Null takes these defaults."""

    vectors: Annotated[int, Field(ge=1, le=64)] = 4
    """Vectors that stand where the concept's name does; medical images need more than others (arXiv
    2303.13430)."""
    guidance: NonNegative = 4.0
    """Classifier-free guidance of images that are drawn with it: a new word says little by itself,
    and what it says has to be made strong."""
    training: Optimiser = Optimiser(images=24_000, batch=8, learning_rate=0.04, decay="constant")
    """How it is trained, 3,000 steps by default; the rate is 5e-3 times the batch where it is not
    given."""

    @field_validator("training", mode="before")
    @classmethod
    def _fills_in(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        usual = cls.model_fields["training"].default.model_dump(mode="json")
        batch = given.get("batch", usual["batch"])
        rate = 5e-3 * batch if isinstance(batch, int) else usual["learning_rate"]
        return {**usual, "learning_rate": rate, **given}


class Augment(Section):
    """Variations of training images for somebody's own training (DA-Fusion, arXiv 2302.07944); they
    never leave. Null takes these defaults."""

    strengths: Annotated[tuple[Share, ...], Field(min_length=1)] = (1.0, 0.75, 0.5, 0.25)
    """How far an image is noised before it is denoised again, drawn evenly: 0 leaves what the
    autoencoder keeps, of 1 only the labels are left."""
    children: Count = 10
    """Variations of each image."""
    measured: Annotated[int, Field(ge=0)] = 200
    """At most so many of each strength, drawn at random, are looked up among the training images,
    to say how many still show their parent; 0 measures nothing."""


class Utility(Section):
    """Of what use synthetic images are: small networks learn a label from them, from real training
    images and from both, and are asked about held-out patients. Dozens of trainings."""

    attribute: str | None = None
    """Label attribute that is learned; null takes the first by name of which training and held-out
    patients have two values or more, eight patients each."""
    trainings: Annotated[int, Field(ge=2, le=50)] = 5
    """Networks of each kind, which start by chance and see other real images; few make wide
    intervals."""
    images: Count = 6000
    """Images that each network sees, repeats counted."""
    shots: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 4, 8, 16)
    """Real images of each class in the few-shot table of `medsynth utility`."""
    alpha: Share = 0.5
    """How often a child stands in for its image in that table."""


class Validate(Section):
    """How the evidence is measured."""

    permutations: Annotated[int, Field(ge=99)] = 1999
    """Patient permutations for each p-value."""
    bootstrap: Annotated[int, Field(ge=50)] = 500
    """Resamplings over patients for each interval."""
    candidates: Count = 20
    """Nearest real images kept for each synthetic one and space."""
    planted: Annotated[int, Field(ge=10)] = 100
    """Copies planted of each change to measure what the search can find."""
    false_alarms: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Share of held-out patients' images that the copy threshold may flag."""
    quarantine: Annotated[float, Field(gt=0, lt=0.5)] = 0.001
    """Share of innocent images that the quarantine may take: an image nearer to one training
    patient than all but this share of held-out images are does not leave."""
    least_lens_recall: Share = 0.5
    """A space is believed if it finds at least this share of the planted copies by itself, at the
    low end of the interval; the others take no part in the tests."""
    copy_changes: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Changes of planted copies that the bound of the copy rate is to hold for: it is divided by
    the recall of the weakest of them; null takes all that are planted."""
    subgroups: tuple[str, ...] | None = None
    """Label attributes whose every value gets a test of its own; null takes all attributes."""
    fidelity_images: Count = 5000
    """At most so many images a side for the fidelity measures."""
    white_box_images: Annotated[int, Field(ge=0)] | None = None
    """At most so many images a side for membership attacks on the model itself; null takes 1000,
    0 leaves them out."""
    region_images: Annotated[int, Field(ge=0)] | None = None
    """At most so many synthetic images, drawn at random, are searched for copied regions, and as
    many held-out ones; null takes 200, 0 leaves them out."""
    segmenter_images: Annotated[int, Field(ge=1, le=6000)] | None = None
    """Images that each segmenter of `medsynth fidelity --masks` sees in training, repeats counted;
    null takes 6000."""
    utility: Utility | None = None
    """Measure of what use the images are; null does not, {} does with these defaults."""


class Waiver(Section):
    """Leave a rule out of the decision. It is judged all the same, and who waived it and why stand
    on top of every card and report."""

    reason: Annotated[str, Field(min_length=10)]
    """Why, in a sentence for whoever gets the release."""
    by: Annotated[str, Field(min_length=3)]
    """Name of who decided so; it is published."""


class Rule(Section):
    """A bar on a Finding, held against the pessimistic end of its interval: exactly one of
    `at_most`, `at_least` and `not_rejected_at`."""

    finding: str
    """The finding's name, as in `medsynth findings` and docs/measures.md."""
    at_most: float | None = None
    """The interval's high end must not exceed this."""
    at_least: float | None = None
    """The interval's low end must reach this."""
    not_rejected_at: Annotated[float, Field(gt=0, lt=1)] | None = None
    """For a p-value: the test must not reject at this level, of which attempt j gets the share
    1 / 2^j."""
    waived: Waiver | None = None
    """The rule does not close the gate where it is broken; null, and it does."""

    @model_validator(mode="after")
    def _has_one_bar(self) -> Rule:
        bars = (self.at_most, self.at_least, self.not_rejected_at)
        if sum(bar is not None for bar in bars) != 1:
            raise ValueError("expected exactly one of at_most, at_least and not_rejected_at")
        return self


class Gate(Section):
    """What must hold before anything leaves. No defaults: a person writes it, before the data
    is seen."""

    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]
    """All must hold."""

    @field_validator("rules")
    @classmethod
    def _guards_privacy(cls, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        kept = [rule for rule in rules if rule.waived is None]
        if not any(rule.finding.startswith("memorization") for rule in kept):
            raise ValueError("at least one rule must be on a memorization finding, and not waived")
        return rules


class Card(Section):
    """What the release says of itself."""

    title: str = "Synthetic cohort"
    """Title of the data card."""
    licence: str = "to be decided by the data holder"
    """Licence of the released images."""
    contact: str = ""
    """Whom to ask."""
    published: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] | None = None
    """Date of publication, "2026-11-22"; null says none."""
    formats: tuple[Literal["parquet", "webdataset", "npz", "dicom"], ...] = ()
    """Shapes in which the images leave beside PNG files and their table (parquet and dicom: extra
    [export])."""
    weights: Literal[True] | None = None
    """Release the autoencoder's and the denoiser's weights too, as a folder for diffusers and
    MONAI; needs a rule on membership.model.p_value that is not waived. Null keeps them."""


class Protocol(Section):
    """A whole study."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    """Short name, in lower case."""
    domain: str
    """Kind of image."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Every random number of the study follows from it."""
    image: Image = Image()
    data: Data = Data()
    slides: Slides = Slides()
    deidentify: Deidentify = Deidentify()
    split: Split = Split()
    lens: Lens = Lens()
    autoencoder: Autoencoder = Autoencoder()
    diffusion: Diffusion = Diffusion()
    control: Control | None = None
    """A ControlNet's knobs; null takes the defaults where one is asked for."""
    masks: Masks | None = None
    """Masks beside the images; null draws images alone."""
    sample: Sample = Sample()
    validate_: Validate = Field(default=Validate(), alias="validate")
    gate: Gate
    card: Card = Card()
    concept: Concept | None = None
    """How `medsynth concept learn` learns; null takes the defaults."""
    augment: Augment | None = None
    """What `medsynth augment` makes; null takes the defaults."""

    @field_validator("domain")
    @classmethod
    def _domain_exists(cls, name: str) -> str:
        if name not in domains.names():
            raise ValueError(f"expected one of {', '.join(domains.names())}")
        return name

    @model_validator(mode="after")
    def _depth_fits(self) -> Protocol:
        if self.image.bits == 16 and domains.domain(self.domain).channels == 3:
            raise ValueError(
                "image.bits 16 is for grey domains: no common PNG reader keeps 16-bit RGB"
            )
        return self

    @model_validator(mode="after")
    def _base_has_its_own_latents(self) -> Protocol:
        if self.diffusion.base is not None and self.autoencoder.source != "public":
            raise ValueError(
                "diffusion.base draws latents of its own autoencoder: take that over with "
                "autoencoder.source: public"
            )
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> Protocol:
        if self.diffusion.base is not None:
            return self  # its own sizes count, and fit knows them
        step = self.autoencoder.downscale * 2 ** (len(self.diffusion.widths) - 1)
        if self.image.size_px % step:
            raise ValueError(
                f"image.size_px must be a multiple of {step}: the autoencoder makes it "
                f"{self.autoencoder.downscale} times smaller and the denoiser halves that "
                f"{len(self.diffusion.widths) - 1} times"
            )
        if self.masks is not None:
            halved = len(self.masks.diffusion.widths) - 1
            if self.image.size_px % (self.masks.fold_px * 2**halved):
                raise ValueError(
                    f"image.size_px must be a multiple of {self.masks.fold_px * 2**halved}: masks "
                    f"are folded by {self.masks.fold_px}, and their denoiser halves that {halved} "
                    f"times"
                )
        return self

    @model_validator(mode="after")
    def _labels_are_public(self) -> Protocol:
        if self.diffusion.private is not None and self.sample.labels is None:
            raise ValueError(
                "diffusion.private needs sample.labels: the values and shares of the patients' "
                "own labels are not covered by a privacy budget; {} asks for no labels"
            )
        return self

    @model_validator(mode="after")
    def _autoencoder_is_no_secret(self) -> Protocol:
        if self.diffusion.private is not None and self.autoencoder.fine_tuned:
            raise ValueError(
                "diffusion.private does not cover an autoencoder that is fine-tuned on patients: "
                "take its weights as they are (source: public), if no patient had a part in them"
            )
        return self

    @model_validator(mode="after")
    def _masks_are_guarded(self) -> Protocol:
        if self.masks is None:
            return self
        if self.diffusion.private is not None:
            raise ValueError(
                "diffusion.private covers neither the masks' denoiser nor the control, which see "
                "patients without noise: masks must be null"
            )
        if not any(rule.finding.startswith("masks.") for rule in self.gate.rules):
            raise ValueError(
                "with masks at least one rule must be on a masks finding: a copied mask is a leak "
                "where no pixel of the image is copied"
            )
        return self

    @model_validator(mode="after")
    def _what_is_judged_is_measured(self) -> Protocol:
        asked = [rule.finding for rule in self.gate.rules if rule.finding.startswith("utility.")]
        if asked and self.validate_.utility is None:
            raise ValueError(
                f"the rule on {asked[0]} needs validate.utility, which is null: {{}} takes its "
                f"defaults"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_guarded(self) -> Protocol:
        rules = [rule.finding for rule in self.gate.rules if rule.waived is None]
        guarded = any(fnmatchcase(WHITE_BOX, finding) for finding in rules)
        if self.card.weights and (not guarded or self.validate_.white_box_images == 0):
            raise ValueError(
                f"card.weights needs a rule on {WHITE_BOX} that is not waived, and "
                f"validate.white_box_images above 0: whoever has the weights can ask them who was "
                f"trained on"
            )
        return self

    @model_validator(mode="after")
    def _one_network_draws(self) -> Protocol:
        others = {"masks": self.masks, "diffusion.base": self.diffusion.base}
        if self.sample.student is not None:
            for name in (name for name, given in others.items() if given is not None):
                raise ValueError(
                    f"sample.student learns from a denoiser that is trained here and draws images "
                    f"alone: one of sample.student and {name} must be null"
                )
        if self.card.weights and self.diffusion.base is not None:
            raise ValueError(
                "card.weights releases networks that are trained here: with diffusion.base, which "
                "others made, it must be false"
            )
        return self

    @model_validator(mode="after")
    def _student_can_begin(self) -> Protocol:
        if self.sample.student is not None and self.diffusion.objective == "eps":
            raise ValueError(
                "sample.student begins in pure noise, where objective eps says nothing of the "
                "image: diffusion.objective must be v or flow"
            )
        return self

    @model_validator(mode="after")
    def _tests_can_reject(self) -> Protocol:
        for rule in self.gate.rules:
            if rule.not_rejected_at is not None and not self.can_reject(rule, attempt=1):
                raise ValueError(
                    f"{self.validate_.permutations} permutations can't reject at "
                    f"{rule.not_rejected_at} / 2: such a rule guards nothing; "
                    f"raise validate.permutations"
                )
        return self

    def can_reject(self, rule: Rule, *, attempt: int) -> bool:
        """True if the smallest p-value there can be lies below the rule's level at this attempt."""
        smallest = 1 / (self.validate_.permutations + 1)
        return rule.not_rejected_at is None or smallest < rule.not_rejected_at / 2**attempt

    def section(self, name: str) -> dict[str, Any]:
        """Return one section, or one plain value, as what JSON holds."""
        return self.to_dict()[name]

    def to_dict(self) -> dict[str, Any]:
        """Return the whole resolved protocol as what JSON holds."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def digest(self) -> str:
        """sha256 of the resolved protocol without its null knobs: files that differ only in what
        is default are equal, and a knob that a later version adds, null, changes nothing."""
        return digest_json(set_knobs(self.to_dict()))


def set_knobs(knobs: Any) -> Any:
    """Leave out null knobs, of a section or a whole protocol as JSON holds it: one that a later
    version adds makes nothing stale."""
    if isinstance(knobs, Mapping):
        return {name: set_knobs(value) for name, value in knobs.items() if value is not None}
    return [set_knobs(value) for value in knobs] if isinstance(knobs, list) else knobs


def digest_as_written(path: Path) -> str:
    """Return the digest of a resolved protocol's file as it stands, whatever knobs this version of
    medsynth adds. Raises ProtocolError where it is no YAML mapping."""
    return digest_json(set_knobs(_parse_yaml(path.read_text(), path.name)))


def load(
    path: Path, *, profile: str | None = None, changes: Mapping[str, Any] | None = None
) -> Protocol:
    """Read a protocol file.

    `profile` chooses one of the file's `profiles`; `changes` are {"section.key": value} on top.
    Raises ProtocolError with all faults at once, each with its line where it has one.
    """
    if not path.is_file():
        raise ProtocolError(path.name, ["no such file"])
    return parse(path.read_text(), source=path.name, profile=profile, changes=changes)


def shipped(name: str) -> Path:
    """Return the path of a protocol that comes with medsynth, installed or in a checkout."""
    here = Path(__file__).parent
    folders = (here / "protocols", here.parent / "protocols")
    found = [folder / f"{name}.yaml" for folder in folders if (folder / f"{name}.yaml").exists()]
    if not found:
        raise ProtocolError(name, ["no protocol of this name comes with medsynth"])
    return found[0]


def recipe(name: str, *, profile: str | None = None) -> dict[str, Any]:
    """Return what the file of a shipped protocol says, with a profile's changes where one is named;
    no defaults are filled in, and the other profiles are left out."""
    document = _parse_yaml(shipped(name).read_text(), name)
    values = {key: value for key, value in document.items() if key != "profiles"}
    return _merge(values, _choose_profile(document, profile, name) if profile else {})


def parse(
    text: str,
    *,
    source: str = "protocol",
    profile: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Protocol:
    """Read a protocol from YAML text; see `load`."""
    document = _parse_yaml(text, source)
    values = {key: value for key, value in document.items() if key != "profiles"}
    values = _merge(_section_defaults(Protocol), values)
    if profile is not None:
        values = _merge(values, _choose_profile(document, profile, source))
    for dotted, value in (changes or {}).items():
        values = _merge(values, _nest(dotted, value))
    try:
        return Protocol.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        faults = [_describe(fault, document, profile) for fault in error.errors()]
        raise ProtocolError(source, faults) from None


def to_yaml(protocol: Protocol) -> str:
    """Write a resolved protocol as YAML that `parse` reads back."""
    from ruamel.yaml import YAML

    text = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.dump(_quoted(protocol.to_dict()), text)
    return text.getvalue()


def _quoted(value: Any) -> Any:
    """Quote all texts but plain words: ruamel leaves some bare that it can't read back."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, Mapping):
        return {_quoted(key): _quoted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_quoted(item) for item in value]
    plain = not isinstance(value, str) or value.replace("-", "_").isidentifier()
    return value if plain else DoubleQuotedScalarString(value)


def _parse_yaml(text: str, source: str) -> Mapping[str, Any]:
    from ruamel.yaml import YAML, YAMLError

    try:
        document = YAML().load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        problem = str(getattr(error, "problem", error)).split("\n")[0]
        raise ProtocolError(source, [f"{place}not YAML: {problem}"]) from None
    if not isinstance(document, Mapping):
        raise ProtocolError(source, ["expected a mapping of sections at the top"])
    return document


def _choose_profile(document: Mapping[str, Any], profile: str, source: str) -> Mapping[str, Any]:
    profiles = document.get("profiles") or {}
    if not isinstance(profiles, Mapping):
        raise ProtocolError(source, ["profiles: expected a mapping of names to changes"])
    if profile not in profiles:
        known = ", ".join(profiles) or "none"
        raise ProtocolError(source, [f"profiles: no profile {profile!r}; the file has: {known}"])
    if not isinstance(profiles[profile], Mapping):
        raise ProtocolError(source, [f"profiles.{profile}: expected a mapping of sections"])
    return profiles[profile]


def _section_defaults(section: type[Section]) -> dict[str, Any]:
    """Return the defaults of all sections, so that a file may change one knob of a section."""
    return {
        info.alias or name: info.default.model_dump(mode="json", by_alias=True)
        for name, info in section.model_fields.items()
        if isinstance(info.default, Section)
    }


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _nest(dotted: str, value: Any) -> dict[str, Any]:
    for key in reversed(dotted.split(".")):
        value = {key: value}
    return value


def _describe(fault: Mapping[str, Any], document: Any, profile: str | None) -> str:
    place = tuple(part for part in fault["loc"])
    where = ".".join(str(part) for part in place) or "the whole"
    line = _line(document, ("profiles", profile, *place)) if profile else None
    line = line or _line(document, place)
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing":
        message = "is required" + (
            ": a person writes the rules, before the data is seen" if place == ("gate",) else ""
        )
    elif fault["type"] == "extra_forbidden":
        message = "no such knob"
    got = fault.get("input")
    shown = f" (got {got!r})" if isinstance(got, str | int | float | bool) else ""
    return f"{f'line {line}: ' if line else ''}{where}: {message}{shown}"


def _line(document: Any, place: tuple[Any, ...]) -> int | None:
    """Return the line, from 1, of a key or item in a document that ruamel read; None if absent."""
    found = None
    for part in place:
        try:
            where = document.lc.item(part) if isinstance(part, int) else document.lc.key(part)
            document = document[part]
        except (AttributeError, KeyError, TypeError, IndexError):
            return found
        found = where[0] + 1
    return found
