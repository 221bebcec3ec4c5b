"""``rectify explain``: attribution maps of images or pairs, before and after an edit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rectify.cli.config import Settings
from rectify.cli.options import EXPLAIN_FLAGS as FLAGS
from rectify.cli.outputs import Result, inputs_of
from rectify.cli.terminal import Terminal
from rectify.errors import UsageError

if TYPE_CHECKING:
    from rectify.jobs import Inputs
    from rectify.reporting.explain_files import ExplanationFiles

__all__ = ["ABOUT", "EXAMPLE", "FLAGS", "run"]

ABOUT = """Show which pixels speak for a class and which against it.

Writes a picture and an array of each image and method into --out; a pair of images, and a second model (--compare),
are shown side by side.
"""
EXAMPLE = """rectify explain model.pt --clean a.png --poisoned b.png \\
    --compare model.rectified.safetensors --method ig --method uni --out maps/"""


def run(settings: Settings, terminal: Terminal) -> Result:
    """Explain."""
    if not any(settings[name] for name in ("image", "pairs", "clean", "poisoned")):
        raise UsageError("explain what? --image a.png, a folder of images, or --clean a.png --poisoned b.png")
    from rectify import jobs
    from rectify.cli.inputs import explaining, forget_files, gather, open_model, options

    inputs = gather(settings, terminal)
    compare = settings["compare"]
    other = None if compare is None else open_model(compare, settings, terminal, inputs.subject)
    forget_files(inputs.subject, other)
    wanted = replace(explaining(settings, inputs.subject, inputs.calibration), faithfulness=_faithfulness(settings))
    files = _files(settings, inputs)
    report = jobs.run_explain(
        inputs, options(settings), explaining=wanted, compare=other, writer=files, progress=terminal
    )
    terminal.stop()
    terminal.note(f"explanations: {files.folder}/")
    terminal.preview(files.first)
    return Result(report, inputs, None)


def _faithfulness(settings: Settings) -> bool:
    if settings["faithfulness"] != "auto":
        return bool(settings["faithfulness"] == "on")
    return any(path.suffix.lower() in (".html", ".md") for path in settings["report"])


def _files(settings: Settings, inputs: Inputs) -> ExplanationFiles:
    from rectify.files.images import image_files
    from rectify.reporting.explain_files import ExplanationFiles

    facts = {"base_sha256": inputs.subject.checkpoint.sha256, "arch": inputs.subject.arch}
    never = [*inputs_of(settings), *image_files(inputs.calibration)]
    pages = [path for path in settings["report"] if path.suffix.lower() == ".md"]
    return ExplanationFiles(
        settings["explain_out"], inputs.subject.preprocess, never, facts, settings["explain_layer"], pages
    )
