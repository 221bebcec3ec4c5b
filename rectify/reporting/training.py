"""What a report says of a training: figures, settings, and the course of its epochs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectify.reporting.canvas import BLUE, GREY, INK, LIGHT, ORANGE, bare, new_figure, save
from rectify.reporting.verdict import Report, measured
from rectify.reporting.words import count, number, percent, plural, printable, short, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rectify.reporting.tables import Table

FIGURES = (  # key, words, whether it is a fraction, on what it is measured
    ("natural_accuracy", "natural accuracy", True, None),
    ("adversarial_accuracy", "adversarial accuracy", True, "label"),
    ("topk_intersection", "top-k intersection", True, "map"),
    ("kendall", "Kendall's tau", False, "map"),
)
NOTE = (
    "Adversarial accuracy: PGD on the label. Top-k intersection and Kendall: maps before and after an attack that "
    "keeps the label, of images that are classified right. Spread: standard deviation over the images."
)


def train_headline(report: Report) -> str:
    """The objective and its figures in a sentence, with the number of images where it changes."""
    train = report.get("train")
    if not train:
        return ""
    parts, last = [], 0
    for key, words, fraction, where in FIGURES:
        value, images = measured(train.get(key)), _images(report, where)
        if value is None:
            continue
        many = f" ({plural(images, 'image')})" if images and images != last else ""
        last = images or last
        parts.append(f"{words} {percent(value) if fraction else number(value, 3)}{many}")
    return f"{train['objective']}, {plural(train['epochs'], 'epoch')}: {', '.join(parts)}"


def _images(report: Report, where: str | None) -> int | None:
    """How many images a figure was measured on: all that judge, or those that were attacked; None if that is unknown.

    An attack takes minutes, so that it sees a sample, often a small one.
    """
    train = report["train"]
    if where is None:
        found: int | None = (train["val"] or report.get("data") or {}).get("count")
    else:
        found = ((train.get("attacks") or {}).get(where) or {}).get("images")
    return found


def train_facts(train: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """How it was trained, what judged, and what was written."""
    if not train:
        return []
    how = train["settings"]
    words = f"{train['objective']}" + (f" · preset {train['preset']}" if train["preset"] else "")
    if how["weight"]:
        words += f" · weight {how['weight']:g}"
    if train["objective"] not in ("natural", "input-gradient"):
        words += f" · eps {number(how['eps'], 3)} · {plural(how['attack_steps'], 'attack step')}"
    if train["objective"].startswith("ig-"):
        words += f" · {plural(how['path_points'], 'path point')} ({how['attack_points']} in the attack)"
    pace = f"{plural(train['epochs'], 'epoch')} of {count(how['epoch_size'])} images" if how["epoch_size"] else ""
    pace = pace or plural(train["epochs"], "epoch")
    rates = " then ".join(f"{rate:g}" for _, rate in how["schedule"])
    lines = [("training", words), ("course", f"{pace} · batch {how['batch_size']} · {how['optimiser']} {rates}")]
    if val := train["val"]:
        lines.append(("val", f"{plural(val['count'], 'image')} · sha256 {short(val['sha256'])}"))
    else:
        lines.append(("judged on", "the training images: give --val for honest figures"))
    out = train["out"]
    lines.append(("written", f"{out['path']} · {size(out['bytes'])} · sha256 {short(out['sha256'])}"))
    return [(name, printable(text)) for name, text in lines]


def train_table(report: Report) -> Table | None:
    """The four figures, with their spread over images."""
    from rectify.reporting.tables import Cell, Column, Table

    train = report.get("train")
    if not train:
        return None
    rows = []
    for key, words, fraction, where in FIGURES:
        value, images = measured(train.get(key)), _images(report, where)
        if value is None:
            continue
        spread = measured((train.get("spread") or {}).get(key))
        shown = percent(value) if fraction else number(value, 3)
        beside = "" if spread is None else percent(spread) if fraction else number(spread, 3)
        rows.append(
            (
                Cell(words),
                Cell(shown, bar=value if fraction else None),
                Cell(beside, mood="quiet"),
                Cell(count(images), mood="quiet"),
            )
        )
    columns = (Column("", False), Column("measured"), Column("spread"), Column("images"))
    return Table("train", "Figures of the trained model", columns, tuple(rows), NOTE if len(rows) > 1 else "")


def history_table(report: Report) -> Table | None:
    """One row an epoch; of many, some ten spread over the course."""
    from rectify.reporting.tables import Cell, Column, Table

    history = (report.get("train") or {}).get("history") or []
    if not history:
        return None
    stride = -(-len(history) // 12)
    shown = [entry for i, entry in enumerate(history) if i % stride == 0 or i == len(history) - 1]
    rows = tuple(
        (
            Cell(str(entry["epoch"])),
            Cell(number(measured(entry["loss"]), 4)),
            Cell(percent(measured(entry["val_accuracy"])), bar=measured(entry["val_accuracy"])),
            Cell(number(measured(entry["eps"]), 3)),
            Cell(f"{entry['lr']:g}"),
        )
        for entry in shown
    )
    columns = (Column("epoch"), Column("loss"), Column("validation accuracy"), Column("eps", spare=1), Column("lr"))
    note = "" if stride == 1 else f"Every {stride} epochs; --format json has all {len(history)}."
    return Table("history", "Course of the training", columns, rows, note)


def history_plot(report: Report, path: Path) -> None:
    """Draw loss and validation accuracy over the epochs.

    Raises
    ------
    ValueError
        The report has no history.
    OutputError
        The picture cannot be written.
    """
    history = (report.get("train") or {}).get("history") or []
    if not history:
        raise ValueError("the report has no history to draw")
    epochs = [entry["epoch"] for entry in history]
    panels = [("loss", "loss (its mean over an epoch)", BLUE, "o")]
    if any(measured(entry["val_accuracy"]) is not None for entry in history):
        panels.append(("val_accuracy", "validation accuracy", ORANGE, "s"))
    figure = new_figure(3.7 * len(panels) + 0.4, 2.8)
    for axes, (key, words, colour, mark) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _curve(axes, epochs, [measured(entry[key]) for entry in history], words, colour, mark)
    figure.suptitle(
        f"Training: {report['train']['objective']}", fontsize=11, fontweight="bold", color=INK, x=0.01, ha="left"
    )
    save(figure, path)


def _curve(axes: Axes, epochs: list[int], values: list[float | None], words: str, colour: str, mark: str) -> None:
    bare(axes, "bottom", "left")
    known = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if value is not None]
    shape = mark if len(known) <= 60 else ""
    axes.plot(*zip(*known, strict=True), color=colour, marker=shape, markersize=4, linewidth=1.4, clip_on=False)
    axes.grid(axis="y", color=LIGHT)
    axes.set_title(words, fontsize=9, loc="left", color=INK)
    axes.set_xlabel("epoch", fontsize=8, color=GREY)
    axes.locator_params(axis="x", integer=True)
    if "accuracy" in words:
        axes.set_ylim(min(0.0, *(v for _, v in known)) if min(v for _, v in known) < 0.5 else None, 1.0)
