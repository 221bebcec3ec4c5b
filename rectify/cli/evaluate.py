"""``rectify evaluate``: accuracy, attack success and recovery, and whether the gates hold."""

from __future__ import annotations

from rectify.cli.config import Settings
from rectify.cli.options import EVALUATE_FLAGS as FLAGS
from rectify.cli.outputs import Result
from rectify.cli.terminal import Terminal
from rectify.errors import UsageError

__all__ = ["ABOUT", "EXAMPLE", "FLAGS", "run"]

ABOUT = """Measure accuracy, attack success rate and recovery, and judge the gates.

Labelled images give accuracy; pairs give attack success, recovery and the gap.
"""
EXAMPLE = """rectify evaluate model.rectified.safetensors --against model.pt \\
    --data test-images/ --pairs pairs/ --max-asr 0.05 --report report.html"""


def run(settings: Settings, terminal: Terminal) -> Result:
    """Measure and judge."""
    from rectify import jobs
    from rectify.cli.inputs import gather, open_model, options

    if not any(settings[name] for name in ("data", "pairs", "clean", "poisoned", "holdout")):
        raise UsageError("nothing to evaluate on: give --data DIR, --pairs DIR or --holdout DIR")
    inputs = gather(settings, terminal)
    against = settings["against"]
    before = None if against is None else open_model(against, settings, terminal, inputs.subject)
    report = jobs.run_evaluate(inputs, options(settings), against=before, progress=terminal)
    return Result(report, inputs, before)
