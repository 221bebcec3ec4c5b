"""Find the layer that carries a fault in an image classifier, make a small weight edit, verify, write safetensors.

    subject = rectify.load("model.pt", arch="resnet18", preprocess=rectify.preprocessing("imagenet"))
    pairs = rectify.pairs(["clean.png"], ["poisoned.png"], subject=subject)
    report = rectify.localize(subject, pairs)
    report = rectify.edit(subject, pairs, out="model.rectified.safetensors")

Every report is the plain dict of the JSON report. torch is imported when a function needs it, not before.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectify.errors import RectifyError

if TYPE_CHECKING:
    from rectify.files.architectures import Subject
    from rectify.files.images import ImageSet, Pairs
    from rectify.files.preprocess import Preprocess
    from rectify.jobs import Explaining
    from rectify.training.data import Labelled
    from rectify.training.presets import Plan

    StrPath = str | os.PathLike[str]

__version__ = "0.1.0"

__all__ = [
    "RectifyError",
    "__version__",
    "edit",
    "evaluate",
    "explain",
    "load",
    "localize",
    "pairs",
    "preprocessing",
    "train",
]


def preprocessing(source: StrPath | Mapping[str, Any]) -> Preprocess:
    """Preprocessing from a YAML or JSON file, a mapping with timm's names, or a preset's name such as ``imagenet``.

    Raises
    ------
    PreprocessError
        If a value makes no sense, or the name is neither a file nor a preset.
    """
    from rectify.files.preprocess import Preprocess, read_preprocess

    if isinstance(source, Mapping):
        return Preprocess.from_dict(dict(source), "the preprocessing")
    return read_preprocess(Path(source))


def load(path: StrPath, **how: Any) -> Subject:
    """The model under repair, ready to be localised, edited or evaluated.

    Parameters
    ----------
    path
        A checkpoint file, or a folder with ``config.json`` and ``model.safetensors``.
    how
        ``arch``, ``arch_args``, ``num_classes``, ``state_dict_key``, ``strip_prefix``, ``preprocess``, ``device``,
        ``trust_pickle``: see `rectify.files.architectures.open_subject`.

    Raises
    ------
    CheckpointError, ArchitectureError, PreprocessError
        If the file cannot be read, does not fit the architecture, or its preprocessing is unknown.
    """
    from rectify.files.architectures import open_subject

    return open_subject(Path(path), **how)


def pairs(
    clean: Sequence[StrPath] = (),
    corrupted: Sequence[StrPath] = (),
    source: StrPath | None = None,
    *,
    subject: Subject,
) -> Pairs:
    """Clean and corrupted images, matched by order, or from ``source``: a folder or a CSV file.

    Raises
    ------
    ImageError
        If an image cannot be read, has no partner, or differs from it in size, or a label is no class of the network.
    """
    from rectify.files.images import read_pairs

    clean_paths, corrupted_paths = [Path(p) for p in clean], [Path(p) for p in corrupted]
    where = None if source is None else Path(source)
    return read_pairs(clean_paths, corrupted_paths, where, subject.preprocess, subject.num_classes)


def localize(
    subject: Subject,
    pairs: Pairs | None = None,
    *,
    calibration: ImageSet | None = None,
    trial: bool = False,
    scan: ImageSet | None = None,
    layer: str = "auto",
    **options: Any,
) -> dict[str, Any]:
    """Rank every editable layer by what a trial edit of it does, then by editability; without a pair, a triage.

    The images of ``scan`` are ranked by how strongly the fault fires in them, by the keys of ``layer``.
    ``options`` are the fields of `rectify.jobs.Options`: ``fault``, ``batch_size``, ``seed``, ``gates``, …

    Raises
    ------
    RectifyError
        See `rectify.errors`; a pair that shows no fault is an inconclusive report.
    """
    import rectify.jobs as jobs

    inputs = jobs.Inputs(subject=subject, pairs=pairs, holdout=None, calibration=calibration, data=None, images=scan)
    wanted = None if scan is None else jobs.Scan(scan, layer)
    report: dict[str, Any] = jobs.run_localize(
        inputs, jobs.Options(**options), trial=trial, scan=wanted, progress=_Silence()
    )
    return report


def edit(
    subject: Subject,
    pairs: Pairs | None = None,
    *,
    out: StrPath,
    holdout: Pairs | None = None,
    calibration: ImageSet | None = None,
    data: ImageSet | None = None,
    how: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Repair the model, write ``out`` as safetensors, and judge the written file.

    ``how`` holds ``mode``, ``layer``, ``rank``, ``refine``, ``delta``, ``apply``, ``dry_run``, ``force`` and
    ``out_dtype`` of `rectify.jobs.Editing`; ``options`` are the fields of `rectify.jobs.Options`.

    Raises
    ------
    RectifyError
        See `rectify.errors`.
    """
    import rectify.jobs as jobs

    inputs = jobs.Inputs(subject=subject, pairs=pairs, holdout=holdout, calibration=calibration, data=data)
    editing = jobs.Editing(Path(out), **(how or {}))
    report: dict[str, Any] = jobs.run_edit(inputs, jobs.Options(**options), editing=editing, progress=_Silence())
    return report


