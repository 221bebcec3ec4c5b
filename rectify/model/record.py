"""One forward pass, watched: the inputs and outputs of layers, and the sums of two tensors.

Hooks show what goes into a layer and what comes out; the dispatcher shows additions, whatever tensor library call the
network makes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rectify.model.layers import Layer

aten = torch.ops.aten
ADDS = {aten.add.Tensor, aten.add_.Tensor}


@dataclass(frozen=True)
class Place:
    """A module by its dotted name."""

    name: str
    module: nn.Module


@dataclass(frozen=True)
class Start:
    """A module that a pass can begin at, as `rectify.model.resume` finds them.

    Attributes
    ----------
    name
        The module's dotted name.
    order
        How many layers run before it: a site of this order, or of a later one, lies behind.
    layout
        In which order the dimensions of what it is called with lie in memory, the outermost first: what a module may
        do with a tensor depends on it.
    skipped
        Modules that need not run, by name, and the shape of what each gives for an image: zeros stand in for it.
    additions
        How many additions of two tensors a whole pass has seen when it comes to the module.
    size
        Bytes of what it is called with, for one image.
    """

    name: str
    order: int
    layout: tuple[int, ...]
    skipped: Mapping[str, torch.Size]
    additions: int
    size: int


@dataclass(frozen=True)
class Begin:
    """A pass that begins at a module, which is called with ``values``, (N, ...)."""

    start: Start
    values: Tensor


class _Stop(Exception):
    """Raised by a hook to end a forward pass when all that was asked for has been seen."""


@dataclass
class Record:
    """Inputs, outputs and sums seen in one forward pass; absent where not asked for or not reached."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[int, Tensor] = field(default_factory=dict)
    logits: Tensor | None = None


class CountAdditions(TorchDispatchMode):
    """Number the additions of two tensors and keep those asked for."""

    def __init__(self, wanted: Collection[int], record: Record, done: Callable[[], None]) -> None:
        super().__init__()
        self.wanted, self.record, self.done, self.seen = set(wanted), record, done, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if is_addition(func, args):
            if self.seen in self.wanted:
                self.record.sums[self.seen] = result.clone()
                self.done()
            self.seen += 1
        return result


def is_addition(func: Any, args: Sequence[Any]) -> bool:
    """A sum of two tensors that agree in all but the batch dimension.

    A position embedding counts for one image and for many; a bias that torch adds in a step of its own never does.
    """
    if func not in ADDS or len(args) < 2 or not isinstance(args[0], Tensor) or not isinstance(args[1], Tensor):
        return False
    return args[0].dim() == args[1].dim() > 1 and args[0].shape[1:] == args[1].shape[1:]


@contextmanager
def readable() -> Iterator[None]:
    """Keep torch's transformer layers off their fused road, on which neither hooks nor additions are seen."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def hooked(handles: list[Any]) -> Iterator[None]:
    """Hooks that are gone at the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def record(
    network: nn.Module,
    x: Tensor,
    *,
    inputs: Sequence[Layer | Place] = (),
    outputs: Sequence[Layer] = (),
    sums: Collection[int] = (),
    logits: bool = False,
    begin: Begin | None = None,
) -> Record:
    """One forward pass over (N, C, H, W) that keeps what is asked for and stops as soon as it has it.

    What lies before ``begin`` is not computed, and cannot be asked for. Tensors are kept by reference where nothing can
    change them and copied where an in-place operation could. Where sums are asked for one image is passed twice:
    `rectify.model.trace.survey` numbers the additions of a pass of two, and what is added to tokens that come before
    the images, (L, N, D), has the shape of a second summand in a pass of one.
    """
    if sums and len(x) == 1:
        twice = begin and replace(begin, values=torch.cat((begin.values, begin.values)))
        both = record(network, torch.cat((x, x)), inputs=inputs, outputs=outputs, sums=sums, logits=logits, begin=twice)
        return _first_half(both)
    found = Record()

    def done() -> None:
        complete = (
            len(found.inputs) == len(inputs) and len(found.outputs) == len(outputs) and len(found.sums) == len(sums)
        )
        if complete and not logits:
            raise _Stop

    def keep_input(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            found.inputs[name] = args[0].clone()
            done()

        return hook

    def keep_output(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            found.outputs[name] = output.clone()
            done()

        return hook

    counted = CountAdditions(sums, found, done)
    with _begun(network, begin, counted):  # its hook comes first: an input that is kept is the one that it is given
        handles = [layer.module.register_forward_pre_hook(keep_input(layer.name)) for layer in inputs]
        handles += [layer.module.register_forward_hook(keep_output(layer.name)) for layer in outputs]
        with hooked(handles), readable(), counted if sums else nullcontext():
            try:
                result = network(x.clone())  # a network may change its input in place
                found.logits = result if logits else None
            except _Stop:
                pass
    return found


@contextmanager
def _begun(network: nn.Module, begin: Begin | None, counted: CountAdditions) -> Iterator[None]:
    """Let passes begin where they are told to."""
    if begin is None:
        yield
        return
    start, given = begin.start, begin.values
    skipped = {network.get_submodule(name): shape for name, shape in start.skipped.items()}
    before = {module: module.__dict__.get("forward") for module in skipped}

    def enter(*_: Any) -> tuple[Tensor]:
        counted.seen = start.additions
        own = torch.empty_permuted(given.shape, start.layout, dtype=given.dtype, device=given.device)
        return (own.copy_(given),)  # which the module may change

    def nothing(shape: torch.Size) -> Callable[..., Tensor]:
        return lambda *_, **__: given.new_zeros(len(given), *shape)

    handle = network.get_submodule(start.name).register_forward_pre_hook(enter)
    try:
        for module, shape in skipped.items():
            module.__dict__["forward"] = nothing(shape)
        yield
    finally:
        handle.remove()
        for module, forward in before.items():
            if forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = forward


def _first_half(both: Record) -> Record:
    """Of a pass of two images what belongs to the first."""

    def half(value: Tensor) -> Tensor:
        return value[: len(value) // 2]

    return Record(
        {name: half(value) for name, value in both.inputs.items()},
        {name: half(value) for name, value in both.outputs.items()},
        {index: half(value) for index, value in both.sums.items()},
        None if both.logits is None else half(both.logits),
    )
