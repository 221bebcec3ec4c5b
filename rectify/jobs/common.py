"""What every job takes, and how a report begins and ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rectify.errors import UsageError
from rectify.files.architectures import Subject
from rectify.files.images import ImageSet, Pairs
from rectify.reporting.build import conclude, empty_report, run_section
from rectify.reporting.verdict import GATES, check_limits, decide, judge

_REPAIRED = ("max_asr", "min_recovery", "min_accuracy", "max_accuracy_drop", "max_spurious_gap", "max_leakage")
JUDGES: dict[str, tuple[str, ...]] = {  # the gates of each command; those of others, in a settings file, it leaves be
    "localize": ("min_editability",),
    "edit": (*_REPAIRED, "min_editability", "max_regression"),
    "evaluate": (*_REPAIRED, "max_regression"),
    "explain": (),
    "train": ("min_accuracy", "max_accuracy_drop"),
}
ON_DATA = ("min_accuracy", "max_accuracy_drop")  # gates that need labelled images
ON_PAIRS = ("max_asr", "min_recovery", "max_spurious_gap")
MOST_CALIBRATION = 512  # more images than this are sampled: the edit gains nothing from them


class Progress(Protocol):
    """What a terminal shows of long work."""

    def start(self, label: str, total: int | None = None) -> None:
        """Begin a piece of work of ``total`` steps (unknown if None)."""

    def advance(self, n: int = 1) -> None:
        """``n`` steps are done."""

    def say(self, line: str) -> None:
        """A line for people."""

    def detail(self, line: str) -> None:
        """A line for people who want to know more."""

    def stop(self) -> None:
        """The piece of work is over."""


@dataclass(frozen=True)
class Inputs:
    """What was read: the model, the pairs that are worked on, those that only judge, and the images."""

    subject: Subject
    pairs: Pairs | None = None
    holdout: Pairs | None = None
    calibration: ImageSet | None = None
    data: ImageSet | None = None
    images: ImageSet | None = None  # to explain, or to scan


@dataclass(frozen=True)
class Options:
    """How to compute and what judges.

    ``gates`` maps gate names to limits, and ``gate_hints`` those that nobody typed to where each was set and how to be
    rid of it there, for the message where one has nothing to be measured on. In ``cache_dir``, unless it is None,
    second moments are kept between runs.
    """

    fault: str = "auto"
    batch_size: int = 64
    seed: int = 0
    gates: Mapping[str, float] = field(default_factory=dict)
    gate_hints: Mapping[str, str] = field(default_factory=dict)
    baseline: Mapping[str, Any] | None = None
    exit_zero: bool = False
    cache_dir: Path | None = None


def begin(command: str, inputs: Inputs, options: Options) -> dict[str, Any]:
    check_limits(options.gates)
    _check_measurable(command, inputs, options)
    report = empty_report(command)
    subject = inputs.subject
    report["model"] = {
        "path": str(subject.checkpoint.path),
        "sha256": subject.checkpoint.sha256,
        "arch": subject.arch,
        "arch_args": dict(sorted(subject.arch_args.items())),  # as typed before an edit, as in the file after it
        "num_classes": subject.num_classes,
        "parameters": sum(p.numel() for p in subject.network.parameters()),
        "preprocess": subject.preprocess.to_dict(),
        "trusted_pickle": subject.checkpoint.trusted_pickle,
    }
    for key, images in (("calibration", inputs.calibration), ("data", inputs.data), ("holdout_pairs", inputs.holdout)):
        report[key] = None if images is None else {"count": len(images), "sha256": images.sha256}
    return report


def named(subject: Subject | None) -> dict[str, str] | None:
    """What a report says of a second model, one to compare with."""
    if subject is None:
        return None
    return {"path": str(subject.checkpoint.path), "sha256": subject.checkpoint.sha256}


def _check_measurable(command: str, inputs: Inputs, options: Options) -> None:
    """Say before the work that a gate has nothing to be measured on.

    Raises
    ------
    UsageError
        With what to give. A settings file's gates are for every command: `localize` and `train` leave them be.
    """
    if command not in ("edit", "evaluate"):
        return
    why: dict[str, str] = {}
    if inputs.data is None:
        why |= dict.fromkeys(ON_DATA, "give labelled images, --data DIR")
    if inputs.pairs is None and inputs.holdout is None:
        why |= dict.fromkeys(ON_PAIRS, "give --clean a.png --poisoned b.png, or --pairs DIR")
    refuse_gates(options, why)


def refuse_gates(options: Options, why: Mapping[str, str]) -> None:
    """Refuse the gates that cannot be measured, which ``why`` gives with what to do instead.

    Raises
    ------
    UsageError
        For the first of them that is asked for.
    """
    for name in options.gates:
        if name in why:
            hint = f"; {options.gate_hints[name]}" if name in options.gate_hints else ""
            raise UsageError(f"{GATES[name].flag} has nothing to be measured on: {why[name]}{hint}")


def finish(
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
    limits = {name: limit for name, limit in options.gates.items() if name in JUDGES[report["command"]]}
    gates = judge(limits, report, baseline=options.baseline)
    verdict = decide(gates, inconclusive=inconclusive, exit_zero=options.exit_zero)
    report = conclude(report, verdict)
    said = list(dict.fromkeys([*inputs.subject.notes, *notes]))
    report["run"] = run_section(started, str(inputs.subject.device), options.seed, said)
    return report


def _still_there(report: dict[str, Any]) -> list[str]:
    """A warning where the pairs themselves still show the fault."""
    after = report["metrics"]["after"]
    if after.get("asr"):
        return [f"the fault is still there on {100 * after['asr']:.0f} % of the pairs"]
    if after.get("recovery") is not None and after["recovery"] < 1 and after.get("asr") == 0:
        return ["the attack is gone, but not every corrupted image of the pairs gets its class back"]
    return []
