"""``rectify localize --scan``: rank images by how strongly the fault fires in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rectify.editing.casebook import Case
from rectify.editing.detector import Detector, fit_detector
from rectify.editing.localize import LARGEST_KEY, Localization
from rectify.errors import Inconclusive, UsageError
from rectify.files.images import ImageSet
from rectify.jobs.common import Options, Progress
from rectify.jobs.scene import Scene, site_named
from rectify.model.record import record

SHOWN = 24  # images of the contact sheet
WEAK = 0.9  # a detector that tells calibration images apart with a smaller AUROC deserves a warning


@dataclass(frozen=True)
class Suspect:
    """One of the most suspicious images: its row of the report, itself (C, H, W), normalised, and its map (h, w)."""

    row: dict[str, Any]
    image: Tensor
    heat: Tensor | None


@dataclass(frozen=True)
class Scan:
    """What to scan, with the keys of which layer (``auto``: the first of the ranking), and who gets the first few."""

    images: ImageSet
    layer: str = "auto"
    show: Callable[[Sequence[Suspect]], None] = lambda suspects: None


def check_layer(scene: Scene, name: str) -> None:
    """Whether a scan could look at this layer.

    Raises
    ------
    UsageError
        If there is no such layer, or its second moment is not formed.
    """
    if name == "auto":
        return
    size = site_named(scene, name).layer.key_size
    if size > LARGEST_KEY:
        raise UsageError(
            f"--scan-layer {name}: its keys have {size} entries, more than {LARGEST_KEY}; name another layer"
        )


def run_scan(
    scan: Scan, scene: Scene, case: Case, found: Localization, options: Options, progress: Progress
) -> tuple[dict[str, Any], list[str]]:
    """The ``scan`` section of a report, and notes."""
    if scan.layer != "auto":
        site = site_named(scene, scan.layer)
    else:
        best = next((score.site for score in found.scores if score.candidate), None)
        if best is None:
            raise Inconclusive(
                "no layer is a candidate for an edit, so --scan has no keys to look at; name a --scan-layer"
            )
        site = best
    detector = fit_detector(scene.network, site, case, options.batch_size)
    rows, suspects = _rank(scan.images, detector, scene, options, progress)
    scan.show(suspects)
    suspicious = [row for row in rows if row["suspicious"]]
    section = {
        "layer": site.name,
        "pooling": detector.pooling,
        "target": scene.fault.target,
        "threshold": detector.threshold,
        "false_alarms": detector.false_alarms,
        "misses": detector.misses,
        "separation": detector.separation,
        "judged_on": {"clean": detector.clean, "fired": detector.fired},
        "count": len(rows),
        "sha256": scan.images.sha256,
        "suspicious": None if detector.threshold is None else len(suspicious),
        "images": rows,
    }
    return section, _notes(detector)


@torch.no_grad()
def _rank(
    images: ImageSet, detector: Detector, scene: Scene, options: Options, progress: Progress
) -> tuple[list[dict[str, Any]], list[Suspect]]:
    """A row an image, the most suspicious first, and the first few with their maps."""
    rows: list[dict[str, Any]] = []
    first: list[Suspect] = []
    layer = detector.site.layer
    progress.start("scanning", len(images))
    for batch, _ in images.batches(options.batch_size):
        x = batch.to(scene.subject.device)
        seen = record(scene.network, x, inputs=[layer], logits=True)
        assert seen.logits is not None
        maps = detector.maps(seen.inputs[layer.name], len(x))
        values = detector.pooled(maps).tolist()
        confidences, classes = seen.logits.float().softmax(1).max(1)
        heats = detector.places(maps)
        for number, value in enumerate(values):
            heat = None if heats is None else heats[number]
            row = {
                "image": str(images.paths[len(rows)]),
                "suspicion": value if math.isfinite(value) else None,
                "suspicious": _above(value, detector.threshold),
                "prediction": int(classes[number]),
                "confidence": float(confidences[number]),
                "peak": None if heat is None else _peak(heat, batch.shape[2:]),
            }
            rows.append(row)
            first.append(Suspect(row, batch[number], None if heat is None else heat.cpu()))
        first = sorted(first, key=lambda suspect: _order(suspect.row))[:SHOWN]
        progress.advance(len(x))
    progress.stop()
    return sorted(rows, key=_order), first


def _order(row: dict[str, Any]) -> tuple[float, str]:
    """The most suspicious first, of equals in the order of their paths; what has no suspicion last."""
    return (math.inf if row["suspicion"] is None else -row["suspicion"], row["image"])


def _above(value: float, threshold: float | None) -> bool | None:
    return None if threshold is None or not math.isfinite(value) else value > threshold


def _peak(heat: Tensor, size: Sequence[int]) -> list[int]:
    """The row and column of the input pixel in the middle of the map's (h, w) greatest value."""
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    return [
        int((place + 0.5) * side / cells) for place, side, cells in zip((row, column), size, heat.shape, strict=True)
    ]


def _notes(detector: Detector) -> list[str]:
    """What to know of the ranking before one believes it."""
    if detector.threshold is None:
        return [
            "the images are ranked, but none is called suspicious: that needs 40 or more clean images to compare "
            "with (--calibration DIR)"
        ]
    if detector.misses is None:
        return [
            "suspicious is what the fault fires in more strongly than in any clean calibration image: how many images "
            "that misses is not known, as the fault could not be carried over to them"
        ]
    alarms = round((detector.false_alarms or 0.0) * (detector.clean + 1)) - 1
    if detector.separation is not None and detector.separation < WEAK:
        return [
            f"the keys of {detector.site.name} hardly tell images with the fault from clean ones (AUROC "
            f"{detector.separation:.2f} on calibration images): try another --scan-layer"
        ]
    if alarms > 0:
        return [
            f"{alarms} of the {detector.clean} clean calibration images that judge {'is' if alarms == 1 else 'are'} "
            "suspicious too: false alarms, or not clean; --scan the calibration folder to see them"
        ]
    return []
