"""The contact sheet of a scan: the most suspicious images, each beside its map of where the fault fires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectify.reporting.canvas import GREY, INK, VERMILLION, new_figure, save, shorten, verbatim
from rectify.reporting.fonts import drawable
from rectify.reporting.heat import overlaid, pixels
from rectify.reporting.repair import SMALL

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]

ACROSS, MOST = 4, 24
WIDTH, HEIGHT, HEAD, FOOT = 2.75, 1.72, 0.5, 0.32  # inches of a cell, and above and below all of them
LETTERS = 36  # of a caption
SAYS = "Orange to red: the fault fires there as in the images that have it; no colour: as in clean images, or less."


@dataclass(frozen=True)
class SuspectPicture:
    """One image of the sheet.

    ``image`` is (H, W, C) or (H, W) in [0, 1]; ``heat`` is (h, w), 1 where the fault fires as in the images that have
    it, or None where the layer has no places. ``lines`` stand under it, the first of them its name.
    """

    image: Array
    heat: Array | None
    lines: tuple[str, ...]
    suspicious: bool


def suspects_picture(suspects: Sequence[SuspectPicture], path: Path, *, title: str = "", limit: float = 1.0) -> None:
    """Draw the images in the order given, four across; the first 24.

    Parameters
    ----------
    suspects
        The images.
    path
        The picture to write, PNG by habit.
    title
        Stands over everything.
    limit
        The value of a map that has the strongest colour, in all images alike.

    Raises
    ------
    ValueError
        No images, or arrays that are no image or no map.
    OutputError
        The picture cannot be written.
    """
    shown = list(suspects)[:MOST]
    if not shown:
        raise ValueError("there is nothing to draw: no images")
    down = -(-len(shown) // ACROSS)
    across = min(ACROSS, max(len(shown), 2))
    heated = any(one.heat is not None for one in shown)
    width, height = across * WIDTH, HEAD + down * HEIGHT + FOOT
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    for place, one in enumerate(shown):
        left, top = (place % across) * WIDTH + 0.08, HEAD + (place // across) * HEIGHT
        side = 1.25
        panels = [pixels(one.image)]
        if one.heat is not None:
            panels.append(overlaid(one.image, one.heat.clip(min=0.0), limit))
        for number, panel in enumerate(panels):
            box = ((left + number * (side + 0.06)) / width, 1 - (top + side) / height, side / width, side / height)
            _show(figure.add_axes(box), panel, VERMILLION if one.suspicious else GREY)
        for number, line in enumerate(one.lines):
            text = shorten(drawable(line), LETTERS, middle=True)
            colour = VERMILLION if number and one.suspicious else INK
            at = 1 - (top + side + 0.1 + 0.145 * number) / height
            verbatim([figure.text(left / width, at, text, fontsize=7.5, va="center", color=colour)])
    words = [(title, 11, "bold", 1 - 0.25 / height)] if title else []
    words += [(SAYS, 7, "normal", 0.14 / height)] if heated else []
    for text, size, weight, at in words:
        line = figure.text(0.08 / width, at, drawable(text), fontsize=size, fontweight=weight, va="center", color=INK)
        verbatim([line])
    save(figure, path)


def _show(axes: Axes, image: Array, edge: str) -> None:
    small = max(image.shape[:2]) < SMALL
    axes.imshow(image, interpolation="nearest" if small else "antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(edge)
        spine.set_linewidth(1.4 if edge == VERMILLION else 0.6)
