"""Which command has which flags, in the order in which its --help shows them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rectify.cli.flags import PANELS, Flag
from rectify.cli.flags_explain import AGAINST, EXPLAIN, METHOD, METRIC, REFERENCE
from rectify.cli.flags_repair import EDIT, SCAN, TRIAL
from rectify.cli.flags_shared import (
    BASELINE,
    CALIBRATION,
    COMPUTE,
    DATA,
    EXIT_ZERO,
    GATES,
    HOLDOUT,
    MIN_EDITABILITY,
    MODEL,
    MODEL_ARGUMENT,
    OUTPUT,
    PAIRS,
    PREPROCESS,
    SETTINGS,
)
from rectify.cli.flags_train import TRAIN, TRAIN_DATA
from rectify.names import METHODS

__all__ = [
    "ALL_FLAGS",
    "COMMAND_FLAGS",
    "EDIT_FLAGS",
    "EVALUATE_FLAGS",
    "EXPLAIN_FLAGS",
    "GATE_NAMES",
    "LOCALIZE_FLAGS",
    "MODEL_ARGUMENT",
    "PANELS",
    "TRAIN_FLAGS",
    "Flag",
    "unique",
]

LOCALIZE_FLAGS = (
    *MODEL,
    *PAIRS,
    *CALIBRATION,
    *PREPROCESS,
    *TRIAL,
    *SCAN,
    MIN_EDITABILITY,
    EXIT_ZERO,
    *OUTPUT,
    *COMPUTE,
    *SETTINGS,
)
EDIT_FLAGS = (
    *MODEL, *PAIRS, *HOLDOUT, *CALIBRATION, *DATA, *PREPROCESS, *EDIT, *GATES, MIN_EDITABILITY, *BASELINE, EXIT_ZERO,
    *OUTPUT, *COMPUTE, *SETTINGS,
)  # fmt: skip
_JUDGED = replace(
    METHOD[0],
    help=f"The explanations judged by --metrics; repeatable: {', '.join(METHODS)} [default: those that explain: of "
    "rectify.yaml names, else ig]; evaluate: {method: ig} there is for evaluate alone.",
)
EVALUATE_FLAGS = (
    *MODEL,
    *PAIRS,
    *HOLDOUT,
    *DATA,
    *PREPROCESS,
    *METRIC,
    _JUDGED,
    *METHOD[1:],
    *REFERENCE,
    *AGAINST,
    *GATES,
    *BASELINE,
    EXIT_ZERO,
    *OUTPUT,
    *COMPUTE,
    *SETTINGS,
)
EXPLAIN_FLAGS = (
    *MODEL,
    *(flag for flag in PAIRS if flag.name != "fault"),
    *REFERENCE,
    *PREPROCESS,
    *EXPLAIN[:1],
    *METHOD[:1],
    *EXPLAIN[1:],
    *METHOD[1:],
    *OUTPUT,
    *COMPUTE,
    *SETTINGS,
)

TRAIN_FLAGS = (
    *MODEL,
    *TRAIN_DATA,
    *PREPROCESS,
    *TRAIN,
    *(flag for flag in GATES if flag.name in ("min_accuracy", "max_accuracy_drop")),
    EXIT_ZERO,
    *OUTPUT,
    *COMPUTE,
    *SETTINGS,
)

GATE_NAMES = (*(flag.name for flag in (*GATES, MIN_EDITABILITY)), "max_regression")

COMMAND_FLAGS = {
    "localize": LOCALIZE_FLAGS,
    "edit": EDIT_FLAGS,
    "explain": EXPLAIN_FLAGS,
    "evaluate": EVALUATE_FLAGS,
    "train": TRAIN_FLAGS,
}


def unique(flags: Iterable[Flag]) -> dict[str, Flag]:
    """The flags by name."""
    return {flag.name: flag for flag in flags}


ALL_FLAGS = unique(flag for flags in ((MODEL_ARGUMENT,), *COMMAND_FLAGS.values()) for flag in flags)
