"""The tables of explanations: each image's map, how alike a pair's maps are, and the metrics of the methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from rectify.reporting.content import MODELS, image_names, worst_gap
from rectify.reporting.legend import FAITHFULNESS
from rectify.reporting.tables import SLACK, Cell, Column, Mood, Table
from rectify.reporting.verdict import Report, measured
from rectify.reporting.words import MISSING, aligned, number, percent, plural, printable, share_of_change

Entry = Mapping[str, Any]
Pair = tuple[str, str, str]  # clean, corrupted, method
Columns = list[tuple[Column, list[Cell]]]
One = TypeVar("One")
MANY = 4  # from here on the worst come first; fewer keep the order in which they were given
GAP_WORTH_SAYING = 0.05  # a map that misses more than this share of F does not explain all of it
GAP_NOTE = "Completeness gap: how far a map's sum is from what it explains, F of the image less F of the baseline."
PATH_NOTE = "Monotonicity: rank correlation of the place on the path and F; at 1 F only rises."
PAIR_NOTE = "Correlation of the clean and the corrupted image's maps: at 1 the network looks at both in the same way."
FLOOR_NOTE = (
    "Null floor: what the same measure gives by chance, where there is nothing to find; "
    "a figure that is no better than it says nothing."
)
# The first word that a metric's name holds says whether more is better.
BETTER = (
    ("deletion", -1), ("insertion", +1), ("leakage", -1), ("gap", -1), ("tie", 0), ("zero-share", 0), ("distance", -1),
    ("fidelity", +1), ("faithful", +1), ("monoton", +1), ("spearman", +1), ("pearson", +1), ("kendall", +1),
    ("top", +1), ("robust", +1), ("stabil", +1), ("similar", +1), ("accuracy", +1),
)  # fmt: skip
ASIDE = ("-tie-share-before", "-tie-share-after", "-zero-share-before", "-zero-share-after", "-l1")
ASIDE_NOTE = "Tie shares, zero shares and l1 distances: more in the JSON."


def explanation_table(report: Report, limit: int | None = None) -> Table | None:
    """A row a map: what was explained, how confident the network is, and how far the map can be trusted.

    Where there are many images those of the worst completeness come first; ``limit`` keeps the first rows.
    """
    entries: list[Entry] = list(report.get("explanations") or [])
    if not entries:
        return None
    if len({entry["image"] for entry in entries}) > MANY:
        entries.sort(key=lambda entry: -_or(measured(entry["relative_gap"]), -1.0))
    shown = _cut(entries, limit)
    names = image_names(entry["image"] for entry in entries)
    columns = [(Column("image", False, flexible=True), [Cell(names[entry["image"]], code=True) for entry in shown])]
    columns += [*_label_columns(entries, shown), *_figure_columns(shown)]
    title = "Explanations" if _several_methods(entries) else f"Explanations ({_method(entries[0])})"
    return _table("explanations", title, columns, _explanation_note(entries, names, len(entries) - len(shown)))


def _table(key: str, title: str, columns: Columns, note: str) -> Table:
    rows = tuple(zip(*(cells for _, cells in columns), strict=True))
    return Table(key, title, tuple(column for column, _ in columns), rows, note)


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _cut(entries: list[One], limit: int | None) -> list[One]:
    return entries if limit is None or len(entries) <= limit + SLACK else entries[:limit]


def _several(entries: Sequence[Entry], key: str) -> bool:
    return len({entry[key] for entry in entries}) > 1


def _method(entry: Entry) -> str:
    """The method, and the layer that the map is of if there is one: ``ig @ layer2``."""
    layer = (entry.get("settings") or {}).get("layer")
    return printable(f"{entry['method']} @ {layer}" if layer else entry["method"])


def _several_methods(entries: Sequence[Entry]) -> bool:
    return len({_method(entry) for entry in entries}) > 1


def _label_columns(entries: Sequence[Entry], shown: Sequence[Entry]) -> Columns:
    """What tells rows apart, where it does: role, method, model; and the class."""
    columns: Columns = []
    if _several(entries, "role"):
        columns.append((Column("role", False, 3), [Cell(printable(entry["role"])) for entry in shown]))
    if _several_methods(entries):
        # only names of layers are long
        wrap = any(_method(entry) != printable(entry["method"]) for entry in shown)
        columns.append((Column("method", False, flexible=wrap), [Cell(_method(entry)) for entry in shown]))
    if _several(entries, "model"):
        models = [MODELS.get(entry["model"], str(entry["model"])) for entry in shown]
        columns.append((Column("model", False), [Cell(printable(model)) for model in models]))
    return [*columns, (Column("class"), [Cell(str(entry["target"])) for entry in shown])]


def _figure_columns(shown: Sequence[Entry]) -> Columns:
    confidences = [measured(entry["confidence"]) for entry in shown]
    columns = [(Column("confidence", narrow="confi-\ndence"), [Cell(percent(one, 1)) for one in confidences])]
    gaps = [measured(entry["relative_gap"]) for entry in shown]
    found = {
        "completeness_gap": (Column("completeness gap", spare=2, narrow="compl.\ngap"), None),
        "relative_gap": (Column("of the change", narrow="of the\nchange"), [_gap_cell(gap) for gap in gaps]),
        "monotonicity": (Column("monotonicity", spare=1, narrow="monoto-\nnicity"), None),
        "faithfulness": (
            Column("faithfulness (MuFidelity) ↑", narrow="faith-\nfulness", about=FAITHFULNESS),
            None,
        ),
    }
    for key, (column, cells) in found.items():
        values = [measured(entry[key]) for entry in shown]
        if any(value is not None for value in values):
            columns.append((column, cells or [Cell(text) for text in aligned(values)]))
    return columns


def _gap_cell(gap: float | None) -> Cell:
    mood: Mood = "bad" if gap is not None and gap > GAP_WORTH_SAYING else ""
    return Cell(share_of_change(gap), mood=mood)


def _explanation_note(entries: Sequence[Entry], names: Mapping[str, str], hidden: int) -> str:
    notes = []
    if hidden:
        notes.append(f"… and {plural(hidden, 'more map')}: --report FILE.html or --format json has them all.")
    worst = worst_gap(entries)
    if worst and len(entries) > 1:
        notes.append(f"Worst completeness: {_named(worst, entries, names)} ({share_of_change(worst['relative_gap'])}).")
    judged = [entry for entry in entries if measured(entry["faithfulness"]) is not None]
    if len(judged) > 1:
        ends = [pick(judged, key=lambda entry: float(entry["faithfulness"])) for pick in (max, min)]
        words = [f"{_named(one, entries, names)} ({number(one['faithfulness'], 2)})" for one in ends]
        notes.append(f"Most faithful: {words[0]}; least: {words[1]}.")
    if worst:
        notes.append(GAP_NOTE)
    if any(measured(entry["monotonicity"]) is not None for entry in entries):
        notes.append(PATH_NOTE)
    return " ".join(notes)


def _named(entry: Entry, entries: Sequence[Entry], names: Mapping[str, str]) -> str:
    """An entry by its image and what else tells it from others."""
    words = [_method(entry)] if _several_methods(entries) else []
    words += [MODELS.get(entry["model"], str(entry["model"]))] if _several(entries, "model") else []
    return ", ".join([printable(names[entry["image"]]), *words])


def similarity_table(report: Report, limit: int | None = None) -> Table | None:
    """How alike the maps of a clean and a corrupted image are, a row a pair and method; before and after in columns."""
    entries: list[Entry] = list(report.get("explanation_pairs") or [])
    if not entries:
        return None
    found: dict[Pair, dict[str, Entry]] = {}
    for entry in entries:
        found.setdefault((entry["clean"], entry["corrupted"], entry["method"]), {})[entry["model"]] = entry
    pairs = _cut(list(found), limit)
    names = image_names(path for clean, corrupted, _ in found for path in (clean, corrupted))
    columns = [
        (Column("clean", False, 3, flexible=True), [Cell(names[pair[0]], code=True) for pair in pairs]),
        (Column("corrupted", False, flexible=True), [Cell(names[pair[1]], code=True) for pair in pairs]),
    ]
    if _several(entries, "method"):
        columns.append((Column("method", False), [Cell(printable(pair[2])) for pair in pairs]))
    models = [model for model in MODELS if any(entry["model"] == model for entry in entries)]
    for figure, spare in (("pearson", 0), ("spearman", 2)):
        for model in models:
            values = [measured(found[pair].get(model, {}).get(figure)) for pair in pairs]
            words = f"{figure.title()}{', ' + MODELS[model] if len(models) > 1 else ''}"
            columns.append(
                (Column(words, spare=spare, narrow=words.replace(", ", "\n")), _correlations(values, figure))
            )
    note = (
        f"… and {plural(len(found) - len(pairs), 'more pair')}. {PAIR_NOTE}" if len(pairs) < len(found) else PAIR_NOTE
    )
    return _table("explanation-pairs", "Clean and corrupted maps compared", columns, note)


def _correlations(values: Sequence[float | None], figure: str) -> list[Cell]:
    """Two decimals; Pearson's, which is the main figure, with bars."""
    bars = [None if value is None or figure != "pearson" else min(1.0, max(0.0, value)) for value in values]
    texts = [MISSING if value is None else f"{value:.2f}".replace("-0.00", "0.00") for value in values]
    return [Cell(text, bar=bar) for text, bar in zip(texts, bars, strict=True)]


