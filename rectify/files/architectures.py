"""The network that a checkpoint belongs to: built from torchvision, timm or the user's code, and loaded strictly."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.utils.deterministic
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rectify.errors import ArchitectureError, PreprocessError, UsageError
from rectify.evaluation.accuracy import finite_softmax
from rectify.files.builders import construct, guess_classes, timm_preprocess
from rectify.files.checkpoint import Checkpoint, read_checkpoint
from rectify.files.imports import current_folder_importable
from rectify.files.preprocess import Preprocess
from rectify.files.words import listed, plain, reason
from rectify.model.mend import keep_input, mend_batch_norm, tie, undo_softmax

_COUNTER = "num_batches_tracked"


_ONE_OUTPUT = "a network with one output z is one of two classes if it returns torch.cat([-z, z], 1)"
_PASS_PREPROCESS = "--preprocess FILE, a preset (imagenet, cifar10, …), or --input-size, --mean and --std"
RANDOM = (
    "the network gives other outputs when it is shown one image twice, in eval mode: figures vary from run to run, and "
    "no layer can be told to compute W k + b; take the chance, or what it remembers, out of its forward pass"
)
_OF_TYPES = re.compile(r"input type \(|dtype|datatype", re.IGNORECASE)  # how torch says that they do not agree
_CASTS = "weights and images are float32 here: take casts such as .double() and .half() out of its forward"
_PROBABILITIES = "the network ends in a softmax: the logarithms of what it returns are read as its logits"


@dataclass
class Subject:
    """The model under repair.

    Attributes
    ----------
    network : nn.Module
        In eval mode, float32, without gradients, on `device`.
    checkpoint : Checkpoint
        The file it came from, with the tensors in their original dtypes.
    arch : str
        The architecture, as a value of ``--arch``.
    arch_args : dict
        What the architecture was called with.
    num_classes : int
        Number of logits.
    preprocess : Preprocess
        How pictures become its input.
    device : torch.device
        Where it lives.
    notes : tuple of str
        Lines for people: what is odd about it.
    """

    network: nn.Module
    checkpoint: Checkpoint
    arch: str
    arch_args: dict[str, Any]
    num_classes: int
    preprocess: Preprocess
    device: torch.device
    notes: tuple[str, ...] = ()


def build(
    arch: str,
    *,
    num_classes: int | None,
    arch_args: Mapping[str, Any],
    state: Mapping[str, Tensor] | None = None,
    user_named: bool = True,
) -> nn.Module:
    """Build a network with fresh weights.

    Parameters
    ----------
    arch : str
        A torchvision classifier, ``timm:NAME``, or ``module:callable`` from the current folder or PYTHONPATH.
    num_classes : int, optional
        Number of classes; None takes it from `state` if it shows there, else the architecture's default.
    arch_args : mapping
        Further keyword arguments.
    state : mapping of str to Tensor, optional
        The tensors that will be loaded.
    user_named : bool
        False where a file names the architecture: then code is imported only from the current folder and PYTHONPATH,
        and only what is defined there is called.

    Returns
    -------
    nn.Module
        In the mode that the builder leaves it in.

    Raises
    ------
    ArchitectureError
        If the name is unknown (nearest matches are named) or the builder fails.
    """
    if num_classes is not None and num_classes < 2:
        raise ArchitectureError(f"--num-classes {num_classes}: a classifier has 2 classes or more; {_ONE_OUTPUT}")
    network = construct(arch, num_classes, arch_args, user_named)
    if num_classes is None and state is not None:
        guess = guess_classes(network, state) if network is not None else guess_classes(None, state)
        if guess is not None:
            network = construct(arch, guess, arch_args, user_named)
    if network is None:
        raise ArchitectureError(f"{plain(arch)} needs num_classes: pass --num-classes N")
    return network


def load_into(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Load a checkpoint strictly; afterwards the network is float32, in eval mode, without gradients.

    Counters ``num_batches_tracked`` that old files lack, and tensors that the network shares with others which are
    there, do not count as missing.

    Parameters
    ----------
    network : nn.Module
        Changed in place.
    checkpoint : Checkpoint
        The tensors; low precision is widened.

    Raises
    ------
    ArchitectureError
        If names or shapes differ, with a short diff, or the network does not take the numbers as they are.
    """
    network.float()
    tie(network)
    expected = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    missing = [name for name in _missing(expected, checkpoint.state) if not name.endswith(_COUNTER)]
    unexpected = [name for name in checkpoint.state if name not in expected]
    shared = expected.keys() & checkpoint.state.keys()
    wrong = [name for name in expected if name in shared and not _fits(expected[name], checkpoint.state[name])]
    if missing or unexpected or wrong:
        what = type(network).__name__
        raise ArchitectureError(_diff(what, expected, checkpoint, missing, unexpected, wrong))
    try:
        network.load_state_dict(checkpoint.state, strict=False)
    except Exception as error:  # the network's own loading hooks may raise anything
        raise ArchitectureError(f"{plain(checkpoint.path)} does not load: {reason(error)}") from None
    _check_loaded(network, checkpoint)
    network.eval().requires_grad_(False)
    mend_batch_norm(network)
    keep_input(network)


