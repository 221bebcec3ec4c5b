"""``rectify edit``: repair, write, reopen, judge."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rectify.editing import repair
from rectify.editing.candidate import EditFiles
from rectify.editing.cascade import LayerEdit
from rectify.editing.fault import Fault
from rectify.editing.leak import Part, sealed
from rectify.editing.localize import is_candidate
from rectify.editing.patch import compact, patch, read_delta
from rectify.editing.workshop import Workshop
from rectify.errors import Inconclusive, UsageError
from rectify.evaluation.accuracy import softmax
from rectify.files.atomic import files_at
from rectify.files.checkpoint import WrittenFile, check_suffix, check_target
from rectify.files.images import image_files
from rectify.files.words import quoted
from rectify.jobs.common import MOST_CALIBRATION, Inputs, Options, Progress, begin, finish, refuse_gates
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
NO_REPAIR = (
    "no edit repairs the pairs: their corrupted images go where they went. Is clean the one without the fault? "
    "Another pair, or more calibration images of all classes, may do; --mode static writes an edit all the same"
)
BORNE_OUT = (
    "calibration images that what was done to the pairs was carried over to bear the repair out, and the pairs "
    "do not: judge it by another pair, with rectify evaluate"
)


@dataclass(frozen=True)
class Editing:
    """Which edit is looked for, and where it goes.

    Attributes
    ----------
    out, delta
        Files to write: the patched safetensors and, if asked for, the factors of the edit.
    mode
        ``static`` (one layer) or ``dynamic``.
    layer
        ``auto`` or the name of the one layer to edit: dynamic of rank one, or as much more as it takes.
    rank
        ``auto`` or a number.
    refine
        Whether a dynamic repair that closed forms leave incomplete may be refined.
    apply
        A delta file whose edit is made, instead of finding one.
    dry_run
        Judge, but write no model; the delta, if asked for, is written.
    force
        Replace files that are there.
    out_dtype
        ``float32``, or None for each weight's own type.
    """

    out: Path
    mode: str = "dynamic"
    layer: str = "auto"
    rank: str | int = "auto"
    refine: bool = True
    delta: Path | None = None
    apply: Path | None = None
    dry_run: bool = False
    force: bool = False
    out_dtype: str | None = None

    def files(self, inputs: Inputs) -> EditFiles:
        """The files to write, none of which may be one that is read.

        Raises
        ------
        RectifyError
            If one cannot be written, or is there already and ``force`` is off.
        """
        targets = [path for path in (self.out, self.delta) if path is not None]
        never = [inputs.subject.checkpoint.path, *([self.apply] if self.apply else [])]
        images = image_files(inputs.pairs, inputs.holdout, inputs.calibration, inputs.data)
        never += files_at(targets, images)
        for path in targets:
            check_suffix(path)
        if not self.dry_run:
            check_target(self.out, force=self.force, never=never)
        if self.delta:
            check_target(self.delta, force=self.force, never=never, flag="--delta")
        return EditFiles(self.out, self.delta, self.force, never, self.dry_run)


def run_edit(inputs: Inputs, options: Options, *, editing: Editing, progress: Progress) -> dict[str, Any]:
    """Repair the model, write it, reopen it, judge it; a file that fails its gates is not left behind.

    Raises
    ------
    RectifyError
        If it cannot be judged or written; an inconclusive outcome is a report.
    """
    report, started = begin("edit", inputs, options), time.time()
    files = editing.files(inputs)
    notes: list[str] = []
    borne_out = False
    try:
        if editing.apply is not None:
            refuse_gates(options, {"min_editability": "--apply scores no layer; leave it out"})
            fault, edits, made_before = _read_edit(inputs, options, report, editing.apply)
            out_dtype = _dtype_of(editing, made_before)
        else:
            fault, edits, borne_out = _find_edit(inputs, options, report, editing, notes, progress)
            made_before, out_dtype = {}, editing.out_dtype
        before = measure(inputs.subject.network, inputs, options, fault)
        check_chance(before, inputs)
        report["metrics"]["before"] = before.to_dict()
        _tell_leakage(report, "before", inputs.subject.network, inputs, options, fault)
        notes += _leak_unseen(report, inputs, fault)
    except Inconclusive as reason:
        return finish(report, options, started, inputs, notes, inconclusive=str(reason))
    made = patch(inputs.subject.checkpoint.state, edits, torch.float32 if out_dtype == "float32" else None)
    describe(report, made, editing.dry_run)
    metadata = made_before or metadata_of(inputs.subject, inputs.pairs, options.seed, edits, out_dtype)
    with files.candidate(made, metadata, inputs.subject) as (candidate, written):
        _judge_written(candidate, inputs, options, report, fault)
        notes += judge_holdout(report, inputs, options, candidate, fault)
        why = None
        if _left_as_it_was(report, editing):
            if borne_out:
                report["edit"]["warnings"].append(BORNE_OUT)
            else:
                why = NO_REPAIR
        report = finish(report, options, started, inputs, notes, warnings=True, inconclusive=why)
        if report["verdict"] == "pass":  # --exit-zero changes the code, not what is left behind
            _keep(files, written, edits, metadata, report)
    return report


def _left_as_it_was(report: dict[str, Any], editing: Editing) -> bool:
    """Whether a search left all pairs as they were; an edit that was asked for by name or mode is none."""
    if editing.apply is not None or editing.mode == "static" or editing.layer != "auto":
        return False
    before, after = report["metrics"]["before"], report["metrics"]["after"]
    return bool(before["asr"]) and after["asr"] >= before["asr"] and after["recovery"] <= before["recovery"]


def _keep(
    files: EditFiles, written: WrittenFile, edits: list[LayerEdit], metadata: dict[str, Any], report: dict[str, Any]
) -> None:
    """Give the files their names, the model's last: where it lies, the delta does too."""
    delta = None if files.delta is None else file_section(files.write_delta(edits, metadata))
    if not files.dry_run:
        report["edit"]["out"] = file_section(files.keep(written))
    if delta is not None:
        report["edit"]["delta"] = delta


