"""Pictures of a report: the layers with their editability and trials, and the repair of each pair.

matplotlib is imported when a picture is drawn, not before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rectify.reporting.canvas import BLUE, GREEN, GREY, INK, LIGHT, ORANGE, VERMILLION, bare, new_figure, save, verbatim
from rectify.reporting.content import main_figure
from rectify.reporting.repair import PairRow, Prediction, pair_picture, repair_picture
from rectify.reporting.verdict import Report, measured
from rectify.reporting.words import number, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PairRow", "Prediction", "layers_plot", "pair_picture", "repair_picture"]

ROW = 0.235  # inches a layer: eight-point type with air
MARKS = (
    ("recovery", "recovery", "o", BLUE),
    ("agreement", "agreement", "D", ORANGE),
    ("asr", "attack success", "X", VERMILLION),
)


def layers_plot(report: Report, path: Path) -> None:
    """Draw one row a layer, in the report's order: its editability and, where it was tried, what a trial edit did.

    Parameters
    ----------
    report
        A report whose ``localize`` holds layers.
    path
        The picture to write, PNG by habit.

    Raises
    ------
    ValueError
        The report has no layers.
    OutputError
        The picture cannot be written.
    """
    localize = report.get("localize")
    if not localize or not localize["layers"]:
        raise ValueError("the report has no layers to draw")
    layers = localize["layers"]
    trials = [layer.get("trial") or {} for layer in layers]
    shares = [mark for mark in MARKS if any(measured(trial.get(mark[0])) is not None for trial in trials)]
    gaps = any(measured(trial.get("gap_after")) is not None for trial in trials)
    widths = [3.4] + ([3.0] if shares else []) + ([1.8] if gaps else [])
    figure = new_figure(2.6 + sum(widths), 1.25 + ROW * len(layers))
    panels = list(figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)[0])
    _editability(panels[0], localize)
    if shares:
        _shares(panels[1], trials, shares)
    if gaps:
        _gaps(panels[-1], trials)
    verdict = "data-free triage" if localize["method"] == "data-free-triage" else "where a repair can take hold"
    figure.suptitle(f"Layers: {verdict}", fontsize=11, fontweight="bold", color=INK, x=0.01, ha="left")
    save(figure, path)


def _rows(axes: Axes, amount: int) -> None:
    bare(axes, "bottom")
    axes.set_ylim(amount - 0.4, -0.6)
    for row in range(0, amount, 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#F6F8F9", zorder=0, linewidth=0)


def _editability(axes: Axes, localize: Report) -> None:
    layers = localize["layers"]
    key, words = main_figure(localize)
    values = [measured(layer.get(key)) for layer in layers]
    top = max((value for value in values if value is not None), default=0.0) or 1.0
    _rows(axes, len(layers))
    colours = [GREY if not layer["candidate"] else GREEN if layer["rank"] == 1 else BLUE for layer in layers]
    axes.barh(range(len(layers)), [value or 0.0 for value in values], height=0.62, color=colours, zorder=2)
    for row, (layer, value) in enumerate(zip(layers, values, strict=True)):
        text = number(value, 3) + ("  ◀ first" if layer["rank"] == 1 else "")
        axes.text(max(value or 0.0, 0.0) + 0.015 * top, row, text, va="center", fontsize=7.5, color=INK, zorder=3)
    axes.set_xlim(min(0.0, *(value or 0.0 for value in values), 0.0), 1.3 * top)
    axes.set_yticks(
        range(len(layers)), [printable(layer["name"]) for layer in layers], fontfamily="DejaVu Sans Mono", fontsize=7.5
    )
    verbatim(axes.get_yticklabels())
    axes.set_title(words, fontsize=9, loc="left", color=INK)
    axes.locator_params(axis="x", nbins=4)


def _shares(axes: Axes, trials: list[Report], shares: list[tuple[str, str, str, str]]) -> None:
    _rows(axes, len(trials))
    for row, trial in enumerate(trials):
        if trial:
            axes.plot([0, 1], [row, row], color=LIGHT, linewidth=1, zorder=1)
    for key, words, marker, colour in shares:
        points = [(measured(trial.get(key)), row) for row, trial in enumerate(trials)]
        found = [(value, row) for value, row in points if value is not None]
        across, down = [value for value, _ in found], [row for _, row in found]
        axes.scatter(
            across,
            down,
            marker=marker,
            s=30,
            color=colour,
            label=words,
            zorder=3,
            edgecolors="white",
            linewidths=0.6,
            clip_on=False,
        )
    axes.set_xlim(-0.03, 1.03)
    axes.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])
    axes.set_title("after a trial edit of that layer alone", fontsize=9, loc="left", color=INK)
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        ncols=len(shares),
        fontsize=7.5,
        frameon=False,
        borderpad=2.4,
        handletextpad=0.2,
        columnspacing=1.0,
    )


def _gaps(axes: Axes, trials: list[Report]) -> None:
    _rows(axes, len(trials))
    values = [measured(trial.get("gap_after")) for trial in trials]
    top = max((abs(value) for value in values if value is not None), default=0.0) or 1.0
    axes.barh(range(len(values)), [abs(value or 0.0) for value in values], height=0.62, color=ORANGE, zorder=2)
    for row, value in enumerate(values):
        if value is not None:
            axes.text(abs(value) + 0.02 * top, row, number(value, 3), va="center", fontsize=7.5, color=INK, zorder=3)
    axes.set_xlim(0, 1.45 * top)
    axes.locator_params(axis="x", nbins=3)
    axes.set_title("gap left", fontsize=9, loc="left", color=INK)
