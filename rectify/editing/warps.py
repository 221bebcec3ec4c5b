"""The smooth warp from one image to another, found by registration (a trigger of Nguyen and Tran 2021, WaNet)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur  # type: ignore[import-untyped]

GRIDS = (3, 4, 5, 6, 7, 8)
# Blur of both images, in pixels, and smoothness of the field, one after the other: blurred images have fewer local
# minima, and where the field is as free as its grid allows, a grid that is the true one explains all but rounding.
COARSE = ((2.0, 1e-3), (1.0, 1e-3))
FINE = ((0.0, 1e-3), (0.0, 1e-4), (0.0, 1e-5))
STEPS = 100  # of each, at most
HOPELESS = 0.6  # of the difference left after the coarse steps: no warp, and not worth more steps
DRAWS = 64  # fields that a pair leaves possible
LEAST_NOISE = 1e-5  # of the image's variance: about that of rounding to 8 bits
REDUCED, LARGE = 64, 96  # larger images are registered at the smaller size: the field is smooth


@dataclass(frozen=True)
class Warp:
    """A displacement field of a control grid, (1, H, W, 2) in pixels, and what share of the difference it leaves.

    ``control``: its points, (1, 2, grid, grid) in pixels of the size at which the pair was registered.
    """

    grid: int
    field: Tensor
    left: float
    control: Tensor


def warps(clean: Tensor, corrupted: Tensor) -> list[Warp]:
    """The best warp of each grid, coarse grids first.

    Each grid goes from blurred to sharp images, and once more from where the best of them ended.

    Parameters
    ----------
    clean, corrupted
        (1, C, H, W).
    """
    # One small pair: many short steps, which a CPU takes as fast, and the same ones each time (on a GPU the gradient of
    # the sampling is summed in no fixed order).
    x, y = _reduced(clean.cpu()), _reduced(corrupted.cpu())
    grids = [grid for grid in GRIDS if min(x.shape[2:]) >= grid]
    found = {grid: _descended(x, y, torch.zeros(1, 2, grid, grid), COARSE) for grid in grids}
    if min((_left(x, y, control) for control in found.values()), default=1.0) < HOPELESS:
        found = {grid: _descended(x, y, control, FINE) for grid, control in found.items()}
        best = min(found.values(), key=lambda control: _left(x, y, control))
        field = _displacements(best, x.shape[2:]).permute(0, 3, 1, 2)
        for grid in grids:
            start = F.interpolate(field, (grid, grid), mode="bilinear", align_corners=True)
            found[grid] = min(found[grid], _descended(x, y, start, FINE), key=lambda control: _left(x, y, control))
    whole, made = corrupted - clean, []
    for grid, control in found.items():
        field = _full(control, clean, x)
        made.append(Warp(grid, field, share(displace(clean, field) - corrupted, whole), control))
    return made


def possible(clean: Tensor, corrupted: Tensor, warp: Warp, seed: int = 0) -> Tensor:
    """Fields (``DRAWS``, H, W, 2) that the pair leaves possible, in pixels: where a picture is flat it tells little.

    Drawn from Laplace's approximation (MacKay 1992) of the posterior of the control points: normal, about those that
    were found, with the precision ``J^T J / s^2 + I / t^2``. J: how the warped image changes with the
    points; s: what is left of the difference, at least what rounding leaves; t: the root mean square of the points.

    Parameters
    ----------
    clean, corrupted
        (1, C, H, W), of which the warp was found.
    warp
        One of `warps`.
    seed
        Of the draws.
    """
    x, y = _reduced(clean.cpu()), _reduced(corrupted.cpu())
    size, control = x.shape[2:], warp.control
    field = _displacements(control, size).requires_grad_(True)
    with torch.enable_grad():
        warped = displace(x, field)
        slopes = torch.stack([torch.autograd.grad(part.sum(), field, retain_graph=True)[0] for part in warped[0]])
    slopes = slopes.reshape(len(slopes), -1, 2).double()  # a pixel depends on its own displacement alone
    metric = torch.einsum("cpa,cpb->abp", slopes, slopes)
    count = warp.grid**2
    each = torch.eye(count).reshape(count, 1, warp.grid, warp.grid)
    basis = F.interpolate(each, tuple(size), mode="bicubic", align_corners=True).reshape(count, -1).double()
    gram = torch.cat([torch.cat([basis * row @ basis.mT for row in rows], 1) for rows in metric])
    noise = max(float((warped.detach() - y).square().mean()), LEAST_NOISE * float(x.var()), 1e-12)
    precision = gram / noise + torch.eye(2 * count).double() / control.double().square().mean().clamp_min(1e-6)
    # precision = L L^T, so that L^-T e has its inverse for a covariance
    lower = torch.linalg.cholesky(precision)
    chance = torch.randn(2 * count, DRAWS, generator=torch.Generator().manual_seed(seed)).double()
    drawn = torch.linalg.solve_triangular(lower.mT, chance, upper=True).mT.reshape(DRAWS, 2, warp.grid, warp.grid)
    return _full(control + drawn.to(control), clean, x)


def _full(control: Tensor, image: Tensor, small: Tensor) -> Tensor:
    """The fields of control points (N, 2, g, g) that were found at the smaller size, at the image's size and device."""
    ratio = max(image.shape[2:]) / max(small.shape[2:])
    return (ratio * _displacements(control, image.shape[2:])).to(image)


