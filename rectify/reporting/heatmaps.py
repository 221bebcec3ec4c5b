"""Pictures of attribution maps: the image, its signed map and both in one; images and models side by side."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectify.reporting.canvas import GREY, INK, bare, new_figure, save, shorten, verbatim
from rectify.reporting.fonts import drawable, families
from rectify.reporting.heat import Map, finite, heat_colours, heat_limit, oddities, overlaid, pixels, resized
from rectify.reporting.preview import can_preview, preview
from rectify.reporting.repair import SMALL
from rectify.reporting.words import number

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]

__all__ = ["Map", "can_preview", "explanation_picture", "overlay_picture", "preview"]

MOST = 12  # rows drawn; a longer picture is no picture
FOOT = "Orange and red speak for the class, blue against it; white and grey have no say."
SOFT = "#5B6670"  # of what is said by the way

EDGE, GAP, GROUP = 0.16, 0.1, 0.34  # inches: around all, between panels, between models
LINE, SIZE = 0.155, 8.0  # inches and points of a line of text
BAR, WORDS = 0.13, 0.72  # inches: the colour bar and the words beside it


@dataclass(frozen=True)
class _Panel:
    """One small image, its heading, and the text under it, which may run on below the next ``span`` - 1 panels."""

    heading: str
    image: Array | None
    text: tuple[str, ...] = ()
    span: int = 1


def overlay_picture(map: Map, path: Path) -> None:
    """Draw one map: see `explanation_picture`."""
    explanation_picture([[map]], path)


def explanation_picture(
    rows: Sequence[Sequence[Map]],
    path: Path,
    *,
    title: str = "",
    column_titles: Sequence[str] = (),
    one_scale: bool = False,
) -> None:
    """Draw a row an image (clean, corrupted), a group of columns a model (before, after).

    Parameters
    ----------
    rows
        Maps of one row have one colour scale, so that before and after can be compared. Where they are all of the same
        image it is shown once. The first twelve rows are drawn.
    path
        The picture to write, PNG by habit.
    title
        Stands over everything.
    column_titles
        The names of the groups.
    one_scale
        One colour scale for all rows.

    Raises
    ------
    ValueError
        No map, or arrays that are no image or no map.
    OutputError
        The picture cannot be written.
    """
    rows = [list(row) for row in rows if row]
    if not rows:
        raise ValueError("there is nothing to draw: no maps")
    drawn = rows[:MOST]
    limits = [heat_limit(one.heat for one in row) for row in drawn]
    if one_scale:
        limits = [max(limits)] * len(limits)
    foot = FOOT if len(drawn) == len(rows) else f"{FOOT} The first {MOST} of {len(rows)} images."
    grid = _grid(drawn, limits)
    _draw(grid, limits, path, title, column_titles, foot)


def _grid(rows: Sequence[Sequence[Map]], limits: Sequence[float]) -> list[list[list[_Panel]]]:
    """Rows of groups of panels; all rows have the same panels, blank ones where a map lacks them."""
    width = max(len(row) for row in rows)
    shared = width > 1 and all(_same(row) for row in rows)
    based = [any(place < len(row) and row[place].baseline is not None for row in rows) for place in range(width)]
    grid = []
    for row, limit in zip(rows, limits, strict=True):
        groups = [[_image_panel(row[0])]] if shared else []
        for place in range(width):
            one = row[place] if place < len(row) else None
            groups.append(_group(one, limit, image=not shared, baseline=based[place]))
        grid.append(groups)
    return grid


def _same(row: Sequence[Map]) -> bool:
    import numpy as np

    first = row[0]
    return all(one.caption == first.caption and np.array_equal(one.image, first.image) for one in row)


def _image_panel(one: Map) -> _Panel:
    return _Panel("image", pixels(one.image), (one.caption,) if one.caption else ())


def _group(one: Map | None, limit: float, *, image: bool, baseline: bool) -> list[_Panel]:
    if one is None:
        blank = _Panel("", None)
        return [blank] * (2 + image + baseline)
    shown = pixels(one.image)
    heat, _ = finite(one.heat)
    colours = heat_colours(resized(heat, *shown.shape[:2]), limit)
    panels = [_image_panel(one)] if image else []
    panels.append(_Panel("map", colours, (*one.lines, *oddities(one)), span=2))
    panels.append(_Panel("overlay", overlaid(one.image, one.heat, limit)))
    if baseline:
        panels.append(_Panel("", None) if one.baseline is None else _baseline_panel(shown, one.baseline))
    return panels


def _baseline_panel(image: Array, baseline: Array) -> _Panel:
    """A baseline, and how far it is from the image: one that was searched for can look the same."""
    import numpy as np

    start = pixels(baseline)
    far = float(np.abs(start - image).max()) if start.shape == image.shape else 1.0
    return _Panel("baseline", start, (f"differs by at most {_figure(far)}",) if far < 0.2 else ())


@dataclass(frozen=True)
class _Frame:
    """Sizes in inches; places are measured from the top left."""

    panel: float
    heights: tuple[float, ...]  # of the panels of each row
    texts: tuple[float, ...]  # of the text under each row
    groups: tuple[int, ...]  # panels in each
    top: float

    @property
    def width(self) -> float:
        return self.left(len(self.groups), 0) - GROUP + GAP + BAR + WORDS + EDGE

    @property
    def height(self) -> float:
        return self.row(len(self.heights)) + LINE + EDGE

    def left(self, group: int, panel: int) -> float:
        """The left side of a panel."""
        before = sum(count * (self.panel + GAP) - GAP + GROUP for count in self.groups[:group])
        return EDGE + before + panel * (self.panel + GAP)

    def row(self, place: int) -> float:
        """The upper side of a row's panels."""
        return self.top + sum(self.heights[:place]) + sum(self.texts[:place])


