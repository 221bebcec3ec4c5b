"""Slow oracles: every formula once more, in float64, by loops and explicit inverses, straight from the mathematics.

Nothing here imports rectify. One group at a time: weights are (o, d), keys are lists of vectors (d,), moments (d, d).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import floor

import torch
from torch import Tensor, nn

# ---------------------------------------------------------------- normal equations


def outer_sum(left: Sequence[Tensor], right: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """``sum_i w_i left_i right_i^T``, one outer product after the other."""
    total = torch.zeros(len(left[0]), len(right[0]), dtype=torch.float64)
    for number, (one, other) in enumerate(zip(left, right, strict=True)):
        weight = 1.0 if weights is None else weights[number]
        for i in range(len(one)):
            for j in range(len(other)):
                total[i, j] += weight * float(one[i]) * float(other[j])
    return total


def damped(moment: Tensor, a: float, scale: float | None = None) -> Tensor:
    """``(1 - a) M + a s I`` with s the mean diagonal unless it is given."""
    size = len(moment)
    mean = sum(float(moment[i, i]) for i in range(size)) / size if scale is None else scale
    return (1 - a) * moment.double() + a * mean * torch.eye(size, dtype=torch.float64)


def ridge(keys: Sequence[Tensor], residuals: Sequence[Tensor], weights: Sequence[float], inverse_of: Tensor) -> Tensor:
    """``D = (sum_i w_i r_i k_i^T) H^-1`` with an explicit inverse."""
    return outer_sum(residuals, keys, weights) @ torch.linalg.inv(inverse_of.double())


def descend(keys: Sequence[Tensor], residuals: Sequence[Tensor], weights: Sequence[float], tikhonov: float) -> Tensor:
    """The minimiser of ``sum_i w_i ||D k_i - r_i||^2 + tikhonov ||D||^2`` as one stacked least-squares problem."""
    d, o = len(keys[0]), len(residuals[0])
    rows = [w**0.5 * k.double() for k, w in zip(keys, weights, strict=True)]
    wanted = [w**0.5 * r.double() for r, w in zip(residuals, weights, strict=True)]
    for i in range(d):
        rows.append(tikhonov**0.5 * torch.eye(d, dtype=torch.float64)[i])
        wanted.append(torch.zeros(o, dtype=torch.float64))
    return torch.linalg.lstsq(torch.stack(rows), torch.stack(wanted)).solution.T


def published_edit(weight: Tensor, key: Tensor, value: Tensor, moment: Tensor) -> Tensor:
    """The rank-one edit of arXiv 2603.15656: ``W + (v* - W k*)(C^-1 k*)^T / (k*^T C^-1 k*)``."""
    direction = torch.linalg.inv(moment.double()) @ key.double()
    residual = value.double() - weight.double() @ key.double()
    return weight.double() + torch.outer(residual, direction) / (key.double() @ direction)


def quadratic_form(key: Tensor, moment: Tensor) -> float:
    """``k^T C^-1 k``."""
    return float(key.double() @ torch.linalg.inv(moment.double()) @ key.double())


def square_root(moment: Tensor) -> Tensor:
    """The symmetric square root, by eigendecomposition."""
    values, vectors = torch.linalg.eigh(moment.double())
    return vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T


def truncated(delta: Tensor, moment: Tensor, rank: int) -> Tensor:
    """``SVD_r(D H^(1/2)) H^(-1/2)``."""
    root = square_root(moment)
    u, s, vh = torch.linalg.svd(delta.double() @ root, full_matrices=False)
    kept = torch.zeros_like(delta, dtype=torch.float64)
    for i in range(rank):
        kept += s[i] * torch.outer(u[:, i], vh[i])
    return kept @ torch.linalg.inv(root)


def misfit(one: Tensor, other: Tensor, moment: Tensor) -> float:
    """``||(one - other) H^(1/2)||_F``: the distance of two deltas in the metric of the fit."""
    difference = (one - other).double()
    return float((difference @ moment.double() @ difference.T).trace()) ** 0.5


def moments(
    keys: Sequence[Tensor], residuals: Sequence[Tensor], group: int, changed_only: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Moment and cross moment of one group by loops: lists of images, keys (G, d, P), residuals (G, o, P)."""
    d, o = keys[0].shape[1], residuals[0].shape[1]
    moment, cross = torch.zeros(d, d, dtype=torch.float64), torch.zeros(o, d, dtype=torch.float64)
    for k, r in zip(keys, residuals, strict=True):
        sizes = [float(r[:, :, p].double().square().sum()) ** 0.5 for p in range(k.shape[2])]
        for p, size in enumerate(sizes):
            if changed_only and size <= changed_only * max(sizes):
                continue
            key, residual = k[group, :, p].double(), r[group, :, p].double()
            moment += torch.outer(key, key)
            cross += torch.outer(residual, key)
    return moment / len(keys), cross / len(keys)


def outside_span(key: Tensor, reference: Sequence[Tensor]) -> float:
    """``||k - Pk|| / ||k||``, P the projection on the span of the reference keys, by Gram-Schmidt."""
    basis: list[Tensor] = []
    for vector in [*reference, key]:
        rest = vector.double()
        for _ in range(2):  # twice is enough
            for axis in basis:
                rest = rest - (rest @ axis) * axis
        if vector is key:
            return float(rest.norm() / key.double().norm())
        if float(rest.norm()) > 1e-9 * float(vector.double().norm()):
            basis.append(rest / rest.norm())
    raise AssertionError("unreachable")


