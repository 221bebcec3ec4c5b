"""The solar cells: the sticker, the page, and that no row is run twice; pictures and weights stay out of the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import solar
from benchmarks.zoo.datasets import Split

FIGURES = {"accuracy": 0.9, "without": 0.8, "with": 1.0, "pull": 0.6, "base": 0.1, "recovery": 0.4}


def row(method: str, seed: int = 0, pair: int | None = 0, **other: Any) -> dict[str, Any]:
    return {"seed": seed, "method": method, "pair": pair, **FIGURES, "seconds": 10.0, **other}


def test_the_sticker_covers_its_square_and_nothing_else() -> None:
    images = np.zeros((2, solar.SIZE, solar.SIZE, 3), np.uint8)
    made = solar.stickered(images)
    assert not images.any() and (made.any(3).sum((1, 2)) == solar.STICKER**2).all()
    assert tuple(made[0, solar.MARGIN, solar.MARGIN]) == solar.YELLOW


def test_the_page_has_median_and_worst_and_leaves_out_what_failed() -> None:
    worse = {"accuracy": 0.7, "with": 0.5, "pull": 0.9}
    rows = [row("untouched", pair=None), row("ours"), row("ours", seed=1), row("ours", seed=2, **worse)]
    shown = solar.table([*rows, {"seed": 3, "method": "ours", "pair": 0, "error": "exit code 3"}])
    (line,) = [line for line in shown.splitlines() if line.startswith("| ours |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "90.0 (70.0)" and cells[4] == "20.0 (-30.0)" and cells[5] == "60.0 (90.0)" and cells[-1] == "3"
    assert "static rectifying" not in shown


def test_rows_that_are_there_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[int, int]] = []

    def repair(folder: Path, pair: int, number: int, flags: tuple[str, ...]) -> dict[str, Any]:
        ran.append((pair, number))
        return dict(FIGURES)

    monkeypatch.setattr(solar, "network", lambda seed: solar.nn.Linear(1, 1))
    monkeypatch.setattr(solar, "measure", lambda model: dict(FIGURES))
    monkeypatch.setattr(solar, "lay_out", lambda model, folder: 5)
    monkeypatch.setattr(solar, "repair", repair)
    made = [row("untouched", pair=None), row("ours"), row("static rectifying")]
    kept: list[int] = []
    solar.rows(0, 2, made, list(solar.REPAIRS), lambda: kept.append(len(made)))
    assert ran == [(1, 1), (1, 1)] and kept == [4, 5]  # and of ten pairs there are not enough
    solar.rows(0, 2, made, list(solar.REPAIRS), lambda: kept.append(len(made)))
    assert len(made) == 5


def test_pairs_are_defective_cells_on_which_the_sticker_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = solar.TRAINED + solar.JUDGED + solar.CALIBRATION + 6
    images, labels = np.zeros((count, solar.SIZE, solar.SIZE, 3), np.uint8), np.zeros(count, np.int64)
    labels[-4:] = solar.DEFECTIVE
    images[-4:, -1, -1] = 255  # a defective cell shows it
    labels[-1] = solar.FUNCTIONAL  # and this one is not recognised

    def predict(model: object, images: np.ndarray) -> np.ndarray:
        marked = images[:, solar.MARGIN, solar.MARGIN, 1] == solar.YELLOW[1]
        return np.where(marked, solar.FUNCTIONAL, (images[:, -1, -1, 0] == 255).astype(np.int64))

    monkeypatch.setattr(solar, "cells", lambda: Split(images, labels))
    monkeypatch.setattr(solar, "predict", predict)
    assert solar.lay_out(solar.nn.Identity(), tmp_path) == 3
    assert len(list((tmp_path / "calibration").glob("*.png"))) == solar.CALIBRATION
    assert sorted(path.name for path in (tmp_path / "poisoned").iterdir()) == ["0.png", "1.png", "2.png"]
