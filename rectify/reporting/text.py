"""A report for the terminal: rich tables with small bars, at most as wide as the console."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from rectify.reporting.content import facts, headline, reason
from rectify.reporting.tables import Table, tables
from rectify.reporting.verdict import Report
from rectify.reporting.words import bar, printable, to_ascii

STYLES = {"": "", "good": "green", "bad": "red", "quiet": "dim", "strong": "bold"}
VERDICTS = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}
BAR = 7
WRAP = 24  # a flexible column is wrapped to no less than this while another can be left out,
WORD = 40  # nor to less than its longest word, unless that is longer than this
GAP = 2
BLANK = "    \n"
ASCII_HEAD = box.Box(2 * BLANK + " -- \n" + 5 * BLANK, ascii=True)  # as box.SIMPLE_HEAD
LAYERS = {"localize": 24}
FEW_LAYERS = 8  # of an edit or evaluation, which are about other things


@dataclass
class _Column:
    """A column as it is drawn: bars have columns of their own, so that they begin below each other."""

    title: Text
    cells: list[Text]
    justify: Literal["left", "right"]
    spare: int = 0
    flexible: bool = False
    about: str = ""

    def width(self) -> int:
        lines = [cell_len(line) for line in self.title.plain.splitlines() or [""]]
        widest = max(cell_len(text.plain) for text in self.cells)
        if self.flexible:
            word = max((cell_len(word) for text in self.cells for word in text.plain.split()), default=0)
            widest = max(min(widest, WRAP), min(word, WORD))  # a name that is cut cannot be copied
        return max(widest, *lines)


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
    plain = bool(console.options.ascii_only)
    _head(report, console, plain)
    console.print()
    console.print(_facts(report, plain))
    limit = None if every_layer else LAYERS.get(report["command"], FEW_LAYERS)
    for table in tables(report, limit=limit):
        console.print()
        console.print(_text(table.title, plain, "bold"))
        columns = _fitting(_columns(table, plain), console.width)
        console.print(_table(columns, plain))
        for line in filter(None, (table.note, *(column.about for column in columns), *table.legend)):
            console.print(_text(line, plain, "dim"))
    _remarks(report, console, plain)


def _text(text: str, plain: bool, style: str = "") -> Text:
    return Text(to_ascii(text) if plain else text, style=style)


def _head(report: Report, console: Console, plain: bool) -> None:
    head = Text.assemble(
        (f"rectify {report['command']}: ", "bold"),
        (str(report["verdict"]).upper(), VERDICTS[report["verdict"]]),
        (f" (exit code {report['exit_code']})", "dim"),
    )
    console.print(head)
    for line in (headline(report), reason(report)):
        if line:
            console.print(_text(printable(line), plain))


def _facts(report: Report, plain: bool) -> RichTable:
    grid = RichTable.grid(padding=(0, GAP, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, line in facts(report):
        grid.add_row(_text(name, plain, "bold red" if name == "warning" else "dim"), _text(line, plain))
    return grid


def _columns(table: Table, plain: bool) -> list[_Column]:
    drawn = []
    for index, column in enumerate(table.columns):
        cells = [row[index] for row in table.rows]
        texts = [_text(printable(cell.text), plain, STYLES[cell.mood]) for cell in cells]
        title = _text(column.narrow or column.title, plain)
        justify: Literal["left", "right"] = "right" if column.right else "left"
        drawn.append(_Column(title, texts, justify, column.spare, column.flexible, column.about))
        if any(cell.bar is not None for cell in cells):
            bars = [
                Text(bar(cell.bar, BAR, ascii_only=plain), style="dim" if cell.mood == "quiet" else "cyan")
                for cell in cells
            ]
            drawn.append(_Column(Text(""), bars, "left", column.spare))
    return drawn


def _fitting(columns: list[_Column], width: int) -> list[_Column]:
    """The columns that are shown: the most spare ones are left out until the others fit, or none is to spare."""
    while sum(column.width() + GAP for column in columns) - GAP > width and any(column.spare for column in columns):
        worst = max(column.spare for column in columns)
        columns = [column for column in columns if column.spare != worst]
    return columns


def _table(columns: list[_Column], plain: bool) -> RichTable:
    # one blank of padding and the blank that stands for the divider are the gap of two
    drawn = RichTable(
        box=ASCII_HEAD if plain else box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="dim",
    )
    lines = max(column.title.plain.count("\n") for column in columns)
    for column in columns:
        column.title = Text("\n" * (lines - column.title.plain.count("\n")) + column.title.plain)
        wrap = column.flexible
        drawn.add_column(column.title, justify=column.justify, no_wrap=not wrap, overflow="fold")
    for cells in zip(*(column.cells for column in columns), strict=True):
        drawn.add_row(*cells)
    return drawn


def _remarks(report: Report, console: Console, plain: bool) -> None:
    warnings = (report.get("edit") or {}).get("warnings") or []
    notes = (report.get("run") or {}).get("notes") or []
    if warnings or notes:
        console.print()
    for words, style, lines in (("warning: ", "yellow", warnings), ("note: ", "dim", notes)):
        for line in lines:
            console.print(
                Text(words, style).append_text(_text(printable(line), plain, "dim" if style == "dim" else ""))
            )