def _read_edit(
    inputs: Inputs, options: Options, report: dict[str, Any], delta: Path
) -> tuple[Fault | None, list[LayerEdit], dict[str, Any]]:
    """The edit of a delta file, and the metadata of the model that it makes: the same as when it was found."""
    checkpoint = inputs.subject.checkpoint
    edits, metadata = read_delta(delta, checkpoint.state, checkpoint.sha256)
    fault = fault_of(inputs, options) if inputs.pairs or inputs.holdout else None
    if inputs.pairs and fault:
        report["pairs"] = pairs_section(inputs.pairs, fault)
    _check_leakage_gate(inputs, options, fault)
    report["edit"] = apply_section(edits, metadata)
    if inputs.pairs is None and inputs.holdout is None and inputs.data is None:
        report["edit"]["warnings"].append("made, and judged on nothing: give --data, --holdout, or the pair")
    return fault, edits, {**metadata, "kind": "model"}


def _dtype_of(editing: Editing, metadata: dict[str, Any]) -> str | None:
    """The type that the delta was made with, so that it gives the same file; of one that says none, the flag's."""
    told, asked = metadata.get("out_dtype"), editing.out_dtype
    if told is None:
        metadata |= {} if asked is None else {"out_dtype": asked}
        return asked
    if told != "float32":  # the only one that there is so far
        raise UsageError(
            f"{editing.apply} asks for weights of type {quoted(told)}, which are not written: make it anew"
        )
    if asked not in (None, told):
        raise UsageError(f"{editing.apply} was made with --out-dtype {told}: leave out --out-dtype {asked}")
    return "float32"


