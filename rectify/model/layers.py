"""Every editable layer seen as a linear associative memory ``W k = v``.

A convolution is one matrix applied to every patch of its input; a linear layer is one matrix applied to every token.
Stride, dilation, padding and groups enter only in how the keys are cut out of the input, so that all that follows
(moments, solves, attributions) sees matrices of one shape:

    weight  (G, o, d)       G groups, o outputs and d inputs a group
    keys    (N, G, d, P)    N images, P positions (pixels or tokens) an image
    values  (N, G, o, P)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """One Conv2d or Linear of a network, by its dotted name.

    The weight's name in the state dict is ``<name>.weight``.

    Attributes
    ----------
    pads_itself
        Whether a convolution that is made without padding pads in a forward pass of its own, with zeros, by as little
        as gives ``ceil(size / stride)`` outputs, the odd row or column behind: TensorFlow's "same" (EfficientNets;
        ``Conv2dSame`` in timm).
    """

    name: str
    module: nn.Conv2d | nn.Linear
    pads_itself: bool = False

    @property
    def groups(self) -> int:
        """G, the number of groups (1 for a linear layer)."""
        return self.module.groups if isinstance(self.module, nn.Conv2d) else 1

    @property
    def kind(self) -> str:
        """One of ``conv``, ``depthwise``, ``grouped``, ``linear``."""
        if isinstance(self.module, nn.Linear):
            return "linear"
        if self.groups == 1:
            return "conv"
        return "depthwise" if self.groups == self.module.in_channels else "grouped"

    @property
    def key_size(self) -> int:
        """d, the number of inputs of a group (channels times kernel area)."""
        return self.module.weight[0].numel()

    @property
    def is_pointwise(self) -> bool:
        """Whether the layer is a convolution of kernel size 1."""
        return isinstance(self.module, nn.Conv2d) and tuple(self.module.kernel_size) == (1, 1)

    def weight(self) -> Tensor:
        """The matrix W, (G, o, d)."""
        weight = self.module.weight.detach()
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)

    def keys(self, inputs: Tensor, images: int) -> Tensor:
        """Cut the layer's input into keys.

        Parameters
        ----------
        inputs
            What the module was called with: (N, C, H, W) for a convolution, (..., d) for a linear layer.
        images
            N. Layers may fold windows or tokens into the first dimension; those become positions.

        Returns
        -------
        Tensor
            (N, G, d, P).
        """
        if isinstance(self.module, nn.Linear):
            return inputs.reshape(images, 1, -1, inputs.shape[-1]).transpose(2, 3)
        conv = self.module
        if self.pads_itself:
            padded = _padded_same(conv, inputs)
        else:
            mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
            # The private tuple is what Conv2d itself pads with; it also resolves padding="same".
            padded = F.pad(inputs, conv._reversed_padding_repeated_twice, mode=mode)
        if self.is_pointwise:  # patches of one pixel need not be cut out
            columns = padded[:, :, :: conv.stride[0], :: conv.stride[1]]
        else:
            columns = F.unfold(padded, conv.kernel_size, dilation=conv.dilation, stride=conv.stride)
        return columns.reshape(images, self.groups, self.key_size, -1)

    def similarity(self, direction: Tensor, inputs: Tensor, images: int) -> Tensor:
        """``<u, k>`` of a direction with every key, summed over the groups, without cutting the keys out.

        Parameters
        ----------
        direction
            u, (G, d).
        inputs, images
            As for `keys`.

        Returns
        -------
        Tensor
            (N, P).
        """
        direction = direction.to(inputs)
        if isinstance(self.module, nn.Linear):
            return (inputs @ direction[0]).reshape(images, -1)
        if self.pads_itself:
            inputs = _padded_same(self.module, inputs)
        # the inner product with every patch is a convolution; this is the one that Conv2d itself calls
        filters = direction.reshape(self.groups, *self.module.weight.shape[1:])
        found: Tensor = nn.Conv2d._conv_forward(self.module, inputs, filters, None)
        return found.sum(1).reshape(images, -1)

    def values(self, outputs: Tensor, images: int) -> Tensor:
        """Arrange the layer's output as values, (N, G, o, P)."""
        if isinstance(self.module, nn.Linear):
            return outputs.reshape(images, 1, -1, outputs.shape[-1]).transpose(2, 3)
        per_group = self.module.out_channels // self.groups
        return outputs.reshape(images, self.groups, per_group, -1)

    def bias(self) -> Tensor:
        """The bias as (G, o, 1); zeros where the module has none."""
        bias = self.module.bias
        if bias is None:
            return self.module.weight.new_zeros(self.groups, 1, 1)
        return bias.detach().reshape(self.groups, -1, 1)


