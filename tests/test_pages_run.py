"""What the pages tell a reader to type is typed here, line by line and as it stands, on phantoms.

A reader's images are made-up ones of 32 px, and the protocol that `init` drafts is edited as a
reader edits it: the gate's rules are taken over, and here everything is made small.
"""

from __future__ import annotations

import csv
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image
from ruamel.yaml import YAML
from test_docs import PAGES, blocks
from tiny import TEXT

from medsynth import cli
from medsynth.data import phantoms

PATIENTS = 16
TINY = YAML(typ="safe").load(TEXT)
FEW = {"choose": {"checkpoints": 2, "images": 20, "steps": 2}, "told": {"views": 1}}
SMALL = {
    name: section
    for name, section in TINY.items()
    if name not in ("name", "domain", "data", "gate")
} | {
    "diffusion": TINY["diffusion"] | FEW,  # a small folder's draft has both
    "sample": {"images": 12, "steps": 4, "batch": 12},
    "data": {"duplicate_correlation": 1.0},
    "validate": {
        "permutations": 99, "bootstrap": 50, "candidates": 5, "planted": 10,
        "copy_changes": ["exact"], "region_images": 0, "white_box_images": 0,
    },
    "gate": {"rules": [{"finding": "memorization.p_value", "at_least": 0.0}]},
    "profiles": {"full": {}},
    "concept": {"training": {"images": 32}},
    "control": {"images": 8, "training": {"images": 32}},
    "augment": {"children": 1},
}  # fmt: skip
CHEAPER = {
    "medsynth run": "--set sample.images=12",
    "medsynth audit": "--set lens.training.images=64 --set lens.width=8 --set lens.features=16 "
    "--set validate.permutations=99 --set validate.bootstrap=50 --set validate.planted=10 "
    "--set validate.region_images=0 --set validate.candidates=5",
    "medsynth control extract": "--size 32",
}
"""What is added to a line so that it costs seconds; of a knob that comes twice the last holds."""
MAY_REFUSE = ("medsynth audit", "medsynth control fit", "medsynth control sample")
"""So little training ends either way: a control that is ignored draws nothing."""
NOT_TYPED = {
    "make": "installs everything; continuous integration starts with it",
    "pip": "installs packages",
    ". .venv": "opens the environment that make made",
    "medsynth demo": "takes minutes; `make demo` does it",
    "medsynth doctor --plan": "rehearses for half a minute; tests/test_forecast.py does it",
    "python benchmarks": "measures for hours",
    "OMP_NUM_THREADS=1 python benchmarks": "measures for hours",
}
ELSEWHERE = {
    "base.md": "needs a base of text on disk: tests/test_base_run.py",
    "fidelity.md": "tests/test_fidelity_command.py",
    "paired.md": "tests/test_pairs_run.py",
    "release.md": "asks ssh-keygen for a key: tests/release/test_integrity.py",
    "utility.md": "tests/test_utility_run.py",
}
"""Pages whose commands are typed by other tests, which draw what they need."""
BEFORE = {"augment.md": "medsynth concept learn RUN --images DIR --name drusen"}
"""What a page takes for granted that another page says."""
PLAYED = (
    "README.md", "quickstart.md", "hospital.md", "concepts.md", "control.md", "augment.md",
    "audit.md", "chest.md", "few.md", "received.md",
)  # fmt: skip


def lines(page: str) -> list[str]:
    """The lines of a page's shell blocks that are typed here."""
    path = next(path for path in PAGES if path.name == page)
    written = "\n".join(blocks(path, "sh")).splitlines()
    typed = [line for line in written if line.split("#")[0].strip()]
    return [line for line in typed if not line.startswith(tuple(NOT_TYPED))]


def type_in(line: str, folder: Path, monkeypatch) -> int:
    """Type one line in a folder; return what it ends with. After `init`, edit what it drafted."""
    words = shlex.split(line, comments=True)
    assert words[0] == "medsynth", f"not a command of medsynth, and not in NOT_TYPED: {line}"
    added = (more for command, more in CHEAPER.items() if line.startswith(command))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [*words, *shlex.split(" ".join(added))])
    with pytest.raises(SystemExit) as end:
        cli.main()
    code = end.value.code or 0
    if words[1] == "init" and code == 0:
        edit(folder / words[-1])
    return code


