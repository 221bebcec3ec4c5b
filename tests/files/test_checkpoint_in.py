"""Every row of the loading table: what is read, what is unwrapped, and what is said about it."""

from __future__ import annotations

import argparse
import errno
import io
import json
import pickle
import re
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from rectify.errors import (
    CheckpointError,
    CorruptCheckpoint,
    PreprocessError,
    UnsafeCheckpoint,
    UnsupportedCheckpoint,
    UsageError,
)
from rectify.files.architectures import _choose_preprocess
from rectify.files.checkpoint import Checkpoint, read_checkpoint, read_tensors, sha256_of, write_tensors
from rectify.files.preprocess import Preprocess, read_preprocess


def same(checkpoint: Checkpoint, state: dict[str, Tensor]) -> bool:
    """Equal names, dtypes and bits."""
    found = checkpoint.state
    return found.keys() == state.keys() and all(
        found[name].dtype == state[name].dtype and torch.equal(found[name], state[name]) for name in state
    )


@pytest.fixture
def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def save(path: Path, value: Any, **how: Any) -> Path:
    torch.save(value, path, **how)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_state_dict(zipped: bool, tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = save(tmp_path / "m.pt", OrderedDict(state), _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(path)
    assert same(checkpoint, state)
    assert checkpoint.used == "state_dict"
    assert checkpoint.sha256 == sha256_of(path) and len(checkpoint.sha256) == 64
    assert checkpoint.path == path
    assert (checkpoint.arch, checkpoint.num_classes, checkpoint.preprocess) == (None, None, None)
    assert not checkpoint.trusted_pickle and checkpoint.renames == {} and checkpoint.metadata == {}


def test_safetensors(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "m.bin"  # recognised by content, not by name
    safetensors.torch.save_file(state, path, {"format": "pt"})
    checkpoint = read_checkpoint(path)
    assert same(checkpoint, state) and checkpoint.used == "safetensors"


def test_parameters_become_tensors(tmp_path: Path, net: nn.Module) -> None:
    checkpoint = read_checkpoint(save(tmp_path / "m.pt", dict(net.named_parameters())))
    assert all(type(value) is Tensor and not value.requires_grad for value in checkpoint.state.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_are_kept(dtype: torch.dtype, tmp_path: Path, state: dict[str, Tensor]) -> None:
    low = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    assert same(read_checkpoint(save(tmp_path / "m.pt", low)), low)


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "state_dict", "model", "net", "weights"])
def test_container(key: str, tmp_path: Path, state: dict[str, Tensor]) -> None:
    value = {"epoch": 3, key: state, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{}]}}
    checkpoint = read_checkpoint(save(tmp_path / "m.pt", value))
    assert same(checkpoint, state) and checkpoint.used == f"state_dict in '{key}'"


def test_container_in_timms_order(tmp_path: Path, state: dict[str, Tensor]) -> None:
    other = {name: value + 1 for name, value in state.items()}
    names = ["state_dict_ema", "model_ema", "state_dict", "model"]
    for first in range(4):
        value = {name: state if name == names[first] else other for name in reversed(names[first:])}
        checkpoint = read_checkpoint(save(tmp_path / "m.pt", value))
        assert same(checkpoint, state) and names[first] in checkpoint.used


def test_ema_that_is_none(tmp_path: Path, state: dict[str, Tensor]) -> None:
    assert same(read_checkpoint(save(tmp_path / "m.pt", {"model_ema": None, "model": state})), state)


def test_nested_containers(tmp_path: Path, state: dict[str, Tensor]) -> None:
    checkpoint = read_checkpoint(save(tmp_path / "m.pt", {"model": {"backbone": state}, "meta": {"x": 1}}))
    assert same(checkpoint, state) and checkpoint.used == "state_dict in 'model' in 'backbone'"


def test_backdoorbench_container(tmp_path: Path, state: dict[str, Tensor]) -> None:
    value = {"model_name": "preactresnet18", "num_classes": 10, "model": state, "data_path": "../data"}
    checkpoint = read_checkpoint(save(tmp_path / "m.pt", value))
    assert same(checkpoint, state)
    assert (checkpoint.arch, checkpoint.num_classes) == ("preactresnet18", 10)
    assert checkpoint.used == "state_dict in 'model'"


