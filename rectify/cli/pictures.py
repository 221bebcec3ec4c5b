"""The pictures of an HTML or Markdown report: the layers, and the pair before and after the edit."""

from __future__ import annotations

from pathlib import Path

from rectify.cli.outputs import Result
from rectify.cli.terminal import Terminal


def draw(result: Result, folder: Path, terminal: Terminal) -> dict[str, Path]:
    """Draw what the report has material for. A picture that fails is left out: the result it shows is already there."""
    return {}
