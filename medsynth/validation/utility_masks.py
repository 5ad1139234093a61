"""Of what use are images with masks? A network learns to find masks instead of a label.

The same comparison as in `utility`, by the Dice overlap of held-out patients' masks and those that
are found. What is learned from are images with masks: patients', synthetic ones, and both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..cohort import Cohort
from ..data.controls import one_hot
from ..data.lessons import Segment
from ..finding import Finding
from ..protocol import Utility
from ..runtime import derive_seed
from . import Case, worth
from .resampling import Resampled
from .schooling import kept, place_of
from .trials import Trials
from .utility import KINDS, differences, scores, worth_of

FOUND = 0.5


@dataclass(frozen=True, eq=False)
class Segmenting:
    """Cohorts with masks, the masks' values (K,), and `learn`, which trains one network; `folder`
    keeps what was found."""

    settings: Utility
    train: Cohort
    holdout: Cohort
    synthetic: Cohort
    values: tuple[int, ...]
    learn: Segment
    folder: Path
    seed: int
    draws: int
    progress: Callable[[str, float], None] = lambda what, share: None

    scale = "Dice overlap"
    changed = "flipped where the domain allows it"

    @property
    def made(self) -> int:
        """How many synthetic images are learned from."""
        return len(self.synthetic)

    @cached_property
    def sizes(self) -> list[int]:
        """The numbers of real images on the learning curve."""
        return worth.sizes(len(self.train), 1)

    @property
    def how(self) -> str:
        """What the methods of all numbers end with."""
        return (
            f"masks by a small U-Net that sees {self.settings.images:,} images, repeats counted; "
            f"mean over classes and {self.settings.trainings} trainings; bootstrap over held-out "
            f"patients and Student's t over trainings"
        )

    def some(self, count: int, number: int) -> Cohort:
        """Return `count` training images for training `number`, of as many patients as can be;
        they are among those of any larger count."""
        rng = np.random.default_rng(derive_seed(self.seed, "utility", "masks", number))
        order = rng.permutation(len(self.train))
        seen: dict[int, int] = {}
        turn = []
        for image in order:
            who = int(self.train.patients[image])
            seen[who] = seen.get(who, -1) + 1
            turn.append(seen[who])
        return self.train.take(order[np.argsort(turn, kind="stable")][:count])

    def ask(self, name: str, cohorts_of: Callable[[int], list[Cohort]]) -> np.ndarray:
        """Return the Dice overlaps (S, N) of held-out images after learning from cohorts."""
        rows = []
        for number in range(self.settings.trainings):
            path = self.folder / f"masks-{name}-{number}.npy"
            seed = derive_seed(self.seed, "utility", "masks", name, number)
            rows.append(kept(path, lambda w, n=number, s=seed: self._answer(cohorts_of(n), s, w)))
            self.progress(f"utility: masks, {name}", (number + 1) / self.settings.trainings)
        return np.stack(rows)

    def _answer(self, cohorts: list[Cohort], seed: int, work: Path) -> np.ndarray:
        images = np.concatenate([cohort.floats() for cohort in cohorts])
        maps = np.concatenate([one_hot(np.asarray(c.masks), self.values) for c in cohorts])
        find = self.learn(
            images, np.uint8(255) * maps.astype(np.uint8),
            seed=seed, folder=work, most_images=self.settings.images,
        )  # fmt: skip
        found = find(self.holdout.floats()) >= FOUND
        return overlap(one_hot(np.asarray(self.holdout.masks), self.values) > 0, found)


def overlap(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return (N,) Dice overlaps of masks (N, K, H, W) bool: the mean over the classes that an image
    shows, NaN where it shows none."""
    axes = (2, 3)
    both, sizes = (wanted & found).sum(axes), wanted.sum(axes) + found.sum(axes)
    there = wanted.any(axes)
    dice = np.where(there, 2 * both / np.maximum(sizes, 1), 0.0)
    counts = there.sum(1)
    return np.where(counts > 0, dice.sum(1) / np.maximum(counts, 1), np.nan)


def measure(case: Case) -> Iterator[Finding]:
    """Measure of what use synthetic images with masks are, where the protocol asks for it and the
    cohort has masks."""
    if case.settings.utility is None or case.paired is None:
        return
    with place_of(case) as folder:
        yield from compare(
            Segmenting(
                settings=case.settings.utility,
                train=case.paired.train,
                holdout=case.paired.holdout,
                synthetic=case.synthetic,
                values=case.paired.values,
                learn=case.segment,
                folder=folder,
                seed=case.seed,
                draws=case.settings.bootstrap,
                progress=case.progress,
            )
        )


def compare(school: Segmenting) -> Iterator[Finding]:
    """Measure TSTR, TRTR and mixed by Dice, and what the synthetic images are worth."""
    trials = Trials(
        np.zeros(len(school.holdout), np.int64),
        school.holdout.patients,
        trainings=school.settings.trainings,
        draws=school.draws,
        rng=np.random.default_rng(derive_seed(school.seed, "utility", "masks", "intervals")),
    )
    real, made = school.train, school.synthetic
    kinds = dict(zip(KINDS, ([real], [made], [real, made]), strict=True))
    found: dict[str, Resampled] = {
        name: trials.mean(school.ask(name, lambda number, p=parts: p))
        for name, parts in kinds.items()
    }
    for count in school.sizes[:-1]:
        rows = school.ask(f"real-{count}", lambda number, c=count: [school.some(c, number)])
        found[f"real-{count}"] = trials.mean(rows)
    nothing = 0.0
    form = "utility.segmentation.{}"
    yield from scores(school, form.format("{}.dice"), found, chance=nothing)
    yield from differences(school, form, found)
    yield worth_of(school, form.format("worth"), found, chance=nothing)
