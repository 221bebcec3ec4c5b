"""``rectify edit``: a small weight edit, written as safetensors, reopened and judged."""

from __future__ import annotations

from pathlib import Path

from rectify.cli.config import Settings
from rectify.cli.options import EDIT_FLAGS as FLAGS
from rectify.cli.outputs import Result, delta_path, out_path
from rectify.cli.terminal import Terminal
from rectify.errors import UsageError

__all__ = ["ABOUT", "EXAMPLE", "FLAGS", "run"]

ABOUT = """Repair the model with a small weight edit, and write it only if the result passes its gates.

Every figure is measured on the written file, opened again. The input is never overwritten.
"""
EXAMPLE = """rectify edit model.pt --arch resnet18 --preprocess imagenet \\
    --clean a.png --poisoned b.png --calibration clean-images/ --max-asr 0.05"""


def run(settings: Settings, terminal: Terminal) -> Result:
    """Edit, write, judge."""
    from rectify import jobs
    from rectify.cli.inputs import gather, options

    _check(settings)
    inputs = gather(settings, terminal)
    names = ("mode", "layer", "rank", "apply", "dry_run", "force", "out_dtype")
    editing = jobs.Editing(
        out_path(settings),
        refine=settings["refine"] == "auto",
        delta=delta_path(settings),
        **{name: settings[name] for name in names},
    )
    report = jobs.run_edit(inputs, options(settings), editing=editing, progress=terminal)
    return Result(report, inputs)


def _check(settings: Settings) -> None:
    apply: Path | None = settings["apply"]
    if apply is None and not (settings["clean"] or settings["poisoned"] or settings["pairs"]):
        raise UsageError("edit needs a pair: --clean a.png --poisoned b.png, or --pairs DIR; or --apply a delta file")
    searching = [
        flag for flag in ("layer", "mode", "rank", "refine", "delta") if apply is not None and settings.typed(flag)
    ]
    if searching:
        raise UsageError(f"--apply takes the edit from {apply}, so --{searching[0]} has nothing to decide")
