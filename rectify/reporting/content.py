"""What a report says to people, as facts and tables that the terminal, markdown and the page all draw from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rectify.reporting.verdict import Gate, Report, decide, gate_figure, gate_label, gate_sign, measured
from rectify.reporting.words import count, layer_kind, number, percent, plural, points, printable, short, signed, size

Mood = Literal["", "good", "bad", "quiet", "strong"]
TRIAGE_NOTE = (
    "Only a data-free triage: it looks for channels of unusual gain and knows nothing of your fault. "
    "A pair of images, one clean and one corrupted, would add which layer carries this fault, "
    "how well it can be edited, and a repair."
)


BASE_RATE_NOTE = "Base rate: clean images of other classes that get the target anyway; attack success can fall to it."


@dataclass(frozen=True)
class Cell:
    """One cell: its text, a bar's share in [0, 1] if it has one, its mood, and whether it is a name."""

    text: str
    bar: float | None = None
    mood: Mood = ""
    code: bool = False


@dataclass(frozen=True)
class Column:
    """A column's heading; ``spare`` columns are left out, highest first, where the width does not suffice."""

    title: str
    right: bool = True
    spare: int = 0


@dataclass(frozen=True)
class Table:
    """A titled table; ``note`` is a sentence under it."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    key: str = field(default="", kw_only=True)


def reason(report: Report) -> str:
    """The verdict in one sentence: the report's own, else drawn from its gates."""
    if report.get("reason"):
        return str(report["reason"])
    if report["verdict"] == "inconclusive":
        notes = (report.get("run") or {}).get("notes") or []
        return str(notes[0]) if notes else "there is nothing to judge"
    return decide(gates(report)).reason


def gates(report: Report) -> list[Gate]:
    """The report's gates as objects."""
    return [Gate(gate["name"], gate["limit"], gate["value"], gate["passed"]) for gate in report.get("gates") or []]


def facts(report: Report) -> list[tuple[str, str]]:
    """What went in and what came out, as (name, sentence)."""
    lines: list[tuple[str, str]] = []
    if model := report.get("model"):
        lines += _model_facts(model)
    if pairs := report.get("pairs"):
        target = "" if pairs["target"] is None else f", target class {pairs['target']}"
        fault = f", fault {pairs['fault']}" if pairs["fault"] else ""
        lines.append(("pairs", f"{plural(pairs['count'], 'pair')}{fault}{target} · sha256 {short(pairs['sha256'])}"))
    for key, name, noun in (
        ("holdout_pairs", "holdout", "pair"),
        ("calibration", "calibration", "image"),
        ("data", "data", "image"),
    ):
        if part := report.get(key):
            lines.append((name, f"{plural(part['count'], noun)} · sha256 {short(part['sha256'])}"))
    return lines + _edit_facts(report.get("edit"))


