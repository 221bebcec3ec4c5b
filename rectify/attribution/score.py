"""F_c(x), the scalar of a network that is explained, and its gradients, in batches that fit a memory bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from rectify.errors import UsageError

Output = Literal["probability", "logit", "log-probability"]
OUTPUTS: tuple[Output, ...] = get_args(Output)
MEMORY = {"cpu": 256 * 2**20, "cuda": 2 * 2**30}  # bytes that one forward pass may keep for its backward pass

Scalar = Callable[[Tensor, Tensor], Tensor]  # (B, C, H, W) and classes (B,) to (B,)


@dataclass(frozen=True)
class Score:
    """F_c: the network's output for one class.

    Attributes
    ----------
    network
        In eval mode; its parameters need no gradient.
    output
        ``probability`` (softmax, the UNI paper's choice), ``logit`` or ``log-probability``.
    batch
        Most images that go through the network at a time.
    """

    network: nn.Module
    output: Output = "probability"
    batch: int = 64

    def of(self, logits: Tensor, targets: Tensor) -> Tensor:
        """From logits (B, classes) and classes (B,) to F_c (B,)."""
        if self.output == "probability":
            logits = logits.softmax(1)
        elif self.output == "log-probability":
            logits = logits.log_softmax(1)
        return logits.gather(1, targets.unsqueeze(1)).squeeze(1)

    def __call__(self, x: Tensor, targets: Tensor) -> Tensor:
        """F_c of (B, C, H, W) for classes (B,), as (B,): differentiable, in one pass."""
        return self.of(self.network(x.clone()), targets)  # a network may change its input in place

    @torch.no_grad()
    def values(self, x: Tensor, targets: Tensor) -> Tensor:
        """F_c in batches, (N,), without a graph."""
        n = max(1, self.batch)
        return torch.cat([self(x[i : i + n], targets[i : i + n]) for i in range(0, len(x), n)])

    def gradients(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """F_c (N,) and its gradients by the images (N, C, H, W), in batches, without a graph."""
        values, gradients = [], []
        for i in range(0, len(x), self.batch):
            value, gradient = value_and_gradient(self, x[i : i + self.batch], targets[i : i + self.batch])
            values.append(value)
            gradients.append(gradient)
        return torch.cat(values), torch.cat(gradients)

    def predictions(self, x: Tensor) -> Tensor:
        """The class of each image, (N,)."""
        with torch.no_grad():
            parts = [self.network(x[i : i + self.batch].clone()).argmax(1) for i in range(0, len(x), self.batch)]
        return torch.cat(parts)


def value_and_gradient(function: Scalar, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """``function`` (B,) and its gradient by ``x`` (B, ...), both detached; zero where it does not depend on ``x``."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        value = function(x, targets)
        if not value.requires_grad:
            return value.detach(), torch.zeros_like(x)
        (gradient,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
    return value.detach(), torch.zeros_like(x) if gradient is None else gradient


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Context in which networks can be differentiated twice.

    The efficient kernels of attention have no second derivative: it takes its math kernel. Nor has hardsigmoid, which
    is computed by what it is, relu6(x + 3) / 6.
    """
    with sdpa_kernel(SDPBackend.MATH), _HardSigmoid():
        yield


class _HardSigmoid(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.hardsigmoid:
            return func(*args, **(kwargs or {}))
        x = args[0] if args else (kwargs or {})["input"]
        return F.relu6(x + 3) / 6


def check_output(output: str) -> Output:
    """The output by name.

    Raises
    ------
    UsageError
        If there is none of that name.
    """
    for known in OUTPUTS:
        if output == known:
            return known
    raise UsageError(f"the output to explain is {', '.join(OUTPUTS)}, not {output!r}")


def batch_that_fits(network: nn.Module, image: Tensor, most: int, memory: int | None = None) -> int:
    """How many images may go through the network at a time so that the graph stays under ``memory`` bytes.

    Parameters
    ----------
    image
        (1, C, H, W): one forward pass of it is measured.
    most
        Upper bound, at least one.
    memory
        By default a quarter of a gigabyte, on a GPU two: ViT-B/16 of 224 pixels keeps 74 MB an image.
    """
    if memory is None:
        memory = MEMORY.get(image.device.type, MEMORY["cpu"])
    kept = bytes_kept(network, image)
    return max(1, min(most, memory // max(1, kept)))


def bytes_kept(network: nn.Module, image: Tensor) -> int:
    """Bytes that the graph of one image (1, C, H, W) keeps for the backward pass; weights not counted."""
    return graph_bytes(network, lambda: network(image.detach().requires_grad_(True).clone()))


def graph_bytes(network: nn.Module, run: Callable[[], Tensor]) -> int:
    """Bytes that the graph of what ``run`` computes with a network keeps; the network's weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in (*network.parameters(), *network.buffers())}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held = run()  # bound: its graph must live while it is counted, lest memory that is freed be counted once
    del held
    return sum(seen.values())
