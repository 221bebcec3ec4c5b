"""``rectify localize``: every editable layer, ranked by what a trial edit of it does, or by editability."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rectify.cli.config import Settings
from rectify.cli.options import LOCALIZE_FLAGS as FLAGS
from rectify.cli.outputs import Result
from rectify.cli.terminal import Terminal
from rectify.errors import UsageError

if TYPE_CHECKING:
    from rectify.jobs import Suspect

__all__ = ["ABOUT", "EXAMPLE", "FLAGS", "run"]

ABOUT = """Rank every editable layer by how well a small edit there would undo the fault.

Attribution along the path from corrupted to clean makes the shortlist, a trial edit of each layer on it the order.

Without a pair of images it can only do a data-free triage: channels that stand out by their Lipschitz constant.
With --scan it also ranks images, such as those that the model was trained on, by how strongly the fault fires in them.
"""
EXAMPLE = """rectify localize model.pt --arch resnet18 --preprocess imagenet \\
    --clean a.png --poisoned b.png"""


def run(settings: Settings, terminal: Terminal) -> Result:
    """Localise the fault."""
    from rectify import jobs
    from rectify.cli.inputs import gather, options

    _check(settings)
    inputs = gather(settings, terminal)
    if inputs.pairs is None:
        terminal.note(
            "note: no pair: only a data-free triage; --clean and --poisoned would rank the layers by the fault"
        )
    suspects: list[Suspect] = []
    scan = None if inputs.images is None else jobs.Scan(inputs.images, settings["scan_layer"], suspects.extend)
    report = jobs.run_localize(inputs, options(settings), trial=settings["trial"], scan=scan, progress=terminal)
    return Result(report, inputs, suspects=suspects)


def _check(settings: Settings) -> None:
    """What can be said before anything slow begins."""
    if settings["scan"] and not any(settings[name] for name in ("pairs", "clean", "poisoned")):
        raise UsageError("--scan looks for the fault of a pair: give --clean a.png --poisoned b.png, or --pairs DIR")
    if settings.typed("scan_layer") and not settings["scan"]:
        raise UsageError("--scan-layer says where --scan looks: add --scan DIR; all layers are ranked anyway")
