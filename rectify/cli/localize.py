"""``rectify localize``: every editable layer, ranked by editability."""

from __future__ import annotations

from rectify.cli.config import Settings
from rectify.cli.options import LOCALIZE_FLAGS as FLAGS
from rectify.cli.outputs import Result
from rectify.cli.terminal import Terminal

__all__ = ["ABOUT", "EXAMPLE", "FLAGS", "run"]

ABOUT = """Rank every editable layer by how well a small edit there would undo the fault.

Attribution along the path from corrupted to clean makes the shortlist, a trial edit of each layer on it the order.

Without a pair of images it can only do a data-free triage: channels that stand out by their Lipschitz constant.
"""
EXAMPLE = """rectify localize model.pt --arch resnet18 --preprocess imagenet \\
    --clean a.png --poisoned b.png"""


def run(settings: Settings, terminal: Terminal) -> Result:
    """Localise the fault."""
    from rectify import jobs
    from rectify.cli.inputs import gather, options

    inputs = gather(settings, terminal)
    if inputs.pairs is None:
        terminal.note(
            "note: no pair: only a data-free triage; --clean and --poisoned would rank the layers by the fault"
        )
    report = jobs.run_localize(inputs, options(settings), trial=settings["trial"], progress=terminal)
    return Result(report, inputs)
