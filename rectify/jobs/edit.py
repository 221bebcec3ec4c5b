"""``rectify edit``: repair, write, reopen, judge."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rectify.editing import rectify as repair
from rectify.editing.candidate import EditFiles
from rectify.editing.cascade import LayerEdit
from rectify.editing.fault import Fault
from rectify.editing.leak import sealed
from rectify.editing.localize import is_candidate
from rectify.editing.patch import compact, patch, read_delta
from rectify.errors import Inconclusive, UsageError
from rectify.evaluation.accuracy import softmax
from rectify.files.checkpoint import check_target
from rectify.jobs.common import MOST_CALIBRATION, Inputs, Options, Progress, begin, finish
from rectify.jobs.measuring import check_chance, fault_of, judge_holdout, leakage_of, measure
from rectify.jobs.scene import Scene, open_scene, open_scene_case, score_layers, site_named, with_trials
from rectify.sections import (
    apply_section,
    describe,
    edit_section,
    file_section,
    localize_section,
    metadata_of,
    pairs_section,
)

STATIC_TRIALS = 8  # layers that a static edit tries at least, whatever it costs


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
    report, started = begin("edit", inputs, options), time.time()
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
        before = measure(inputs.subject.network, inputs, options, fault)
        check_chance(before, inputs)
        report["metrics"]["before"] = before.to_dict()
        _tell_leakage(report, "before", inputs.subject.network, inputs, options, fault)
    except Inconclusive as reason:
        return finish(report, options, started, inputs, notes, inconclusive=str(reason))
    dtype = torch.float32 if out_dtype == "float32" else None
    made = patch(inputs.subject.checkpoint.state, edits, dtype)
    describe(report, made, dry_run)
    metadata = made_before or metadata_of(inputs.subject, inputs.pairs, options.seed, edits)
    files = EditFiles(out, delta, force, protected, dry_run)
    with files.candidate(made, metadata, inputs.subject) as (candidate, written):
        _judge_written(candidate, inputs, options, report, fault)
        notes += judge_holdout(report, inputs, options, candidate, fault)
        report = finish(report, options, started, inputs, notes, warnings=True)
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
    fault = fault_of(inputs, options) if inputs.pairs or inputs.holdout else None
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
    scene = open_scene(inputs, options)
    report["pairs"] = pairs_section(inputs.pairs, scene.fault)
    site = None if layer == "auto" else site_named(scene, layer)
    number = None if rank == "auto" else _rank(rank)
    case = open_scene_case(scene, options)
    notes += case.notes
    found = score_layers(scene, options, progress)
    if site is None:
        tries = repair.affordable_trials(case, scene.sites)
        if mode == "static":  # nothing but the choice of the layer stands between a good edit and a bad one
            tries = max(tries, STATIC_TRIALS)
        if tries:
            found = with_trials(scene, case, found, options, progress, tries)
    report["localize"] = localize_section(found, scene.fault.target)
    progress.start("repairing", None)
    shop = repair.Workshop(scene.network, case, options.batch_size, lambda label: progress.advance(), options.seed)
    done = None
    if scene.fault.kind == "leak" and mode == "dynamic" and site is None and number is None and refine:
        done = _sealed(shop, scene, notes)
    if done is None and (site is not None or mode == "static"):
        done = repair.static(shop, site or found.scores[0].site, number)
    elif done is None:
        done = repair.dynamic(shop, found.scores, number, refine)
    progress.stop()
    notes += done.notes
    report["edit"] = edit_section(done, mode)
    return scene.fault, [compact(edit) for edit in done.edits]


def _sealed(shop: repair.Workshop, scene: Scene, notes: list[str]) -> repair.Repair | None:
    """The repair of a leak on calibration images that show the part in question."""
    if scene.calibration is None:
        return None
    sites = [site for site in scene.sites if is_candidate(site)]
    shown = scene.fault.shown
    done, note = sealed(shop, sites, scene.corrupted[shown], scene.clean[shown], scene.calibration, scene.bounds)
    notes.append(note)
    return done


def _rank(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--rank {text}: give auto or a whole number from 1")
    return int(text)


def _tell_leakage(
    report: dict[str, Any], when: str, network: nn.Module, inputs: Inputs, options: Options, fault: Fault | None
) -> None:
    found = leakage_of(network, inputs, options, fault)
    if found is not None:
        report["metrics"][when]["leakage"] = found


def _judge_written(
    network: nn.Module, inputs: Inputs, options: Options, report: dict[str, Any], fault: Fault | None
) -> None:
    """All figures after the edit, measured on the reopened weights."""
    after = measure(network, inputs, options, fault)
    report["metrics"]["after"] = after.to_dict()
    _tell_leakage(report, "after", network, inputs, options, fault)
    if inputs.calibration is not None:
        x = inputs.calibration.stack(MOST_CALIBRATION, options.seed)
        args = (x, options.batch_size, inputs.subject.device)
        agree = softmax(network, *args).argmax(1) == softmax(inputs.subject.network, *args).argmax(1)
        report["metrics"]["after"]["agreement"] = float(agree.double().mean())
