"""A report as one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from rectify.errors import OutputError
from rectify.reporting.content import facts, reason, tables
from rectify.reporting.verdict import Report
from rectify.reporting.words import number, printable

TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".svg": "image/svg+xml"}


def to_html(report: Report, pictures: Mapping[str, Path] | None = None) -> str:
    """The report as a page with its pictures inlined; it loads nothing and runs no script.

    Raises
    ------
    OutputError
        A picture cannot be read or is of no kind that a browser shows.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["printable"] = printable
    template = environment.from_string(files("rectify.reporting").joinpath("page.html.j2").read_text(encoding="utf-8"))
    run = report.get("run") or {}
    return (
        template.render(
            report=report,
            reason=reason(report),
            facts=facts(report),
            tables=tables(report),
            pictures=[(caption, data_uri(path)) for caption, path in (pictures or {}).items()],
            warnings=(report.get("edit") or {}).get("warnings") or [],
            changed=(report.get("edit") or {}).get("changed_tensors") or [],
            notes=run.get("notes") or [],
            run=run,
            duration=number(run.get("duration_s"), 3),
        ).rstrip()
        + "\n"
    )


def data_uri(path: Path) -> str:
    """A picture file as a data URI."""
    kind = TYPES.get(path.suffix.lower())
    if kind is None:
        raise OutputError(f"{path}: a page can hold {' '.join(TYPES)} pictures only")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OutputError(f"{path}: the picture for the page cannot be read ({error.strerror})") from error
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
