"""One report, every format of ``--format``."""

from __future__ import annotations

import io

from rich.console import Console

from rectify.errors import UsageError
from rectify.reporting.github import append_summary, to_github
from rectify.reporting.jsonfile import to_json
from rectify.reporting.junit import to_junit
from rectify.reporting.markdown import to_markdown
from rectify.reporting.text import print_text
from rectify.reporting.verdict import Report

__all__ = ["FORMATS", "print_text", "render"]

FORMATS = ("text", "json", "markdown", "junit", "github")


def render(report: Report, format: str) -> str:
    """The report as text that ends in a newline.

    ``text`` is plain text of 80 columns; `print_text` draws the same on a console, with colour. ``github`` also appends
    the tables to the file that $GITHUB_STEP_SUMMARY names.

    Raises
    ------
    UsageError
        An unknown format.
    """
    if format == "text":
        return _plain_text(report)
    if format == "json":
        return to_json(report)
    if format == "markdown":
        return to_markdown(report)
    if format == "junit":
        return to_junit(report)
    if format == "github":
        problem = append_summary(report)
        return to_github(report, [problem] if problem else [])
    raise UsageError(f"unknown format {format!r}; the formats are {', '.join(FORMATS)}")


def _plain_text(report: Report) -> str:
    stream = io.StringIO()
    print_text(report, Console(file=stream, width=80, no_color=True, force_terminal=False, _environ={}))
    return stream.getvalue()
