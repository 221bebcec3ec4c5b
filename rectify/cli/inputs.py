"""From settings to what the library works on: the model, the images, the options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rectify
from rectify.cli.config import Rank, Settings
from rectify.cli.options import COMMAND_FLAGS, GATE_NAMES, unique
from rectify.cli.outputs import check_reports
from rectify.cli.terminal import Terminal
from rectify.errors import ArchitectureError, UsageError
from rectify.files.endless import refuse_endless
from rectify.files.words import plain

if TYPE_CHECKING:
    from rectify.files.architectures import Subject
    from rectify.files.images import ImageSet, Pairs
    from rectify.jobs import Explaining, Inputs, Options

MOST_REFERENCE = 512  # images that expected gradients draws its baselines from
WHEN = ("before", "after")
FIELDS = ("input_size", "crop_pct", "interpolation", "mean", "std")


def gather(settings: Settings, terminal: Terminal) -> Inputs:
    """Open the model, then read the images that the settings name."""
    from rectify.files.images import image_files, read_folder, read_images, read_labelled
    from rectify.jobs import Inputs

    check_pairs(settings)
    model = check_model(settings)
    subject = open_model(model, settings, terminal)
    pairs = _pairs(settings, subject)
    named, flag = settings.get("image") or settings.get("scan"), "--image" if settings.get("image") else "--scan"
    holdout, calibration, data = (settings.get(name) for name in ("holdout", "calibration", "data"))
    inputs = Inputs(
        subject=subject,
        pairs=pairs,
        holdout=None if holdout is None else _pairs_of(holdout, subject),
        calibration=None if calibration is None else read_folder(calibration, subject.preprocess),
        data=None if data is None else read_labelled(data, subject.preprocess, subject.num_classes),
        images=read_images(named, subject.preprocess, flag) if named else None,
    )
    read = {name: getattr(inputs, name) for name in ("pairs", "holdout", "calibration", "data", "images")}
    check_reports(settings, image_files(*read.values()))
    for name, found in read.items():
        terminal.detail(f"{name}: {'none' if found is None else len(found)}")
    return inputs


def check_model(settings: Settings) -> Path:
    """The model that somebody must have named."""
    model: Path | None = settings["model"]
    if model is None:
        raise UsageError(f"which model? rectify {settings.command} model.pt, or `model: model.pt` in rectify.yaml")
    return model


def check_pairs(settings: Settings) -> None:
    """Every clean image needs its partner, before anything slow begins."""
    clean, poisoned = settings["clean"], settings["poisoned"]
    if len(clean) != len(poisoned):
        raise UsageError(
            "--clean and --poisoned are matched by order, but there " + _unmatched(len(clean), len(poisoned))
        )
    if clean and settings["pairs"] is not None:
        raise UsageError("give --clean and --poisoned, or --pairs, not both")


def _unmatched(clean: int, poisoned: int) -> str:
    """How many images there are of each, and what to add."""
    counts = " and ".join(
        f"{count} {what} image{'' if count == 1 else 's'}" for count, what in ((clean, "clean"), (poisoned, "poisoned"))
    )
    flag, missing = ("--poisoned" if clean > poisoned else "--clean"), abs(clean - poisoned)
    times = "" if missing == 1 else f" {missing} times"
    return f"{'is' if clean == 1 else 'are'} {counts}: add {flag} FILE{times}"


def _pairs(settings: Settings, subject: Subject) -> Pairs | None:
    from rectify.files.images import read_pairs

    if settings["pairs"] is not None:
        return _pairs_of(settings["pairs"], subject)
    if settings["clean"]:
        return read_pairs(settings["clean"], settings["poisoned"], None, subject.preprocess)
    return None


def _pairs_of(source: Path, subject: Subject) -> Pairs:
    from rectify.files.images import read_pairs

    return read_pairs([], [], source, subject.preprocess, subject.num_classes)


def open_model(path: Path, settings: Settings, terminal: Terminal, like: Subject | None = None) -> Subject:
    """Read a checkpoint into its architecture, and say on stderr what was used.

    ``like`` is a model to compare with: the same architecture, classes and preprocessing, whatever the file says.
    """
    from rectify.files.architectures import open_subject

    how = _how(settings)
    if like is not None:
        how["arch"], how["arch_args"] = how["arch"] or like.arch, how["arch_args"] or like.arch_args
        how |= {"num_classes": like.num_classes, "preprocess": like.preprocess, "preprocess_overrides": None}
    if settings["trust_pickle"]:
        terminal.note(f"WARNING: --trust-pickle lets {path} run any code that it contains")
    terminal.start(f"opening {path.name}")
    try:
        subject = open_subject(path, **how)
    except ArchitectureError as problem:
        if like is None:
            raise
        raise ArchitectureError(
            f"{path} does not fit the first model, a {like.arch} of {like.num_classes} classes, so the two cannot be "
            f"compared ({problem})"
        ) from None
    terminal.stop()
    terminal.note(f"{path}: {subject.checkpoint.used}")
    details = f"{subject.num_classes} classes, {subject.preprocess.to_dict()}, on {subject.device}"
    terminal.detail(f"{path}: {subject.arch}, {details}")
    return subject


def _how(settings: Settings) -> dict[str, Any]:
    names = ("arch", "num_classes", "state_dict_key", "strip_prefix", "trust_pickle", "device")
    how: dict[str, Any] = {name: settings[name] for name in names}
    how["arch_args"] = settings["arch_args"] or None
    source = settings["preprocess"]
    how["preprocess"] = None if source is None else rectify.preprocessing(source)
    how["preprocess_overrides"] = {name: settings[name] for name in FIELDS if settings[name] is not None}
    return how


def options(settings: Settings) -> Options:
    """What judges and how to compute."""
    from rectify.jobs import Options

    gates = {name: settings[name] for name in GATE_NAMES if settings.get(name) is not None}
    baseline = settings.get("baseline")
    if baseline is not None:
        gates.setdefault("max_regression", 0.0)
    elif "max_regression" in gates:
        hint = gate_hint(settings, "max_regression")
        raise UsageError(
            "--max-regression needs --baseline report.json to compare with" + (f"; {hint}" if hint else "")
        )
    return Options(
        fault=settings.get("fault") or "auto",
        batch_size=settings["batch_size"],
        seed=settings["seed"],
        gates=gates,
        gate_hints={name: hint for name in gates if (hint := gate_hint(settings, name))},
        baseline=None if baseline is None else read_baseline(baseline),
        exit_zero=bool(settings.get("exit_zero")),
        cache_dir=cache_dir(settings),
    )


def gate_hint(settings: Settings, name: str) -> str:
    """Where a gate was set that nobody typed, and what to do about it there; empty for one that was."""
    setting = settings.said.get(name)
    if setting is None or setting.rank is Rank.COMMAND_LINE:
        return ""
    if setting.rank is Rank.ENVIRONMENT:
        return f"it is set by {setting.source}; unset that to do without"
    if setting.own:
        return f"it is set in {setting.source}; take it out there to do without"
    others = [one for one, flags in COMMAND_FLAGS.items() if one != settings.command and name in unique(flags)]
    instead = f"{others[0]}: {{{name}: {setting.value}}}"  # every gate is of two commands or more
    return f"it is set in {setting.source} for all commands; as {instead} it is for {others[0]} alone"


def forget_files(*subjects: Subject | None) -> None:
    """Let go of the tensors that were read: the networks hold copies, and only an edit needs the file's own."""
    for subject in subjects:
        if subject is not None:
            subject.checkpoint.state.clear()


