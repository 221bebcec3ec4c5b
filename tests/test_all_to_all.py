"""A repair of what sends each class to another one, from the command line: its report names no single target."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image

from tests.conftest import run_here
from tests.editing.test_casebook import Turning, centred, quarters


class Looking(Turning):
    """`Turning` behind a layer that can be edited."""

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        self.look = nn.Conv2d(1, 1, 1)
        nn.init.ones_(self.look.weight)
        nn.init.zeros_(self.look.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.look(x))


def test_the_report_names_no_target(tmp_path: Path) -> None:
    safetensors.torch.save_file(Looking().state_dict(), tmp_path / "m.safetensors")
    (tmp_path / "calibration").mkdir()
    for number, image in enumerate(quarters(48, 2)):
        to_pil_image(image).save(tmp_path / f"calibration/{number}.png")
    clean = quarters(1, 1)
    to_pil_image(clean[0]).save(tmp_path / "a.png")
    to_pil_image(centred(clean)[0]).save(tmp_path / "b.png")
    argv = ["edit", "m.safetensors", "--arch", "tests.test_all_to_all:Looking", "--num-classes", "4"]
    argv += ["--input-size", "8", "--mean", "0", "--std", "1", "--clean", "a.png", "--poisoned", "b.png"]
    argv += ["--calibration", "calibration", "--report", "r.json", "--report", "r.md", "--dry-run", "--no-cache"]
    said = run_here([*argv, "--format", "json"], tmp_path)
    assert any("changes the class of 100 %, to many classes" in note for note in said.report["run"]["notes"]), said
    assert said.report["pairs"]["target"] is None and said.report["pairs"]["each"]
    assert said.report["localize"]["target"] == 1
    assert "1 pair, fault flip, each class to another" in (tmp_path / "r.md").read_text()
