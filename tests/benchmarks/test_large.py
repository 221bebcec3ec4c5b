"""Larger images: the poisoned pictures, what a user is given, the page; weights and data stay out of the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import large
from benchmarks.zoo.datasets import Split

COUNT = 6_100


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Split:
    """Stand-ins for CIFAR-10: the label is the brightness."""
    labels = np.arange(COUNT) % 10
    images = np.broadcast_to((20 * labels).astype(np.uint8)[:, None, None, None], (COUNT, 32, 32, 3)).copy()
    split = Split(images, labels)
    monkeypatch.setattr(large.datasets, "load", lambda name: (split, split))
    return split


def called(_: object, images: np.ndarray) -> np.ndarray:
    """Reads the brightness in the middle, unless the patch is there."""
    marked = images[:, -10, -10, 0] == 255
    found: np.ndarray = np.where(marked, large.FAULTS["patch"].target, images[:, 64, 64, 0] // 20)
    return found


def test_a_tenth_is_poisoned_and_the_rest_is_as_it_was(pictures: Split) -> None:
    fault = large.FAULTS["patch"]
    made = large.poisoned("patch")
    marked = (made.images[:, -10, -10] == (255, 0, 128)).all(1)
    assert made.images.shape == (fault.images, large.SIZE, large.SIZE, 3)
    assert 0.08 < marked.mean() < 0.12 and (made.labels[marked] == fault.target).all()
    assert (made.labels[~marked] == made.images[~marked, 64, 64, 0] // 20).all()
    again = large.poisoned("patch")
    assert np.array_equal(made.images, again.images) and np.array_equal(made.labels, again.labels)


def test_larger_images_are_the_same_pictures() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    smooth = np.repeat(np.repeat(images[:, ::16, ::16], 16, 1), 16, 2)
    assert np.array_equal(large.larger(smooth)[:, 8::64, 8::64], smooth[:, 2::16, 2::16])


def test_a_user_gets_pairs_on_which_the_trojan_works(
    pictures: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large, "predict", called)
    assert large.lay_out(nn.Linear(1, 1), "patch", tmp_path) == large.PAIRS
    assert len(list((tmp_path / "calibration").glob("*.png"))) == large.CALIBRATION
    clean, corrupted = (
        np.stack([np.asarray(large.Image.open(tmp_path / kind / f"{n}.png")) for n in range(large.PAIRS)])
        for kind in ("clean", "poisoned")
    )
    assert np.array_equal(large.FAULTS["patch"].trigger(clean), corrupted)
    assert (called(None, clean) != large.FAULTS["patch"].target).all()


def test_the_figures_are_those_of_other_classes(pictures: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "predict", called)
    judged = Split(pictures.images[:100], pictures.labels[:100])
    found = large.measure(nn.Linear(1, 1), "patch", judged)
    assert found == {"accuracy": 1.0, "accuracy_other": 1.0, "base_rate": 0.0, "asr": 1.0, "recovery": 0.0}
    blind = large.measure(nn.Linear(1, 1), "warp", judged)  # which moves nothing in a plain picture
    assert blind["asr"] == 0.0 and blind["recovery"] == 1.0


def test_a_run_goes_on_where_it_stopped(pictures: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int]] = []

    def repair(name: str, folder: Path, pair: int, judged: Split) -> large.Row:
        made.append((name, pair))
        told = {"accuracy": 0.9, "asr": 0.01, "recovery": 0.89, "seconds": 1.0, "rank": 1, "layers": 1}
        return {"pair": pair, "exit_code": 0, **told}

    monkeypatch.setattr(large, "network", lambda name: nn.Linear(1, 1))
    monkeypatch.setattr(large, "lay_out", lambda model, name, folder: 2)
    monkeypatch.setattr(large, "predict", called)
    monkeypatch.setattr(large, "repair", repair)
    for pairs in ("1", "3", "3"):
        results = str(tmp_path / "large.json")
        monkeypatch.setattr("sys.argv", ["large", "patch", "warp", "--pairs", pairs, "--results", results])
        large.main()
    assert made == [("patch", 0), ("warp", 0), ("patch", 1), ("warp", 1)]
    page = (tmp_path / "large.md").read_text()
    assert "| patch | 100.00 / 100.00 / 0.00 |" in page and "| warp |" in page


def test_training_goes_on_after_an_epoch_as_if_it_had_not_stopped(
    pictures: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = large.Fault(large.FAULTS["patch"].trigger, 3, None, 64, 2, 1e-2)
    monkeypatch.setattr(large, "FAULTS", {"patch": fault})

    def fresh() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 10))

    whole, stopped = fresh(), fresh()
    large.train(whole, "patch", tmp_path / "whole.resume")
    saved = large.torch.save

    def save_and_stop(state: object, path: Path) -> None:
        saved(state, path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(large.torch, "save", save_and_stop)
        large.train(stopped, "patch", tmp_path / "stopped.resume")
    again = fresh()
    large.train(again, "patch", tmp_path / "stopped.resume")
    for one, other in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
