"""The picture of a repair: each pair, what differs, and what the network says before and after the edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from rectify.reporting.canvas import BLUE, GREY, INK, LIGHT, VERMILLION, bare, new_figure, save, shorten, verbatim
from rectify.reporting.fonts import drawable
from rectify.reporting.tables import of_what
from rectify.reporting.verdict import Report, measured
from rectify.reporting.words import percent

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure
    from numpy.typing import NDArray

HEAD, ROW, FIGURES = 0.3, 2.0, 2.5  # inches
MOST = 8  # pairs shown; a picture of a hundred rows is no picture
SMALL = 160  # the pixels of smaller images are what a person wants to see; larger ones are smoothed
CAPTION, NAME = 26, 27  # letters under an image, and of a class over its bar


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
    predictions; ``title`` stands under the corrupted image.
    """

    title: str
    label: str
    target: str
    before: Sequence[Prediction]
    after: Sequence[Prediction]
    clean_before: Sequence[Prediction]
    clean_after: Sequence[Prediction]


@dataclass(frozen=True)
class Bars:
    """A group of bars: (words, before, after) each."""

    title: str
    bars: tuple[tuple[str, float | None, float | None], ...]


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
    heights = ([HEAD + ROW * len(rows)] if rows else []) + ([FIGURES] if groups else [])
    figure = new_figure(10.4, sum(heights))
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
    any_before, any_after = any(row.get("before") for row in rows), any(row.get("after") for row in rows)
    titles = ["clean", "corrupted", "difference"]
    if any_before:
        titles.append("corrupted image, before" if any_after else "prediction on the corrupted image")
    if any_after:
        titles.append("corrupted image, after")
    widths = [1.0, 1.0, 1.0, *[1.4] * (len(titles) - 3)]
    axes = part.subplots(len(rows), len(titles), squeeze=False, width_ratios=widths)
    for place, title in enumerate(titles):
        axes[0][place].set_title(title, fontsize=9, fontweight="bold", color=INK, loc="left" if place > 2 else "center")
    for row, (clean, corrupted, difference, *panels) in zip(rows, axes, strict=True):
        stretched, factor = amplified(row["clean"], row["corrupted"])
        _show(clean, _image(row["clean"]), _clean_words(row))
        _show(corrupted, _image(row["corrupted"]), shorten(drawable(row.get("title", "")), CAPTION, middle=True))
        _show(difference, stretched, f"amplified ×{factor:.1f}", colours="magma")
        shown = [key for key, column in (("before", any_before), ("after", any_after)) if column]
        for panel, key in zip(panels, shown, strict=True):
            _predictions(panel, row, row.get(key) or ())  # type: ignore[arg-type]


def _clean_words(row: PairRow) -> str:
    lines = [shorten(drawable(f"true class: {row['label']}"), CAPTION)] if "label" in row else []
    for words, predictions in (("before", row.get("clean_before")), ("after", row.get("clean_after"))):
        if predictions:
            best = predictions[0]
            confidence = percent(best["confidence"], 1)
            name = shorten(drawable(f"{words}: {best['name']}"), CAPTION - len(confidence) - 1)
            lines.append(f"{name} {confidence}")
    return "\n".join(lines)


def _show(axes: Axes, image: NDArray[Any], words: str, colours: str = "gray") -> None:
    small = max(image.shape[:2]) < SMALL
    axes.imshow(image, cmap=colours, vmin=0, vmax=1, interpolation="nearest" if small else "antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(words, fontsize=7.5, color=INK)
    verbatim([axes.xaxis.label])
    for spine in axes.spines.values():
        spine.set_color(GREY)
        spine.set_linewidth(0.6)


def _predictions(axes: Axes, row: PairRow, predictions: Sequence[Prediction]) -> None:
    bare(axes)
    axes.set_xlim(0, 1)
    axes.set_ylim(2.75, -0.55)
    axes.set_xticks([])
    axes.set_yticks([])
    for place, one in enumerate(list(predictions)[:3]):
        colour, word = GREY, ""
        if one["name"] == row.get("label"):
            colour, word = BLUE, " (true)"
        elif one["name"] == row.get("target"):
            colour, word = VERMILLION, " (target)"
        axes.barh(place + 0.18, 1, height=0.3, color=LIGHT, zorder=1)
        axes.barh(place + 0.18, min(max(one["confidence"], 0.0), 1.0), height=0.3, color=colour, zorder=2)
        name = shorten(drawable(one["name"]), NAME - len(word)) + word
        verbatim([axes.text(0, place - 0.04, name, fontsize=8, va="bottom", color=INK)])
        axes.text(1, place - 0.04, percent(one["confidence"], 1), fontsize=8, va="bottom", ha="right", color=INK)


def figure_groups(report: Report) -> list[Bars]:
    """What the bars show: the figures, and those on the holdout."""
    metrics = report.get("metrics") or {}
    groups = []
    for title, part in (
        (of_what(report).lower(), metrics),
        ("figures on the holdout pairs", metrics.get("holdout") or {}),
    ):
        before, after = part.get("before") or {}, part.get("after") or {}
        base = measured(after.get("base_rate"))
        base = measured(before.get("base_rate")) if base is None else base
        asr = "attack success" if base is None else f"attack success\n(base rate {percent(base, 1)})"
        bars = tuple(
            (words, measured(before.get(key)), measured(after.get(key)))
            for key, words in (
                ("accuracy", "accuracy"),
                ("asr", asr),
                ("recovery", "recovery"),
                ("leakage", "attribution\non the part"),
            )
        )
        bars = tuple(one for one in bars if one[1] is not None or one[2] is not None)
        if bars:
            groups.append(Bars(title, bars))
    return groups


def _figures(part: SubFigure, groups: Sequence[Bars]) -> None:
    widths = [len(group.bars) for group in groups]
    blank = [max(1, 6 - sum(widths))]  # so that the bars of one group are not stretched over the whole width
    panels = part.subplots(1, len(groups) + 1, squeeze=False, sharey=True, width_ratios=[*widths, *blank])[0]
    panels[-1].axis("off")
    both = any(before is not None and after is not None for group in groups for _, before, after in group.bars)
    for axes, group in zip(panels, groups, strict=False):
        bare(axes, "bottom")
        for place, (_, before, after) in enumerate(group.bars):
            _bar(axes, place - 0.2 * both, before, "white", "before the edit")
            _bar(axes, place + 0.2 * both, after, BLUE, "after the edit")
        axes.set_xticks(range(len(group.bars)), [words for words, _, _ in group.bars], fontsize=8)
        axes.set_yticks([])
        axes.set_xlim(-0.6, len(group.bars) - 0.4)
        axes.set_ylim(0, 1.15)
        axes.set_title(group.title, fontsize=9, fontweight="bold", loc="left", color=INK)
    if both:
        handles: dict[str, Any] = {}
        for axes in panels:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        panels[-1].legend(handles.values(), handles.keys(), loc="upper left", fontsize=8, frameon=False)


def _bar(axes: Axes, x: float, value: float | None, colour: str, label: str) -> None:
    if value is None:
        return
    axes.bar(x, value, width=0.36, facecolor=colour, edgecolor=BLUE, linewidth=0.9, label=label, zorder=2)
    axes.text(x, value + 0.02, percent(value, 1), ha="center", va="bottom", fontsize=7.5, color=INK)
