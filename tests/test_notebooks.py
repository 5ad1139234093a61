"""The notebooks run from top to bottom, offline."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SAYS = {
    "quickstart": ("memorization.p_value", r"^(passed|refused|inconclusive)$"),
    "audit": (r"^refused$", r"^memorization\.p_value +0\.0", r"^synthetic/new_\d\.png",
              "^kept.edges"),
    "receive": (r"^True 1\d images$", "^fingerprint [0-9a-f]{64}$", r"^images/.*\.png: ", "^True$",
                r"^passed at attempt 1$", r"^\(8, 3, 32, 32\)", "^SyntheticData +YES$"),
    "steer": (r"^control\.soft_edges\.", "^strength  show their parent", r"^\{'derived'\}$",
              r"items; torch\.Size"),
}  # fmt: skip
"""What each must say."""


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs_and_says_what_it_must(path, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient
    from traitlets.config import Config

    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    # a kernel is spoken to through files: the tests have no network, not even to this machine
    files = Config({"KernelManager": {"transport": "ipc"}})
    NotebookClient(notebook, config=files, timeout=240, kernel_name="python3").execute()
    said = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    for words in SAYS[path.stem]:
        assert re.search(words, said, re.MULTILINE), words
    assert not any(
        output.output_type == "error"
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_is_kept_without_outputs(path):
    import nbformat

    assert path.stem in SAYS, f"say in SAYS what {path.name} must say when it is run"
    cells = nbformat.read(path, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
