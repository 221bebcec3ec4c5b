"""The sections of a report, from what the library's functions return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rectify.editing.cascade import LayerEdit
from rectify.editing.fault import Fault
from rectify.editing.judge import Judgement, is_doubtful, tell
from rectify.editing.localize import LayerScore, Localization, is_candidate, triage
from rectify.editing.patch import Patch
from rectify.editing.repair import Repair
from rectify.editing.workshop import Step
from rectify.errors import UsageError
from rectify.files.architectures import Subject
from rectify.files.checkpoint import WrittenFile
from rectify.files.images import Pairs
from rectify.model.trace import survey

PRECISION_WARNING = 0.05
VERSION = 1  # of the metadata in written files


def pairs_section(pairs: Pairs, fault: Fault) -> dict[str, Any]:
    """The pairs and the fault that they show."""
    return {
        "count": len(pairs),
        "sha256": pairs.sha256,
        "target": None if fault.each else fault.target,
        "each": fault.each,
        "labels": fault.labels.tolist(),
        "fault": fault.kind,
    }


def localize_section(found: Localization, target: int | None) -> dict[str, Any]:
    """The ranked layers."""
    return {
        "method": "integrated-gradients",
        "target": target,
        "completeness_gap": found.completeness_gap,
        "layers": [layer_row(score, rank + 1) for rank, score in enumerate(found.scores)],
    }


def layer_row(score: LayerScore, rank: int, outlier: float | None = None) -> dict[str, Any]:
    """One layer of the ranking."""
    trial = None
    if score.trial is not None:
        trial = {
            "gap_after": score.gap_after,
            "recovery": 1 - score.trial.recovery_loss,
            "agreement": 1 - score.trial.accuracy_loss,
            "asr": score.trial.asr,
        }
    weight = score.site.layer.module.weight
    return {
        "name": score.site.name,
        "kind": score.site.layer.kind,
        "shape": list(weight.shape),
        "parameters": weight.numel(),
        "editability": score.editability,
        "attribution": score.attribution,
        "completeness_gap": score.completeness_gap,
        "out_of_span": score.out_of_span,
        "rank": rank,
        "editability_scale_free": score.scale_free,
        "leverage": score.leverage,
        "candidate": score.candidate,
        "trial": trial,
        "lipschitz_outlier": outlier,
    }


def triage_section(subject: Subject) -> dict[str, Any]:
    """The data-free triage.

    Raises
    ------
    UsageError
        If there is no convolution to look at.
    """
    example = torch.zeros(1, *subject.preprocess.input_size, device=subject.device)
    rows = [
        layer_row(LayerScore(site, is_candidate(site), None, None, None, None, None, None), rank + 1, outlier)
        for rank, (site, outlier) in enumerate(triage(survey(subject.network, example)))
    ]
    if not rows:
        raise UsageError("no convolution of eight channels to look at: give a pair, --clean a.png --poisoned b.png")
    return {"method": "data-free-triage", "target": None, "completeness_gap": None, "layers": rows}


def edit_section(done: Repair, mode: str) -> dict[str, Any]:
    """What was done and tried; files are filled in when they are written."""
    return {
        "mode": mode,
        "policy": done.policy,
        "steps": [step_row(step) for step in done.steps],
        "changed_tensors": [],
        "out": None,
        "delta": None,
        "precision_loss": 0.0,
        "dry_run": False,
        "expected": _expected(done.expected),
        "warnings": _doubts(done),
    }


def _expected(judged: Judgement | None) -> dict[str, float | None] | None:
    """What is expected of other images, by those that the edit was not solved on; None without such."""
    if judged is None:
        return None
    kept = {"accuracy_kept": 1 - judged.accuracy_loss, "recovery_kept": 1 - judged.recovery_loss}
    return {**kept, "asr": judged.asr}


def _doubts(done: Repair) -> list[str]:
    """A warning where the pairs come out well and other images are not expected to."""
    if done.expected is None or not is_doubtful(done.expected):
        return []
    return [
        f"not whole on other images: {tell(done.expected)}; more pairs (--clean and --poisoned again) show more of the "
        "fault, and more calibration images help"
    ]


def step_row(step: Step) -> dict[str, Any]:
    """One edit of one layer."""
    return {
        "layer": step.edit.layer,
        "rank": step.edit.rank,
        "delta_norm": step.delta_norm,
        "relative_norm": step.relative_norm,
        "gap_before": step.gap_before,
        "gap_after": step.gap_after,
        "kept": step.kept,
        "reason": step.reason,
        "expected": _expected(step.expected),
    }


def apply_section(edits: Sequence[LayerEdit], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The edits of a delta file."""
    steps = [
        {
            "layer": edit.layer,
            "rank": edit.rank,
            "delta_norm": float(edit.delta().double().norm()),
            "relative_norm": None,
            "gap_before": None,
            "gap_after": None,
            "kept": True,
            "reason": "from the delta file",
        }
        for edit in edits
    ]
    empty: dict[str, Any] = {
        "changed_tensors": [],
        "out": None,
        "delta": None,
        "precision_loss": 0.0,
        "dry_run": False,
        "expected": None,
        "warnings": [],
    }
    return {"mode": "apply", "policy": f"delta of base {str(metadata['base_sha256'])[:12]}", "steps": steps, **empty}


def describe(report: dict[str, Any], made: Patch, dry_run: bool) -> None:
    """Fill in what the patch changed, and warn where the cast lost much."""
    section = report["edit"]
    section["changed_tensors"] = list(made.changed)
    section["precision_loss"] = made.precision_loss
    section["dry_run"] = dry_run
    if made.precision_loss > PRECISION_WARNING:
        section["warnings"].append(
            f"{100 * made.precision_loss:.0f} % of the edit was lost in the cast to the model's precision: "
            "--out-dtype float32 keeps it"
        )


def metadata_of(
    subject: Subject, pairs: Pairs | None, seed: int, edits: Sequence[LayerEdit], out_dtype: str | None
) -> dict[str, Any]:
    """What a written file says of itself: no path, time or name of a user."""
    chosen = {} if out_dtype is None else {"out_dtype": out_dtype}
    return {
        "version": VERSION,
        "kind": "model",
        "base_sha256": subject.checkpoint.sha256,
        "arch": subject.arch,
        "arch_args": subject.arch_args,
        "num_classes": subject.num_classes,
        "preprocess": subject.preprocess.to_dict(),
        "layers": [edit.layer for edit in edits],
        "ranks": [edit.rank for edit in edits],
        "pairs_sha256": pairs.sha256 if pairs else None,
        "seed": seed,
        **chosen,
    }


def file_section(written: WrittenFile) -> dict[str, Any]:
    """A written file."""
    return {"path": str(written.path), "sha256": written.sha256, "bytes": written.bytes}
