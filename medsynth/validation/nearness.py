"""Who was trained on, guessed from the synthetic images alone, with all real ones as a reference.

Raw nearness to a synthetic image finds typical patients, not trained-on ones. So both attacks ask
how much nearer a patient is than others are: `distance` by the images that lie nearer to this
patient than to any other, `density` by how much likelier an image is among synthetic images than
among other patients' real ones (DOMIAS: van Breugel et al., arXiv 2302.12580). The reference is
the pool of training and held-out patients, each left out of its own: nobody is told which is
which, so patients stay exchangeable and none is used up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from ..finding import Finding
from ..runtime import derive_seed
from . import Case, search
from .attack import Attack
from .membership import Guess, findings, per_patient, tested
from .windows import views

WIDTH = 0.1  # of a kernel: its squared width over the median squared distance to the next patient
BLOCK = 512
NAIVELY = "how typical a patient's images are among real ones"


def measure(case: Case, attack: Attack, believed: Sequence[str]) -> Iterable[Finding]:
    """Measure membership from the synthetic cohort, in the spaces that are believed.

    An attack whose space is not believed has findings that are no numbers.
    """
    pool, naive = attack.pool, typicality(attack)
    guesses = (distance(attack, naive, believed), density(case, attack, naive, believed))
    for guess in guesses:
        yield from findings(guess, pool.patient_is_train)
    rng = np.random.default_rng(derive_seed(case.seed, "membership"))
    permutations = case.settings.permutations
    yield tested("membership.p_value", guesses, pool.patient_is_train, permutations, rng)


def distance(attack: Attack, naive: np.ndarray, believed: Sequence[str]) -> Guess:
    """Score patients by the synthetic image that stands out most as theirs, by registration.

    0 = nearest to no synthetic image, 1 = one of them is a copy.
    """
    near = attack.synthetic["everyone"].registered
    scores = np.zeros(len(attack.pool.patient_is_train))
    np.maximum.at(scores, near.patient, 1 - near.score)
    how = (
        "by the synthetic image that is registered to this patient's best and to the next "
        "patient's worst"
    )
    return _guess("distance", scores, naive, how, "registered", believed)


def density(case: Case, attack: Attack, naive: np.ndarray, believed: Sequence[str]) -> Guess:
    """Score patients by the ratio of densities of synthetic and of other patients' images."""
    look = attack.pool.gallery.look
    real, patients = look.features[0], attack.pool.patients
    sides = "flip" if "flip" in case.domain.symmetries else "identity"

    def seen(images: np.ndarray) -> np.ndarray:
        return np.stack([case.lens(way) for way in views(images, sides)], 1)

    ways = search.in_batches(seen, case.synthetic).swapaxes(0, 1)
    made = torch.from_numpy(search.unit(np.concatenate(ways))).to(real)
    area = kernel_area(real, patients)
    ratio = log_density(real, made, area) - log_density(real, real, area, patients=patients)
    how = (
        "by the densities of synthetic and of other patients' images in the lens's space, summed "
        "over the patient's images"
    )
    return _guess("density", per_patient(ratio, patients), naive, how, "lens", believed)


def typicality(attack: Attack) -> np.ndarray:
    """Return how typical each of P patients' images are among other patients': the naive guess."""
    real, patients = attack.pool.gallery.look.features[0], attack.pool.patients
    typical = log_density(real, real, kernel_area(real, patients), patients=patients)
    return per_patient(typical, patients)


def log_density(
    of: torch.Tensor, among: torch.Tensor, area: float, *, patients: np.ndarray | None = None
) -> np.ndarray:
    """Return the log of a kernel estimate at each of `of` (N, D) from `among` (M, D), up to a
    constant; all features have length 1.

    The kernel falls as exp(-distance^2 / (2 area)). With `patients` (N,), `of` and `among` are
    the same images, and a patient's own are left out.
    """
    found = []
    for start in range(0, len(of), BLOCK):
        energy = (of[start : start + BLOCK] @ among.T - 1) / area  # distance^2 is 2 - 2 cos
        count = torch.full((len(energy),), len(among), device=of.device)
        if patients is not None:
            own = _own(patients, start, len(energy)).to(of.device)
            energy, count = energy.masked_fill(own, -torch.inf), count - own.sum(1)
        found.append(energy.logsumexp(1) - count.log())
    return torch.cat(found).double().cpu().numpy()


def kernel_area(features: torch.Tensor, patients: np.ndarray) -> float:
    """Return the kernel's squared width for real images (N, D) of length 1."""
    nearest = []
    for start in range(0, len(features), BLOCK):
        likeness = features[start : start + BLOCK] @ features.T
        own = _own(patients, start, len(likeness)).to(features.device)
        nearest.append(2 - 2 * likeness.masked_fill(own, -1.0).amax(1))
    return max(WIDTH * float(torch.cat(nearest).median()), 1e-6)


def _own(patients: np.ndarray, start: int, count: int) -> torch.Tensor:
    """(count, N) bool: which images are of the same patient as each of a block's."""
    return torch.from_numpy(patients[start : start + count, None] == patients[None])


def _guess(
    name: str, scores: np.ndarray, naive: np.ndarray, how: str, space: str, believed: Sequence[str]
) -> Guess:
    if space not in believed:
        scores = np.full(len(scores), np.nan)
        how += f"; left out, for too small a share of planted copies is found in space {space}"
    return Guess(name, scores, naive, how, NAIVELY)
