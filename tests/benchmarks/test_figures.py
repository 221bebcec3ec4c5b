"""The figures are drawn from the committed results, and show them."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from benchmarks import figures
from benchmarks.runs import RESULTS, ROOT


def test_all_are_drawn_and_have_their_place_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "HOME", tmp_path / "figures")
    figures.main()
    page = (ROOT / "benchmarks" / "README.md").read_text()
    for name in figures.FIGURES:
        assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"(results/figures/{name}.png)" in page and (RESULTS / "figures" / f"{name}.png").exists()


def test_the_layers_are_those_of_the_result_in_the_order_of_the_network() -> None:
    found = {row["name"]: row["layers"] for row in json.loads((RESULTS / "localisation.json").read_text())}
    for axes, name in zip(figures.layers().axes, figures.SHOWN, strict=True):
        rows = sorted(found[name], key=lambda layer: layer["last_layer"])
        drawn = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) > 2}
        np.testing.assert_allclose(drawn["recovery"], [100 * row["recovery"] for row in rows])
        np.testing.assert_allclose(drawn["attack success"], [100 * row["asr"] for row in rows])


def test_networks_with_one_pair_alone_are_not_drawn_over_the_number_of_pairs() -> None:
    for axes in figures.pairs().axes:
        assert len(axes.lines) > 1
        for line in axes.lines[:-1]:  # the last is zero
            assert len(line.get_xdata()) > 1


def test_ours_is_drawn_where_its_rows_are() -> None:
    rows = [row for row in json.loads((RESULTS / "rivals.json").read_text()) if "with" not in row]
    before = {row["network"]: row for row in rows if row["method"] == "untouched"}
    lost = [100 * (before[r["network"]]["accuracy"] - r["accuracy"]) for r in rows if r["method"] == "ours"]
    axes = figures.costs().axes[0]
    line = [label.get_text() for label in axes.get_yticklabels()].index("ours")
    drawn = [float(np.asarray(dots.get_xdata())[0]) for dots in axes.lines if np.asarray(dots.get_ydata())[0] == line]
    assert any(x == pytest.approx(median(lost)) for x in drawn) and any(x == pytest.approx(max(lost)) for x in drawn)
