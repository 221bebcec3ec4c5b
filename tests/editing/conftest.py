"""Shortcuts for the tests of editing."""

from __future__ import annotations

import pytest

from rectify.editing import corruption


@pytest.fixture
def one_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the coarsest warp is guessed: the others take most of the time and are tried in a test of their own."""
    monkeypatch.setattr(corruption, "WARP_GRIDS", (4,))
