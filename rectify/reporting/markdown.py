"""A report as GitHub-flavoured markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping

from rectify.reporting.content import facts, headline, reason
from rectify.reporting.tables import Cell, Table, split, tables
from rectify.reporting.verdict import Report
from rectify.reporting.words import printable

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$@&])")


def escape(text: str) -> str:
    """Text in which nothing is read as markdown, HTML or a mention."""
    return _SPECIAL.sub(r"\\\1", printable(text))


def code(text: str) -> str:
    """The text verbatim as a code span that also survives inside a table cell."""
    text = printable(text)
    fence = "`"
    while fence in text:
        fence += "`"
    gap = " " if text.startswith("`") or text.endswith("`") or not text.strip() else ""
    return f"{fence}{gap}{text}{gap}{fence}".replace("|", "\\|")


def to_markdown(report: Report, pictures: Mapping[str, str] | None = None) -> str:
    """The report as markdown; ``pictures`` maps captions to addresses."""
    word = {"pass": "✅ pass", "fail": "❌ fail", "inconclusive": "⚠️ inconclusive"}[report["verdict"]]
    lines = [f"# rectify {report['command']}: {word}"]
    for sentence in (headline(report), f"{reason(report)} (exit code {report['exit_code']})"):
        lines += ["", escape(sentence)] if sentence else []
    lines += ["", *(f"- **{name}**: {escape(text)}" for name, text in facts(report))]
    upper, lower = split(tables(report))
    for table in upper:
        lines += _table(table)
    for caption, address in (pictures or {}).items():
        lines += ["", f"![{escape(caption)}]({address})"]
    for table in lower:
        lines += _table(table)
    warnings = [f"- **warning**: {escape(line)}" for line in (report.get("edit") or {}).get("warnings") or []]
    notes = [f"- {escape(line)}" for line in (report.get("run") or {}).get("notes") or []]
    if warnings or notes:
        lines += ["", "## Remarks", "", *warnings, *notes]
    return "\n".join(lines) + "\n"


def _cell(cell: Cell) -> str:
    if not cell.text:
        return ""
    text = code(cell.text) if cell.code else escape(cell.text)
    return f"**{text}**" if cell.mood in ("bad", "strong") else text


def _table(table: Table) -> list[str]:
    lines = ["", f"## {escape(table.title)}", ""]
    lines.append("| " + " | ".join(escape(column.title) for column in table.columns) + " |")
    lines.append("|" + "|".join(" ---: " if column.right else " --- " for column in table.columns) + "|")
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in table.rows]
    return [*lines, "", *(escape(line) for line in table.notes)] if table.notes else lines
