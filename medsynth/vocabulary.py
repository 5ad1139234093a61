"""Labels and attributes as condition tokens.

A condition is one token for each attribute, in the order of the attributes' names. Token 0 is
the null token: what is not known, and what guidance compares with. A new attribute value, and
later a learned concept, is one more row at the end, so that no existing token ever changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import DataError
from .runtime import read_json, write_json

NULL = 0


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

    def decode(self, tokens: Sequence[int]) -> dict[str, str]:
        """Return the labels of a condition; null tokens are left out."""
        return dict(self.tokens[token - 1] for token in tokens if token != NULL)
