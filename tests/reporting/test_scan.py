"""What a scan says: the table, the sentence over it, and the contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rectify.reporting.content import headline
from rectify.reporting.render import render
from rectify.reporting.scan import PAGE, TEXT, scan_table
from rectify.reporting.suspects import ACROSS, MOST, SuspectPicture, suspects_picture
from rectify.reporting.tables import tables
from tests.reporting.samples import digit, localize_report, photo, scan_report, scanned


def test_the_table_has_the_most_suspicious_images_first() -> None:
    table = scan_table(scan_report())
    assert table is not None and len(table.rows) == 40
    assert table.title.startswith("Images by suspicion (keys of layer1.1.conv2, ")
    assert [row[0].text for row in table.rows[:2]] == ["1", "2"] and table.rows[0][1].text == "0/00000.png"
    assert table.rows[0][3].text == "suspicious" and table.rows[0][4].text == "3 (target)"
    assert table.rows[15][3].text == "" and table.rows[15][4].text == "5"
    assert [row[2].bar for row in table.rows] == sorted((row[2].bar or 0.0 for row in table.rows), reverse=True)
    assert all(words in table.note for words in ("above 0.420", "1.2% of clean images", "judged on 80", "98.8% of"))


def test_long_lists_are_cut_and_say_so() -> None:
    report = scan_report(PAGE + 100)
    short, page = scan_table(report, 24), scan_table(report)
    assert short is not None and page is not None
    assert (len(short.rows), len(page.rows)) == (TEXT, PAGE)
    assert f"{PAGE + 100 - TEXT} more images" in short.note and "100 more images" in page.note


def test_it_comes_before_the_layers() -> None:
    keys = [table.key for table in tables(scan_report())]
    assert keys.index("scan") < keys.index("layers")
    assert "scan" not in [table.key for table in tables(localize_report())]


def test_the_headline_counts_and_tells_how_many_would_be_by_chance() -> None:
    assert "15 of 40 images are suspicious; of as many clean ones about one or none would be" in headline(scan_report())
    assert "about 12 or fewer would be" in headline(scan_report(1000))
    assert "suspicious" not in headline(scan_report(threshold=None))


def test_without_a_threshold_nothing_is_called_suspicious() -> None:
    text = " ".join(render(scan_report(threshold=None), "text").split())
    assert "Suspicion: 0 is the median clean image" in text and "suspicious" not in text.lower()
    table = scan_table(scan_report(threshold=None))
    assert table is not None and "fires most at" not in [column.title for column in table.columns]


def test_an_image_without_a_suspicion_is_a_dash() -> None:
    report = scan_report(3)
    report["scan"]["images"][2] = scanned(2, None, suspicious=None, peak=None)
    table = scan_table(report)
    assert table is not None and table.rows[2][2].text == "–" and table.rows[2][2].bar is None


# ---------------------------------------------------------------- the contact sheet


def suspect(*, heat: bool = True, suspicious: bool = True, colour: bool = True) -> SuspectPicture:
    spot = np.full((4, 4), -0.5)
    spot[3, 3] = 1.2
    image = photo() if colour else digit()
    return SuspectPicture(image, spot if heat else None, ("$a_b$ 层.png", "suspicion 1.1, class 3"), suspicious)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_the_sheet_shows_where_the_fault_fires(tmp_path: Path) -> None:
    suspects_picture([suspect(suspicious=False, colour=False)], tmp_path / "hot.png", title="T")
    suspects_picture([suspect(heat=False, suspicious=False, colour=False)], tmp_path / "plain.png", title="T")

    def orange(path: Path) -> int:
        red, green, blue = np.moveaxis(pixels(path), 2, 0)
        return int(((red > 170) & (green < 150) & (blue < 90)).sum())

    assert orange(tmp_path / "hot.png") > 200 and orange(tmp_path / "plain.png") == 0


def test_cold_places_have_no_colour(tmp_path: Path) -> None:
    cold = SuspectPicture(digit(), np.full((7, 7), -3.0), ("a",), False)
    suspects_picture([cold], tmp_path / "a.png")
    assert int(np.ptp(pixels(tmp_path / "a.png"), axis=2).max()) < 45  # but for the ink of the letters


def test_the_sheet_is_as_long_as_it_must_be(tmp_path: Path) -> None:
    heights = []
    for amount in (1, ACROSS, ACROSS + 1, MOST, MOST + 9):
        suspects_picture([suspect(colour=False)] * amount, tmp_path / "a.png")
        heights.append(pixels(tmp_path / "a.png").shape[0])
    assert heights[0] == heights[1] < heights[2] < heights[3] == heights[4]


def test_equal_sheets_have_equal_bytes_and_an_empty_one_is_refused(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        suspects_picture([suspect(), suspect(heat=False)], tmp_path / name, title="T")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(ValueError, match="no images"):
        suspects_picture([], tmp_path / "c.png")
