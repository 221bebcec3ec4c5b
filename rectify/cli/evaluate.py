"""``rectify evaluate``: accuracy, attack success and recovery, and whether the gates hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rectify.cli.config import Settings
from rectify.cli.options import EVALUATE_FLAGS as FLAGS
from rectify.cli.outputs import Result
from rectify.cli.terminal import Terminal
from rectify.errors import UsageError

if TYPE_CHECKING:
    from rectify.jobs import Inputs, Quality

__all__ = ["ABOUT", "EXAMPLE", "FLAGS", "run"]

ABOUT = """Measure accuracy, attack success rate and recovery, and judge the gates.

Labelled images give accuracy; pairs give attack success, recovery and the gap; --metrics the quality of explanations.
"""
EXAMPLE = """rectify evaluate model.rectified.safetensors --against model.pt \\
    --data test-images/ --pairs pairs/ --max-asr 0.05 --report report.html"""


def run(settings: Settings, terminal: Terminal) -> Result:
    """Measure and judge."""
    from rectify import jobs
    from rectify.cli.inputs import forget_files, gather, open_model, options

    _check(settings)
    if not any(settings[name] for name in ("data", "pairs", "clean", "poisoned", "holdout")):
        raise UsageError("nothing to evaluate on: give --data DIR, --pairs DIR or --holdout DIR")
    inputs = gather(settings, terminal)
    against = settings["against"]
    before = None if against is None else open_model(against, settings, terminal, inputs.subject)
    forget_files(inputs.subject, before)
    report = jobs.run_evaluate(
        inputs, options(settings), against=before, quality=_quality(settings, inputs), progress=terminal
    )
    return Result(report, inputs, before)


def _check(settings: Settings) -> None:
    """What can be said before anything slow begins."""
    leak = "leakage" in settings["metrics"]
    if leak and settings["null_region"] is None:
        raise UsageError("--metrics leakage needs to know where nothing of the class is: give --null-region mask.png")
    if settings.typed("max_leakage") and not leak:
        raise UsageError("--max-leakage judges a measurement: add --metrics leakage --null-region mask.png")
    if not settings["metrics"]:
        for name in ("method", "samples", "null_region"):
            if settings.typed(name):
                raise UsageError(
                    f"{settings.flags[name].label} is about --metrics: name one, such as --metrics deletion"
                )


def _quality(settings: Settings, inputs: Inputs) -> Quality | None:
    if not settings["metrics"]:
        return None
    from rectify.cli.inputs import explaining
    from rectify.files.images import read_mask
    from rectify.jobs import Quality

    mask = settings["null_region"]
    region = None if mask is None else read_mask(mask, inputs.subject.preprocess)
    metrics = tuple(dict.fromkeys(settings["metrics"]))
    wanted = explaining(settings, inputs.subject, inputs.calibration)
    return Quality(metrics, wanted, settings["samples"], region)
