"""The notebooks run from top to bottom, offline."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs_and_says_what_the_gate_said(path, tmp_path, monkeypatch):
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
    assert "memorization.p_value" in said
    assert re.search(r"^(passed|refused|inconclusive)$", said, re.MULTILINE)
    assert not any(
        output.output_type == "error"
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
