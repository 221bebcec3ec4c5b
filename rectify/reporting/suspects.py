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
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]

ACROSS, MOST = 4, 24
WIDTH, HEIGHT, HEAD, FOOT = 2.75, 1.72, 0.5, 0.32  # inches of a cell, and above and below all of them
SIDE = 1.25  # inches of an image
LETTERS = 46  # of a caption
SAYS = "Orange to red: the fault fires there as in the images that have it; no colour: as in clean images, or less."
NO_MAP = "The keys of this layer are of the whole image: there is no map."


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
    across = min(ACROSS, max(len(shown), 2))
    figure = new_figure(across * WIDTH, HEAD + -(-len(shown) // across) * HEIGHT + FOOT)
    figure.set_layout_engine("none")
    _write(figure, title, 0.08, 0.25, size=11, weight="bold")
    for place, one in enumerate(shown):
        _cell(figure, one, (place % across) * WIDTH + 0.08, HEAD + (place // across) * HEIGHT, limit)
    foot = SAYS if any(one.heat is not None for one in shown) else NO_MAP
    _write(figure, foot, 0.08, figure.get_size_inches()[1] - 0.14, size=7)
    save(figure, path)


def _cell(figure: Figure, one: SuspectPicture, left: float, top: float, limit: float) -> None:
    """An image, its map over it, and its lines; places in inches from the top left."""
    width, height = figure.get_size_inches()
    panels = [pixels(one.image)]
    if one.heat is not None:
        panels.append(overlaid(one.image, one.heat.clip(min=0.0), limit))
    for number, panel in enumerate(panels):
        across = (left + number * (SIDE + 0.06)) / width
        box = (across, 1 - (top + SIDE) / height, SIDE / width, SIDE / height)
        _show(figure.add_axes(box), panel, VERMILLION if one.suspicious else GREY)
    for number, line in enumerate(one.lines):
        colour = VERMILLION if number and one.suspicious else INK
        text = shorten(line, LETTERS, middle=True)
        _write(figure, text, left, top + SIDE + 0.1 + 0.145 * number, size=7.5, colour=colour)


def _write(
    figure: Figure, text: str, left: float, middle: float, *, size: float, weight: str = "normal", colour: str = INK
) -> None:
    width, height = figure.get_size_inches()
    line = figure.text(
        left / width, 1 - middle / height, drawable(text), fontsize=size, fontweight=weight, va="center", color=colour
    )
    verbatim([line])


def _show(axes: Axes, image: Array, edge: str) -> None:
    small = max(image.shape[:2]) < SMALL
    axes.imshow(image, interpolation="nearest" if small else "antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(edge)
        spine.set_linewidth(1.4 if edge == VERMILLION else 0.6)
