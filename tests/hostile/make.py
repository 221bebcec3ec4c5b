"""Files that must not be loaded, made afresh: ``python -m tests.hostile.make FOLDER``.

Nothing hostile is kept in the repository. Each maker writes one file (or folder); the malicious ones would leave a
file named ``PWNED`` beside them if any code in them ran.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import random
import struct
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from rectify.errors import CheckpointError, CorruptCheckpoint, UnsafeCheckpoint, UnsupportedCheckpoint

SAVE = "torch.save("
TRUST = "--trust-pickle"


@dataclass(frozen=True)
class Hostile:
    """A bad file: how to make it, the error that it must give, and words that the line must hold."""

    name: str
    make: Callable[[Path], None]
    error: type[Exception]
    words: tuple[str, ...]


def state() -> dict[str, torch.Tensor]:
    """A tiny state dict."""
    return {"weight": torch.arange(12.0).reshape(3, 4), "bias": torch.zeros(3)}


def saved(value: Any, **how: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **how)
    return buffer.getvalue()


class Runs:
    """Pickles as a call of ``function(*arguments)``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def _touch(path: Path) -> str:
    return f"touch {path.parent / 'PWNED'}"


def _pickled_module(path: Path) -> None:
    path.write_bytes(saved(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())))


def _legacy_module(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path.write_bytes(saved(nn.Sequential(nn.Linear(2, 2)), _use_new_zipfile_serialization=False))


def _os_system(path: Path) -> None:
    path.write_bytes(saved({"state_dict": state(), "epoch": Runs(os.system, _touch(path))}))


def _os_system_legacy(path: Path) -> None:
    path.write_bytes(saved({"w": Runs(os.system, _touch(path))}, _use_new_zipfile_serialization=False))


def _os_system_protocol_4(path: Path) -> None:
    path.write_bytes(saved({"w": Runs(os.system, _touch(path))}, pickle_protocol=4))


def _eval_plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Runs(eval, f"open({str(path.parent / 'PWNED')!r}, 'w')"), protocol=4))


def _protocol_0(path: Path) -> None:
    path.write_bytes(f"cos\nsystem\n(S'{_touch(path)}'\ntR.".encode())


def _instance_opcode(path: Path) -> None:
    path.write_bytes(f"(S'{_touch(path)}'\nios\nsystem\n.".encode())


def _hidden_in_truncated(path: Path) -> None:
    whole = saved({"w": Runs(os.system, _touch(path))}, _use_new_zipfile_serialization=False)
    path.write_bytes(whole[: whole.index(b"touch") + 20])


def _namespace(path: Path) -> None:
    path.write_bytes(saved({"state_dict": state(), "args": argparse.Namespace(lr=0.1), "epoch": 3}))


def _numpy_scalar(path: Path) -> None:
    path.write_bytes(saved({"model": state(), "best": np.float64(0.9)}))


def _plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": [1.0, 2.0], "bias": [0.0]}))


def _protocol_4(path: Path) -> None:
    path.write_bytes(saved(state(), pickle_protocol=4))


def _torchscript(path: Path) -> None:
    code = "__torch__/net.py"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", f"code/{code}", "version"):
            archive.writestr(f"net/{name}", b"\x80\x02}.")