def metric_table(report: Report) -> Table | None:
    """The metrics of explanation quality: several methods side by side, of one method spread and null floor too.

    Tie shares, zero shares and l1 distances are left to the JSON, where there are other metrics.
    """
    measures: list[Entry] = list(report.get("explanation_metrics") or [])
    if not measures:
        return None
    entries = [entry for entry in measures if not entry["metric"].lower().endswith(ASIDE)] or measures
    methods = list(dict.fromkeys(entry["method"] for entry in entries))
    found: dict[tuple[str, int], dict[str, Entry]] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        # a metric may be measured more than once, with other settings
        which = (entry["metric"], entry["method"])
        found.setdefault((entry["metric"], seen[which]), {})[entry["method"]] = entry
        seen[which] += 1
    columns = [(Column("", False, flexible=True), [Cell(_metric_name(metric)) for metric, _ in found])]
    rows = list(found.values())
    columns += _side_by_side(rows, methods) if len(methods) > 1 else _one_method(rows, methods[0])
    notes = [FLOOR_NOTE] if any(measured(entry["null_floor"]) is not None for entry in entries) else []
    notes += [ASIDE_NOTE] if len(entries) < len(measures) else []
    title = "Quality of the explanations"
    title = title if len(methods) > 1 else f"{title} ({printable(methods[0])})"
    return _table("explanation-metrics", title, columns, " ".join(notes))


