"""Refusing to read what may have no end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from rectify.errors import RectifyError
from rectify.files.words import plain

_HANDED_OVER = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")


def refuse_endless(path: Path, kind: type[RectifyError], give: str, *, piped: bool = False) -> None:
    """Refuse what is neither a file nor a folder: a device may never end, and a FIFO may never begin.

    Parameters
    ----------
    path : Path
        What is to be read; whether it is there is for the reader to find out.
    kind : type
        The error to raise.
    give : str
        What to give instead, for the message.
    piped : bool
        Whether a shell may hand over a pipe, by ``<(…)`` or ``|``: it ends with the program that writes it, and can
        be read once.

    Raises
    ------
    RectifyError
        Of this kind.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    handed_over = piped and stat.S_ISFIFO(mode) and str(path).startswith(_HANDED_OVER)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or handed_over):
        raise kind(f"{plain(path)} is neither a file nor a folder: {give}")
