"""``rectify train``: training and fine-tuning with robust attributions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rectify.cli.config import Settings
from rectify.cli.options import TRAIN_FLAGS as FLAGS
from rectify.cli.outputs import Result, check_reports
from rectify.cli.terminal import Terminal
from rectify.cli.train_settings import class_count, data_source, fresh_preprocess, make_plan, out_path, shown
from rectify.errors import ImageError, UsageError

if TYPE_CHECKING:
    from rectify.files.architectures import Subject
    from rectify.training.data import Labelled
    from rectify.training.presets import Preset

__all__ = ["ABOUT", "EXAMPLE", "FLAGS", "run", "shown"]

ABOUT = """Train or fine-tune a model whose attributions are hard to move.

MODEL is fine-tuned on --data with --objective and --eps; without MODEL the network of --arch or --preset is trained
from fresh weights. A run that is stopped at any moment goes on with --resume, and ends as if it had not been.
"""
EXAMPLE = """rectify train --preset mnist-quick --objective ig-sum-norm \\
    -o mnist.safetensors --min-accuracy 0.9"""


def run(settings: Settings, terminal: Terminal) -> Result:
    """Train, write, attack, report."""
    from rectify import jobs
    from rectify.cli.inputs import options
    from rectify.training.measure import Trial
    from rectify.training.presets import preset

    out = out_path(settings)
    inputs = read_files(settings)
    _check_outputs(settings, out, inputs)
    made = None if settings["preset"] is None else preset(settings["preset"], settings["objective"])
    plan = make_plan(settings, made)
    source = data_source(settings, made)
    subject = _subject(settings, made, source, terminal)
    terminal.start("reading images")
    data, val = _images(settings, subject, source)
    check_reports(settings, data.files + (val.files if val else ()))
    terminal.stop()
    terminal.detail(f"data: {len(data)} images, val: {'none' if val is None else len(val)}, {plan}")
    samples = settings["attack_samples"]
    tops = {} if made is None else {"top": made.top, "attack_top": made.attack_top}
    trial = Trial(plan.eps, samples, seed=settings["seed"], **tops)
    report = jobs.run_train(
        subject,
        jobs.Trained(plan, data, val, settings["preset"], trial),
        options(settings),
        out=out,
        resume=settings["resume"],
        force=settings["force"],
        save_every=settings["save_every"],
        never=inputs,
        progress=terminal,
    )
    terminal.stop()
    terminal.note(f"trained model: {out}")
    return Result(report, jobs.Inputs(subject=subject))


def read_files(settings: Settings) -> list[Path]:
    """The files that this training reads besides the model; no result may replace one."""
    said = [settings[name] for name in ("train_data", "val", "preprocess")] + [settings.file]
    return [Path(each) for each in said if isinstance(each, str | Path) and os.path.isfile(each)]


def _check_outputs(settings: Settings, out: Path, inputs: list[Path]) -> None:
    """Neither the model's file and state nor an input is a place for a report, nor /proc a place for the model."""
    from rectify.files.atomic import check_room, check_target
    from rectify.jobs.train import state_path

    real = os.path.realpath
    taken = {real(path): what for path, what in ((out, "--out"), (state_path(out), "the state of --out"))}
    for path in settings["report"]:
        if real(path) in taken:
            raise UsageError(f"--report and {taken[real(path)]} name the same file: {path}")
        check_target(path, force=True, never=inputs, flag="--report")
    check_room(out)


def _subject(settings: Settings, made: Preset | None, source: Path, terminal: Terminal) -> Subject:
    """The checkpoint to fine-tune, or a network with fresh weights."""
    from rectify.cli.inputs import open_model

    if settings["model"] is not None:
        return open_model(settings["model"], settings, terminal)
    arch = settings["arch"] or (made.arch if made else None)
    if arch is None:
        raise UsageError("train what? a MODEL to fine-tune, or --arch or --preset for a network with fresh weights")
    from rectify.training.start import fresh_subject

    ours = made is not None and settings["arch"] is None
    args = {**(made.arch_args if made and ours else {}), **(settings["arch_args"] or {})}
    classes = class_count(settings, made, source)
    subject = fresh_subject(
        arch,
        fresh_preprocess(settings, made, source, arch),
        num_classes=classes,
        arch_args=args,
        device=settings["device"],
        seed=settings["seed"],
    )
    terminal.note(f"fresh weights: {arch}, {classes} classes, seed {settings['seed']}")
    return subject


def _images(settings: Settings, subject: Subject, source: Path) -> tuple[Labelled, Labelled | None]:
    from rectify.files.words import no_such_file
    from rectify.training.data import packaged_name, read_packaged, read_to_train

    asked = settings["val"]
    if asked is not None and not os.path.lexists(asked):
        raise ImageError(f"--val: {no_such_file(asked)}")
    if name := packaged_name(source):
        if subject.num_classes != 10:
            raise UsageError(f"--data {name} has 10 classes, the network {subject.num_classes}")
        train, test = read_packaged(name, subject.preprocess, data_folder(settings))
        return read_to_train(train, subject.preprocess, subject.num_classes, asked or test)
    return read_to_train(source, subject.preprocess, subject.num_classes, asked)


def data_folder(settings: Settings) -> Path:
    """Where packaged sets are kept: the cache folder, or with --no-cache one that goes with this process."""
    import atexit
    import shutil
    import tempfile

    from rectify.cli.inputs import cache_dir

    cache = cache_dir(settings)
    if cache is not None:
        return cache / "data"
    folder = tempfile.mkdtemp(prefix="rectify-data-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
