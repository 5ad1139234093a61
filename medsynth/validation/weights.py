"""Who was trained on, guessed by somebody who has the weights.

Such an attacker puts noise on a patient's image and sees how well the denoiser takes it off. A
release holds no weights unless the protocol says so, and then a rule on these numbers must pass.
They see over-training before a single synthetic image shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..cohort import Cohort
from ..finding import Finding
from ..runtime import derive_seed
from . import Case, difficulty, search
from .losses import Labels, Model, latent_losses, predict_noise
from .membership import Guess, findings, per_patient, tested

IMAGES = 1000  # a side, where the protocol does not say
LEVELS = (0.06, 0.32, 0.63)  # shares of noise in the variance of a noised image
PROXIMAL = (0.43,)
TINY = 1e-12
NAIVELY = "how smooth a patient's images are"


def measure(case: Case) -> Iterable[Finding]:
    """Measure membership with the model; nothing without one or where the protocol asks for none.

    The same number of images of a patient is looked at on both sides, so that patients stay
    exchangeable.
    """
    wanted = case.settings.white_box_images
    cap = IMAGES if wanted is None else wanted
    if case.model is None or cap == 0:
        return
    rng = np.random.default_rng(derive_seed(case.seed, "weights"))
    sides = [
        side.take(chosen)
        for side, chosen in zip(
            (case.train, case.holdout),
            choose(case.train.patients, case.holdout.patients, cap, rng),
            strict=True,
        )
    ]
    patients, is_train = _pool(sides)
    guesses = guess(case, sides, patients)
    for found in guesses:
        yield from findings(found, is_train)
    yield tested("membership.model.p_value", guesses, is_train, case.settings.permutations, rng)


def choose(
    first: np.ndarray, second: np.ndarray, cap: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return the images to look at on each side, at most `cap`, given their (N,) patients: of
    each patient at most so many as keep both sides under it, the same number on either side;
    where one of each is too many, one of so many patients."""
    places = [_places(side, rng) for side in (first, second)]
    most = max(int(place.max()) + 1 for place in places)
    fitting = [q for q in range(1, most + 1) if all((place < q).sum() <= cap for place in places)]
    each = fitting[-1] if fitting else 1
    chosen = [np.flatnonzero(place < each) for place in places]
    return [np.sort(rng.permutation(side)[:cap]) for side in chosen]


def guess(case: Case, sides: Sequence[Cohort], patients: np.ndarray) -> list[Guess]:
    """Return all attacks' guesses of the patients (N,) whose images the sides are."""
    traits, detail = (
        np.concatenate([search.in_batches(look, side) for side in sides])
        for look in (difficulty.traits, difficulty.octaves)
    )
    loss, score, pia = ask(case, sides)
    both = loss + score
    rest = both - difficulty.expect(both, traits, patients, seed=case.seed)
    naive = per_patient(standardised(-detail), patients)
    at = ", ".join(f"{level:g}" for level in LEVELS)
    made = (
        ("loss", loss, f"by the log of the denoiser's loss, at noise shares {at}"),
        ("score", score, "by the size of the noise that is seen on the clean image"),
        (
            "pia",
            pia,
            "by proximal initialisation: how far the noise seen on the clean image stays the same "
            "when it is put on it",
        ),
        (
            "calibrated",
            rest,
            "by loss and score, less what is expected of an image of this brightness, contrast "
            "and detail",
        ),
    )
    return [
        Guess(name, per_patient(values, patients), naive, how, NAIVELY)
        for name, values, how in made
    ]


def ask(case: Case, sides: Sequence[Cohort]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how easy the model finds each image of the sides, (N,), three ways: by its loss, by
    the noise it sees on the clean image, and by proximal initialisation."""
    model = case.model
    z = np.concatenate([search.in_batches(model.encode, side) for side in sides])
    labels = [record.labels for side in sides for record in side.records]
    times, proximal = (times_of(model, levels) for levels in (LEVELS, PROXIMAL))
    seed = derive_seed(case.seed, "weights", "noise")
    case.progress("membership", 0.0)
    noised = latent_losses(model, z, labels, times=times, seed=seed)
    case.progress("membership", 0.6)
    clean, kept = proximal_errors(model, z, labels, times=proximal)
    case.progress("membership", 1.0)
    return easy(noised), easy(clean[:, None]), easy(kept)


def proximal_errors(
    model: Model, latents: np.ndarray, labels: Sequence[Labels], *, times: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the noise that is seen on clean latents (N, c, h, w), (N,), and how far it changes
    when it is put on them at each of T times, (N, T); both root-mean fourth powers.

    Source: Kong et al., arXiv 2305.18355, eq. 12 with the fourth norm; the first is the score's
    norm of arXiv 2509.25003.
    """
    seen = model.predict_all(latents, 0, labels)
    changes = [_fourth(predict_noise(model, latents, time, seen, labels) - seen) for time in times]
    return _fourth(seen), np.stack(changes, 1)


def times_of(model: Model, levels: Sequence[float]) -> list[int]:
    """Return the times at which noise has these shares of the variance, in (0, 1)."""
    return [int(np.abs(1 - model.abar - level).argmin()) for level in levels]


def easy(errors: np.ndarray) -> np.ndarray:
    """Return (N,), how small errors (N, T) are: minus the mean of the standardised logs."""
    return -standardised(np.log(errors + TINY))


def standardised(values: np.ndarray) -> np.ndarray:
    """Return the mean over the columns of (N, T) values, each at mean 0 and deviation 1."""
    spread = np.maximum(values.std(0), TINY)
    return ((values - values.mean(0)) / spread).mean(1)


def _fourth(values: np.ndarray) -> np.ndarray:
    return (values**4).reshape(len(values), -1).mean(1) ** 0.25


def _places(patients: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N,): each image's place, from 0, in a random order of its patient's images."""
    order = rng.permutation(len(patients))
    by_patient = order[np.argsort(patients[order], kind="stable")]
    starts = np.unique(patients[by_patient], return_index=True)[1]
    counts = np.diff([*starts, len(patients)])
    places = np.empty(len(patients), np.int64)
    places[by_patient] = np.arange(len(patients)) - np.repeat(starts, counts)
    return places


def _pool(sides: Sequence[Cohort]) -> tuple[np.ndarray, np.ndarray]:
    """Return the images' patients (N,), numbered through, and which of (P,) were trained on."""
    first, second = (np.unique(side.patients, return_inverse=True)[1] for side in sides)
    trained = int(first.max()) + 1
    patients = np.concatenate([first, second + trained])
    return patients, np.arange(int(patients.max()) + 1) < trained
