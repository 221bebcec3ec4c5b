"""Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391).

For a layer with channels A_k (h, w) and the gradient G_k = dF_c/dA_k:

    map = relu(sum_k mean(G_k) A_k),   upsampled to the image
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rectify.attribution.attribution import Attribution, Settings
from rectify.attribution.layers import find_module, kept_outputs
from rectify.attribution.score import Score
from rectify.errors import UsageError
from rectify.files.words import quoted
from rectify.model.record import readable

EXTRA_TOKENS = 8  # most tokens in front that are no place in the image: class, distillation, registers


def grad_cam(score: Score, x: Tensor, targets: Tensor, settings: Settings) -> Attribution:
    """Grad-CAM, nowhere negative.

    Parameters
    ----------
    score
        F.
    x, targets
        Images (N, C, H, W) and classes (N,).
    settings
        ``layer``, or None for the last module with a spatial output on which F depends at more than one place.

    Returns
    -------
    Attribution
        ``values`` is the map (H, W) over C in each of C channels, so that the sum over channels is the map; the
        layer is in ``settings``.

    Raises
    ------
    UsageError
        No such layer, one without a spatial output or one that is not called exactly once; no layer to choose.
    """
    name = settings.layer if settings.layer is not None else choose_layer(score, x[:1], targets[:1])
    module = find_module(score.network, name)
    maps, scores = [], []
    for i in range(0, len(x), score.batch):
        f, heat = _maps(score, x[i : i + score.batch], targets[i : i + score.batch], name, module)
        scores.append(f)
        maps.append(heat)
    heat = torch.cat(maps).unsqueeze(1)
    values = heat.div(x.shape[1]).expand(x.shape).clone()
    return Attribution(values, torch.cat(scores), settings={"layer": name})


def _maps(score: Score, x: Tensor, targets: Tensor, name: str, module: nn.Module) -> tuple[Tensor, Tensor]:
    """F (B,) and the maps (B, H, W)."""
    with kept_outputs(module) as kept, torch.enable_grad():
        f = score(x.detach().clone().requires_grad_(True).clone(), targets)  # the network may change it in place
    if len(kept) != 1:
        known = "is never called" if not kept else f"is called {len(kept)} times"
        raise UsageError(f"layer {quoted(name)} {known}: give a layer that is called once")
    grid = find_grid(tuple(kept[0].shape), len(x), (x.shape[-2], x.shape[-1]))
    if grid is None:
        shape = "x".join(map(str, kept[0].shape))
        raise UsageError(f"layer {quoted(name)} has no spatial output ({shape}): give a convolution or a block")
    if not (f.requires_grad and kept[0].requires_grad):
        raise UsageError(f"layer {quoted(name)} does not lie between image and score: give another layer")
    gradient = torch.autograd.grad(f, kept[0], torch.ones_like(f), allow_unused=True)[0]
    if gradient is None:
        raise UsageError(f"the score does not depend on layer {quoted(name)}: give another layer")
    activation, gradient = grid.channels_first(kept[0].detach()), grid.channels_first(gradient)
    weights = gradient.mean((2, 3), keepdim=True)
    heat = (weights * activation).sum(1, keepdim=True).relu()
    return f.detach(), F.interpolate(heat, x.shape[-2:], mode="bilinear", align_corners=False).squeeze(1)


# ---------------------------------------------------------------- where an output has its places


@dataclass(frozen=True)
class Grid:
    """How an output is laid out: ``NCHW``, ``NHWC``, or ``tokens`` (N, L, D) with ``extra`` tokens in front."""

    layout: str
    height: int
    width: int
    extra: int = 0

    def channels_first(self, output: Tensor) -> Tensor:
        """The output as (N, channels, height, width)."""
        if self.layout == "NCHW":
            return output
        if self.layout == "NHWC":
            return output.permute(0, 3, 1, 2)
        places: Tensor = output[:, self.extra :].transpose(1, 2)
        return places.reshape(*places.shape[:2], self.height, self.width)


def find_grid(shape: tuple[int, ...], images: int, size: tuple[int, int]) -> Grid | None:
    """The layout of an output, None where it is not spatial.

    Parameters
    ----------
    shape
        Of the output.
    images
        N: an output with another number of rows has windows folded into them, or tokens in front.
    size
        Height and width of the image: a grid has its proportions, up to the rounding of strides.
    """
    if not shape or shape[0] != images:
        return None
    if len(shape) == 4:
        first, last = _misfit(shape[2], shape[3], size), _misfit(shape[1], shape[2], size)
        if min(first, last) > 1:
            return None
        return Grid("NCHW", shape[2], shape[3]) if first <= last else Grid("NHWC", shape[1], shape[2])
    if len(shape) == 3:
        for extra in range(EXTRA_TOKENS + 1):
            places = shape[1] - extra
            height = round(math.sqrt(max(0, places) * size[0] / size[1]))
            if height and places % height == 0 and _misfit(height, places // height, size) <= 1:
                return Grid("tokens", height, places // height, extra)
    return None


def _misfit(height: int, width: int, size: tuple[int, int]) -> float:
    """How many rows or columns a grid is off the image's proportions; infinite for a single place."""
    if height * width < 2:
        return math.inf
    return abs(height * size[1] - width * size[0]) / max(size)


# ---------------------------------------------------------------- the layer by itself


def choose_layer(score: Score, x: Tensor, targets: Tensor) -> str:
    """The last module whose output is spatial and moves F at more than one place.

    In a vision transformer that reads its class token that is the first norm of the last block: behind it, F depends
    on the class token alone. Passed over are linear layers on tokens (they hold queries, keys and values side by
    side), adaptive pools (they only resample) and what is called more than once.

    Parameters
    ----------
    score
        F.
    x, targets
        One image (1, C, H, W) and its class (1,): one forward and one backward pass.

    Raises
    ------
    UsageError
        If there is no such module.
    """
    outputs: list[tuple[str, Tensor]] = []
    calls: Counter[str] = Counter()

    def keep(name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, _: Any, output: Any) -> Any:
            calls[name] += 1
            if not isinstance(output, Tensor) or not output.requires_grad:
                return None
            if not isinstance(module, nn.Linear | nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
                outputs.append((name, output))
            return output.clone()

        return hook

    handles = [m.register_forward_hook(keep(name)) for name, m in score.network.named_modules() if name]
    try:
        with readable(), torch.enable_grad():
            f = score(x.detach().clone().requires_grad_(True).clone(), targets)
    finally:
        for handle in handles:
            handle.remove()
    if outputs and f.requires_grad:
        kept = [output for _, output in outputs]
        gradients = torch.autograd.grad(f, kept, torch.ones_like(f), allow_unused=True)
        for (name, output), gradient in reversed(list(zip(outputs, gradients, strict=True))):
            grid = find_grid(tuple(output.shape), len(x), (x.shape[-2], x.shape[-1]))
            if calls[name] == 1 and grid is not None and gradient is not None:
                places = grid.channels_first(gradient).abs().amax(1) > 0
                if int(places.sum()) > 1:
                    return name
    raise UsageError("grad-cam finds no layer with a spatial output: name one with --layer")