def test_arch_of_the_imagenet_example(tmp_path: Path, state: dict[str, Tensor]) -> None:
    assert read_checkpoint(save(tmp_path / "m.pt", {"arch": "resnet50", "state_dict": state})).arch == "resnet50"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_are_stripped(prefix: str, tmp_path: Path, state: dict[str, Tensor]) -> None:
    value = {"state_dict": {prefix + name: tensor for name, tensor in state.items()}}
    checkpoint = read_checkpoint(save(tmp_path / "m.pt", value))
    assert same(checkpoint, state)
    assert checkpoint.used.startswith("state_dict in 'state_dict', prefix '") and "stripped" in checkpoint.used
    assert checkpoint.renames["fc.bias"] == prefix + "fc.bias"


def test_prefix_in_safetensors(tmp_path: Path, state: dict[str, Tensor]) -> None:
    safetensors.torch.save_file({"module." + name: value for name, value in state.items()}, tmp_path / "m.safetensors")
    checkpoint = read_checkpoint(tmp_path / "m.safetensors")
    assert same(checkpoint, state) and checkpoint.used == "safetensors, prefix 'module.' stripped"


def test_a_prefix_that_only_some_have_stays(tmp_path: Path, state: dict[str, Tensor]) -> None:
    mixed = {("module." + name if "fc" in name else name): value for name, value in state.items()}
    assert same(read_checkpoint(save(tmp_path / "m.pt", mixed)), mixed)


def test_compiled_submodule(tmp_path: Path, state: dict[str, Tensor]) -> None:
    inner = {name.replace("conv.", "conv._orig_mod."): value for name, value in state.items()}
    checkpoint = read_checkpoint(save(tmp_path / "m.pt", inner))
    assert same(checkpoint, state) and "_orig_mod." in checkpoint.used
    assert checkpoint.renames == {"conv.weight": "conv._orig_mod.weight", "conv.bias": "conv._orig_mod.bias"}


def test_averaged_model(tmp_path: Path, net: nn.Module, state: dict[str, Tensor]) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(net)
    assert same(read_checkpoint(save(tmp_path / "m.pt", averaged.state_dict())), state)


def test_compiled_twice_collides(tmp_path: Path, state: dict[str, Tensor]) -> None:
    twice = {**state, "conv._orig_mod.weight": state["conv.weight"]}
    with pytest.raises(CorruptCheckpoint, match="twice"):
        read_checkpoint(save(tmp_path / "m.pt", twice))


def test_strip_prefix(tmp_path: Path, state: dict[str, Tensor]) -> None:
    lightning = {"state_dict": {**{"model." + n: v for n, v in state.items()}, "loss.weight": torch.ones(2)}}
    path = save(tmp_path / "m.ckpt", lightning)
    for prefix in ("model.", "model"):
        checkpoint = read_checkpoint(path, strip_prefix=prefix)
        assert same(checkpoint, state)
        assert "prefix 'model.' stripped, 1 without it left out (loss.weight)" in checkpoint.used
    with pytest.raises(UsageError, match=r"'modle\.' \(--strip-prefix\): did you mean model\.") as caught:
        read_checkpoint(path, strip_prefix="modle.")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"'mod' as a whole name \(--strip-prefix\): did you mean model\."):
        read_checkpoint(path, strip_prefix="mod")


def test_state_dict_key(tmp_path: Path, state: dict[str, Tensor]) -> None:
    other = {name: value + 1 for name, value in state.items()}
    path = save(tmp_path / "m.pt", {"model": other, "nets": {"student": state, "a.b": other}, "epoch": 1})
    assert same(read_checkpoint(path, state_dict_key="nets.student"), state)
    assert read_checkpoint(path, state_dict_key="nets.student").used == "state_dict in 'nets.student'"
    with pytest.raises(UsageError, match=r"no key 'nets\.studnt'.*did you mean nets\.student"):
        read_checkpoint(path, state_dict_key="nets.studnt")
    with pytest.raises(UsageError, match="did you mean model"):
        read_checkpoint(path, state_dict_key="modl")
    with pytest.raises(UsageError, match="no state dict"):
        read_checkpoint(path, state_dict_key="epoch")
    with pytest.raises(UsageError, match="no dictionary"):
        read_checkpoint(path, state_dict_key="epoch.x")
    with pytest.raises(UsageError, match="one of model"):  # only what could be meant, not its neighbours
        read_checkpoint(path, state_dict_key="weights")
    with pytest.raises(UsageError, match=r"give nets\.student, a state dict itself"):
        read_checkpoint(path, state_dict_key="nets.student.bias")
    with pytest.raises(UsageError, match="it is a state dict itself: leave the key out"):
        read_checkpoint(save(tmp_path / "plain.pt", state), state_dict_key="model")


