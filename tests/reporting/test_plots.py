"""Pictures: drawn without a warning for every report, of sensible size, and of equal bytes for equal input."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rectify.errors import OutputError
from rectify.reporting.canvas import shorten
from rectify.reporting.plots import PairRow, layers_plot, pair_picture, repair_picture
from rectify.reporting.repair import amplified, figure_groups
from tests.reporting.samples import (
    digit,
    edit_report,
    evaluate_report,
    inconclusive_report,
    localize_report,
    many_layers,
    odd_report,
    pair_rows,
    photo,
    resnet_layers,
    triage_report,
)  # fmt: skip


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        assert np.asarray(image.convert("L")).std() > 1  # something is drawn
        return image.size


@pytest.mark.parametrize("amount", [1, 8, 60])
def test_the_plot_grows_with_the_layers(amount: int, tmp_path: Path) -> None:
    layers = many_layers(60)[:amount]
    layers_plot(localize_report(layers=layers), tmp_path / "layers.png")
    width, height = size(tmp_path / "layers.png")
    assert 800 < width < 2000
    assert height / max(8, amount) > 30  # pixels a layer: eight-point type stays legible


def test_hundreds_of_layers_with_long_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: dict[str, list[str]]
) -> None:
    monkeypatch.setattr("rectify.reporting.plots.MOST", 12)  # as if there were hundreds
    layers = [(name + ".very_long_module_name" * 5, kind, shape) for name, kind, shape in many_layers(40)]
    layers_plot(localize_report(layers=layers, trial=False), tmp_path / "layers.png")
    width, height = size(tmp_path / "layers.png")
    assert width < 2000 and height < 700
    assert "Where a repair can take hold (best 12 of 40 layers)" in texts
    names = [text for text in texts if "very_long_module_name" in text]
    assert len(names) == 12 and all("…" in name and len(name) == 60 for name in names)


def test_other_layers(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    tied = localize_report(layers=resnet_layers()[:4])
    for layer in tied["localize"]["layers"]:
        layer |= {"editability": None, "rank": None}
        layer["trial"] = {"gap_after": 3.2, "recovery": None, "agreement": None, "asr": None}
    trial = {"after a trial edit of that layer alone", "agreement", "recovery", "attack success"}
    for report, said, unsaid in (
        (triage_report(), {"Data-free triage of the layers", "5.90  ◂ most unusual, not offered"}, trial),
        (odd_report(), {"$x$_<b>&", "[bold]x", "4.56  ◂ first, edited", *trial}, set()),
        (edit_report(), {"conv1", "4.31  ◂ edited", "gap left by that edit", "0.0040", *trial}, set()),
        (tied, {"1.87", "gap left by that edit", "3.20"}, trial),
    ):
        layers_plot(report, tmp_path / "layers.png")
        size(tmp_path / "layers.png")
        assert said <= texts.keys() and not unsaid & texts.keys()


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no layers"):
        layers_plot(inconclusive_report(), tmp_path / "layers.png")
    with pytest.raises(ValueError, match="nothing to draw"):
        repair_picture([], tmp_path / "pairs.png", report=triage_report())
    assert list(tmp_path.iterdir()) == []


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        repair_picture(pair_rows(1), tmp_path / name, report=edit_report())
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize("amount", [3, 20])
def test_pairs(amount: int, tmp_path: Path, texts: dict[str, list[str]]) -> None:
    pair_picture(pair_rows(amount, colour=amount == 3), tmp_path / "pairs.png")
    _, height = size(tmp_path / "pairs.png")
    assert height < 2500  # no more than eight rows
    titles = [text for text in texts if text.startswith("poisoned/")]
    assert titles == [f"poisoned/000{place}.png" for place in range(min(amount, 8))]
    assert {"corrupted image, before", "corrupted image, after", "3 (target)", "0 (true)", "99.9%"} <= texts.keys()


def test_pairs_need_only_images(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    bare: list[PairRow] = [{"clean": digit(), "corrupted": digit()}, {"clean": photo(), "corrupted": photo()[::-1]}]
    pair_picture(bare, tmp_path / "pairs.png")
    size(tmp_path / "pairs.png")
    factor = 1 / np.abs(photo() - photo()[::-1]).max()
    assert texts.keys() == {"clean", "corrupted", "difference", "amplified ×1.0", f"amplified ×{factor:.1f}"}


def test_odd_names_in_pairs(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    [row] = pair_rows(1)
    row["label"], row["title"] = "$x$ 層 " + "long " * 20, "\x1b[31m/" + "folder/" * 20
    row["before"] = [{"name": row["label"], "confidence": 1.7}, {"name": "_$", "confidence": -0.2}]
    repair_picture([row], tmp_path / "pairs.png", report=evaluate_report())
    size(tmp_path / "pairs.png")
    assert any(text.startswith("$x$ ") and text.endswith("… (true)") for text in texts)  # before is named as the label
    assert {"_$", "170.0%", "-20.0%"} <= texts.keys()
    assert any("folder/…" in text or ("…" in text and text.endswith("folder/")) for text in texts)
    assert not any("\x1b" in text for text in texts)


def test_wrong_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="an image must be"):
        pair_picture([{"clean": np.zeros((3, 8, 8)), "corrupted": np.zeros((3, 8, 8))}], tmp_path / "pairs.png")


def test_small_images_keep_their_pixels(tmp_path: Path) -> None:
    """A checkerboard of four pixels shows no shade between black and white inside its squares."""
    board = np.indices((4, 4)).sum(0) % 2
    pair_picture([{"clean": board.astype(float), "corrupted": 1.0 - board}], tmp_path / "pairs.png")
    with Image.open(tmp_path / "pairs.png") as image:
        grey = np.asarray(image.convert("L")).astype(int)
    rows = grey[grey.shape[0] // 3 : grey.shape[0] // 2, 60:260]
    assert np.isin(rows, [0, 255]).mean() > 0.95


def test_the_difference_is_stretched() -> None:
    clean = np.full((2, 2, 3), 0.5)
    corrupted = clean.copy()
    corrupted[0, 0] = [0.5, 0.54, 0.49]
    stretched, factor = amplified(clean, corrupted)
    assert factor == pytest.approx(25) and stretched[0, 0] == pytest.approx(1) and stretched[1, 1] == 0
    same, factor = amplified(clean, clean)
    assert factor == 1 and not same.any()


def test_bars_of_a_report() -> None:
    figures, holdout = figure_groups(edit_report())
    assert figures.bars == (
        ("accuracy", 0.9937, 0.9921), ("attack success\n(base rate 0.1%)", 1.0, 0.001), ("recovery", 0.0, 0.9894),
    )  # fmt: skip
    assert [words for words, _, _ in holdout.bars] == ["attack success\n(base rate 0.0%)", "recovery"]
    assert figure_groups(triage_report()) == []


def test_long_texts_are_shortened() -> None:
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghijk", 10) == "abcdefghi…"
    assert shorten("abcdefghijk", 9, middle=True) == "abcd…hijk"


def test_an_unwritable_place_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*missing/layers.png: no folder"):
        layers_plot(localize_report(), tmp_path / "missing" / "layers.png")


def test_reports_need_no_heavy_import() -> None:
    """``rectify.reporting`` is imported by the command line: torch and matplotlib must wait until they are needed."""
    import subprocess

    code = (
        "import sys\nfrom rectify.reporting import build, files, plots, render, schema\n"
        "print([name for name in ('torch', 'matplotlib', 'numpy', 'jinja2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