def spectral_norm(matrix: Tensor) -> float:
    """The largest singular value, by two hundred steps of power iteration."""
    vector = torch.ones(matrix.shape[1], dtype=torch.float64)
    for _ in range(200):
        vector = matrix.double().T @ (matrix.double() @ vector)
        vector = vector / vector.norm()
    return float((matrix.double() @ vector).norm())


# ---------------------------------------------------------------- networks


def patches(image: Tensor, kernel: tuple[int, int], stride: int = 1, padding: int = 0) -> list[Tensor]:
    """The columns that a zero-padded convolution sees in an image (C, H, W), in reading order, each (C kh kw,)."""
    channels, height, width = image.shape
    found = []
    for top in range(-padding, height + padding - kernel[0] + 1, stride):
        for left in range(-padding, width + padding - kernel[1] + 1, stride):
            column = []
            for c in range(channels):
                for y in range(top, top + kernel[0]):
                    for x in range(left, left + kernel[1]):
                        inside = 0 <= y < height and 0 <= x < width
                        column.append(float(image[c, y, x]) if inside else 0.0)
            found.append(torch.tensor(column, dtype=torch.float64))
    return found


def depends_on_input(network: nn.Module, module: nn.Module, one: Tensor, other: Tensor) -> bool:
    """Whether the logits still depend on the input when a layer's output is nailed to a constant."""
    kept: list[Tensor] = []

    def nail(_: nn.Module, __: object, output: Tensor) -> Tensor:
        if not kept:
            kept.append(output.detach().clone())
        return kept[0].clone()

    handle = module.register_forward_hook(nail)
    with torch.no_grad():
        first, second = network(one), network(other)
    handle.remove()
    return bool((first - second).abs().max() > 1e-9 * first.abs().max())


def depths(network: nn.Module, modules: dict[str, nn.Module], x: Tensor) -> dict[str, int]:
    """The longest chain of modules from the input to each module, itself included, by walking autograd's graph back."""
    nodes: dict[object, str] = {}

    def remember(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            nodes[output.grad_fn] = name

        return hook

    handles = [module.register_forward_hook(remember(name)) for name, module in modules.items()]
    logits = network(x.clone().requires_grad_(True))
    for handle in handles:
        handle.remove()
    known: dict[object, int] = {}
    stack = [logits.grad_fn]
    while stack:
        node = stack[-1]
        behind = [follow for follow, _ in node.next_functions if follow is not None]
        waiting = [follow for follow in behind if follow not in known]
        if waiting:
            stack += waiting
            continue
        known[stack.pop()] = max((known[follow] for follow in behind), default=0) + (node in nodes)
    return {name: known[node] for node, name in nodes.items() if node in known}


def layer_attribution(
    network: nn.Module,
    module: nn.Module,
    corrupted: Tensor,
    clean: Tensor,
    output: Callable[[Tensor], Tensor],
    steps: int,
) -> tuple[Tensor, float]:
    """M and the conductance of one layer: each point of the path has its own forward and backward pass."""
    values, gradients = [], []
    for step in range(steps + 1):
        caught: list[Tensor] = []

        def hook(_: nn.Module, __: object, value: Tensor, caught: list[Tensor] = caught) -> Tensor:
            caught.append(value.detach().clone().requires_grad_(True))
            return caught[0] * 1.0

        handle = module.register_forward_hook(hook)
        f = output(network(corrupted + step / steps * (clean - corrupted)))
        handle.remove()
        (gradient,) = torch.autograd.grad(f.sum(), caught, allow_unused=True)
        values.append(caught[0].detach()[0])
        gradients.append(torch.zeros_like(values[-1]) if gradient is None else gradient[0])
    integral = torch.zeros_like(values[0])
    conductance = 0.0
    for step in range(steps):
        middle = (gradients[step] + gradients[step + 1]) / 2
        integral = integral + middle / steps
        conductance += float((middle * (values[step + 1] - values[step])).sum())
    return (values[-1] - values[0]) * integral, conductance


# ---------------------------------------------------------------- pictures


def sample(image: Tensor, y: float, x: float) -> Tensor:
    """Bilinear sample of an image (C, H, W) at a point, clamped to the border."""
    height, width = image.shape[1:]
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = min(floor(y), height - 1), min(floor(x), width - 1)
    below, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, u = y - top, x - left
    upper = (1 - u) * image[:, top, left] + u * image[:, top, right]
    lower = (1 - u) * image[:, below, left] + u * image[:, below, right]
    return (1 - v) * upper + v * lower


def warp(image: Tensor, field: Tensor) -> Tensor:
    """An image (C, H, W) sampled at every pixel plus its displacement (H, W, 2), x first, in pixels."""
    result = torch.empty_like(image)
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            result[:, y, x] = sample(image, y + float(field[y, x, 1]), x + float(field[y, x, 0]))
    return result


# ---------------------------------------------------------------- the detector


def fault_direction(clean: Sequence[Tensor], corrupted: Sequence[Tensor], moment: Tensor) -> Tensor:
    """``C^-1 k*`` by an explicit inverse: k* is the mean of the corrupted keys less that of the clean ones."""
    star = torch.stack([key.double() for key in corrupted]).mean(0) - torch.stack([k.double() for k in clean]).mean(0)
    return torch.linalg.inv(moment.double()) @ star


def area_under_roc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Share of all pairs in which the positive scores higher, ties counted half."""
    won = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative)
    return won / (len(positive) * len(negative))
