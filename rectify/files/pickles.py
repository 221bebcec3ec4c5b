"""Pickled checkpoints: which classes a file would import, read without running it, and the safe load."""

from __future__ import annotations

import io
import pickle
import pickletools
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from rectify.errors import CorruptCheckpoint, UnsafeCheckpoint, UnsupportedCheckpoint
from rectify.files.imports import current_folder_importable
from rectify.files.sniff import Kind
from rectify.files.words import listed, plain, reason

_MOST_OPCODES_BYTES = 256 << 20

# What a state dict needs. torch's own list is wider; whatever is not here is named to the user.
_HARMLESS = frozenset(
    {
        "collections.OrderedDict",
        "collections.Counter",
        "torch.nn.parameter.Parameter",
        "torch.serialization._get_layout",
        "torch.Size",
        "torch.Tensor",
        "torch.device",
        "torch._tensor._rebuild_from_type_v2",
        "torch.storage.UntypedStorage",
        "torch.storage.TypedStorage",
        "_codecs.encode",
        "builtins.bytearray",
        "builtins.set",
        "builtins.complex",
    }
)
_REBUILDS = """parameter parameter_with_state qtensor tensor tensor_v2 tensor_v3 sparse_tensor meta_tensor_no_storage
    nested_tensor wrapper_subclass device_tensor_from_numpy device_tensor_from_cpu_tensor"""
_REBUILD = frozenset(f"torch._utils._rebuild_{kind}" for kind in _REBUILDS.split())
# Modules and functions that no network needs: a file that names one was made to do harm.
_HOSTILE = """os posix nt sys subprocess pty shutil socket runpy importlib ctypes commands webbrowser code codeop pdb
    bdb pip urllib http requests timeit cProfile profile builtins.eval builtins.exec builtins.compile
    builtins.__import__ builtins.open builtins.breakpoint builtins.input"""
_HOSTILE_NAMES = frozenset(_HOSTILE.split())


def load_pickled(path: Path, kind: Kind, trust_pickle: bool) -> tuple[Any, bool]:
    """Load a file of torch.save, safely unless there is no other way and the user said so.

    Parameters
    ----------
    path : Path
        The file.
    kind : Kind
        What `sniff` said it is.
    trust_pickle : bool
        Whether code in the file may run if it cannot be loaded otherwise.

    Returns
    -------
    loaded : object
        Whatever was saved.
    trusted : bool
        True if the file had to be trusted.

    Raises
    ------
    UnsafeCheckpoint
        If it holds classes other than tensors and containers, and is not trusted; they are named.
    UnsupportedCheckpoint
        If it is a pickle that torch.save did not write.
    CorruptCheckpoint
        If it is damaged.
    """
    blocked = [name for name in globals_in(path, kind) if not is_harmless(name)]
    if blocked and not trust_pickle:
        raise UnsafeCheckpoint(_refusal(path, blocked))
    if not blocked and kind is not Kind.PICKLE:
        _check_sums(path, kind)
        try:
            return _torch_load(path, weights_only=True), False
        except Exception as error:  # torch raises many types, and its words tell people to trust the file
            _explain(path, kind, error, trust_pickle)
    if not trust_pickle:
        raise UnsupportedCheckpoint(
            f"{plain(path)} was written with pickle.dump, not torch.save: load it in Python and "
            "torch.save(state_dict, 'model.pt'), or add --trust-pickle if you trust its author"
        )
    return _load_trusted(path, kind), True


def globals_in(path: Path, kind: Kind) -> list[str]:
    """Every ``module.name`` that unpickling the file would import, in order of appearance; nothing is run.

    Raises
    ------
    CorruptCheckpoint
        If the pickle cannot be parsed to its end.
    """
    found: dict[str, None] = {}
    try:
        if kind is Kind.ZIP:
            with zipfile.ZipFile(path) as archive:
                entry = next(i for i in archive.infolist() if i.filename.split("/")[-1] == "data.pkl")
                if entry.file_size > _MOST_OPCODES_BYTES:
                    raise CorruptCheckpoint(
                        f"{plain(path)} holds a pickle of {entry.file_size} bytes: not a state dict"
                    )
                del entry.CRC  # not checked here: torch can write files without checksums (see `_check_sums`)
                with archive.open(entry) as file:
                    _scan(io.BytesIO(file.read()), found)
        else:
            with open(path, "rb") as file:
                # A legacy file is five pickles (magic, version, system, the object, storage keys), then raw data.
                for _ in range(5 if kind is Kind.LEGACY else 1):
                    _scan(file, found)
    except CorruptCheckpoint:
        raise
    except Exception:  # pickletools and zipfile raise whatever the bytes lead them to
        if any(not is_harmless(name) for name in found):
            return list(found)
        raise CorruptCheckpoint(f"{plain(path)} is truncated or damaged: copy or download it again") from None
    return list(found)


