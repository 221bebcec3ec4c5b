"""Pictures of a report: the layers with their editability and trials, and the repair of each pair.

matplotlib is imported when a picture is drawn, not before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectify.reporting.canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LIGHT,
    ORANGE,
    SKY,
    STRIPE,
    VERMILLION,
    bare,
    new_figure,
    save,
    shorten,
    verbatim,
)
from rectify.reporting.content import main_figure, ranked
from rectify.reporting.fonts import drawable
from rectify.reporting.repair import PairRow, Prediction, pair_picture, repair_picture
from rectify.reporting.verdict import Report, measured
from rectify.reporting.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PairRow", "Prediction", "layers_plot", "pair_picture", "repair_picture"]

Layer = Mapping[str, Any]
ROW = 0.235  # inches a layer: eight-point type with air
LETTER = 0.066  # inches a letter of a layer's name
NAME, MOST = 60, 100  # longest name and most layers that are drawn
OPEN = "none"  # an open mark lets the one below it be seen
MARKS = (  # key, words, shape, size, face, edge
    ("agreement", "agreement", "D", 58, OPEN, ORANGE),
    ("recovery", "recovery", "o", 24, BLUE, BLUE),
    ("asr", "attack success", "x", 26, VERMILLION, VERMILLION),
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
    layers, title = _drawn(localize)
    trials = [layer.get("trial") or {} for layer in layers]
    marks = [mark for mark in MARKS if any(measured(trial.get(mark[0])) is not None for trial in trials)]
    gaps = any(measured(trial.get("gap_after")) is not None for trial in trials)
    widths = [3.4] + ([3.0] if marks else []) + ([1.8] if gaps else [])
    names = [shorten(drawable(layer["name"]), NAME, middle=True) for layer in layers]
    width = 0.5 + LETTER * max(len(name) for name in names) + sum(widths)
    figure = new_figure(max(6.0, width), 1.2 + ROW * len(layers) + (0.6 if marks else 0.0))
    panels = list(figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)[0])
    _scores(panels[0], layers, *main_figure(localize), _notes(report, layers))
    panels[0].set_yticks(range(len(layers)), names, fontfamily="DejaVu Sans Mono", fontsize=7.5)
    verbatim(panels[0].get_yticklabels())
    if marks:
        _marks(panels[1], trials, marks)
        handles, labels = panels[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    if gaps:
        _gaps(panels[-1], trials)
    figure.suptitle(title, fontsize=11, fontweight="bold", color=INK, x=0.01, ha="left")
    save(figure, path)


def _drawn(localize: Mapping[str, Any]) -> tuple[list[Layer], str]:
    layers: list[Layer] = list(localize["layers"])
    triage = localize["method"] == "data-free-triage"
    title = "Data-free triage of the layers" if triage else "Where a repair can take hold"
    if len(layers) <= MOST:
        return layers, title
    best = {id(layer) for layer in ranked(layers)[:MOST]}
    return [layer for layer in layers if id(layer) in best], f"{title} (best {MOST} of {len(layers)} layers)"


def _notes(report: Report, layers: Sequence[Layer]) -> list[str]:
    kept = {step["layer"] for step in (report.get("edit") or {}).get("steps") or [] if step["kept"]}
    triage = report["localize"]["method"] == "data-free-triage"
    notes = []
    for layer in layers:
        words = [word for word, said in (("first", layer["rank"] == 1), ("edited", layer["name"] in kept)) if said]
        if triage:
            words = ["most unusual"] if layer["rank"] == 1 else []
        if not layer["candidate"]:
            words.append("not offered")
        notes.append(f"  ◂ {', '.join(words)}" if words else "")
    return notes


def _stripes(axes: Axes, amount: int) -> None:
    bare(axes, "bottom")
    axes.set_ylim(amount - 0.4, -0.6)
    # one collection of fat lines: a patch a row would make the layout of long pictures slow
    across = axes.get_yaxis_transform()
    axes.hlines(
        range(0, amount, 2), 0, 1, transform=across, color=STRIPE, linewidth=72 * ROW, zorder=0, in_layout=False
    )


def _bars(
    axes: Axes, values: Sequence[float | None], colours: Sequence[str], notes: Sequence[str], room: float
) -> None:
    lengths = [abs(value or 0.0) for value in values]
    top = max(lengths) or 1.0
    _stripes(axes, len(values))
    axes.barh(range(len(values)), lengths, height=0.62, color=list(colours), zorder=2)
    for row, (value, note) in enumerate(zip(values, notes, strict=True)):
        if value is not None or note:
            text = number(value, 3) + note
            axes.text(lengths[row] + 0.015 * top, row, text, va="center", fontsize=7.5, color=INK, in_layout=False)
    axes.set_xlim(0, room * top)
    axes.locator_params(axis="x", nbins=4)


def _scores(axes: Axes, layers: Sequence[Layer], key: str, words: str, notes: Sequence[str]) -> None:
    colours = [GREY if not layer["candidate"] else GREEN if layer["rank"] == 1 else BLUE for layer in layers]
    room = 1.2 + 0.022 * max(len(note) for note in notes)
    _bars(axes, [measured(layer.get(key)) for layer in layers], colours, notes, room)
    axes.set_title(words, fontsize=9, loc="left", color=INK)


def _marks(axes: Axes, trials: Sequence[Layer], marks: Sequence[tuple[str, str, str, int, str, str]]) -> None:
    _stripes(axes, len(trials))
    axes.hlines([row for row, trial in enumerate(trials) if trial], 0, 1, color=LIGHT, linewidth=1, zorder=1)
    for key, words, shape, area, face, edge in marks:
        points = [(measured(trial.get(key)), row) for row, trial in enumerate(trials)]
        across = [value for value, _ in points if value is not None]
        down = [row for value, row in points if value is not None]
        colours: dict[str, Any] = {"color": edge} if shape == "x" else {"facecolors": face, "edgecolors": edge}
        axes.scatter(
            across, down, s=area, marker=shape, label=words, linewidths=1.4, zorder=3, clip_on=False, **colours
        )
    axes.set_xlim(-0.03, 1.03)
    axes.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])
    axes.set_title("after a trial edit of that layer alone", fontsize=9, loc="left", color=INK)
    if any(key in ("agreement", "recovery") for key, *_ in marks):
        weighed = "recovery and agreement weigh each image by\nhow sure the untouched network is"
        axes.set_xlabel(weighed, fontsize=7, color=INK)


def _gaps(axes: Axes, trials: Sequence[Layer]) -> None:
    values = [measured(trial.get("gap_after")) for trial in trials]
    _bars(axes, values, [SKY] * len(values), [""] * len(values), 1.4)
    axes.set_title("gap left by that edit", fontsize=9, loc="left", color=INK)
