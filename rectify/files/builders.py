"""Calling torchvision, timm or the user's code for a network, with errors of one line."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rectify.errors import ArchitectureError
from rectify.files.folder import from_timm
from rectify.files.imports import current_folder_importable
from rectify.files.preprocess import Preprocess
from rectify.files.words import did_you_mean, listed, nearest, plain, quoted, reason

OWN = "rectify.training.networks"  # code of ours that a file may name wherever it lies
_HEAD_NAMES = ("fc", "head", "classifier", "linear", "output", "out", "last_linear")


def construct(
    arch: str, num_classes: int | None, arch_args: Mapping[str, Any], user_named: bool = True
) -> nn.Module | None:
    """Build a network by its name.

    Returns
    -------
    nn.Module or None
        None if the user's callable insists on ``num_classes`` and it is not known.

    Raises
    ------
    ArchitectureError
        If the name is unknown or the builder fails.
    """
    if arch.startswith("timm:"):
        return _timm(arch.removeprefix("timm:"), num_classes, arch_args)
    if ":" in arch:
        return _from_code(arch, num_classes, arch_args, user_named)
    return _torchvision(arch, num_classes, arch_args)


def _call(arch: str, builder: Callable[..., Any], arguments: Mapping[str, Any]) -> nn.Module:
    if isinstance(builder, nn.Module):
        raise ArchitectureError(f"{plain(arch)} is a network: name a function or class that returns one")
    try:
        with warnings.catch_warnings(), current_folder_importable():
            warnings.simplefilter("ignore")
            network = builder(**arguments)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the user's code may raise anything
        shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ArchitectureError(
            f"{plain(arch)} could not be built with ({plain(shown)}): {_where(error)}; check --arch-arg"
        ) from None
    if not isinstance(network, nn.Module):
        what = "a class" if isinstance(network, type) else f"a {type(network).__name__}"
        raise ArchitectureError(f"{plain(arch)} returned {what}, not a torch.nn.Module: let it return the network")
    return network


def _where(error: BaseException) -> str:
    """The error and the line of the user's code where it arose."""
    place = line_of_users(error)
    return f"{reason(error)} ({place})" if place else reason(error)


def line_of_users(error: BaseException) -> str:
    """``nets.py, line 7``: the last line of code that is neither ours nor an installed package's; empty without one."""
    frames = traceback.extract_tb(error.__traceback__)
    others = (str(Path(__file__).parents[1]) + os.sep, sysconfig.get_path("stdlib") + os.sep, "<")
    theirs = [f for f in frames if "-packages" not in f.filename and not f.filename.startswith(others)]
    return f"{Path(theirs[-1].filename).name}, line {theirs[-1].lineno}" if theirs else ""


def _torchvision(name: str, num_classes: int | None, arch_args: Mapping[str, Any]) -> nn.Module:
    from torchvision import models  # type: ignore[import-untyped]

    names = models.list_models(module=models)
    if name not in names:
        raise ArchitectureError(f"unknown architecture {quoted(name)}: {_nearest(name, names)}")
    arguments = {"weights": None, **_classes(num_classes), **arch_args}
    if name in ("googlenet", "inception_v3"):
        arguments.setdefault("init_weights", False)  # slow, and overwritten by the checkpoint
    return _call(name, models.get_model_builder(name), arguments)


def _classes(num_classes: int | None) -> dict[str, Any]:
    return {} if num_classes is None else {"num_classes": num_classes}


def _nearest(name: str, torchvision_names: list[str]) -> str:
    """Near names of torchvision, then of timm; or that it is a module, which holds a callable."""
    if name.isidentifier() and _is_module(name):
        return f"it is a module; pass --arch {name}:CALLABLE, the function in it that returns the network"
    close = nearest(name, torchvision_names)
    try:
        import timm
    except ImportError:
        pass
    else:
        every = timm.list_models()
        close += ["timm:" + n for n in ([name] if name in every else nearest(name, every, 2))]
    hint = f"did you mean {listed(close, 5)}? Otherwise pass" if close else "pass a torchvision name,"
    return f"{hint} timm:NAME or module:callable"


def _is_module(name: str) -> bool:
    with current_folder_importable():
        return importlib.util.find_spec(name) is not None


def _timm(name: str, num_classes: int | None, arch_args: Mapping[str, Any]) -> nn.Module:
    timm = _import_timm(name)
    base = name.split(".")[0]
    if base not in (names := timm.list_models()):  # also keeps out hf-hub: and local-dir:, which are no names
        close = listed("timm:" + each for each in nearest(base, names))
        hint = f"did you mean {close}?" if close else "python -c 'import timm; print(timm.list_models())' lists all"
        raise ArchitectureError(f"timm has no architecture {quoted(base)}: {hint}")
    arguments = {"model_name": name, "pretrained": False, **_classes(num_classes), **arch_args}
    return _call(f"timm:{name}", timm.create_model, arguments)


