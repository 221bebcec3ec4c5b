"""``rectify localize --scan`` on the shipped network with a patch: who is found, where, and what is written."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import torch
from PIL import Image

from rectify.editing.detector import Detector
from rectify.jobs.scan import _notes
from rectify.reporting import schema
from tests.oracles import area_under_roc

from .conftest import CALIBRATION_IMAGES, ROOT, Said, copy_images, model_flags, pair_flags, run_here

FIXTURE = ROOT / "fixtures" / "cifar10-patch"
TARGET, CLEAN, FIRED = 2, 6, 25  # clean images of each class
BASE = ["localize", str(FIXTURE / "model.safetensors"), *model_flags("cifar10-patch")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clean images of all classes and triggered ones of others, mixed in one folder; calibration images beside it."""
    place = tmp_path_factory.mktemp("scan")
    for label in range(10):
        for path in sorted((FIXTURE / "holdout" / str(label)).iterdir())[:CLEAN]:
            (place / "train" / str(label)).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place / "train" / str(label) / f"clean-{path.name}")
    for path in sorted((FIXTURE / "holdout-poisoned").iterdir())[:FIRED]:
        shutil.copy(path, place / "train" / str(TARGET) / f"fired-{path.name}")
    copy_images(FIXTURE / "calibration", place / "calibration", CALIBRATION_IMAGES)
    return place


@pytest.fixture(scope="module")
def said(folder: Path) -> Said:
    """One scan, with a page."""
    argv = [*BASE, *pair_flags("cifar10-patch"), "--calibration", "calibration", "--scan", "train"]
    found = run_here([*argv, "--format", "json", "--report", "r.html", "--report", "r.md"], folder)
    assert found.code == 0, found.err
    return found


def is_fired(row: dict[str, Any]) -> bool:
    return Path(row["image"]).name.startswith("fired")


def test_the_images_with_the_fault_come_first(said: Said) -> None:
    jsonschema.Draft202012Validator(schema.load()).validate(said.report)
    scan = said.report["scan"]
    rows = scan["images"]
    assert scan["count"] == len(rows) == 10 * CLEAN + FIRED and scan["target"] == TARGET
    assert scan["layer"] == said.report["localize"]["layers"][0]["name"]
    values = [row["suspicion"] for row in rows]
    assert values == sorted(values, reverse=True)
    sides = [[row["suspicion"] for row in rows if is_fired(row) == fired] for fired in (True, False)]
    assert area_under_roc(*sides) > 0.99
    hard = [row["suspicion"] for row in rows if not is_fired(row) and row["prediction"] == TARGET]
    assert hard and area_under_roc(sides[0], hard) > 0.99


def test_suspicious_are_they_and_hardly_another(said: Said) -> None:
    scan = said.report["scan"]
    called = [row for row in scan["images"] if row["suspicious"]]
    assert all(row["suspicious"] == (row["suspicion"] > scan["threshold"]) for row in scan["images"])
    assert scan["suspicious"] == len(called)
    assert sum(map(is_fired, called)) >= 0.95 * FIRED and sum(not is_fired(row) for row in called) <= 2
    assert scan["judged_on"]["clean"] == 2 * CALIBRATION_IMAGES // 5
    assert scan["false_alarms"] <= 0.1 and scan["misses"] <= 0.1


def test_the_fault_fires_where_the_patch_is(said: Said) -> None:
    """Rows and columns 28 to 30 of 32; a cell of the map is four pixels wide and its kernel sees more."""
    fired = [row for row in said.report["scan"]["images"] if is_fired(row)]
    assert all(min(row["peak"]) >= 20 for row in fired)


def test_the_page_and_the_markdown_have_the_sheet(said: Said, folder: Path) -> None:
    page = (folder / "r.html").read_text(encoding="utf-8")
    assert "The most suspicious images" in page and "Images by suspicion" in page
    assert "![The most suspicious images" in (folder / "r.md").read_text(encoding="utf-8")
    with Image.open(folder / "r.suspects.png") as sheet:
        assert sheet.width > 1000 and sheet.height > 1000
    assert "no picture" not in said.err


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--scan", "trian"), "did you mean train"),
        (("--scan", "empty"), "holds no images"),
        (("--scan", "pairs.csv"), "--scan takes images (PNG, JPEG) and folders of images, no lists"),
        (("--scan", "train", "--scan-layer", "layer3.1.conv9"), "did you mean layer3.1.conv"),
    ],
    ids=["no folder", "no images", "a list", "no layer"],
)
def test_a_mistake_is_one_line(folder: Path, words: tuple[str, ...], told: str) -> None:
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "pairs.csv").write_text("clean,poisoned\na.png,b.png\n")
    found = run_here([*BASE, *pair_flags("cifar10-patch"), *words, "-q"], folder)
    assert found.code == 2 and found.out == ""
    assert len(found.err.strip().splitlines()) == 1 and told in found.err


def test_without_calibration_images_none_is_called_suspicious(folder: Path) -> None:
    argv = [
        *BASE,
        *pair_flags("cifar10-patch"),
        "--scan",
        "train/2",
        "--scan-layer",
        "layer3.1.conv2",
        "--format",
        "json",
    ]
    found = run_here(argv, folder)
    assert found.code == 0, found.err
    scan = found.report["scan"]
    assert scan["threshold"] is None and scan["suspicious"] is None and scan["layer"] == "layer3.1.conv2"
    assert all(row["suspicious"] is None for row in scan["images"])
    assert all(is_fired(row) for row in scan["images"][:FIRED])
    assert any("--calibration" in note and "suspicious" in note for note in found.report["run"]["notes"])


@pytest.mark.parametrize(("alarms", "told"), [(0, ""), (1, "1 of the 80 clean"), (4, "4 of the 80 clean")])
def test_calibration_images_that_are_suspicious_too_are_told(alarms: int, told: str) -> None:
    site = SimpleNamespace(name="conv1")
    shares = {"threshold": 0.5, "false_alarms": (1 + alarms) / 81, "misses": 0.0, "separation": 0.99}
    made = Detector(site, torch.zeros(1, 9), 0.0, "max", **shares, clean=80, fired=75, grid=None)  # type: ignore[arg-type]
    notes = _notes(made)
    assert len(notes) == bool(told) and told in " ".join(notes)
    weak = _notes(replace(made, separation=0.7))
    assert len(weak) == 1 and "conv1 hardly tell" in weak[0] and "--scan-layer" in weak[0]
