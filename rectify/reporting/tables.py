"""The tables of a report, free of any format: gates, figures, edit steps, layers, trial edits, explanations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rectify.reporting.content import gates, main_figure, ranked
from rectify.reporting.legend import GAP, KEPT, judges, layer_term, not_offered, order_note, said_once, trial_terms
from rectify.reporting.verdict import Report, gate_figure, gate_label, gate_sign, measured
from rectify.reporting.words import MISSING, aligned, layer_kind, number, percent, plural, points, printable, signed

Mood = Literal["", "good", "bad", "quiet", "strong"]
BASE_RATE_NOTE = "Base rate: clean images of other classes that get the target anyway; attack success can fall to it."
SLACK = 4  # a table is not cut to save fewer rows than this


@dataclass(frozen=True)
class Cell:
    """One cell: its text, a bar's share in [0, 1] if it has one, its mood, and whether it is a name."""

    text: str
    bar: float | None = None
    mood: Mood = ""
    code: bool = False


@dataclass(frozen=True)
class Column:
    """A column's heading and, for eighty columns of text, a shorter one of several lines.

    ``spare`` columns are left out, highest first, where the width does not suffice; ``flexible`` ones are wrapped.
    ``about`` is a sentence on what the figures mean, for where the column is shown.
    """

    title: str
    right: bool = True
    spare: int = 0
    narrow: str = ""
    flexible: bool = False
    about: str = ""


@dataclass(frozen=True)
class Table:
    """A titled table; ``note`` is a sentence under it, ``legend`` sentences on what its rows mean."""

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    legend: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """All that is said under it where no column is left out."""
        return [line for line in (self.note, *(column.about for column in self.columns), *self.legend) if line]


def tables(report: Report, *, limit: int | None = None) -> list[Table]:
    """All tables that have rows, in reading order: what the command is for comes first.

    ``limit`` shortens the tables of layers and of explanations to their first rows when there are many more.
    """
    from rectify.reporting.explanations import explanation_table, metric_table, similarity_table  # it imports Table

    layers = [layer_table(report, limit), trial_table(report, limit)]
    explained = [similarity_table(report, limit), explanation_table(report, limit), metric_table(report)]
    results = [*figure_tables(report), step_table(report), attempts_table(report)]
    from rectify.reporting.training import history_table, train_table  # it imports Table

    if report["command"] == "train":  # fresh weights have no figures before: the one after is in the first table
        results = results if (report["metrics"] or {}).get("before") else []
    results = [train_table(report), history_table(report), *results]
    from rectify.reporting.scan import scan_table  # it imports Table

    scanned = [scan_table(report, limit)]
    order = [*scanned, *layers, *results] if report["command"] == "localize" else [*results, *layers]
    order = [*explained, *order] if report["command"] == "explain" else [*order, *explained]
    return said_once([table for table in (gate_table(report), *order) if table is not None and table.rows])


def split(found: list[Table]) -> tuple[list[Table], list[Table]]:
    """The tables before and from that of layers, or of explanations, on: pictures stand between them."""
    place = next((index for index, table in enumerate(found) if table.key in ("layers", "explanations")), len(found))
    return found[:place], found[place:]


def gate_table(report: Report) -> Table:
    """One row a gate: held or not, what it measures, limit, value; where nothing was judged, none has failed."""
    rows = []
    judged = report["verdict"] != "inconclusive"
    for gate in gates(report):
        mood: Mood = "quiet" if not judged else "good" if gate.passed else "bad"
        outcome = f"{MISSING} not judged" if not judged else "✓ held" if gate.passed else "✗ failed"
        value = "not measured" if judged and gate.value is None else gate_figure(gate.name, gate.value)
        rows.append(
            (
                Cell(outcome, mood=mood),
                Cell(gate.name, code=True),
                Cell(gate_label(gate.name)),
                Cell(f"{gate_sign(gate.name)} {gate_figure(gate.name, gate.limit)}"),
                Cell(value, mood=mood),
            )
        )
    columns = (Column("", False), Column("gate", False), Column("measures", False, 1), Column("limit"), Column("value"))
    return Table("gates", "Gates", columns, tuple(rows))


_FIGURES: tuple[tuple[str, str, int], ...] = (  # key, words, +1 where more is better
    ("accuracy", "accuracy", +1),
    ("asr", "attack success", -1),
    ("base_rate", "base rate", 0),
    ("recovery", "recovery", +1),
    ("gap", "gap", -1),
    ("agreement", "agreement", +1),
    ("leakage", "leakage", -1),
)
_PLAIN = {"gap", "leakage"}  # no fractions


