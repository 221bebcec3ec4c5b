"""``rectify train``: train or fine-tune with a robust-attribution objective, write, reopen, attack, report."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rectify.errors import ImageError, OutputError, RectifyError, UsageError
from rectify.evaluation.accuracy import Figures
from rectify.evaluation.measure import Measure
from rectify.files.architectures import Subject, open_subject
from rectify.files.atomic import clear_partials, files_at
from rectify.files.checkpoint import WrittenFile, check_suffix, check_target, write_tensors
from rectify.files.words import plain
from rectify.jobs.common import Inputs, Options, Progress, begin, finish
from rectify.sections import VERSION, file_section
from rectify.training.data import Labelled, scarce_classes
from rectify.training.loop import Training, accuracy_of, train
from rectify.training.measure import Robustness, Trial, attack
from rectify.training.presets import ATTACKED, Plan
from rectify.training.state import SECONDS, Keeper


@dataclass(frozen=True)
class Trained:
    """What is to be trained.

    Attributes
    ----------
    plan, data, val
        How, on what, and what judges; without ``val`` the training images judge, and the report says so.
    preset
        The name of the preset that the plan came from.
    trial
        How the result is attacked. Its eps is the plan's where that has one.
    """

    plan: Plan
    data: Labelled
    val: Labelled | None = None
    preset: str | None = None
    trial: Trial | None = None


def run_train(
    subject: Subject,
    what: Trained,
    options: Options,
    *,
    out: Path,
    resume: bool = False,
    force: bool = False,
    save_every: float = SECONDS,
    never: Sequence[Path] = (),
    progress: Progress,
) -> dict[str, Any]:
    """Train ``subject`` and write it to ``out``; a killed run leaves ``out`` + ``.resume`` behind, to go on from.

    Every figure is measured on the written file, opened again. The file stays where a gate is violated: it is hours of
    work, and the exit code tells. Neither replaces the model, the files of the images or those of ``never``.

    Raises
    ------
    TrainingError
        If the loss is no number: the last good state is kept.
    OutputError
        If something cannot be written: the last state is kept.
    KeyboardInterrupt
        At Ctrl-C, with what is kept and what to type.
    RectifyError
        See `rectify.errors`.
    """
    started, inputs = time.time(), Inputs(subject=subject)
    report = begin("train", inputs, options)
    report["data"] = {"count": len(what.data), "sha256": what.data.sha256}
    fresh = not subject.checkpoint.sha256
    keeper = Keeper(state_path(out), _identity(subject, what), save_every)
    images = files_at((out, keeper.path), what.data.files + (what.val.files if what.val else ()))
    protected = [*never, *images] + ([] if fresh else [subject.checkpoint.path])
    check_suffix(out)
    for path in (out, keeper.path):
        check_target(path, force=True, never=protected)
    going_on = _check_state(keeper, out, resume, force)
    check_target(out, force=force or going_on, never=protected)
    for path in (out, keeper.path):
        clear_partials(path.parent, glob.escape(path.name))
    odd = [*what.data.notes, *scarce_classes(what.data, subject.num_classes)]
    for line in odd:
        progress.say(line)
    notes = _notes(what, resume and not going_on) + odd
    judges = what.val or what.data
    if not fresh:
        report["metrics"]["before"] = _figures(accuracy_of(subject.network, judges, subject.device))
    run = Training(subject.network, what.plan, what.data, subject.preprocess.bounds(), subject.device, what.val, keeper)
    with _says_what_is_kept(keeper, progress):
        history = train(run, progress, resume=going_on)
        written = _write(subject, what, out, force or going_on, protected, keeper)
        again = open_subject(out, arch=subject.arch, arch_args=subject.arch_args, device=str(subject.device))
        progress.start("measuring", None)
        natural = accuracy_of(again.network, judges, again.device)
        progress.stop()
        report["metrics"]["after"] = _figures(natural)
        report["train"] = _section(what, history, natural, _attacked(again, what, judges, progress), written)
    if fresh:
        report["model"] |= {"path": str(written.path), "sha256": written.sha256}
    report = finish(report, options, started, inputs, notes)
    keeper.drop()
    return report


@contextmanager
def _says_what_is_kept(keeper: Keeper, progress: Progress) -> Iterator[None]:
    """Context in which whatever ends the run says what is left of it; errors of the keeper itself say so already."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(keeper.told()) from None
    except ImageError as error:
        raise ImageError(f"{error}; {keeper.told()}") from None
    except RectifyError:
        raise
    except Exception:  # of the user's network, say
        progress.stop()
        progress.say(keeper.told())
        raise


