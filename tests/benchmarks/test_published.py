"""The page of published tables is what the committed results give, and marks are put where they are said to be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks import published, transfer
from benchmarks.runs import RESULTS
from benchmarks.zoo import datasets, triggers


def test_the_committed_page_is_that_of_the_committed_results() -> None:
    assert (RESULTS / "published.md").read_text() == published.page()


def test_several_rows_come_to_a_median_and_a_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"accuracy": a, "asr": b, "recovery": c} for a, b, c in ((0.9, 0.0, 0.8), (0.8, 0.2, 0.9), (0.7, 0.1, 0.7))]
    assert published.three(rows) == "80.00 (70.00) / 10.00 (20.00) / 80.00 (70.00)"
    assert published.three(rows[:1]) == "90.00 / 0.00 / 80.00" and published.three([]) == "–"
    monkeypatch.setattr(published, "load", lambda name: [])
    assert all(
        figure in published.page() for figure in ("93.67 / 99.94", "+26.0", "3.597", "8.95")
    )  # quoted all the same


def test_a_mark_lies_where_its_column_says() -> None:
    black = np.zeros((1, 32, 32, 3), np.uint8)
    for (visible, place), (top, left) in (((1.0, "br"), (27, 27)), ((0.5, "tl"), (1, 1)), ((0.3, "c"), (14, 14))):
        made = transfer.square(visible, place)(black)
        rows, columns = made[0].any(2).nonzero()
        assert (rows.min(), columns.min()) == (top, left) and (rows.max(), columns.max()) == (top + 3, left + 3)
        assert tuple(made[0, top, left]) == (round(255 * visible), round(255 * visible), 0)
    assert transfer.column(1.0, "br") == "br 1" and transfer.column(0.3, "tl") == "tl 0.3"


def test_a_roaming_mark_is_in_all_places_and_of_all_strengths() -> None:
    made = triggers.roaming(seed=3)(np.zeros((200, 32, 32, 3), np.uint8))
    strengths = made.max((1, 2, 3))
    assert strengths.min() < 0.4 * 255 and strengths.max() > 0.9 * 255 and strengths.min() >= round(0.3 * 255) - 1
    places = {tuple(int(axis.min()) for axis in image.any(2).nonzero()) for image in made}
    assert len(places) == len(triggers.PLACES)


def test_the_page_of_marks_has_attack_success_and_recovery() -> None:
    marks = [transfer.column(*mark) for mark in transfer.VARIANTS]
    one: dict[str, Any] = {"accuracy": 0.9, "base": 0.01, "others": 0.88}
    rows = [{**one, **{mark: [hit, right] for mark in marks}} for hit, right in ((1.0, 0.0), (0.01, 0.9), (0.03, 0.8))]
    shown = transfer.table(rows).splitlines()
    assert shown[-2].startswith("| untouched (1) | 90.00 | 1.00 | 88.00 | 100.0 / 0.0 |")
    assert shown[-1].count("2.0 (3.0) / 85.0 (80.0)") == len(marks)


def test_a_mark_is_measured_on_the_images_of_other_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    target = transfer.RECIPES[transfer.NAME].target
    labels = np.array([target, 1, 1, 1])

    def predict(network: object, images: np.ndarray, dataset: str) -> np.ndarray:
        marked = images[:, 27, 27, 0] > 100
        return np.where(marked, target, 1)

    monkeypatch.setattr(transfer, "predict", predict)
    judged = datasets.Split(np.zeros((4, 32, 32, 3), np.uint8), labels)
    found = transfer.measure(transfer.nn.Identity(), judged)
    assert found["accuracy"] == 0.75 and found["base"] == 0 and found["others"] == 1
    assert found["br 0.5"] == [1.0, 0.0] and found["br 0.3"] == [0.0, 1.0] and found["tl 0.5"] == [0.0, 1.0]