def better(metric: str) -> int:
    """+1 where more is better, -1 where less is, 0 where neither is known to be."""
    name = metric.lower()
    if name.endswith(("-l1", "-l2")):
        return -1
    return next((direction for word, direction in BETTER if word in name), 0)


def _metric_name(metric: str) -> str:
    return f"{printable(metric).replace('-', ' ')} {('', '↑', '↓')[better(metric)]}".rstrip()


def _one_method(rows: Sequence[Mapping[str, Entry]], method: str) -> Columns:
    entries = [row[method] for row in rows]
    values = [_quality(entry, "strong" if _beats(entry) else "") for entry in entries]
    columns = [(Column("value"), values)]
    for key, words in (("spread", "spread"), ("null_floor", "null floor")):
        found = [measured(entry[key]) for entry in entries]
        if any(value is not None for value in found):
            texts = ["" if value is None else number(value, 3) for value in found]
            columns.append((Column(words), [Cell(text, mood="quiet") for text in texts]))
    return columns


def _side_by_side(rows: Sequence[Mapping[str, Entry]], methods: Sequence[str]) -> Columns:
    best = [_best(row) for row in rows]
    columns: Columns = []
    for method in methods:
        cells = []
        for row, winner in zip(rows, best, strict=True):
            entry = row.get(method)
            cells.append(Cell("") if entry is None else _quality(entry, "strong" if method == winner else ""))
        columns.append((Column(printable(method)), cells))
    floors = [_floors(row) for row in rows]
    if any(floors):
        columns.append((Column("null floor"), [Cell(text, mood="quiet") for text in floors]))
    return columns


def _quality(entry: Entry, mood: Mood) -> Cell:
    """A figure; grey where chance does as well."""
    return Cell(number(measured(entry["value"]), 3), mood="quiet" if _beats(entry) is False else mood)


def _beats(entry: Entry) -> bool | None:
    """Whether a figure is better than its null floor; None where that cannot be said."""
    value, floor, direction = measured(entry["value"]), measured(entry["null_floor"]), better(entry["metric"])
    if value is None or floor is None or not direction:
        return None
    return direction * value > direction * floor


def _best(row: Mapping[str, Entry]) -> str | None:
    """The method with the best figure, if one is better than the others."""
    found = {method: measured(entry["value"]) for method, entry in row.items()}
    known = {method: value for method, value in found.items() if value is not None}
    direction = better(next(iter(row.values()))["metric"])
    if len(known) < 2 or not direction:
        return None
    first, second, *_ = sorted(known, key=lambda method: -direction * known[method])
    return first if known[first] != known[second] else None


def _floors(row: Mapping[str, Entry]) -> str:
    """The null floors of a metric: one where the methods agree, else from the least to the greatest."""
    known = [value for entry in row.values() if (value := measured(entry["null_floor"])) is not None]
    texts = [number(value, 2) for value in (min(known), max(known))] if known else []
    return " to ".join(dict.fromkeys(texts))
