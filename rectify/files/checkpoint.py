"""Checkpoints in and out: sniffed before loading, loaded safely, written whole and with equal bytes for equal input."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from rectify.errors import (
    CheckpointError,
    CorruptCheckpoint,
    OutputError,
    PreprocessError,
    UnsupportedCheckpoint,
    UsageError,
)
from rectify.files.atomic import check_target, sha256_of, write_atomic
from rectify.files.folder import ModelFolder, read_model_folder
from rectify.files.pickles import load_pickled
from rectify.files.preprocess import Preprocess
from rectify.files.sniff import Kind, sniff
from rectify.files.unwrap import Unwrapped, check_tensors, unwrap
from rectify.files.words import plain, reason

__all__ = [
    "Checkpoint",
    "WrittenFile",
    "check_suffix",
    "check_target",
    "read_checkpoint",
    "read_tensors",
    "sha256_of",
    "write_atomic",
    "write_tensors",
]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: its tensors, and what it says of itself.

    Attributes
    ----------
    path : Path
        The file or folder as the user named it.
    sha256 : str
        Of the file (of the weights' file for a folder).
    state : dict of str to Tensor
        On the CPU, original dtypes, prefixes stripped. Exactly the tensors of the file: what is written after an
        edit has these names and no others.
    used : str
        What was loaded, and what was unwrapped and stripped, for stderr.
    arch : str or None
        The architecture that the file names, as a value of ``--arch``.
    arch_source : str
        Where `arch` was found, for messages.
    arch_args : dict
        Arguments of the architecture that the file names.
    num_classes : int or None
        Number of classes, if the file says it.
    preprocess : Preprocess or None
        Preprocessing, if the file says it.
    preprocess_problem : str
        What is wrong with the preprocessing that the file says, if it is malformed.
    metadata : dict
        The ``rectify`` metadata of an earlier output, else empty.
    trusted_pickle : bool
        Whether the file's code was run because the user said so.
    renames : dict of str to str
        Name in `state` to name in the file, where they differ.
    """

    path: Path
    sha256: str
    state: dict[str, Tensor]
    used: str
    arch: str | None = None
    arch_source: str = ""
    arch_args: dict[str, Any] = field(default_factory=dict)
    num_classes: int | None = None
    preprocess: Preprocess | None = None
    preprocess_problem: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    trusted_pickle: bool = False
    renames: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WrittenFile:
    """A file that was written: where, its sha256, its size in bytes."""

    path: Path
    sha256: str
    bytes: int


def read_checkpoint(
    path: Path, *, state_dict_key: str | None = None, strip_prefix: str | None = None, trust_pickle: bool = False
) -> Checkpoint:
    """Read a checkpoint of any kind that rectify knows, without running code in it.

    Parameters
    ----------
    path : Path
        A safetensors file, a file of torch.save, or a folder with config.json and model.safetensors.
    state_dict_key : str, optional
        Key of the state dict in a container.
    strip_prefix : str, optional
        Prefix to strip; tensors without it are left out.
    trust_pickle : bool
        Unpickle the file with its own code if it cannot be loaded otherwise.

    Returns
    -------
    Checkpoint
        Tensors and what the file says of itself.

    Raises
    ------
    CheckpointError
        Or one of its kinds (unsafe, unsupported, corrupt): one line with what to type next.
    UsageError
        If `state_dict_key` or `strip_prefix` does not fit the file.
    """
    folder = None
    if os.path.isdir(path):
        try:
            folder = read_model_folder(path)
        except OSError as error:
            raise CheckpointError(f"cannot read the folder {plain(path)}: {reason(error)}") from None
        strip_prefix = strip_prefix or folder.prefix
    file = folder.weights if folder else path
    kind = sniff(file)
    metadata: dict[str, Any] = {}
    trusted = False
    if kind is Kind.SAFETENSORS:
        loaded, metadata = _read_safetensors(file)
    else:
        loaded, trusted = load_pickled(file, kind, trust_pickle)
    if metadata:  # rectify wrote it: nothing to unwrap, whatever the flags say that fit the file it came from
        state_dict_key = strip_prefix = None
    if kind is Kind.SAFETENSORS and state_dict_key is not None:
        raise UsageError(f"{plain(file)} is safetensors, which holds no dictionaries: leave out --state-dict-key")
    found = unwrap(file, loaded, state_dict_key, strip_prefix)
    return _assemble(path, file, kind, found, folder, metadata, trusted)


def _assemble(
    path: Path,
    file: Path,
    kind: Kind,
    found: Unwrapped,
    folder: ModelFolder | None,
    metadata: dict[str, Any],
    trusted: bool,
) -> Checkpoint:
    """Put together what the folder, the container and the metadata say, in this order of trust."""
    said = [
        ("config.json", folder.arch if folder else None, folder.arch_args if folder else {}),
        ("the file's container", found.arch, {}),
        ("the file's rectify metadata", metadata.get("arch"), metadata.get("arch_args") or {}),
    ]
    source, arch, args = next(((s, a, k) for s, a, k in said if isinstance(a, str) and a), ("", None, {}))
    counts = (folder.num_classes if folder else None, found.num_classes, metadata.get("num_classes"))
    preprocess, problem = _preprocess_of(folder, metadata, path)
    what = {Kind.SAFETENSORS: "safetensors", Kind.PICKLE: "plain pickle"}.get(kind, "state_dict")
    return Checkpoint(
        path=path,
        sha256=sha256_of(file),
        state=found.state,
        used=_route(what, found.route, folder),
        arch=arch,
        arch_source=source,
        arch_args=dict(args) if isinstance(args, Mapping) else {},
        num_classes=next((c for c in counts if isinstance(c, int) and not isinstance(c, bool)), None),
        preprocess=preprocess,
        preprocess_problem=problem,
        metadata=metadata,
        trusted_pickle=trusted,
        renames=found.renames,
    )


