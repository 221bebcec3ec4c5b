"""Names in any script: drawn in a font that has the characters, or as escapes where none is installed; no boxes."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from rectify.reporting.words import printable

# Fonts of symbols and of placeholders claim characters that they do not show as what they are.
_NO_TEXT = ("last resort", ".lastresort", "cm", "stixsize", "stixnonuni", "adobe notdef", "adobe blank")


def drawable(text: object) -> str:
    """The text without control characters, and with escapes (``\\u4e2d``) for what no font of this machine has."""
    line = printable(text)
    if line.isascii():
        return line
    known = _characters(_default())
    return "".join(c if ord(c) in known or family_with(c) else c.encode("unicode_escape").decode() for c in line)


def families(text: str, first: Iterable[str] = ()) -> list[str]:
    """Font families in which all of a `drawable` text can be drawn, those of ``first`` before the others."""
    chosen = list(first) or [_default()]
    for character in dict.fromkeys(text):
        if not character.isascii() and not any(ord(character) in _characters(family) for family in chosen):
            found = _default() if ord(character) in _characters(_default()) else family_with(character)
            chosen += [found] if found else []
    return chosen


@functools.cache
def family_with(character: str) -> str | None:
    """The first installed family that has the character: sans serif ones first, then by name."""
    return next((family for family in _installed() if ord(character) in _characters(family)), None)


def _default() -> str:
    from matplotlib.font_manager import FontProperties

    return str(FontProperties().get_name())


def _installed() -> list[str]:
    from matplotlib.font_manager import fontManager

    names = {font.name for font in fontManager.ttflist if not font.name.lower().startswith(_NO_TEXT)}
    return sorted(names, key=lambda name: ("sans" not in name.lower(), "mono" in name.lower(), name))


@functools.cache
def _characters(family: str) -> frozenset[int]:
    """The code points of a family; none where its file cannot be read or holds bitmaps only, as emoji do."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    try:
        # a list, for a name alone is parsed as a pattern, where a hyphen has a meaning
        font = get_font(findfont(FontProperties(family=[family]), fallback_to_default=False))
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError, ValueError):
        return frozenset()