def _frame(grid: Sequence[Sequence[Sequence[_Panel]]], title: str, column_titles: Sequence[str]) -> _Frame:
    groups = tuple(len(group) for group in grid[0])
    panel = min(2.0, max(1.5, 9.0 / sum(groups)))
    heights, texts = [], []
    for row in grid:
        shown = [panel for group in row for panel in group]
        ratios = [one.image.shape[0] / one.image.shape[1] for one in shown if one.image is not None]
        heights.append(panel * min(1.8, max(0.4, *ratios)))
        texts.append(LINE * max(len(one.text) for one in shown) + 0.2)
    top = EDGE + (0.34 if title else 0) + (0.28 if any(column_titles) else 0) + 0.2
    return _Frame(panel, tuple(heights), tuple(texts), groups, top)


def _draw(
    grid: Sequence[Sequence[Sequence[_Panel]]],
    limits: Sequence[float],
    path: Path,
    title: str,
    column_titles: Sequence[str],
    foot: str,
) -> None:
    frame = _frame(grid, title, column_titles)
    figure = new_figure(max(frame.width, 4.6), frame.height)
    figure.set_layout_engine("none")
    _titles(figure, frame, title, column_titles)
    _headings(figure, frame, grid)
    for place, (row, limit) in enumerate(zip(grid, limits, strict=True)):
        for group, panels in enumerate(row):
            for column, panel in enumerate(panels):
                _panel(figure, frame, panel, (place, group, column))
        _bar(figure, frame, place, limit)
    _write(figure, foot, EDGE, frame.row(len(grid)) + LINE / 2, frame.width - 2 * EDGE, size=7, colour=SOFT)
    save(figure, path)


def _titles(figure: Figure, frame: _Frame, title: str, column_titles: Sequence[str]) -> None:
    if title:
        room = frame.width - 2 * EDGE
        _write(figure, title, EDGE, EDGE + 0.1, room, size=11, weight="bold")
    # where the image is shown once it is a group of its own, without a name
    first = 1 if frame.groups[0] == 1 else 0
    for place, name in enumerate(column_titles[: len(frame.groups) - first], first):
        left, count = frame.left(place, 0), frame.groups[place]
        room = count * (frame.panel + GAP) - GAP
        if name:
            _write(figure, name, left, frame.top - 0.36, room, size=9.5, weight="bold")
            _rule(figure, left, frame.top - 0.24, room)


