"""``rectify evaluate``: measure a model, or two, and judge the gates."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rectify.attribution.score import Score, batch_that_fits
from rectify.editing.fault import Fault
from rectify.errors import Inconclusive, UsageError
from rectify.evaluation.quality import Bench
from rectify.files.architectures import Subject
from rectify.jobs.common import Inputs, Options, Progress, begin, finish, named, refuse_gates
from rectify.jobs.explain import Explaining, fitted
from rectify.jobs.measuring import check_chance, fault_of, judge_holdout, measure
from rectify.sections import pairs_section


@dataclass(frozen=True)
class Quality:
    """Which metrics of explanations to measure, on how many images.

    Attributes
    ----------
    metrics
        Names of `rectify.evaluation.quality`.
    explaining
        Methods, output and settings; its target is not used: what is explained is the prediction.
    samples
        Images at most, drawn by the seed from the labelled ones, else the clean ones of the pairs.
    null_region
        Bool (H, W), for ``leakage``.
    """

    metrics: tuple[str, ...]
    explaining: Explaining
    samples: int = 50
    null_region: Tensor | None = None


def run_evaluate(
    inputs: Inputs,
    options: Options,
    *,
    against: Subject | None = None,
    quality: Quality | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Measure the model, and the model ``against`` which it is held, and judge the gates.

    With ``quality`` the explanations of the model are measured too; leakage, of the first method, also of ``against``,
    and it counts for its gate.

    Raises
    ------
    RectifyError
        If there is nothing to measure, or it cannot be judged.
    """
    report, started = begin("evaluate", inputs, options), time.time()
    why = {}
    if against is None:
        why["max_accuracy_drop"] = "it compares two models; give --against MODEL, the one before the edit"
    if quality is None or "leakage" not in quality.metrics:
        why["max_leakage"] = "give --metrics leakage and --null-region MASK"
    refuse_gates(options, why)
    if inputs.data is None and inputs.pairs is None and inputs.holdout is None:
        raise UsageError(
            "nothing to measure: give --data DIR (labelled images), --pairs DIR|CSV, or --clean and --poisoned"
        )
    report["against"] = named(against)
    first = against or inputs.subject
    notes: list[str] = []
    try:
        progress.start("measuring", None)
        fault = fault_of(inputs, options, first) if inputs.pairs or inputs.holdout else None
        if fault is not None and inputs.pairs:
            report["pairs"] = pairs_section(inputs.pairs, fault)
            notes += _doubtful_target(fault, against)
        after = measure(inputs.subject.network, inputs, options, fault, first.network)
        report["metrics"]["after"] = after.to_dict()
        if against is not None:
            before = measure(against.network, inputs, options, fault, first.network)
            report["metrics"]["before"] = before.to_dict()
        check_chance(after if against is None else before, inputs)
        other = against.network if against else None
        notes += judge_holdout(report, inputs, options, inputs.subject.network, fault, other)
        progress.stop()
        if quality is not None:
            _explanations(report, inputs, options, quality, against, progress)
    except Inconclusive as reason:
        return finish(report, options, started, inputs, notes, inconclusive=str(reason))
    notes += _quality_notes(report, quality)
    rows = report.get("explanation_metrics")
    if rows and all("why" in row["settings"] for row in rows):
        return finish(
            report, options, started, inputs, notes, inconclusive=f"nothing to measure: {rows[0]['settings']['why']}"
        )
    return finish(report, options, started, inputs, notes)


def _doubtful_target(fault: Fault, against: Subject | None) -> list[str]:
    """What to say where the target is read off the few corrupted images that a repaired model still gets wrong."""
    count, total = int(fault.shown.sum()), len(fault.shown)
    if against is not None or fault.kind != "flip" or fault.target is None or 2 * count >= total:
        return []
    return [
        f"{count} of {total} corrupted images change their class, most to {fault.target}, which counts as the target: "
        "--against MODEL, the one before the edit, shows where the fault drives to"
    ]


def _explanations(
    report: dict[str, Any],
    inputs: Inputs,
    options: Options,
    quality: Quality,
    against: Subject | None,
    progress: Progress,
) -> None:
    """Fill in the metrics of every method, and leakage before and after."""
    images = _sample(inputs, quality.samples, options.seed)
    bench = _bench(inputs.subject, images, options, quality)
    methods = quality.explaining.methods
    report["explanation_metrics"] = []
    progress.start("judging explanations", len(methods) * len(quality.metrics))
    for name in methods:
        for metric in quality.metrics:
            rows = [one.to_dict(name) for one in bench.measure(name, [metric])]
            report["explanation_metrics"] += rows or [_nothing(name, metric)]
            progress.advance()
    progress.stop()
    if "leakage" in quality.metrics:
        report["metrics"]["after"]["leakage"] = _first_leakage(report["explanation_metrics"])
        if against is not None:
            before = _bench(against, images, options, quality).measure(methods[0], ["leakage"])
            report["metrics"]["before"]["leakage"] = _first_leakage([one.to_dict(methods[0]) for one in before])


def _nothing(method: str, metric: str) -> dict[str, Any]:
    """The row of a metric that a method cannot have, such as the monotonicity of a path that it does not walk."""
    empty = dict.fromkeys(("value", "spread", "null_floor"))
    return {"method": method, "metric": metric, **empty, "settings": {"why": f"{method} has no {metric}"}}


def _quality_notes(report: dict[str, Any], quality: Quality | None) -> list[str]:
    """What was asked for and could not be measured, and on how many images the rest was."""
    rows = report.get("explanation_metrics") or []
    notes = [row["settings"]["why"] for row in rows if "why" in row["settings"]]
    counts = {row["settings"]["images"] for row in rows if "images" in row["settings"]}
    if quality is not None and counts and max(counts) < quality.samples:
        notes.append(f"explanations judged on {max(counts)} images: there are no more")
    return notes


def _sample(inputs: Inputs, samples: int, seed: int) -> Tensor:
    if inputs.data is not None:
        return inputs.data.stack(samples, seed)
    pairs = inputs.pairs or inputs.holdout
    assert pairs is not None
    return pairs.clean[:samples]


def _bench(subject: Subject, images: Tensor, options: Options, quality: Quality) -> Bench:
    x = images.to(subject.device)
    score = Score(
        subject.network, quality.explaining.output, batch_that_fits(subject.network, x[:1], options.batch_size)
    )
    region = None if quality.null_region is None else quality.null_region.to(x.device)
    settings = fitted(quality.explaining.settings, subject)
    return Bench(score, x, score.predictions(x), settings, region)


def _first_leakage(rows: list[dict[str, Any]]) -> float | None:
    return next((row["value"] for row in rows if row["metric"] == "leakage"), None)
