"""A report for the terminal: rich tables with small bars, at most 80 columns unless the terminal is wider."""

from __future__ import annotations

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from rectify.reporting.content import Cell, Column, Table, facts, reason, tables
from rectify.reporting.verdict import Report
from rectify.reporting.words import bar, printable, to_ascii

STYLES = {"": "", "good": "green", "bad": "red", "quiet": "dim", "strong": "bold"}
VERDICTS = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}
BAR = 8
NAME = 24  # a layer's name is folded to no less than this while there are columns to spare
LAYERS = 24


def print_text(report: Report, console: Console, *, every_layer: bool = False) -> None:
    """Print a report to a console.

    Parameters
    ----------
    report
        The report.
    console
        Its width, colour and encoding are obeyed; names are never read as markup.
    every_layer
        List all layers even where there are many.
    """
    ascii_only = console.options.ascii_only
    head = Text.assemble(
        (f"rectify {report['command']}: ", "bold"),
        (str(report["verdict"]).upper(), VERDICTS[report["verdict"]]),
        (f" (exit code {report['exit_code']})", "dim"),
    )
    console.print(head)
    console.print(_text(printable(reason(report)), ascii_only))
    console.print(Padding(_facts(report, ascii_only), (1, 0, 0, 0)))
    for table in tables(report, limit=None if every_layer else LAYERS):
        console.print()
        console.print(_text(table.title, ascii_only, "bold"))
        console.print(_table(table, console.width, ascii_only))
        if table.note:
            console.print(_text(table.note, ascii_only, "dim"))
    _remarks(report, console, ascii_only)


def _text(text: str, ascii_only: bool, style: str = "") -> Text:
    return Text(to_ascii(text) if ascii_only else text, style=style)


def _facts(report: Report, ascii_only: bool) -> RichTable:
    grid = RichTable.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, line in facts(report):
        grid.add_row(_text(name, ascii_only, "bold red" if name == "warning" else "dim"), _text(line, ascii_only))
    return grid


def _cell(cell: Cell, bars: bool, ascii_only: bool) -> Text:
    text = _text(printable(cell.text), ascii_only, STYLES[cell.mood])
    if bars:
        text.append(" " + bar(cell.bar, BAR, ascii_only=ascii_only), style="" if cell.mood == "quiet" else "cyan")
    return text


def _widths(columns: list[tuple[Column, list[Text]]]) -> int:
    total = 0
    for column, cells in columns:
        widest = max(cell_len(text.plain) for text in cells)
        name = column.title == "layer"
        total += max(min(widest, NAME) if name else widest, cell_len(column.title)) + 2
    return total


def _table(table: Table, width: int, ascii_only: bool) -> RichTable:
    columns: list[tuple[Column, list[Text]]] = []
    for index, column in enumerate(table.columns):
        bars = any(row[index].bar is not None for row in table.rows)
        columns.append((column, [_cell(row[index], bars, ascii_only) for row in table.rows]))
    while _widths(columns) > width and any(column.spare for column, _ in columns):
        worst = max(column.spare for column, _ in columns)
        columns = [pair for pair in columns if pair[0].spare != worst]
    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), header_style="dim")
    for column, _ in columns:
        name = column.title in ("layer", "why")
        justify = "right" if column.right else "left"
        title = _text(column.title, ascii_only)
        drawn.add_column(title, justify=justify, no_wrap=not name, overflow="fold")  # type: ignore[arg-type]
    for cells in zip(*(cells for _, cells in columns), strict=True):
        drawn.add_row(*cells)
    return drawn


def _remarks(report: Report, console: Console, ascii_only: bool) -> None:
    warnings = (report.get("edit") or {}).get("warnings") or []
    notes = (report.get("run") or {}).get("notes") or []
    if warnings or notes:
        console.print()
    for words, style, lines in (("warning: ", "yellow", warnings), ("note: ", "dim", notes)):
        for line in lines:
            console.print(Text(words, style).append_text(_text(printable(line), ascii_only)))
