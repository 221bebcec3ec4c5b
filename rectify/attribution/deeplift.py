"""DeepLIFT with the Rescale rule (Shrikumar, Greenside, Kundaje 2017, arXiv 1704.02685).

Image x and baseline x' go through the network side by side. Every operation gets a multiplier m with
``sum m * (input - input') = output - output'``, and the multipliers are chained as gradients are:

- a linear operation keeps its own weights;
- an elementwise function f has m = (f(z) - f(z')) / (z - z'), and its derivative half way where z = z' (Rescale);
- a product has the mean of the other factor, ``D(ab) = Da (b + b')/2 + Db (a + a')/2``, which is exact;
- softmax has ``Dy_i = w_i (Dz_i - sum_j w_j Dz_j / sum_j w_j)`` with w the logarithmic mean of y and y', exact since
  both sum to one and unchanged by a constant added to z;
- a maximum shares its change between the winner for x and the winner for x' (the Shapley values of the two);
- a quotient and a norm, ``a r`` with r a scale, have weights that keep to the smaller scale in place of the half and
  half of a product.

The paper defines its rule for functions of one input; the last four are choices of this program. The module does not
look at torch.nn modules but at the operations that torch really runs, so that it does not matter whether a module is
reused, works in place, or is called through torch.nn.functional. An operation without a rule is refused by name.

The pairs are in `deeplift_pairs`, the rules in `deeplift_rules` and `deeplift_norms`, and which operation has which in
`deeplift_table`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rectify.attribution.attribution import Attribution, Settings
from rectify.attribution.baselines import baseline_images, baseline_name
from rectify.attribution.deeplift_pairs import INSTEAD, Pair
from rectify.attribution.score import Score, twice_differentiable
from rectify.errors import UsageError
from rectify.files.words import reason
from rectify.model.record import readable

MISMATCH = 1e-3  # share by which scores and sums may be off: far above rounding


def deeplift(score: Score, x: Tensor, targets: Tensor, settings: Settings) -> Attribution:
    """DeepLIFT (Rescale) from a static baseline.

    Parameters
    ----------
    score
        F; at most ``batch // 2`` pairs go through its network at a time.
    x, targets
        Images (N, C, H, W) and classes (N,).
    settings
        ``baseline``.

    Returns
    -------
    Attribution
        ``values`` sum to ``change`` up to rounding.

    Raises
    ------
    UsageError
        Unknown baseline, or a network with an operation that has no rule, that uses statistics of the batch, or that
        does not give the same score twice.
    """
    if any(type(module).__name__ == "OptimizedModule" for module in score.network.modules()):
        raise UsageError(
            f"deeplift does not see into what torch.compile has made: give the network before it, or {INSTEAD}"
        )
    baseline = baseline_images(x, settings)
    confidence, low = score.values(x, targets), score.values(baseline, targets)
    change = confidence - low
    size = max(1, score.batch // 2)
    values = torch.empty_like(x)
    for i in range(0, len(x), size):
        part = slice(i, i + size)
        values[part], found = _contributions(score, x[part], baseline[part], targets[part])
        _check(found, confidence[part], low[part])
        _check_sum(values[part], change[part], confidence[part])
    told = {"baseline": baseline_name(settings)}
    return Attribution(values, confidence, baseline, change, None, True, told)


def _contributions(score: Score, x: Tensor, baseline: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The contributions (N, C, H, W), and F of images and baselines as the pairs have come to it, (2, N)."""
    leaf = x.detach().contiguous().clone().requires_grad_(True)
    with torch.enable_grad():
        inputs = Pair(leaf.clone(), baseline.detach().contiguous().clone())  # the network may change its input in place
    try:
        with torch.no_grad(), readable(), twice_differentiable():
            result = score(inputs, targets)
    except (RuntimeError, TypeError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        raise UsageError(f"deeplift cannot follow this network ({reason(error)}): {INSTEAD}") from error
    if not isinstance(result, Pair):  # the score does not depend on the image
        return torch.zeros_like(x), torch.stack((result, result))
    found = torch.stack((result.value.detach(), result.base))
    if not result.value.requires_grad:
        return torch.zeros_like(x), found
    (multiplier,) = torch.autograd.grad(result.value, leaf, torch.ones_like(result.value), allow_unused=True)
    return torch.zeros_like(x) if multiplier is None else (x - baseline) * multiplier, found


def _check(found: Tensor, confidence: Tensor, low: Tensor) -> None:
    """The pairs must have come to the network's own scores."""
    expected = torch.stack((confidence, low))
    wrong = (found - expected).abs() > _tolerance(found) * (1 + expected.abs())
    if bool(wrong.any()):
        raise UsageError(f"deeplift does not come to the network's own score (is it random, in eval mode?): {INSTEAD}")


def _check_sum(values: Tensor, change: Tensor, confidence: Tensor) -> None:
    """What reaches the image must add up: else a part of the network was out of sight."""
    flat = values.double().flatten(1)
    scale = flat.abs().sum(1) + 0.01 * (1 + confidence.double().abs())  # of rounding
    if bool(((flat.sum(1) - change).abs() > _tolerance(values) * scale).any()):
        raise UsageError(f"deeplift does not add up here (low precision, or a part out of its sight): {INSTEAD}")


def _tolerance(values: Tensor) -> float:
    return max(MISMATCH, 16 * torch.finfo(values.dtype).eps)