def _check_loaded(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Refuse a network that holds other numbers than the file: what is judged would not be what the file holds."""
    held = network.state_dict()
    others = [name for name, given in checkpoint.state.items() if name in held and not _holds(held[name], given)]
    if others:
        raise ArchitectureError(
            f"{plain(checkpoint.path)} holds other numbers than {plain(type(network).__name__)} does once it is "
            f"loaded ({listed(others)}): tensors there share memory and differ in the file, or its own loading changes "
            "them; check --arch, and what wrote the file"
        )


def _holds(own: Tensor, given: Tensor) -> bool:
    """Whether these are the same numbers, but for rounding (a hook may scale them on their way in and out)."""
    given = given.to(own.device, own.dtype)
    if torch.equal(own, given) or not own.is_floating_point():
        return torch.equal(own, given)
    finite = given[given.isfinite()]
    scale = float(finite.abs().max()) if len(finite) else 0.0
    return torch.allclose(own, given, rtol=0, atol=1e-5 * scale, equal_nan=True)


def _missing(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Names that the file lacks, but for tied tensors: safetensors files keep only one name of each."""
    present = {(expected[name].data_ptr(), expected[name].shape) for name in expected.keys() & state.keys()}
    return [n for n, value in expected.items() if n not in state and (value.data_ptr(), value.shape) not in present]


def _fits(own: Tensor, given: Tensor) -> bool:
    """Same shape, and no whole or complex numbers where the network has real ones (weights packed into int8)."""
    real = not own.is_floating_point() or given.is_floating_point()
    return own.shape == given.shape and real


def _diff(
    what: str,
    expected: Mapping[str, Tensor],
    checkpoint: Checkpoint,
    missing: list[str],
    unexpected: list[str],
    wrong: list[str],
) -> str:
    """One line: how many and the first three of each kind, and what to try."""
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing ({listed(missing)})")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected ({listed(unexpected)})")
    if wrong:
        shapes = [f"{n} {_shape(checkpoint.state[n])} in the file, {_shape(expected[n])} expected" for n in wrong]
        parts.append(f"{len(wrong)} wrong-shaped ({listed(shapes)})")
    hint = _hint(expected, checkpoint.state, wrong, bool(missing or unexpected))
    return f"{plain(checkpoint.path)} does not fit the architecture ({what}): {'; '.join(parts)}. {hint}"


def _shape(tensor: Tensor) -> str:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    return shape if tensor.is_floating_point() else f"{shape} {str(tensor.dtype).removeprefix('torch.')}"


def _hint(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], wrong: list[str], names_differ: bool) -> str:
    first = next(iter(expected), "")
    prefix = next((name.removesuffix(first) for name in state if first and name.endswith("." + first)), "")
    if prefix and all(prefix + name in state for name in expected if not name.endswith(_COUNTER)):
        return f"Pass --strip-prefix {plain(prefix)}"
    if not names_differ and all(expected[n].is_floating_point() > state[n].is_floating_point() for n in wrong):
        return "Give the checkpoint from before they were packed: weights are real numbers"
    rows = all(state[name].is_floating_point() and state[name].numel() and expected[name].dim() for name in wrong)
    firsts = {state[name].shape[:1] for name in wrong}
    if names_differ or not rows or () in firsts:  # a head of other classes has the same names, and rows of numbers
        return "Check --arch, --num-classes and --arch-arg"
    if firsts == {(1,)}:
        return f"Check --num-classes and --arch-arg; {_ONE_OUTPUT}"
    if len(firsts) == 1 and all(state[n].shape[1:] == expected[n].shape[1:] for n in wrong):
        return f"Pass --num-classes {state[wrong[0]].shape[0]}, or check --arch and --arch-arg"
    return "Check --arch, --num-classes and --arch-arg"


