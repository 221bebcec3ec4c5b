"""From a picture to the network's input and back: the five numbers that timm calls pretrained_cfg."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from rectify.errors import PreprocessError
from rectify.files.aliases import too_much
from rectify.files.words import did_you_mean, no_such_file, plain, quoted, reason

KEYS = ("input_size", "mean", "std", "crop_pct", "interpolation", "crop_mode")
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
PRESETS: dict[str, dict[str, Any]] = {
    "imagenet": {
        "input_size": [3, 224, 224],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "crop_pct": 0.875,
    },
    "cifar10": {"input_size": [3, 32, 32], "mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616]},
    "cifar100": {"input_size": [3, 32, 32], "mean": [0.5071, 0.4865, 0.4409], "std": [0.2673, 0.2564, 0.2762]},
    "mnist": {"input_size": [1, 28, 28], "mean": [0.1307], "std": [0.3081]},
    "fashion-mnist": {"input_size": [1, 28, 28], "mean": [0.2860], "std": [0.3530]},
}


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the network's input.

    Attributes
    ----------
    input_size : tuple of int
        (C, H, W); one channel means greyscale.
    mean, std : tuple of float
        One entry a channel, in units of 0..1.
    crop_pct : float
        Share of the resized image that the centre crop keeps.
    interpolation : str
        One of nearest, bilinear, bicubic, lanczos, box, hamming.
    crop_mode : str
        ``center``, or ``squash``: resize height and width apart, whatever the picture's shape.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float = 1.0
    interpolation: str = "bilinear"
    crop_mode: str = "center"

    def to_dict(self) -> dict[str, Any]:
        """JSON values that `from_dict` takes back; ``crop_mode`` only where it is not ``center``."""
        values: dict[str, Any] = {
            "input_size": list(self.input_size),
            "mean": list(self.mean),
            "std": list(self.std),
            "crop_pct": self.crop_pct,
            "interpolation": self.interpolation,
        }
        return values if self.crop_mode == "center" else {**values, "crop_mode": self.crop_mode}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: Path | str) -> Preprocess:
        """Check and take over values by timm's names.

        Parameters
        ----------
        values : mapping
            ``input_size`` (a number or [C, H, W]), ``mean``, ``std`` (lists in units of 0..1; one entry means one
            channel), and optionally ``crop_pct``, ``interpolation``, ``crop_mode``.
        source : Path or str
            Where the values come from, for messages.

        Returns
        -------
        Preprocess
            The checked values.

        Raises
        ------
        PreprocessError
            On a missing, unknown or impossible value, naming key, value and source.
        """
        where = plain(source)
        for key in values:
            if key not in KEYS:
                raise PreprocessError(f"{where}: unknown key {quoted(key)}; {did_you_mean(str(key), KEYS)}")
        for key in ("input_size", "mean", "std"):
            if values.get(key) is None:
                raise PreprocessError(f"{where}: {key} is missing; {_EXAMPLE[key]}")
        mean = _numbers(values["mean"], "mean", where)
        std = _numbers(values["std"], "std", where)
        size = _size(values["input_size"], len(mean), where)
        if len(std) != len(mean) or size[0] != len(mean):
            raise PreprocessError(
                f"{where}: input_size has {size[0]} channels, mean {len(mean)} entries, std {len(std)}; "
                "they must be as many, one for greyscale and three for colour"
            )
        crop = _number(values.get("crop_pct", 1.0), "crop_pct", where)
        if not 0 < crop <= 1:
            raise PreprocessError(f"{where}: crop_pct is {crop}; it must lie in (0, 1], such as 0.875")
        filter_name = _choice(values.get("interpolation", "bilinear"), "interpolation", tuple(FILTERS), where)
        mode = _choice(values.get("crop_mode", "center"), "crop_mode", ("center", "squash"), where)
        return cls(size, mean, std, crop, filter_name, mode)

    def tensor(self, image: Image.Image) -> Tensor:
        """Resize, crop and normalise one picture.

        An image that has the input size already, with ``crop_pct`` 1, is not resampled: its values go through
        bit for bit.

        Parameters
        ----------
        image : PIL.Image.Image
            Any mode; converted to greyscale for one channel, else to RGB.

        Returns
        -------
        Tensor
            (C, H, W), float32, normalised.
        """
        channels, height, width = self.input_size
        fitted = self._fit(image.convert("L" if channels == 1 else "RGB"), height, width)
        pixels = torch.from_numpy(np.array(fitted, dtype=np.uint8)).reshape(height, width, channels)
        values = pixels.permute(2, 0, 1).contiguous().to(torch.float32).div_(255)
        return values.sub_(_column(self.mean)).div_(_column(self.std))

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of a picture of ``width`` x ``height`` once it is resized, before it is cropped."""
        across, down = (math.floor(side / self.crop_pct) for side in (self.input_size[2], self.input_size[1]))
        if self.crop_mode == "squash":
            return across, down
        if down * width >= across * height:  # cover the rectangle: the shorter side matches, the longer one sticks out
            return down * width // height, down
        return across, across * height // width

    def _fit(self, image: Image.Image, height: int, width: int) -> Image.Image:
        size = self.resized(image.width, image.height)
        if size != image.size:
            image = image.resize(size, FILTERS[self.interpolation])
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        if (left, top, image.size) == (0, 0, (width, height)):
            return image
        return image.crop((left, top, left + width, top + height))

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Normalised values of a black and of a white pixel.

        Returns
        -------
        low, high : Tensor
            Each (C, 1, 1), float32.
        """
        mean, std = _column(self.mean), _column(self.std)
        return (0 - mean) / std, (1 - mean) / std

    def pixels(self, x: Tensor) -> Tensor:
        """Undo the normalisation.

        Parameters
        ----------
        x : Tensor
            (…, C, H, W), normalised.

        Returns
        -------
        Tensor
            Same shape and device, in 0..1.
        """
        mean, std = _column(self.mean).to(x), _column(self.std).to(x)
        return (x * std + mean).clamp(0, 1)


_EXAMPLE = {
    "input_size": "give a number or [C, H, W], such as --input-size 224",
    "mean": "give one value a channel in 0..1, such as --mean 0.485,0.456,0.406",
    "std": "give one value a channel in 0..1, such as --std 0.229,0.224,0.225",
}


def _column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)


def _number(value: Any, key: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PreprocessError(f"{where}: {key} is {quoted(value)}; it must be a number")
    return float(value)


def _numbers(value: Any, key: str, where: str) -> tuple[float, ...]:
    items = value if isinstance(value, list | tuple) else [value]
    numbers = tuple(_number(item, key, where) for item in items)
    if len(numbers) not in (1, 3):
        raise PreprocessError(f"{where}: {key} has {len(numbers)} entries; one for greyscale, three for colour")
    if any(number < 0 or number > 1 or (key == "std" and number == 0) for number in numbers):
        hint = "divide by 255: the units are 0..1" if max(numbers) > 1 else "the units are 0..1"
        raise PreprocessError(f"{where}: {key} is {plain(list(numbers))}; {hint}{', above 0' if key == 'std' else ''}")
    return numbers


def _size(value: Any, channels: int, where: str) -> tuple[int, int, int]:
    items = list(value) if isinstance(value, list | tuple) else [channels, value, value]
    whole = [int(item) for item in items if isinstance(item, int) and not isinstance(item, bool) and item > 0]
    if len(whole) != 3 or len(items) != 3 or max(whole) > 16384:
        raise PreprocessError(f"{where}: input_size is {quoted(value)}; {_EXAMPLE['input_size']}")
    return whole[0], whole[1], whole[2]


def _choice(value: Any, key: str, options: tuple[str, ...], where: str) -> str:
    if value not in options:
        raise PreprocessError(f"{where}: {key} is {quoted(value)}; {did_you_mean(str(value), options)}")
    return str(value)


def read_preprocess(path: Path | str) -> Preprocess:
    """Preprocessing from a YAML or JSON file, or a named preset.

    Parameters
    ----------
    path : Path or str
        A file; or, where there is no such file, one of `PRESETS`, or a torchvision weights entry such as
        ``ResNet50_Weights.IMAGENET1K_V2``.

    Returns
    -------
    Preprocess
        The checked values.

    Raises
    ------
    PreprocessError
        If it is neither, or malformed.
    """
    path = Path(path)
    if os.path.isfile(path):
        return Preprocess.from_dict(_mapping(path), path)
    name = str(path)
    if name in PRESETS:
        return Preprocess.from_dict(PRESETS[name], name)
    if "_Weights." in name:
        return _torchvision_preset(name)
    if path.suffix in (".yaml", ".yml", ".json") or path.parent != Path() or os.path.exists(path):
        raise PreprocessError(f"--preprocess: {no_such_file(path)}")
    raise PreprocessError(f"--preprocess {plain(name)}: no such file or preset; {did_you_mean(name, tuple(PRESETS))}")


def _mapping(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except UnicodeDecodeError:
        raise PreprocessError(f"{plain(path)} is no text: give a YAML or JSON file, or a preset") from None
    except (ValueError, OSError, yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        what = f"{getattr(error, 'problem', '')} in line {mark.line + 1}" if mark else reason(error)
        raise PreprocessError(f"{plain(path)} cannot be read as YAML or JSON: {plain(what)}") from None
    if wrong := too_much(values):
        raise PreprocessError(f"{plain(path)}: {wrong}")
    if not isinstance(values, dict):
        raise PreprocessError(f"{plain(path)} holds no keys; {_EXAMPLE['input_size']}, mean and std, one a line")
    return {str(key): value for key, value in values.items()}


def _torchvision_preset(name: str) -> Preprocess:
    """The transforms that torchvision publishes with one of its weights."""
    from torchvision import models  # type: ignore[import-untyped]

    try:
        preset = models.get_weight(name).transforms()
        crop, resize = preset.crop_size[0], preset.resize_size[0]
        values = {"input_size": crop, "mean": preset.mean, "std": preset.std, "crop_pct": crop / resize}
        return Preprocess.from_dict({**values, "interpolation": preset.interpolation.value}, name)
    except (ValueError, AttributeError, KeyError) as error:
        raise PreprocessError(
            f"--preprocess {plain(name)}: torchvision has no such weights for classification ({reason(error)})"
        ) from None