def _route(what: str, route: list[str], folder: ModelFolder | None) -> str:
    """``state_dict in 'model_ema', prefix 'module.' stripped``."""
    text = what
    for part in route:
        text += f" {part}" if part.startswith(("in ", "of ")) else f", {part}"
    return f"{folder.weights.name} ({text})" if folder else text


def _preprocess_of(
    folder: ModelFolder | None, metadata: Mapping[str, Any], path: Path
) -> tuple[Preprocess | None, str]:
    """What the file says, or what is wrong with it: the user may pass another."""
    if folder and (folder.preprocess or folder.preprocess_problem):
        return folder.preprocess, folder.preprocess_problem
    said = metadata.get("preprocess")
    if not isinstance(said, Mapping):
        return None, ""
    try:
        return Preprocess.from_dict(said, f"the rectify metadata of {path.name}"), ""
    except PreprocessError as error:
        return None, str(error)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        if not _is_text(path):
            return _loaded(path.read_bytes())
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            metadata = _parse_metadata(file.metadata())
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError) as error:
        if "can't allocate memory" in str(error):  # torch's word on the CPU for what is no fault of the file
            raise
        if isinstance(error, OSError) and error.errno is not None:
            raise CorruptCheckpoint(f"{plain(path)} cannot be read: {reason(error)}") from None
        raise CorruptCheckpoint(f"{plain(path)} is a damaged safetensors file: copy or download it again") from None


def _is_text(path: Path) -> bool:
    """Whether its name is UTF-8: torch maps no other file into memory."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _loaded(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata of a file's bytes."""
    tensors = safetensors.torch.load(data)  # checks the header too
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return tensors, _parse_metadata(header.get("__metadata__"))


def _parse_metadata(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """The ``rectify`` key; foreign or broken text there says nothing, which is not an error."""
    try:
        parsed = json.loads((metadata or {}).get("rectify", "{}"))
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the parsed ``rectify`` metadata of a safetensors file.

    Parameters
    ----------
    path : Path
        A safetensors file, such as a delta or a patched checkpoint.

    Returns
    -------
    tensors : dict of str to Tensor
        On the CPU.
    metadata : dict
        Empty if rectify did not write the file.

    Raises
    ------
    CheckpointError
        If it cannot be read; `UnsupportedCheckpoint` if it is another kind of file.
    """
    if os.path.isdir(path):
        raise CheckpointError(f"{plain(path)} is a folder: give the safetensors file in it")
    if sniff(path) is not Kind.SAFETENSORS:
        raise UnsupportedCheckpoint(f"{plain(path)} is not a safetensors file: give one that rectify wrote")
    tensors, metadata = _read_safetensors(path)
    check_tensors(path, tensors)
    return tensors, metadata


def check_suffix(path: Path) -> None:
    """Say early that what is written is safetensors, whatever the name says.

    Raises
    ------
    OutputError
        If the name is one of torch's own files: `torch.load` would read it wrongly, and give bad advice.
    """
    if path.suffix.lower() in (".pt", ".pth", ".bin", ".ckpt"):
        better = plain(path.with_suffix(".safetensors"))
        raise OutputError(f"{plain(path)}: what is written is safetensors, not for torch.load: name it {better}")


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    *,
    force: bool = False,
    never: Collection[Path] = (),
) -> WrittenFile:
    """Write tensors as safetensors, whole or not at all; equal input gives equal bytes.

    Parameters
    ----------
    path : Path
        The target; its folder must exist.
    tensors : mapping of str to Tensor
        In any order, on any device; views and shared memory are fine.
    metadata : mapping
        JSON values; stored as canonical JSON under the key ``rectify``.
    force : bool
        Whether an existing file may be replaced.
    never : collection of Path
        Files never to be replaced, also not through a link: the inputs.

    Returns
    -------
    WrittenFile
        Path, sha256 and size.

    Raises
    ------
    OutputError
        If it cannot be written; nothing is left behind.
    """
    check_target(path, force=force, never=never)
    try:
        # A copy of each, since safetensors refuses tensors that share memory (tied weights, views).
        copies = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
        if "__metadata__" in copies:
            raise ValueError("a tensor cannot be called __metadata__")
        data = _ordered(safetensors.torch.save(copies, {"format": "pt"}), metadata)
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise OutputError(f"{plain(path)} cannot be written as safetensors: {reason(error)}") from None
    write_atomic(path, data, force=force)
    return WrittenFile(path, sha256(data).hexdigest(), len(data))


def _ordered(data: bytes, metadata: Mapping[str, Any]) -> bytes:
    """Write the header anew with its metadata in order: safetensors itself writes two keys in random order."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":"), allow_nan=False)
    entries = sorted((item for item in header.items() if item[0] != "__metadata__"), key=_offset)
    ordered = {"__metadata__": {"format": "pt", "rectify": text}, **dict(entries)}
    raw = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)  # the data stay aligned to eight bytes
    return len(raw).to_bytes(8, "little") + raw + data[8 + length :]


def _offset(item: tuple[str, Any]) -> tuple[int, int, str]:
    start, end = item[1]["data_offsets"]
    return start, end, item[0]
