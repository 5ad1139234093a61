"""Networks that learn a label from different images and are asked about held-out patients.

Every training is a cell of its own: what its network said of the held-out images lies in a file as
soon as it is done, so that a table of a hundred trainings goes on where it was stopped. Nobody who
is asked about was ever learned from.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..cohort import Cohort
from ..data.lessons import Lesson, Show, Teach, show_cohorts
from ..errors import DataError
from ..protocol import Utility
from ..runtime import derive_seed, write_bytes
from . import Case, worth
from .agreement import FEWEST, MOST, values_of
from .trials import Trials

ASKED = 256  # images at a time
CHANGED = "flipped where the domain allows it and by RandAugment"


@dataclass(frozen=True, eq=False)
class School:
    """What is learned from whom: `teach` trains one network, and `folder` keeps what was said.

    `draws` are those of the bootstrap. `mirrored` are the attributes that another value holds of in
    an image's mirror image. `subgroups` are the attributes by whose values held-out
    patients are looked at apart; None takes all.
    """

    settings: Utility
    train: Cohort
    holdout: Cohort
    synthetic: Cohort
    teach: Teach
    folder: Path
    seed: int
    draws: int
    mirrored: Container[str] = ()
    subgroups: tuple[str, ...] | None = None
    progress: Callable[[str, float], None] = lambda what, share: None

    @cached_property
    def attribute(self) -> str | None:
        """The label that is learned, None where there is none.

        Raises DataError where the protocol names one that too few patients have.
        """
        wanted = self.settings.attribute
        names = sorted({name for record in self.train.records for name in record.labels})
        able = [name for name in names if 2 <= len(self._values(name)) <= MOST]
        if wanted is not None and wanted not in able:
            raise DataError(
                f"validate.utility.attribute is {wanted}: expected an attribute with 2 to {MOST} "
                f"values that {FEWEST} training and {FEWEST} held-out patients or more have each, "
                f"and synthetic images too; there is {', '.join(able) or 'none'}"
            )
        return wanted or next(iter(able), None)

    def _values(self, attribute: str) -> tuple[str, ...]:
        held = set(values_of(self.holdout, attribute))
        made = set(self.synthetic.labels(attribute))
        found = tuple(value for value in values_of(self.train, attribute) if value in held)
        return found if made & set(found) else ()

    @cached_property
    def values(self) -> tuple[str, ...]:
        """The values that are told apart."""
        return self._values(self.attribute)

    def classes(self, cohort: Cohort) -> np.ndarray:
        """Return (N,) the number of each image's value, -1 where it is not known or too rare."""
        numbers = {value: number for number, value in enumerate(self.values)}
        return np.array([numbers.get(v, -1) for v in cohort.labels(self.attribute)], np.int64)

    @cached_property
    def truth(self) -> np.ndarray:
        """(N,) the classes of the held-out images."""
        return self.classes(self.holdout)

    @cached_property
    def trials(self) -> Trials:
        """The held-out patients, as networks are asked about them."""
        return Trials(
            self.truth,
            self.holdout.patients,
            trainings=self.settings.trainings,
            draws=self.draws,
            rng=np.random.default_rng(derive_seed(self.seed, "utility", "intervals")),
        )

    # In words -------------------------------------------------------------------------------------

    scale = "area under the curve"
    changed = CHANGED

    @cached_property
    def made(self) -> int:
        """How many synthetic images are learned from."""
        return len(self.known(self.synthetic))

    @cached_property
    def sizes(self) -> list[int]:
        """The numbers of real images on the learning curve."""
        return worth.sizes(len(self.known(self.train)), len(self.values))

    @property
    def how(self) -> str:
        """What the methods of all numbers end with."""
        settings = self.settings
        return (
            f"{self.attribute} ({', '.join(self.values)}) by a small ResNet that sees "
            f"{settings.images:,} images, repeats counted; mean of {settings.trainings} trainings; "
            f"bootstrap over held-out patients and Student's t over trainings"
        )

    # Who is learned from --------------------------------------------------------------------------

    def known(self, cohort: Cohort) -> np.ndarray:
        """Return the images whose class is known."""
        return np.flatnonzero(self.classes(cohort) >= 0)

    def some(self, count: int, number: int) -> np.ndarray:
        """Return about `count` training images for training `number`, the classes by their shares:
        of as many different patients as can be, and among those of any larger count."""
        order, total = self.by_class(number), len(self.known(self.train))
        shares = [max(1, round(count * len(mine) / total)) for mine in order]
        return np.concatenate([m[:n] for m, n in zip(order, shares, strict=True)])

    def shots(self, count: int, number: int) -> np.ndarray:
        """Return `count` training images of each class, as `some`."""
        return np.concatenate([mine[:count] for mine in self.by_class(number)])

    def by_class(self, number: int) -> list[np.ndarray]:
        """Return each class's training images in training `number`'s random order, first one of
        every patient."""
        rng = np.random.default_rng(derive_seed(self.seed, "utility", "order", number))
        classes, patients = self.classes(self.train), self.train.patients
        found = []
        for value in range(len(self.values)):
            mine = rng.permutation(np.flatnonzero(classes == value))
            turn = np.zeros(len(mine), np.int64)  # how many of the same patient stand before it
            seen: dict[int, int] = {}
            for place, image in enumerate(mine):
                who = int(patients[image])
                turn[place] = seen[who] = seen.get(who, -1) + 1
            found.append(mine[np.argsort(turn, kind="stable")])
        return found

    # Learning and asking --------------------------------------------------------------------------

    def lesson(
        self,
        parts: Sequence[tuple[Cohort, np.ndarray]],
        name: str,
        number: int,
        *,
        classical: bool = True,
        show: Show | None = None,
    ) -> Lesson:
        """Return what training `number` of a name learns: images of cohorts, (cohort, indices)."""
        groups, first = [], 0
        for cohort, chosen in parts:
            groups.append(first + cohort.pictures[chosen])
            first += len(cohort)
        return Lesson(
            show=show or show_cohorts(parts),
            classes=np.concatenate([self.classes(cohort)[chosen] for cohort, chosen in parts]),
            values=len(self.values),
            channels=self.train.channels,
            images=self.settings.images,
            seed=derive_seed(self.seed, "utility", name, number),
            groups=np.concatenate(groups),
            classical=classical,
            another=self.attribute in self.mirrored,
        )

    def ask(self, name: str, lesson_of: Callable[[int], Lesson]) -> np.ndarray:
        """Return what the networks of a name say of the held-out images, (S, N, K) probabilities;
        those that have answered before are not trained again."""
        found = []
        for number in range(self.settings.trainings):
            path = self.folder / f"{name}-{number}.npy"
            found.append(kept(path, lambda work, n=number: self._answer(lesson_of(n), work)))
            self.progress(f"utility: {name}", (number + 1) / self.settings.trainings)
        return np.stack(found)

    def _answer(self, lesson: Lesson, work: Path) -> np.ndarray:
        classify = self.teach(lesson, work)
        said = np.full((len(self.holdout), lesson.values), 1 / lesson.values, np.float32)
        asked = np.flatnonzero(self.truth >= 0)
        for start in range(0, len(asked), ASKED):
            few = asked[start : start + ASKED]
            said[few] = classify(self.holdout.floats(few))
        return said


def kept(path: Path, make: Callable[[Path], np.ndarray]) -> np.ndarray:
    """Return the array of a file, or make it, in a folder for what makes it, and keep it there."""
    if not path.exists():
        work = path.with_suffix("")
        work.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        np.save(file, make(work), allow_pickle=False)
        write_bytes(path, file.getvalue())
        shutil.rmtree(work)
    return np.load(path, allow_pickle=False)


@contextmanager
def place_of(case: Case) -> Iterator[Path]:
    """Give a folder for answers: where a case's search is kept, else one that does not stay."""
    with tempfile.TemporaryDirectory() as spare:
        folder = Path(spare) if case.scratch is None else case.scratch / "utility"
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
