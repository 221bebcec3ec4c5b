"""The page of the benchmark: figures, spreads and the published values beside them."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.robust_attribution import FIGURES, OBJECTIVES, markdown, passes


def row(objective: str, seed: int, value: float | None) -> dict[str, Any]:
    errors = {f"{key}_error": 0.01 for key in FIGURES[1:]}
    return {"set": "mnist", "objective": objective, "seed": seed, **dict.fromkeys(FIGURES, value), **errors}


def test_the_page_has_ours_with_spread_and_theirs_in_parentheses() -> None:
    speeds = [
        {"objective": "madry", "ms_an_image": 2.0, "epochs_a_minute": 0.5, "slower_than_natural": 8.0, "passes": 8}
    ]
    page = markdown([row("natural", 0, 0.5), row("madry", 0, 0.25), row("madry", 1, 0.75)], speeds)
    assert "| NATURAL | 50.0 (99.2) | 50.0 ± 1.0 (0.0) | 50.0 ± 1.0 (46.6) | 0.500 ± 0.010 (0.176) | 1 |" in page
    assert "| Madry | 50.0 ± 50.0 | 50.0 ± 50.0 |" in page and "| madry | 2.00 | 0.500 | 8.0 | 8 |" in page


def test_what_was_not_measured_is_a_dash() -> None:
    assert "| NATURAL | – | – | – | – | 1 |" in markdown([row("natural", 0, None)], [])


@pytest.mark.parametrize(
    ("objective", "count"), [("natural", 1), ("madry", 8), ("ig-norm", 49), ("ig-sum-norm", 49), ("input-gradient", 3)]
)
def test_passes_of_a_step(objective: str, count: int) -> None:
    """Seven attack steps over two of ten path points: each point is a pass that is differentiated twice."""
    assert passes(objective, 7, 10, 2) == count


def test_every_row_has_a_name() -> None:
    assert list(OBJECTIVES) == ["natural", "madry", "ig-norm", "ig-sum-norm"]
