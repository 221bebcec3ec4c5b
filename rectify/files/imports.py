"""Importing the user's own code without letting it disturb ours."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def current_folder_importable() -> Iterator[None]:
    """Let imports find the current folder first, as ``python script.py`` does, and send prints to stderr.

    A module that prints when imported would otherwise write into the report on stdout.
    """
    try:
        folder = os.getcwd()
    except OSError:  # the folder was deleted under us
        folder = os.sep
    sys.path.insert(0, folder)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)
