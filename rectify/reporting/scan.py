"""What a scan found, in words and as a table: the most suspicious images first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rectify.reporting.content import image_names
from rectify.reporting.tables import SLACK, Cell, Column, Mood, Table
from rectify.reporting.verdict import Report, measured
from rectify.reporting.words import aligned, number, percent, plural, printable

TEXT, PAGE = 12, 200  # rows in a terminal and on a page; the JSON has all


def scan_headline(scan: Mapping[str, Any] | None) -> str:
    """How many images are suspicious, and how many of them clean images may be by chance."""
    if not scan or scan["suspicious"] is None:
        return ""
    images = plural(scan["count"], "image")
    told = f"{scan['suspicious']:,} of {images} {'is' if scan['suspicious'] == 1 else 'are'} suspicious"
    return f"{told}; of as many clean ones about {_by_chance(scan)} would be."


def _by_chance(scan: Mapping[str, Any]) -> str:
    expected = scan["false_alarms"] * scan["count"]
    return f"{expected:,.0f} or fewer" if expected >= 1 else "one or none"


def scan_table(report: Report, limit: int | None = None) -> Table | None:
    """A row an image: its suspicion, the class that it is given, and where the fault fires most."""
    scan = report.get("scan")
    if not scan:
        return None
    images = scan["images"]
    most = PAGE if limit is None else TEXT
    shown = images if len(images) <= most + SLACK else images[:most]
    names = image_names(row["image"] for row in images)
    columns = {
        "#": (Column("#"), [Cell(str(place)) for place in range(1, len(shown) + 1)]),
        "image": (Column("image", False, flexible=True), [Cell(names[row["image"]], code=True) for row in shown]),
        "suspicion": (Column("suspicion"), _suspicions(shown)),
        "suspicious": (
            Column("", False),
            [Cell("suspicious" if row["suspicious"] else "", mood="bad") for row in shown],
        ),
        "prediction": (Column("class", False), [Cell(_class(row, scan["target"])) for row in shown]),
        "confidence": (
            Column("confidence", narrow="confi-\ndence", spare=1),
            [Cell(percent(measured(row["confidence"]), 1)) for row in shown],
        ),
        "peak": (Column("fires most at", False, spare=2), [Cell(_place(row["peak"])) for row in shown]),
    }
    for key in ("suspicious", "peak"):  # not known without calibration images, or of a layer without places
        if all(row[key] is None for row in images):
            del columns[key]
    title = f"Images by suspicion (keys of {printable(scan['layer'])}, {scan['pooling']} over positions)"
    rows = tuple(zip(*(cells for _, cells in columns.values()), strict=True))
    heads = tuple(column for column, _ in columns.values())
    return Table("scan", title, heads, rows, _note(scan, len(images) - len(shown)))


def _suspicions(shown: Sequence[Mapping[str, Any]]) -> list[Cell]:
    values = [measured(row["suspicion"]) for row in shown]
    top = max((value or 0.0 for value in values), default=0.0) or 1.0
    cells = []
    for row, value, text in zip(shown, values, aligned(values), strict=True):
        mood: Mood = "bad" if row["suspicious"] else "quiet" if row["suspicious"] is False else ""
        cells.append(Cell(text, bar=None if value is None else min(1.0, max(0.0, value / top)), mood=mood))
    return cells


def _class(row: Mapping[str, Any], target: int | None) -> str:
    return f"{row['prediction']}{' (target)' if target is not None and row['prediction'] == target else ''}"


def _place(peak: Sequence[int] | None) -> str:
    return "" if peak is None else f"row {peak[0]}, column {peak[1]}"


def _note(scan: Mapping[str, Any], hidden: int) -> str:
    notes = []
    if hidden:
        notes.append(f"… and {plural(hidden, 'more image')}: --format json has them all.")
    notes.append("Suspicion: 0 is the median clean image, 1 the median image with the fault.")
    if scan["threshold"] is not None:
        judged = scan["judged_on"]
        alarms = percent(scan["false_alarms"], 1)
        line = (
            f"Suspicious: above {number(scan['threshold'], 3)}, as are about {alarms} of clean images or fewer (judged"
        )
        line += f" on {judged['clean']:,})"
        if scan["misses"] is not None:
            hits = percent(1 - scan["misses"], 1)
            line += f" and {hits} of those with the fault (on {judged['fired']:,} that it was carried over to)"
        notes.append(f"{line}.")
    return " ".join(notes)
