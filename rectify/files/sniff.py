"""What kind of file a checkpoint is, told from its bytes before anything is loaded."""

from __future__ import annotations

import json
import os
import pickletools
import zipfile
from enum import Enum
from pathlib import Path

from rectify.errors import CheckpointError, CorruptCheckpoint, UnsupportedCheckpoint
from rectify.files.endless import refuse_endless
from rectify.files.words import listed, no_such_file, plain, reason

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_HEAD = 1 << 16
_STATE_DICT = "torch.save(net.state_dict(), 'model.pt')"

# First bytes of files that people pass by mistake: what it is, what to do instead.
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "a gzip archive", "unpack it with gunzip first"),
    (b"BZh", "a bzip2 archive", "unpack it with bunzip2 first"),
    (b"\xfd7zXZ", "an xz archive", "unpack it with unxz first"),
    (b"\x89HDF\r\n", "an HDF5 file (Keras)", "pass a PyTorch state dict or safetensors file"),
    (b"GGUF", "a GGUF file", "pass a PyTorch state dict or safetensors file"),
    (b"\x93NUMPY", "a NumPy array", "pass a PyTorch state dict or safetensors file"),
)
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\x00", b"MM\x00*")


class Kind(Enum):
    """The files that rectify can load."""

    SAFETENSORS = "safetensors"
    ZIP = "torch zip"
    LEGACY = "legacy torch file"
    PICKLE = "plain pickle"


def sniff(path: Path) -> Kind:
    """Tell what a file is from its content.

    Parameters
    ----------
    path : Path
        An ordinary file.

    Returns
    -------
    Kind
        One of the kinds that can be loaded.

    Raises
    ------
    CheckpointError
        If there is no such file or it cannot be read.
    UnsupportedCheckpoint
        If it is a known format that holds no plain state dict (TorchScript, .pt2, ONNX, Git-LFS pointer, …).
    CorruptCheckpoint
        If it is empty, truncated, or nothing known.
    """
    head, size = _head(path)
    name = plain(path)
    if size == 0:
        raise CorruptCheckpoint(f"{name} is empty (0 bytes): copy or download it again")
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise UnsupportedCheckpoint(
            f"{name} is a Git-LFS pointer, not the weights: fetch them with "
            f"`git lfs pull --include={plain(path.name)}` in its repository"
        )
    if head.startswith(b"PK\x03\x04"):
        return _sniff_zip(path)
    if head.startswith(LEGACY_MAGIC):
        return Kind.LEGACY
    if _is_safetensors(path, head, size):
        return Kind.SAFETENSORS
    _refuse_foreign(name, head)
    if _is_pickle(path):
        return Kind.PICKLE
    raise CorruptCheckpoint(
        f"{name} is no checkpoint that rectify knows (neither safetensors nor torch.save); "
        f"copy it again, or save one with {_STATE_DICT}"
    )


def _head(path: Path) -> tuple[bytes, int]:
    if not os.path.exists(path):
        raise CheckpointError(no_such_file(path))
    refuse_endless(path, CheckpointError, "give the checkpoint's path")
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD), path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"cannot read {plain(path)}: {reason(error)}; check its rights with ls -l") from None


def _is_safetensors(path: Path, head: bytes, size: int) -> bool:
    """Eight bytes of header length, then a JSON object; a header cut short is told apart from random bytes."""
    if len(head) < 9 or head[8:9] != b"{":
        return False
    length = int.from_bytes(head[:8], "little")
    if length > 100_000_000:  # the limit of the format
        return False
    name = plain(path)
    if size < 8 + length:
        raise CorruptCheckpoint(
            f"{name} is cut short: its safetensors header is {length} bytes long and the file has {size}; "
            "copy or download it again"
        )
    with open(path, "rb") as file:
        file.seek(8)
        raw = file.read(length)
    try:
        header = json.loads(raw)
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        needed = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise CorruptCheckpoint(f"{name} has a broken safetensors header: copy or download it again") from None
    if size != needed:
        how = "cut short" if size < needed else "too long"
        raise CorruptCheckpoint(
            f"{name} is {how}: its header describes {needed} bytes and the file has {size}; copy or download it again"
        )
    return True


