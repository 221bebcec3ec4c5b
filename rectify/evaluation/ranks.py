"""Rank correlations and top-k overlap of many rows at once.

Rows are compared as they are given: whether a map is signed, absolute or summed over channels is the caller's choice.
Attributions compared for robustness and stability are |channel sum|.
"""

from __future__ import annotations

import torch
from scipy.stats import kendalltau
from torch import Tensor

from rectify.errors import UsageError


def constant_rows(x: Tensor) -> Tensor:
    """(N,) bool: whether all entries of a row (N, D) are equal, so that it correlates with nothing."""
    return torch.eq(x, x[:, :1]).all(1)


def average_ranks(x: Tensor) -> Tensor:
    """Ranks 1..D in each row of (N, D), float64; tied entries share the mean of their ranks; NaN in rows with NaN."""
    ordered, order = x.sort(dim=1, stable=True)
    starts = torch.zeros_like(order)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    group = starts.cumsum(1)
    places = torch.arange(1, x.shape[1] + 1, dtype=torch.float64, device=x.device).expand(x.shape)
    total = torch.zeros_like(places).scatter_add(1, group, places)
    count = torch.zeros_like(places).scatter_add(1, group, torch.ones_like(places))
    ranks = torch.empty_like(total).scatter(1, order, (total / count.clamp_min(1)).gather(1, group))
    return ranks.masked_fill(x.isnan().any(1, keepdim=True), torch.nan)


def auroc(positive: Tensor, negative: Tensor) -> float:
    """The chance that one of (n,) positives has a higher score than one of (m,) negatives, ties counted half.

    The area under the ROC curve, by the rank sum of Mann and Whitney (Hanley and McNeil 1982).

    Raises
    ------
    UsageError
        If there is none of either.
    """
    n, m = len(positive), len(negative)
    if not n or not m:
        raise UsageError(f"an AUROC needs scores of both kinds, not of {n} and {m} images")
    ranks = average_ranks(torch.cat((positive, negative)).unsqueeze(0))[0]
    return (float(ranks[:n].sum()) - n * (n + 1) / 2) / (n * m)


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of the rows of two (N, D), (N,) float64; 0 where a row is constant.

    Raises
    ------
    UsageError
        If the two differ in shape.
    """
    _check_pair(a, b)
    left, right = (x.double() - x.double().mean(1, keepdim=True) for x in (a, b))
    scale = left.norm(dim=1) * right.norm(dim=1)
    constant = constant_rows(a) | constant_rows(b)
    found = (left * right).sum(1) / scale.masked_fill(constant | (scale == 0), 1)
    return torch.clamp(found, -1, 1).masked_fill(constant, 0)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's correlation of the rows of two (N, D), (N,) float64: Pearson's of their average ranks.

    A constant row gives 0: `constant_rows` counts them.

    Raises
    ------
    UsageError
        If the two differ in shape.
    """
    _check_pair(a, b)
    return pearson(average_ranks(a), average_ranks(b))


def kendall_tau_b(a: Tensor, b: Tensor) -> Tensor:
    """Kendall's tau-b of the rows of two (N, D), (N,) float64 on the CPU; 0 where a row is constant.

    tau-b divides by the pairs that are not tied: a map with hundreds of equal zeros loses much of it to noise of 1e-6
    on them, so `tie_share` belongs beside it.

    Raises
    ------
    UsageError
        If the two differ in shape.
    """
    _check_pair(a, b)
    left, right = (x.detach().double().cpu().numpy() for x in (a, b))
    found = [float(kendalltau(i, j, method="asymptotic").statistic) for i, j in zip(left, right, strict=True)]
    constant = (constant_rows(a) | constant_rows(b)).cpu()
    return torch.tensor(found, dtype=torch.float64).masked_fill(constant, 0)


def top_k(x: Tensor, k: int) -> Tensor:
    """(N, D) bool: the k greatest entries of each row; of equal ones those that come first.

    Raises
    ------
    UsageError
        If k is less than one.
    """
    if k < 1:
        raise UsageError(f"the top {k} of a map: give at least 1")
    order = x.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return torch.zeros_like(x, dtype=torch.bool).scatter(1, order, True)


def top_k_intersection(a: Tensor, b: Tensor, k: int) -> Tensor:
    """Share of the k greatest entries of each row that two (N, D) have in common, (N,) float64 in [0, 1].

    k is at most D. Of equal entries those that come first count, in both: where less than k entries differ from
    zero, the rest of the overlap is ties (see `tie_share`).

    Raises
    ------
    UsageError
        If the two differ in shape, or k is less than one.
    """
    _check_pair(a, b)
    return (top_k(a, k) & top_k(b, k)).double().sum(1) / min(k, a.shape[1])


def tie_share(x: Tensor) -> Tensor:
    """(N,) float64: share of the entries of a row that have an equal in it."""
    ordered = x.sort(1).values
    same = ordered[:, 1:] == ordered[:, :-1]
    none = torch.zeros_like(same[:, :1])
    tied = torch.cat([none, same], 1) | torch.cat([same, none], 1) if x.shape[1] > 1 else torch.zeros_like(x)
    return tied.double().mean(1)


def zero_share(x: Tensor, tolerance: float = 1e-6) -> Tensor:
    """(N,) float64: share of the entries of a row that are at most ``tolerance`` times its greatest absolute value.

    Beside `tie_share`: the zeros of a background that rounding makes unequal are no ties, and rank by rounding.
    """
    size = x.abs()
    return (size <= tolerance * size.amax(1, keepdim=True)).double().mean(1)


def _check_pair(a: Tensor, b: Tensor) -> None:
    if a.ndim != 2 or a.shape != b.shape:
        raise UsageError(f"rows to compare are of the same shape (N, D), not {tuple(a.shape)} and {tuple(b.shape)}")
