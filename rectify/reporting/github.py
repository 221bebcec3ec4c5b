"""A report for GitHub Actions: a few annotations on stdout, the tables in the step summary.

GitHub shows ten annotations a step and drops the rest, so all failed gates share one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rectify.reporting.content import headline, reason
from rectify.reporting.markdown import to_markdown
from rectify.reporting.verdict import Report
from rectify.reporting.words import printable

LIMIT = 10
LEVELS = {"pass": "notice", "fail": "error", "inconclusive": "error"}


def _annotation(level: str, title: str, message: str) -> str:
    message = printable(message).replace("%", "%25")
    title = printable(title).replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={title}::{message}"


def to_github(report: Report, remarks: Sequence[str] = ()) -> str:
    """Annotations as workflow commands, one a line, at most ten; ``remarks`` are further warnings."""
    title = f"rectify {report['command']}: {report['verdict']}"
    said = reason(report)
    if report["verdict"] == "pass":  # what was done; where it failed, that alone
        said = "; ".join(filter(None, (headline(report), said)))
    lines = [_annotation(LEVELS[report["verdict"]], title, said)]
    warnings = [*remarks, *(str(line) for line in (report.get("edit") or {}).get("warnings") or [])]
    if len(warnings) > LIMIT - 1:
        rest = len(warnings) - (LIMIT - 2)
        warnings = [*warnings[: LIMIT - 2], f"{rest} more warnings are in the report"]
    lines += [_annotation("warning", f"rectify {report['command']}", line) for line in warnings]
    return "\n".join(lines) + "\n"


def append_summary(report: Report) -> str | None:
    """Append the report's tables to the file that $GITHUB_STEP_SUMMARY names, if it names one.

    Returns
    -------
    str or None
        Why it could not be written; the report itself is not lost by that, so it is no error.
    """
    name = os.environ.get("GITHUB_STEP_SUMMARY")
    if not name:
        return None
    try:
        with Path(name).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(to_markdown(report) + "\n")
    except OSError as error:
        return f"the step summary could not be written: {error.strerror or error}"
    return None