def explain(
    subject: Subject,
    pairs: Pairs | None = None,
    *,
    images: ImageSet | None = None,
    how: Explaining | None = None,
    compare: Subject | None = None,
    out: StrPath | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Attribution maps of images and pairs; with ``out``, a picture and an array of each in that folder.

    ``how`` says by which methods, for which class, from which baseline: `rectify.jobs.Explaining`. ``compare`` is a
    second model whose maps stand beside the first one's. For the maps as tensors see `rectify.attribution.methods`.

    Raises
    ------
    RectifyError
        See `rectify.errors`.
    """
    import rectify.jobs as jobs
    from rectify.reporting.explain_files import ExplanationFiles

    inputs = jobs.Inputs(subject=subject, pairs=pairs, images=images)
    wanted = how or jobs.Explaining()
    never = [subject.checkpoint.path, *([compare.checkpoint.path] if compare else [])]
    facts = {"base_sha256": subject.checkpoint.sha256, "arch": subject.arch}
    files = (
        None if out is None else ExplanationFiles(Path(out), subject.preprocess, never, facts, wanted.settings.layer)
    )
    report: dict[str, Any] = jobs.run_explain(
        inputs, jobs.Options(**options), explaining=wanted, compare=compare, writer=files, progress=_Silence()
    )
    return report


def evaluate(
    subject: Subject,
    pairs: Pairs | None = None,
    *,
    holdout: Pairs | None = None,
    data: ImageSet | None = None,
    against: Subject | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Measure accuracy, attack success and recovery, and judge the gates.

    Raises
    ------
    RectifyError
        See `rectify.errors`.
    """
    import rectify.jobs as jobs

    inputs = jobs.Inputs(subject=subject, pairs=pairs, holdout=holdout, calibration=None, data=data)
    report: dict[str, Any] = jobs.run_evaluate(inputs, jobs.Options(**options), against=against, progress=_Silence())
    return report


def train(
    subject: Subject,
    data: Labelled | StrPath,
    *,
    out: StrPath,
    val: Labelled | StrPath | None = None,
    plan: Plan | None = None,
    resume: bool = False,
    force: bool = False,
    attack_samples: int = 50,
    **options: Any,
) -> dict[str, Any]:
    """Train or fine-tune a model with robust attributions, write ``out`` as safetensors, and attack what was written.

    Parameters
    ----------
    subject
        From `load`, or `rectify.training.start.fresh_subject` for fresh weights; its network is trained in place.
    data, val
        A folder a class, a CSV file, torchvision's Flowers102, or `rectify.training.data.Labelled`; ``val`` judges.
    plan
        `rectify.training.presets.Plan`, such as ``preset("mnist-quick").plan``; None is IG-SUM-NORM's plain one.
    resume, force
        Go on with a stopped run; replace what is there.

    ``options`` are the fields of `rectify.jobs.Options`. The objectives alone, for a loop of your own, are in
    `rectify.training.objectives`.

    Raises
    ------
    RectifyError
        See `rectify.errors`; `TrainingError` if the loss is no number.
    """
    import rectify.jobs as jobs
    from rectify.training.data import Labelled, read_to_train
    from rectify.training.measure import Trial
    from rectify.training.presets import Plan, weight_of

    wanted = plan or Plan(objective="ig-sum-norm", weight=weight_of("ig-sum-norm"), seed=options.get("seed", 0))

    given = data if isinstance(data, Labelled) else Path(data)
    judging = val if val is None or isinstance(val, Labelled) else Path(val)
    images, judges = read_to_train(given, subject.preprocess, subject.num_classes, judging)
    what = jobs.Trained(wanted, images, judges)
    what = dataclasses.replace(what, trial=Trial(wanted.eps, attack_samples, seed=wanted.seed))
    report: dict[str, Any] = jobs.run_train(
        subject, what, jobs.Options(**options), out=Path(out), resume=resume, force=force, progress=_Silence()
    )
    return report


class _Silence:
    """Progress that nobody sees."""

    def start(self, label: str, total: int | None = None) -> None:
        pass

    def advance(self, n: int = 1) -> None:
        pass

    def say(self, line: str) -> None:
        pass

    def detail(self, line: str) -> None:
        pass

    def stop(self) -> None:
        pass
