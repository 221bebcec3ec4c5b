"""The page of the benchmark: figures, spreads and the published values beside them; rows that are kept and joined."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import robust_attribution
from benchmarks.robust_attribution import FIGURES, OBJECTIVES, main, markdown, passes
from benchmarks.runs import RESULTS


def row(objective: str, seed: int, value: float | None) -> dict[str, Any]:
    errors = {f"{key}_error": 0.01 for key in FIGURES[1:]}
    return {"set": "mnist", "objective": objective, "seed": seed, **dict.fromkeys(FIGURES, value), **errors}


def test_the_page_has_ours_with_spread_and_theirs_in_parentheses() -> None:
    speeds = [
        {"objective": "madry", "ms_an_image": 2.0, "epochs_a_minute": 0.5, "slower_than_natural": 8.0, "passes": 8}
    ]
    page = markdown([row("natural", 0, 0.5), row("madry", 0, 0.25), row("madry", 1, 0.75)], speeds)
    assert "| NATURAL | 50.0 (99.2) | 50.0 ± 1.0 (0.0) | 50.0 ± 1.0 (46.6) | 0.500 ± 0.010 (0.176) | 1 |" in page
    assert "| Madry | 50.0 [25.0–75.0] | 50.0 [25.0–75.0] |" in page and "| madry | 2.00 | 0.500 | 8.0 | 8 |" in page


def test_of_several_seeds_the_median_stands_before_the_range() -> None:
    page = markdown([row("natural", seed, value) for seed, value in enumerate((0.2, 0.9, 0.4))], [])
    assert "| NATURAL | 40.0 [20.0–90.0] (99.2) |" in page and "0.400 [0.200–0.900] (0.176) | 3 |" in page
    assert "the median" in page and "their range (least to greatest)" in page


def test_the_page_has_no_conclusion_but_where_it_stands() -> None:
    page = markdown([row("natural", 0, 0.5)], [])
    assert "[robust-attribution-reading.md](robust-attribution-reading.md)" in page
    assert (RESULTS / "robust-attribution-reading.md").exists() and "eproduced" not in page


def test_rows_that_are_there_are_kept_and_new_seeds_join_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int]] = []

    def train(name: str, objective: str, seed: int, quick: bool, cache: Path) -> dict[str, Any]:
        made.append((objective, seed))
        return {**row(objective, seed, 0.25), "set": name, "cpu_seconds": 1.0}

    speeds = [{"objective": "x", "ms_an_image": 1, "epochs_a_minute": 1, "slower_than_natural": 1, "passes": 1}]
    kept = [row("madry", 0, 0.75), {**row("ig-norm", 0, 0.5), "set": "fashion-mnist"}]
    (tmp_path / "robust-attribution.json").write_text(json.dumps({"rows": kept, "speed": speeds}))
    monkeypatch.setattr(robust_attribution, "row", train)
    monkeypatch.setattr(robust_attribution, "speed", None)  # it is there: nothing is measured
    words = [
        "--sets",
        "mnist",
        "--objectives",
        "madry",
        "natural",
        "--seeds",
        "0",
        "1",
        "--results",
        str(tmp_path / "robust-attribution.json"),
    ]
    monkeypatch.setattr(sys, "argv", ["x", *words, "--cache", str(tmp_path / "cache")])
    for _ in range(2):  # the second time everything is there
        main()
        assert made == [("natural", 0), ("madry", 1), ("natural", 1)]
    written = json.loads((tmp_path / "robust-attribution.json").read_text())
    assert [(r["set"], r["objective"], r["seed"], r["kendall"]) for r in written["rows"]] == [
        ("mnist", "natural", 0, 0.25),
        ("mnist", "natural", 1, 0.25),
        ("mnist", "madry", 0, 0.75),
        ("mnist", "madry", 1, 0.25),
        ("fashion-mnist", "ig-norm", 0, 0.5),
    ]
    assert written["speed"] == speeds
    assert "| Madry | 50.0 [25.0–75.0] |" in (tmp_path / "robust-attribution.md").read_text()


def test_a_row_of_the_cache_is_taken_as_it_lies(tmp_path: Path) -> None:
    found = {**row("madry", 2, 0.5), "cpu_seconds": 1.0}
    (tmp_path / "mnist-madry-2.json").write_text(json.dumps(found))
    assert robust_attribution.row("mnist", "madry", 2, False, tmp_path) == found


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
