"""How far does a variation still show the image that it started from?

Children are looked up among all training images as synthetic images are for `memorization`, and
one is found out where it is nearer to one patient than all but a few held-out images are, and that
nearest image is its very parent. Held-out images at the same threshold say what chance finds, and
parents that only went through the autoencoder, strength 0, what the search can find at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ..cohort import Cohort
from ..domains import Domain
from ..finding import Finding
from ..protocol import Validate
from ..runtime import derive_seed
from . import search
from .nearest import Nearest
from .resampling import Resampling
from .statistics import conformal_threshold

Reconstruct = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Family:
    """Training and held-out images, children, and of each child (N,) its parent's place among the
    training images and its strength."""

    train: Cohort
    holdout: Cohort
    children: Cohort
    parents: np.ndarray
    strengths: np.ndarray


def measure(
    family: Family,
    settings: Validate,
    domain: Domain,
    lens: search.Lens,
    reconstruct: Reconstruct,
    *,
    most: int,
    seed: int,
    device: str = "cpu",
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> Iterable[Finding]:
    """Measure what children of each strength still show of their parents, `augment.match.<percent>`
    and `augment.likeness.<percent>`; of each strength at most `most` children, 0 measures nothing.
    """
    if most == 0:
        return
    order = np.random.default_rng(derive_seed(seed, "gallery")).permutation(len(family.train))
    gallery = family.train.take(order)
    find = search.finder(
        gallery, gallery.patients, lens, domain.symmetries,
        candidates=settings.candidates, device=device,
    )  # fmt: skip
    unrelated = find(family.holdout)
    threshold, rate = conformal_threshold(unrelated.score, settings.false_alarms)
    innocent = float((unrelated.score <= threshold).mean())
    strengths = [0.0, *(s for s in np.unique(family.strengths).tolist() if s > 0)]
    for number, strength in enumerate(strengths):
        chosen, images = _chosen(family, strength, reconstruct, most, seed)
        found = find(images)
        own = _is_own(family, chosen, order[found.image]) & (found.score <= threshold)
        progress("children", (number + 1) / len(strengths))
        yield from _findings(family, strength, chosen, own, found, unrelated,
                             (innocent, rate), settings, seed)  # fmt: skip


def _chosen(
    family: Family, strength: float, reconstruct: Reconstruct, most: int, seed: int
) -> tuple[np.ndarray, search.Images]:
    """Return some children of a strength and whose they are; at 0 the parents themselves, through
    the autoencoder."""
    rng = np.random.default_rng(derive_seed(seed, "children", f"{strength:g}"))
    if strength == 0:
        whose = np.unique(family.parents)
        chosen = np.sort(rng.permutation(whose)[:most])
        return chosen, search.in_batches(reconstruct, family.train.take(chosen))
    which = np.flatnonzero(family.strengths == strength)
    which = np.sort(rng.permutation(which)[:most])
    return family.parents[which], family.children.take(which)


def _is_own(family: Family, parents: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """True where the nearest training image is the parent, or a duplicate of it."""
    pictures = family.train.pictures
    return pictures[parents] == pictures[nearest]


def _findings(
    family: Family,
    strength: float,
    parents: np.ndarray,
    own: np.ndarray,
    found: Nearest,
    unrelated: Nearest,
    chance: tuple[float, float],
    settings: Validate,
    seed: int,
) -> Iterable[Finding]:
    rng = np.random.default_rng(derive_seed(seed, "resampling", f"{strength:g}"))
    patients = family.train.patients[parents]
    draws = Resampling(patients, draws=settings.bootstrap, rng=rng)
    share, likeness = draws.mean(own.astype(float)).share(), draws.mean(found.similarity).estimate()
    of = f"children of strength {strength:g}" if strength else "the autoencoder's reconstructions"
    percent, people = f"{100 * strength:g}", len(np.unique(patients))
    yield Finding(
        f"augment.match.{percent}", share.value, share.low, share.high, len(own),
        "share of children", "lower is better",
        f"{of} whose nearest training image is their parent, nearer to one patient than all but "
        f"{chance[1]:.2g} of held-out images are; bootstrap over {people} patients",
        chance[0], "the same threshold on held-out patients' images",
    )  # fmt: skip
    yield Finding(
        f"augment.likeness.{percent}", likeness.value, likeness.low, likeness.high, len(own),
        "correlation", "neither",
        f"mean registered correlation of {of} with the nearest training image; bootstrap over "
        "patients",
        float(unrelated.similarity.mean()), "held-out real images",
    )  # fmt: skip
