"""Accuracy, attack success and recovery of a network on what was read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rectify.editing.fault import Fault, aims, check_against_chance, diagnose
from rectify.editing.leak import Part, bench
from rectify.errors import Inconclusive
from rectify.evaluation.accuracy import Figures, accuracy, pair_figures, softmax
from rectify.files.architectures import Subject
from rectify.files.images import Pairs
from rectify.jobs.common import MOST_CALIBRATION, Inputs, Options


def fault_of(inputs: Inputs, options: Options, judged_by: Subject | None = None) -> Fault:
    """The fault as the untouched model shows it; on a repaired model alone the pairs may show none: then no target."""
    subject = judged_by or inputs.subject
    pairs = inputs.pairs or inputs.holdout
    assert pairs is not None
    how = (options.batch_size, subject.device)
    clean, corrupted = (softmax(subject.network, x, *how) for x in (pairs.clean, pairs.corrupted))
    try:
        return diagnose(clean, corrupted, pairs.labels, options.fault)
    except Inconclusive:
        # Evaluating a sound model is no error: nothing flips, so there is no target to count.
        labels = clean.argmax(1) if pairs.labels is None else pairs.labels
        return Fault("flip", None, labels, torch.ones_like(labels, dtype=torch.bool), ("the pairs show no fault",))


def measure(
    network: nn.Module, inputs: Inputs, options: Options, fault: Fault | None, untouched: nn.Module | None = None
) -> Figures:
    """Accuracy on the labelled images, and the figures on the pairs.

    Where the fault sends each image is told by the untouched network, by default that of the inputs.
    """
    device = inputs.subject.device
    oa = None
    if inputs.data is not None:
        oa = accuracy(network, inputs.data.batches(options.batch_size), device)
    if inputs.pairs is None:
        return Figures(accuracy=oa)
    figures = _on_pairs(network, inputs.pairs, options, device, fault, untouched or inputs.subject.network)[0]
    return Figures(oa, figures.asr, figures.recovery, figures.gap, figures.base_rate)


def _on_pairs(
    network: nn.Module,
    pairs: Pairs,
    options: Options,
    device: torch.device,
    fault: Fault | None,
    untouched: nn.Module,
) -> tuple[Figures, int]:
    """The figures, and to how many classes the fault sends the corrupted images."""

    clean, corrupted = (softmax(network, x, options.batch_size, device) for x in (pairs.clean, pairs.corrupted))

    def first(x: Tensor, its: Tensor) -> Tensor:
        """The classes that the untouched network gives; not asked twice where it is the one that is measured."""
        return (its if untouched is network else softmax(untouched, x, options.batch_size, device)).argmax(1)

    labels = first(pairs.clean, clean) if pairs.labels is None else pairs.labels
    if fault is None or fault.target is None:
        return pair_figures(clean, corrupted, labels, None), 0
    target = aims(first(pairs.corrupted, corrupted), labels, fault.target)
    return pair_figures(clean, corrupted, labels, target), len(set(target[target >= 0].tolist()))


def judge_holdout(
    report: dict[str, Any],
    inputs: Inputs,
    options: Options,
    after: nn.Module,
    fault: Fault | None,
    before: nn.Module | None = None,
) -> list[str]:
    """Figures on the pairs that only judge; the target is the fault's. Returns what there is to say of them."""
    if inputs.holdout is None:
        return []
    untouched = before or inputs.subject.network
    common = (inputs.holdout, options, inputs.subject.device, fault, untouched)
    figures, classes = _on_pairs(after, *common)
    report["metrics"]["holdout"]["after"] = figures.to_dict()
    if before is not None or report["command"] == "edit":
        report["metrics"]["holdout"]["before"] = _on_pairs(untouched, *common)[0].to_dict()
    if classes < 2:
        return []
    return [f"the holdout's corrupted images go to {classes} classes: attack success counts each where its class went"]


def leakage_of(network: nn.Module, inputs: Inputs, options: Options, fault: Fault | None) -> float | None:
    """Of a leak: mean share, in [0, 1], of the attribution on the part, in the calibration images that show it."""
    if fault is None or fault.kind != "leak" or inputs.pairs is None or inputs.calibration is None:
        return None
    device = inputs.subject.device
    part = Part.of(inputs.pairs.clean[:1].to(device), inputs.pairs.corrupted[:1].to(device))
    if part is None:
        return None
    low, high = inputs.subject.preprocess.bounds()
    images = inputs.calibration.stack(MOST_CALIBRATION, options.seed).to(device)
    found = bench(inputs.subject.network, images, part, (low.to(device), high.to(device)))
    return found.leakage(network) if len(found.whole) else None


def check_chance(figures: Figures, inputs: Inputs) -> None:
    if figures.accuracy is not None and inputs.data is not None:
        check_against_chance(figures.accuracy, len(inputs.data), inputs.subject.num_classes)
