"""What a scan found, in words and as a table: the most suspicious images first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rectify.reporting.content import image_names
from rectify.reporting.tables import SLACK, Cell, Column, Mood, Table
from rectify.reporting.verdict import Report, measured
from rectify.reporting.words import number, percent, plural, printable

TEXT, PAGE = 12, 200  # rows in a terminal and on a page; the JSON has all


def scan_headline(scan: Mapping[str, Any] | None) -> str:
    """How many images are suspicious, and how many of them clean images may be by chance."""
    if not scan or scan["suspicious"] is None:
        return ""
    images = plural(scan["count"], "image")
    told = f"{scan['suspicious']:,} of {images} {'is' if scan['suspicious'] == 1 else 'are'} suspicious"
    return f"{told}; of as many clean ones about {_by_chance(scan)} would be, by chance."


def _by_chance(scan: Mapping[str, Any]) -> str:
    expected = scan["false_alarms"] * scan["count"]
    return f"{expected:,.0f}" if expected >= 1 else "one or none"


def scan_table(report: Report, limit: int | None = None) -> Table | None:
    """A row an image: its suspicion, the class that it is given, and where the fault fires most."""
    scan = report.get("scan")
    if not scan:
        return None
    images = scan["images"]
    most = PAGE if limit is None else TEXT
    shown = images if len(images) <= most + SLACK else images[:most]
    names = image_names(row["image"] for row in images)
    top = max((measured(row["suspicion"]) or 0.0 for row in shown), default=0.0) or 1.0
    rows = tuple(_row(place, row, names[row["image"]], scan, top) for place, row in enumerate(shown, 1))
    columns = [Column("#"), Column("image", False, flexible=True), Column("suspicion"), Column("", False)]
    columns += [Column("class", False), Column("confidence", narrow="confi-\ndence", spare=1)]
    columns += [Column("fires most at", False, spare=2, narrow="fires\nmost at")]
    title = f"Images by suspicion (keys of {printable(scan['layer'])}, {scan['pooling']} over positions)"
    return Table("scan", title, tuple(columns), rows, _note(scan, len(images) - len(shown)))


def _row(place: int, row: Mapping[str, Any], name: str, scan: Mapping[str, Any], top: float) -> tuple[Cell, ...]:
    value = measured(row["suspicion"])
    mood: Mood = "bad" if row["suspicious"] else "quiet" if row["suspicious"] is False else ""
    hit = scan["target"] is not None and row["prediction"] == scan["target"]
    peak = row["peak"]
    return (
        Cell(str(place)),
        Cell(printable(name), code=True),
        Cell(number(value, 3), bar=None if value is None else min(1.0, max(0.0, value / top)), mood=mood),
        Cell("suspicious" if row["suspicious"] else "", mood=mood),
        Cell(f"{row['prediction']}{' (target)' if hit else ''}"),
        Cell(percent(measured(row["confidence"]), 1)),
        Cell("" if peak is None else f"row {peak[0]}, column {peak[1]}"),
    )


def _note(scan: Mapping[str, Any], hidden: int) -> str:
    notes = []
    if hidden:
        notes.append(f"… and {plural(hidden, 'more image')}: --format json has them all.")
    notes.append("Suspicion: 0 is the median clean image, 1 the median image with the fault.")
    if scan["threshold"] is not None:
        judged = scan["judged_on"]
        alarms = f"{percent(scan['false_alarms'], 1)} of clean images are expected above"
        line = f"Suspicious: above {number(scan['threshold'], 3)}; at most about {alarms} (of {judged['clean']} clean "
        line += "calibration images)"
        if scan["misses"] is not None:
            line += f", {percent(scan['misses'], 1)} of {judged['fired']} with the fault carried over were not"
        notes.append(f"{line}.")
    return " ".join(notes)
