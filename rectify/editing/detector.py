"""Where does the fault fire in an image, and does it fire at all? The key similarity as a detector.

An edit of a layer adds ``Λ (C^-1 k*)^T`` to its weight, so that a key k is moved by its similarity ``<C^-1 k*, k>`` to
the key of the fault: where that is large, the fault fires. With k* the mean difference of corrupted and clean keys and
C the second moment of clean keys, ``C^-1 k*`` is Fisher's linear discriminant of the two (Fisher 1936), up to the mean
of the clean keys, which moves all similarities by one constant.

The direction is taken from the pairs and one part of the calibration images. The other part says how the map of an
image becomes one number, and where suspicion begins: no image has a say in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from rectify.attribution.grad_cam import Grid, find_grid
from rectify.editing.casebook import Case
from rectify.editing.localize import second_moments
from rectify.editing.solve import factor
from rectify.errors import Inconclusive
from rectify.evaluation.ranks import auroc
from rectify.model.passes import images_a_pass
from rectify.model.record import record
from rectify.model.trace import Site

Pooling = Literal["max", "mean"]
POOLINGS: tuple[Pooling, ...] = ("max", "mean")  # a patch fires at one position, a blend at all
FAULTY = 0.1  # share of images with the fault that a threshold is set for: the poison rate of most papers


@dataclass(frozen=True)
class Detector:
    """Gives images a suspicion: 0 for the median of clean images, 1 for that of images on which the fault fires.

    Attributes
    ----------
    site
        The layer whose keys are looked at.
    direction
        ``C^-1 k*``, (G, d) float32, scaled so that pooled similarities less ``offset`` are suspicions.
    offset
        What is taken off every similarity.
    pooling
        How the map of an image becomes its suspicion.
    threshold
        An image above this suspicion is suspicious; None without calibration images to tell.
    false_alarms
        Share of clean images that is expected above the threshold: ``(1 + those of the m judging calibration images) /
        (m + 1)``, the bound of conformal prediction (Vovk, Gammerman and Shafer 2005).
    misses
        Share not above it of the calibration images that the fault was carried over to; None where it could not be.
    separation
        AUROC of the same images, ties counted half; None without calibration images.
    clean, fired
        How many images these shares are of.
    grid
        How the positions lie in the image; None where they are no places in it, as those of a classifier's layer.
    """

    site: Site
    direction: Tensor
    offset: float
    pooling: Pooling
    threshold: float | None
    false_alarms: float | None
    misses: float | None
    separation: float | None
    clean: int
    fired: int
    grid: Grid | None

    def maps(self, inputs: Tensor, images: int) -> Tensor:
        """The suspicion of every position, (N, P), from the input of the layer."""
        return self.site.layer.similarity(self.direction, inputs, images) - self.offset

    def places(self, maps: Tensor) -> Tensor | None:
        """Maps (N, P) as (N, height, width); None without a grid."""
        if self.grid is None:
            return None
        return maps[:, self.grid.extra :].reshape(len(maps), self.grid.height, self.grid.width)

    def pooled(self, maps: Tensor) -> Tensor:
        """The suspicion of every image, (N,), from its map (N, P)."""
        return pool(maps, self.pooling)


def pool(maps: Tensor, pooling: Pooling) -> Tensor:
    """(N, P) -> (N,)."""
    return maps.amax(1) if pooling == "max" else maps.mean(1)


def fit_detector(network: nn.Module, site: Site, case: Case, batch: int = 64) -> Detector:
    """The detector of one layer.

    Parameters
    ----------
    network
        The untouched network.
    site
        A layer of it whose second moment can be formed.
    case
        The pairs, the calibration images and the fault carried over to them.
    batch
        Images a forward pass.

    Raises
    ------
    Inconclusive
        If the layer's keys are not finite.
    """
    clean, corrupted = _twins(case, case.fit)
    own_clean, own_corrupted = case.teacher.clean[-case.pairs :], case.corrupted[-case.pairs :]
    star = mean_key(network, site, torch.cat((corrupted, own_corrupted)), batch)
    star = star - mean_key(network, site, torch.cat((clean, own_clean)), batch)
    moment = second_moments(network, [site], case.teacher.clean[case.fit], batch)[site.name]
    direction = direction_of(star, moment)
    innocent = _all_maps(network, site, direction, case.teacher.clean[case.judge], batch)
    _, judged = _twins(case, case.judge)
    guilty = _all_maps(network, site, direction, judged if len(judged) else own_corrupted, batch)
    found = calibrated(site, direction, innocent, guilty, known=case.calibrated, carried=len(judged) > 0)
    return replace(found, grid=_grid(network, site, own_clean[:1]))


def fires(network: nn.Module, site: Site, case: Case, images: Tensor, batch: int = 64) -> Tensor:
    """Whether the fault fires in each of these images (N, C, H, W), by the keys of one layer: (N,) bool.

    Nearer, that is, to the median of the images that it was carried over to than to that of clean ones.
    """
    detector = fit_detector(network, site, case, batch)
    maps = _all_maps(network, site, detector.direction, images, batch) - detector.offset
    return detector.pooled(maps) > 0.5


def direction_of(star: Tensor, moment: Tensor) -> Tensor:
    """``C^-1 k*`` with C damped as for an edit: (G, d) and (G, d, d) -> (G, d), float64."""
    return factor(moment).solve(star.double().unsqueeze(1)).squeeze(1)


def calibrated(
    site: Site, direction: Tensor, innocent: Tensor, guilty: Tensor, *, known: bool, carried: bool
) -> Detector:
    """A detector whose pooling, scale and threshold are those of these maps.

    Parameters
    ----------
    direction
        (G, d), of any scale.
    innocent, guilty
        (N, P) and (M, P) similarities of clean images and of images on which the fault fires.
    known
        Whether the clean ones are real images, so that a threshold means something.
    carried
        Whether the others are calibration images, so that their shares mean something.

    Raises
    ------
    Inconclusive
        If a similarity is not finite.
    """
    if not bool(innocent.isfinite().all() and guilty.isfinite().all()):
        raise Inconclusive(f"the keys of {site.name} are not finite: the model overflows on these images")
    pooling = _separating(innocent, guilty)
    low, high = pool(innocent, pooling).double(), pool(guilty, pooling).double()
    zero, one = float(low.median()), float(high.median())
    span = one - zero
    if span <= 0:  # on this layer the fault's own images look cleaner than clean ones: a scale of its own
        span = float(low.std(correction=0)) or 1.0
    low, high = (low - zero) / span, (high - zero) / span
    threshold = None
    if known:
        threshold = _fewest_errors(low, high) if carried else float(low.max())
    return Detector(
        site,
        (direction / span).float(),
        zero / span,
        pooling,
        threshold,
        None if threshold is None else float(1 + (low > threshold).sum()) / (len(low) + 1),
        None if threshold is None or not carried else float((high <= threshold).double().mean()),
        auroc(high, low) if known and carried else None,
        len(low),
        len(high) if carried else 0,
        None,
    )


def _separating(innocent: Tensor, guilty: Tensor) -> Pooling:
    """The pooling of the larger AUROC, and of equals that of the larger difference in standard deviations."""

    def apart(pooling: Pooling) -> tuple[float, float]:
        low, high = pool(innocent, pooling).double(), pool(guilty, pooling).double()
        spread = (low.var(correction=0) + high.var(correction=0)).sqrt().clamp_min(1e-300)
        return auroc(high, low), float((high.mean() - low.mean()) / spread)

    return max(POOLINGS, key=apart)


def _fewest_errors(low: Tensor, high: Tensor) -> float:
    """The threshold of the fewest errors where ``FAULTY`` of the images have the fault: the middle of the widest."""
    values = torch.cat((low, high)).unique()
    between = torch.cat(((values[1:] + values[:-1]) / 2, values[-1:]))
    alarms = (low.unsqueeze(1) > between).double().mean(0)
    misses = (high.unsqueeze(1) <= between).double().mean(0)
    errors = (1 - FAULTY) * alarms + FAULTY * misses
    widths = torch.cat((values.diff(), values.new_zeros(1)))
    best = errors <= errors.min() + 1e-12
    return float(between[torch.where(best, widths, -torch.ones_like(widths)).argmax()])


def _twins(case: Case, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Those of these calibration images that the fault was carried over to, clean and corrupted, (n, C, H, W)."""
    use = torch.isin(case.rows, rows)
    return case.teacher.clean[case.rows[use]], case.corrupted[use]