def _padded_same(conv: nn.Conv2d, inputs: Tensor) -> Tensor:
    """(N, C, H, W) with as many zeros around it as give ``ceil(size / stride)`` outputs."""
    amounts: list[int] = []
    for axis in (1, 0):  # F.pad begins with the last axis
        size, stride = inputs.shape[2 + axis], conv.stride[axis]
        reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1) + 1
        whole = max((math.ceil(size / stride) - 1) * stride + reach - size, 0)
        amounts += [whole // 2, whole - whole // 2]
    return F.pad(inputs, amounts)


def find_layers(network: nn.Module) -> list[Layer]:
    """All Conv2d and Linear modules whose weight is a plain parameter of their own, in order of definition.

    Modules with a parametrised weight (weight or spectral normalisation) are left out: writing the computed weight
    would not survive a reload.
    """
    uses = _uses(network)
    found = []
    for name, module in network.named_modules():
        # an edit of a tied weight would change another layer
        if isinstance(module, nn.Conv2d | nn.Linear) and uses.get(f"{name}.weight") == 1:
            found.append(Layer(name, module))
    return found


def _uses(network: nn.Module) -> dict[str, int]:
    """How many parameters, buffers and other tensors of modules share memory with each parameter, itself counted.

    Two parameters may be views of one storage without being one object.
    """
    parameters = dict(network.named_parameters(remove_duplicate=False))
    modules = network.named_modules(remove_duplicate=False)
    others = [(f"{name}.{key}", value) for name, module in modules for key, value in vars(module).items()]
    tensors = [(name, value) for name, value in others if isinstance(value, Tensor)]
    named = [*parameters.items(), *network.named_buffers(remove_duplicate=False), *tensors]
    spans = sorted((*memory_of(value), name) for name, value in named)
    groups: list[list[str]] = []
    reached = -1
    for start, end, name in spans:
        if start >= reached:
            groups.append([])
        groups[-1].append(name)
        reached = max(reached, end)
    return {name: len(group) for group in groups for name in group if name in parameters}


def memory_of(tensor: Tensor) -> tuple[int, int]:
    """The first address of a tensor's numbers, and the one behind its last; its own where it has no memory."""
    try:
        start = tensor.data_ptr() if tensor.numel() else 0
    except (RuntimeError, ValueError):  # a tensor without storage
        start = 0
    if not start:
        return id(tensor), id(tensor) + 1
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (last + 1) * tensor.element_size()


def left_out(network: nn.Module, found: Collection[str]) -> dict[str, list[str]]:
    """Why the other Conv2d and Linear modules are not among those that were found editable: reason to names."""
    uses = _uses(network)
    names = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    reasons: dict[str, list[str]] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Conv2d | nn.Linear) or name in found:
            continue
        count = uses.get(f"{name}.weight")
        if count is None:
            why = f"the weight is computed ({_plain_with(module)} makes it a plain one)"
        elif count > 1 and names[id(module)] == count:
            why = "one module under several names"
        elif count > 1:
            why = "the weight is shared"
        else:
            why = "not called once, or more than W k + b"
        reasons.setdefault(why, []).append(name)
    return reasons


def _plain_with(module: nn.Module) -> str:
    """The function of torch that undoes what computes a module's weight."""
    for leaves, undoes in (("weight_g", "remove_weight_norm"), ("weight_mask", "prune.remove")):
        if hasattr(module, leaves):
            return f"torch.nn.utils.{undoes}"
    if hasattr(module, "weight_orig"):
        return "torch.nn.utils.remove_spectral_norm"
    return "torch.nn.utils.parametrize.remove_parametrizations"


def fitting(layer: Layer, inputs: Tensor, outputs: Tensor, images: int) -> Layer | None:
    """The layer as ``W k + b`` is what the module computed, with the padding of the two that does; None if neither.

    None for subclasses that compute something else with their weight (weight standardisation): those cannot be edited
    by the closed forms.
    """
    conv = layer.module
    if holds(layer, inputs, outputs, images):
        return layer
    if not isinstance(conv, nn.Conv2d) or conv.padding != (0, 0):
        return None
    itself = replace(layer, pads_itself=True)
    return itself if holds(itself, inputs, outputs, images) else None


@torch.no_grad()
def holds(layer: Layer, inputs: Tensor, outputs: Tensor, images: int) -> bool:
    """Whether ``W k + b`` is what the module computed."""
    if isinstance(layer.module, nn.Conv2d) and (len(inputs) != images or inputs.dim() != 4):
        return False
    try:
        keys = layer.keys(inputs[: len(inputs) // images], 1)
    except RuntimeError:  # the input cannot be cut into patches: smaller than the kernel
        return False
    expected = layer.values(outputs[: len(outputs) // images], 1)
    computed = layer.weight() @ keys + layer.bias()
    if computed.shape != expected.shape:
        return False
    scale = float(expected.abs().max()) + 1e-6
    return bool((computed - expected).abs().max() <= 1e-3 * scale)
