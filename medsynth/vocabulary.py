"""Labels and attributes as condition tokens.

A condition is one token for each attribute, in the order of the attributes' names. Token 0 is
the null token: what is not known, and what guidance compares with. A new attribute value, and
later a learned concept, is one more row at the end, so that no existing token ever changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import DataError
from .runtime import read_json, write_json

NULL = 0
PLACE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Vocabulary:
    """Turns {attribute: value} into a tuple of token numbers, and back.

    `tokens` lists (attribute, value) pairs; the pair at place i has the token i + 1.
    """

    attributes: tuple[str, ...]
    tokens: tuple[tuple[str, str], ...]

    @classmethod
    def from_labels(cls, labels: Iterable[Mapping[str, str]]) -> Vocabulary:
        """Build the vocabulary of all attributes and values that occur, in sorted order."""
        pairs = sorted({pair for row in labels for pair in row.items()})
        return cls(tuple(sorted({attribute for attribute, _ in pairs})), tuple(pairs))

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Read a vocabulary that `write` wrote."""
        row = read_json(path)
        return cls(tuple(row["attributes"]), tuple((a, v) for a, v in row["tokens"]))

    def write(self, path: Path) -> None:
        write_json(path, {"attributes": self.attributes, "tokens": self.tokens})

    @property
    def size(self) -> int:
        """How many tokens there are, the null token included."""
        return len(self.tokens) + 1

    @property
    def length(self) -> int:
        """How many tokens a condition has: one for each attribute, one null where there is none."""
        return max(1, len(self.attributes))

    def encode(self, labels: Mapping[str, str]) -> tuple[int, ...]:
        """Return the condition's tokens; an attribute that is absent becomes the null token.

        Raises DataError on an attribute or value that the vocabulary does not have.
        """
        unknown = [f"{a}={v}" for a, v in labels.items() if (a, v) not in self.tokens]
        if unknown:
            known = ", ".join(f"{a}={v}" for a, v in self.tokens) or "none"
            raise DataError(f"no token for {', '.join(unknown)}; the vocabulary has: {known}")
        if not self.attributes:
            return (NULL,)
        return tuple(
            self.tokens.index((attribute, labels[attribute])) + 1 if attribute in labels else NULL
            for attribute in self.attributes
        )

    def known(self, labels: Mapping[str, str]) -> dict[str, str]:
        """Leave out what the vocabulary does not have: the null token stands for it."""
        return {name: value for name, value in labels.items() if (name, value) in self.tokens}

    def taught(self, attribute: str, value: str) -> Vocabulary:
        """Return the vocabulary with one more value at the end, a concept's name.

        Where there is no attribute yet, this is the first. Raises DataError where the value is
        known, or where there are attributes but not this one.
        """
        if (attribute, value) in self.tokens:
            raise DataError(f"{attribute}={value} is known already: choose another name")
        if self.attributes and attribute not in self.attributes:
            known = ", ".join(self.attributes)
            raise DataError(f"no attribute {attribute}; the vocabulary has: {known}")
        return Vocabulary(self.attributes or (attribute,), (*self.tokens, (attribute, value)))

    def decode(self, tokens: Sequence[int]) -> dict[str, str]:
        """Return the labels of a condition; null tokens are left out."""
        return dict(self.tokens[token - 1] for token in tokens if token != NULL)


def describe(prompt: str, labels: Mapping[str, str]) -> str:
    """Return a sentence with labels in the places of `{attribute}`, underscores as spaces.

    What stands between two commas is left out where an attribute in it is not known, and where
    nothing at all is known the sentence is empty.
    """
    if not labels:
        return ""
    pieces = [piece for piece in prompt.split(",") if named(piece) <= labels.keys()]
    return PLACE.sub(lambda place: labels[place[1]].replace("_", " "), ",".join(pieces)).strip()


def named(prompt: str) -> set[str]:
    """Return the attributes that a prompt has places for."""
    return set(PLACE.findall(prompt))
