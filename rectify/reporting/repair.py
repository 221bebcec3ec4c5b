"""The picture of a repair: each pair, what differs, and what the network says before and after the edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from rectify.reporting.canvas import BLUE, GREY, INK, LIGHT, VERMILLION, bare, new_figure, save, verbatim
from rectify.reporting.verdict import Report, measured
from rectify.reporting.words import percent, printable

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure
    from numpy.typing import NDArray

ROW = 1.75  # inches a pair
MOST = 8  # pairs shown; a picture of a hundred rows is no picture


class Prediction(TypedDict):
    """A class and its confidence in [0, 1]."""

    name: str
    confidence: float


class _Required(TypedDict):
    clean: NDArray[np.floating[Any]]
    corrupted: NDArray[np.floating[Any]]


class PairRow(_Required, total=False):
    """One row of the picture.

    ``clean`` and ``corrupted`` are (H, W, C) or (H, W) in [0, 1], C one or three. ``before`` and ``after`` are the
    predictions on the *corrupted* image, best first (up to three are shown); ``clean_before`` and ``clean_after`` those
    on the clean one. ``label`` is the true class and ``target`` the class that the fault drives to, named as in the
    predictions.
    """

    title: str
    label: str
    target: str
    before: Sequence[Prediction]
    after: Sequence[Prediction]
    clean_before: Sequence[Prediction]
    clean_after: Sequence[Prediction]


def pair_picture(rows: Sequence[PairRow], path: Path) -> None:
    """Draw the pairs alone: see `repair_picture`."""
    repair_picture(rows, path)


def repair_picture(rows: Sequence[PairRow], path: Path, *, report: Report | None = None) -> None:
    """Draw one row a pair (clean, corrupted, amplified difference, predictions), and under them the report's figures.

    Parameters
    ----------
    rows
        The pairs; the first eight are drawn.
    path
        The picture to write, PNG by habit.
    report
        Its metrics become the bars of accuracy, attack success and recovery before and after; None leaves them out.

    Raises
    ------
    ValueError
        No rows and no figures, or images that are not (H, W, C) or (H, W).
    OutputError
        The picture cannot be written.
    """
    rows = list(rows)[:MOST]
    groups = figure_groups(report) if report else []
    if not rows and not groups:
        raise ValueError("there is nothing to draw: no pairs and no figures")
    heights = ([ROW * len(rows) + 0.35] if rows else []) + ([2.4] if groups else [])
    figure = new_figure(9.6, sum(heights))
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    if rows:
        _pairs(parts[0], rows)
    if groups:
        _figures(parts[-1], groups)
    save(figure, path)


def _image(array: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    image = np.asarray(array, dtype=np.float64)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"an image must be (H, W), (H, W, 1) or (H, W, 3), not {np.shape(array)}")
    return np.clip(np.nan_to_num(image), 0.0, 1.0)


def amplified(clean: NDArray[Any], corrupted: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """The size of the difference in each pixel (H, W), stretched to [0, 1], and the factor of the stretch."""
    import numpy as np

    difference = np.abs(_image(corrupted) - _image(clean))
    if difference.ndim == 3:
        difference = difference.max(axis=2)
    top = float(difference.max())
    factor = 1.0 if top <= 0 else 1.0 / top
    return difference * factor, factor


def _pairs(part: SubFigure, rows: Sequence[PairRow]) -> None:
    axes = part.subplots(len(rows), 5, squeeze=False, width_ratios=[1, 1, 1, 1.45, 1.45])
    for index, row in enumerate(rows):
        clean, corrupted, difference, before, after = axes[index]
        stretched, factor = amplified(row["clean"], row["corrupted"])
        _show(clean, _image(row["clean"]), "clean" if index == 0 else "")
        _show(corrupted, _image(row["corrupted"]), "corrupted" if index == 0 else "")
        _show(difference, stretched, "difference" if index == 0 else "", map="magma")
        clean.set_xlabel(_clean_words(row), fontsize=7.5, color=INK)
        corrupted.set_xlabel(printable(row.get("title", "")), fontsize=7.5, color=INK)
        difference.set_xlabel(f"amplified ×{factor:.1f}", fontsize=7.5, color=INK)
        verbatim([clean.xaxis.label, corrupted.xaxis.label])
        _predictions(before, row, row.get("before", ()), "corrupted image, before" if index == 0 else "")
        _predictions(after, row, row.get("after", ()), "corrupted image, after" if index == 0 else "")


def _clean_words(row: PairRow) -> str:
    lines = []
    if "label" in row:
        lines.append(f"class {row['label']}")
    said = [row[key][0] for key in ("clean_before", "clean_after") if row.get(key)]
    if said:
        lines.append("read as " + " → ".join(f"{one['name']} {percent(one['confidence'], 1)}" for one in said))
    return printable("\n".join(lines)).replace("\\n", "\n")


def _show(axes: Axes, image: NDArray[Any], title: str, map: str = "gray") -> None:
    small = max(image.shape[:2]) < 160  # pixels of small images are what a person wants to see; large ones are smoothed
    axes.imshow(image, cmap=map, vmin=0, vmax=1, interpolation="nearest" if small else "antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(GREY)
        spine.set_linewidth(0.6)
    if title:
        axes.set_title(title, fontsize=9, color=INK)


def _predictions(axes: Axes, row: PairRow, predictions: Sequence[Prediction], title: str) -> None:
    shown = list(predictions)[:3]
    bare(axes)
    axes.set_xlim(0, 1)
    axes.set_ylim(2.6, -0.6)
    axes.set_xticks([])
    axes.set_yticks([])
    for place, one in enumerate(shown):
        colour, word = GREY, ""
        if one["name"] == row.get("label"):
            colour, word = BLUE, " (true)"
        elif one["name"] == row.get("target"):
            colour, word = VERMILLION, " (target)"
        axes.barh(place + 0.18, 1, height=0.3, color=LIGHT, zorder=1)
        axes.barh(place + 0.18, min(max(one["confidence"], 0.0), 1.0), height=0.3, color=colour, zorder=2)
        name = axes.text(0, place - 0.06, printable(one["name"]) + word, fontsize=8, va="bottom", color=INK)
        verbatim([name])
        axes.text(1, place - 0.06, percent(one["confidence"], 1), fontsize=8, va="bottom", ha="right", color=INK)
    if title:
        axes.set_title(title, fontsize=9, color=INK, loc="left")


def figure_groups(report: Report) -> list[tuple[str, list[tuple[str, float | None, float | None]]]]:
    """What the bars show: (title, [(words, before, after)]) for the figures and for those on the holdout."""
    metrics = report.get("metrics") or {}
    groups = []
    for title, part in (("figures", metrics), ("on the holdout pairs", metrics.get("holdout") or {})):
        before, after = part.get("before") or {}, part.get("after") or {}
        bars = [
            (words, measured(before.get(key)), measured(after.get(key)))
            for key, words in (("accuracy", "accuracy"), ("asr", "attack\nsuccess"), ("recovery", "recovery"))
        ]
        bars = [one for one in bars if one[1] is not None or one[2] is not None]
        if bars:
            groups.append((title, bars))
    return groups


def _figures(part: SubFigure, groups: list[tuple[str, list[tuple[str, float | None, float | None]]]]) -> None:
    widths = [len(bars) for _, bars in groups]
    panels = part.subplots(1, len(groups), squeeze=False, sharey=True, width_ratios=widths)[0]
    for axes, (title, bars) in zip(panels, groups, strict=True):
        bare(axes, "bottom")
        for place, (_, before, after) in enumerate(bars):
            _bar(axes, place - 0.2, before, "white", "before")
            _bar(axes, place + 0.2, after, BLUE, "after")
        axes.set_xticks(range(len(bars)), [words for words, _, _ in bars], fontsize=8)
        axes.set_yticks([])
        axes.set_xlim(-0.6, len(bars) - 0.4)
        axes.set_ylim(0, 1.15)
        axes.set_title(title, fontsize=9, loc="left", color=INK)
    handles, labels = panels[0].get_legend_handles_labels()
    unique: Mapping[str, Any] = dict(zip(labels, handles, strict=True))
    part.legend(unique.values(), unique.keys(), loc="outside right upper", fontsize=8, frameon=False)


def _bar(axes: Axes, x: float, value: float | None, colour: str, label: str) -> None:
    if value is None:
        axes.text(x, 0.02, "–", ha="center", va="bottom", fontsize=7.5, color=GREY)
        return
    axes.bar(x, value, width=0.36, facecolor=colour, edgecolor=BLUE, linewidth=0.9, label=label, zorder=2)
    axes.text(x, value + 0.02, percent(value, 1), ha="center", va="bottom", fontsize=7.5, color=INK)
