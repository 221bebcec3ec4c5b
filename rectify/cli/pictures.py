"""The pictures of an HTML or Markdown report: the layers, and the pairs before and after the edit."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectify.cli.outputs import DRAWN, Result
from rectify.cli.terminal import Terminal

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rectify.files.architectures import Subject
    from rectify.files.preprocess import Preprocess
    from rectify.reporting.repair import PairRow, Prediction

MOST = 8  # pairs drawn
MOST_EXPLAINED = 120  # pictures in a gallery: a page of more is too heavy to open
Pictures = dict[str, Path]  # caption to picture


@contextlib.contextmanager
def pictures_for(result: Result, terminal: Terminal) -> Iterator[Callable[[Path], Pictures | None]]:
    """From a report's path to its pictures: temporary ones for HTML, which embeds them; files beside Markdown."""
    with tempfile.TemporaryDirectory(prefix="rectify-") as folder:
        drawn = functools.cache(lambda: draw(result, Path(folder), terminal))

        def pictures(report: Path) -> Pictures | None:
            suffix = report.suffix.lower()
            return drawn() if suffix == ".html" else _beside(report, drawn()) if suffix == ".md" else None

        yield pictures


def _beside(report: Path, drawn: Pictures) -> Pictures:
    from rectify.files.atomic import write_atomic
    from rectify.reporting.files import beside

    placed = {caption: beside(report, picture.name) for caption, picture in drawn.items()}
    for caption, path in placed.items():
        write_atomic(path, drawn[caption].read_bytes(), force=True)
    return placed


def draw(result: Result, folder: Path, terminal: Terminal) -> Pictures:
    """Draw what the report has material for into ``folder``.

    A picture that fails is left out with a note: the result that it would show is there already.
    """
    pictures: Pictures = _explanations(result, terminal)
    sketches: dict[str, tuple[str, Callable[[Result, Path], bool]]] = {
        "suspects": ("The most suspicious images, and where the fault fires in them", _suspects),
        "layers": (_layers_caption(result), _layers),
        "pairs": ("The pairs before and after", _repair),
        "history": ("The course of the training", _history),
    }
    for name in DRAWN:
        caption, sketch = sketches[name]
        path = folder / f"{name}.png"
        try:
            if sketch(result, path):
                pictures[caption] = path
        except Exception as problem:
            terminal.note(f"note: no picture of the {name}: {' '.join(str(problem).split())[:200]}")
    return pictures


def _explanations(result: Result, terminal: Terminal) -> Pictures:
    """The pictures that explain has drawn already, worst completeness first: of a pair the one of both."""
    rows = sorted(result.report.get("explanations") or [], key=lambda row: -(row["relative_gap"] or 0.0))
    drawn: dict[Path, Mapping[str, Any]] = {}
    for row in rows:
        files = [Path(file) for file in row["files"] if file.endswith(".png")]
        if files:
            drawn.setdefault(files[-1], row)
    if len(drawn) > MOST_EXPLAINED:
        terminal.note(f"note: the report shows {MOST_EXPLAINED} of {len(drawn)} pictures, worst completeness first")
    found: Pictures = {}
    for path, row in list(drawn.items())[:MOST_EXPLAINED]:
        caption = f"{Path(row['image']).name} by {row['method']}"
        found[f"{row['image']} by {row['method']}" if caption in found else caption] = path
    return found


def _layers(result: Result, path: Path) -> bool:
    from rectify.reporting.plots import layers_plot

    if not (result.report.get("localize") or {}).get("layers"):
        return False
    layers_plot(result.report, path)
    return True


def _layers_caption(result: Result) -> str:
    """With what the layers are ordered by, which is the order of the picture's rows."""
    from rectify.reporting.legend import order

    localize = result.report.get("localize")
    return f"The layers, by {order(localize)}" if localize else "The layers"


