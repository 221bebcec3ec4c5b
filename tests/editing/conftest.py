"""Shortcuts for the tests of editing."""

from __future__ import annotations

import pytest

from rectify.editing import warps


@pytest.fixture
def one_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warps of one grid alone are guessed: the others take most of the time and are tried in a test of their own."""
    monkeypatch.setattr(warps, "GRIDS", (4,))