def test_key_of_a_safetensors_file(tmp_path: Path, state: dict[str, Tensor]) -> None:
    safetensors.torch.save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match="leave out --state-dict-key"):
        read_checkpoint(tmp_path / "m.safetensors", state_dict_key="model")


def test_flags_that_fitted_the_input_do_not_hurt_the_output(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """``evaluate out.safetensors --against model.pt --state-dict-key model --strip-prefix net.`` reads both files."""
    write_tensors(tmp_path / "out.safetensors", state, {"version": "1"})
    checkpoint = read_checkpoint(tmp_path / "out.safetensors", state_dict_key="model", strip_prefix="net.")
    assert same(checkpoint, state) and checkpoint.metadata == {"version": "1"}


def test_open_choice(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = save(tmp_path / "m.pt", {"generator": state, "discriminator": state})
    with pytest.raises(UsageError, match=r"generator, discriminator.*--state-dict-key generator"):
        read_checkpoint(path)


def test_items_that_are_no_tensors(tmp_path: Path, state: dict[str, Tensor]) -> None:
    checkpoint = read_checkpoint(save(tmp_path / "m.pt", {**state, "epoch": 3, "note": "best"}))
    assert same(checkpoint, state) and "without epoch, note" in checkpoint.used


def test_whole_module_when_trusted(tmp_path: Path, state: dict[str, Tensor]) -> None:
    whole = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    for name, value in (("m.pt", whole), ("c.pt", {"model": whole, "epoch": 1})):
        path = save(tmp_path / name, value)
        with pytest.raises(UnsafeCheckpoint, match="Sequential"):
            read_checkpoint(path)
        checkpoint = read_checkpoint(path, trust_pickle=True)
        assert checkpoint.trusted_pickle and "of the pickled module" in checkpoint.used
        assert same(checkpoint, whole.state_dict())


def test_trust_is_recorded_only_where_needed(tmp_path: Path, state: dict[str, Tensor]) -> None:
    assert not read_checkpoint(save(tmp_path / "a.pt", state), trust_pickle=True).trusted_pickle
    args = save(tmp_path / "b.pt", {"state_dict": state, "args": argparse.Namespace(lr=1)})
    assert same(read_checkpoint(args, trust_pickle=True), state)
    assert read_checkpoint(args, trust_pickle=True).trusted_pickle
    newer = save(tmp_path / "c.pt", state, pickle_protocol=4)
    assert read_checkpoint(newer, trust_pickle=True).trusted_pickle


def test_plain_pickle_when_trusted(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(state))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    checkpoint = read_checkpoint(path, trust_pickle=True)
    assert same(checkpoint, state) and checkpoint.used == "plain pickle"


def test_module_whose_code_is_not_here(tmp_path: Path, code: str) -> None:
    import importlib
    import sys

    sys.path.insert(0, str(tmp_path))
    try:
        path = save(tmp_path / "m.pt", importlib.import_module(code).Net())
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules[code]
    assert read_checkpoint(path, trust_pickle=True).trusted_pickle  # found in the current folder
    del sys.modules[code]
    (tmp_path / f"{code}.py").rename(tmp_path / "elsewhere.py")
    importlib.invalidate_caches()
    with pytest.raises(UnsafeCheckpoint, match=rf"needs code that is not here .*{code}.*PYTHONPATH"):
        read_checkpoint(path, trust_pickle=True)


def test_real_torchscript_and_export(tmp_path: Path, net: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "script.pt"))
        program = torch.export.export(net.eval(), (torch.zeros(1, 3, 8, 8),))
        torch.export.save(program, tmp_path / "exported.pt2")
    with pytest.raises(UnsupportedCheckpoint, match="TorchScript"):
        read_checkpoint(tmp_path / "script.pt")
    with pytest.raises(UnsupportedCheckpoint, match=r"\.pt2"):
        read_checkpoint(tmp_path / "exported.pt2")


def test_what_the_refusals_tell_to_type_works(tmp_path: Path, net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), "s.pt")
        torch.export.save(torch.export.export(net.eval(), (torch.zeros(1, 3, 8, 8),)), "s.pt2")
        for name in ("s.pt", "s.pt2"):
            with pytest.raises(UnsupportedCheckpoint) as caught:
                read_checkpoint(Path(name))
            command = str(caught.value).split(" with ")[1].split(" and pass")[0]
            exec(command, {"torch": torch})
            assert read_checkpoint(Path("model.pt")).state


