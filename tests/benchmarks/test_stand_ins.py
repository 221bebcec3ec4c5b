"""The benchmark of the stand-ins: what it draws, and that likeness is what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import stand_ins
from benchmarks.zoo import triggers
from tests.benchmarks.test_guesses import pictures

assert pictures  # the fixture


def test_likeness_is_pearsons_correlation() -> None:
    one = torch.rand(3, 2, 4, 5)
    assert stand_ins.likeness(one, 0.5 + 3 * one) == pytest.approx(1.0)
    assert stand_ins.likeness(one, 1 - one) == pytest.approx(-1.0)
    grey = torch.rand(1, 1, 4, 5), torch.rand(1, 1, 4, 5)
    wanted = np.corrcoef(*(x.flatten().double().numpy() for x in grey))[0, 1]
    assert stand_ins.likeness(*grey) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("kind", stand_ins.KINDS)
def test_every_kind_is_measured(kind: str, pictures: None) -> None:
    row = stand_ins.measured(kind, "mnist", 2)
    assert all(len(values) == len(row["likeness"]["filtered"]) for values in row["likeness"].values())
    if kind == "two convolutions":
        assert min(row["likeness"]["generated"]) > max(map(abs, row["likeness"]["textured"]))
    assert f"| {kind} | mnist | {len(row['likeness']['filtered'])} of 2 |" in stand_ins.markdown([row])


def test_a_row_without_pairs_has_no_figures() -> None:
    row = {"kind": "k", "dataset": "d", "draws": 2, "likeness": {name: [] for name in stand_ins.STAND_INS}}
    assert "| k | d | 0 of 2 | – | – | – |" in stand_ins.markdown([row])


@pytest.mark.parametrize("lit", [False, True])
def test_what_a_network_makes_is_the_same_again_and_of_each_image_its_own(lit: bool) -> None:
    images = np.random.default_rng(0).integers(60, 196, (5, 16, 16, 3)).astype(np.uint8)
    stamp = triggers.encoded(10.0, 3, lit=lit)
    made = stamp(images).astype(float) - images
    assert np.array_equal(stamp(images), stamp(images)) and stamp(images).dtype == np.uint8
    assert made.std() == pytest.approx(10.0, rel=0.1)
    flat = made.reshape(5, -1)
    assert np.abs(np.corrcoef(flat - flat.mean(1, keepdims=True)) - np.eye(5)).max() < (0.95 if lit else 0.5)
    if not lit:
        assert np.array_equal(stamp(images)[2], stamp(images[2:3])[0])
