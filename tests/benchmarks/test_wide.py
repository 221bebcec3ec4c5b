"""The page of the full-width networks, that of two devices, and that of leakage, from rows made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import devices, leakage, wide
from benchmarks.zoo import datasets

BEFORE = {"accuracy": 0.93, "asr": 1.0, "base_rate": 0.01, "recovery": 0.0, "accuracy_other": 0.94}


def result(name: str, *after: tuple[float, float, float]) -> dict[str, Any]:
    keys = ("accuracy", "asr", "recovery")
    repairs = [{"exit_code": 0, "layers": 9, "seconds": 60.0, **dict(zip(keys, one, strict=True))} for one in after]
    return {"name": name, "before": BEFORE, "repairs": repairs}


def test_what_falls_short_is_told_by_kind_with_the_worst() -> None:
    found = [
        result("cifar64-resnet-blend-0", (0.929, 0.01, 0.93), (0.92, 0.03, 0.90)),
        result("cifar64-resnet-blend-1", (0.93, 0.01, 0.94)),
        result("cifar64-resnet-patch-0"),
        result("cifar64-resnet-own-0", (0.8, 0.5, 0.1)),
    ]
    shown = wide.table(found)
    assert "| blend | 2 | 3 | 0.10 (1.00) | 0.00 (2.00) | 1.00 (4.00) |" in shown
    assert "| all of patch, blend, sinusoid, warp | 2 | 3 | 0.10 (1.00)" in shown  # not the sample-specific one
    assert "| patch |" not in shown and "none: not measured" in shown
    failed = {**result("cifar64-resnet-warp-0"), "repairs": [{"exit_code": 3, "error": "no fault"}]}
    assert "none: no fault" in wide.table([failed]) and wide.shortfalls(failed) == []


def test_every_seed_has_its_own_triggers_and_target() -> None:
    of = {name: wide.RECIPES[name] for name in wide.NAMES}
    for kind in wide.KINDS[:4]:
        same = [of[f"cifar64-resnet-{kind}-{seed}"] for seed in range(3)]
        assert len({recipe.target for recipe in same}) == len({str(recipe.trigger) for recipe in same}) == 3
        assert {recipe.start for recipe in same} == {f"cifar64-resnet-clean-{seed}" for seed in range(3)}


def test_devices_say_whether_the_bytes_are_the_same() -> None:
    row = {"network": "n", "device": "cpu", "processor": "2 threads", "accuracy": 0.9, "asr": 0.0, "recovery": 1.0}
    row |= {"policy": "layer alone", "seconds": 1.25, "equal_bytes": False}
    shown = devices.table([row, {"network": "m", "device": "cuda", "processor": "x", "error": "no memory"}])
    assert "| n | cpu (2 threads) | 90.00 | 0.00 | 100.00 | layer alone | 1.2 | no |" in shown
    assert "| m | cuda (x) | no memory |" in shown


def test_block_mnist_has_the_digit_on_one_half_and_the_square_on_the_other() -> None:
    digits = np.random.default_rng(0).integers(0, 256, (20, 28, 28, 1)).astype(np.uint8)
    images, top = leakage.blocks(datasets.Split(digits, np.zeros(20, np.int64)), 3)
    assert images.shape == (20, 56, 28, 1) and 0 < top.sum() < 20
    for image, digit, above in zip(images, digits, top, strict=True):
        upper, lower = image[:28], image[28:]
        np.testing.assert_array_equal(upper if above else lower, digit)
        np.testing.assert_array_equal(lower if above else upper, leakage.null_block())
    empty = leakage.blacked(images, top)
    assert (empty[top, 28:] == 0).all() and (empty[~top, :28] == 0).all() and (empty != images).any((1, 2, 3)).all()


@pytest.mark.parametrize("count", [1, 3])
def test_the_page_of_leakage_has_the_median_and_the_worst(count: int) -> None:
    rows = [
        {"seed": seed, "method": "ours", "pair": 0, **dict.fromkeys(leakage.KEYS, 0.5 + seed / 10), "seconds": 3.0}
        for seed in range(count)
    ]
    (line,) = [line for line in leakage.table(rows, 100).splitlines() if line.startswith("| ours")]
    middle, most = (0.5, 0.5) if count == 1 else (0.6, 0.7)
    assert line.split(" | ")[1] == f"{100 * middle:.2f} (50.00)"
    assert line.split(" | ")[3:5] == [f"{100 * middle:.1f} ({100 * most:.1f})", f"{middle:.2f} ({most:.2f})"]


class Job:
    """A training that ends when it is told to."""

    def __init__(self) -> None:
        self.code: int | None = None

    def poll(self) -> int | None:
        return self.code


def test_what_starts_from_another_network_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: dict[str, Job] = {}

    def started(module: str, name: str) -> Job:
        return begun.setdefault(name, Job())

    monkeypatch.setattr(wide, "ZOO", tmp_path)
    monkeypatch.setattr(wide, "_started", started)
    implanted = ["cifar64-resnet-patch-0", "cifar64-resnet-blend-0", "cifar64-resnet-blend-1"]
    work = wide.Trainers([*implanted, "cifar64-resnet-blend-scratch"], 2)
    assert work.go_on() and list(begun) == ["cifar64-resnet-clean-0", "cifar64-resnet-clean-1"]
    begun["cifar64-resnet-clean-0"].code = 0
    (tmp_path / "cifar64-resnet-clean-0.pt").touch()
    assert work.go_on() and list(begun)[2:] == ["cifar64-resnet-blend-scratch"]  # the longest first
    begun["cifar64-resnet-blend-scratch"].code = begun["cifar64-resnet-clean-1"].code = (
        1  # what fails is not begun again
    )
    assert work.go_on() and list(begun)[3:] == implanted[:2]
    begun[implanted[0]].code = begun[implanted[1]].code = 0
    assert not work.go_on() and implanted[2] not in begun  # its start was never trained