def edit(path: Path) -> None:
    """Decide on the gate, which a draft leaves to its reader, and make everything small."""
    text = path.read_text()
    drafted, gate = text.split("# gate:\n")
    rules = "".join(line.removeprefix("# ") for line in gate.splitlines(keepends=True))
    study = YAML(typ="safe").load(f"{drafted}gate:\n{rules}")
    assert study["gate"]["rules"], "the draft proposes rules"
    for name, section in SMALL.items():
        whole = name in ("gate", "profiles") or not isinstance(study.get(name), dict)
        study[name] = section if whole else study[name] | section
    with path.open("w") as file:
        YAML(typ="safe").dump(study, file)


def draw(folder: Path, people: range) -> list[list[str]]:
    """Write two phantom eyes of each of some people; return rows of a table of them."""
    folder.mkdir()
    rows = []
    for person in people:
        for eye in range(2):
            pixels, _ = phantoms.draw("fundus", person, eye, 1, 32)
            Image.fromarray(pixels).save(folder / f"{person}_{eye}.png")
            rows.append([f"{person}_{eye}.png", f"P{person}"])
    return rows


@pytest.fixture(scope="module")
def ward(tmp_path_factory) -> Path:
    """A reader's folder in which what the README says was typed."""
    folder = tmp_path_factory.mktemp("ward")
    phantoms.write_folder(folder / "IMAGES", domain="fundus", patients=PATIENTS, seed=1, size_px=32)
    with pytest.MonkeyPatch.context() as patch:
        ends = {line: type_in(line, folder, patch) for line in lines("README.md")}
    assert set(ends.values()) == {0}, ends
    return folder


@pytest.fixture
def here(ward, tmp_path) -> Path:
    """A copy of the ward, with what other pages take to be there."""
    folder = tmp_path / "ward"
    shutil.copytree(ward, folder)
    shutil.copytree(folder / "RUN" / "release", folder / "release")
    films = {"domain": "chest_xray", "seed": 2, "size_px": 32, "formats": ("dicom",)}
    phantoms.write_folder(folder / "RAW", patients=3, **films)
    phantoms.write_folder(folder / "CHEST", patients=12, **films)
    draw(folder / "DIR", range(900, 904))
    people = draw(folder / "TRAIN", range(100, 112)) + draw(folder / "HOLDOUT", range(200, 212))
    draw(folder / "SYNTHETIC", range(300, 310))
    with (folder / "patients.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "patient_id"], *people])
    (folder / "MASKS").mkdir()
    for line in (folder / "RUN" / "intake" / "records.csv").read_text().splitlines()[1:]:
        mask = Image.new("L", (32, 32))
        mask.paste(255, (0, 0, 16, 32))
        mask.save(folder / "MASKS" / f"{line.split(',')[0]}.png")
    return folder


def test_the_readmes_commands_lead_to_a_report_and_a_release(ward):
    assert (ward / "RUN" / "report.html").is_file()
    assert (ward / "RUN" / "release" / "SHA256SUMS").is_file()


@pytest.mark.parametrize("page", PLAYED[1:])
def test_commands_of_a_page_do_what_they_say(page, here, monkeypatch):
    assert lines(page)
    if any(line.startswith("medsynth init") for line in lines(page)):
        (here / "study.yaml").unlink()  # its reader has written none yet
    for line in (*BEFORE.get(page, "").splitlines(), *lines(page)):
        allowed = {0, 3} if line.startswith(MAY_REFUSE) else {0}
        assert type_in(line, here, monkeypatch) in allowed, line


@pytest.mark.filterwarnings(  # of MONAI's readers, and of a picture that a reader leaves open
    "ignore:NvImgCodecPydicomReader",
    "ignore:unclosed file:ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
@pytest.mark.parametrize("page", ["received.md", "faq.md"])
def test_python_of_a_page_runs(page, here, monkeypatch):
    monkeypatch.chdir(here)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(here / "cache"))
    path = next(path for path in PAGES if path.name == page)
    for block in blocks(path, "python"):
        exec(compile(block, page, "exec"), {})


def test_every_page_with_commands_is_played():
    there = {page.name for page in PAGES if lines(page.name)}
    assert there == {*PLAYED, *ELSEWHERE}, (
        "a page has commands in a sh block that no test types: name it in PLAYED of "
        "tests/test_pages_run.py, and make in `here` what it takes to be there; or in ELSEWHERE"
    )
