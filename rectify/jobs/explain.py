"""``rectify explain``: attribution maps of images or pairs, by several methods, of one model or of two."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from rectify.attribution.attribution import Attribution, Settings
from rectify.attribution.methods import attribute
from rectify.attribution.score import Output, Score, batch_that_fits
from rectify.errors import UsageError
from rectify.evaluation.accuracy import softmax
from rectify.evaluation.faithfulness import masked_scores, mu_fidelity
from rectify.evaluation.path import monotonicity
from rectify.evaluation.ranks import constant_rows, pearson, spearman
from rectify.files.architectures import Subject
from rectify.jobs.common import Inputs, Options, Progress, begin, finish, named
from rectify.jobs.measuring import fault_of
from rectify.model.gradients import require_gradients
from rectify.sections import pairs_section

GROUP = 16  # images in hand at a time: even, so that a pair stays together
RESOLVED = 1e-6  # a change of F below this has no relative gap


@dataclass(frozen=True)
class Explaining:
    """What to explain, and how.

    Attributes
    ----------
    methods
        Names of `rectify.attribution.methods`.
    target
        ``auto`` (the prediction; of a pair the clean image's class for both), ``predicted`` (each image's own
        prediction), or a class.
    output
        The score: ``probability``, ``logit`` or ``log-probability``.
    settings
        Of the methods; bounds are filled in.
    faithfulness
        Whether to measure MuFidelity of each map, by some 200 more forward passes an image.
    """

    methods: tuple[str, ...] = ("ig",)
    target: str = "auto"
    output: Output = "probability"
    settings: Settings = field(default_factory=Settings)
    faithfulness: bool = False


@dataclass(frozen=True)
class Item:
    """An image to explain; ``pair`` numbers the pairs."""

    path: Path
    role: str = "image"
    pair: int | None = None


@dataclass(frozen=True)
class Explained:
    """One map: of an image, by a method, of a model (``model``, or ``compare``)."""

    item: Item
    model: str
    method: str
    target: int
    image: Tensor  # (C, H, W), as the network got it
    values: Tensor  # signed, (C, H, W) or the layer's shape
    confidence: float  # probability of the target
    prediction: int
    gap: float | None
    relative_gap: float | None
    monotonicity: float | None
    faithfulness: float | None
    baseline: Tensor | None  # only where it was found, not chosen
    settings: dict[str, Any]

    def heat(self) -> Tensor:
        """(h, w): summed over channels. Tokens are laid out as the image that they were cut from, a vector as a row."""
        values = self.values
        if values.ndim == 1:
            return values.unsqueeze(0)
        if values.ndim == 2:  # (tokens, channels), class tokens first
            side = math.isqrt(len(values))
            return values.sum(1)[len(values) - side * side :].view(side, side)
        height, width = self.image.shape[1:]
        a, b, c = values.shape
        # (h, w, channels), as Swin has them: only there have the first two the proportions of the image
        return values.sum(2 if b * width != c * height and a * width == b * height else 0)


class Writer(Protocol):
    """Keeps maps as files."""

    def prepare(self, items: Sequence[Item], methods: Sequence[str], compared: bool) -> None:
        """Refuse what cannot be written, before the work."""

    def write(self, maps: Sequence[Explained]) -> list[list[str]]:
        """Write the maps of one image, or of one pair, by one method; returns the files of each."""


def run_explain(
    inputs: Inputs,
    options: Options,
    *,
    explaining: Explaining,
    compare: Subject | None = None,
    writer: Writer | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Explain every image, and every pair, of ``inputs``.

    Raises
    ------
    UsageError
        If there is nothing to explain, or a setting makes no sense.
    OutputError
        If a file cannot be written.
    """
    report, started = begin("explain", inputs, options), time.time()
    if inputs.pairs is None and inputs.images is None:
        raise UsageError("nothing to explain: give --image a.png, or --clean a.png --poisoned b.png")
    report["compare"] = named(compare)
    subject, notes = inputs.subject, list[str]()
    subjects = {"model": subject} | ({} if compare is None else {"compare": compare})
    bench = _Bench(replace(explaining, settings=fitted(explaining.settings, subject)), subjects, options)
    items = _items(inputs)
    if writer is not None:
        writer.prepare(items, explaining.methods, compare is not None)
    if inputs.pairs is not None:
        report["pairs"] = pairs_section(inputs.pairs, fault_of(inputs, options))
    report["explanations"], report["explanation_pairs"] = [], []
    progress.start("explaining", len(items) * len(explaining.methods) * len(subjects))
    for some, read in _groups(inputs, items):
        images = read.to(subject.device)
        for maps in bench.maps(some, images, bench.targets(some, images, inputs), progress):
            files = [list[str]() for _ in maps] if writer is None else writer.write(maps)
            report["explanations"] += [_row(one, names) for one, names in zip(maps, files, strict=True)]
            report["explanation_pairs"] += _similarities(maps)
    progress.stop()
    notes += _tolerance_notes(report["explanations"], explaining)
    return finish(report, options, started, inputs, notes)


