"""Attribution of every layer from one forward-backward sweep along the path from the corrupted to the clean image.

For a scalar output f and the straight input path ``x(α) = x~ + α (x - x~)``, the layer's values run along ``v(α)``:

    M           = (v(1) - v(0)) * integral df/dv(x(α)) dα                     (arXiv 2603.15656, attribution of a layer)
    conductance = integral df/dv(x(α)) dv/dα dα  = f(x) - f(x~)  at a layer that cuts the graph

Both come from the same gradients: all path points of a pair are one batch, and one backward pass reaches every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rectify.model.layers import Layer

STEPS = 32


@dataclass(frozen=True)
class LayerAttribution:
    """One layer on one pair.

    Attributes
    ----------
    attribution
        M, shape of the layer's output on one image (without the batch dimension, unless windows are folded into it).
    conductance
        Sum over the layer's outputs of the conductance, in units of f.
    """

    attribution: Tensor
    conductance: float


@dataclass(frozen=True)
class Sweep:
    """All layers on one pair.

    ``change`` is f(clean) - f(corrupted), ``input_gap`` the completeness error of the path, in the same unit.
    """

    layers: dict[str, LayerAttribution]
    change: float
    input_gap: float


def sweep(
    network: nn.Module,
    layers: Sequence[Layer],
    corrupted: Tensor,
    clean: Tensor,
    output: Callable[[Tensor], Tensor],
    steps: int = STEPS,
) -> Sweep:
    """Attribution of all ``layers`` on one pair.

    Parameters
    ----------
    network
        In eval mode; parameters need no gradient.
    layers
        Layers of ``network``.
    corrupted, clean
        (1, C, H, W).
    output
        From logits (N, classes) to f (N,).
    steps
        Intervals of the path; ``steps + 1`` points go through the network in one batch (trapezoid rule).
    """
    alphas = torch.linspace(0, 1, steps + 1, device=clean.device).view(-1, 1, 1, 1)
    path = (corrupted + alphas * (clean - corrupted)).requires_grad_(True)
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., Tensor]:
        def hook(_: nn.Module, __: Any, value: Tensor) -> Tensor:
            if value.requires_grad:  # else the layer never sees the image
                outputs[name] = value
            return value.clone()  # an in-place operation behind the layer must not change what was kept

        return hook

    handles = [layer.module.register_forward_hook(keep(layer.name)) for layer in layers]
    try:
        with torch.enable_grad():
            f = output(network(path))
            reached = [path, *outputs.values()]
            gradients = torch.autograd.grad(f.sum(), reached, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    change = float((f[-1] - f[0]).detach())
    _, along_input = _integrate(path, gradients[0])
    found = {}
    for (name, values), gradient in zip(outputs.items(), gradients[1:], strict=True):
        gradient = torch.zeros_like(values) if gradient is None else gradient
        folded = (steps + 1, -1, *values.shape[1:]) if len(values) > steps + 1 else values.shape
        m, conductance = _integrate(values.reshape(folded), gradient.reshape(folded))
        found[name] = LayerAttribution(m, conductance)
    return Sweep(found, change, abs(along_input - change))


def _integrate(values: Tensor, gradients: Tensor) -> tuple[Tensor, float]:
    """M and the conductance by the trapezoid rule; values and gradients are (points, ...)."""
    middle = (gradients[1:] + gradients[:-1]) / 2
    values = values.detach()
    m = (values[-1] - values[0]) * middle.mean(0)
    return m, float((middle * values.diff(dim=0)).double().sum())
