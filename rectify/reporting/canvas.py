"""What all pictures share: colours that colour-blind people can tell apart, plain text, and files of stable bytes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectify.reporting.fonts import families
from rectify.reporting.words import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

# Okabe and Ito 2008. Colour never stands alone: marks differ in shape, bars carry their figures.
BLUE, ORANGE, GREEN, VERMILLION, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9"
GREY, LIGHT, STRIPE, INK = "#9AA5AE", "#E6EAED", "#F6F8F9", "#1C2126"
DPI = 144


def new_figure(width: float, height: float) -> Figure:
    """A figure of ``width`` by ``height`` inches, apart from pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.07, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    return figure


def bare(axes: Axes, *keep: str) -> None:
    """Take the frame away, but for the sides named."""
    for side, spine in axes.spines.items():
        spine.set_visible(side in keep)
        spine.set_color(GREY)
    axes.tick_params(length=0, labelsize=8, labelcolor=INK)


def verbatim(texts: Iterable[Text]) -> None:
    """Show texts as they are: no ``$`` in a layer's name starts a formula."""
    for text in texts:
        text.set_parse_math(False)


def shorten(text: object, longest: int, *, middle: bool = False) -> str:
    """The text without control characters, and without its end (or ``middle``) where it is too long for a picture."""
    line = printable(text)
    if len(line) <= longest:
        return line
    tail = (longest - 1) // 2 if middle else 0
    return f"{line[: longest - 1 - tail]}…{line[len(line) - tail :]}"


def save(figure: Figure, path: Path) -> None:
    """Write the figure as PNG (or what the suffix says), whole or not at all; equal figures give equal bytes.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    from rectify.files.atomic import write_atomic

    kind = path.suffix.lower().lstrip(".") or "png"
    metadata: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    stream = io.BytesIO()
    _choose_fonts(figure)
    with warnings.catch_warnings():
        # what a font promises and does not keep shows boxes; that is no reason to speak on stderr
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
        figure.savefig(stream, format=kind, metadata=metadata.get(kind))
    write_atomic(path, stream.getvalue(), force=True)


def _choose_fonts(figure: Figure) -> None:
    """Give each text in another script a family that has it, behind its own."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if not text.get_text().isascii():
            text.set_fontfamily(families(text.get_text(), text.get_fontfamily()))
