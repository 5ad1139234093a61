"""What a release says of itself to machines: croissant.json and ro-crate-metadata.json.

Sources: Croissant 1.0 (docs.mlcommons.org/croissant), RO-Crate 1.1 (researchobject.org/ro-crate).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .. import __version__
from ..protocol import Card

CROISSANT = "http://mlcommons.org/croissant/1.0"
RO_CRATE = "https://w3id.org/ro/crate/1.1"
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
NATURE = (
    "Every image is synthetic: it was made by a generative model and is no picture of a patient. "
    "Not for clinical use."
)
LIMITS = (
    "Released after tests for copied training images, whose results and limits stand in README.md "
    "and findings.jsonl. A pass is no promise of anonymity."
)
BIASES = "The images carry the biases of the patients whom the model learnt from; see README.md."


def croissant(
    card: Card, *, name: str, columns: Iterable[str], metadata_sha256: str, masks: bool = False
) -> dict[str, Any]:
    """Return croissant.json: the table, the images and perhaps the masks of a release, joined by
    file name. `columns` are the table's, file_name among them.
    """
    table = {
        "@type": "cr:FileObject",
        "@id": "metadata",
        "name": "metadata",
        "contentUrl": "images/metadata.csv",
        "encodingFormat": "text/csv",
        "sha256": metadata_sha256,
    }
    files = [_file_set("pngs", "images/*.png")]
    records = [_records("images", "image", "pngs", columns)]
    if masks:
        files.append(_file_set("mask_pngs", "masks/*.png"))
        records.append(_records("masks", "mask", "mask_pngs", ("file_name", "id")))
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": name,
        "description": f"{card.title}. {NATURE} {LIMITS}",
        "conformsTo": CROISSANT,
        "license": card.licence,
        "url": "README.md",
        **({"datePublished": card.published} if card.published else {}),
        "rai:dataBiases": BIASES,
        "rai:personalSensitiveInformation": f"{NATURE} {LIMITS}",
        "distribution": [table, *files],
        "recordSet": records,
    }


def _records(name: str, picture: str, files: str, columns: Iterable[str]) -> dict[str, Any]:
    """Describe pictures with columns of the table, joined by file name."""
    content = {"fileSet": {"@id": files}, "extract": {"fileProperty": "content"}}
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "field": [
            _field(name, picture, "sc:ImageObject", {"source": content}),
            *(_table_field(name, files, column) for column in columns),
        ],
    }


def _file_set(name: str, includes: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "encodingFormat": "image/png",
        "includes": includes,
    }


def _table_field(records: str, files: str, column: str) -> dict[str, Any]:
    in_table = {"fileObject": {"@id": "metadata"}, "extract": {"column": column}}
    if column == "file_name":  # where a picture and its row meet
        source = {"fileSet": {"@id": files}, "extract": {"fileProperty": "filename"}}
        return _field(records, column, "sc:Text", {"source": source, "references": in_table})
    return _field(records, column, "sc:Text", {"source": in_table})


def _field(records: str, name: str, kind: str, source: dict[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{records}/{name}",
        "name": name,
        "dataType": kind,
        **source,
    }


def ro_crate(card: Card, *, name: str, files: Mapping[str, str]) -> dict[str, Any]:
    """Return ro-crate-metadata.json; `files` are {path in the release: media type}."""
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": card.title,
        "identifier": name,
        "description": f"{NATURE} {LIMITS}",
        "license": card.licence,
        **({"datePublished": card.published} if card.published else {}),
        "hasPart": [{"@id": path} for path in files],
        "creator": {"@id": "#medsynth"},
    }
    about = {
        "@id": "ro-crate-metadata.json",
        "@type": "CreativeWork",
        "conformsTo": {"@id": RO_CRATE},
        "about": {"@id": "./"},
    }
    tool = {
        "@id": "#medsynth",
        "@type": "SoftwareApplication",
        "name": "medsynth",
        "softwareVersion": __version__,
    }
    parts = [
        {"@id": path, "@type": "Dataset" if path.endswith("/") else "File", "encodingFormat": kind}
        for path, kind in files.items()
    ]
    return {"@context": f"{RO_CRATE}/context", "@graph": [about, root, tool, *parts]}
