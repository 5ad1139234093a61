"""Stopping early: when the loss on patients that are not trained on no longer falls."""

from __future__ import annotations


class Patience:
    """Ends a training after `looks` looks in a row at which the loss was no new lowest; None never
    does. `losses` are (images seen, loss), a look each."""

    def __init__(self, looks: int | None):
        self.looks = looks
        self.losses: list[tuple[int, float]] = []

    def note(self, seen: int, loss: float) -> bool:
        """Note a look's loss; return whether it is the lowest so far."""
        self.losses.append((seen, loss))
        return self._since_lowest() == 0

    @property
    def is_over(self) -> bool:
        """True where the lowest loss lies `looks` looks back."""
        return bool(self.losses) and self.looks is not None and self._since_lowest() >= self.looks

    def _since_lowest(self) -> int:
        values = [loss for _, loss in self.losses]
        return len(values) - 1 - values.index(min(values))
