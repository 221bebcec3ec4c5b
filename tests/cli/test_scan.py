"""--scan: what it asks of the library, and what it says before anything slow begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import PAIR


def test_a_scan_is_asked_for_with_its_images_and_layer(rectify_, library) -> None:
    said = rectify_(
        "localize", "model.pt", *PAIR, "--scan", "train", "--scan", "b.png", "--scan-layer", "layer2.0.conv1"
    )
    assert said.code == 0, said.err
    scan = library.asked["scan"]
    assert scan.images == [Path("train"), Path("b.png")] and scan.layer == "layer2.0.conv1"
    assert rectify_("localize", "model.pt", *PAIR).code == 0 and library.asked["scan"] is None


def test_a_settings_file_can_name_the_folder(rectify_, library, tmp_path: Path) -> None:
    (tmp_path / "rectify.yaml").write_text("localize: {scan: train, scan_layer: fc}\nedit: {layer: conv1}\n")
    assert rectify_("localize", "model.pt", *PAIR).code == 0
    scan = library.asked["scan"]
    assert [path.name for path in scan.images] == ["train"] and scan.layer == "fc"
    assert rectify_("edit", "model.pt", *PAIR).code == 0 and library.asked["editing"].layer == "conv1"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--scan", "train"), "give --clean a.png --poisoned b.png"),
        ((*PAIR, "--scan-layer", "fc"), "add --scan DIR"),
    ],
    ids=["no pair", "no scan"],
)
def test_what_a_scan_lacks_is_said_in_one_line(rectify_, library, words: tuple[str, ...], told: str) -> None:
    said = rectify_("localize", "model.pt", *words)
    assert said.code == 2 and library.asked == {}
    assert len(said.err.strip().splitlines()) == 1 and told in said.err


def test_other_commands_have_no_scan(rectify_, library) -> None:
    said = rectify_("edit", "model.pt", *PAIR, "--scan", "train")
    assert said.code == 2 and "belongs to localize" in said.err
