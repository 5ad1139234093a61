"""A privacy budget: what was spent, how much that is, and what it covers. No torch at import.

A training is many noisy sums, each a Gaussian mechanism on a Poisson sample of the patients; its
epsilon follows from the sampling rate, the noise multiplier and the number of steps alone.
`spent.json` in a run's folder lists all trainings that were ever begun there, so that one that was
thrown away still counts; `ledger.json` beside the weights is all that one epsilon follows from.

Source: Abadi et al., arXiv 1607.00133 (DP-SGD); Gopi et al., arXiv 2106.02848 (PRV accountant);
Mironov et al., arXiv 1908.10530 (RDP of the sampled Gaussian).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .errors import StageError
from .runtime import read_json, write_json

Accountant = Literal["prv", "rdp"]
LARGEST_ERROR = 1e-4  # of a patient's gradient against the one-by-one one, relative
RESERVED = 50  # steps that are written down before the first of them is taken
ORDERS = (*range(2, 64), 96, 128, 256, 512)  # of RDP: whole ones are quick to reckon
MOST_NOISE = 1e4


@dataclass(frozen=True)
class Training:
    """The noisy sums of one training: `steps` times a Gaussian mechanism on a Poisson sample.

    `id` names its secret random numbers: what is drawn again with them is the same release.
    `noise_multiplier` is the noise's standard deviation over the clip.
    """

    id: str
    sample_rate: float
    noise_multiplier: float
    steps: int


@dataclass(frozen=True)
class Ledger:
    """All that a model's epsilon follows from, and the epsilon.

    `trainings` are those of the run that came before, and the model's own last. `patients` are
    the training patients, with the canaries that were trained on, `batch` the expected number of
    them a step, `largest_error` what the self-test of the gradients found (relative), `budget` the
    epsilon that was allowed.
    """

    trainings: tuple[Training, ...]
    patients: int
    batch: int
    clip: float
    noise_levels: int
    delta: float
    budget: float
    accountant: Accountant
    largest_error: float
    epsilon: float

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """Read what `write` wrote."""
        row = read_json(path)
        return cls(**{**row, "trainings": tuple(Training(**item) for item in row["trainings"])})


def epsilon_of(trainings: Sequence[Training], *, delta: float, accountant: Accountant) -> float:
    """Return the epsilon that trainings spent together at `delta`: an upper bound."""
    from opacus.accountants import create_accountant

    account = create_accountant(accountant)
    account.history = [
        (row.noise_multiplier, row.sample_rate, row.steps) for row in trainings if row.steps
    ]
    if not account.history:
        return 0.0
    with warnings.catch_warnings():
        # RDP says that a wider range of orders could make the bound tighter; PRV takes log 0
        # where all patients take part at every step.
        warnings.simplefilter("ignore")
        if accountant == "rdp":
            return float(account.get_epsilon(delta=delta, alphas=ORDERS))
        return float(account.get_epsilon(delta=delta))


def recompute(ledger: Ledger) -> float:
    """Return a ledger's epsilon, computed again from what it lists."""
    return epsilon_of(ledger.trainings, delta=ledger.delta, accountant=ledger.accountant)


def find_noise(
    epsilon: float,
    *,
    delta: float,
    sample_rate: float,
    steps: int,
    accountant: Accountant,
    before: Sequence[Training] = (),
) -> float:
    """Return the smallest noise multiplier, to four digits, that keeps within `epsilon`.

    `before` are trainings that have spent from the same budget. Raises StageError where they have
    left less than a twentieth of it, or where no noise is enough.
    """
    spent = epsilon_of(before, delta=delta, accountant=accountant)
    if spent > 0.95 * epsilon:  # with what is left all would be noise
        raise StageError(
            f"the budget is spent: earlier trainings in this run took epsilon {spent:.3g} of "
            f"diffusion.private.epsilon {epsilon:g}. More may be spent only if a person writes "
            f"a larger epsilon"
        )

    def fits(noise: float, by: Accountant) -> bool:
        rows = [*before, Training("", sample_rate, noise, steps)]
        return epsilon_of(rows, delta=delta, accountant=by) <= epsilon

    low, high = _narrow(*_bracket(lambda noise: fits(noise, "rdp")), lambda x: fits(x, "rdp"))
    if accountant == "prv":  # a little tighter, and slow
        while fits(low, "prv"):
            low, high = 0.9 * low, low
        low, high = _narrow(low, high, lambda noise: fits(noise, "prv"))
    return _round_up(high)


def _narrow(low: float, high: float, fits: Callable[[float], bool]) -> tuple[float, float]:
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return low, high


def _bracket(fits: Callable[[float], bool]) -> tuple[float, float]:
    high = 0.5
    while not fits(high):
        high *= 2
        if high > MOST_NOISE:
            raise StageError(
                "no noise keeps so many steps within diffusion.private.epsilon: raise epsilon, "
                "lower training.images, or train on more patients"
            )
    return high / 2, high


def _round_up(number: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(number)) - 3)
    return round(math.ceil(number / unit) * unit, 10)


