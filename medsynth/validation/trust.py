"""Which spaces may be believed: each must find planted copies by itself.

A lens that does not see copies adds noise to the test and, worse, a false comfort. So each space
is tried on the copies that were planted, with a threshold from held-out images of its own. The
synthetic images have no part in that: what is believed is settled before they are judged.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..protocol import Validate
from .attack import Attack
from .statistics import Estimate, clopper_pearson, conformal_threshold


def own_recall(attack: Attack, space: str, false_alarms: float) -> dict[str, tuple[int, int]]:
    """Return {change: (copies that a space finds by itself, copies)}.

    Found = nearer to one training patient than all but `false_alarms` of held-out images, and no
    held-out patient nearer.
    """
    threshold, _ = conformal_threshold(attack.holdout.spaces[space].score, false_alarms)
    is_train = attack.pool.patient_is_train
    found = {}
    for change, copies in attack.copies.items():
        flagged = copies["train"].spaces[space].score <= threshold
        right = is_train[copies["everyone"].spaces[space].patient]
        found[change] = (int((flagged & right).sum()), len(flagged))
    return found


def space_recalls(attack: Attack, settings: Validate) -> dict[str, Estimate]:
    """Return {space: the share of all planted copies that it finds by itself}."""
    recalls = {}
    for space in attack.holdout.spaces:
        counts = own_recall(attack, space, settings.false_alarms).values()
        recalls[space] = clopper_pearson(sum(k for k, _ in counts), sum(n for _, n in counts))
    return recalls


def believed(recalls: Mapping[str, Estimate], least: float) -> tuple[str, ...]:
    """Return the spaces whose recall reaches `least` at the low end of its interval."""
    return tuple(space for space, recall in recalls.items() if recall.low >= least)


def say_left_out(recalls: Mapping[str, Estimate], least: float) -> str:
    """Say which spaces are not believed, and why; "" where all are."""
    weak = [space for space in recalls if space not in believed(recalls, least)]
    words = ", ".join(f"{space} ({recalls[space].value:.2g})" for space in weak)
    return f"; left out, for too small a share of planted copies found: {words}" if weak else ""
