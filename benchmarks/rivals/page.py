"""The results as a page: over all networks, network by network, and how each rival was set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from benchmarks.rivals.evidence import FULL, QUICK
from benchmarks.rivals.methods import METHODS
from benchmarks.seeds import spread

Row = dict[str, Any]

HEAD = """# Every rival beside ours

{quick}Made by `python -m benchmarks.rivals{flags}`. {tests} test images that no rival has seen; percent and points.
Attack success (ASR) and recovery are of the images not of the target class: recovery is the share of triggered images
that get their *true* class. Seconds are processor time, tuning included. A seed is a pair, a draw of the labelled
images and an order of batches. Information: *pair*, one image with and without the fault; *200 unlabelled*, clean
calibration images; *5 % labelled*, of the training set, clean and with the right labels; *1 % labelled*, the fifth of
those that is kept aside to choose settings by, and nothing else.

What the figures say is written by hand, of the figures that it names: [rivals-reading.md](rivals-reading.md).
"""
SHORT = f"""The short form: {QUICK.epochs} epochs, {QUICK.mask_steps} steps of the mask, {QUICK.rounds} round of
unlearning where the settings below say {FULL.epochs}, {FULL.mask_steps} and {FULL.rounds}. It shows that all runs,
not who is better.

"""
OVERALL = """## Over all trojans

Each against its own untouched network: accuracy lost, ASR above the share of clean images that it sends to the target
class, and recovery short of its accuracy on clean images of the same classes. In points: median, and the worst in
brackets.
"""
CUE = """## Spurious cue

The patch lay on a share of one class's training images, labels unchanged. *Without* and *with* are the accuracies on
that class's images without and with the patch, *bias* their difference; *pull* is the share of other classes' images
that the patch sends to that class. All get the same pair here, an image of another class that the patch draws to that
class, as a trojan would: [cue.md](cue.md) has ours from other pairs too.
"""


def markdown(rows: Sequence[Row], quick: bool, tests: int) -> str:
    """The whole page."""
    trojans, cues = [r for r in rows if "with" not in r], [r for r in rows if "with" in r]
    parts = [
        HEAD.format(quick=SHORT if quick else "", flags=" --quick" if quick else "", tests=f"{tests:,}"),
        OVERALL,
        overall(trojans),
    ]
    for name in dict.fromkeys(row["network"] for row in trojans):
        parts += [_heading(name, trojans), network_table([r for r in trojans if r["network"] == name])]
    parts += [CUE] if cues else []
    for name in dict.fromkeys(row["network"] for row in cues):
        parts += [_heading(name, cues), cue_table([r for r in cues if r["network"] == name])]
    return "\n".join([*parts, settings(dict.fromkeys(row["method"] for row in rows))])


def overall(rows: Sequence[Row]) -> str:
    """One line a method: median and worst over networks and seeds, against the untouched network."""
    before = {(r["network"], r["seed"]): r for r in rows if r["method"] == "untouched"}
    lines = [
        _line("method", "sees", "accuracy lost", "ASR above base", "recovery short", "s", "rows"),
        "|---" * 7 + "|",
    ]
    for method in METHODS:
        own = [(row, before[row["network"], row["seed"]]) for row in rows if row["method"] == method]
        if not own:
            continue
        lost = [old["accuracy"] - row["accuracy"] for row, old in own]
        asr = [row["asr"] - old["base_rate"] for row, old in own]
        short = [old["accuracy_other"] - row["recovery"] for row, old in own]
        seconds = f"{median(row['seconds'] for row, _ in own):.0f}"
        cells = [_worst(values) for values in (lost, asr, short)]
        lines.append(_line(METHODS[method].title, METHODS[method].sees, *cells, seconds, str(len(own))))
    return "\n".join([*lines, ""])


def network_table(rows: Sequence[Row]) -> str:
    """One line a method, of one network."""
    head = _line("method", "accuracy", "ASR", "recovery", "s", "chosen")
    return _table(rows, head, (("accuracy", 100), ("asr", 100), ("recovery", 100)))


def cue_table(rows: Sequence[Row]) -> str:
    """One line a method, of a network with a spurious cue."""
    head = _line("method", "accuracy", "without", "with", "bias", "pull", "s", "chosen")
    rows = [{**row, "bias": row["with"] - row["without"]} for row in rows]
    return _table(rows, head, (("accuracy", 100), ("without", 100), ("with", 100), ("bias", 100), ("asr", 100)))


def _table(rows: Sequence[Row], head: str, columns: Sequence[tuple[str, float]]) -> str:
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        if own:
            figures = [spread([row[key] for row in own], scale, 2) for key, scale in columns]
            told = "; ".join(dict.fromkeys(_told(row) for row in own))
            seconds = spread([row["seconds"] for row in own], digits=0)
            lines.append(_line(METHODS[method].title, *figures, seconds, told))
    return "\n".join([*lines, ""])


def settings(methods: Iterable[str]) -> str:
    """How each method was set."""
    lines = ["## How each was set", ""]
    for name in METHODS:
        if name in methods and name != "untouched":
            m = METHODS[name]
            lines.append(
                f"- **{m.title}** ({m.source}): {m.formula}. Sees: {m.sees}. Tried: {m.settings}. Choice: {m.rule}."
            )
    return "\n".join([*lines, ""])


def _heading(name: str, rows: Sequence[Row]) -> str:
    first = [r for r in rows if r["network"] == name and r["method"] == "untouched"]
    base, other = (spread([r[key] for r in first], 100, 2) for key in ("base_rate", "accuracy_other"))
    level, kind = ("###", "class that had the patch") if "with" in first[0] else ("##", "target class")
    return f"{level} {name}\n\nClean images of the other classes: {other} right, {base} sent to the {kind}.\n"


def _told(row: Row) -> str:
    words = [
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in row["chosen"].items()
    ]
    return ", ".join([*words, row["note"]] if row["note"] else words)


def _worst(values: Sequence[float]) -> str:
    return f"{100 * median(values):z.1f} ({100 * max(values):z.1f})"  # z: what rounds to zero has no sign


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
