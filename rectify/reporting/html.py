"""A report as one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from rectify.errors import OutputError
from rectify.reporting.content import facts, headline, reason
from rectify.reporting.tables import Table, split, tables
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
    environment.filters |= {"printable": printable, "bars": bar_columns}
    template = environment.from_string(files("rectify.reporting").joinpath("page.html.j2").read_text(encoding="utf-8"))
    run, edit = report.get("run") or {}, report.get("edit") or {}
    upper, lower = split(tables(report))
    page = template.render(
        report=report,
        sentences=[text for text in (headline(report), reason(report)) if text],
        facts=facts(report),
        upper=upper,
        lower=lower,
        pictures=[(caption, data_uri(path)) for caption, path in (pictures or {}).items()],
        warnings=edit.get("warnings") or [],
        changed=edit.get("changed_tensors") or [],
        notes=run.get("notes") or [],
        run=run,
        duration=number(run.get("duration_s"), 3),
    )
    return page.rstrip() + "\n"


def bar_columns(table: Table) -> list[bool]:
    """For each column whether it holds bars, which get a column of their own."""
    return [any(row[index].bar is not None for row in table.rows) for index in range(len(table.columns))]


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
