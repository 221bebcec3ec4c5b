"""Attribution to the output of a module instead of the image.

Along the straight path from baseline to image, ``x(a) = x' + a (x - x')``, the output v of a module runs along v(a):

    conductance_j = integral_0^1 dF_c/dv_j(x(a)) dv_j/da da       (Dhamdhere, Sundararajan, Yan 2019, arXiv 1805.12233)

Where the module cuts the network, so that all that F_c knows of the image runs through v, the conductances sum to
F_c(x) - F_c(x'). Beside a shortcut they sum to the part of the change that runs through v.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rectify.attribution.attribution import Attribution, Settings
from rectify.attribution.baselines import baseline_images, baseline_name
from rectify.attribution.integrated_gradients import STEPS
from rectify.attribution.score import Score
from rectify.errors import UsageError
from rectify.files.words import did_you_mean, quoted
from rectify.model.record import readable

LAYER_METHODS = ("ig", "uni", "gradient", "gradient-x-input")


def layer_attribution(
    method: str, score: Score, x: Tensor, targets: Tensor, settings: Settings, baseline: Tensor | None = None
) -> Attribution:
    """Attribution to the output of ``settings.layer``.

    ``gradient`` is dF_c/dv, ``gradient-x-input`` is v dF_c/dv, ``ig`` and ``uni`` are the conductance of v along the
    straight path in the image, by the trapezoid rule on equal steps whatever ``settings.rule`` says (the rule needs
    the values of v from step to step). A module may have any output; of a tuple it is the first tensor.

    Parameters
    ----------
    method
        One of `LAYER_METHODS`.
    score
        F.
    x, targets
        Images (N, C, H, W) and classes (N,).
    settings
        ``layer``, the dotted name of a module; ``baseline`` and ``steps`` (32) of ``ig`` and ``uni``.
    baseline
        (N, C, H, W): the start of the path instead of ``settings.baseline``; ``uni`` needs it.

    Returns
    -------
    Attribution
        ``values`` is (N, *output of the module). Only of ``ig`` and ``uni`` is it ``complete``, and only where the
        module cuts the network does the sum reach ``change``.

    Raises
    ------
    UsageError
        A method without a layer form, no such module, one that is not called exactly once, that the image does not
        reach, or whose output does not come image by image; too few steps.
    """
    if method not in LAYER_METHODS:
        raise UsageError(f"{method} has no layer form: with a layer use {', '.join(LAYER_METHODS)}")
    if settings.layer is None:
        raise UsageError("attribution to a layer needs its name")
    layer = _probe(score.network, settings.layer, x)
    if method in ("gradient", "gradient-x-input"):
        return _gradient(score, x, targets, layer, times_value=method != "gradient")
    if method == "uni" and baseline is None:
        raise UsageError("uni at a layer needs the baseline that it has learned")
    start = baseline_images(x, settings) if baseline is None else baseline.to(x)
    steps = STEPS if settings.steps is None else settings.steps
    if steps < 1:
        raise UsageError(f"{steps} steps: give at least 1")
    told = {"baseline": baseline_name(settings) if baseline is None else "image"}
    return _conductance(score, start, x, targets, layer, steps, told)


# ---------------------------------------------------------------- modules and their outputs


def find_module(network: nn.Module, name: str) -> nn.Module:
    """The module of a dotted name.

    Raises
    ------
    UsageError
        If there is none; the nearest names are shown.
    """
    modules: dict[str, nn.Module] = dict(network.named_modules())
    if not name or name not in modules:
        raise UsageError(f"no layer {quoted(name)}; {did_you_mean(name, [known for known in modules if known])}")
    return modules[name]


def first_tensor(output: Any) -> Tensor | None:
    """An output that is a tensor, or the first tensor of a tuple."""
    if isinstance(output, tuple | list):
        return next((part for part in output if isinstance(part, Tensor)), None)
    return output if isinstance(output, Tensor) else None


@contextmanager
def kept_outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """The outputs of a module, one a call, with their graph.

    What goes on through the network is a copy, so that an operation in place behind the module changes nothing here.
    """
    kept: list[Tensor] = []

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        first = first_tensor(output)
        if first is None:
            return output
        kept.append(first)
        if isinstance(output, Tensor):
            return first.clone()
        parts = [part.clone() if part is first else part for part in output]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)

    handle = module.register_forward_hook(hook)
    try:
        with readable():
            yield kept
    finally:
        handle.remove()


@dataclass(frozen=True)
class ProbedLayer:
    """A module that is called once, and the shape (R, ...) of its output on one image; R > 1 if windows are folded."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]

    @property
    def values_shape(self) -> tuple[int, ...]:
        """Shape of what is attributed to one image."""
        return self.shape[1:] if self.shape[0] == 1 else self.shape

    def by_image(self, output: Tensor, images: int) -> Tensor:
        """An output on several images as (images, *values_shape)."""
        if tuple(output.shape) != (images * self.shape[0], *self.shape[1:]):
            raise UsageError(f"the output of layer {quoted(self.name)} does not come image by image: use another layer")
        return output.reshape(images, *self.values_shape)


