"""Children stand in for their own parents, as often as asked, the same in every worker."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from medsynth.augmentation import TrainingImages, WithChildren
from medsynth.cohort import Cohort, Record
from medsynth.errors import DataError

PAGE = Path(__file__).parents[1] / "docs" / "augment.md"
IMAGES, CHILDREN = 30, 4


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run whose image i is all grey i, and whose children of it are all grey 100 + i."""
    folder = tmp_path_factory.mktemp("study") / "RUN"
    for name in ("intake", "split", "derived"):
        (folder / name).mkdir(parents=True)
    labels = ({"finding": "normal"}, {"finding": "opacity"})
    real = [Record(f"real-{i:02d}", "real", f"p{i}", labels[i % 2]) for i in range(IMAGES)]
    Cohort("chest_xray", tuple(real), flat(range(IMAGES))).write(folder / "intake")
    parts = ["holdout" if i % 5 == 4 else "train" for i in range(IMAGES)]
    rows = [f"{record.id},{part}\n" for record, part in zip(real, parts, strict=True)]
    (folder / "split" / "split.csv").write_text("id,part\n" + "".join(rows))
    parents = [i for i in range(IMAGES) if parts[i] == "train" and i != 0]  # the first has none
    made = [
        replace(real[i], id=f"{real[i].id}-{k:02d}", origin="derived", seed=k, parent=real[i].id)
        for i in parents
        for k in range(CHILDREN)
    ]
    pixels = flat([100 + i for i in parents for _ in range(CHILDREN)])
    pixels[:, 0, 0, 0] = np.tile(np.arange(CHILDREN), len(parents))  # which of them
    Cohort("chest_xray", tuple(made), pixels).write(folder / "derived")
    table = [f"{r.id},{r.parent},{(1, 0.75, 0.5, 0.25)[r.seed]:g},{r.seed}\n" for r in made]
    (folder / "derived" / "children.csv").write_text("id,parent,strength,seed\n" + "".join(table))
    return folder


def flat(values) -> np.ndarray:
    return np.array([np.full((16, 16, 1), value) for value in values], np.uint8)


def grey(image: torch.Tensor) -> int:
    return round((float(image[0, 5, 5]) + 1) * 127.5)


def which(image: torch.Tensor) -> int:
    return round((float(image[0, 0, 0]) + 1) * 127.5)


def children(run: Path, alpha: float, **options) -> WithChildren:
    return WithChildren(TrainingImages(run), run / "derived", alpha, **options)


def stood_in(images: WithChildren) -> list[bool]:
    return [grey(images[i]["image"]) >= 100 for i in range(len(images))]


def test_training_images_are_those_of_the_split(run):
    images = TrainingImages(run)
    assert len(images) == 24
    item = images[5]
    assert (item["id"], item["finding"], grey(item["image"])) == ("real-06", "normal", 6)
    assert item["image"].shape == (1, 16, 16)
    assert len(TrainingImages(run, part="holdout")) == 6
    with pytest.raises(DataError, match="no images in the part"):
        TrainingImages(run, part="test")


def test_only_a_child_of_the_very_item_stands_in_with_its_label(run):
    plain, images = TrainingImages(run), children(run, 1.0)
    for i in range(1, len(images)):
        item = images[i]
        assert grey(item["image"]) == 100 + grey(plain[i]["image"])
        assert {**item, "image": 0} == {**plain[i], "image": 0}
    assert grey(images[0]["image"]) == 0  # no child: stays as it is


def test_it_happens_as_often_as_asked(run):
    assert not any(stood_in(children(run, 0.0)))
    images = children(run, 0.3)
    seen = []
    for epoch in range(100):
        images.set_epoch(epoch)
        seen += stood_in(images)[1:]
    assert np.mean(seen) == pytest.approx(0.3, abs=0.03)


def test_draws_follow_from_seed_epoch_and_place(run):
    images = children(run, 0.5, seed=1)
    first = stood_in(images)
    assert stood_in(images) == first == stood_in(children(run, 0.5, seed=1))
    images.set_epoch(1)
    assert stood_in(images) != first != stood_in(children(run, 0.5, seed=2))
    images.set_epoch(0)
    assert stood_in(images) == first
    assert torch.equal(images[-1]["image"], images[len(images) - 1]["image"])


def test_all_children_take_their_turn_and_strengths_can_be_chosen(run):
    images = children(run, 1.0)
    turns = set()
    for epoch in range(40):
        images.set_epoch(epoch)
        turns.add(which(images[3]["image"]))
    assert turns == set(range(CHILDREN))
    some = children(run, 1.0, strengths=[0.5, 0.25])
    assert {which(some[i]["image"]) for i in range(1, len(some))} == {2, 3}


def test_workers_that_live_on_see_the_epoch_change(run):
    images = children(run, 0.5)
    loader = DataLoader(images, batch_size=8, num_workers=1, persistent_workers=True,
                        multiprocessing_context="fork")  # fmt: skip
    for epoch in range(2):
        images.set_epoch(epoch)
        loaded = [grey(x) >= 100 for batch in loader for x in batch["image"]]
        assert loaded == stood_in(images)


def test_tuples_and_changes_and_ids_of_ones_own(run):
    pairs = [(torch.zeros(1, 16, 16), label) for label in (0, 1, 2)]
    images = WithChildren(
        pairs, run / "derived", 1.0, ids=["real-03", "real-00", "real-07"],
        change=lambda image: (image + 1) / 2,
    )  # fmt: skip
    shades = [round(float(x[0, 5, 5]) * 255) for x, _ in (images[i] for i in range(3))]
    assert shades == [103, 0, 107]
    assert [label for _, label in (images[i] for i in range(3))] == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"alpha": 1.5}, "probability"),
        ({"ids": ["real-03"]}, "an id an item"),
        ({"ids": ["a", "b"]}, "of which 0 have children"),
        ({"ids": None}, "items without an id"),
    ],
)
def test_what_can_not_be_meant_is_refused(run, options, match):
    pairs = [(torch.zeros(1, 16, 16), 0), (torch.zeros(1, 16, 16), 1)]
    given = {"alpha": 0.5, "ids": ["real-01", "real-02"], **options}
    with pytest.raises(DataError, match=match):
        WithChildren(pairs, run / "derived", given.pop("alpha"), **given)


def test_monai_sees_a_data_set_like_any_other(run):
    from monai.data import Dataset
    from monai.transforms import Compose, Flipd

    plain = TrainingImages(run)
    rows = [plain[i] for i in range(len(plain))]
    images = WithChildren(Dataset(rows, Compose([Flipd("image", 0)])), run / "derived", 1.0)
    assert grey(images[4]["image"]) >= 100


def test_the_snippet_of_the_page_runs(run, monkeypatch):
    snippet = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    monkeypatch.chdir(run.parent)
    names: dict = {}
    exec(snippet, names)
    assert names["x"].shape == (8, 1, 16, 16)
    assert set(names["label"]) <= {"normal", "opacity"}
