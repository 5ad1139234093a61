"""The stages in order: the only part that knows all others.

    RAW -> intake/ -> split/ -> lens/, autoencoder/, diffusion/ -> synthetic/ -> evidence/
        -> verdict.json -> release/

Each stage is a folder of the run, made by `runtime.run_stage`: the same command again skips what
is done and goes on with what was interrupted. A stage is stale when its inputs, its sections of
the protocol or the seed are no longer those that it was made with. An audit has stages of its own
(audit.py).
"""

from .audit import audit
from .audit_study import Folders, draft_audit, tell_audit
from .augment import Masks as ChildMasks
from .augment import augment, tell_children
from .concept import learn_concept, list_concepts, remove_concept, tell_concept, with_changes
from .control import fit_control, read_obedience, with_control
from .controlled import extract_controls, sample_controlled
from .deidentified import deidentify
from .demo import demo
from .drawn_concept import sample_concept
from .fidelity import Answer, Asked, draft_fidelity, fidelity
from .first_look import init, tell_intake
from .forecast import foretell, tell_forecast
from .halves import run_halves
from .judge import check_fresh, decide, findings_of, release, validate
from .learn import fit, sample
from .mapped import Masks
from .prepare import ingest, split, tell_split
from .report import report
from .run import PLANS, Run, facts, open_run, parts_of, start
from .utility import tell_utility, utility
from .whole import run_all

__all__ = [
    "PLANS",
    "Answer",
    "Asked",
    "ChildMasks",
    "Folders",
    "Masks",
    "Run",
    "audit",
    "augment",
    "check_fresh",
    "decide",
    "deidentify",
    "demo",
    "draft_audit",
    "draft_fidelity",
    "extract_controls",
    "facts",
    "fidelity",
    "findings_of",
    "fit",
    "fit_control",
    "foretell",
    "ingest",
    "init",
    "learn_concept",
    "list_concepts",
    "open_run",
    "parts_of",
    "read_obedience",
    "release",
    "remove_concept",
    "report",
    "run_all",
    "run_halves",
    "sample",
    "sample_concept",
    "sample_controlled",
    "split",
    "start",
    "tell_audit",
    "tell_children",
    "tell_concept",
    "tell_forecast",
    "tell_intake",
    "tell_split",
    "tell_utility",
    "utility",
    "validate",
    "with_changes",
    "with_control",
]