def test_file_without_checksums(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """torch can be told not to compute them; such a file is not damaged."""
    from torch.serialization import get_crc32_options, set_crc32_options

    before = get_crc32_options()
    set_crc32_options(False)
    try:
        path = save(tmp_path / "m.pt", state)
    finally:
        set_crc32_options(before)
    assert same(read_checkpoint(path), state)


def test_infinite_mask_is_allowed(tmp_path: Path) -> None:
    mask = torch.full((3, 3), -torch.inf).triu(1)
    assert same(read_checkpoint(save(tmp_path / "m.pt", {"mask": mask})), {"mask": mask})


def test_tied_and_strided_tensors(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tied = {"a": base, "b": base, "c": base.t(), "d": base[1]}
    assert same(read_checkpoint(save(tmp_path / "m.pt", tied)), tied)


def folder(path: Path, state: dict[str, Tensor], **files: Any) -> Path:
    path.mkdir()
    safetensors.torch.save_file(state, path / "model.safetensors", {"format": "pt"})
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


TIMM = {
    "architecture": "resnet18",
    "num_classes": 10,
    "num_features": 512,
    "pretrained_cfg": {
        "tag": "x",
        "custom_load": False,
        "input_size": [3, 32, 32],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "num_classes": 1000,
        "first_conv": "conv1",
    },
    "model_args": {"in_chans": 3},
}


def test_timm_folder(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = folder(tmp_path / "hub", state, config=TIMM)
    checkpoint = read_checkpoint(path)
    assert same(checkpoint, state)
    assert (checkpoint.arch, checkpoint.arch_args, checkpoint.num_classes) == ("timm:resnet18", {"in_chans": 3}, 10)
    assert checkpoint.arch_source == "config.json"
    assert checkpoint.sha256 == sha256_of(path / "model.safetensors")
    assert checkpoint.used == "model.safetensors (safetensors)"
    assert checkpoint.preprocess is not None
    assert checkpoint.preprocess.to_dict() == {
        "input_size": [3, 32, 32],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "crop_pct": 0.95,
        "interpolation": "bicubic",
    }


def test_old_timm_folder_with_flat_config(tmp_path: Path, state: dict[str, Tensor]) -> None:
    flat = {"architecture": "resnet18", **TIMM["pretrained_cfg"], "num_classes": 10}  # type: ignore[dict-item]
    checkpoint = read_checkpoint(folder(tmp_path / "hub", state, config=flat))
    assert checkpoint.preprocess is not None and checkpoint.preprocess.crop_pct == 0.95
    assert checkpoint.num_classes == 10


def test_timm_wrapper_of_transformers(tmp_path: Path, state: dict[str, Tensor]) -> None:
    config = {**TIMM, "model_type": "timm_wrapper", "architectures": ["TimmWrapperForImageClassification"]}
    wrapped = {"timm_model." + name: value for name, value in state.items()}
    checkpoint = read_checkpoint(folder(tmp_path / "hub", wrapped, config=config))
    assert same(checkpoint, state) and checkpoint.arch == "timm:resnet18"


def test_transformers_folder(tmp_path: Path, state: dict[str, Tensor]) -> None:
    config = {"architectures": ["ViTForImageClassification"], "id2label": {"0": "cat", "1": "dog"}}
    processor = {
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"height": 224, "width": 224},
        "resample": 3,
        "do_normalize": True,
    }
    checkpoint = read_checkpoint(folder(tmp_path / "hub", state, config=config, preprocessor_config=processor))
    assert (checkpoint.arch, checkpoint.num_classes) == ("transformers:ViTForImageClassification", 2)
    preprocess = checkpoint.preprocess
    assert preprocess is not None
    assert preprocess.input_size == (3, 224, 224) and preprocess.interpolation == "bicubic"
    assert preprocess.crop_mode == "squash" and preprocess.crop_pct == 1


@pytest.mark.parametrize(
    ("processor", "size", "crop"),
    [
        (
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
            224,
            0.875,
        ),
        ({"size": 256, "do_center_crop": True, "crop_size": 224}, 224, 0.875),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, 224, 0.875),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, 384, 1.0),
        ({"size": {"shortest_edge": 224}, "do_normalize": False}, 224, 1.0),
    ],
)
def test_processors(
    processor: dict[str, Any], size: int, crop: float, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    normal = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    path = folder(tmp_path / "hub", state, config={"num_labels": 5}, preprocessor_config={**normal, **processor})
    checkpoint = read_checkpoint(path)
    assert checkpoint.preprocess is not None and checkpoint.num_classes == 5
    assert checkpoint.preprocess.input_size == (3, size, size) and checkpoint.preprocess.crop_pct == crop
    assert checkpoint.preprocess.mean == ((0.0,) * 3 if processor.get("do_normalize") is False else (0.5,) * 3)


@pytest.mark.parametrize(
    ("processor", "factor"),
    [
        ({"do_rescale": False}, 1.0),
        ({"do_rescale": False, "do_normalize": False, "image_mean": 5}, 1.0),
        ({"rescale_factor": 1 / 127.5, "do_normalize": False}, 1 / 127.5),
        ({"rescale_factor": 0.00392156862745098}, 1 / 255),
    ],
)
def test_what_pixels_are_multiplied_by(
    processor: dict[str, Any], factor: float, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    mean, std = ([0.0] * 3, [1.0] * 3) if "do_normalize" in processor else ([0.25, 0.5, 0.75], [0.5, 0.25, 0.125])
    config = {"image_mean": mean, "image_std": std, "size": 4, **processor}
    found = read_checkpoint(folder(tmp_path / "hub", state, config={}, preprocessor_config=config)).preprocess
    assert found is not None
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    wanted = (pixels * factor - np.array(mean)) / np.array(std)
    assert np.allclose(found.tensor(Image.fromarray(pixels)).permute(1, 2, 0), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"do_resize": False},
        {"do_resize": "no"},
        {"do_rescale": 1},
        {"do_flip_channel_order": True},
        {"rescale_factor": 0},
        {"rescale_factor": "1/255"},
        {"rescale_factor": [1]},
        {"resample": 9},
        {"resample": [1]},
        {"resample": True},
        {"size": {"shortest_edge": 0}},
        {"size": {"shortest_edge": True}},
        {"size": {"height": "16", "width": 16}},
        {"size": -4},
        {"do_center_crop": True, "crop_size": 64},
        {"do_center_crop": True, "crop_size": 0},
        {"crop_pct": 0},
        {"crop_pct": "x"},
        {"image_mean": ["a", 1, 2]},
        {"image_mean": 5},
        {"image_std": [0, 0, 0]},
    ],
)
def test_a_processor_that_cannot_be_followed_is_told_and_overruled(
    wrong: dict[str, Any], tmp_path: Path, state: dict[str, Tensor]
) -> None:
    config = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"shortest_edge": 32}, **wrong}
    path = folder(tmp_path / "hub", state, config=TIMM, preprocessor_config=config)
    checkpoint = read_checkpoint(path)
    assert checkpoint.preprocess is None and "preprocessor_config.json" in checkpoint.preprocess_problem
    with pytest.raises(PreprocessError, match="or pass --preprocess FILE"):
        _choose_preprocess("timm:resnet18", checkpoint, None, {})
    given = Preprocess((3, 8, 8), (0.5,) * 3, (0.5,) * 3)
    assert _choose_preprocess("timm:resnet18", checkpoint, given, {}) == given
    flags = {"input_size": 8, "mean": [0.5] * 3, "std": [0.5] * 3}
    assert _choose_preprocess(None, checkpoint, None, flags) == given


