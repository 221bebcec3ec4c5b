"""What was done to the clean image? Guess it from the pair, and try the guess on other images.

One pair shows a corruption once. If it can be put onto other clean images, one pair becomes many. Four guesses cover
the triggers and cues of the literature: a difference that is added, pixels that are pasted, a picture that is blended
in, and a smooth warp. A guess is believed only if it *fires*: the network under repair must fall for it on
calibration images as it fell for the pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Bounds = tuple[Tensor, Tensor]
WARP_GRIDS = (4, 6, 8)
SMOOTHNESS = (1e-2, 1e-3, 1e-4)  # which of them carries over depends on how much the one image shows of the warp
_PASTE_AT_MOST = 0.5  # a paste that covers more of the image would replace it, not mark it


@dataclass(frozen=True)
class Corruption:
    """A guess of what turned clean into corrupted: maps images (N, C, H, W) to corrupted images of the same shape.

    ``misfit`` is the share of the pair's difference that it leaves unexplained, where guesses of one name differ in it.
    """

    name: str
    apply: Callable[[Tensor], Tensor]
    misfit: float = 0.0


def guesses(clean: Tensor, corrupted: Tensor, bounds: Bounds) -> list[Corruption]:
    """All guesses for one pair.

    Parameters
    ----------
    clean, corrupted
        (1, C, H, W), normalised.
    bounds
        The normalised values of pixel 0 and pixel 1, each (C, 1, 1).
    """
    found = [_added(clean, corrupted, bounds), _pasted(clean, corrupted), _blended(clean, corrupted, bounds)]
    found += [_warped(clean, corrupted, grid, smooth) for grid in WARP_GRIDS for smooth in SMOOTHNESS]
    return [guess for guess in found if guess is not None]


def _clamp(x: Tensor, bounds: Bounds) -> Tensor:
    return torch.minimum(torch.maximum(x, bounds[0]), bounds[1])


def _added(clean: Tensor, corrupted: Tensor, bounds: Bounds) -> Corruption:
    difference = corrupted - clean
    return Corruption("added", lambda x: _clamp(x + difference, bounds))


def _pasted(clean: Tensor, corrupted: Tensor) -> Corruption | None:
    """Pixels that changed take the corrupted image's values."""
    change = (corrupted - clean).abs().amax(1, keepdim=True)
    mask = change > 0.05 * change.max()
    if float(mask.float().mean()) > _PASTE_AT_MOST:
        return None
    return Corruption("pasted", lambda x: torch.where(mask, corrupted, x))


def _blended(clean: Tensor, corrupted: Tensor, bounds: Bounds) -> Corruption | None:
    """``corrupted = (1 - α) clean + α picture``.

    If the picture is independent of the clean image, the difference ``α (picture - clean)`` regresses on the clean
    image with slope -α.
    """
    difference = (corrupted - clean).flatten(2)
    centred = clean.flatten(2) - clean.flatten(2).mean(2, keepdim=True)
    alpha = float(-(difference * centred).sum() / centred.square().sum().clamp_min(1e-12))
    if not 0.02 < alpha < 0.95:
        return None
    picture = _clamp(clean + (corrupted - clean) / alpha, bounds)
    return Corruption("blended", lambda x: (1 - alpha) * x + alpha * picture)


def _warped(clean: Tensor, corrupted: Tensor, grid: int, smoothness: float) -> Corruption | None:
    """A smooth displacement field, found by registering the clean image to the corrupted one."""
    height, width = clean.shape[2:]
    if min(height, width) < grid:
        return None
    field = register(clean, corrupted, grid, smoothness=smoothness)
    left = (displace(clean, field) - corrupted).square().sum() / (clean - corrupted).square().sum().clamp_min(1e-12)
    return Corruption(f"warped-{grid}", lambda x: displace(x, field), float(left))


def displace(x: Tensor, field: Tensor) -> Tensor:
    """Sample images (N, C, H, W) bilinearly at every pixel plus its displacement, (1, H, W, 2) in pixels."""
    height, width = x.shape[2:]
    ys = torch.linspace(-1, 1, height, device=x.device)
    xs = torch.linspace(-1, 1, width, device=x.device)
    identity = torch.stack(torch.meshgrid(ys, xs, indexing="ij")[::-1], -1)
    pixel = torch.tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)], device=x.device)
    where = (identity + field * pixel).expand(len(x), -1, -1, -1)
    return F.grid_sample(x, where, mode="bilinear", padding_mode="border", align_corners=True)


def register(clean: Tensor, corrupted: Tensor, grid: int, *, smoothness: float = 1e-2, steps: int = 150) -> Tensor:
    """The displacement field, (1, H, W, 2) in pixels, that best warps one image into another.

    ``min_p ||warp(clean; p) - corrupted||^2 / var(clean) + smoothness * (||∇p||^2 + .01 ||p||^2)`` over a grid p of
    ``grid`` squared control points, bicubically upsampled, by L-BFGS. Larger images are registered at 64 pixels first:
    the field is smooth, so that a small picture shows it.
    """
    x, y, ratio = clean, corrupted, 1.0
    small = [round(side * 64 / max(clean.shape[2:])) for side in clean.shape[2:]]
    if max(clean.shape[2:]) > 96 and min(small) >= grid:
        x, y = (F.interpolate(image, small, mode="area") for image in (clean, corrupted))
        ratio = max(clean.shape[2:]) / 64
    control = torch.zeros(1, 2, grid, grid, device=x.device, requires_grad=True)
    variance = x.var().clamp_min(1e-12)

    def upsample(size: Sequence[int]) -> Tensor:
        return F.interpolate(control, tuple(size), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)

    def loss() -> Tensor:
        misfit = (displace(x, upsample(x.shape[2:])) - y).square().mean() / variance
        rough = control.diff(dim=2).square().mean() + control.diff(dim=3).square().mean()
        return misfit + smoothness * (rough + 0.01 * control.square().mean())

    optimiser = torch.optim.LBFGS([control], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(closure)
    return upsample(clean.shape[2:]).detach() * ratio
