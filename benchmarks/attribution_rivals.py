"""Attribution methods that papers compare with, in the signature of rectify's own: guided backpropagation and AGI."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rectify.attribution.attribution import Attribution, Settings
from rectify.attribution.gradients import groups, steps_of
from rectify.attribution.score import Score
from rectify.errors import UsageError

# ---------------------------------------------------------------- guided backpropagation

RELUS = {torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu, F.relu6}
CLIPPED = {F.hardtanh, F.hardtanh_}  # a ReLU6 is a hardtanh from 0 to 6
IN_PLACE = {torch.relu_, Tensor.relu_, F.hardtanh_}
UNGUIDED = {
    *(F.gelu, F.silu, F.mish, F.hardswish, F.elu, F.elu_, torch.celu, F.celu, F.selu, F.leaky_relu, F.leaky_relu_),
    *(F.prelu, F.rrelu, F.softplus, F.logsigmoid, F.threshold, F.softsign, F.hardshrink, F.softshrink),
    *(torch.prelu, torch.selu, torch.selu_, torch.celu_, torch.rrelu, torch.threshold, torch.threshold_, Tensor.prelu),
}


class Guided(TorchFunctionMode):
    """Context in which the gradient behind every ReLU loses its negative part before it goes through.

    It works on calls, not on modules, so in-place and reused ReLUs and functional ones are all right. Sigmoid, tanh and
    softmax keep their gradient: they are gates and attention as well as activations. What it cannot see: a SiLU written
    out as ``x * x.sigmoid()`` beside ReLUs, and calls within a TorchScript module.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in UNGUIDED or (func in CLIPPED and _bound(func, args, kwargs).get("min_val") != 0):
            raise ValueError(f"guided backpropagation has no rule for {func.__name__}: it knows ReLU and ReLU6 only")
        if func not in RELUS | CLIPPED:
            return func(*args, **kwargs)
        self.calls += 1
        given = _bound(func, args, kwargs)
        x: Tensor = given.pop("input")
        if not (func in IN_PLACE or given.pop("inplace", False)):
            return _guided(func, x, given)
        # the copy keeps views and whoever else holds the tensor right
        return x.copy_(_guided(func, x.clone(), given))


def _bound(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by name, defaults included; the built-in ReLUs take the tensor alone."""
    if func in {torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}:
        return {"input": args[0] if args else kwargs["input"]}
    if func is F.hardtanh_:  # built in, without a signature
        names = ("input", "min_val", "max_val")
        return {"min_val": -1.0, "max_val": 1.0, **dict(zip(names, args, strict=False)), **kwargs}
    call = inspect.signature(func).bind(*args, **kwargs)
    call.apply_defaults()
    return dict(call.arguments)


def _guided(func: Callable[..., Any], x: Tensor, given: dict[str, Any]) -> Tensor:
    result: Tensor = func(x, **given)
    if result.requires_grad:
        result.register_hook(lambda gradient: gradient.clamp(min=0))
    return result


def guided_backprop(score: Score, x: Tensor, targets: Tensor, settings: Settings) -> Attribution:
    """Guided backpropagation (Springenberg et al. 2015, arXiv 1412.6806): no negative gradient passes a ReLU.

    Parameters
    ----------
    score
        F.
    x, targets
        Images (N, C, H, W) and classes (N,).

    Raises
    ------
    ValueError
        The network has no ReLU, or an activation that the method has no rule for, such as GELU or SiLU.
    """
    guided = Guided()
    with guided:
        confidence, slope = score.gradients(x, targets)
    if not guided.calls:
        raise ValueError("guided backpropagation needs a network with ReLUs: without any it is the plain gradient")
    return Attribution(slope, confidence)


# ---------------------------------------------------------------- adversarial gradient integration

STEPS = 50
STEP_SIZE = 0.05
NEGATIVES = 20


def agi(score: Score, x: Tensor, targets: Tensor, settings: Settings) -> Attribution:
    """Adversarial gradient integration (Pan, Li, Zhu 2021, IJCAI).

    For each sampled false class i the image walks by x <- x + a sign(dF_i/dx), clipped to the pixel range, until the
    network predicts i; along the way A = -sum dF_t/dx * step, summed over the false classes. The steps start from where
    the last one ended, as in the paper (the authors' code starts each from the image).

    Parameters
    ----------
    score
        F.
    x, targets
        Images (N, C, H, W) and classes t (N,).
    settings
        ``steps``: most steps towards a class (50); ``options``: ``step_size``, a as a share of the pixel range (.05),
        without `bounds` in the network's own units; ``classes``: how many false classes (20, or all there are). The
        defaults are those of the authors' code.

    Raises
    ------
    UsageError
        Fewer than one step or class, or a step size that is not positive.
    """
    steps, size = steps_of(settings, STEPS), float(settings.options.get("step_size", STEP_SIZE))
    negatives = int(settings.options.get("classes", NEGATIVES))
    if size <= 0 or negatives < 1:
        raise UsageError(f"a step of {size:g} towards {negatives} classes: give more than 0 and at least 1")
    false = false_classes(_class_count(score, x), targets, negatives, settings.generator(torch.device("cpu")))
    total, per_image, done = torch.zeros_like(x), false.shape[1], 0
    for count in groups(len(x) * per_image, score.batch):
        flat = torch.arange(done, done + count, device=x.device)
        image, number = flat // per_image, flat % per_image
        walked = towards(score, x[image], targets[image], false[image, number], steps, size, settings)
        total.index_add_(0, image, walked)
        done += count
    told = {"steps": steps, "step_size": size, "classes": per_image, "seed": settings.seed}
    return Attribution(total, score.values(x, targets), settings=told)


def _class_count(score: Score, x: Tensor) -> int:
    with torch.no_grad():
        return int(score.network(x[:1].clone()).shape[1])


def false_classes(classes: int, targets: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(N, count): one random order of the classes, for each image without its own."""
    order = torch.randperm(classes, generator=generator).to(targets.device)
    return torch.stack([order[order != target][:count] for target in targets])


def towards(
    score: Score, x: Tensor, targets: Tensor, false: Tensor, steps: int, size: float, settings: Settings
) -> Tensor:
    """The integral along the walks of B images to one false class each, (B, C, H, W); B goes through in one pass."""
    step = size if settings.bounds is None else size * (settings.bounds[1] - settings.bounds[0]).to(x)
    total, point = torch.zeros_like(x), x
    walking = torch.arange(len(x), device=x.device)
    for _ in range(steps):
        at = point[walking]
        predicted, up, down = _two_gradients(score, at, false[walking], targets[walking])
        still = predicted != false[walking]
        walking, at, up, down = walking[still], at[still], up[still], down[still]
        if not len(walking):
            break
        moved = at + step * up.sign()
        if settings.bounds is not None:
            moved = torch.clamp(moved, *(bound.to(x) for bound in settings.bounds))
        total.index_add_(0, walking, -down * (moved - at))
        point = point.index_copy(0, walking, moved)
    return total


def _two_gradients(score: Score, x: Tensor, false: Tensor, true: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions (B,) and the gradients of the false and of the true class's output, from one forward pass."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        logits = score.network(x.clone())
        (up,) = torch.autograd.grad(score.of(logits, false).sum(), x, retain_graph=True)
        (down,) = torch.autograd.grad(score.of(logits, true).sum(), x)
    return logits.argmax(1), up, down