def figure_tables(report: Report) -> list[Table]:
    """Before, after and change of accuracy, attack success (with base rate), recovery, gap; the holdout apart."""
    metrics = report.get("metrics") or {}
    found: list[Table] = []
    parts = (
        ("figures", of_what(report), metrics),
        ("holdout", "Figures on the holdout pairs", metrics.get("holdout") or {}),
    )
    for key, title, part in parts:
        sides = [(name, part[name]) for name in ("before", "after") if part.get(name)]
        if sides:
            explained = any(BASE_RATE_NOTE in table.note for table in found)
            has_base = any(side.get("base_rate") is not None for _, side in sides)
            found.append(_figure_table(key, title, sides, BASE_RATE_NOTE if has_base and not explained else ""))
    return found


def of_what(report: Report) -> str:
    """The title of the figures: of how many pairs and images they are."""
    counts = [
        plural(part["count"], noun) for key, noun in (("pairs", "pair"), ("data", "image")) if (part := report.get(key))
    ]
    return f"Figures, of {' and '.join(counts)}" if counts else "Figures"


def _figure_table(key: str, title: str, sides: Sequence[tuple[str, Mapping[str, Any]]], note: str) -> Table:
    rows = []
    for name, words, better in _FIGURES:
        values = [measured(part.get(name)) for _, part in sides]
        if all(value is None for value in values):
            continue
        mood: Mood = "" if better else "quiet"
        cells = [Cell(words, mood=mood)]
        for value in values:
            share = None if name in _PLAIN or not better else value
            cells.append(Cell(number(value, 3) if name in _PLAIN else percent(value), bar=share, mood=mood))
        if len(values) == 2:
            cells.append(_change(name, values[0], values[1], better))
        rows.append(tuple(cells))
    titles = [*(name for name, _ in sides), "change"] if len(sides) == 2 else ["measured"]
    legend = (GAP,) if any(measured(part.get("gap")) is not None for _, part in sides) else ()
    return Table(key, title, (Column("", False), *(Column(name) for name in titles)), tuple(rows), note, legend)


def _change(name: str, before: float | None, after: float | None, better: int) -> Cell:
    if before is None or after is None:
        return Cell("")
    change = after - before
    plain = name in _PLAIN
    mood: Mood = "quiet"
    if better and abs(change) >= 5e-5:
        gain = abs(before) - abs(after) if plain else change * better
        mood = "good" if gain > 0 else "bad"
    return Cell(signed(change, 3) if plain else f"{points(change)} pp", mood=mood)


def step_table(report: Report) -> Table | None:
    """The edit, step by step."""
    edit = report.get("edit")
    if not edit:
        return None
    columns: tuple[Column, ...] = (
        Column("layer", False, flexible=True),
        Column("rank"),
        Column("‖Δ‖", spare=2),
        Column("of ‖W‖"),
        Column("gap", about=GAP),
    )
    rows = tuple(_step_row(step) for step in edit["steps"] if step["kept"])
    mode, policy = edit["mode"], edit.get("policy") or ""
    says_both = policy.startswith(mode)  # "static edit of fc"
    how = policy if says_both else ", ".join(filter(None, (mode, policy)))
    return Table("edit", printable(f"Edit ({how})"), columns, rows, _changed_note(edit))


def attempts_table(report: Report) -> Table | None:
    """The edits that were tried and rolled back, a row each, however many layers they touched."""
    edit = report.get("edit")
    if not edit:
        return None
    tried = [step for step in edit["steps"] if not step["kept"] and step.get("expected")]
    named = [((step.get("reason") or "").partition(": ")[0], step["expected"]) for step in tried]
    layers, expected = Counter(name for name, _ in named), dict(named)
    expected.pop(edit["policy"], None)  # the one that is kept is made anew, of all images
    if not expected:
        return None
    figures = [name for name in _EXPECTED if any(of.get(name) is not None for of in expected.values())]
    columns = (Column("edit", False, flexible=True), Column("layers"), *(_EXPECTED[name] for name in figures))
    rows = [
        (Cell(printable(name)), Cell(str(layers[name])), *(Cell(percent(measured(of.get(key)))) for key in figures))
        for name, of in expected.items()
    ]
    return Table("attempts", f"Tried and rolled back, judged on {judges(report)}", columns, tuple(rows), "", (KEPT,))


_EXPECTED = {
    "accuracy_kept": Column("accuracy kept", narrow="accuracy\nkept"),
    "recovery_kept": Column("recovery kept", narrow="recovery\nkept"),
    "asr": Column("attack success", narrow="attack\nsuccess"),
}


def _step_row(step: Mapping[str, Any]) -> tuple[Cell, ...]:
    mood: Mood = ""
    gaps = f"{number(measured(step['gap_before']), 3)} → {number(measured(step['gap_after']), 3)}"
    return (
        Cell(str(step["layer"]), mood=mood, code=True),
        Cell(str(step["rank"]), mood=mood),
        Cell(number(measured(step["delta_norm"]), 3), mood=mood),
        Cell(percent(measured(step["relative_norm"])), mood=mood),
        Cell(gaps, mood=mood),
    )


def _changed_note(edit: Mapping[str, Any]) -> str:
    changed = plural(len(edit["changed_tensors"]), "tensor")
    if not edit["changed_tensors"]:
        return "No tensor was changed."
    if edit["out"] is not None:
        return f"{changed} changed; all others are bit-identical."
    return f"{changed} would change (dry run)." if edit["dry_run"] else f"{changed} changed in the rejected result."


