"""Accuracy, attack success and recovery of a network on what was read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rectify.editing.fault import Fault, check_against_chance, diagnose
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
    network: nn.Module, inputs: Inputs, options: Options, target: int | None, fault: Fault | None = None
) -> Figures:
    device = inputs.subject.device
    oa = None
    if inputs.data is not None:
        oa = accuracy(network, inputs.data.batches(options.batch_size), device)
    if inputs.pairs is None:
        return Figures(accuracy=oa)
    labels = fault.labels if fault is not None else None
    figures = _on_pairs(network, inputs.pairs, options, device, target, labels, inputs.subject.network)
    return Figures(oa, figures.asr, figures.recovery, figures.gap, figures.base_rate)


def _on_pairs(
    network: nn.Module,
    pairs: Pairs,
    options: Options,
    device: torch.device,
    target: int | None,
    labels: Tensor | None,
    untouched: nn.Module,
) -> Figures:
    clean, corrupted = (softmax(network, x, options.batch_size, device) for x in (pairs.clean, pairs.corrupted))
    if pairs.labels is not None:
        labels = pairs.labels
    if labels is None:
        labels = softmax(untouched, pairs.clean, options.batch_size, device).argmax(1)
    return pair_figures(clean, corrupted, labels.cpu(), target)


def judge_holdout(
    report: dict[str, Any],
    inputs: Inputs,
    options: Options,
    after: nn.Module,
    fault: Fault | None,
    before: nn.Module | None = None,
) -> None:
    """Figures on the pairs that only judge; the target is the fault's."""
    if inputs.holdout is None:
        return
    untouched = before or inputs.subject.network
    target = fault.target if fault else None
    common = (inputs.holdout, options, inputs.subject.device, target, None, untouched)
    report["metrics"]["holdout"]["after"] = _on_pairs(after, *common).to_dict()
    if before is not None or report["command"] == "edit":
        report["metrics"]["holdout"]["before"] = _on_pairs(untouched, *common).to_dict()


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