def _find_edit(
    inputs: Inputs,
    options: Options,
    report: dict[str, Any],
    editing: Editing,
    notes: list[str],
    progress: Progress,
) -> tuple[Fault | None, list[LayerEdit], bool]:
    """Find the edit, whether other images than the pairs bear it out, and report on the way to it."""
    if inputs.pairs is None:
        raise UsageError("edit needs a pair: --clean a.png --poisoned b.png")
    scene = open_scene(inputs, options, progress)
    report["pairs"] = pairs_section(inputs.pairs, scene.fault)
    _check_leakage_gate(inputs, options, scene.fault)
    site = None if editing.layer == "auto" else site_named(scene, editing.layer)
    number = None if editing.rank == "auto" else _rank(editing.rank)
    case = open_scene_case(scene, options)
    report["pairs"] = pairs_section(inputs.pairs, case.fault)  # calibration images show if it has no one target
    notes += case.notes
    found = score_layers(scene, options, progress)
    if site is None:
        tries, rank = repair.affordable_trials(case, scene.sites), 1
        if editing.mode == "static":  # nothing but the choice of the layer stands between a good edit and a bad one
            tries, rank = max(tries, STATIC_TRIALS), number or 1
        if tries:
            found = with_trials(scene, case, found, options, progress, tries, rank)
    report["localize"] = localize_section(found, scene.fault.target)
    progress.start("repairing", None)
    shop = Workshop(scene.network, case, options.batch_size, lambda label: progress.advance(), options.seed)
    if editing.mode == "static":
        done = repair.static(shop, site or found.scores[0].site, number)
    else:
        sealing = scene.fault.kind == "leak" and site is None and number is None and editing.refine
        done = (_sealed(shop, scene, notes) if sealing else None) or repair.dynamic(
            shop, found.scores, number, editing.refine, site
        )
    progress.stop()
    notes += done.notes
    report["edit"] = edit_section(done, editing.mode)
    if not case.calibrated:
        report["edit"]["warnings"].append("too few calibration images: judged on none but those that it was made from")
    return scene.fault, [compact(edit) for edit in done.edits], repair.borne_out(case, done.expected)


def _sealed(shop: Workshop, scene: Scene, notes: list[str]) -> repair.Repair | None:
    """The repair of a leak on calibration images that show the part in question."""
    if scene.calibration is None:
        return None
    sites = [site for site in scene.sites if is_candidate(site)]
    shown = scene.fault.shown
    done, note = sealed(shop, sites, scene.corrupted[shown], scene.clean[shown], scene.calibration, scene.bounds)
    notes.append(note)
    return done


def _rank(given: str | int) -> int:
    text = str(given)
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise UsageError(f"--rank {text}: give auto or a whole number from 1")
    return int(text)


def _check_leakage_gate(inputs: Inputs, options: Options, fault: Fault | None) -> None:
    """Say before the work that leakage is measured of leaks alone, and on calibration images."""
    if fault is None or fault.kind != "leak":
        refuse_gates(options, {"max_leakage": "it is measured where --fault leak says that the pair shows one"})
    if inputs.calibration is None:
        refuse_gates(options, {"max_leakage": "give --calibration DIR, images that show the part"})


def _tell_leakage(
    report: dict[str, Any], when: str, network: nn.Module, inputs: Inputs, options: Options, fault: Fault | None
) -> None:
    found = leakage_of(network, inputs, options, fault)
    if found is not None:
        report["metrics"][when]["leakage"] = found


def _leak_unseen(report: dict[str, Any], inputs: Inputs, fault: Fault | None) -> list[str]:
    """Why there is no figure of a leak, where the calibration images should have given one."""
    if fault is None or fault.kind != "leak" or inputs.pairs is None or inputs.calibration is None:
        return []
    if report["metrics"]["before"].get("leakage") is not None:
        return []
    if Part.of(inputs.pairs.clean[:1], inputs.pairs.corrupted[:1]) is None:
        return ["leakage is not measured: the pair differs everywhere, and no part could be looked for"]
    return ["leakage is not measured: no calibration image shows the part that the pair differs in"]


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