class Account:
    """The trainings ever begun in a run, on disk; steps are written down before they are taken."""

    def __init__(self, path: Path):
        self.path = path

    def trainings(self) -> tuple[Training, ...]:
        """Return all trainings, each with the steps that it may have taken."""
        rows = read_json(self.path) if self.path.exists() else []
        return tuple(Training(**row) for row in rows)

    def others(self, training: str) -> tuple[Training, ...]:
        """Return all trainings but the one with this id."""
        return tuple(row for row in self.trainings() if row.id != training)

    def reserve(self, training: Training, step: int) -> int:
        """Write down that step `step`, from 0, and some after it will be taken; return how many
        steps stand written down. Raises StageError where the training's budget has no such step.
        """
        if step >= training.steps:
            raise StageError(
                f"the privacy budget is spent: it was reckoned for {training.steps} steps, and "
                f"this would be one more"
            )
        rows = list(self.trainings())
        mine = next((row for row in rows if row.id == training.id), None)
        until = max(mine.steps if mine else 0, min(step + RESERVED, training.steps))
        changed = replace(training, steps=until)
        if changed != mine:
            kept = [changed if row.id == training.id else row for row in rows]
            write_json(self.path, [asdict(row) for row in (kept if mine else [*rows, changed])])
        return until


# What it covers -----------------------------------------------------------------------------------

AUTOENCODERS = {
    "phantoms": "The autoencoder was trained on made-up images, so there is no patient in it.",
    "public": (
        "The autoencoder came ready-made, pinned by its sha256: that no patient of this study had "
        "a part in it is the word of whoever wrote the protocol."
    ),
}
NOT_COVERED = (
    "Epsilon does not cover how many training patients there were, which images passed intake or "
    "were linked as duplicates, the findings and the outcome of this gate, which are measured on "
    "the patients without noise, nor settings that were chosen by looking at earlier results. The "
    "labels and their shares come from the protocol."
)


@dataclass(frozen=True)
class Coverage:
    """What epsilon holds for the images that are released: infinite where no bound holds.

    `sentences` say so for a verdict; `method` is how a Finding would put it.
    """

    epsilon: float
    delta: float
    patients: int
    sentences: tuple[str, ...]
    method: str


def coverage(ledger: Ledger, *, autoencoder: str, generator: str) -> Coverage:
    """Say what a private denoiser's ledger is worth for the whole pipeline.

    `autoencoder` is what it was trained on (patients, phantoms, public) and `generator` the
    protocol's sample.generator.
    """
    faults = list(_faults(ledger, autoencoder, generator))
    spent = f"epsilon {ledger.epsilon:.3g} at delta {ledger.delta:g}"
    if faults:
        sentence = (
            f"The claims do not add up: the denoiser was trained with differential privacy "
            f"({spent}), but {' and '.join(faults)}. No epsilon holds for the images."
        )
        sentences, epsilon = (sentence,), math.inf
    else:
        sentences, epsilon = _sentences(ledger, spent, autoencoder), ledger.epsilon
    return Coverage(epsilon, ledger.delta, ledger.patients, sentences, _method(ledger))


def _faults(ledger: Ledger, autoencoder: str, generator: str) -> Iterator[str]:
    if autoencoder not in AUTOENCODERS:
        yield "the autoencoder learned from the same patients without it"
    if generator != "diffusion":
        yield "the images are not the denoiser's: training images were handed out"
    if not ledger.largest_error <= LARGEST_ERROR:
        yield "its gradients were not shown to be right"
    if not ledger.epsilon <= ledger.budget:
        yield f"more was spent than the budget of {ledger.budget:g}"


def _sentences(ledger: Ledger, spent: str, autoencoder: str) -> tuple[str, ...]:
    earlier = len(ledger.trainings) - 1
    counted = f" {earlier} earlier training(s) of this run are counted in it." if earlier else ""
    bound = (
        f"Differential privacy: {spent}, for adding or removing one training patient with all of "
        f"the patient's images. It bounds what any attack can learn, also those that were not "
        f"tried.{counted}"
    )
    return bound, AUTOENCODERS[autoencoder], NOT_COVERED


def _method(ledger: Ledger) -> str:
    own = ledger.trainings[-1]
    return (
        f"{ledger.accountant.upper()} accountant: {own.steps} steps, each patient in a step with "
        f"probability {own.sample_rate:.4g}, one image each, gradients clipped to {ledger.clip:g}, "
        f"noise multiplier {own.noise_multiplier:g}"
        + (f"; {len(ledger.trainings) - 1} earlier trainings" if len(ledger.trainings) > 1 else "")
        + f"; gradients checked one by one to {ledger.largest_error:.0e}"
    )


def read_ledger(run: Path) -> Ledger | None:
    """Return the ledger of a run's denoiser; None where it is not private."""
    path = run / "diffusion" / "ledger.json"
    return Ledger.read(path) if path.exists() else None


def read_coverage(run: Path, *, generator: str) -> tuple[Ledger, Coverage] | None:
    """Return the ledger of a run's denoiser and its coverage; None where it is not private."""
    ledger, source = read_ledger(run), run / "autoencoder" / "source.json"
    if ledger is None:
        return None
    row: Mapping[str, Any] = read_json(source) if source.exists() else {"source": "patients"}
    return ledger, coverage(ledger, autoencoder=row["source"], generator=generator)
