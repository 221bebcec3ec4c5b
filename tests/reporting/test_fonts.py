"""Names that the bundled font cannot draw: another font, else escapes; never boxes, never a warning."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager

from rectify.reporting import fonts
from rectify.reporting.fonts import drawable, families
from rectify.reporting.heatmaps import Map, overlay_picture
from rectify.reporting.plots import layers_plot, pair_picture
from tests.reporting import samples

NAME = "中文 é.png"


@pytest.fixture
def only_bundled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """No fonts but matplotlib's own, whatever this machine has; a glyph that is missing is an error."""
    own = [font for font in fontManager.ttflist if "mpl-data" in font.fname]
    monkeypatch.setattr(fontManager, "ttflist", own)
    monkeypatch.setattr(warnings, "filterwarnings", lambda *_, **__: None)
    for cached in (fonts.family_with, fonts._characters):
        cached.cache_clear()
    yield own
    for cached in (fonts.family_with, fonts._characters):
        cached.cache_clear()


@pytest.fixture
def with_cjk(only_bundled: list[object], tmp_path: Path) -> str:
    """A font is installed that has the two characters, as a square and as a bar."""
    pen_square, pen_bar = TTGlyphPen(None), TTGlyphPen(None)
    for pen, right in ((pen_square, 900), (pen_bar, 300)):
        pen.moveTo((100, 0))
        for point in ((100, 800), (right, 800), (right, 0)):
            pen.lineTo(point)
        pen.closePath()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "zhong", "wen"])
    builder.setupCharacterMap({0x4E2D: "zhong", 0x6587: "wen"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "zhong": pen_square.glyph(), "wen": pen_bar.glyph()})
    builder.setupHorizontalMetrics(dict.fromkeys((".notdef", "zhong", "wen"), (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Han Of Tests", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "han.ttf")
    fontManager.addfont(tmp_path / "han.ttf")
    return "Han Of Tests"


def drawn(name: str, path: Path) -> bytes:
    random = np.random.default_rng(0)
    image, heat = random.random((8, 8, 3)), random.standard_normal((8, 8))
    overlay_picture(Map(image=image, heat=heat, caption=name), path)
    return path.read_bytes()


def test_what_the_bundled_font_has_is_drawn_as_it_is(only_bundled: list[object]) -> None:
    assert drawable("layer4[1] é λ Ж") == "layer4[1] é λ Ж"
    assert families("é λ", ["DejaVu Sans"]) == ["DejaVu Sans"]
    assert drawable("a\nb") == r"a\nb"


def test_without_a_font_there_are_escapes(only_bundled: list[object], tmp_path: Path) -> None:
    assert drawable(NAME) == r"\u4e2d\u6587 é.png"
    assert drawable("𝔸𠀀") == r"𝔸\U00020000"  # DejaVu has the letter of two strokes
    assert drawn("中中", tmp_path / "a.png") != drawn("文文", tmp_path / "b.png")  # boxes are all alike


def test_a_font_that_has_the_characters_is_used(with_cjk: str, tmp_path: Path, texts: dict[str, list[str]]) -> None:
    assert drawable(NAME) == NAME
    assert families(NAME, ["DejaVu Sans Mono"]) == ["DejaVu Sans Mono", with_cjk]
    assert drawable("中日") == r"中\u65e5"
    other = drawn("文中 é.png", tmp_path / "b.png")
    assert drawn(NAME, tmp_path / "a.png") != other
    assert texts[NAME][-1] == with_cjk and len(texts[NAME]) == 2


def test_a_broken_font_is_passed_over(only_bundled: list[object], tmp_path: Path) -> None:
    from matplotlib.font_manager import FontEntry

    (tmp_path / "broken.ttf").write_bytes(b"no font")
    fontManager.ttflist.insert(0, FontEntry(fname=str(tmp_path / "broken.ttf"), name="A Sans"))
    assert drawable("中") == r"\u4e2d"


def test_all_pictures_take_any_name(only_bundled: list[object], tmp_path: Path, texts: dict[str, list[str]]) -> None:
    report = samples.localize_report()
    report["localize"]["layers"][0]["name"] = "層.1"
    layers_plot(report, tmp_path / "layers.png")
    assert r"\u5c64.1" in texts
    image = np.zeros((4, 4, 3))
    row = {"clean": image, "corrupted": image, "title": NAME, "label": "猫", "target": "犬"}
    row |= {"before": [{"name": "猫", "confidence": 0.9}, {"name": "犬", "confidence": 0.1}]}
    pair_picture([row], tmp_path / "pairs.png")  # type: ignore[list-item]
    assert {r"\u4e2d\u6587 é.png", r"true class: \u732b", r"\u732b (true)", r"\u72ac (target)"} <= texts.keys()
