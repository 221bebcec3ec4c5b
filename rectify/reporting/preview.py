"""Attribution maps in a terminal: coloured half blocks, two pixels a letter."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from rectify.reporting.canvas import shorten
from rectify.reporting.heat import Map, finite, heat_limit, oddities, overlaid, pixels, resized

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console
    from rich.text import Text

    Array = NDArray[np.floating[Any]]

PREVIEW = 40  # pixels across and down that an image gets at most
NARROWEST = 40  # columns of a terminal


def can_preview(console: Console) -> bool:
    """Whether a console can show pictures in coloured half blocks, and wants to."""
    if not console.is_terminal or console.is_dumb_terminal or console.width < NARROWEST:
        return False
    if console.no_color or os.environ.get("NO_COLOR") or console.options.ascii_only:
        return False
    return console.color_system in ("truecolor", "256")


def preview(
    maps: Map | Sequence[Map], width: int = 80, colour_depth: Literal["truecolor", "256"] = "truecolor"
) -> Text:
    """Each image beside its overlay in half blocks, two pixels a letter, with the caption and lines above.

    Parameters
    ----------
    maps
        One or several, which then share a colour scale.
    width
        Columns of the terminal.
    colour_depth
        What the terminal knows.
    """
    from rich.text import Text

    shown = [maps] if isinstance(maps, Map) else list(maps)
    side = max(1, min(PREVIEW, (width - 2) // 2))
    small = [_shrunk(one, side) for one in shown]
    # a scale of its own: means over boxes are weaker than the pixels that they are of
    limit = heat_limit(heat for _, heat in small)
    text = Text(no_wrap=True, overflow="crop")
    for one, (image, heat) in zip(shown, small, strict=True):
        for line in (one.caption, *one.lines, *oddities(one)):
            text.append(f"{shorten(line, width)}\n" if line else "")
        _half_blocks(text, (image, overlaid(image, heat, limit)), colour_depth)
    text.rstrip()
    return text


def _shrunk(one: Map, side: int) -> tuple[Array, Array]:
    """Image and map as the terminal shows them: at most ``side`` across and down, an even number of rows."""
    image = pixels(one.image)
    height, width = image.shape[:2]
    scale = side / max(height, width)
    down, across = max(1, round(scale * height)), max(1, round(scale * width))
    down += down % 2
    heat = resized(finite(one.heat)[0], height, width)
    return _resampled(image, down, across), _resampled(heat, down, across)


def _half_blocks(text: Text, parts: Sequence[Array], colour_depth: str) -> None:
    """Append pictures side by side, a letter for two pixels one above the other."""
    import numpy as np

    levels = [np.rint(255 * np.clip(part, 0.0, 1.0)).astype(int).tolist() for part in parts]
    for row in range(0, len(levels[0]), 2):
        for place, level in enumerate(levels):
            text.append("  " if place else "")
            for upper, lower in zip(level[row], level[row + 1], strict=True):
                text.append("▀", _style(upper, lower, colour_depth))
        text.append("\n")
    text.append("\n")


def _style(upper: Sequence[int], lower: Sequence[int], colour_depth: str) -> Any:
    from rich.color import Color, ColorSystem
    from rich.style import Style

    front, back = Color.from_rgb(*upper), Color.from_rgb(*lower)
    if colour_depth == "256":
        front, back = front.downgrade(ColorSystem.EIGHT_BIT), back.downgrade(ColorSystem.EIGHT_BIT)
    return Style(color=front, bgcolor=back)


def _resampled(image: Array, height: int, width: int) -> Array:
    """Means over boxes where the image shrinks, its own pixels repeated where it grows."""
    import numpy as np

    for axis, new in ((0, height), (1, width)):
        old = image.shape[axis]
        starts = np.arange(new) * old // new
        sizes = np.maximum(np.diff(np.append(starts, old)), 1)
        # equal starts give the pixel itself, which is what a growing image needs
        image = np.add.reduceat(image, starts, axis=axis) / sizes.reshape(-1, *[1] * (image.ndim - 1 - axis))
    return image