def _exported(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("archive_format", "models/model.json", "data/weights/weight_0"):
            archive.writestr(f"m/{name}", "pt2")


def _exported_old(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", b"")


def _package(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("p/.data/extern_modules", "torch")
        archive.writestr("p/model/model.pkl", b"")


def _onnx(path: Path) -> None:
    path.write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\x80\x01" + bytes(200))


def _lfs(path: Path) -> None:
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 46830571\n")


def _truncated_zip(path: Path) -> None:
    whole = saved(state())
    path.write_bytes(whole[: len(whole) // 2])


def _truncated_legacy(path: Path) -> None:
    path.write_bytes(saved({"w": torch.zeros(4096)}, _use_new_zipfile_serialization=False)[:-9000])


def _flipped(path: Path) -> None:
    whole = bytearray(saved(state()))
    where = whole.index(np.arange(12, dtype=np.float32).tobytes())
    whole[where + 2] ^= 0xFF
    path.write_bytes(whole)


def _zip_of_a_checkpoint(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/model.pt", saved(state()))


def _zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", b"\x80\x02}.")
        archive.writestr("m/data/0", bytes(64 << 20))


def _double_entries(path: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("m/data.pkl", b"\x80\x02}.")
        archive.writestr("m/data.pkl", b"\x80\x02].")


def _npz(path: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, weight=np.zeros(3))


def _random(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(5000))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("pickle")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"\x80\x02}."))


def _no_tensors(path: Path) -> None:
    path.write_bytes(saved({"epoch": 3, "lr": 0.1}))


def _a_list(path: Path) -> None:
    path.write_bytes(saved([torch.zeros(3)]))


def _an_empty_dictionary(path: Path) -> None:
    path.write_bytes(saved({}))


def _cycle(path: Path) -> None:
    value: dict[str, Any] = {}
    value["model"] = value
    path.write_bytes(saved(value))


def _nan(path: Path) -> None:
    tensors = state()
    tensors["bias"][1] = torch.nan
    path.write_bytes(saved(tensors))


def _infinite(path: Path) -> None:
    tensors = state()
    tensors["weight"][0, 0] = torch.inf
    path.write_bytes(safetensors.torch.save(tensors))


def _sparse(path: Path) -> None:
    path.write_bytes(saved({"weight": torch.eye(3).to_sparse()}))


def _huge_storage(path: Path) -> None:
    """A pickle that claims a storage far larger than the file."""
    whole = saved({"w": torch.zeros(77)}, _use_new_zipfile_serialization=False)
    path.write_bytes(whole.replace(b"KM", b"\x8a\x06\x00\x00\x00\x00\x00\x10"))


def _header_cut(path: Path) -> None:
    path.write_bytes(safetensors.torch.save(state())[:40])


def _data_cut(path: Path) -> None:
    path.write_bytes(safetensors.torch.save(state())[:-5])


def _header(path: Path, raw: bytes, data: bytes = b"") -> None:
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)


def _header_not_json(path: Path) -> None:
    _header(path, b'{"weight": oops}')


def _header_overlap(path: Path) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    _header(path, json.dumps({"a": entry, "b": entry}).encode(), bytes(8))


def _header_wrong_shape(path: Path) -> None:
    _header(path, json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode(), bytes(8))


def _header_nested(path: Path) -> None:
    _header(path, b'{"a":' * 50000)


def _header_of_lists(path: Path) -> None:
    _header(path, b'{"a": [1]}')


def _no_config(path: Path) -> None:
    path.mkdir()
    (path / "model.safetensors").write_bytes(safetensors.torch.save(state()))


def _no_weights(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "best.pt").write_bytes(saved(state()))


def _empty_folder(path: Path) -> None:
    path.mkdir()


def _sharded(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors.index.json").write_text("{}")


def _broken_config(path: Path) -> None:
    _no_config(path)
    (path / "config.json").write_text("{'architecture': resnet18")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _missing(path: Path) -> None:
    path.with_name("missing.pth").write_bytes(b"x")


def _escape_in_name(path: Path) -> None:
    path.write_bytes(saved({"a\x1b[31m\nb": torch.tensor([torch.nan])}))


def _web_page(path: Path) -> None:
    path.write_text("\n<!DOCTYPE html><html><body>Not Found</body></html>")


def _picture(path: Path) -> None:
    Image.new("RGB", (8, 8)).save(path, "PNG")


FILES: tuple[Hostile, ...] = (
    Hostile("module.pt", _pickled_module, UnsafeCheckpoint, ("torch.nn.modules.container.Sequential", SAVE, TRUST)),
    Hostile("module_legacy.pt", _legacy_module, UnsafeCheckpoint, ("torch.nn.modules", SAVE, TRUST)),
    Hostile("system.pt", _os_system, UnsafeCheckpoint, ("os.system", "state dict", TRUST)),
    Hostile("system_legacy.pt", _os_system_legacy, UnsafeCheckpoint, ("os.system", "state dict", TRUST)),
    Hostile("system_p4.pt", _os_system_protocol_4, UnsafeCheckpoint, ("os.system", "state dict", TRUST)),
    Hostile("eval.pkl", _eval_plain_pickle, UnsafeCheckpoint, ("builtins.eval", "state dict", TRUST)),
    Hostile("protocol0.pkl", _protocol_0, UnsafeCheckpoint, ("os.system", "state dict", TRUST)),
    Hostile("inst.pkl", _instance_opcode, UnsafeCheckpoint, ("os.system", "state dict", TRUST)),
    Hostile("system_cut.pt", _hidden_in_truncated, UnsafeCheckpoint, ("os.system",)),
    Hostile("args.pt", _namespace, UnsafeCheckpoint, ("argparse.Namespace", SAVE, TRUST)),
    Hostile("best.pt", _numpy_scalar, UnsafeCheckpoint, ("numpy", SAVE, TRUST)),
    Hostile("plain.pkl", _plain_pickle, UnsupportedCheckpoint, ("pickle.dump", SAVE, TRUST)),
    Hostile("protocol4.pt", _protocol_4, UnsafeCheckpoint, (SAVE, TRUST)),
    Hostile("script.pt", _torchscript, UnsupportedCheckpoint, ("TorchScript", "torch.jit.load", SAVE)),
    Hostile("exported.pt2", _exported, UnsupportedCheckpoint, (".pt2", "torch.export.load", SAVE)),
    Hostile("exported_old.pt2", _exported_old, UnsupportedCheckpoint, (".pt2", SAVE)),
    Hostile("package.pt", _package, UnsupportedCheckpoint, ("torch.package", SAVE)),
    Hostile("net.onnx", _onnx, UnsupportedCheckpoint, ("ONNX", SAVE)),
    Hostile("pointer.pt", _lfs, UnsupportedCheckpoint, ("Git-LFS pointer", "git lfs pull")),
    Hostile("cut.pt", _truncated_zip, CorruptCheckpoint, ("truncated", "again")),
    Hostile("cut_legacy.pt", _truncated_legacy, CorruptCheckpoint, ("truncated", "again")),
    Hostile("flipped.pt", _flipped, CorruptCheckpoint, ("checksum", "again")),
    Hostile("zipped.zip", _zip_of_a_checkpoint, UnsupportedCheckpoint, ("weights/model.pt", "unpack")),
    Hostile("bomb.pt", _zip_bomb, CorruptCheckpoint, ("bomb",)),
    Hostile("double.pt", _double_entries, CorruptCheckpoint, ("doubled", SAVE)),
    Hostile("arrays.npz", _npz, UnsupportedCheckpoint, ("weight.npy",)),
    Hostile("random.pt", _random, CorruptCheckpoint, ("no checkpoint", SAVE)),
    Hostile("empty.pt", _empty, CorruptCheckpoint, ("empty", "again")),
    Hostile("old.tar", _tar, UnsupportedCheckpoint, ("tar",)),
    Hostile("notensors.pt", _no_tensors, CorruptCheckpoint, ("no tensors", "epoch, lr", SAVE)),
    Hostile("list.pt", _a_list, CorruptCheckpoint, ("list", SAVE)),
    Hostile("nothing.pt", _an_empty_dictionary, CorruptCheckpoint, ("no tensors", "empty dictionary", SAVE)),
    Hostile("cycle.pt", _cycle, CorruptCheckpoint, ("no tensors", SAVE)),
    Hostile("nan.pt", _nan, CorruptCheckpoint, ("'bias'", "1 NaN", "earlier checkpoint")),
    Hostile("inf.safetensors", _infinite, CorruptCheckpoint, ("'weight'", "infinite")),
    Hostile("sparse.pt", _sparse, UnsupportedCheckpoint, ("'weight'", "sparse")),
    Hostile("huge.pt", _huge_storage, CorruptCheckpoint, ("damaged", "again")),
    Hostile("header_cut.safetensors", _header_cut, CorruptCheckpoint, ("cut short", "header", "again")),
    Hostile("data_cut.safetensors", _data_cut, CorruptCheckpoint, ("cut short", "again")),
    Hostile("header_json.safetensors", _header_not_json, CorruptCheckpoint, ("header", "again")),
    Hostile("overlap.safetensors", _header_overlap, CorruptCheckpoint, ("damaged", "again")),
    Hostile("shape.safetensors", _header_wrong_shape, CorruptCheckpoint, ("damaged", "again")),
    Hostile("nested.safetensors", _header_nested, CorruptCheckpoint, ("header", "again")),
    Hostile("lists.safetensors", _header_of_lists, CorruptCheckpoint, ("header", "again")),
    Hostile("no_config", _no_config, CheckpointError, ("config.json", "--arch")),
    Hostile("no_weights", _no_weights, CheckpointError, ("model.safetensors", "best.pt")),
    Hostile("empty_folder", _empty_folder, CheckpointError, ("folder", "checkpoint file")),
    Hostile("sharded", _sharded, UnsupportedCheckpoint, ("several files", "join")),
    Hostile("broken_config", _broken_config, CorruptCheckpoint, ("config.json", "JSON")),
    Hostile("pipe.pt", _pipe, CheckpointError, ("neither a file nor a folder",)),
    Hostile("missing.pt", _missing, CheckpointError, ("no such file", "did you mean", "missing.pth")),
    Hostile("escape.pt", _escape_in_name, CorruptCheckpoint, (r"a\x1b[31m\nb", "NaN")),
    Hostile("page.pt", _web_page, UnsupportedCheckpoint, ("web page", "raw file")),
    Hostile("picture.pt", _picture, UnsupportedCheckpoint, ("picture", "--clean")),
)


def main(folder: Path) -> None:
    """Write every file into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in FILES:
        each.make(folder / each.name)
    print(f"{len(FILES)} files in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
