"""What a report says of a training."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rectify.reporting.build import conclude, empty_report
from rectify.reporting.render import FORMATS, render
from rectify.reporting.tables import tables
from rectify.reporting.training import history_plot, history_table, train_facts, train_headline
from rectify.reporting.verdict import decide
from tests.reporting.samples import SHA

SETTINGS = {
    "eps": 0.3,
    "attack_steps": 7,
    "path_points": 10,
    "attack_points": 2,
    "weight": 0.1,
    "epoch_size": 4000,
    "batch_size": 50,
    "optimiser": "adam",
    "schedule": [[0, 0.002], [600, 0.0005]],
}


def report(epochs: int = 3, *, val: bool = True, attacked: bool = True) -> dict[str, Any]:
    history = [
        {"epoch": e + 1, "loss": 2.0 / (e + 1), "val_accuracy": 0.9 if val else None, "lr": 0.002, "eps": 0.1}
        for e in range(epochs)
    ]
    train = {
        "objective": "ig-sum-norm",
        "preset": "mnist-quick",
        "epochs": epochs,
        "settings": SETTINGS,
        "history": history,
        "judged_on": "val" if val else "data",
        "val": {"count": 100, "sha256": SHA} if val else None,
        "natural_accuracy": 0.97,
        "adversarial_accuracy": 0.8 if attacked else None,
        "topk_intersection": 0.75 if attacked else None,
        "kendall": 0.41 if attacked else None,
        "spread": {"topk_intersection": 0.05, "kendall": 0.02},
        "tie_share": 0.3,
        "attacks": {"label": {"images": 5}, "map": {"images": 4}} if attacked else None,
        "out": {"path": "m.safetensors", "sha256": SHA, "bytes": 3_300_000},
    }
    return conclude(empty_report("train") | {"train": train}, decide([]))


def test_the_headline_names_the_figures() -> None:
    line = train_headline(report())
    assert line == (
        "ig-sum-norm, 3 epochs: natural accuracy 97.00% (100 images), adversarial accuracy 80.00% (5 images), "
        "top-k intersection 75.00% (4 images), Kendall's tau 0.410"
    )
    assert train_headline(report(attacked=False)).endswith("natural accuracy 97.00% (100 images)")
    unknown = report(val=False)
    unknown["train"]["attacks"] = {"label": {}}  # of an earlier version
    assert "(" not in train_headline(unknown)


def test_each_figure_says_of_how_many_images_it_is() -> None:
    table = next(table for table in tables(report()) if table.key == "train")
    assert [row[-1].text for row in table.rows] == ["100", "5", "4", "4"]
    assert "Spread: standard deviation over the images." in table.note


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_tells_it(format: str) -> None:
    assert "97" in render(report(), format) or format in ("junit", "github")


def test_facts() -> None:
    facts = dict(train_facts(report()["train"]))
    assert facts["training"] == (
        "ig-sum-norm · preset mnist-quick · weight 0.1 · eps 0.300 · 7 attack steps · 10 path points (2 in the attack)"
    )
    assert facts["course"] == "3 epochs of 4,000 images · batch 50 · adam 0.002 then 0.0005"
    assert "give --val for honest figures" in dict(train_facts(report(val=False)["train"]))["judged on"]


@pytest.mark.parametrize(("epochs", "rows"), [(1, 1), (12, 12), (13, 7), (100, 12)])
def test_a_long_course_is_thinned(epochs: int, rows: int) -> None:
    table = history_table(report(epochs))
    assert table is not None and len(table.rows) == rows
    assert table.rows[0][0].text == "1" and table.rows[-1][0].text == str(epochs)


def test_what_was_not_attacked_has_no_row() -> None:
    first = next(table for table in tables(report(attacked=False)) if table.key == "train")
    assert len(first.rows) == 1 and not first.note


@pytest.mark.parametrize("val", [True, False])
def test_the_picture(val: bool, tmp_path: Path) -> None:
    history_plot(report(70, val=val), tmp_path / "a.png")
    history_plot(copy.deepcopy(report(70, val=val)), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 1000 if val else picture.width < 700


def test_no_history_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no history"):
        history_plot(empty_report("train"), tmp_path / "a.png")
