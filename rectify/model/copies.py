"""A copy of a network, with the attributes that `copy.deepcopy` refuses."""

from __future__ import annotations

import copy
import io
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from rectify.errors import ArchitectureError
from rectify.files.words import plain, reason

# Things that hold no weights and no way back to the network: a copy may have them in common with it.
_COMMON = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.local,
    ModuleType,
    io.IOBase,
    torch.Generator,
)


def copied(network: nn.Module) -> nn.Module:
    """Copy a network. Modules and weights are its own; an output that a forward pass has left in it is kept detached.

    Locks, open files and the like, which cannot be copied, are shared with the original.

    Raises
    ------
    ArchitectureError
        If it holds anything else that cannot be copied.
    """
    try:
        return copy.deepcopy(network)
    except Exception as error:  # whatever the attributes of the user's modules raise
        if _out_of_memory(error):
            raise
    try:
        return copy.deepcopy(network, _kept(network))
    except Exception as error:
        if _out_of_memory(error):
            raise
        raise ArchitectureError(
            f"the network {plain(type(network).__name__)} cannot be copied, and a repair is tried on copies: "
            f"{reason(error)}; make it without this attribute"
        ) from None


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)


def _kept(network: nn.Module) -> dict[int, Any]:
    """What stands for the objects that cannot be copied, by their id, as `copy.deepcopy` remembers it.

    No view of a weight: a copy of it would stay as it is where the copy's weight is edited.
    """
    weights = {_storage(value) for value in (*network.parameters(), *network.buffers())}
    memo: dict[int, Any] = {}
    alive: list[Any] = []  # an id is that of an object only as long as it lives
    for value in _inside(network):
        if isinstance(value, Tensor) and not value.is_leaf and _storage(value) not in weights:
            memo[id(value)] = value.detach().clone()
            alive.append(value)
        elif isinstance(value, _COMMON):
            memo[id(value)] = value
    memo[id(memo)] = alive
    return memo


def _storage(tensor: Tensor) -> int:
    """Where the memory begins that a tensor is a view of."""
    return tensor.untyped_storage().data_ptr()


def _inside(network: nn.Module) -> Iterator[Any]:
    """Everything that can be reached from a network through attributes and containers, once."""
    seen: dict[int, Any] = {}
    waiting: list[Any] = [network]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        yield value
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += value
        elif not isinstance(value, (Tensor, type, *_COMMON)):
            waiting += _attributes(value)


def _attributes(value: Any) -> list[Any]:
    """What an object holds by name; of a bound method, what it is bound to."""
    held = getattr(value, "__dict__", None)
    bound = getattr(value, "__self__", None)
    return [*(held.values() if isinstance(held, dict) else ()), *(() if bound is None else (bound,))]