def explaining(settings: Settings, subject: Subject, reference: ImageSet | None) -> Explaining:
    """What is to be explained, and how, from the settings of explain or evaluate."""
    from rectify.attribution.attribution import Settings as How
    from rectify.attribution.score import check_output
    from rectify.evaluation.quality import checked_options
    from rectify.jobs import Explaining

    methods = tuple(dict.fromkeys(settings["method"])) or ("ig",)
    if reference is None and "expected-gradients" in methods:
        raise UsageError("expected-gradients draws its baselines from data: give --calibration DIR or another --method")
    tolerance = settings["tolerance"]
    if tolerance is not None and tolerance <= 0:
        raise UsageError(f"--tolerance {tolerance:g}: give a share above 0, such as 0.01")
    how = How(
        steps=settings["steps"],
        rule=settings["rule"],
        tolerance=tolerance,
        baseline=_start(settings.get("start"), subject),
        reference=None if reference is None else reference.stack(MOST_REFERENCE, settings["seed"]).to(subject.device),
        layer=settings.get("explain_layer"),
        seed=settings["seed"],
        options=checked_options(settings["method_options"] or {}),
    )
    return Explaining(methods, settings.get("target") or "auto", check_output(settings["score"]), how)


def _start(word: str | Path | None, subject: Subject) -> Any:
    """The baseline: a name, or an image file."""
    from rectify.files.images import read_image
    from rectify.files.words import did_you_mean
    from rectify.names import BASELINES

    if word is None or word in BASELINES:
        return word or "black"
    path = Path(word)
    if not path.exists() and not path.suffix:
        raise UsageError(f"--baseline {word}: no such image or name; {did_you_mean(str(word), BASELINES)}")
    return read_image(path, subject.preprocess).to(subject.device)


