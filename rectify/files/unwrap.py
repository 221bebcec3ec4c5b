"""From what a file holds to a plain state dict: containers unwrapped, wrappers' prefixes stripped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rectify.errors import CorruptCheckpoint, UnsupportedCheckpoint, UsageError
from rectify.files.words import did_you_mean, listed, plain, quoted

# The order of timm, whose training script writes the first two; "net" is what many CIFAR scripts write.
CONTAINER_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model", "net")
WRAPPERS = ("module.", "_orig_mod.")
_NOT_THE_MODEL = ("optim", "sched", "scaler", "criterion", "rng")
_DEEPEST = 4


@dataclass(frozen=True)
class Unwrapped:
    """A state dict and the road to it."""

    state: dict[str, Tensor]
    route: list[str] = field(default_factory=list)
    renames: dict[str, str] = field(default_factory=dict)
    arch: str | None = None
    num_classes: int | None = None


def unwrap(path: Path, loaded: Any, state_dict_key: str | None, strip_prefix: str | None) -> Unwrapped:
    """Find the state dict in what was loaded.

    Parameters
    ----------
    path : Path
        The file, for messages.
    loaded : object
        What was in it: a mapping, or (from a trusted pickle) a module.
    state_dict_key : str, optional
        ``--state-dict-key``: the key of the state dict, with dots for a nested one.
    strip_prefix : str, optional
        ``--strip-prefix``: keep the keys that start with it, without it.

    Returns
    -------
    Unwrapped
        The tensors by name, what was unwrapped and stripped, and what the container says of the architecture.

    Raises
    ------
    CorruptCheckpoint
        If there are no tensors, or there is a NaN.
    UnsupportedCheckpoint
        If tensors are quantised, sparse, or without data.
    UsageError
        If a key or prefix was asked for that is not there, or the choice is open.
    """
    arch, num_classes = _said(loaded)
    route: list[str] = []
    found = _descend(path, loaded, state_dict_key, route)
    state = _tensors(path, found, route)
    renames = {name: name for name in state}
    if strip_prefix:
        renames = _strip_asked(path, state, strip_prefix, route)
    renames = _strip_wrappers(path, renames, route)
    stripped = {new: state[old] for new, old in renames.items()}
    check_tensors(path, stripped)
    return Unwrapped(stripped, route, {n: o for n, o in renames.items() if n != o}, arch, num_classes)


def _said(loaded: Any) -> tuple[str | None, int | None]:
    """What a container says of itself: ``{model_name, num_classes, model}``, or ``arch`` as in timm's and torch's."""
    if not isinstance(loaded, Mapping):
        return None, None
    arch = next((loaded[k] for k in ("model_name", "arch") if isinstance(loaded.get(k), str)), None)
    classes = loaded.get("num_classes")
    is_count = isinstance(classes, int) and not isinstance(classes, bool)
    return arch, classes if is_count else None


def _is_state(value: Any) -> bool:
    if isinstance(value, nn.Module):
        return True
    return isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values())


def _descend(path: Path, loaded: Any, key: str | None, route: list[str]) -> Any:
    if key is not None:
        return _at_key(path, loaded, key, route)
    inside = loaded
    for _ in range(_DEEPEST):  # a pickle may hold itself
        if not isinstance(inside, Mapping):
            break
        known = next((name for name in CONTAINER_KEYS if _is_state(inside.get(name))), None)
        if known is None and _is_state(inside):
            break
        name = known or _only_choice(path, inside)
        if name is None:
            return loaded
        route.append(f"in {quoted(name)}")
        inside = next(value for key, value in inside.items() if str(key) == name)
    return inside


def _only_choice(path: Path, container: Mapping[Any, Any]) -> str | None:
    """The key to go on with, where none of the usual ones holds tensors."""
    of_model = {str(k): v for k, v in container.items() if not any(word in str(k).lower() for word in _NOT_THE_MODEL)}
    choices = [name for name, value in of_model.items() if _is_state(value)]
    choices = choices or [name for name, value in of_model.items() if isinstance(value, Mapping) and value]
    if len(choices) > 1 and _is_state(of_model[choices[0]]):
        raise UsageError(
            f"{plain(path)} holds several state dicts ({listed(choices, 6)}): "
            f"choose with --state-dict-key {plain(choices[0])}"
        )
    usual = [name for name in CONTAINER_KEYS if name in choices]
    return next(iter(usual or choices), None)


def _at_key(path: Path, loaded: Any, key: str, route: list[str]) -> Any:
    """The value at `key`, or at its parts between the dots."""
    found, parts = loaded, [key] if isinstance(loaded, Mapping) and key in loaded else key.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(found, Mapping) or part not in found:
            hint = _instead(found, part, ".".join(parts[:depth]))
            raise UsageError(f"{plain(path)} has no key {quoted(key)} (--state-dict-key): {hint}")
        found = found[part]
    if not _is_state(found):
        hint = _instead(loaded, key)
        raise UsageError(f"--state-dict-key {plain(key)}: what {plain(path)} holds there is no state dict; {hint}")
    route.append(f"in {quoted(key)}")
    return found


def _instead(container: Any, part: str, above: str = "") -> str:
    """What to give in place of a part of a key that is wrong; ``above``: the key of the container, if it has one."""
    if not isinstance(container, Mapping):
        return "it holds no dictionary there"
    choices = [str(name) for name, value in container.items() if _is_state(value)]
    if _is_state(container) and not choices:
        return f"give {plain(above)}, a state dict itself" if above else "it is a state dict itself: leave the key out"
    front = f"{above}." if above else ""
    return did_you_mean(front + part, [f"{front}{name}" for name in choices or container])


def _tensors(path: Path, found: Any, route: list[str]) -> dict[str, Tensor]:
    if isinstance(found, nn.Module):
        found = found.state_dict()
        route.append("of the pickled module")
    if not isinstance(found, Mapping):
        what = type(found).__name__
        raise CorruptCheckpoint(f"{plain(path)} holds a {what}, not a state dict: {_SAVE}")
    state = {str(name): value.detach() for name, value in found.items() if isinstance(value, Tensor)}
    if not state:
        keys = f"its keys: {listed(found, 6)}" if found else "it is an empty dictionary"
        raise CorruptCheckpoint(f"{plain(path)} holds no tensors ({keys}): {_SAVE}")
    others = [name for name, value in found.items() if not isinstance(value, Tensor)]
    if others:
        route.append(f"without {listed(others)} (no tensors)")
    return state


_SAVE = "save the network with torch.save(net.state_dict(), 'model.pt')"


def _strip_asked(path: Path, state: Mapping[str, Tensor], prefix: str, route: list[str]) -> dict[str, str]:
    if not prefix.endswith(".") and any(name.startswith(prefix + ".") for name in state):
        prefix += "."
    renames = {name[len(prefix) :]: name for name in state if name.startswith(prefix) and name != prefix}
    if not renames or (prefix[-1].isalnum() and any(name[0].isalnum() for name in renames)):  # or it ends in a word
        firsts = sorted({name.split(".")[0] + "." for name in state if "." in name})
        hint = did_you_mean(prefix, firsts) or "its names have no prefix"
        whole = " as a whole name" if renames else ""
        raise UsageError(f"no tensor of {plain(path)} starts with {quoted(prefix)}{whole} (--strip-prefix): {hint}")
    route.append(f"prefix {quoted(prefix)} stripped")
    if len(renames) < len(state):
        left = [name for name in state if not name.startswith(prefix)]
        route.append(f"{len(left)} without it left out ({listed(left)})")
    return renames


def _strip_wrappers(path: Path, renames: dict[str, str], route: list[str]) -> dict[str, str]:
    """Strip what DataParallel, AveragedModel and torch.compile put in front of every name, in any order."""
    while True:
        names = [name for name in renames if name != "n_averaged"]  # AveragedModel's own counter
        prefix = next((p for p in WRAPPERS if names and all(n.startswith(p) for n in names)), None)
        if prefix is None:
            break
        renames = {name.removeprefix(prefix): old for name, old in renames.items() if name != "n_averaged"}
        route.append(f"prefix {prefix!r} stripped")
    inner = {name.replace("._orig_mod.", ".").removeprefix("_orig_mod."): old for name, old in renames.items()}
    if len(inner) < len(renames):
        raise CorruptCheckpoint(f"{plain(path)} holds each tensor twice once '_orig_mod.' is stripped: {_SAVE}")
    if inner.keys() != renames.keys() and not any(r.startswith("prefix '_orig_mod.'") for r in route):
        route.append("'_orig_mod.' stripped inside names")
    return inner


def check_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that no edit can work on, naming the first.

    Parameters
    ----------
    path : Path
        The file, for messages.
    state : mapping of str to Tensor
        The tensors.

    Raises
    ------
    CorruptCheckpoint
        If a tensor holds NaN, or a weight, bias or running statistic holds an infinity.
    UnsupportedCheckpoint
        If a tensor is quantised, sparse or has no data.
    """
    for name, tensor in state.items():
        kind = _unusable(tensor)
        if kind:
            raise UnsupportedCheckpoint(
                f"{plain(path)}: the tensor {quoted(name)} is {kind}; save the network with ordinary float tensors"
            )
    bad = [(name, what) for name, tensor in state.items() if (what := _not_finite(name, tensor))]
    if bad:
        more = f" (and {len(bad) - 1} tensors more)" if len(bad) > 1 else ""
        raise CorruptCheckpoint(
            f"{plain(path)}: the tensor {quoted(bad[0][0])} holds {bad[0][1]}{more}: the training has diverged "
            "or the file is damaged; use an earlier checkpoint"
        )


def _unusable(tensor: Tensor) -> str:
    if tensor.is_quantized:
        return "quantised"
    if tensor.is_nested or tensor.layout != torch.strided:
        return "sparse or nested"
    return "without data (meta device)" if tensor.is_meta else ""


def _not_finite(name: str, tensor: Tensor) -> str:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return ""
    values = tensor.float() if tensor.element_size() == 1 else tensor  # float8 knows few operations
    nans = int(values.isnan().sum())
    if nans:
        return f"{nans} NaN"
    # A mask of -inf is an ordinary buffer of attention; an infinite weight is not.
    is_weight = name.rsplit(".", 1)[-1] in ("weight", "bias", "running_mean", "running_var")
    infinities = int(values.isinf().sum()) if is_weight else 0
    return f"{infinities} infinite values" if infinities else ""