def _headings(figure: Figure, frame: _Frame, grid: Sequence[Sequence[Sequence[_Panel]]]) -> None:
    """Over each column; the first row may lack what a later one has."""
    for group, count in enumerate(frame.groups):
        for column in range(count):
            heading = next((row[group][column].heading for row in grid if row[group][column].heading), "")
            left = frame.left(group, column)
            _write(figure, heading, left, frame.top - 0.1, frame.panel, colour=SOFT)


def _rule(figure: Figure, left: float, top: float, length: float) -> None:
    from matplotlib.lines import Line2D

    width, height = figure.get_size_inches()
    across, down = [left / width, (left + length) / width], [1 - top / height] * 2
    figure.add_artist(Line2D(across, down, color=GREY, linewidth=0.8))


def _panel(figure: Figure, frame: _Frame, panel: _Panel, place: tuple[int, int, int]) -> None:
    if panel.image is None:
        return
    row, group, column = place
    left, top, height = frame.left(group, column), frame.row(row), frame.heights[row]
    axes = figure.add_axes(_box(figure, left, top, frame.panel, height))
    small = max(panel.image.shape[:2]) < SMALL
    axes.imshow(panel.image, interpolation="nearest" if small else "antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(GREY)
        spine.set_linewidth(0.6)
    room = panel.span * (frame.panel + GAP) - GAP
    for line, text in enumerate(panel.text):
        _write(figure, text, left, top + height + 0.03 + LINE * (line + 0.5), room)


def _bar(figure: Figure, frame: _Frame, row: int, limit: float) -> None:
    """The colour scale, which says in words what its ends mean."""
    import numpy as np

    if limit <= 0:
        return
    left, top, height = frame.left(len(frame.groups), 0) - GROUP + GAP, frame.row(row), frame.heights[row]
    axes = figure.add_axes(_box(figure, left, top, BAR, height))
    axes.imshow(heat_colours(np.linspace(1, -1, 256)[:, None], 1.0), aspect="auto", interpolation="nearest")
    bare(axes, "left", "right", "top", "bottom")
    axes.set_xticks([])
    axes.set_yticks([])
    beside = left + BAR + 0.06
    end = _figure(limit)
    for text, at, weight in (
        ("for", 0.06, "bold"), (f"+{end}", 0.06 + LINE, "normal"), ("0", height / 2, "normal"),
        (f"−{end}", height - 0.06 - LINE, "normal"), ("against", height - 0.06, "bold"),
    ):  # fmt: skip
        _write(figure, text, beside, top + at, WORDS, size=7.5, weight=weight)


def _figure(value: float) -> str:
    """A size with two significant figures, however small: ``0.50``, ``0.0012``, ``1.2e-05``."""
    return number(value, 2) if value == 0 or 0.01 <= value < 10**6 else f"{value:#.2g}"


def _box(figure: Figure, left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
    across, down = figure.get_size_inches()
    return left / across, 1 - (top + height) / down, width / across, height / down


def _write(
    figure: Figure,
    text: str,
    left: float,
    middle: float,
    room: float,
    *,
    size: float = SIZE,
    weight: str = "normal",
    colour: str = INK,
) -> None:
    """One line of text, shortened in its middle until it fits ``room`` inches."""
    across, down = figure.get_size_inches()
    line = text = drawable(text)
    longest = len(line)
    while longest > 3 and _length(figure, line, size, weight) > room:
        longest = min(longest - 1, int(longest * room / _length(figure, line, size, weight)) + 1)
        line = shorten(text, longest, middle=True)
    drawn = figure.text(
        left / across, 1 - middle / down, line, fontsize=size, fontweight=weight, color=colour, va="center_baseline"
    )
    verbatim([drawn])


def _length(figure: Figure, text: str, size: float, weight: str) -> float:
    """How long a line of text is, in inches."""
    from matplotlib.font_manager import FontProperties

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")  # as in `canvas.save`
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        font = FontProperties(family=families(text), size=size, weight=weight)
        width, _, _ = renderer.get_text_width_height_descent(text, font, False)
    return float(width) / figure.dpi