def _model_facts(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    extra = " ".join(f"{key}={value}" for key, value in (model.get("arch_args") or {}).items())
    arch = f"{model['arch']} {extra}".rstrip()
    shape = "×".join(str(n) for n in model["preprocess"]["input_size"])
    lines = [
        ("model", f"{model['path']} · sha256 {short(model['sha256'])}"),
        (
            "network",
            f"{arch} · {count(model['parameters'])} parameters · {model['num_classes']} classes · input {shape}",
        ),
    ]
    if model.get("trusted_pickle"):
        lines.append(("warning", "this checkpoint was unpickled with --trust-pickle: it could run code"))
    return [(name, printable(text)) for name, text in lines]


def _edit_facts(edit: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if not edit:
        return []
    lines = []
    for key, name in (("out", "written"), ("delta", "delta file")):
        if part := edit.get(key):
            lines.append((name, printable(f"{part['path']} · {size(part['bytes'])} · sha256 {short(part['sha256'])}")))
    if edit["out"] is None:
        lines.append(("written", "nothing (dry run)" if edit["dry_run"] else "nothing: no patched file is left behind"))
    if loss := measured(edit.get("precision_loss")):
        lines.append(("cast", f"{percent(loss)} of the edit was lost in the cast to the file's dtype"))
    return lines


def tables(report: Report, *, limit: int | None = None) -> list[Table]:
    """All tables of a report in reading order: gates, figures, edit steps, layers, trial edits.

    ``limit`` shortens the tables of layers to their best rows when there are many more.
    """
    found = [
        gate_table(report),
        *figure_tables(report),
        step_table(report),
        layer_table(report, limit),
        trial_table(report, limit),
    ]
    return [table for table in found if table is not None and table.rows]


def gate_table(report: Report) -> Table:
    """One row a gate: held or not, what it measures, limit, value."""
    rows = []
    for gate in gates(report):
        mood: Mood = "good" if gate.passed else "bad"
        value = "not measured" if gate.value is None else gate_figure(gate.name, gate.value)
        rows.append(
            (
                Cell("✓ held" if gate.passed else "✗ failed", mood=mood),
                Cell(gate.name, code=True),
                Cell(gate_label(gate.name)),
                Cell(f"{gate_sign(gate.name)} {gate_figure(gate.name, gate.limit)}"),
                Cell(value, mood=mood),
            )
        )
    columns = (Column("", False), Column("gate", False), Column("measures", False, 1), Column("limit"), Column("value"))
    return Table("Gates", columns, tuple(rows), key="gates")


_FIGURES: tuple[tuple[str, str, int], ...] = (  # key, words, +1 where more is better
    ("accuracy", "accuracy", +1),
    ("asr", "attack success", -1),
    ("base_rate", "base rate", 0),
    ("recovery", "recovery", +1),
    ("gap", "gap", -1),
    ("agreement", "agreement", +1),
    ("leakage", "leakage", -1),
)
_PLAIN = {"gap", "leakage"}


def figure_tables(report: Report) -> list[Table]:
    """Before, after and change of accuracy, attack success (with its base rate), recovery, gap; the holdout apart."""
    metrics = report.get("metrics") or {}
    found = []
    for key, title, part in (
        ("figures", "Figures", metrics),
        ("holdout", "Figures on the holdout pairs", metrics.get("holdout") or {}),
    ):
        table = _figure_table(key, title, part.get("before"), part.get("after"))
        if table is not None:
            found.append(table)
    return found


def _figure_table(
    key: str, title: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> Table | None:
    sides = [(name, part) for name, part in (("before", before), ("after", after)) if part]
    if not sides:
        return None
    titles = [name for name, _ in sides] if len(sides) == 2 else ["measured"]
    rows = []
    for name, words, better in _FIGURES:
        values = [measured(part.get(name)) for _, part in sides]
        if all(value is None for value in values):
            continue
        cells = [Cell(words, mood="" if better else "quiet")]
        for value in values:
            share = None if name in _PLAIN or better == 0 else value
            cells.append(
                Cell(number(value) if name in _PLAIN else percent(value), bar=share, mood="" if better else "quiet")
            )
        if len(values) == 2:
            cells.append(_change(name, values[0], values[1], better))
        rows.append(tuple(cells))
    columns = [Column("", False), *(Column(name) for name in titles)] + (
        [Column("change, points")] if len(sides) == 2 else []
    )
    note = ""
    if any(part.get("base_rate") is not None for _, part in sides):
        note = BASE_RATE_NOTE
    return Table(title, tuple(columns), tuple(rows), note, key=key)


def _change(name: str, before: float | None, after: float | None, better: int) -> Cell:
    if before is None or after is None:
        return Cell("")
    change = after - before
    plain = name in _PLAIN
    mood: Mood = "" if better and abs(change) > 5e-5 else "quiet"
    if mood == "":
        gain = abs(before) - abs(after) if plain else change * better
        mood = "good" if gain > 0 else "bad"
    return Cell(f"({signed(change)})" if plain else points(change), mood=mood)


def step_table(report: Report) -> Table | None:
    """The edit, step by step."""
    edit = report.get("edit")
    if not edit:
        return None
    rows: list[tuple[Cell, ...]] = []
    for step in edit["steps"]:
        mood: Mood = "" if step["kept"] else "quiet"
        gap = f"{number(step['gap_before'], 3)} → {number(step['gap_after'], 3)}"
        why = printable(step.get("reason") or "")
        rows.append(
            (
                Cell(str(step["layer"]), mood=mood, code=True),
                Cell(str(step["rank"]), mood=mood),
                Cell(number(step["delta_norm"], 3), mood=mood),
                Cell(percent(step["relative_norm"]), mood=mood),
                Cell(gap, mood=mood),
                Cell("✓" if step["kept"] else "✗", mood="good" if step["kept"] else "quiet"),
                Cell(why, mood=mood),
            )
        )
    columns: tuple[Column, ...] = (
        Column("layer", False), Column("rank"), Column("‖Δ‖", spare=2), Column("of ‖W‖"), Column("gap"),
        Column("kept", False), Column("why", False, 1),
    )  # fmt: skip
    if not any(row[-1].text for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    policy = f", {edit['policy']}" if edit.get("policy") else ""
    changed = edit["changed_tensors"]
    note = (
        f"{plural(len(changed), 'tensor')} changed; all others are bit-identical."
        if changed
        else "No tensor was changed."
    )
    return Table(printable(f"Edit ({edit['mode']}{policy})"), columns, tuple(rows), note, key="edit")


def ranked(layers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Layers by rank, best first; those without a rank keep their order at the end."""
    return sorted(layers, key=lambda layer: (layer.get("rank") is None, layer.get("rank") or 0))


def main_figure(localize: Mapping[str, Any]) -> tuple[str, str]:
    """Key and words of the figure that orders the layers."""
    if localize["method"] == "data-free-triage":
        return "lipschitz_outlier", "outlier"
    return "editability", "editability"


def layer_table(report: Report, limit: int | None = None) -> Table | None:
    """Every layer by rank: editability (or outlier score), attribution, completeness gap, out-of-span residual."""
    localize = report.get("localize")
    if not localize:
        return None
    key, words = main_figure(localize)
    layers = ranked(localize["layers"])
    shown = layers if limit is None or len(layers) <= limit + 4 else layers[:limit]
    top = max((measured(layer.get(key)) or 0.0 for layer in layers), default=0.0) or 1.0
    optional = [
        (name, title, spare)
        for name, title, spare in (
            ("attribution", "attribution", 0),
            ("completeness_gap", "compl. gap", 0),
            ("out_of_span", "off span", 0),
            ("leverage", "leverage", 2),
            ("editability_scale_free", "scale-free", 3),
        )
        if any(measured(layer.get(name)) is not None for layer in layers)
    ]
    rows = []
    for layer in shown:
        mood: Mood = "quiet" if not layer["candidate"] else "strong" if layer["rank"] == 1 else ""
        value = measured(layer.get(key))
        cells = [
            Cell(MISSING_RANK if layer["rank"] is None else str(layer["rank"]), mood=mood),
            Cell(str(layer["name"]), mood=mood, code=True),
            Cell(layer_kind(layer["kind"], layer["shape"]), mood=mood),
            Cell(number(value), bar=None if value is None else max(0.0, value / top), mood=mood),
            *(Cell(number(measured(layer.get(name)), 3), mood=mood) for name, _, _ in optional),
        ]
        rows.append(tuple(cells))
    columns = (
        Column("#"), Column("layer", False), Column("kind", False, 1), Column(words),
        *(Column(title, spare=spare) for _, title, spare in optional),
    )  # fmt: skip
    note = _layer_note(localize, layers, len(layers) - len(shown))
    return Table(_layer_title(localize), columns, tuple(rows), note, key="layers")


MISSING_RANK = ""


def _layer_title(localize: Mapping[str, Any]) -> str:
    method = localize["method"].replace("-gradients", " gradients").replace("-triage", " triage")
    target = "" if localize.get("target") is None else f", target class {localize['target']}"
    gap = measured(localize.get("completeness_gap"))
    return f"Layers ({method}{target}{'' if gap is None else f', completeness gap {number(gap, 3)}'})"


def _layer_note(localize: Mapping[str, Any], layers: Sequence[Mapping[str, Any]], hidden: int) -> str:
    notes = []
    if hidden:
        notes.append(f"… and {plural(hidden, 'more layer')}: --report FILE.html or --format json has them all.")
    if left := sum(not layer["candidate"] for layer in layers):
        notes.append(f"{plural(left, 'layer')} in grey {'is' if left == 1 else 'are'} no candidate for an edit.")
    if localize["method"] == "data-free-triage":
        notes.append(TRIAGE_NOTE)
    return " ".join(notes)


def trial_table(report: Report, limit: int | None = None) -> Table | None:
    """What a trial edit of each single layer did to the pairs."""
    layers = [layer for layer in ranked((report.get("localize") or {}).get("layers") or []) if layer.get("trial")]
    if limit is not None and len(layers) > limit + 4:
        layers = layers[:limit]
    rows = []
    for layer in layers:
        trial = layer["trial"]
        rows.append(
            (
                Cell("" if layer["rank"] is None else str(layer["rank"])),
                Cell(str(layer["name"]), code=True),
                Cell(number(measured(trial["gap_after"]), 3)),
                Cell(percent(measured(trial["asr"]))),
                Cell(percent(measured(trial["recovery"])), bar=measured(trial["recovery"])),
                Cell(percent(measured(trial["agreement"]))),
            )
        )
    titles = ("gap after", "attack success", "recovery", "agreement")
    columns = (Column("#"), Column("layer", False), *(Column(title) for title in titles))
    note = "Agreement: share of calibration images that keep their prediction."
    return Table("Trial edits of single layers", columns, tuple(rows), note, key="trials")