@torch.no_grad()
def _probe(network: nn.Module, name: str, x: Tensor) -> ProbedLayer:
    module = find_module(network, name)
    with kept_outputs(module) as kept:
        network(x[:1].clone())
    if len(kept) != 1:
        known = "is never called" if not kept else f"is called {len(kept)} times"
        raise UsageError(f"layer {quoted(name)} {known}: use one that is called once and gives a tensor")
    if kept[0].dim() == 0:
        raise UsageError(f"layer {quoted(name)} gives a single number for all images: use another layer")
    layer = ProbedLayer(name, module, tuple(kept[0].shape))
    if layer.shape[0] > 1:  # windows in the batch, or tokens before images
        with kept_outputs(module) as both:
            network(torch.cat((x[:1], 0.5 * x[:1].flip(-1) + 0.1)))
        alone, beside = layer.by_image(kept[0], 1)[0], layer.by_image(both[0], 2)[0]
        if bool((alone - beside).abs().max() > 1e-3 * (alone.abs().max() + 1e-6)):
            raise UsageError(f"the output of layer {quoted(name)} does not come image by image: use another layer")
    return layer


def _value_and_gradient(score: Score, x: Tensor, targets: Tensor, layer: ProbedLayer) -> tuple[Tensor, Tensor, Tensor]:
    """F (B,), the layer's output and the gradient by it (B, *values_shape), without a graph."""
    with kept_outputs(layer.module) as kept, torch.enable_grad():
        f = score(x.detach().clone().requires_grad_(True).clone(), targets)  # the network may change it in place
        if not kept[0].requires_grad:
            raise UsageError(f"layer {quoted(layer.name)} does not depend on the image: use another layer")
        gradient = torch.autograd.grad(f.sum(), kept[0], allow_unused=True)[0] if f.requires_grad else None
    value = kept[0].detach()
    gradient = torch.zeros_like(value) if gradient is None else gradient
    return f.detach(), layer.by_image(value, len(x)), layer.by_image(gradient, len(x))


# ---------------------------------------------------------------- the methods


def _gradient(score: Score, x: Tensor, targets: Tensor, layer: ProbedLayer, *, times_value: bool) -> Attribution:
    scores, values = [], []
    for i in range(0, len(x), score.batch):
        f, value, gradient = _value_and_gradient(score, x[i : i + score.batch], targets[i : i + score.batch], layer)
        scores.append(f)
        values.append(value * gradient if times_value else gradient)
    return Attribution(torch.cat(values), torch.cat(scores), settings={"layer": layer.name})


def _conductance(
    score: Score, start: Tensor, x: Tensor, targets: Tensor, layer: ProbedLayer, steps: int, told: dict[str, Any]
) -> Attribution:
    """``sum_k (g_k + g_{k+1}) / 2 * (v_{k+1} - v_k)``; the points of all images in flat order, in batches."""
    points = steps + 1
    total = x.new_zeros(len(x), *layer.values_shape)
    scores = x.new_empty(len(x) * points)
    last: tuple[Tensor, Tensor] | None = None  # output and gradient at the point before this batch
    for i in range(0, len(scores), score.batch):
        flat = torch.arange(i, min(i + score.batch, len(scores)), device=x.device)
        image, alpha = flat // points, ((flat % points).to(x) / steps).view(-1, 1, 1, 1)
        at = torch.lerp(start[image], x[image], alpha)
        scores[flat], value, gradient = _value_and_gradient(score, at, targets[image], layer)
        if last is not None:
            image = torch.cat((flat[:1] - 1, flat)) // points
            value, gradient = torch.cat((last[0], value)), torch.cat((last[1], gradient))
        rise = (gradient[1:] + gradient[:-1]) / 2 * value.diff(dim=0)
        same = image[1:] == image[:-1]
        total.index_add_(0, image[1:][same], rise[same].to(total))
        last = value[-1:], gradient[-1:]
    paths = scores.view(len(x), points)
    told = {"rule": "trapezoid", "steps": steps, "layer": layer.name} | told
    return Attribution(total, paths[:, -1], start, paths[:, -1] - paths[:, 0], tuple(paths), True, told)
