"""How figures and names are written for people: percent, numbers, shapes, sizes, and safe names."""

from __future__ import annotations

import math
from collections.abc import Sequence

MISSING = "–"
_ASCII = str.maketrans(
    {
        "–": "-",
        "×": "x",
        "≤": "<=",
        "≥": ">=",
        "→": "->",
        "·": "-",
        "…": "...",
        "✓": "+",
        "✗": "x",
        "↑": "^",
        "↓": "v",
        "⋮": ":",
        "‖": "|",
        "Δ": "D",
    }
)
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction as percent: 0.9937 is ``99.37%``; None and non-finite values are a dash."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{100 * value:.{digits}f}"
    return f"{text if float(text) else text.lstrip('-')}%"


def share_of_change(gap: float | None) -> str:
    """A completeness gap as a share of the change; how far beyond all of it says nothing, where F hardly changes."""
    return ">100%" if gap is not None and gap > 1 else percent(gap, 1)


def points(value: float | None) -> str:
    """A difference of fractions in percentage points, signed: ``+1.20``, and ``0.00`` for none."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{100 * value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


def number(value: float | None, figures: int = 4) -> str:
    """A number with about ``figures`` significant figures and no exponent where it can be avoided."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 10**6 or size < 10**-4:
        return f"{value:.{max(figures - 2, 0)}e}"
    decimals = max(0, figures - 1 - math.floor(math.log10(size)))
    return f"{value:.{min(decimals, figures + 1)}f}"


def aligned(values: Sequence[float | None]) -> list[str]:
    """Numbers of one column, all with the same decimals, so that the eye can compare them.

    The middle one gets three significant figures; one too small for the decimals is ``<0.01``, or ``-0.00``.
    """
    known = sorted(abs(value) for value in values if value is not None and math.isfinite(value) and value != 0)
    if not known or known[-1] >= 10**6 or known[-1] < 10**-4:
        return [number(value, 3) for value in values]
    decimals = min(4, max(0, 2 - math.floor(math.log10(known[len(known) // 2]))))
    least = 0.5 * 10**-decimals
    texts = []
    for value in values:
        if value is None or not math.isfinite(value):
            texts.append(MISSING)
        elif 0 < abs(value) < least:
            texts.append(f"<{10**-decimals:.{decimals}f}" if value > 0 else f"-{0:.{decimals}f}")
        else:
            texts.append(f"{value:.{decimals}f}")
    return texts


def signed(value: float | None, figures: int = 4) -> str:
    """Like `number`, with a plus sign where it is not negative."""
    text = number(value, figures)
    return text if text == MISSING or text.startswith("-") else "+" + text


def count(value: int | None) -> str:
    """A count with thousands separators."""
    return MISSING if value is None else f"{value:,}"


def size(value: int | None) -> str:
    """Bytes in decimal units: 44700000 is ``44.7 MB``."""
    if value is None:
        return MISSING
    amount = float(value)
    for unit in ("bytes", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def plural(amount: int, noun: str) -> str:
    """``1 pair``, ``2 pairs``."""
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"


def short(sha256: str | None) -> str:
    """The first twelve digits of a digest."""
    return (sha256 or MISSING)[:12]


def layer_kind(kind: str, shape: Sequence[int] | None) -> str:
    """The kind of a layer with its kernel: ``conv 3×3``, ``linear``."""
    if shape is None or len(shape) < 4:
        return kind
    return f"{kind} {shape[2]}×{shape[3]}"


def printable(text: object) -> str:
    """The text verbatim, but for control and direction characters, which appear as escapes.

    Layer and file names come from files of strangers: an escape sequence in one must not drive the terminal.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def to_ascii(text: str) -> str:
    """The text for an output that knows only ASCII."""
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")


def bar(share: float | None, width: int = 8, *, ascii_only: bool = False) -> str:
    """A bar of ``width`` characters, in eighths; a value above zero always shows."""
    if share is None or not math.isfinite(share) or share <= 0:
        return " " * width
    eighths = min(8 * width, max(1, round(8 * width * share)))
    if ascii_only:
        return ("#" * max(1, round(eighths / 8))).ljust(width)
    return ("█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")).ljust(width)
