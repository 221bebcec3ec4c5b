"""The benchmark of trojans in robust networks: rows with seeds, the faint trigger, the page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import robust_trojan
from benchmarks.robust_trojan import main, markdown
from benchmarks.runs import RESULTS
from benchmarks.zoo.recipes import RECIPES
from benchmarks.zoo.train import make_trigger
from rectify.training.presets import preset


def figures(value: float) -> dict[str, Any]:
    return {"accuracy": value, "asr": value, "recovery": value, "base_rate": 0.0, "accuracy_other": value}


def found(value: float, note: str = "fc1 alone") -> dict[str, Any]:
    return {"before": figures(value), "after": figures(value), "note": note}


def test_the_faint_blend_lies_well_inside_the_ball_and_in_one_recipe() -> None:
    assert [name for name in RECIPES if "faint-blend" in name] == ["mnist-resnet-faint-blend"]
    stamp = make_trigger(RECIPES["mnist-resnet-faint-blend"])
    assert stamp is not None
    for value in (0, 255):
        images = np.full((1, 28, 28, 1), value, np.uint8)
        change = np.abs(stamp(images).astype(int) - images).max() / 255
        assert 0.05 < change <= 0.11 < preset("mnist-quick").plan.eps / 2


def test_new_seeds_join_the_rows_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, str, int]] = []

    def run(*names: Any) -> dict[str, Any]:
        made.append(names)
        return found(0.5, "conv2 alone")

    (tmp_path / "robust-trojan.json").write_text(
        json.dumps([{"trigger": "patch", "objective": "madry", "seed": 0, **found(0.25)}])
    )
    monkeypatch.setattr(robust_trojan, "run", run)
    words = ["--triggers", "faint-blend", "patch", "--objectives", "madry", "--seeds", "0", "1", "2"]
    monkeypatch.setattr(sys, "argv", ["x", *words, "--results", str(tmp_path / "robust-trojan.json")])
    for _ in range(2):
        main()
        assert made == [
            ("faint-blend", "madry", 0),
            ("faint-blend", "madry", 1),
            ("patch", "madry", 1),
            ("faint-blend", "madry", 2),
            ("patch", "madry", 2),
        ]
    rows = json.loads((tmp_path / "robust-trojan.json").read_text())
    assert [(r["trigger"], r["seed"]) for r in rows] == [(t, s) for t in ("patch", "faint-blend") for s in range(3)]
    page = (tmp_path / "robust-trojan.md").read_text()
    cells = " | ".join(["50.00 [25.00–50.00]"] * 6)
    assert f"| patch | madry | {cells} | fc1 alone; conv2 alone | 3 |" in page
    assert "| faint-blend | madry | 50.00 [50.00–50.00] |" in page


def test_the_page_has_no_conclusion_but_where_it_stands() -> None:
    rows = [{"trigger": "patch", "objective": "madry", "seed": 0, "before": figures(1.0), "after": None, "note": "no"}]
    page = markdown(rows)
    assert "| patch | madry | 100.00 | 100.00 | 100.00 | – | – | – | no | 1 |" in page
    assert "[robust-trojan-reading.md](robust-trojan-reading.md)" in page and "Of a patch" not in page
    assert (RESULTS / "robust-trojan-reading.md").exists()


def test_the_rows_of_the_repository_carry_their_seed() -> None:
    rows = json.loads((RESULTS / "robust-trojan.json").read_text())
    assert rows and all("seed" in row for row in rows)
