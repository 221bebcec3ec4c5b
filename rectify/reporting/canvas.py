"""What all pictures share: colours that colour-blind people can tell apart, plain text, and files of stable bytes."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito 2008. Colour never stands alone: marks differ in shape, bars carry their figures.
BLUE, ORANGE, GREEN, VERMILLION, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9"
GREY, LIGHT, INK = "#9AA5AE", "#E6EAED", "#1C2126"
DPI = 144
FONT = {"family": "DejaVu Sans"}


def new_figure(width: float, height: float) -> Figure:
    """A figure of ``width`` by ``height`` inches, apart from pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def bare(axes: Axes, *keep: str) -> None:
    """Take the frame away, but for the sides named."""
    for side, spine in axes.spines.items():
        spine.set_visible(side in keep)
        spine.set_color(GREY)
    axes.tick_params(length=0, labelsize=8, labelcolor=INK)


def verbatim(texts: Any) -> None:
    """Show texts as they are: no ``$`` in a layer's name starts a formula."""
    for text in texts:
        text.set_parse_math(False)


def save(figure: Figure, path: Path) -> None:
    """Write the figure as PNG (or what the suffix says), whole or not at all; equal figures give equal bytes."""
    from rectify.files.atomic import write_atomic

    suffix = path.suffix.lower().lstrip(".") or "png"
    stream = io.BytesIO()
    with warnings.catch_warnings():
        # a class name in a script that the font lacks shows boxes; that is no reason to speak on stderr
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
        metadata: dict[str, Any] = {"Software": None} if suffix == "png" else {"Date": None} if suffix == "svg" else {}
        figure.savefig(stream, format=suffix, metadata=metadata)
    write_atomic(path, stream.getvalue(), force=True)