def _grid(network: nn.Module, site: Site, image: Tensor) -> Grid | None:
    """Where the positions of a layer lie in an image (1, C, H, W)."""
    output = record(network, image, outputs=[site.layer]).outputs[site.name]
    return find_grid(tuple(output.shape), 1, (image.shape[2], image.shape[3]))


def mean_key(network: nn.Module, site: Site, images: Tensor, batch: int = 64) -> Tensor:
    """The mean key over images and positions, (G, d) float64."""
    total: Tensor | None = None
    for inputs, count in _inputs(network, site, images, batch):
        keys = site.layer.keys(inputs, count).mean(3).double().sum(0)
        total = keys if total is None else total + keys
    assert total is not None
    return total / len(images)


def _all_maps(network: nn.Module, site: Site, direction: Tensor, images: Tensor, batch: int) -> Tensor:
    """(N, P) similarities, float32."""
    passes = _inputs(network, site, images, batch)
    return torch.cat([site.layer.similarity(direction, inputs, count) for inputs, count in passes])


def _inputs(network: nn.Module, site: Site, images: Tensor, batch: int) -> Iterator[tuple[Tensor, int]]:
    """The layer's input on each batch, and how many images that is."""
    batch = images_a_pass(images, batch)
    for start in range(0, len(images), batch):
        x = images[start : start + batch]
        yield record(network, x, inputs=[site.layer]).inputs[site.name], len(x)