def _scan(file: IO[bytes], found: dict[str, None]) -> None:
    """Walk one pickle, following strings and the memo as far as STACK_GLOBAL needs them."""
    strings: list[str] = []
    memo: dict[int, str] = {}
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in ("GLOBAL", "INST"):
            found[_modern(*str(argument).split(" ", 1))] = None
        elif name == "STACK_GLOBAL":
            found[_modern(*strings[-2:]) if len(strings) > 1 else "a class without a name"] = None
        elif name.startswith("EXT"):
            found[f"copyreg extension {argument}"] = None
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(str(argument))] = strings[-1] if strings else ""
        elif name == "MEMOIZE":
            memo[len(memo)] = strings[-1] if strings else ""
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            strings.append(memo.get(int(str(argument)), ""))
        elif isinstance(argument, str):
            strings.append(argument)


def _modern(module: str, name: str = "") -> str:
    """Python 2's spelling in today's, as the unpickler maps it."""
    return f"{'builtins' if module == '__builtin__' else module}.{name}"


def is_harmless(name: str) -> bool:
    """Whether a global is one that plain tensors and containers need."""
    if name in _HARMLESS or name in _REBUILD:
        return True
    module, _, attribute = name.rpartition(".")
    if module in ("torch", "torch.cuda") and attribute.endswith(("Storage", "Tensor")):
        return attribute.isidentifier()
    kinds = (torch.dtype, torch.qscheme)
    return module == "torch" and isinstance(getattr(torch, attribute, None), kinds)


def _refusal(path: Path, blocked: list[str]) -> str:
    hostile = [name for name in blocked if {name, name.split(".")[0]} & _HOSTILE_NAMES]
    if hostile:
        return (
            f"{plain(path)} was not loaded: it would run {listed(map(_familiar, hostile))}, which no network needs; "
            "get a state dict or safetensors file from its author (--trust-pickle would let it run)"
        )
    return (
        f"{plain(path)} was not loaded: it holds {listed(blocked)}, and unpickling these runs code; save only the "
        "weights with torch.save(net.state_dict(), 'model.pt'), or add --trust-pickle if you trust its author"
    )


def _familiar(name: str) -> str:
    """``posix.system`` is what everybody writes as ``os.system``."""
    module, _, attribute = name.partition(".")
    return f"os.{attribute} ({name})" if module in ("posix", "nt") else name


def _torch_load(path: Path, weights_only: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=weights_only)


def _explain(path: Path, kind: Kind, error: Exception, trust_pickle: bool) -> None:
    """Turn a failed safe load into our own words; returns only if the user's trust may still help."""
    if isinstance(error, MemoryError):
        raise CorruptCheckpoint(f"{plain(path)} does not fit into memory, or is damaged: copy it again") from None
    if not isinstance(error, pickle.UnpicklingError):
        raise CorruptCheckpoint(f"{plain(path)} is truncated or damaged: copy or download it again") from None
    if not trust_pickle:
        raise UnsafeCheckpoint(
            f"{plain(path)} is pickled in a way that the safe loader does not read: save it again with "
            "torch.save(net.state_dict(), 'model.pt'), or add --trust-pickle if you trust its author"
        ) from None


def _load_trusted(path: Path, kind: Kind) -> Any:
    with current_folder_importable():
        try:
            if kind is Kind.PICKLE:
                with open(path, "rb") as file:
                    return pickle.load(file)
            return _torch_load(path, weights_only=False)
        except (ImportError, AttributeError) as error:
            raise UnsafeCheckpoint(
                f"{plain(path)} needs code that is not here ({reason(error)}): run rectify in the folder of that "
                "code or set PYTHONPATH, or save the weights with torch.save(net.state_dict(), 'model.pt')"
            ) from None
        except Exception as error:  # the file's own code may raise anything
            raise CorruptCheckpoint(
                f"{plain(path)} failed while it was unpickled ({reason(error)}): save the weights with "
                "torch.save(net.state_dict(), 'model.pt') and pass that file"
            ) from None


def _check_sums(path: Path, kind: Kind) -> None:
    """Compare the zip's checksums, which torch does not. A file whose every tensor differs was saved without them."""
    if kind is not Kind.ZIP:
        return
    bad: list[str] = []
    with zipfile.ZipFile(path) as archive:
        records = [i for i in archive.infolist() if f"/{i.filename}".count("/data") and i.file_size]
        for record in records:
            try:
                with archive.open(record) as file:
                    while file.read(1 << 20):
                        pass
            except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, ValueError):
                bad.append(record.filename)
    if bad and len(bad) < len(records):
        raise CorruptCheckpoint(
            f"{plain(path)} is damaged: the checksum of {listed(bad, 1)} does not match; copy or download it again"
        )
