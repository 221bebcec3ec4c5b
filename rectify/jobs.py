"""The three jobs of the command line as functions: each takes what was read, and returns the whole report as a dict.

Nothing here prints; what is to be seen while it runs goes through a `Progress`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rectify.editing import rectify as repair
from rectify.editing.candidate import EditFiles
from rectify.editing.cascade import LayerEdit
from rectify.editing.casebook import Case, open_case, variations
from rectify.editing.fault import Fault, check_against_chance, diagnose
from rectify.editing.localize import Localization, is_candidate, localize
from rectify.editing.patch import compact, patch, read_delta
from rectify.errors import Inconclusive, UsageError
from rectify.evaluation.accuracy import Figures, accuracy, pair_figures, softmax
from rectify.files.architectures import Subject
from rectify.files.checkpoint import check_target
from rectify.files.images import ImageSet, Pairs
from rectify.files.words import did_you_mean
from rectify.model.trace import Site, survey
from rectify.reporting.build import conclude, empty_report, run_section
from rectify.reporting.verdict import check_limits, decide, judge
from rectify.sections import (
    apply_section,
    describe,
    edit_section,
    file_section,
    localize_section,
    metadata_of,
    pairs_section,
    triage_section,
)

MOST_CALIBRATION = 512  # more images than this are sampled: the edit gains nothing from them


class Progress(Protocol):
    """What a terminal shows of long work."""

    def start(self, label: str, total: int | None = None) -> None:
        """Begin a piece of work of ``total`` steps (unknown if None)."""

    def advance(self, n: int = 1) -> None:
        """``n`` steps are done."""

    def say(self, line: str) -> None:
        """A line for people."""

    def stop(self) -> None:
        """The piece of work is over."""


@dataclass(frozen=True)
class Inputs:
    """What was read: the model, the pairs that are edited on, those that only judge, and the image folders."""

    subject: Subject
    pairs: Pairs | None = None
    holdout: Pairs | None = None
    calibration: ImageSet | None = None
    data: ImageSet | None = None


@dataclass(frozen=True)
class Options:
    """How to compute and what judges. ``gates`` maps gate names to limits."""

    fault: str = "auto"
    batch_size: int = 64
    seed: int = 0
    gates: Mapping[str, float] = field(default_factory=dict)
    baseline: Mapping[str, Any] | None = None
    exit_zero: bool = False
    cache_dir: Path | None = None


@dataclass
class _Scene:
    """The pairs and calibration images on the model's device, with the fault that they show."""

    network: nn.Module
    clean: Tensor
    corrupted: Tensor
    fault: Fault
    calibration: Tensor | None
    bounds: tuple[Tensor, Tensor]
    sites: list[Site]

    def reference(self) -> Tensor:
        """Images whose keys the scores are measured against."""
        return variations(self.clean, self.bounds) if self.calibration is None else self.calibration


# ----------------------------------------------------------------------------------------------------- localize


def run_localize(inputs: Inputs, options: Options, *, trial: bool = False, progress: Progress) -> dict[str, Any]:
    """Rank every editable layer; without a pair, the data-free triage.

    The score makes the shortlist and a trial edit of each layer on it the order: all layers with ``trial``, else as
    many as a minute or so affords.

    Raises
    ------
    RectifyError
        If it cannot be judged; an inconclusive outcome is a report.
    """
    report, started = _begin("localize", inputs, options), time.time()
    notes: list[str] = []
    if inputs.pairs is None:
        report["localize"] = triage_section(inputs.subject)
        notes.append(
            "no pair: this is only a data-free triage (channel Lipschitz outliers); it cannot tell a fault from a "
            "quirk. A pair (--clean a.png --poisoned b.png) gives attribution, editability and trial edits"
        )
        return _finish(report, options, started, inputs, notes)
    try:
        scene = _open_scene(inputs, options)
        report["pairs"] = pairs_section(inputs.pairs, scene.fault)
        report["metrics"]["before"] = _measure(scene.network, inputs, options, scene.fault.target).to_dict()
        found = _localize(scene, options, progress)
        case = _open_case(scene, options)
        number = len(found.scores) if trial else repair.affordable_trials(case, scene.sites)
        if number:
            notes += case.notes
            found = _with_trials(scene, case, found, options, progress, number)
        else:
            notes.append("too large to try an edit of each layer in a minute: ranked by score alone; --trial tries all")
        notes += scene.fault.notes
        report["localize"] = localize_section(found, scene.fault.target)
    except Inconclusive as reason:
        return _finish(report, options, started, inputs, notes, inconclusive=str(reason))
    return _finish(report, options, started, inputs, notes)


