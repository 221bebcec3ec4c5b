"""``rectify train``: training and fine-tuning with robust attributions."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectify.cli.config import Settings
from rectify.cli.options import TRAIN_FLAGS as FLAGS
from rectify.cli.outputs import Result
from rectify.cli.terminal import Terminal
from rectify.errors import PreprocessError, UsageError

if TYPE_CHECKING:
    from rectify.files.architectures import Subject
    from rectify.files.preprocess import Preprocess
    from rectify.training.data import Labelled
    from rectify.training.presets import Plan, Preset

__all__ = ["ABOUT", "EXAMPLE", "FLAGS", "run"]

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
    _check_reports(settings, out, inputs)
    made = None if settings["preset"] is None else preset(settings["preset"], settings["objective"])
    plan = make_plan(settings, made)
    source = _source(settings, made)
    subject = _subject(settings, made, source, terminal)
    terminal.start("reading images")
    data, val = _images(settings, subject, source)
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


def out_path(settings: Settings) -> Path:
    """Where the trained model goes.

    Raises
    ------
    UsageError
        If nobody says, and there is no MODEL to name it after.
    """
    if settings["train_out"] is not None:
        return Path(settings["train_out"])
    if settings["model"] is None:
        raise UsageError("where to write the trained model? -o model.safetensors")
    model = Path(settings["model"])
    model = model.resolve() if model.is_dir() else model
    return model.with_name(f"{model.name if model.is_dir() else model.stem}.trained.safetensors")


def read_files(settings: Settings) -> list[Path]:
    """The files that this training reads besides the model; no result may replace one."""
    said = [settings[name] for name in ("train_data", "val", "preprocess")] + [settings.file]
    return [Path(each) for each in said if isinstance(each, str | Path) and os.path.isfile(each)]


def _check_reports(settings: Settings, out: Path, inputs: list[Path]) -> None:
    """Neither the model's file and state nor an input is a place for a report."""
    from rectify.files.atomic import check_target
    from rectify.jobs.train import state_path

    taken = {path.resolve(): what for path, what in ((out, "--out"), (state_path(out), "the state of --out"))}
    for path in settings["report"]:
        if path.resolve() in taken:
            raise UsageError(f"--report and {taken[path.resolve()]} name the same file: {path}")
        check_target(path, force=True, never=inputs)


def make_plan(settings: Settings, made: Preset | None) -> Plan:
    """The preset's plan (or the plain one) with what the flags say over it."""
    from rectify.training.presets import Plan, weight_of

    objective = settings["objective"] or (made.plan.objective if made else "ig-sum-norm")
    plan = made.plan if made else Plan(objective=objective, weight=weight_of(objective))
    names = ("epochs", "epoch_size", "attack_steps", "path_steps", "weight", "weight_decay", "ramp")
    said = {{"path_steps": "path_points"}.get(n, n): settings[n] for n in names if settings[n] is not None}
    plan = replace(plan, objective=objective, seed=settings["seed"], **said)
    if made is None or settings.source("batch_size") != "default":
        plan = replace(plan, batch_size=settings["batch_size"])
    if settings["eps"] is not None:
        plan = replace(plan, eps=settings["eps"], attack_step=2.5 * settings["eps"] / plan.attack_steps)
    elif settings["attack_steps"] is not None:  # the ball stays within reach of its search
        plan = replace(plan, attack_step=2.5 * plan.eps / plan.attack_steps)
    if settings["lr"] is not None or settings["optimizer"] is not None:
        rate = settings["lr"] if settings["lr"] is not None else plan.learning_rate(0)
        optimiser = settings["optimizer"] or plan.optimiser
        plan = replace(plan, schedule=((0, rate),), optimiser=optimiser, summed=False)
    return replace(plan, attack_points=min(plan.attack_points, plan.path_points))


def _source(settings: Settings, made: Preset | None) -> Path:
    """What to train on: a path, or the name of a packaged set."""
    if settings["train_data"] is not None:
        return Path(settings["train_data"])
    if made is not None and made.data is not None:
        return Path(made.data)
    raise UsageError("train on what? --data DIR (a folder a class), or --data mnist, fashion-mnist or cifar10")


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
    classes = _classes(settings, made, source)
    subject = fresh_subject(
        arch,
        _preprocess(settings, made, source, arch),
        num_classes=classes,
        arch_args=args,
        device=settings["device"],
        seed=settings["seed"],
    )
    terminal.note(f"fresh weights: {arch}, {classes} classes, seed {settings['seed']}")
    return subject


def _classes(settings: Settings, made: Preset | None, source: Path) -> int:
    """As the flag says, else the packaged set, else the folders."""
    from rectify.training.data import count_classes, packaged_name

    if settings["num_classes"] is not None:
        return int(settings["num_classes"])
    if packaged_name(source):
        return 10
    if source.is_file() and made is not None:
        return made.num_classes
    return count_classes(source)


def _preprocess(settings: Settings, made: Preset | None, source: Path, arch: str) -> Preprocess:
    """What the flags say, else the preset, the packaged set or timm's tag; never a silent default."""
    import rectify
    from rectify.cli.inputs import FIELDS
    from rectify.files.builders import timm_preprocess
    from rectify.files.preprocess import PRESETS, Preprocess
    from rectify.training.data import packaged_name

    said = {name: settings[name] for name in FIELDS if settings[name] is not None}
    base: dict[str, Any] = {}
    if settings["preprocess"] is not None:
        base = rectify.preprocessing(settings["preprocess"]).to_dict()
    elif made is not None:
        base = made.preprocess
    elif name := packaged_name(source):
        base = PRESETS[name]
    elif arch.startswith("timm:") and (found := timm_preprocess(arch)):
        base = found.to_dict()
    if not base and not said:
        raise PreprocessError(
            "how do images become input? --preprocess FILE or NAME, or --input-size, --mean and --std"
        )
    if isinstance(said.get("input_size"), int) and base and "mean" not in said:
        said["input_size"] = [len(base["mean"]), said["input_size"], said["input_size"]]
    return Preprocess.from_dict({**base, **said}, "--preprocess and its flags")


def _images(settings: Settings, subject: Subject, source: Path) -> tuple[Labelled, Labelled | None]:
    from rectify.training.data import check_alike, packaged_name, read, read_packaged

    val: Labelled | None = None
    if name := packaged_name(source):
        if subject.num_classes != 10:
            raise UsageError(f"--data {name} has 10 classes, the network {subject.num_classes}")
        data, val = read_packaged(name, subject.preprocess, data_folder(settings))
    else:
        data = read(source, subject.preprocess, subject.num_classes)
    if settings["val"] is not None:
        val = read(settings["val"], subject.preprocess, subject.num_classes)
        check_alike(data, val)
    return data, val


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
