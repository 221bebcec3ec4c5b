"""How figures and names are written."""

from __future__ import annotations

import math

import pytest

from rectify.reporting.words import aligned, bar, layer_kind, number, percent, plural, points, printable, size, to_ascii


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9937, "99.37%"),
        (0.0, "0.00%"),
        (1.0, "100.00%"),
        (-1e-9, "0.00%"),
        (None, "–"),
        (math.nan, "–"),
        (-0.5, "-50.00%"),
    ],
)
def test_percent(value: float | None, text: str) -> None:
    assert percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12.3456, "12.35"), (0.0, "0"), (1234567.0, "1.23e+06"), (0.00001234, "1.23e-05"), (123456.0, "123456"),
        (0.5, "0.5000"), (-12.3456, "-12.35"), (None, "–"), (math.inf, "–"),
    ],
)  # fmt: skip
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


def test_number_with_three_figures() -> None:
    assert [number(value, 3) for value in (0.9981, 0.0019, 214.2)] == ["0.998", "0.0019", "214"]


def test_points_are_signed() -> None:
    assert [points(value) for value in (0.9894, -0.0016, 0.0, -1e-7, None)] == ["+98.94", "-0.16", "0.00", "0.00", "–"]


def test_numbers_of_one_column_have_the_same_decimals() -> None:
    texts = aligned([12.334, 9.89, 1.68, 0.004, None, 0.0, math.nan])
    assert texts == ["12.33", "9.89", "1.68", "<0.01", "–", "0.00", "–"]
    assert aligned([1e9, 1.0]) == ["1.0e+09", "1.00"]
    assert aligned([None]) == ["–"]


def test_bars() -> None:
    assert [bar(share, 4) for share in (0.0, 1e-9, 0.5, 1.0, 7.0, None)] == [
        "    ",
        "▏   ",
        "██  ",
        "████",
        "████",
        "    ",
    ]
    assert [bar(share, 4, ascii_only=True) for share in (0.0, 0.01, 0.5, 1.0)] == ["    ", "#   ", "##  ", "####"]


def test_small_words() -> None:
    assert (plural(1, "pair"), plural(1200, "pair")) == ("1 pair", "1,200 pairs")
    assert [size(value) for value in (12, 4312, 44_700_000, 2_100_000_000, None)] == [
        "12 bytes",
        "4.3 kB",
        "44.7 MB",
        "2.1 GB",
        "–",
    ]
    assert layer_kind("conv", [16, 3, 3, 5]) == "conv 3×5"
    assert layer_kind("linear", [10, 128]) == "linear"
    assert layer_kind("conv", None) == "conv"


def test_names_stay_verbatim_but_cannot_drive_the_terminal() -> None:
    assert printable("layer4[1] [bold]x naïve→層 :smile:") == "layer4[1] [bold]x naïve→層 :smile:"
    assert printable("a\x1b[31mb\nc\u202ed\udc80") == r"a\x1b[31mb\nc\u202ed\udc80"
    assert to_ascii("≤ 5 · naïve→層") == "<= 5 - na\\xefve->\\u5c64"