def state_path(out: Path) -> Path:
    """Where the state of a training lies until ``out`` is written."""
    return out.parent / (out.name + ".resume")


def _identity(subject: Subject, what: Trained) -> dict[str, Any]:
    """What a state belongs to, as JSON values."""
    plan = asdict(what.plan) | {"schedule": [list(entry) for entry in what.plan.schedule]}
    names = {"base": subject.checkpoint.sha256, "arch": subject.arch, "arch_args": subject.arch_args}
    return {**names, "preprocess": subject.preprocess.to_dict(), "data": what.data.sha256, **plan}


def _check_state(keeper: Keeper, out: Path, resume: bool, force: bool) -> bool:
    """Whether there is a run to go on with; refuse to write over one that nobody asked for."""
    if resume and not force and not keeper.there() and os.path.exists(out):
        raise UsageError(f"{plain(out)} is there and has no state to go on from: it is done; --force trains it anew")
    if keeper.there() and not resume and not force:
        raise UsageError(
            f"{plain(keeper.path)} is an unfinished training: --resume goes on with it, --force starts anew"
        )
    return resume and keeper.there()


def _notes(what: Trained, nothing_to_resume: bool) -> list[str]:
    notes = []
    if nothing_to_resume:
        notes.append("there was no state to resume from: this training began at its start")
    if what.val is None:
        notes.append("no --val: accuracy and attacks were measured on the training images, which flatters them")
    return notes


def _figures(accuracy: float) -> dict[str, Any]:
    return Figures(accuracy=accuracy).to_dict()


def _write(
    subject: Subject, what: Trained, out: Path, force: bool, protected: list[Path], keeper: Keeper
) -> WrittenFile:
    state = {name: value for name, value in subject.network.state_dict().items() if isinstance(value, torch.Tensor)}
    metadata = {
        "version": VERSION,
        "kind": "model",
        "base_sha256": subject.checkpoint.sha256 or None,
        "arch": subject.arch,
        "arch_args": subject.arch_args,
        "num_classes": subject.num_classes,
        "preprocess": subject.preprocess.to_dict(),
        "train": {**_identity(subject, what), "classes": what.data.classes},
        "seed": what.plan.seed,
    }
    try:
        return write_tensors(out, state, metadata, force=force, never=protected)
    except OutputError as error:
        raise OutputError(
            f"{error}; nothing is lost: the trained state is in {plain(keeper.path)}, --resume writes it"
        ) from None


def _attacked(subject: Subject, what: Trained, judges: Labelled, progress: Progress) -> Robustness:
    trial = what.trial or Trial(what.plan.eps)
    if not trial.samples:
        return Robustness()
    if what.plan.objective in ATTACKED:
        trial = replace(trial, eps=what.plan.eps)
    x, y = (t.to(subject.device) for t in judges.sample(trial.samples, trial.seed))
    return attack(subject.network, x, y, subject.preprocess.bounds(), trial, progress)


def _section(
    what: Trained, history: list[dict[str, Any]], natural: float, robust: Robustness, written: WrittenFile
) -> dict[str, Any]:
    plan = asdict(what.plan) | {"schedule": [list(entry) for entry in what.plan.schedule]}
    objective, epochs = plan.pop("objective"), plan.pop("epochs")
    return {
        "objective": objective,
        "preset": what.preset,
        "epochs": epochs,
        "settings": plan,
        "history": history,
        "judged_on": "val" if what.val is not None else "data",
        "val": None if what.val is None else {"count": len(what.val), "sha256": what.val.sha256},
        "natural_accuracy": natural,
        "adversarial_accuracy": _value(robust.adversarial),
        "topk_intersection": _value(robust.top),
        "kendall": _value(robust.kendall),
        "spread": {"topk_intersection": _spread(robust.top), "kendall": _spread(robust.kendall)},
        "tie_share": _value(robust.ties),
        "attacks": robust.settings,
        "out": file_section(written),
    }


def _value(measure: Measure | None) -> float | None:
    return None if measure is None else measure.value


def _spread(measure: Measure | None) -> float | None:
    return None if measure is None else measure.spread
