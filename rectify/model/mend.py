"""Networks made fit to be repaired, with every weight as it is: their input, gradients, shared weights, and a softmax.

A way round a fault of torch: wrong gradients of batch norm in eval mode on the CPU. Seen in torch 2.14: where the
gradient that comes back to a batch norm has the strides of transposed channels-last memory (batch norm, flatten,
transpose, at batch size one, as in LeViT or XCiT), its backward pass reads the wrong numbers. A contiguous gradient is
read right.

A network that ends in a softmax returns no logits. All that is measured and differentiated here takes a softmax itself,
and a second one flattens whatever the first one says.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy


def mend_batch_norm(network: nn.Module) -> None:
    """Make every gradient contiguous before it enters a batch norm. Values do not change; calling it twice is once."""
    for module in network.modules():
        if isinstance(module, _BatchNorm) and _straighten not in module._forward_hooks.values():
            module.register_forward_hook(_straighten)


def _straighten(_: nn.Module, __: Any, output: Tensor) -> None:
    if output.requires_grad:
        output.register_hook(_contiguous)


def _contiguous(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.contiguous()


def keep_input(network: nn.Module) -> None:
    """Hand the network a copy of each batch, as it may change what it is given in place (``x.sub_(mean)``).

    Calling it twice is once.
    """
    if _copied not in network._forward_pre_hooks.values():
        network.register_forward_pre_hook(_copied)


def _copied(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in args)


def tie(network: nn.Module) -> None:
    """Make one parameter of those that are the same numbers in memory: copies and other devices would part them."""
    first: dict[tuple[Any, ...], nn.Parameter] = {}
    for module in network.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None or is_lazy(parameter) or not parameter.numel() or not parameter.data_ptr():
                continue
            memory = (parameter.device, parameter.data_ptr(), parameter.shape, parameter.stride(), parameter.dtype)
            if first.setdefault(memory, parameter) is not parameter:
                setattr(module, name, first[memory])


def undo_softmax(network: nn.Module) -> None:
    """Make a network that returns probabilities return their logarithms: logits up to a constant of each image.

    Where a probability is too small for its type the smallest that is not stands for it.
    """
    network.register_forward_hook(_logarithms)


def _logarithms(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    return output.clamp_min(torch.finfo(output.dtype).tiny).log()
