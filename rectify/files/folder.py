"""A model folder as timm and Hugging Face write it: config.json, weights, sometimes preprocessor_config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rectify.errors import CheckpointError, CorruptCheckpoint, PreprocessError, UnsupportedCheckpoint
from rectify.files.preprocess import Preprocess
from rectify.files.words import listed, plain, reason

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
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
        return _from_processor(processor, str(path / "preprocessor_config.json"))
    inner = config.get("pretrained_cfg")
    cfg = inner if isinstance(inner, Mapping) else config  # older timm wrote the same keys at the top
    return from_timm(cfg, str(path / "config.json"))


def from_timm(cfg: Mapping[str, Any], source: str) -> Preprocess | None:
    """Preprocessing out of timm's pretrained_cfg, or None if it does not say all that is needed.

    Parameters
    ----------
    cfg : mapping
        ``input_size``, ``mean``, ``std`` and, if told, ``crop_pct``, ``interpolation``, ``crop_mode``.
    source : str
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


def _from_processor(processor: Mapping[str, Any], source: str) -> Preprocess:
    """Hugging Face's image processors: sizes as a number or a dict, the filter as PIL's number."""
    if processor.get("do_normalize", True):
        mean, std = processor.get("image_mean"), processor.get("image_std")
    else:
        channels = len(processor.get("image_mean") or [0, 0, 0])
        mean, std = [0.0] * channels, [1.0] * channels
    if not isinstance(mean, list) or not isinstance(std, list):
        raise PreprocessError(f"{plain(source)} lacks image_mean or image_std: pass --mean and --std")
    shorter, size = _sides(processor.get("size"), source)
    if processor.get("do_center_crop") and processor.get("crop_size") is not None:
        target = _sides(processor["crop_size"], source)[1]
    else:
        target = size
    crop_pct = processor.get("crop_pct") or min(1.0, min(target) / shorter)
    squash = isinstance(processor.get("size"), Mapping) and "shortest_edge" not in processor["size"]
    squash = squash and not processor.get("do_center_crop")  # height and width given: both are met, whatever the shape
    if "crop_pct" in processor and not processor.get("do_center_crop") and shorter >= 384:
        crop_pct, squash = 1.0, True  # ConvNeXt's processor resizes large images without a crop
    wanted = {
        "input_size": [len(mean), *target],
        "mean": mean,
        "std": std,
        "crop_pct": crop_pct,
        "interpolation": _PIL_FILTERS.get(processor.get("resample", 2), "bilinear"),
    }
    if squash:
        wanted["crop_mode"] = "squash"
    return Preprocess.from_dict(wanted, source)


def _sides(size: Any, source: str) -> tuple[int, tuple[int, int]]:
    """Shorter side, and (height, width), of Hugging Face's size."""
    if isinstance(size, Mapping):
        if isinstance(size.get("shortest_edge"), int):
            return size["shortest_edge"], (size["shortest_edge"],) * 2
        if isinstance(size.get("height"), int) and isinstance(size.get("width"), int):
            return min(size["height"], size["width"]), (size["height"], size["width"])
    if isinstance(size, int) and not isinstance(size, bool):
        return size, (size, size)
    raise PreprocessError(f"{plain(source)} has a size that rectify does not understand: pass --input-size")
