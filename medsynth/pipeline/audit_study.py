"""What an audit holds where nobody says otherwise: a protocol from three plain folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import protocol
from ..errors import DataError, ProtocolError
from ..protocol import Protocol, Rule

if TYPE_CHECKING:
    from ..data.layouts import Listing
    from ..data.look import Look

PARTS = ("train", "holdout", "synthetic")
WORDS = {"train": "training", "holdout": "held-out", "synthetic": "synthetic"}
SMALLEST_PX, STEP_PX = 16, 8


@dataclass(frozen=True)
class Folders:
    """The three folders of an audit, and the table of their patients where there is one."""

    train: Path
    holdout: Path
    synthetic: Path
    patients: Path | None = None

    def __getitem__(self, part: str) -> Path:
        return {"train": self.train, "holdout": self.holdout, "synthetic": self.synthetic}[part]

    def check(self) -> None:
        """Raise DataError where one is absent."""
        absent = [f"--{part}" for part in PARTS if not self[part].is_dir()]
        if absent:
            raise DataError(f"expected folders of images, there is none for {', '.join(absent)}")

    def check_apart(self, out: Path) -> None:
        """Raise DataError where one lies in another, or holds the audit itself."""
        places = {f"--{part}": self[part].resolve() for part in PARTS} | {"--out": out.resolve()}
        for (name, place), (other, inside) in permutations(places.items(), 2):
            if place == inside or place in inside.parents:
                raise DataError(f"{other} lies in {name}: give folders that share no file")


def draft_audit(
    folders: Folders,
    *,
    size_px: int | None = None,
    domain: str | None = None,
    rules: Path | None = None,
    changes: Mapping[str, Any] | None = None,
) -> tuple[Protocol, list[str]]:
    """Return the protocol of an audit, and what was guessed or given up, in sentences.

    `rules` is a YAML file with the gate's rules; `changes` are {"section.key": value} on top of
    all. Images are brought to `size_px`, or to less where one of the folders has smaller ones.
    Raises DataError where a folder is absent, ProtocolError where a knob or a rule is wrong.
    """
    from ..data.layouts.folder import Folder
    from ..data.look import guess_domain, look

    folders.check()
    said = []
    wanted = {**_rules(rules), **(changes or {})}
    if size_px is not None:
        wanted["image.size_px"] = size_px
    if domain is not None:
        wanted["domain"] = domain
    study = _load(wanted)
    listings = {part: listing(folders[part], study, part) for part in PARTS}
    opened = {part: Folder.open(folders[part]) for part in PARTS}
    looks = {part: look(opened[part], listings[part].entries) for part in PARTS}
    if "domain" not in wanted:
        guess, because = guess_domain(opened["train"], listings["train"].entries, looks["train"])
        wanted["domain"] = guess
        said.append(f"A guess, for {because}: {guess}. --domain says otherwise.")
    small = common_size(looks, study.image.size_px)
    said += _sizes(looks, study.image.size_px, small)
    return _load({**wanted, "image.size_px": small}), said


def listing(
    raw: Path, study: Protocol, part: str, patients: Mapping[str, str] | None = None
) -> Listing:
    """List one of the folders as `list_plain` does."""
    from ..data.plain import list_plain

    return list_plain(raw, study.data, patients=patients, synthetic=part == "synthetic")


def common_size(looks: Mapping[str, Look], wanted_px: int) -> int:
    """Return the largest size, at most the wanted one, to which no folder must be enlarged.

    Of each folder the smallest image counts that is at least half the median one: what is smaller
    is an exception, and is refused when it is read. Below 16 px nothing is compared.
    """
    return min([wanted_px, *(_short_px(look) // STEP_PX * STEP_PX for look in looks.values())])


def _short_px(look: Look) -> int:
    """The short side of the smallest image that is no exception, and at least SMALLEST_PX."""
    smallest = min(look.height_px[0], look.width_px[0])
    usual = smallest if 2 * smallest >= look.short_px else look.short_px
    return max(usual, SMALLEST_PX)


def _sizes(looks: Mapping[str, Look], wanted_px: int, size_px: int) -> list[str]:
    medians = ", ".join(f"{WORDS[part]} {look.short_px}" for part, look in looks.items())
    text = f"Short sides in pixels (median): {medians}. All are brought to {size_px}"
    if size_px == wanted_px:
        return [f"{text}, in the same way."]
    return [f"{text} and not to {wanted_px}, so that no side is enlarged."]


def _load(changes: Mapping[str, Any]) -> Protocol:
    return protocol.load(protocol.shipped("audit"), changes=changes)


def _rules(path: Path | None) -> dict[str, Any]:
    """Return the rules of a YAML file: a list, `rules`, or the gate of a protocol."""
    from ruamel.yaml import YAML, YAMLError

    if path is None:
        return {}
    if not path.is_file():
        raise ProtocolError(path.name, ["no such file"])
    try:
        found = YAML(typ="safe").load(path.read_text())
    except YAMLError as error:
        raise ProtocolError(path.name, [f"not YAML: {str(error).splitlines()[0]}"]) from None
    for key in ("gate", "rules"):
        found = found.get(key, found) if isinstance(found, Mapping) else found
    if not isinstance(found, list):
        raise ProtocolError(path.name, ["expected a list of rules, alone or under gate: rules:"])
    return {"gate.rules": found}


def tell_audit(study: Protocol) -> list[str]:
    """Say what holds where nobody said otherwise: the lens's training, and every rule."""
    lens, measured = study.lens, study.validate_
    trained = (
        f"trained on {lens.training.images:,} views of training and held-out images alike (--lens "
        f"FILE, --set lens.training.images=N)"
        if lens.weights is None
        else f"the weights in {Path(lens.weights).name}"
    )
    return [
        f"Lens: {trained}.",
        f"Tests: {measured.permutations} permutations, {measured.planted} copies planted of each "
        f"change, a threshold that held-out images pass at {measured.false_alarms:.2g} "
        f"(--set validate.KNOB=VALUE).",
        *(f"Rule: {_one_rule(rule)} (--rules FILE)." for rule in study.gate.rules),
    ]


def _one_rule(rule: Rule) -> str:
    bars = {
        "at most": rule.at_most,
        "at least": rule.at_least,
        "not rejected at": rule.not_rejected_at,
    }
    words = ", ".join(f"{name} {bar:g}" for name, bar in bars.items() if bar is not None)
    return f"{rule.finding} {words}"
