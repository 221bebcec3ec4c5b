"""Reports as files, kind by suffix."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from rectify.errors import UsageError
from rectify.reporting.verdict import Report

SUFFIXES = (".json", ".md", ".html", ".xml")


def check_path(path: Path) -> None:
    """Refuse a report path of unknown kind. Cheap: call it before the work starts.

    Raises
    ------
    UsageError
        The suffix is none of ``.json .md .html .xml``.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--report {path}: the suffix decides the kind and must be one of {' '.join(SUFFIXES)}")


def write_report(report: Report, path: Path, pictures: Mapping[str, Path] | None = None) -> None:
    """Write a report to a file (whole or not at all), replacing an earlier one.

    Parameters
    ----------
    report
        The report.
    path
        ``.json``, ``.md``, ``.html`` (one self-contained page) or ``.xml`` (JUnit).
    pictures
        Caption to picture file: inlined into the page, linked from markdown, unused elsewhere.

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

        return to_markdown(report, {caption: _address(picture, path) for caption, picture in pictures.items()})
    from rectify.reporting.html import to_html

    return to_html(report, pictures)


def _address(picture: Path, page: Path) -> str:
    try:
        relative = os.path.relpath(picture.resolve(), page.resolve().parent)
    except ValueError:  # another drive
        return picture.resolve().as_uri()
    return quote(Path(relative).as_posix())
