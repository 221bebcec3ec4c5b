"""A model folder as timm and Hugging Face write it: config.json, weights, sometimes preprocessor_config.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rectify.errors import CheckpointError, CorruptCheckpoint, PreprocessError, UnsupportedCheckpoint
from rectify.files.preprocess import Preprocess
from rectify.files.words import listed, plain, quoted, reason

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_WAY_OUT = "pass --input-size, --mean and --std"  # whoever reports the problem adds --preprocess FILE
_BYTE = 1 / 255  # what pixels are multiplied by, unless a processor says otherwise
_UNKNOWN = ("do_flip_channel_order", "do_pad", "rescale_offset", "offset", "include_top")  # of some, where it is true
_PIL_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


@dataclass(frozen=True)
class ModelFolder:
    """What a folder says of its model."""

    weights: Path
    arch: str | None
    arch_args: dict[str, Any] = field(default_factory=dict)
    num_classes: int | None = None
    preprocess: Preprocess | None = None
    preprocess_problem: str = ""
    prefix: str | None = None  # what the wrapping library puts in front of every name


def read_model_folder(path: Path) -> ModelFolder:
    """Read config.json and preprocessor_config.json of a model folder.

    Parameters
    ----------
    path : Path
        The folder.

    Returns
    -------
    ModelFolder
        The weights' path, and the architecture and preprocessing as far as the folder tells them.

    Raises
    ------
    CheckpointError
        If config.json or the weights are missing.
    CorruptCheckpoint
        If config.json is no JSON object.
    UnsupportedCheckpoint
        If the weights are split into several files.

    Notes
    -----
    Malformed preprocessing is kept as `ModelFolder.preprocess_problem`, since the user may pass another.
    """
    weights = _find_weights(path)
    config = _json(path / "config.json")
    processor = _json(path / "preprocessor_config.json") if (path / "preprocessor_config.json").is_file() else None
    preprocess, problem = None, ""
    try:
        preprocess = _preprocess(path, config, processor)
    except PreprocessError as error:
        problem = str(error)
    timm_name = config.get("architecture")
    if isinstance(timm_name, str):
        arch: str | None = f"timm:{timm_name}"
    else:
        classes = config.get("architectures")
        arch = f"transformers:{classes[0]}" if isinstance(classes, list) and classes else None
    wrapped = str(config.get("model_type")) == "timm_wrapper"
    model_args = config.get("model_args")
    return ModelFolder(
        weights=weights,
        arch=arch,
        arch_args=dict(model_args) if isinstance(model_args, Mapping) else {},
        num_classes=_num_classes(config),
        preprocess=preprocess,
        preprocess_problem=problem,
        prefix="timm_model." if wrapped else None,
    )


def _find_weights(path: Path) -> Path:
    name = plain(path)
    weights = next((path / each for each in WEIGHTS if (path / each).is_file()), None)
    if weights is None:
        if any((path / f"{each}.index.json").is_file() for each in WEIGHTS):
            raise UnsupportedCheckpoint(
                f"{name} splits its weights into several files: join them into one model.safetensors first"
            )
        found = [p for p in path.iterdir() if p.suffix in (".pt", ".pth", ".safetensors", ".bin", ".ckpt")]
        others = sorted(found, key=lambda p: ("delta" in p.stem.lower(), p))  # a delta is no model
        hint = f"did you mean {listed(others)}?" if others else "give the path of a checkpoint file"
        raise CheckpointError(f"{name} is a folder without model.safetensors: {hint}")
    if not (path / "config.json").is_file():
        raise CheckpointError(
            f"{name} is a folder without config.json, so its architecture is unknown: "
            f"pass {plain(weights)} --arch NAME instead"
        )
    return weights


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CorruptCheckpoint(f"{plain(path)} cannot be read as JSON ({reason(error)}): copy it again") from None
    if not isinstance(content, dict):
        raise CorruptCheckpoint(f"{plain(path)} holds no JSON object: copy it again")
    return content


def _num_classes(config: Mapping[str, Any]) -> int | None:
    for value in (config.get("num_classes"), config.get("num_labels")):
        if isinstance(value, int) and value > 0:
            return value
    labels = config.get("id2label")
    return len(labels) if isinstance(labels, Mapping) and labels else None


def _preprocess(path: Path, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Preprocess | None:
    if processor is not None and ("image_mean" in processor or "size" in processor):
        return _from_processor(processor, path / "preprocessor_config.json")
    inner = config.get("pretrained_cfg")
    cfg = inner if isinstance(inner, Mapping) else config  # older timm wrote the same keys at the top
    return from_timm(cfg, path / "config.json")


def from_timm(cfg: Mapping[str, Any], source: Path | str) -> Preprocess | None:
    """Preprocessing out of timm's pretrained_cfg, or None if it does not say all that is needed.

    Parameters
    ----------
    cfg : mapping
        ``input_size``, ``mean``, ``std`` and, if told, ``crop_pct``, ``interpolation``, ``crop_mode``.
    source : Path or str
        Where it comes from, for messages.

    Raises
    ------
    PreprocessError
        If a value is malformed.
    """
    if any(cfg.get(key) is None for key in ("input_size", "mean", "std")):
        return None
    keys = ("input_size", "mean", "std", "crop_pct", "interpolation", "crop_mode")
    return Preprocess.from_dict({key: cfg[key] for key in keys if cfg.get(key) is not None}, source)


def _from_processor(processor: Mapping[str, Any], source: Path | str) -> Preprocess:
    """Hugging Face's image processors: sizes as a number or a dict, the filter as PIL's number."""
    if not _says(processor, "do_resize", True, source):
        raise _not_ours("do_resize is false, and images must have one size", source)
    for key in _UNKNOWN:
        if processor.get(key):
            raise _not_ours(f"{key} is {quoted(processor[key])}, which is not done here", source)
    crops = _says(processor, "do_center_crop", False, source)
    mean, std = _normalisation(processor, source)
    shorter, size = _sides(processor.get("size"), source)
    target = _sides(processor["crop_size"], source)[1] if crops and processor.get("crop_size") is not None else size
    if target[0] > size[0] or target[1] > size[1]:
        raise _not_ours("crop_size is larger than size, and no image is padded here", source)
    told = processor.get("crop_pct")
    crop_pct = min(target) / shorter if told is None else told
    squash = isinstance(processor.get("size"), Mapping) and "shortest_edge" not in processor["size"]
    squash = squash and not crops  # height and width given: both are met, whatever the shape
    if told is not None and not crops and shorter >= 384:
        crop_pct, squash = 1.0, True  # ConvNeXt's processor resizes large images without a crop
    wanted = {
        "input_size": [len(mean), *target],
        "mean": mean,
        "std": std,
        "crop_pct": crop_pct,
        "interpolation": _filter(processor.get("resample"), source),
    }
    if squash:
        wanted["crop_mode"] = "squash"
    return Preprocess.from_dict(wanted, source)


def _normalisation(processor: Mapping[str, Any], source: Path | str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation in units of 0..1, whatever pixels are multiplied by before they are applied."""
    mean, std = processor.get("image_mean"), processor.get("image_std")
    if not _says(processor, "do_normalize", True, source):
        channels = len(mean) if isinstance(mean, list) and mean else 3
        mean, std = [0.0] * channels, [1.0] * channels
    if not isinstance(mean, list) or not isinstance(std, list) or not all(map(_is_number, mean + std)):
        raise PreprocessError(f"{plain(source)} lacks image_mean or image_std: pass --mean and --std")
    factor = processor.get("rescale_factor")
    if not _says(processor, "do_rescale", True, source):
        factor = 1.0
    elif factor is None:
        factor = _BYTE
    elif not _is_number(factor) or factor <= 0:
        raise _not_ours(f"rescale_factor is {quoted(factor)}", source)
    if math.isclose(factor, _BYTE, rel_tol=1e-6):
        return mean, std
    # (f x - mean) / std of bytes x is (x / 255 - mean / 255 f) / (std / 255 f)
    return [entry / (255 * factor) for entry in mean], [entry / (255 * factor) for entry in std]


def _says(processor: Mapping[str, Any], key: str, default: bool, source: Path | str) -> bool:
    value = processor.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _not_ours(f"{key} is {quoted(value)}, neither true nor false", source)
    return value


def _filter(number: Any, source: Path | str) -> str:
    if number is None:
        return "bilinear"
    if isinstance(number, bool) or not isinstance(number, int) or number not in _PIL_FILTERS:
        raise _not_ours(f"resample is {quoted(number)}, no filter of PIL", source)
    return _PIL_FILTERS[number]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _not_ours(what: str, source: Path | str) -> PreprocessError:
    return PreprocessError(f"{plain(source)}: {what}: {_WAY_OUT}")


def _sides(size: Any, source: Path | str) -> tuple[int, tuple[int, int]]:
    """Shorter side, and (height, width), of Hugging Face's size."""
    if isinstance(size, Mapping):
        if _is_side(size.get("shortest_edge")):
            return size["shortest_edge"], (size["shortest_edge"],) * 2
        if _is_side(size.get("height")) and _is_side(size.get("width")):
            return min(size["height"], size["width"]), (size["height"], size["width"])
    if _is_side(size):
        return size, (size, size)
    raise PreprocessError(f"{plain(source)} has a size that rectify does not understand: pass --input-size")