def test_a_file_deep_in_folders_is_told_by_its_whole_name(tmp_path: Path, state: dict[str, Tensor]) -> None:
    hub = tmp_path / ("d" * 60) / ("e" * 60) / "hub"
    hub.parent.mkdir(parents=True)
    path = folder(hub, state, config=TIMM, preprocessor_config={"size": 32, "do_resize": False})
    assert read_checkpoint(path).preprocess_problem.startswith(f"{path / 'preprocessor_config.json'}: ")
    wrong = hub / "preprocess.yaml"
    wrong.write_text("mean: [0.5]\n")
    with pytest.raises(PreprocessError, match=f"^{re.escape(str(wrong))}: "):
        read_preprocess(wrong)


def test_folder_with_pytorch_weights(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "hub"
    path.mkdir()
    save(path / "pytorch_model.bin", state)
    (path / "config.json").write_text(json.dumps(TIMM))
    assert same(read_checkpoint(path), state)


def test_metadata_of_an_earlier_output(tmp_path: Path, state: dict[str, Tensor]) -> None:
    preprocess = {"input_size": [1, 28, 28], "mean": [0.1], "std": [0.3], "crop_pct": 1.0, "interpolation": "bilinear"}
    metadata = {"arch": "nets:net", "arch_args": {"width": 4}, "num_classes": 10, "preprocess": preprocess}
    write_tensors(tmp_path / "o.safetensors", state, metadata)
    checkpoint = read_checkpoint(tmp_path / "o.safetensors")
    assert (checkpoint.arch, checkpoint.arch_args, checkpoint.num_classes) == ("nets:net", {"width": 4}, 10)
    assert checkpoint.preprocess is not None and checkpoint.preprocess.to_dict() == preprocess
    assert checkpoint.metadata == metadata


@pytest.mark.parametrize("text", ["{", "[1]", "null", '"x"', '{"arch": 3, "preprocess": 4, "arch_args": [1]}'])
def test_foreign_metadata_says_nothing(text: str, tmp_path: Path, state: dict[str, Tensor]) -> None:
    safetensors.torch.save_file(state, tmp_path / "m.safetensors", {"rectify": text})
    checkpoint = read_checkpoint(tmp_path / "m.safetensors")
    assert (checkpoint.arch, checkpoint.arch_args, checkpoint.preprocess) == (None, {}, None)


def test_read_tensors_wants_a_file_of_ours(tmp_path: Path, state: dict[str, Tensor]) -> None:
    write_tensors(tmp_path / "d.safetensors", {"left": torch.ones(2)}, {"layer": "conv"})
    tensors, metadata = read_tensors(tmp_path / "d.safetensors")
    assert torch.equal(tensors["left"], torch.ones(2)) and metadata == {"layer": "conv"}
    with pytest.raises(UnsupportedCheckpoint, match="not a safetensors file"):
        read_tensors(save(tmp_path / "m.pt", state))
    with pytest.raises(CheckpointError, match="folder"):
        read_tensors(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds d\.safetensors, m\.pt"):
        read_tensors(tmp_path / "e.safetensors")


def test_unpickling_prints_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """stdout belongs to the report."""

    buffer = io.BytesIO()
    torch.save({"w": torch.ones(1), "x": Prints()}, buffer)
    (tmp_path / "m.pt").write_bytes(buffer.getvalue())
    read_checkpoint(tmp_path / "m.pt", trust_pickle=True)
    out, err = capsys.readouterr()
    assert out == "" and "hello" in err


class Prints:
    """Prints while it is unpickled."""

    def __reduce__(self) -> Any:
        return print, ("hello",)


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (OSError(errno.EIO, "Input/output error"), "model.safetensors cannot be read: Input/output error"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), "can't allocate"),
        (ValueError("no header"), "is a damaged safetensors file"),
    ],
)
def test_trouble_that_is_not_the_files_fault_is_not_called_damage(
    trouble: Exception, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"weight": torch.ones(2)}, path)

    def fails(*_: object, **__: object) -> None:
        raise trouble

    monkeypatch.setattr("rectify.files.checkpoint.safetensors.safe_open", fails)
    with pytest.raises((CorruptCheckpoint, RuntimeError), match=told):
        read_tensors(path)
