"""Reports as files, kind by suffix."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from rectify.errors import OutputError, UsageError
from rectify.reporting.verdict import Report

SUFFIXES = (".json", ".md", ".html", ".xml")
_HEAD = 1 << 16  # characters in which a report says what it is
_COMMAND = re.compile(r'"command": *"(\w+)"|(?:# |<title>|name=")rectify (\w+)')


def check_path(path: Path) -> None:
    """Refuse a report path of unknown kind. Cheap: call it before the work starts.

    Raises
    ------
    UsageError
        The suffix is none of ``.json .md .html .xml``.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--report {path}: the suffix decides the kind and must be one of {' '.join(SUFFIXES)}")


def beside(page: Path, picture: str) -> Path:
    """Where a picture of this name goes that a Markdown report puts beside itself."""
    return page.with_name(f"{page.stem}.{picture}")


def command_of(path: Path) -> str | None:
    """The command whose report lies there, of any kind; None if there is no report."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            found = _COMMAND.search(file.read(_HEAD))
    except OSError:
        return None
    return (found[1] or found[2]) if found else None


def write_report(report: Report, path: Path, pictures: Mapping[str, Path] | None = None) -> None:
    """Write a report to a file (whole or not at all), replacing an earlier one.

    Parameters
    ----------
    report
        The report.
    path
        ``.json``, ``.md``, ``.html`` (one self-contained page) or ``.xml`` (JUnit).
    pictures
        Caption to picture file: inlined into the page; linked from markdown, and copied beside it as
        ``<stem>.<picture>`` if it lies elsewhere; unused by the other kinds.

    Raises
    ------
    UsageError
        Unknown suffix.
    OutputError
        The file cannot be written, or a picture cannot be read.
    """
    check_path(path)
    from rectify.files.atomic import write_atomic

    write_atomic(path, _content(report, path, pictures or {}), force=True)


def _content(report: Report, path: Path, pictures: Mapping[str, Path]) -> str:
    from rectify.reporting.render import render

    suffix = path.suffix.lower()
    if suffix == ".json":
        return render(report, "json")
    if suffix == ".xml":
        return render(report, "junit")
    if suffix == ".md":
        from rectify.reporting.markdown import to_markdown

        return to_markdown(report, {caption: _beside(picture, path) for caption, picture in pictures.items()})
    from rectify.reporting.html import to_html

    return to_html(report, pictures)


def _beside(picture: Path, page: Path) -> str:
    """The address of a picture seen from a page; one that lies elsewhere is copied beside the page, to stay with it.

    A page that is a link is replaced by the report, as every result is: what the link led to does not matter.
    """
    from rectify.files.atomic import write_atomic

    folder = page.parent.resolve()
    if not picture.resolve().is_relative_to(folder):
        try:
            data = picture.read_bytes()
        except OSError as error:
            raise OutputError(f"{picture}: the picture for {page} cannot be read ({error.strerror})") from error
        picture = beside(folder / page.name, picture.name)
        write_atomic(picture, data, force=True)
    return quote(os.fsencode(picture.resolve().relative_to(folder).as_posix()))  # whatever bytes its name has
