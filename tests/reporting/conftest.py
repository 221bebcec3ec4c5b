"""What pictures say, for the tests of reports."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Each text of the picture that was drawn last, and the font families it is drawn in."""
    said: dict[str, list[str]] = {}
    save = Figure.savefig

    def looks(figure: Figure, *args: object, **more: object) -> None:
        seen = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
        said.clear()
        said.update({text.get_text(): text.get_fontfamily() for text in seen})
        assert not any(text.get_parse_math() for text in seen if "$" in text.get_text())  # a name is no formula
        save(figure, *args, **more)

    monkeypatch.setattr(Figure, "savefig", looks)
    return said
