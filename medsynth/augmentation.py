"""Children of a run's images in somebody's own training, in one line.

    from medsynth.augmentation import TrainingImages, WithChildren

    images = WithChildren(TrainingImages("RUN"), "RUN/derived", alpha=0.5)

Each time an item is asked for, a child of that very item stands in for it with probability alpha
(DA-Fusion, arXiv 2302.07944), with the item's own label: what is added is variety, and no image of
a person whom the data set does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .cohort import Cohort
from .errors import DataError
from .runtime import derive_seed

Change = Callable[[torch.Tensor], Any]
PART = "train"


class TrainingImages(Dataset):
    """A run's training images: {"image": (C, H, W) float32 in [-1, 1], "id": text, attribute:
    value}, for torch and MONAI alike. `part` is train, validation or holdout."""

    def __init__(self, run: str | Path, *, part: str = PART):
        folder = Path(run)
        self.cohort = Cohort.read(folder / "intake")
        lines = (folder / "split" / "split.csv").read_text().splitlines()[1:]
        self.chosen = [i for i, line in enumerate(lines) if line.rsplit(",", 1)[1] == part]
        if not self.chosen:
            raise DataError(f"{folder.name}/ has no images in the part {part!r}")

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, Any]:
        place = self.chosen[index]
        record = self.cohort.records[place]
        image = torch.from_numpy(self.cohort.floats([place])[0])
        return {"image": image, "id": record.id, **record.labels}

    @property
    def ids(self) -> list[str]:
        """Each item's id in the run."""
        return [self.cohort.records[place].id for place in self.chosen]


class WithChildren(Dataset):
    """Items of a data set, each replaced by one of its children with probability `alpha`.

    `dataset` is anything with a length and items: mappings, whose `image` is replaced (MONAI), or
    tuples, whose first element is. `derived` is the folder that `medsynth augment` wrote, and `ids`
    say which image of the run each item is; None asks `dataset.ids`, else each item's "id". A child
    comes as (C, H, W) float32 in [-1, 1], or as what `change` makes of it; items without a child
    stay as they are. `strengths` takes some of the children only.

    What is drawn follows from `seed`, the epoch (`set_epoch`) and the item's place, in whichever
    worker and order. Raises DataError where alpha is no probability or no item has a child.
    """

    def __init__(
        self,
        dataset: Any,
        derived: str | Path,
        alpha: float = 0.5,
        *,
        ids: Sequence[str] | None = None,
        seed: int = 0,
        strengths: Sequence[float] | None = None,
        change: Change = lambda image: image,
    ):
        if not 0 <= alpha <= 1:
            raise DataError(f"alpha is a probability from 0 to 1, got {alpha:g}")
        self.dataset, self.alpha, self.seed, self.change = dataset, alpha, seed, change
        self.children = Cohort.read(Path(derived))
        known = _ids(dataset) if ids is None else list(ids)
        self.places = _places(Path(derived), self.children, known, strengths)
        if len(known) != len(dataset) or not any(map(len, self.places)):
            raise DataError(
                f"{len(dataset)} items and {len(known)} ids, of which "
                f"{sum(map(bool, map(len, self.places)))} have children in {Path(derived).name}/: "
                f"expected an id an item, as the run's intake/records.csv has them"
            )
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers see it change

    def set_epoch(self, epoch: int) -> None:
        """Draw anew: call it before each epoch."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        index = range(len(self))[index]
        item, own = self.dataset[index], self.places[index]
        rng = np.random.default_rng(derive_seed(self.seed, "child", int(self.epoch), index))
        if not len(own) or rng.random() >= self.alpha:
            return item
        child = torch.from_numpy(self.children.floats([rng.choice(own)])[0])
        return _with_image(item, self.change(child))


def _ids(dataset: Any) -> list[str]:
    """Return what a data set says of whose its items are."""
    if hasattr(dataset, "ids"):
        return list(dataset.ids)
    items = (dataset[i] for i in range(len(dataset)))
    found = [item["id"] for item in items if isinstance(item, Mapping) and "id" in item]
    if len(found) < len(dataset):
        raise DataError("items without an id: give ids, the run's id of each item")
    return found


def _places(
    derived: Path, children: Cohort, ids: Sequence[str], strengths: Sequence[float] | None
) -> list[np.ndarray]:
    """Return where each item's children stand in their cohort."""
    if strengths is None:
        wanted = {record.id for record in children.records}
    else:
        of = read_strengths(derived)
        wanted = {name for name, strength in of.items() if strength in set(strengths)}
    found: dict[str, list[int]] = {}
    for place, record in enumerate(children.records):
        if record.id in wanted:
            found.setdefault(record.parent, []).append(place)
    return [np.array(found.get(name, ()), np.int64) for name in ids]


def read_strengths(derived: Path) -> dict[str, float]:
    """Return {child's id: strength} of a folder that `medsynth augment` wrote."""
    lines = (derived / "children.csv").read_text().splitlines()[1:]
    return {name: float(strength) for name, _, strength, _ in (line.split(",") for line in lines)}


def _with_image(item: Any, image: Any) -> Any:
    if isinstance(item, Mapping):
        return {**item, "image": image}
    return (image, *item[1:])