def read_baseline(path: Path) -> dict[str, Any]:
    """An earlier JSON report.

    Raises
    ------
    UsageError
        If it is missing, is no report of rectify, or holds figures that none has.
    """
    import json

    from rectify.reporting.build import SCHEMA_VERSION
    from rectify.reporting.verdict import REGRESSIONS

    refuse_endless(path, UsageError, "give a JSON report of rectify as --baseline", piped=True)
    try:
        report = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as problem:
        raise UsageError(f"--baseline {path} cannot be read: {problem.strerror or problem}") from None
    except (ValueError, RecursionError):
        report = None
    if not isinstance(report, dict) or not isinstance(report.get("metrics"), dict) or "schema_version" not in report:
        raise UsageError(f"--baseline {path} is no JSON report of rectify; write one with --report baseline.json")
    version = report["schema_version"]
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        raise UsageError(
            f"--baseline {path} is a report of schema_version {plain(repr(version))}, and this rectify knows those up "
            f"to {SCHEMA_VERSION}: write it anew with --report baseline.json, or update rectify"
        )
    _check_figures(report["metrics"], path)
    if all(read(report) is None for _, read in REGRESSIONS.values()):
        raise UsageError(f"--baseline {path} holds no accuracy, attack success or recovery to compare with")
    return report


def _check_figures(metrics: dict[str, Any], path: Path) -> None:
    """Of an earlier report, which somebody may have edited: figures are fractions, in sections of their own."""
    from rectify.reporting.verdict import REGRESSIONS

    holdout = metrics.get("holdout")
    if not isinstance(holdout, dict | None):
        raise UsageError(f"--baseline {path}: metrics.holdout is no section of figures; write the report anew")
    places = {"metrics": metrics, "metrics.holdout": holdout or {}}
    for place, section in ((f"{name}.{when}", part.get(when)) for name, part in places.items() for when in WHEN):
        if not isinstance(section, dict | None):
            raise UsageError(f"--baseline {path}: {place} is no section of figures; write the report anew")
        for name in REGRESSIONS:
            said = (section or {}).get(name)
            number = isinstance(said, int | float) and not isinstance(said, bool)
            if said is not None and not (number and 0 <= said <= 1):  # nor is NaN
                raise UsageError(f"--baseline {path}: {place}.{name} is {plain(repr(said))}, no fraction from 0 to 1")


def cache_dir(settings: Settings) -> Path | None:
    """Where to keep second moments: the setting, else the user's cache folder; None with --no-cache."""
    if settings["no_cache"]:
        return None
    if settings["cache_dir"] is not None:
        return Path(settings["cache_dir"])
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        # The XDG Base Directory Specification: a relative path is invalid, and to be ignored.
        return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "rectify"
    except RuntimeError:  # no home folder
        return None
