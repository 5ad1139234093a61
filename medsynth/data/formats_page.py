"""docs/formats.md, made from the readers' and layouts' own tables, so that it can't say else.

python docs/generate.py writes it
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .dicom_facts import LABEL_KEYWORDS
from .formats import FORMATS, Format
from .layouts.layout import Layout
from .layouts.named import LAYOUTS
from .layouts.tables import TABLES

HEAD = """# Formats, tables and public data sets

<!-- Made by docs/generate.py from medsynth/data: change the tables there, then `make docs`. -->

`medsynth init RAW` looks at a folder, says what it found and writes a protocol to edit;
`medsynth ingest` reads the folder by that protocol. A folder is listed

1. by `data.layout`, a public data set's name from the list below;
2. else by its tables, where files of the name `data.tables` lie in it or below it;
3. else by its folders: every image file is taken and the folder it lies in is its `label`, and
   DICOM files ask their own headers for the patient.

A file that can't be used is refused with its reason in `quarantine.csv`, and the others go on.
"""
ABOUT_FORMATS = """## Formats

A file's content says what it is; its ending only makes it a candidate. Pixels become brightness
from 0 to 1 by the range that the file declares, never by their own smallest and largest value.
"""
ABOUT_LABELS = """### Labels from DICOM headers

Where no table lists the images, `data.label_columns` may name these and no other tag:
"""
ABOUT_TABLES = """## Tables

A table ends in {kinds} (parquet and xlsx with the extra `[formats]`). All cells are text: `007`
stays `007`, `NA` stays a word, and `1.0` in a spreadsheet is `1`. The mapping is in the protocol:

```text
data:
  tables: cases.xlsx             # looked for in the folder and below it
  path_column: Image             # relative to the table
  path_format: "scans/{{}}.png"    # makes a cell a path; "scans/{{}}.*" takes any image's ending
  patient_column: Case No        # null where no patient is known
  label_columns: [grade]         # what becomes a condition; none if empty
  keep: {{view: [PA, AP]}}         # only rows with these values; "" stands for an empty cell
  rename: {{grade: {{"0": none}}}}   # other words for values; "" drops a value
```

An image in several tables must be the same in all. No path may lead out of the folder. All faults
are reported at once.
"""
ABOUT_LAYOUTS = """## Public data sets

`data.layout` takes these names, and `medsynth init` recognises them by their files. The published
division into training and test is not used: medsynth divides by patient, at random. Images that a
set's tables name and that are not there are counted, so a part of a set will do.

What a set does not know is said by `init`, in `intake.json`, in the split's claim, and in the
verdict and every card that comes of it.
"""


def formats_page() -> str:
    """Return docs/formats.md."""
    kinds = ", ".join(f"`{suffix}`" for suffix in TABLES)
    blocks = [HEAD, ABOUT_FORMATS, _table(_FORMAT_HEAD, map(_format_cells, FORMATS))]
    blocks += [ABOUT_LABELS, _table(_LABEL_HEAD, _label_cells())]
    blocks += [ABOUT_TABLES.format(kinds=kinds)]
    blocks += [ABOUT_LAYOUTS, _table(_LAYOUT_HEAD, map(_layout_cells, LAYOUTS))]
    for layout in LAYOUTS:
        blocks += [f"### {layout.name}", _source(layout), "\n".join(_said(layout))]
    return "\n\n".join(block.strip() for block in blocks if block.strip()) + "\n"


_FORMAT_HEAD = ("format", "endings", "what is read", "what never leaves the file", "extra")
_LABEL_HEAD = ("keyword", "values")
_LAYOUT_HEAD = ("name", "data set", "domain", "patients known by", "labels", "site")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    escaped = ([cell.replace("|", "\\|") for cell in cells] for cells in lines)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in escaped)


def _format_cells(one: Format) -> tuple[str, ...]:
    endings = " ".join(f"`{suffix}`" for suffix in one.suffixes)
    return one.name, endings, one.read, one.dropped, f"`[{one.extra}]`" if one.extra else ""


def _label_cells() -> Iterator[tuple[str, ...]]:
    for keyword, values in LABEL_KEYWORDS.items():
        yield f"`{keyword}`", values


def _layout_cells(one: Layout) -> tuple[str, ...]:
    domain = one.domain if isinstance(one.domain, str) else "by the file's name"
    labels = ", ".join(f"`{name}`" for name in one.attributes)
    patients, site = one.patients or "**not known**", one.site or "not known"
    return f"[`{one.name}`](#{one.name})", one.title, domain, patients, labels, site


def _source(layout: Layout) -> str:
    return f"{layout.title}. Source: {layout.source}. Licence: {layout.licence}."


def _said(layout: Layout) -> Iterator[str]:
    for sentence in layout.limits:
        yield f"- **Limit:** {sentence}"
    for sentence in layout.notes:
        yield f"- {sentence}"
    if layout.propose:
        keep = "".join(f"; keeps {n} {' or '.join(w)}" for n, w in layout.keep.items())
        yield f"- `init` proposes the labels {', '.join(layout.propose)}{keep}."