def fitted(settings: Settings, subject: Subject) -> Settings:
    """The settings with the subject's values of a black and of a white pixel."""
    low, high = (bound.to(subject.device) for bound in subject.preprocess.bounds())
    return replace(settings, bounds=(low, high))


def _tolerance_notes(rows: Sequence[dict[str, Any]], explaining: Explaining) -> list[str]:
    """What became of a tolerance that was asked for."""
    tolerance = explaining.settings.tolerance
    if tolerance is None:
        return []
    deaf = [name for name in explaining.methods if name not in ("ig", "uni") or explaining.settings.layer is not None]
    notes = [f"--tolerance is of ig and uni on the image: {', '.join(deaf)} did not heed it"] if deaf else []
    missed = [row for row in rows if row["method"] not in deaf and (row["relative_gap"] or 0.0) > tolerance]
    if missed:
        most = max(row["settings"]["steps"] for row in missed)
        notes.append(f"{len(missed)} of {len(rows)} maps miss the tolerance of {tolerance:g} with {most} steps")
    return notes


def _items(inputs: Inputs) -> list[Item]:
    found: list[Item] = []
    if inputs.pairs is not None:
        for number, (clean, corrupted) in enumerate(inputs.pairs.names):
            found += [Item(Path(clean), "clean", number), Item(Path(corrupted), "corrupted", number)]
    if inputs.images is not None:
        found += [Item(path) for path in inputs.images.paths]
    return found


def _groups(inputs: Inputs, items: Sequence[Item]) -> Iterator[tuple[list[Item], Tensor]]:
    """A few images at a time, so that a large folder does not have to fit into memory."""
    place = 0
    if inputs.pairs is not None:
        both = torch.stack([inputs.pairs.clean, inputs.pairs.corrupted], 1).flatten(0, 1)  # clean, corrupted, clean, …
        for part in torch.split(both, GROUP):
            yield list(items[place : place + len(part)]), part
            place += len(part)
    if inputs.images is not None:
        for part, _ in inputs.images.batches(GROUP):
            yield list(items[place : place + len(part)]), part
            place += len(part)


@dataclass
class _Bench:
    """The models with their scores, and the settings that all maps share."""

    explaining: Explaining
    subjects: dict[str, Subject]
    options: Options

    def __post_init__(self) -> None:
        self.settings = self.explaining.settings
        self._scores: dict[str, Score] = {}

    def score(self, model: str, image: Tensor) -> Score:
        """F of a model, with as many images at a time as fit into memory."""
        if model not in self._scores:
            network = self.subjects[model].network
            require_gradients(network, image)
            most = batch_that_fits(network, image, self.options.batch_size)
            self._scores[model] = Score(network, self.explaining.output, most)
        return self._scores[model]

    def targets(self, items: Sequence[Item], images: Tensor, inputs: Inputs) -> Tensor:
        """The class that each image is explained for, (n,)."""
        wanted = self.explaining.target
        score = self.score("model", images[:1])
        if wanted not in ("auto", "predicted"):
            return torch.full((len(images),), self._class(wanted), device=images.device)
        found = score.predictions(images)
        if wanted == "predicted":
            return found
        given = None if inputs.pairs is None else inputs.pairs.labels
        for place, item in enumerate(items):
            if item.pair is not None and given is not None:
                found[place] = given[item.pair]
            elif item.role == "corrupted":  # its clean partner is the one before it
                found[place] = found[place - 1]
        return found

    def _class(self, text: str) -> int:
        count = self.subjects["model"].num_classes
        if not (text.isascii() and text.isdigit()) or int(text) >= count:
            raise UsageError(f"--target {text}: give auto, predicted, or a class from 0 to {count - 1}")
        return int(text)

    def maps(
        self, items: Sequence[Item], images: Tensor, targets: Tensor, progress: Progress
    ) -> Iterator[list[Explained]]:
        """All maps of a group, those of one image or pair by one method together: what one picture shows."""
        scores = {model: self.score(model, images[:1]) for model in self.subjects}
        answers = {model: softmax(score.network, images, score.batch, images.device) for model, score in scores.items()}
        masked = {}
        if self.explaining.faithfulness and self.settings.layer is None:
            how: dict[str, Any] = {"bounds": self.settings.bounds, "seed": self.settings.seed}
            masked = {model: masked_scores(score, images, targets, **how) for model, score in scores.items()}
        for method in self.explaining.methods:
            found: dict[str, list[Explained]] = {}
            for model, score in scores.items():
                made = attribute(method, score, images, targets, self.settings)
                faith = mu_fidelity(masked[model], made.heat())[0].values.tolist() if masked else [None] * len(items)
                found[model] = _explained(
                    items, images, targets, model, method, made, answers[model], faith, self.explaining.output
                )
                progress.advance(len(items))
            yield from _together(found)


