"""Pieces of the one-line messages: names made printable, short lists, the nearest match."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

_CLOSE = 0.65  # likeness of two file names, 0 to 1: model and modle have .8, pp and p .67, none and layers .4


def plain(text: object, limit: int = 100) -> str:
    """Text from a file made fit for one line of a terminal: no control characters, not too long.

    Parameters
    ----------
    text : object
        Anything; ``str(text)`` is shown.
    limit : int
        Longest result, in characters. Paths may have 300, and lose their beginning, not their end.

    Returns
    -------
    str
        Printable text. Newlines, escape sequences and the like appear as ``\\x1b``.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in str(text))
    if isinstance(text, PurePath):
        return shown if len(shown) <= 300 else "…" + shown[-299:]
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def quoted(text: object) -> str:
    """`plain` text between quotation marks."""
    return f"'{plain(text)}'"


def listed(names: Iterable[object], limit: int = 3) -> str:
    """The first few names and how many more there are: ``a, b, c and 4 more``."""
    items = list(names)
    text = ", ".join(plain(name) for name in items[:limit])
    return f"{text} and {len(items) - limit} more" if len(items) > limit else text


def nearest(word: str, options: Iterable[str], limit: int = 3) -> list[str]:
    """The options most like `word`, best first; case does not count."""
    by_lower = {option.lower(): option for option in options}
    return [by_lower[match] for match in difflib.get_close_matches(word.lower(), by_lower, limit, 0.5)]


def close_files(name: str, names: Iterable[str], limit: int = 3) -> list[str]:
    """The file names that may be meant by ``name``, best first.

    Likeness is that of the stems: a suffix in common is no likeness, and another suffix is no difference.
    """
    stem = PurePath(name.lower()).stem
    likeness = {each: difflib.SequenceMatcher(None, PurePath(each.lower()).stem, stem).ratio() for each in names}
    close = [each for each, share in likeness.items() if share >= _CLOSE]
    return sorted(close, key=lambda each: (-likeness[each], each))[:limit]


def did_you_mean(word: str, options: Sequence[str]) -> str:
    """``did you mean a, b?``, or the options themselves when none is near (empty when there is none)."""
    close = nearest(word, options)
    if close:
        return f"did you mean {listed(close)}?"
    return f"one of {listed(options, 8)}" if options else ""


def no_file(path: Path) -> str:
    """What lies at a path that is no file: ``a folder``, ``a link to x, which is not there``, or neither of these."""
    if os.path.isdir(path):
        return "a folder"
    if os.path.islink(path) and not os.path.exists(path):
        return f"a link to {plain(PurePath(os.readlink(path)))}, which is not there"
    return "neither a file nor a folder"


def no_such_file(path: Path) -> str:
    """One line for a path that does not exist or is no file, with the nearest names that do.

    Parameters
    ----------
    path : Path
        The missing path.

    Returns
    -------
    str
        Text that names the first missing folder, or close names beside the missing one, or what lies there instead.
    """
    parent = path.parent
    if os.path.lexists(path):
        hint = ": name a file in it" if os.path.isdir(path) else ": name a file" if os.path.exists(path) else ""
        return f"{plain(path)} is {no_file(path)}{hint}"
    if not os.path.isdir(parent):
        while parent != parent.parent and not os.path.isdir(parent.parent):
            parent = parent.parent
        return f"no such file: {plain(path)}; the folder {plain(parent)} does not exist"
    try:
        names = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
    except OSError:
        names = []
    close = close_files(path.name, names)
    if close:
        shown = [str(parent / name) if parent != Path() else name for name in close]
        return f"no such file: {plain(path)}; did you mean {listed(shown)}?"
    where = "this folder" if parent == Path() else plain(parent)
    return f"no such file: {plain(path)}; {where} holds {listed(names) or 'nothing'}"


def reason(error: BaseException) -> str:
    """An exception as part of a line: its type and the first line of its message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {plain(lines[0], 160)}" if lines else type(error).__name__
