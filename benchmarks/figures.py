"""The figures of the science bench, drawn from the results that are there; nothing is run.

    python -m benchmarks.figures

After the figures of arXiv 2603.15656: what a static edit of each layer does (its figure 2), attack success against the
number of pairs, and against the accuracy that it costs, beside every rival (its figure 4); and how far each kind of
trigger at full width ends from a whole repair. Writes ``benchmarks/results/figures/*.png``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.published import load
from benchmarks.rivals.methods import METHODS
from benchmarks.runs import RESULTS
from benchmarks.wide import KINDS, shortfalls
from rectify.reporting.canvas import BLUE, GREY, INK, LIGHT, VERMILLION, bare, new_figure, save

HOME = RESULTS / "figures"
SHOWN = ("cifar-resnet-patch-scratch", "cifar-resnet-sinusoid", "fashion-resnet-blend", "mnist-vit-blend")
PAIRS = {"as it should be": 1, "5 pairs": 5, "20 pairs": 20}


def layers() -> Figure:
    """Each layer edited alone: accuracy, attack success and recovery, in the order of the forward pass."""
    found = {row["name"]: row for row in load("localisation")}
    figure = new_figure(9, 5.4)
    for place, name in enumerate(SHOWN):
        axes = figure.add_subplot(2, 2, place + 1)
        rows = sorted(found[name]["layers"], key=lambda layer: layer["last_layer"])
        for key, colour, mark in (("asr", VERMILLION, "x"), ("recovery", BLUE, "o"), ("accuracy", GREY, "s")):
            words = {"asr": "attack success", "recovery": "recovery", "accuracy": "accuracy"}[key]
            axes.plot([100 * row[key] for row in rows], mark + "-", color=colour, ms=4, lw=1, label=words)
        chosen = next(n for n, row in enumerate(rows) if row["layer"] == found[name]["trial"]["layer"])
        axes.axvline(chosen, color=LIGHT, lw=7, zorder=0, label="trial ranks first")
        _tidy(axes, name, "layer, from the input on", "%")
        axes.set_ylim(-3, 103)
        axes.set_xticks([])
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, ncols=4, loc="outside upper center")
    return figure


def pairs() -> Figure:
    """Attack success over the base rate, and recovery short, with 1, 5 and 20 pairs, where there were more than one."""
    rows = [row for row in load("conditions") if row["condition"] in PAIRS and not row["exit_code"]]
    several = {row["name"] for row in rows if PAIRS[row["condition"]] > 1}
    rows = [row for row in rows if row["name"] in several]
    figure = new_figure(7, 2.6)
    panels = (
        ("attack success over base, points", lambda r: r["asr"] - r["base_rate"]),
        ("recovery short, points", lambda r: r["accuracy_other"] - r["recovery"]),
    )
    for place, (words, value) in enumerate(panels):
        axes = figure.add_subplot(1, 2, place + 1)
        for number, name in enumerate(dict.fromkeys(row["name"] for row in rows)):
            own = sorted((row for row in rows if row["name"] == name), key=lambda row: PAIRS[row["condition"]])
            at = [PAIRS[row["condition"]] for row in own]
            axes.plot(at, [100 * value(row) for row in own], "osD^"[number % 4] + "-", ms=4, lw=1, label=name)
        axes.axhline(0, color=GREY, lw=0.8)
        axes.set_xscale("log")
        axes.set_xticks(list(PAIRS.values()), [str(count) for count in PAIRS.values()])
        axes.minorticks_off()
        axes.set_ylim(-1, 2)
        _tidy(axes, "", "pairs", words)
    axes.legend(frameon=False, fontsize=7)
    return figure


def costs() -> Figure:
    """What each method costs and leaves over the trojaned networks: the median filled, the worst open."""
    rows = [row for row in load("rivals") if "with" not in row]
    before = {row["network"]: row for row in rows if row["method"] == "untouched"}
    found: dict[str, list[tuple[float, ...]]] = {}
    for row in rows:
        old = before[row["network"]]
        points = (
            old["accuracy"] - row["accuracy"],
            row["asr"] - old["base_rate"],
            old["accuracy_other"] - row["recovery"],
        )
        found.setdefault(row["method"], []).append(points)
    methods = sorted((m for m in METHODS if m in found), key=lambda m: median(points[2] for points in found[m]))
    figure = new_figure(9, 4.2)
    for place, axes in enumerate(_three_panels(figure, methods)):
        for line, method in enumerate(methods):
            values = [100 * points[place] for points in found[method]]
            colour = BLUE if method == "ours" else INK
            axes.plot([median(values), max(values)], [line, line], "-", color=LIGHT, lw=1.5, zorder=1)
            axes.plot(max(values), line, "o", color=colour, ms=5, mfc="white", zorder=2)
            axes.plot(median(values), line, "o", color=colour, ms=5, zorder=3)
    return figure


def full_width() -> Figure:
    """Every repair at full width against the same network before it, by kind of trigger."""
    results = load("wide")
    figure = new_figure(9, 3)
    for place, axes in enumerate(_three_panels(figure, KINDS)):
        for line, kind in enumerate(KINDS):
            values = [100 * row[place] for r in results if f"-{kind}-" in r["name"] for row in shortfalls(r)]
            axes.plot(values, [line] * len(values), "o", color=BLUE, ms=5, alpha=0.7, mew=0)
    return figure


def _three_panels(figure: Figure, lines: Sequence[str]) -> list[Axes]:
    """Accuracy lost, attack success left and recovery short, a line for each name."""
    panels = []
    for place, words in enumerate(("accuracy lost, points", "attack success over the base rate", "recovery short")):
        axes = figure.add_subplot(1, 3, place + 1)
        axes.axvline(0, color=GREY, lw=0.8)
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xticks([-1, 0, 1, 10, 100], ["-1", "0", "1", "10", "100"])
        axes.minorticks_off()
        axes.set_xlim(-1.2, 140)
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.set_yticks(range(len(lines)), lines if not place else [""] * len(lines))
        _tidy(axes, "", words, "")
        panels.append(axes)
    return panels


def _tidy(axes: Axes, title: str, below: str, beside: str) -> None:
    bare(axes, "left", "bottom")
    axes.set_title(title, fontsize=8, color=INK, loc="left")
    axes.set_xlabel(below, fontsize=8, color=INK)
    axes.set_ylabel(beside, fontsize=8, color=INK)


FIGURES = {"layers": layers, "pairs": pairs, "costs": costs, "full-width": full_width}


def main() -> None:
    """Draw all."""
    HOME.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        save(draw(), Path(HOME / f"{name}.png"))
        print(HOME / f"{name}.png")


if __name__ == "__main__":
    main()
