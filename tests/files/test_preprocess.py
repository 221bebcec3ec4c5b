"""Preprocessing: the same numbers as torchvision and timm, and no nonsense let through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rectify.errors import PreprocessError
from rectify.files.preprocess import FILTERS, PRESETS, Preprocess, read_preprocess

GOOD: dict[str, Any] = {"input_size": [3, 8, 8], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.5]}


def image(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def test_an_image_of_the_input_size_goes_through_bit_for_bit() -> None:
    preprocess = Preprocess.from_dict(GOOD, "test")
    picture = image(8, 8)
    x = preprocess.tensor(picture)
    assert x.shape == (3, 8, 8) and x.dtype == torch.float32 and x.is_contiguous()
    pixels = np.asarray(picture, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    mean, std = (np.array(GOOD[key], dtype=np.float32).reshape(3, 1, 1) for key in ("mean", "std"))
    assert np.array_equal(x.numpy(), (pixels - mean) / std)
    back = (preprocess.pixels(x) * 255).round().to(torch.uint8)
    assert np.array_equal(back.permute(1, 2, 0).numpy(), np.asarray(picture))


@pytest.mark.parametrize("size", [(8, 8), (40, 30), (30, 40), (33, 100), (7, 9), (300, 200)])
@pytest.mark.parametrize("crop", [1.0, 0.875, 0.9])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_equal_to_torchvision(size: tuple[int, int], crop: float, interpolation: str) -> None:
    from torchvision import transforms  # type: ignore[import-untyped]
    from torchvision.transforms import InterpolationMode  # type: ignore[import-untyped]

    preprocess = Preprocess.from_dict({**GOOD, "crop_pct": crop, "interpolation": interpolation}, "test")
    reference = transforms.Compose(
        [
            transforms.Resize(int(8 / crop), InterpolationMode(interpolation)),
            transforms.CenterCrop(8),
            transforms.ToTensor(),
            transforms.Normalize(GOOD["mean"], GOOD["std"]),
        ]
    )
    picture = image(*size)
    assert torch.equal(preprocess.tensor(picture), reference(picture))


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (100, 20), (20, 100), (8, 8)])
@pytest.mark.parametrize("mode", ["center", "squash"])
def test_equal_to_timm(size: tuple[int, int], mode: str) -> None:
    from timm.data import create_transform  # type: ignore[attr-defined]

    values = {"input_size": [3, 12, 20], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9, "crop_mode": mode}
    preprocess = Preprocess.from_dict(values, "test")
    reference = create_transform(
        (3, 12, 20), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.9, crop_mode=mode, interpolation="bilinear"
    )
    picture = image(*size)
    found, expected = preprocess.tensor(picture), reference(picture)
    assert found.shape == expected.shape == (3, 12, 20)
    if mode == "squash":  # timm rounds the longer side of a cover the other way, by at most one pixel
        assert torch.allclose(found, expected, atol=1e-6)


def test_greyscale() -> None:
    preprocess = Preprocess.from_dict({"input_size": 28, "mean": [0.1307], "std": [0.3081]}, "test")
    assert preprocess.input_size == (1, 28, 28)
    assert preprocess.tensor(image(28, 28)).shape == (1, 28, 28)
    grey = image(28, 28, "L")
    assert torch.equal(preprocess.tensor(grey), preprocess.tensor(grey.convert("RGB")))


def test_bounds_are_black_and_white() -> None:
    preprocess = Preprocess.from_dict(GOOD, "test")
    low, high = preprocess.bounds()
    assert low.shape == high.shape == (3, 1, 1)
    for value, bound in ((0, low), (255, high)):
        x = preprocess.tensor(Image.new("RGB", (8, 8), (value,) * 3))
        assert torch.equal(x, bound.expand(3, 8, 8))


def test_pixels_are_clamped_and_keep_leading_axes() -> None:
    preprocess = Preprocess.from_dict(GOOD, "test")
    x = torch.full((2, 5, 3, 8, 8), 100.0, dtype=torch.float64)
    assert preprocess.pixels(x).shape == x.shape and preprocess.pixels(x).dtype == torch.float64
    assert preprocess.pixels(x).max() == 1 and preprocess.pixels(-x).min() == 0


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets(name: str) -> None:
    preprocess = read_preprocess(name)
    assert preprocess.input_size[0] == len(preprocess.mean) == len(preprocess.std)
    assert Preprocess.from_dict(preprocess.to_dict(), "again") == preprocess


def test_presets_agree_with_the_zoo() -> None:
    from benchmarks.zoo.datasets import MEAN_STD

    for name, (mean, std) in MEAN_STD.items():
        assert (PRESETS[name]["mean"], PRESETS[name]["std"]) == (mean, std)


def test_torchvision_preset() -> None:
    preprocess = read_preprocess("ResNet50_Weights.IMAGENET1K_V2")
    assert preprocess.input_size == (3, 224, 224) and int(224 / preprocess.crop_pct) == 232
    assert preprocess.mean == (0.485, 0.456, 0.406)
    for name in ("ResNet50_Weights.NONSENSE", "No_Weights.X", "FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1"):
        with pytest.raises(PreprocessError, match="no such weights for classification"):
            read_preprocess(name)


@pytest.mark.parametrize("suffix", [".yaml", ".json", ".txt"])
def test_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"p{suffix}"
    path.write_text(json.dumps({**GOOD, "crop_pct": 0.9}))  # JSON is YAML too
    assert read_preprocess(path).crop_pct == 0.9


def test_yaml(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "\ufeffinput_size: 32  # comment\nmean: 0.5\nstd: [0.25]\ninterpolation: bicubic\n", encoding="utf-8"
    )
    assert read_preprocess(path) == Preprocess((1, 32, 32), (0.5,), (0.25,), 1.0, "bicubic")


def test_a_file_before_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mnist").write_text("{input_size: 5, mean: 0.5, std: 0.5}")
    monkeypatch.chdir(tmp_path)
    assert read_preprocess("mnist").input_size == (1, 5, 5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("imagnet", "did you mean imagenet?"),
        ("zzz", "one of imagenet, cifar10"),
        ("pp.yaml", r"no such file: pp\.yaml; did you mean p\.yaml"),
        ("no/p.yaml", "the folder no does not exist"),
    ],
)
def test_unknown_names(name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.yaml").write_text("x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PreprocessError, match=words) as caught:
        read_preprocess(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no keys"),
        ("[1, 2]", "holds no keys"),
        ("just words", "holds no keys"),
        ("a: [1", "cannot be read as YAML or JSON: .*in line 1"),
        ("a: !!python/object/apply:os.system [true]", "cannot be read"),
        ("\x00", "cannot be read"),
        ("input_size: 3\nmean: 0.5", "std is missing"),
    ],
)
def test_broken_files(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(PreprocessError, match=words) as caught:
        read_preprocess(tmp_path / "p.yaml")
    assert "\n" not in str(caught.value) and "p.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input_size": None}, "here: input_size is missing; give a number"),
        ({"mean": None}, "mean is missing"),
        ({"std": None}, "std is missing"),
        ({"size": 3}, "unknown key 'size'; did you mean"),
        ({"crop_percent": 3}, "unknown key 'crop_percent'; did you mean crop_pct"),
        ({"mean": [123.7, 116.3, 103.5]}, "divide by 255"),
        ({"std": [58.4, 57.1, 57.4]}, "divide by 255"),
        ({"std": [0.2, 0.0, 0.2]}, "above 0"),
        ({"mean": [-0.1, 0.1, 0.1]}, "units are 0..1"),
        ({"mean": [0.5, 0.5]}, "mean has 2 entries"),
        ({"mean": []}, "mean has 0 entries"),
        ({"mean": [0.5]}, "input_size has 3 channels, mean 1 entries, std 3"),
        ({"std": [0.5]}, "must be as many"),
        ({"mean": "0.5"}, "mean is '0.5'; it must be a number"),
        ({"mean": [0.5, True, 0.5]}, "must be a number"),
        ({"mean": [0.5, float("nan"), 0.5]}, "must be a number"),
        ({"mean": [[0.5], 0.5, 0.5]}, "must be a number"),
        ({"input_size": 0}, "input_size is '0'; give a number"),
        ({"input_size": -8}, "give a number"),
        ({"input_size": 7.5}, "give a number"),
        ({"input_size": True}, "give a number"),
        ({"input_size": "224"}, "give a number"),
        ({"input_size": [8, 8]}, "give a number"),
        ({"input_size": [3, 8, 8, 8]}, "give a number"),
        ({"input_size": [8, 8, 3]}, "8 channels"),
        ({"input_size": 10**9}, "give a number"),
        ({"crop_pct": 0}, "crop_pct is 0"),
        ({"crop_pct": 87.5}, "such as 0.875"),
        ({"crop_pct": "x"}, "must be a number"),
        ({"interpolation": "bilinaer"}, "did you mean bilinear"),
        ({"interpolation": 3}, "interpolation is '3'"),
        ({"interpolation": ["bilinear"]}, "interpolation is"),
        ({"crop_mode": "border"}, "crop_mode is 'border'"),
    ],
)
def test_nonsense(change: dict[str, Any], words: str) -> None:
    with pytest.raises(PreprocessError, match=words) as caught:
        Preprocess.from_dict({**GOOD, **change}, "here")
    line = str(caught.value)
    assert line.startswith("here: ") and "\n" not in line


def test_dictionary_round_trip() -> None:
    for name in FILTERS:
        preprocess = Preprocess.from_dict({**GOOD, "interpolation": name, "crop_pct": 1}, "test")
        values = preprocess.to_dict()
        assert json.loads(json.dumps(values)) == values and "crop_mode" not in values
        assert Preprocess.from_dict(values, "again") == preprocess
    squash = Preprocess.from_dict({**GOOD, "crop_mode": "squash"}, "test")
    assert Preprocess.from_dict(squash.to_dict(), "again") == squash


def test_what_is_no_file(fifo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fifo.parent)
    Path("folder").mkdir()
    for path, words in ((fifo, "neither a file"), (Path("fifo.png"), "neither a file"), (Path("folder"), "a folder:")):
        with pytest.raises(PreprocessError) as caught:
            read_preprocess(path)
        assert str(caught.value).startswith(f"--preprocess: {path} is {words}")


@pytest.mark.parametrize("text", ["mean: &g [*g]", "interpolation: &g {a: *g}", "&g\n  std: *g"])
def test_an_alias_inside_of_what_it_names(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("input_size: 8\nstd: 0.5\n" * (not text.startswith("&")) + text)
    with pytest.raises(PreprocessError, match=r"p\.yaml: too deeply nested, or an alias"):
        read_preprocess(tmp_path / "p.yaml")
