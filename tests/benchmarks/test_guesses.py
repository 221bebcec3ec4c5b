"""The benchmark of the guesses: what it draws, and that its errors are those of the guess."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from benchmarks import guesses, stand_ins
from benchmarks.zoo import datasets
from rectify.editing.guess import Corruption


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = torch.rand(60, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, (28, 28), mode="bicubic").clamp(0, 1)
    images = (255 * smooth).byte().permute(0, 2, 3, 1).numpy()
    split = datasets.Split(images, np.zeros(60, np.int64))
    monkeypatch.setattr(datasets, "load", lambda name: (split, split))


def test_nothing_done_misses_all_and_the_trigger_itself_nothing() -> None:
    clean, corrupted = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    assert guesses.share_missed(Corruption("none", lambda x: x), clean, corrupted) == pytest.approx(1.0)
    assert guesses.share_missed(Corruption("all", lambda x: corrupted), clean, corrupted) == 0.0


@pytest.mark.parametrize("kind", guesses.KINDS)
def test_every_kind_is_told_from_a_smooth_picture(kind: str, pictures: None) -> None:
    row = guesses.measured(kind, "mnist", 2)
    told = [error for error in row["errors"] if error is not None]
    assert min(told) < 0.3 if kind != "mark" else not told  # of a mark no trait is clear: it is tried by what fires
    assert (min(row["warp_leaves"]) < 0.05) == (kind in ("warp of a grid", "free elastic field"))
    assert "| " + kind + " | mnist | 2 |" in guesses.markdown([row])


def test_unclear_pairs_are_counted_and_not_averaged() -> None:
    rows = [{"kind": "k", "dataset": "d", "errors": [None, 0.25, 0.75], "warp_leaves": [0.5, 0.4], "seconds": 1.0}]
    assert "| k | d | 3 | 1 | 0.5000 | 0.7500 | 0.4000 | 1.0 |" in guesses.markdown(rows)
    rows[0]["errors"] = [None]
    assert "| k | d | 1 | 1 | – | – | 0.4000 | 1.0 |" in guesses.markdown(rows)


@pytest.mark.parametrize(("table", "kind"), [(guesses, "noise blended in"), (stand_ins, "two convolutions")])
def test_the_results_are_written(
    table: ModuleType, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: None
) -> None:
    monkeypatch.setattr(table, "KINDS", {kind: table.KINDS[kind]})
    monkeypatch.setattr(sys, "argv", ["x", "--draws", "1", "--results", str(tmp_path / "found.json")])
    table.main()
    monkeypatch.setattr(table, "measured", lambda *_: pytest.fail("a row that is there is run again"))
    table.main()
    rows = json.loads((tmp_path / "found.json").read_text())
    assert [row["dataset"] for row in rows] == list(guesses.DATASETS) and (tmp_path / "found.md").exists()