def _import_timm(name: str) -> Any:
    try:
        import timm
    except ImportError:
        raise ArchitectureError(f"timm:{plain(name)} needs timm: type pip install timm") from None
    return timm


def timm_preprocess(arch: str) -> Preprocess | None:
    """The preprocessing of a pretrained tag, as ``timm:resnet18.a1_in1k``; None for a name without a tag."""
    name = arch.removeprefix("timm:")
    if "." not in name:
        return None
    try:
        cfg = _import_timm(name).get_pretrained_cfg(name, allow_unregistered=False)
    except (RuntimeError, ValueError, KeyError):  # an unknown name or tag: building it says which
        return None
    return from_timm(cfg.to_dict(), arch) if cfg is not None else None


def _from_code(arch: str, num_classes: int | None, arch_args: Mapping[str, Any], user_named: bool) -> nn.Module | None:
    module_name, _, attribute = arch.partition(":")
    if (
        not module_name
        or not attribute
        or not all(p.isidentifier() for p in (module_name + "." + attribute).split("."))
    ):
        raise ArchitectureError(f"--arch {plain(arch)}: module:callable looks like mypackage.networks:resnet18")
    if not user_named:
        _refuse_foreign_code(arch, module_name)
    builder = _import(arch, module_name, attribute)
    if not user_named and getattr(builder, "__module__", None) != module_name:
        raise ArchitectureError(f"a file asks to call {plain(arch)}, which is not defined in {module_name}")
    accepts, needs = _takes_classes(builder)
    if num_classes is None and needs and "num_classes" not in arch_args:
        return None
    return _call(arch, builder, {**(_classes(num_classes) if accepts else {}), **arch_args})


def _import(arch: str, module_name: str, attribute: str) -> Callable[..., Any]:
    with current_folder_importable():
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
                raise ArchitectureError(_no_module(module_name)) from None
            raise ArchitectureError(f"importing {module_name} failed: {_where(error)}") from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the user's code may raise anything
            raise ArchitectureError(f"importing {module_name} failed: {_where(error)}") from None
        for part in attribute.split("."):
            if not hasattr(found, part):
                names = [n for n, v in vars(found).items() if callable(v) and not n.startswith("_")]
                raise ArchitectureError(f"{plain(arch)}: {module_name} has no {part!r}; {did_you_mean(part, names)}")
            found = getattr(found, part)
    if not callable(found):
        raise ArchitectureError(f"{plain(arch)} is a {type(found).__name__}, not a function or class")
    builder: Callable[..., Any] = found
    return builder


def _no_module(module_name: str) -> str:
    here = sorted({p.stem for p in Path.cwd().glob("*.py")} | {p.parent.name for p in Path.cwd().glob("*/__init__.py")})
    close = nearest(module_name.split(".")[0], here)
    hint = f"did you mean {listed(close)}?" if close else "run rectify in its folder or set PYTHONPATH"
    return f"no module {quoted(module_name)} in the current folder or PYTHONPATH: {hint}"


def _refuse_foreign_code(arch: str, module_name: str) -> None:
    """A file may name code of the user's own folder, never ``os:system``."""
    if module_name == OWN:
        return
    paths = [os.getcwd(), *(p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p)]
    spec = importlib.machinery.PathFinder.find_spec(module_name.split(".")[0], paths)
    shadowed = module_name.split(".")[0] in sys.stdlib_module_names
    if spec is None or shadowed:
        raise ArchitectureError(
            f"a file asks to import {plain(arch)}, which is not in the current folder or PYTHONPATH: "
            "run rectify where that code lies"
        )


def _takes_classes(builder: Callable[..., Any]) -> tuple[bool, bool]:
    """Whether a callable accepts ``num_classes``, and whether it must have it."""
    try:
        parameters = inspect.signature(builder).parameters
    except (TypeError, ValueError):
        return False, False
    if "num_classes" in parameters:
        return True, parameters["num_classes"].default is inspect.Parameter.empty
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()), False


def guess_classes(network: nn.Module | None, state: Mapping[str, Tensor]) -> int | None:
    """Number of classes that a state dict shows.

    With a network of the default number: the tensors that differ from it in their first size only, if they agree on
    one. Without: the rows of the last linear weight, by its name or its place.

    Returns
    -------
    int or None
        None if it cannot be told, or is the network's own already.
    """
    if network is None:
        rows = [(name, value.shape[0]) for name, value in state.items() if value.ndim == 2 and name.endswith("weight")]
        heads = [n for name, n in rows if name.split(".")[-2:-1] and name.split(".")[-2] in _HEAD_NAMES]
        return heads[-1] if heads else (rows[-1][1] if rows else None)
    own = network.state_dict()
    firsts = {
        int(value.shape[0])
        for name, value in state.items()
        if name in own
        and not is_lazy(own[name])
        and value.ndim > 0
        and own[name].ndim == value.ndim
        and value.shape[0] != own[name].shape[0]
        and value.shape[1:] == own[name].shape[1:]
    }
    return firsts.pop() if len(firsts) == 1 and min(firsts) > 1 else None