def share(part: Tensor, whole: Tensor) -> float:
    """Sum of squares of one, relative to that of the other."""
    return float(part.square().sum() / whole.square().sum().clamp_min(1e-12))


def displace(x: Tensor, field: Tensor) -> Tensor:
    """Sample images (N, C, H, W) bilinearly at every pixel plus its displacement, (1 or N, H, W, 2) in pixels."""
    height, width = x.shape[2:]
    ys = torch.linspace(-1, 1, height, device=x.device)
    xs = torch.linspace(-1, 1, width, device=x.device)
    identity = torch.stack(torch.meshgrid(ys, xs, indexing="ij")[::-1], -1)
    pixel = torch.tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)], device=x.device)
    where = (identity + field * pixel).expand(len(x), -1, -1, -1)
    return F.grid_sample(x, where, mode="bilinear", padding_mode="border", align_corners=True)


def register(x: Tensor, y: Tensor, control: Tensor, smoothness: float) -> Tensor:
    """The control points p, (1, 2, g, g) in pixels, that best warp one image, (1, C, H, W), into another.

    ``min_p ||warp(x; p) - y||^2 / var(x) + smoothness * (||∇p||^2 + .01 ||p||^2)``, p bicubically upsampled, by L-BFGS
    from where ``control`` is.
    """
    control = control.clone().requires_grad_(True)
    variance = x.var().clamp_min(1e-12)
    optimiser = torch.optim.LBFGS([control], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        misfit = (displace(x, _displacements(control, x.shape[2:])) - y).square().mean() / variance
        rough = control.diff(dim=2).square().mean() + control.diff(dim=3).square().mean()
        loss: Tensor = misfit + smoothness * (rough + 0.01 * control.square().mean())
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    return control.detach()


def _descended(x: Tensor, y: Tensor, control: Tensor, stages: Sequence[tuple[float, float]]) -> Tensor:
    """The best of what the stages, one after the other, come to."""
    best = control
    for blur, smoothness in stages:
        control = register(_blurred(x, blur), _blurred(y, blur), control, smoothness)
        best = min(best, control, key=lambda points: _left(x, y, points))
    return best


def _displacements(control: Tensor, size: Sequence[int]) -> Tensor:
    """(N, H, W, 2), of control points (N, 2, g, g)."""
    return F.interpolate(control, tuple(size), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)


def _left(x: Tensor, y: Tensor, control: Tensor) -> float:
    return share(displace(x, _displacements(control, x.shape[2:])) - y, x - y)


def _blurred(image: Tensor, pixels: float) -> Tensor:
    width = 2 * round(3 * pixels) + 1
    if pixels == 0 or width // 2 >= min(image.shape[2:]):
        return image
    blurred: Tensor = gaussian_blur(image, [width, width], [pixels, pixels])
    return blurred


def _reduced(image: Tensor) -> Tensor:
    sides = image.shape[2:]
    small = [round(side * REDUCED / max(sides)) for side in sides]
    return F.interpolate(image, small, mode="area") if max(sides) > LARGE and min(small) >= min(GRIDS) else image
