"""Everything medsynth raises on purpose.

    MedsynthError              exit 1
    ├── ProtocolError          the study's YAML file is wrong, all its faults at once
    ├── DataError              images or tables are not what they should be
    ├── StageError             a stage can't start or go on: something to its left is missing
    ├── StaleError             something changed after it was judged
    └── RefusedError           the gate said no                                   exit 3

A message says what was expected, what came, and what to do. It never holds a patient's name, a
tag's value or a pixel; a path is relative to the folder that the user gave.
"""

from __future__ import annotations

from collections.abc import Sequence


class MedsynthError(Exception):
    """Base of all errors of medsynth; `exit_code` is what the command line ends with."""

    exit_code = 1


class ProtocolError(MedsynthError):
    """A protocol has faults; `faults` lists every one with its place in the file."""

    def __init__(self, source: str, faults: Sequence[str]):
        self.source, self.faults = source, tuple(faults)
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        super().__init__(f"{source}: {count}\n" + "\n".join(f"  {fault}" for fault in self.faults))


class DataError(MedsynthError):
    """Images or tables are not what they should be."""


class StageError(MedsynthError):
    """A stage can't start or go on."""


class StaleError(MedsynthError):
    """Something changed after it was judged, so the judgement no longer holds."""


class RefusedError(MedsynthError):
    """The gate refused; `reasons` says why in words."""

    exit_code = 3

    def __init__(self, message: str, reasons: Sequence[str] = ()):
        self.reasons = tuple(reasons)
        super().__init__("\n".join([message, *(f"  - {reason}" for reason in self.reasons)]))
