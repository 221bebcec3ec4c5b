"""What a path method's own path shows: does the confidence grow along it, and is the change of F all attributed?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rectify.attribution.attribution import Attribution
from rectify.errors import UsageError
from rectify.evaluation.measure import Measure
from rectify.evaluation.ranks import constant_rows, spearman

RESOLVED = 1e-6  # a change of F below this is rounding: a gap is not divided by less


def monotonicity(path_scores: Sequence[Tensor] | None) -> Measure:
    """Spearman's correlation of the position on the path and the confidence there (arXiv 2410.08069, UNI).

    Parameters
    ----------
    path_scores
        `Attribution.path_scores`: F_c at the points of each image's path in order, (K,) each, K of each its own.

    Returns
    -------
    ``monotonicity``; ``constant`` counts the images whose confidence is the same everywhere (0).

    Raises
    ------
    UsageError
        If the method has no path, or a path has less than two points.
    """
    if path_scores is None:
        raise UsageError("monotonicity is of methods that follow a path from a baseline: this one has none")
    lengths = torch.tensor([len(scores) for scores in path_scores])
    if len(lengths) and int(lengths.min()) < 2:
        raise UsageError("monotonicity needs paths of at least 2 points")
    values = torch.empty(len(lengths), dtype=torch.float64)
    constant = 0
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero().flatten()
        scores = torch.stack([path_scores[row].detach().double().cpu() for row in rows.tolist()])
        values[rows] = spearman(torch.arange(length, dtype=torch.float64).expand_as(scores), scores)
        constant += int(constant_rows(scores).sum())
    points = sorted(set(lengths.tolist()))
    return Measure("monotonicity", values, None, {"correlation": "spearman", "points": points, "constant": constant})


def completeness(attribution: Attribution) -> list[Measure]:
    """The gap |sum A - (F(x) - F(x'))| of each image, absolute and as a share of |F(x) - F(x')|.

    A change of F under 1e-6 counts as 1e-6 in the relative gap; ``unresolved`` counts these images.

    Raises
    ------
    UsageError
        If the method does not promise that the sum is the change.
    """
    gap, change = attribution.gap, attribution.change
    if gap is None or change is None:
        raise UsageError("the completeness gap is of methods whose attributions sum to the change of the score")
    gap, size = gap.detach().cpu(), change.detach().double().abs().cpu()
    told = dict(attribution.settings)
    unresolved = int((size < RESOLVED).sum())
    return [
        Measure("completeness-gap", gap, None, told),
        Measure("completeness-gap-relative", gap / size.clamp_min(RESOLVED), None, {**told, "unresolved": unresolved}),
    ]