def _sniff_zip(path: Path) -> Kind:
    name = plain(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise CorruptCheckpoint(
            f"{name} is a truncated or damaged zip file (torch.save writes zip): copy or download it again"
        ) from None
    if unpacked > 100 * path.stat().st_size + (1 << 20):
        raise CorruptCheckpoint(f"{name} is a zip bomb: it would unpack to {unpacked} bytes; get it from its author")
    inner = {entry.split("/", 1)[-1] for entry in names}
    if "constants.pkl" in inner or any(entry.startswith("code/") for entry in inner):
        raise UnsupportedCheckpoint(
            f"{name} is a TorchScript program: save its weights with "
            f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'model.pt') and pass that file"
        )
    if {"archive_format", "serialized_exported_program.json"} & (inner | set(names)):
        raise UnsupportedCheckpoint(
            f"{name} is an exported program (.pt2): save its weights with "
            f"torch.save(dict(torch.export.load({path.name!r}).state_dict), 'model.pt') and pass that file"
        )
    if ".data/extern_modules" in inner:
        raise UnsupportedCheckpoint(f"{name} is a torch.package archive: save the network's weights with {_STATE_DICT}")
    pickles = [entry for entry in names if entry == "data.pkl" or entry.endswith("/data.pkl")]
    if len(pickles) == 1 and len(set(names)) == len(names):
        return Kind.ZIP
    if pickles:
        raise CorruptCheckpoint(f"{name} is a zip file with doubled entries: save the network again with {_STATE_DICT}")
    raise UnsupportedCheckpoint(
        f"{name} is a zip archive that torch.save did not write (it holds {listed(names)}): "
        "unpack it and pass the checkpoint inside"
    )


def _refuse_foreign(name: str, head: bytes) -> None:
    for start, what, instead in _FOREIGN:
        if head.startswith(start):
            raise UnsupportedCheckpoint(f"{name} is {what}, not a PyTorch checkpoint: {instead}")
    if any(head.startswith(start) for start in _PICTURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        raise UnsupportedCheckpoint(
            f"{name} is a picture, not a checkpoint: the checkpoint comes first, images follow --clean and --poisoned"
        )
    if head[257:262] == b"ustar":
        raise UnsupportedCheckpoint(f"{name} is a tar archive: unpack it with tar -xf and pass the checkpoint inside")
    if head[4:8] == b"TFL3":
        raise UnsupportedCheckpoint(f"{name} is a TFLite model: pass a PyTorch state dict or safetensors file")
    if _is_onnx(head):
        raise UnsupportedCheckpoint(
            f"{name} is an ONNX model: pass the PyTorch checkpoint that it was exported from ({_STATE_DICT})"
        )
    start = head[:512].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UnsupportedCheckpoint(f"{name} is a web page, not a checkpoint: download the raw file behind the link")
    if start.startswith(b"{"):
        raise UnsupportedCheckpoint(f"{name} is JSON text, not a checkpoint: pass the weights (.safetensors, .pt)")


def _is_onnx(head: bytes) -> bool:
    """Protobuf of ModelProto: field 1 (ir_version, a small number), then another field of the message."""
    return len(head) > 4 and head[0] == 0x08 and 0 < head[1] < 64 and head[2] in (0x12, 0x1A, 0x22, 0x3A, 0x42)


def _is_pickle(path: Path) -> bool:
    """Whether the file begins with a whole pickle, of any protocol. Nothing is executed."""
    with open(path, "rb") as file:
        first = file.read(1)
        if first not in b"\x80(cdl}]ViIS":
            return False
        file.seek(0)
        try:
            count = sum(1 for _ in pickletools.genops(file))
        except Exception:  # pickletools raises whatever the bytes lead it to
            return first == b"\x80" and _torch_like(path)
    return count > 2


def _torch_like(path: Path) -> bool:
    """A pickle cut short: say so rather than call it random bytes."""
    with open(path, "rb") as file:
        head = file.read(2)
    if len(head) == 2 and 2 <= head[1] <= 5:
        raise CorruptCheckpoint(f"{plain(path)} is a truncated or damaged pickle: copy or download it again")
    return False