def _suspects(result: Result, path: Path) -> bool:
    from rectify.reporting.suspects import SuspectPicture, suspects_picture
    from rectify.reporting.words import number, percent

    if not result.suspects:
        return False
    preprocess = result.inputs.subject.preprocess
    target, layer = result.report["scan"]["target"], result.report["scan"]["layer"]
    drawn = []
    for suspect in result.suspects:
        row = suspect.row
        hit = " (target)" if row["prediction"] == target else ""
        told = f"class {row['prediction']}{hit} {percent(row['confidence'], 0)}"
        lines = (Path(row["image"]).name, f"suspicion {number(row['suspicion'], 2)}, {told}")
        heat = None if suspect.heat is None else suspect.heat.numpy()
        drawn.append(SuspectPicture(_pixels(suspect.image, preprocess), heat, lines, bool(row["suspicious"])))
    suspects_picture(drawn, path, title=f"The most suspicious images, by the keys of {layer}")
    return True


def _history(result: Result, path: Path) -> bool:
    from rectify.reporting.training import history_plot

    if not (result.report.get("train") or {}).get("history"):
        return False
    history_plot(result.report, path)
    return True


def _repair(result: Result, path: Path) -> bool:
    from rectify.reporting.repair import repair_picture

    if result.inputs.pairs is None or result.report["command"] == "explain":
        return False
    repair_picture(pair_rows(result), path, report=result.report)
    return True


def pair_rows(result: Result) -> list[PairRow]:
    """The first pairs with what the network says of them before and after the edit."""
    inputs = result.inputs
    pairs, subject = inputs.pairs, inputs.subject
    if pairs is None:
        return []
    names = _class_names(inputs.data, subject.num_classes)
    before, after = _networks(result)
    clean, corrupted = pairs.clean[:MOST], pairs.corrupted[:MOST]
    told = {
        "before": _predictions(before, corrupted, subject, names),
        "clean_before": _predictions(before, clean, subject, names),
        "after": _predictions(after, corrupted, subject, names),
        "clean_after": _predictions(after, clean, subject, names),
    }
    about = result.report.get("pairs") or {}
    labels, target = about.get("labels") or [], about.get("target")
    rows: list[PairRow] = []
    for index in range(len(clean)):
        row: dict[str, Any] = {
            "title": Path(pairs.names[index][1]).name,
            "clean": _pixels(clean[index], subject.preprocess),
            "corrupted": _pixels(corrupted[index], subject.preprocess),
        }
        row |= {key: predictions[index] for key, predictions in told.items() if predictions}
        if index < len(labels) and labels[index] is not None:
            row["label"] = names[labels[index]]
        if target is not None:
            row["target"] = names[target]
        rows.append(row)  # type: ignore[arg-type]
    return rows


def _networks(result: Result) -> tuple[nn.Module | None, nn.Module | None]:
    """The network before and after: an edit's from the written file, an evaluation's as they were given."""
    subject = result.inputs.subject
    if result.report["command"] == "evaluate" and result.before is not None:
        return result.before.network, subject.network
    out = (result.report.get("edit") or {}).get("out")
    return subject.network, _edited(subject, Path(out["path"])) if out else None


def _edited(subject: Subject, path: Path) -> nn.Module:
    from rectify.files.architectures import load_into
    from rectify.files.checkpoint import read_checkpoint
    from rectify.model.copies import copied

    network = copied(subject.network)
    load_into(network, read_checkpoint(path))
    return network


def _predictions(
    network: nn.Module | None, images: Tensor, subject: Subject, names: Sequence[str]
) -> list[list[Prediction]]:
    """The three most probable classes of each image; nothing without a network."""
    if network is None:
        return []
    import torch

    with torch.inference_mode():
        shares = network(images.to(subject.device)).float().softmax(1).cpu()
    top = shares.topk(min(3, shares.shape[1]))
    return [
        [{"name": names[index], "confidence": float(share)} for share, index in zip(*row, strict=True)]
        for row in zip(top.values.tolist(), top.indices.tolist(), strict=True)
    ]


def _class_names(data: Any, amount: int) -> list[str]:
    """The folders' names where labelled images were given, else numbers."""
    classes = getattr(data, "classes", None)
    if classes is not None and len(classes) == amount:
        return [str(name) for name in classes]
    return [f"class {index}" for index in range(amount)]


def _pixels(image: Tensor, preprocess: Preprocess) -> Any:
    return preprocess.pixels(image).permute(1, 2, 0).cpu().numpy()  # (H, W, C)
