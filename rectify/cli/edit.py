"""``rectify edit``: a small weight edit, written as safetensors, reopened and judged."""

from __future__ import annotations

from pathlib import Path

from rectify.cli.config import Settings
from rectify.cli.options import EDIT_FLAGS as FLAGS
from rectify.cli.outputs import Result, out_path
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
    report = jobs.run_edit(
        inputs,
        options(settings),
        out=out_path(settings),
        mode=settings["mode"],
        layer=settings["layer"],
        rank=settings["rank"],
        refine=settings["refine"] == "auto",
        delta=settings["delta"],
        apply=settings["apply"],
        dry_run=settings["dry_run"],
        force=settings["force"],
        out_dtype=settings["out_dtype"],
        progress=terminal,
    )
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