def _localize(scene: _Scene, options: Options, progress: Progress) -> Localization:
    progress.start("localizing", len(scene.sites) + int(scene.fault.shown.sum()))
    found = localize(
        scene.network,
        scene.sites,
        scene.clean,
        scene.corrupted,
        scene.fault,
        scene.reference(),
        batch=options.batch_size,
        advance=progress.advance,
    )
    progress.stop()
    return found


def _with_trials(
    scene: _Scene, case: Case, found: Localization, options: Options, progress: Progress, number: int
) -> Localization:
    """The first ``number`` candidates with a trial each, ordered by what the trial did; the others behind them."""
    candidates = [score for score in found.scores if score.candidate][:number]
    progress.start("trial edits", len(candidates))
    shop = repair.Workshop(scene.network, case, options.batch_size, lambda label: progress.advance())
    tried = repair.trials(shop, candidates, 1)
    progress.stop()
    tried.sort(key=lambda score: score.trial.loss if score.trial else float("inf"))
    names = {score.site.name for score in tried}
    return replace(found, scores=(*tried, *(s for s in found.scores if s.site.name not in names)))


# --------------------------------------------------------------------------------------------------------- edit


def run_edit(
    inputs: Inputs,
    options: Options,
    *,
    out: Path,
    mode: str = "dynamic",
    layer: str = "auto",
    rank: str = "auto",
    refine: bool = True,
    delta: Path | None = None,
    apply: Path | None = None,
    dry_run: bool = False,
    force: bool = False,
    out_dtype: str | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Repair the model, write it, reopen it, judge it; a file that fails its gates is not left behind.

    Parameters
    ----------
    out, delta
        Files to write: the patched safetensors and, if asked for, the factors of the edit.
    mode
        ``static`` (one layer) or ``dynamic``.
    layer
        ``auto`` or the name of the one layer to edit.
    rank
        ``auto`` or a number.
    refine
        Whether a dynamic repair that closed forms leave incomplete may be refined.
    apply
        A delta file whose edit is made, instead of finding one.
    dry_run
        Judge, but leave no file behind.
    out_dtype
        ``float32``, or None for each weight's own type.

    Raises
    ------
    RectifyError
        If it cannot be judged or written; an inconclusive outcome is a report.
    """
    report, started = _begin("edit", inputs, options), time.time()
    protected = [inputs.subject.checkpoint.path, *([apply] if apply else [])]
    for path in [*([] if dry_run else [out]), *([delta] if delta else [])]:
        check_target(path, force=force, never=protected)
    notes: list[str] = []
    try:
        made_before: dict[str, Any] = {}
        if apply is not None:
            fault, edits, made_before = _read_edit(inputs, options, report, apply)
        else:
            fault, edits = _find_edit(inputs, options, report, (mode, layer, rank, refine), notes, progress)
        before = _measure(inputs.subject.network, inputs, options, fault.target if fault else None)
        _check_chance(before, inputs)
        report["metrics"]["before"] = before.to_dict()
    except Inconclusive as reason:
        return _finish(report, options, started, inputs, notes, inconclusive=str(reason))
    dtype = torch.float32 if out_dtype == "float32" else None
    made = patch(inputs.subject.checkpoint.state, edits, dtype)
    describe(report, made, dry_run)
    metadata = made_before or metadata_of(inputs.subject, inputs.pairs, options.seed, edits)
    files = EditFiles(out, delta, force, protected, dry_run)
    with files.candidate(made, metadata, inputs.subject) as (candidate, written):
        _judge_written(candidate, inputs, options, report, fault)
        _holdout(report, inputs, options, candidate, fault)
        report = _finish(report, options, started, inputs, notes, warnings=True)
        if report["verdict"] == "pass":  # --exit-zero changes the code, not what is left behind
            if not dry_run:
                report["edit"]["out"] = file_section(files.keep(written))
            if delta is not None:
                report["edit"]["delta"] = file_section(files.write_delta(edits, metadata))
    return report


def _read_edit(
    inputs: Inputs, options: Options, report: dict[str, Any], delta: Path
) -> tuple[Fault | None, list[LayerEdit], dict[str, Any]]:
    """The edit of a delta file, and the metadata of the model that it makes: the same as when it was found."""
    checkpoint = inputs.subject.checkpoint
    edits, metadata = read_delta(delta, checkpoint.state, checkpoint.sha256)
    fault = _fault_of(inputs, options) if inputs.pairs or inputs.holdout else None
    if inputs.pairs and fault:
        report["pairs"] = pairs_section(inputs.pairs, fault)
    report["edit"] = apply_section(edits, metadata)
    return fault, edits, {**metadata, "kind": "model"}


def _find_edit(
    inputs: Inputs,
    options: Options,
    report: dict[str, Any],
    how: tuple[str, str, str, bool],
    notes: list[str],
    progress: Progress,
) -> tuple[Fault | None, list[LayerEdit]]:
    """Find the edit, and report on the way to it."""
    if inputs.pairs is None:
        raise UsageError("edit needs a pair: --clean a.png --poisoned b.png")
    mode, layer, rank, refine = how
    scene = _open_scene(inputs, options)
    report["pairs"] = pairs_section(inputs.pairs, scene.fault)
    site = None if layer == "auto" else _site_named(scene.sites, layer)
    number = None if rank == "auto" else _rank(rank)
    found = _localize(scene, options, progress)
    case = _open_case(scene, options)
    notes += case.notes
    if site is None:
        tries = len(found.scores) if mode == "static" else repair.affordable_trials(case, scene.sites)
        if tries:
            found = _with_trials(scene, case, found, options, progress, tries)
    report["localize"] = localize_section(found, scene.fault.target)
    progress.start("repairing", None)
    shop = repair.Workshop(scene.network, case, options.batch_size, lambda label: progress.advance(), options.seed)
    if site is not None or mode == "static":
        done = repair.static(shop, site or found.scores[0].site, number)
    else:
        done = repair.dynamic(shop, found.scores, number, refine)
    progress.stop()
    notes += done.notes
    report["edit"] = edit_section(done, mode)
    return scene.fault, [compact(edit) for edit in done.edits]


def _site_named(sites: list[Site], name: str) -> Site:
    by_name = {site.name: site for site in sites}
    if name not in by_name:
        raise UsageError(
            f"no editable layer {name!r}: {did_you_mean(name, list(by_name))} "
            f"(rectify localize lists all {len(by_name)})"
        )
    return by_name[name]


def _rank(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--rank {text}: give auto or a whole number from 1")
    return int(text)


def _judge_written(
    network: nn.Module, inputs: Inputs, options: Options, report: dict[str, Any], fault: Fault | None
) -> None:
    """All figures after the edit, measured on the reopened weights."""
    after = _measure(network, inputs, options, fault.target if fault else None, fault)
    report["metrics"]["after"] = after.to_dict()
    if inputs.calibration is not None:
        x = inputs.calibration.stack(MOST_CALIBRATION, options.seed)
        args = (x, options.batch_size, inputs.subject.device)
        agree = softmax(network, *args).argmax(1) == softmax(inputs.subject.network, *args).argmax(1)
        report["metrics"]["after"]["agreement"] = float(agree.double().mean())


# ----------------------------------------------------------------------------------------------------- evaluate


def run_evaluate(
    inputs: Inputs, options: Options, *, against: Subject | None = None, progress: Progress
) -> dict[str, Any]:
    """Measure the model, and the model ``against`` which it is held, and judge the gates.

    Raises
    ------
    RectifyError
        If there is nothing to measure, or it cannot be judged.
    """
    report, started = _begin("evaluate", inputs, options), time.time()
    if inputs.data is None and inputs.pairs is None and inputs.holdout is None:
        raise UsageError(
            "nothing to measure: give --data DIR (labelled images), --pairs DIR|CSV, or --clean and --poisoned"
        )
    first = against or inputs.subject
    target = None
    try:
        progress.start("measuring", None)
        fault = _fault_of(inputs, options, first) if inputs.pairs or inputs.holdout else None
        if fault is not None:
            target = fault.target
            if inputs.pairs:
                report["pairs"] = pairs_section(inputs.pairs, fault)
        after = _measure(inputs.subject.network, inputs, options, target, fault)
        _check_chance(after if against is None else _measure(first.network, inputs, options, target, fault), inputs)
        report["metrics"]["after"] = after.to_dict()
        if against is not None:
            report["metrics"]["before"] = _measure(against.network, inputs, options, target, fault).to_dict()
        _holdout(report, inputs, options, inputs.subject.network, fault, against.network if against else None)
        progress.stop()
    except Inconclusive as reason:
        return _finish(report, options, started, inputs, [], inconclusive=str(reason))
    return _finish(report, options, started, inputs, [])


# ------------------------------------------------------------------------------------------------------ measuring


def _fault_of(inputs: Inputs, options: Options, judged_by: Subject | None = None) -> Fault:
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


def _measure(
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


def _holdout(
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


def _check_chance(figures: Figures, inputs: Inputs) -> None:
    if figures.accuracy is not None and inputs.data is not None:
        check_against_chance(figures.accuracy, len(inputs.data), inputs.subject.num_classes)


# ------------------------------------------------------------------------------------------------------- scenery


def _open_scene(inputs: Inputs, options: Options) -> _Scene:
    assert inputs.pairs is not None
    subject = inputs.subject
    device = subject.device
    clean, corrupted = inputs.pairs.clean.to(device), inputs.pairs.corrupted.to(device)
    answers = [softmax(subject.network, x, options.batch_size, device) for x in (clean, corrupted)]
    fault = diagnose(answers[0], answers[1], inputs.pairs.labels, options.fault)
    fault = Fault(fault.kind, fault.target, fault.labels.to(device), fault.shown.to(device), fault.notes)
    calibration = None
    if inputs.calibration is not None:
        calibration = inputs.calibration.stack(MOST_CALIBRATION, options.seed).to(device)
    low, high = subject.preprocess.bounds()
    sites = survey(subject.network, clean[:1])
    if not any(is_candidate(site) for site in sites):
        raise Inconclusive("the model has no layer that can be edited: no plain Conv2d or Linear computes W k + b")
    return _Scene(subject.network, clean, corrupted, fault, calibration, (low.to(device), high.to(device)), sites)


def _open_case(scene: _Scene, options: Options) -> Case:
    return open_case(
        scene.network,
        scene.clean,
        scene.corrupted,
        scene.fault,
        scene.calibration,
        scene.bounds,
        batch=options.batch_size,
        seed=options.seed,
    )


# ------------------------------------------------------------------------------------------------ report sections


def _begin(command: str, inputs: Inputs, options: Options) -> dict[str, Any]:
    check_limits(options.gates)
    report = empty_report(command)
    subject = inputs.subject
    report["model"] = {
        "path": str(subject.checkpoint.path),
        "sha256": subject.checkpoint.sha256,
        "arch": subject.arch,
        "arch_args": subject.arch_args,
        "num_classes": subject.num_classes,
        "parameters": sum(p.numel() for p in subject.network.parameters()),
        "preprocess": subject.preprocess.to_dict(),
        "trusted_pickle": subject.checkpoint.trusted_pickle,
    }
    for key, images in (("calibration", inputs.calibration), ("data", inputs.data), ("holdout_pairs", inputs.holdout)):
        report[key] = None if images is None else {"count": len(images), "sha256": images.sha256}
    return report


def _finish(
    report: dict[str, Any],
    options: Options,
    started: float,
    inputs: Inputs,
    notes: list[str],
    *,
    inconclusive: str | None = None,
    warnings: bool = False,
) -> dict[str, Any]:
    """Judge the gates and close the report."""
    if warnings:
        report["edit"]["warnings"] += _still_there(report)
    gates = judge(options.gates, report, baseline=options.baseline)
    verdict = decide(gates, inconclusive=inconclusive, exit_zero=options.exit_zero)
    report = conclude(report, verdict)
    report["run"] = run_section(started, str(inputs.subject.device), options.seed, notes)
    return report


def _still_there(report: dict[str, Any]) -> list[str]:
    """A warning where the pairs themselves still show the fault."""
    after = report["metrics"]["after"]
    if after.get("asr"):
        return [f"the fault is still there on {100 * after['asr']:.0f} % of the pairs"]
    if after.get("recovery") is not None and after["recovery"] < 1 and after.get("asr") == 0:
        return ["the attack is gone, but not every corrupted image of the pairs gets its class back"]
    return []
