"""The table of formats is what the readers do, and docs/formats.md is what the tables say."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from pathlib import Path

import pytest

from medsynth import doctor
from medsynth.data import formats, readers
from medsynth.data.formats import FORMATS
from medsynth.data.formats_page import formats_page
from medsynth.data.layouts import named
from medsynth.data.layouts.walk import SUFFIXES

ROOT = Path(__file__).parents[2]


def readers_of_the_dispatch():
    """The module.function names of all readers that readers.py chooses among."""
    tree = ast.parse(inspect.getsource(readers))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {
        f"{node.module}.{alias.name}"
        for node in imports
        for alias in node.names
        if alias.name.startswith("read_")
    }


def test_every_reader_is_in_the_table():
    assert readers_of_the_dispatch() >= {"raster.read_png", "dicom.read_dicom"}
    assert {one.reader for one in FORMATS} == readers_of_the_dispatch() | {"slides.read_tiles"}


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.name)
def test_a_format_s_reader_is_there_and_says_what_it_takes(one):
    module, function = one.reader.split(".")
    assert callable(getattr(import_module(f"medsynth.data.{module}"), function))
    assert one.read
    assert one.dropped
    assert one.extra or not one.needs


def test_the_endings_are_those_that_are_looked_for():
    listed = [suffix for one in FORMATS for suffix in one.suffixes]
    assert sorted(listed) == sorted(SUFFIXES)


def test_extras_bring_what_the_formats_need():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {one.extra for one in FORMATS if one.extra} <= project["optional-dependencies"].keys()


def test_a_missing_package_is_seen(monkeypatch):
    hdf5 = next(one for one in FORMATS if one.name == "HDF5")
    assert hdf5.missing == ()
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    assert hdf5.missing == ("h5py",)
    assert next(one for one in FORMATS if one.name == "PNG").missing == ()


def test_doctor_names_what_is_read_and_what_would_bring_the_rest(monkeypatch, tmp_path):
    assert doctor.examine(tmp_path)["reads"].startswith("PNG, JPEG, TIFF, DICOM")
    gone = ("h5py", "openpyxl")
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name in gone else name)
    said = doctor.examine(tmp_path)
    assert said["HDF5"] == "needs h5py: pip install 'medsynth[formats]'"
    assert said[".xlsx tables"].startswith("needs openpyxl")
    assert "HDF5" not in said["reads"]


def test_the_page_is_the_one_that_the_tables_make():
    page = (ROOT / "docs" / "formats.md").read_text()
    assert page == formats_page(), "docs/formats.md is old: make docs"


def test_the_page_names_every_layout_with_its_limits_and_its_source():
    page = formats_page()
    for one in named.LAYOUTS:
        section = page.split(f"\n### {one.name}\n")[1].split("\n### ")[0]
        assert all(f"- **Limit:** {limit}\n" in section + "\n" for limit in one.limits)
        assert one.source in section
        assert page.count(f"| [`{one.name}`](#{one.name}) |") == 1