def _explained(
    items: Sequence[Item],
    images: Tensor,
    targets: Tensor,
    model: str,
    method: str,
    made: Attribution,
    answers: Tensor,
    faith: Sequence[float | None],
    output: str,
) -> list[Explained]:
    gap = None if made.gap is None else made.gap.tolist()
    change = None if made.change is None else made.change.double().abs().tolist()
    monotone = None if made.path_scores is None else monotonicity(made.path_scores).values.tolist()
    learned = made.settings.get("baseline") == "unlearned"
    values = made.values.detach().cpu()
    rows = []
    for place, item in enumerate(items):
        relative = None
        if gap is not None and change is not None and change[place] >= RESOLVED:
            relative = gap[place] / change[place]
        rows.append(
            Explained(
                item=item,
                model=model,
                method=method,
                target=int(targets[place]),
                image=images[place].cpu(),
                values=values[place],
                confidence=float(answers[place, targets[place]]),
                prediction=int(answers[place].argmax()),
                gap=None if gap is None else gap[place],
                relative_gap=relative,
                monotonicity=None if monotone is None else monotone[place],
                faithfulness=faith[place],
                baseline=made.baseline[place].cpu() if learned and made.baseline is not None else None,
                settings={**made.settings, "output": output},
            )
        )
    return rows


def _together(found: dict[str, list[Explained]]) -> Iterator[list[Explained]]:
    """Maps by picture: those of an image, or of a pair, of every model."""
    first = next(iter(found.values()))
    groups: dict[Any, list[int]] = {}
    for place, one in enumerate(first):
        groups.setdefault(("pair", one.item.pair) if one.item.pair is not None else place, []).append(place)
    for places in groups.values():
        yield [maps[place] for maps in found.values() for place in places]


def _row(one: Explained, files: list[str]) -> dict[str, Any]:
    return {
        "image": str(one.item.path),
        "role": one.item.role,
        "model": one.model,
        "method": one.method,
        "target": one.target,
        "prediction": one.prediction,
        "confidence": one.confidence,
        "completeness_gap": one.gap,
        "relative_gap": one.relative_gap,
        "monotonicity": one.monotonicity,
        "faithfulness": one.faithfulness,
        "settings": one.settings,
        "files": files,
    }


def _similarities(maps: Sequence[Explained]) -> list[dict[str, Any]]:
    """Correlation of the clean and the corrupted image's maps (arXiv 2603.15656, Figure 1), of each model."""
    rows = []
    for model in dict.fromkeys(one.model for one in maps):
        sides = {one.item.role: one for one in maps if one.model == model}
        if {"clean", "corrupted"} <= sides.keys():
            clean, corrupted = (sides[role].heat().reshape(1, -1) for role in ("clean", "corrupted"))
            flat = bool(constant_rows(clean)) or bool(constant_rows(corrupted))  # correlates with nothing
            rows.append(
                {
                    "method": sides["clean"].method,
                    "model": model,
                    "clean": str(sides["clean"].item.path),
                    "corrupted": str(sides["corrupted"].item.path),
                    "pearson": None if flat else float(pearson(clean, corrupted)),
                    "spearman": None if flat else float(spearman(clean, corrupted)),
                }
            )
    return rows