def resolve_device(device: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:i`` as a device that is there; TF32 is switched off for the process.

    Raises
    ------
    UsageError
        If it is none of these or this machine does not have it.
    """
    # A solve from products of ten bits' precision is not the closed form: the same for all devices.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()) or (kind == "cpu" and index):
        raise UsageError(f"--device {plain(device)}: one of auto, cpu, cuda, cuda:0, cuda:1, …")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            found = f"only {count} CUDA device(s)" if count else "no CUDA device"
            raise UsageError(f"--device {device}: {found} here; pass --device cpu or auto")
        _repeatable()
    return torch.device(device)


def _repeatable() -> None:
    """Equal inputs shall give equal bytes on a GPU too: sums are taken in a fixed order wherever torch can do so.

    Where it cannot, it would warn of each such operation, in words that help no reader of a report.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")


def open_subject(
    path: Path,
    *,
    arch: str | None = None,
    arch_args: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    state_dict_key: str | None = None,
    strip_prefix: str | None = None,
    trust_pickle: bool = False,
    preprocess: Preprocess | None = None,
    preprocess_overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
) -> Subject:
    """Read a checkpoint, build its network, load it, and try it on a blank image.

    Parameters
    ----------
    path : Path
        Checkpoint file or model folder.
    arch : str, optional
        Overrides what the file says.
    arch_args : mapping, optional
        Keyword arguments of the architecture, over those that the file names.
    num_classes : int, optional
        Overrides what the file says.
    state_dict_key, strip_prefix, trust_pickle
        As in `read_checkpoint`.
    preprocess : Preprocess, optional
        Overrides what the file says.
    preprocess_overrides : mapping, optional
        Single values (``input_size``, ``mean``, …) over whichever preprocessing is used.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.

    Returns
    -------
    Subject
        The model under repair.

    Raises
    ------
    CheckpointError, ArchitectureError, PreprocessError, UsageError
        One line with what to type next.
    """
    place = resolve_device(device)
    checkpoint = read_checkpoint(
        path, state_dict_key=state_dict_key, strip_prefix=strip_prefix, trust_pickle=trust_pickle
    )
    name = _choose_arch(arch, checkpoint, preprocess is not None or bool(preprocess_overrides))
    args = {**(checkpoint.arch_args if arch in (None, checkpoint.arch) else {}), **(arch_args or {})}
    classes = num_classes if num_classes is not None else checkpoint.num_classes
    settings = _choose_preprocess(arch, checkpoint, preprocess, preprocess_overrides or {})
    try:
        network = build(name, num_classes=classes, arch_args=args, state=checkpoint.state, user_named=arch is not None)
    except ArchitectureError as error:
        if arch is None:
            raise ArchitectureError(f"{error} (named by {checkpoint.arch_source}; --arch overrides it)") from None
        raise
    give_shapes(network, settings)
    load_into(network, checkpoint)
    network.to(place)
    classes, notes = try_out(network, settings, place, num_classes)
    return Subject(network, checkpoint, name, args, classes, settings, place, notes)


def _choose_arch(arch: str | None, checkpoint: Checkpoint, preprocessed: bool) -> str:
    """The architecture's name; ``preprocessed`` is whether the user says what the preprocessing is."""
    if arch:
        return arch
    name = checkpoint.arch
    if name is None:
        what, also = "its architecture", ""
        if not (preprocessed or checkpoint.preprocess or checkpoint.preprocess_problem):  # else the next error says so
            what, also = "its architecture or its preprocessing", f"; and {_PASS_PREPROCESS}"
        raise ArchitectureError(
            f"{plain(checkpoint.path)} does not say {what}: pass --arch with a torchvision name (resnet18), "
            f"timm:NAME, or module:callable{also}"
        )
    if name.startswith("transformers:"):
        raise ArchitectureError(
            f"{plain(checkpoint.path)} is a {plain(name.removeprefix('transformers:'))} of transformers, which rectify "
            "does not build: pass --arch module:callable returning a network with these tensors and plain logits"
        )
    is_code = ":" in name and not name.startswith("timm:")
    if is_code and checkpoint.arch_source != "the file's rectify metadata":
        raise ArchitectureError(f"{plain(checkpoint.path)} asks to import {plain(name)}: to do so pass --arch yourself")
    return name


def _choose_preprocess(
    arch: str | None, checkpoint: Checkpoint, given: Preprocess | None, overrides: Mapping[str, Any]
) -> Preprocess:
    found = given or checkpoint.preprocess
    whole = {"input_size", "mean", "std"} <= overrides.keys()  # flags that say it all are a way out too
    if found is None and checkpoint.preprocess_problem and not whole:  # not what timm says: the file says otherwise
        raise PreprocessError(f"{checkpoint.preprocess_problem}; or pass --preprocess FILE")
    if found is None and arch is not None and arch.startswith("timm:"):
        found = timm_preprocess(arch)
    if found is not None and not overrides:
        return found
    if found is None and not overrides:
        raise PreprocessError(f"the preprocessing of {plain(checkpoint.path)} is unknown: pass {_PASS_PREPROCESS}")
    values = {**(found.to_dict() if found else {}), **overrides}
    if found and isinstance(overrides.get("input_size"), int) and "mean" not in overrides:
        values["input_size"] = [found.input_size[0], overrides["input_size"], overrides["input_size"]]
    return Preprocess.from_dict(values, "--preprocess and its flags")


def _are_probabilities(output: Tensor) -> bool:
    """Whether outputs (1, classes) are no logits: none is negative, and they sum to one."""
    return bool((output >= 0).all()) and abs(float(output.sum()) - 1) < 1e-4


def try_out(
    network: nn.Module,
    preprocess: Preprocess,
    device: torch.device,
    num_classes: int | None,
    *,
    trained: bool = True,
) -> tuple[int, tuple[str, ...]]:
    """Run a blank image through, and another one twice: the number of classes, and what there is to say.

    A softmax at the end is undone. Of a network that is not ``trained`` yet, its training tells what is no number.

    Raises
    ------
    ArchitectureError, PreprocessError
        If the network fails, or gives anything but one row of logits or probabilities.
    CheckpointError
        If what it gives is no number.
    """
    output = _one_blank_image(network, preprocess, device, num_classes)
    if trained:
        finite_softmax(output)
    notes = (RANDOM,) if _is_random(network, preprocess, device) else ()
    if not _are_probabilities(output):
        return output.shape[1], notes
    undo_softmax(network)
    return output.shape[1], (*notes, _PROBABILITIES)


def give_shapes(network: nn.Module, preprocess: Preprocess) -> None:
    """Run a blank image through a network on the CPU whose lazy modules have no weights yet.

    Raises
    ------
    ArchitectureError, PreprocessError
        If it fails, or some have none even then.
    """
    if not _without_shape(network):
        return
    _one_blank_image(network.float().eval(), preprocess, torch.device("cpu"), None)
    left = _without_shape(network)
    if left:
        raise ArchitectureError(
            f"lazy modules of the network have no shape after an image has gone through it ({listed(left)}): give them "
            "their sizes in the code of --arch, or take out those that it does not call"
        )


def _without_shape(network: nn.Module) -> list[str]:
    named = (*network.named_parameters(), *network.named_buffers())
    return [name for name, value in named if is_lazy(value)]


def _is_random(network: nn.Module, preprocess: Preprocess, device: torch.device) -> bool:
    """Whether one image shown twice gives two outputs; noise, as a blank image may hide what chance multiplies."""
    image = torch.randn(1, *preprocess.input_size, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        with torch.no_grad(), current_folder_importable():
            one, other = (network(image).float() for _ in range(2))
            return bool((one - other).abs().max() > 1e-4 * one.abs().max())
    except Exception:  # the user's code may raise anything; the work itself will show what
        return False


def _one_blank_image(
    network: nn.Module, preprocess: Preprocess, device: torch.device, num_classes: int | None
) -> Tensor:
    size = preprocess.input_size
    shape = "x".join(map(str, size))
    try:
        with torch.no_grad(), current_folder_importable():
            output = network(torch.zeros(1, *size, device=device))
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
        if first is not None and first.in_channels != size[0] and first.in_channels in (1, 3):
            raise PreprocessError(
                f"the network takes {first.in_channels} channel(s) and the preprocessing gives {size[0]}: "
                f"give mean and std {first.in_channels} value(s) each"
            ) from None
        advice = _CASTS if _OF_TYPES.search(str(error)) else "check --input-size, --arch and --arch-arg"
        raise ArchitectureError(f"the network fails on an image of {shape} ({reason(error)}): {advice}") from None
    if not isinstance(output, Tensor):
        raise ArchitectureError(
            f"the network returns a {type(output).__name__}, not logits: wrap it in a module:callable that returns them"
        )
    if output.ndim != 2 or output.shape[0] != 1 or output.shape[1] < 2:
        raise ArchitectureError(
            f"the network returns a tensor of {_shape(output)} for one image, not 1 x classes: it is no classifier"
            + (f"; {_ONE_OUTPUT}" if output.shape == (1, 1) else "")
        )
    if num_classes is not None and output.shape[1] != num_classes:
        raise ArchitectureError(f"the network has {output.shape[1]} classes, --num-classes says {num_classes}")
    return output
