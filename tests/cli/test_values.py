"""What single values may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from rectify.cli import values


@pytest.mark.parametrize(
    ("reader", "raw", "meaning"),
    [
        (values.text, 4, "4"),
        (values.path, "~/x", Path.home() / "x"),
        (values.switch, "Yes", True),
        (values.switch, False, False),
        (values.whole(0), "0", 0),
        (values.whole(1), 7, 7),
        (values.seed, "9223372036854775807", 2**63 - 1),
        (values.path, "\udcff.pt", Path("\udcff.pt")),  # bytes of a name that are no text
        (values.number, "1e-3", 0.001),
        (values.number, 2, 2.0),
        (values.fraction, "0.05", 0.05),
        (values.fraction, 1, 1.0),
        (values.floor, "3.5", 3.5),
        (values.auto_or_rank, "auto", "auto"),
        (values.auto_or_rank, 2, "2"),
        (values.device, "cuda:1", "cuda:1"),
        (values.arguments, ["width=16", "name=wide", "deep=true", "sizes=[1, 2]", "x=a=b", "n=None"],
         {"width": 16, "name": "wide", "deep": True, "sizes": [1, 2], "x": "a=b", "n": None}),
        (values.arguments, {"width": 16}, {"width": 16}),
        (values.numbers, "0.49, 0.48,0.45", [0.49, 0.48, 0.45]),
        (values.numbers, "[0.5]", [0.5]),
        (values.numbers, 0.5, [0.5]),
        (values.numbers, [1, 2.5], [1.0, 2.5]),
        (values.size, "32", 32),
        (values.size, "3x32x24", [3, 32, 24]),
        (values.size, [1, 28, 28], [1, 28, 28]),
        (values.preprocess, "imagenet", Path("imagenet")),
        (values.preprocess, {"mean": 1}, {"mean": 1}),
    ],
)  # fmt: skip
def test_good(reader, raw, meaning) -> None:
    assert reader(raw) == meaning


@pytest.mark.parametrize(
    ("reader", "raw"),
    [
        *[(values.text, raw) for raw in ("", True, None, [], {})],
        *[(values.path, raw) for raw in ("", " ", 3, None, "a\0b", "a\ud800b")],
        *[(values.switch, raw) for raw in ("maybe", 2, None)],
        *[(values.whole(1), raw) for raw in ("0", "1.5", 1.0, True, "x", None, "", [])],
        *[(values.seed, raw) for raw in (2**63, str(2**64), -1, 1.0, True, None)],
        *[(values.number, raw) for raw in ("nan", "inf", "", None, True, [], "1,5")],
        *[(values.fraction, raw) for raw in ("-0.1", "1.01", "50", 101, "nan")],
        *[(values.floor, raw) for raw in (-1, "nan")],
        *[(values.auto_or_rank, raw) for raw in ("0", "full", -1, True, None)],
        *[(values.device, raw) for raw in ("gpu", "cuda:", "cuda:x", "cpu:0", True)],
        *[(values.arguments, raw) for raw in ("width", ["=3"], ["a b=3"], 3, {"a-b": 1}, None)],
        *[(values.numbers, raw) for raw in ("", "a", [None], {}, "0.5;0.5")],
        *[(values.size, raw) for raw in ("", "0", "1,2", [1, 2, 3, 4], 1.5, "x", None)],
        *[(values.preprocess, raw) for raw in (3, [], "")],
    ],
)
def test_bad(reader, raw) -> None:
    with pytest.raises(ValueError, match="must be"):
        reader(raw)


def test_percent_is_recognised() -> None:
    with pytest.raises(ValueError, match=r"5 percent is 0\.05"):
        values.fraction("5")
    with pytest.raises(ValueError, match=r"not ' 2\.5 % '; 2\.5 percent is 0\.025"):
        values.fraction(" 2.5 % ")
    with pytest.raises(ValueError, match="must be a number, not 'x'"):
        values.fraction("x%")
