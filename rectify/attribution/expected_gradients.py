"""Expected gradients (Erion et al. 2021, arXiv 1906.10670): integrated gradients averaged over real images.

A_i = E_{x' ~ D, a ~ U(0,1)} [ (x_i - x'_i) * dF_c/dx_i(x' + a (x - x')) ]
"""

from __future__ import annotations

import torch
from torch import Tensor

from rectify.attribution.attribution import Attribution, Settings
from rectify.attribution.gradients import groups, steps_of
from rectify.attribution.score import Score
from rectify.errors import UsageError

SAMPLES = 64


def expected_gradients(score: Score, x: Tensor, targets: Tensor, settings: Settings) -> Attribution:
    """The mean over sampled baselines and path points.

    Every reference image is drawn once before any is drawn again, and each of ``steps`` equal strata of (0, 1) has one
    path point. All images share the draws, so a map does not depend on the images beside it. The promise sum(A) =
    F(x) - mean F(x') over the drawn baselines holds in expectation; the gap tells how far this sample is from it.

    Parameters
    ----------
    score
        F.
    x, targets
        Images (N, C, H, W) and classes (N,).
    settings
        ``reference``: D; ``steps``: samples (64); ``seed``.

    Raises
    ------
    UsageError
        No reference images, of another shape than the images, or fewer than one sample.
    """
    samples = steps_of(settings, SAMPLES)
    reference = _reference(x, settings)
    drawn, alphas = draws(len(reference), samples, settings.generator(torch.device("cpu")))
    total, done = torch.zeros_like(x), 0
    for count in groups(samples, score.batch // max(1, len(x))):
        some = slice(done, done + count)
        start = reference[drawn[some].to(reference.device)].to(x).unsqueeze(1)  # (k, 1, C, H, W)
        way = x - start
        points = start + alphas[some].to(x).view(-1, 1, 1, 1, 1) * way
        _, slope = score.gradients(points.flatten(0, 1), targets.repeat(count))
        total += (way * slope.view_as(way)).sum(0)
        done += count
    confidence = score.values(x, targets)
    change = confidence - mean_score(score, reference, drawn, x, targets)
    told = {"steps": samples, "reference": len(reference), "seed": settings.seed}
    return Attribution(total / samples, confidence, change=change, complete=True, settings=told)


def _reference(x: Tensor, settings: Settings) -> Tensor:
    if settings.reference is None or not len(settings.reference):
        raise UsageError("expected gradients draw their baselines from real images: give --calibration DIR")
    if settings.reference.shape[1:] != x.shape[1:]:
        theirs, ours = ("x".join(map(str, images.shape[1:])) for images in (settings.reference, x))
        raise UsageError(f"reference images of {theirs} do not fit images of {ours}")
    return settings.reference


def draws(images: int, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which reference image, (samples,), and where on the path, (samples,) in float64."""
    rounds = [torch.randperm(images, generator=generator) for _ in range(-(-samples // images))]
    within = torch.rand(samples, generator=generator, dtype=torch.float64)
    return torch.cat(rounds)[:samples], (torch.arange(samples) + within) / samples


def mean_score(score: Score, reference: Tensor, drawn: Tensor, x: Tensor, targets: Tensor) -> Tensor:
    """F_c of each image's class, averaged over the drawn reference images, (N,)."""
    used, counts = drawn.unique(return_counts=True)
    images = reference[used.to(reference.device)].to(x)
    with torch.no_grad():  # one pass gives every class
        logits = torch.cat([score.network(some.clone()) for some in images.split(score.batch)])
    shares = counts.to(logits) / len(drawn)
    return torch.stack([shares @ score.of(logits, target.expand(len(logits))) for target in targets])
