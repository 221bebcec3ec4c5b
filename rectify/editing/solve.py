"""The closed forms: from the normal equations of one layer to the change of its weight.

All matrices are float64 and grouped: (G, d, d) moments, (G, o, d) right-hand sides and deltas. Written for a layer
``W k = v`` and a delta D that should give residuals r on corrupted keys k while it leaves the reference keys alone:

    D = argmin  sum_i w_i ||D k_i - r_i||^2 + damping ||D||^2        =  B H^-1,
    B = sum_i w_i r_i k_i^T,    H = sum_i w_i k_i k_i^T (damped).

One exact pair and reference moment C give the rank-one edit of arXiv 2603.15656, ``W' = W + Λ (C^-1 k*)^T`` with
``Λ = r / (k*^T C^-1 k*)``: the limit of a large weight on that pair (see the oracle in the tests).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rectify.errors import Inconclusive

DAMPING = 1e-2
_MOST_DAMPING = 0.9


@dataclass(frozen=True)
class Factor:
    """Cholesky factor of a damped moment: ``lower @ lower.T = (1 - a) M + a tr(M)/d I``."""

    lower: Tensor  # (G, d, d)
    damping: float  # the a that it took

    def solve(self, right: Tensor) -> Tensor:
        """``right @ M^-1`` for right (G, o, d)."""
        return torch.cholesky_solve(right.mT, self.lower).mT

    def whiten(self, keys: Tensor) -> Tensor:
        """``L^-1 k`` for keys (G, d, m): keys in which the moment is the identity."""
        whitened: Tensor = torch.linalg.solve_triangular(self.lower, keys, upper=False)
        return whitened


def factor(moment: Tensor, damping: float = DAMPING, ridge: Tensor | None = None) -> Factor:
    """Factor a second moment (G, d, d), shrunk towards a multiple of the identity.

    Parameters
    ----------
    moment
        Symmetric positive semidefinite, float64.
    damping
        a in ``(1 - a) M + a tr(M)/d I``; raised ten-fold until the factorisation succeeds.
    ridge
        (G,) mean diagonal that the identity is scaled by, where it should not be the moment's own.

    Raises
    ------
    Inconclusive
        If the moment is not finite, or no damping makes it positive definite.
    """
    if not bool(torch.isfinite(moment).all()):
        raise Inconclusive("a layer's keys are not finite: the model overflows on these images")
    moment = (moment + moment.transpose(1, 2)) / 2
    size = moment.shape[-1]
    own = moment.diagonal(dim1=1, dim2=2).mean(1)
    scale = own if ridge is None else ridge
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # a dead group: any positive number will do
    identity = torch.eye(size, dtype=moment.dtype, device=moment.device)
    while damping <= _MOST_DAMPING:
        shrunk = (1 - damping) * moment + damping * scale[:, None, None] * identity
        lower, info = torch.linalg.cholesky_ex(shrunk)
        if int(info.max()) == 0:
            return Factor(lower, damping)
        damping = max(10 * damping, 1e-12)
    raise Inconclusive("a layer's second moment cannot be inverted: give more calibration images")


class Spectrum:
    """The singular values of a delta in the metric of the fit that gave it, and the best deltas of lower rank.

    ``D_r = SVD_r(D L) L^-1`` for ``H = L L^T``: of all deltas of rank r, the one whose fit is nearest to D's.
    Truncating in the plain norm can leave the fault untouched. The singular vectors U are those of the smaller of the
    two Gram matrices (``D L L^T D^T``, of outputs), as then ``D_r = U_r U_r^T D`` takes no inverse at all.

    Parameters
    ----------
    delta
        (G, o, d) float64.
    metric
        The factored H of the fit that gave ``delta``.
    """

    def __init__(self, delta: Tensor, metric: Factor) -> None:
        self.delta, self.metric = delta, metric
        self.white = delta @ metric.lower
        self.wide = delta.shape[1] <= delta.shape[2]
        gram = self.white @ self.white.mT if self.wide else self.white.mT @ self.white
        values, vectors = torch.linalg.eigh(gram)
        self.squares = values.flip(1).clamp_min(0)  # (G, min(o, d)) squared singular values, largest first
        self.vectors = vectors.flip(2)

    def rank(self, energy: float) -> int:
        """The smallest rank that keeps this share of the squared norm, over all groups."""
        squares = self.squares.sum(0)
        kept = squares.cumsum(0) / squares.sum().clamp_min(1e-300)
        return min(int((kept < energy).sum()) + 1, len(squares))

    def truncated(self, rank: int) -> tuple[Tensor, Tensor]:
        """The best approximation by ``rank`` singular values a group, at least 1.

        Returns
        -------
        left, right
            (G, o, r) and (G, r, d) with ``left @ right`` the truncated delta.
        """
        vectors = self.vectors[:, :, :rank]
        if self.wide:
            return vectors, vectors.mT @ self.delta
        right = torch.linalg.solve_triangular(self.metric.lower, vectors.mT, upper=False, left=False)
        return self.white @ vectors, right


def leverage(keys: Tensor, reference: Factor) -> Tensor:
    """``ρ = k^T C^-1 k`` of keys (G, d, m), (G, m): how far a key stands out of the reference keys.

    An exact edit of one pair moves the other keys' outputs by ``||r||^2 / ρ`` in mean square: large ρ, surgical edit.
    """
    return reference.whiten(keys).square().sum(1)