_LAYER_FIGURES = (
    ("attribution", Column("attribution", narrow="attri-\nbution")),
    ("completeness_gap", Column("completeness gap", narrow="compl.\ngap")),
    ("out_of_span", Column("out of span", narrow="out of\nspan")),
    ("leverage", Column("leverage", spare=2)),
    ("editability", Column("editability as published", narrow="as pub-\nlished", spare=3)),
)


def _cut(layers: Sequence[Mapping[str, Any]], limit: int | None) -> Sequence[Mapping[str, Any]]:
    return layers if limit is None or len(layers) <= limit + SLACK else layers[:limit]


def layer_table(report: Report, limit: int | None = None) -> Table | None:
    """Every layer by rank: editability (or outlier score), attribution, completeness gap, out-of-span residual."""
    localize = report.get("localize")
    if not localize:
        return None
    key, words = main_figure(localize)
    layers = ranked(localize["layers"])
    shown = _cut(layers, limit)
    top = max((measured(layer.get(key)) or 0.0 for layer in layers), default=0.0) or 1.0
    others = [pair for pair in _LAYER_FIGURES if any(measured(layer.get(pair[0])) is not None for layer in layers)]
    values = [aligned([measured(layer.get(name)) for layer in shown]) for name in (key, *(name for name, _ in others))]
    rows = []
    for layer, first, *rest in zip(shown, *values, strict=True):
        mood: Mood = "quiet" if not layer["candidate"] else "strong" if layer["rank"] == 1 else ""
        score = measured(layer.get(key))
        rows.append(
            (
                Cell("" if layer["rank"] is None else str(layer["rank"]), mood=mood),
                Cell(str(layer["name"]), mood=mood, code=True),
                Cell(layer_kind(layer["kind"], layer["shape"]), mood=mood),
                Cell(first, bar=None if score is None else min(1.0, max(0.0, score / top)), mood=mood),
                *(Cell(text, mood=mood) for text in rest),
            )
        )
    note = _layer_note(localize, layers, len(layers) - len(shown))
    columns = (
        Column("#"),
        Column("layer", False, flexible=True),
        Column("kind", False, 1),
        replace(_main_column(words), about=layer_term(report, key)),
        *(
            replace(column, about=layer_term(report, name), spare=0 if _is_gated(report, name) else column.spare)
            for name, column in others
        ),
    )
    return Table("layers", _layer_title(localize), columns, tuple(rows), note)


def _main_column(words: str) -> Column:
    first, _, rest = words.rpartition(" ")
    return Column(words, narrow=f"{first}\n{rest}")


def _is_gated(report: Report, name: str) -> bool:
    """Whether a gate judges this figure of the layers: then it must not be missing beside the gate's value."""
    return name == "editability" and any(gate.name == "min_editability" for gate in gates(report))


def _layer_title(localize: Mapping[str, Any]) -> str:
    method = localize["method"].replace("-gradients", " gradients").replace("-triage", " triage")
    target = "" if localize.get("target") is None else f", target class {localize['target']}"
    gap = measured(localize.get("completeness_gap"))
    return f"Layers ({method}{target}{'' if gap is None else f', completeness gap {number(gap, 3)}'})"


def _layer_note(localize: Mapping[str, Any], layers: Sequence[Mapping[str, Any]], hidden: int) -> str:
    notes = []
    if hidden:
        notes.append(f"… and {plural(hidden, 'more layer')}: --report FILE.html or --format json has them all.")
    return " ".join(filter(None, (*notes, order_note(localize), *not_offered(localize, layers))))


def trial_table(report: Report, limit: int | None = None) -> Table | None:
    """What a trial edit of each single layer did to the pairs."""
    tried = [layer for layer in ranked((report.get("localize") or {}).get("layers") or []) if layer.get("trial")]
    shown = _cut(tried, limit)
    gaps = aligned([measured(layer["trial"]["gap_after"]) for layer in shown])
    rows = tuple(
        (
            Cell("" if layer["rank"] is None else str(layer["rank"])),
            Cell(str(layer["name"]), code=True),
            Cell(gap),
            Cell(percent(measured(layer["trial"]["asr"]))),
            Cell(percent(measured(layer["trial"]["recovery"])), bar=measured(layer["trial"]["recovery"])),
            Cell(percent(measured(layer["trial"]["agreement"]))),
        )
        for layer, gap in zip(shown, gaps, strict=True)
    )
    titles = ("gap after", "attack success", "recovery", "agreement")
    columns = (Column("#"), Column("layer", False, flexible=True), *(Column(title) for title in titles))
    note = f"… and {plural(len(tried) - len(shown), 'more trial')}." if len(shown) < len(tried) else ""
    return Table("trials", "Trial edits of single layers", columns, rows, note, (GAP, *trial_terms(report)))
