"""Networks by name, strict loading with a short diff, and the whole road to a subject."""

from __future__ import annotations

import copy
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from rectify.errors import ArchitectureError, CheckpointError, PreprocessError, RectifyError, UsageError
from rectify.files.architectures import RANDOM, build, load_into, open_subject, resolve_device
from rectify.files.checkpoint import read_checkpoint, write_tensors
from rectify.files.preprocess import Preprocess
from rectify.training.start import fresh_subject
from tests.files.conftest import Net
from tests.files.test_checkpoint_in import TIMM, folder


def one_line(error: RectifyError) -> str:
    line = str(error)
    assert "\n" not in line and len(line) < 700
    return line


def save(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def test_torchvision() -> None:
    network = build("resnet18", num_classes=7, arch_args={})
    assert network.fc.out_features == 7  # type: ignore[union-attr]
    assert build("mobilenet_v3_small", num_classes=4, arch_args={"dropout": 0.5}).classifier[2].p == 0.5  # type: ignore[index, union-attr]


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_builders_that_warn(name: str) -> None:
    """Warnings are errors here, and must not reach a user either."""
    arguments = {"aux_logits": False} if name == "googlenet" else {}
    assert isinstance(build(name, num_classes=3, arch_args=arguments), nn.Module)


def test_timm() -> None:
    network = build("timm:resnet10t", num_classes=5, arch_args={"in_chans": 1})
    assert network.num_classes == 5
    assert next(m for m in network.modules() if isinstance(m, nn.Conv2d)).in_channels == 1


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ("resnet19", "unknown architecture 'resnet19': did you mean resnet18"),
        ("ResNet_18", "did you mean"),
        ("convnext_atto", r"timm:convnext_atto"),
        ("zzzzzzzz", "pass a torchvision name, timm:NAME or module:callable"),
        ("fcn_resnet50", "unknown architecture"),
        ("timm:resnet19", r"timm has no architecture 'resnet19': did you mean timm:resnet18(, timm:\w+)*\?"),
        ("timm:zzzzzzzz", r"timm has no architecture 'zzzzzzzz': .*timm\.list_models"),
        ("timm:hf-hub:timm/resnet18", "timm has no architecture"),
        ("timm:resnet18.nonsense", "could not be built"),
        (":net", "module:callable looks like"),
        ("nets:", "module:callable looks like"),
        ("a b:c", "module:callable looks like"),
        ("../nets:net", "module:callable looks like"),
        ("no_such_module_here:net", "no module 'no_such_module_here' in the current folder or PYTHONPATH"),
        ("os.nope:net", "no module"),
        ("json:dunps", "json has no 'dunps'; did you mean dumps"),
    ],
)
def test_unknown_names(arch: str, words: str) -> None:
    with pytest.raises(ArchitectureError, match=words) as caught:
        build(arch, num_classes=10, arch_args={})
    one_line(caught.value)


def test_timm_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ArchitectureError, match="pip install timm"):
        build("timm:resnet18", num_classes=10, arch_args={})
    with pytest.raises(ArchitectureError, match="did you mean resnet18"):
        build("resnet19", num_classes=10, arch_args={})


@pytest.mark.parametrize("name", ["net", "Net", "anything", "required"])
def test_users_code(name: str, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    network = build(f"{code}:{name}", num_classes=6, arch_args={})
    assert network.fc.out_features == 6  # type: ignore[union-attr]
    assert capsys.readouterr().out == ""  # what the user's code prints goes to stderr


def test_users_code_in_a_package_and_on_pythonpath(tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / f"package_{code}"
    package.mkdir()
    (package / "models.py").write_text((tmp_path / f"{code}.py").read_text())
    assert isinstance(build(f"{package.name}.models:Net", num_classes=3, arch_args={}), nn.Module)
    with pytest.raises(ArchitectureError, match="no module"):
        build(f"{package.name}.model:Net", num_classes=3, arch_args={})


def test_users_code_gets_its_arguments(code: str) -> None:
    assert build(f"{code}:net", num_classes=None, arch_args={"width": 9}).fc.in_features == 9  # type: ignore[union-attr]
    assert build(f"{code}:fixed", num_classes=3, arch_args={}).fc.out_features == 7  # type: ignore[union-attr]
    with pytest.raises(ArchitectureError, match="needs num_classes: pass --num-classes N"):
        build(f"{code}:required", num_classes=None, arch_args={})


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("net", {"depth": 3}, r"could not be built with \(num_classes=10, depth=3\): TypeError: .*check --arch-arg"),
        ("fails", {}, r"ValueError: no such thing \(nets_.*\.py, line \d+\)"),
        ("stops", {}, r"Stop: enough \(nets_.*\.py, line \d+\)"),
        ("not_a_module", {}, "returned a list, not a torch.nn.Module"),
        ("a_class", {}, "returned a class, not a torch.nn.Module: let it return the network"),
        ("READY", {}, "is a network: name a function or class that returns one"),
        ("CONSTANT", {}, "is a int, not a function or class"),
        ("nett", {}, "did you mean net"),
    ],
)
def test_users_code_that_fails(name: str, args: dict[str, Any], words: str, code: str) -> None:
    with pytest.raises(ArchitectureError, match=words) as caught:
        build(f"{code}:{name}", num_classes=10, arch_args=args)
    one_line(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise RuntimeError('at import')", "RuntimeError: at import"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("class Stop(BaseException): pass\nraise Stop('at import')", "Stop: at import"),
        ("import no_such_dependency", "no_such_dependency"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_module_that_does_not_import(text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"broken_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArchitectureError, match=f"importing {name} failed: .*{words}") as caught:
        build(f"{name}:net", num_classes=10, arch_args={})
    one_line(caught.value)
    assert str(tmp_path) not in sys.path


def test_nearest_module(code: str) -> None:
    with pytest.raises(ArchitectureError, match=f"did you mean {code}"):
        build(f"{code}x:net", num_classes=10, arch_args={})


@pytest.mark.parametrize("count", [1, 0, -3])
def test_too_few_classes(count: int) -> None:
    with pytest.raises(ArchitectureError, match="2 classes or more"):
        build("resnet18", num_classes=count, arch_args={})


def test_classes_are_read_off_the_tensors(code: str) -> None:
    state = Net(num_classes=23).state_dict()
    for order in (state, dict(sorted(state.items()))):  # safetensors keeps no order
        for name in ("net", "required", "anything"):
            network = build(f"{code}:{name}", num_classes=None, arch_args={}, state=order)
            assert network.fc.out_features == 23  # type: ignore[union-attr]


@pytest.mark.parametrize("arch", ["resnet18", "timm:resnet10t", "vgg11", "squeezenet1_0", "mobilenet_v2", "vit_b_16"])
def test_classes_of_known_networks(arch: str) -> None:
    if arch in ("vgg11", "vit_b_16"):  # large: the tensors' shapes are enough
        with torch.device("meta"):
            state = build(arch, num_classes=37, arch_args={}).state_dict()
    else:
        state = build(arch, num_classes=37, arch_args={}).state_dict()
    from rectify.files.builders import construct, guess_classes

    with torch.device("meta"):
        assert guess_classes(construct(arch, None, {}), state) == 37


def checkpoint_of(state: dict[str, Tensor], tmp_path: Path) -> Any:
    return read_checkpoint(save(tmp_path / "m.pt", state))


def test_load(net: nn.Module, tmp_path: Path) -> None:
    other = Net()
    load_into(other, checkpoint_of(net.state_dict(), tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))
    assert not other.training and not any(p.requires_grad for p in other.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision(dtype: torch.dtype, net: nn.Module, tmp_path: Path) -> None:
    given = {n: v.to(dtype) if v.is_floating_point() else v for n, v in net.state_dict().items()}
    checkpoint = checkpoint_of(given, tmp_path)
    other = Net().half()
    load_into(other, checkpoint)
    assert {p.dtype for p in other.parameters()} == {torch.float32}
    assert torch.equal(other.conv.weight, given["conv.weight"].float())
    assert checkpoint.state["conv.weight"].dtype == dtype


def test_old_checkpoint_without_counters(net: nn.Module, tmp_path: Path) -> None:
    old = {name: value for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    checkpoint = checkpoint_of(old, tmp_path)
    load_into(Net(), checkpoint)
    assert checkpoint.state.keys() == old.keys()  # what is written has the file's names and no others


def test_tied_tensors_of_which_the_file_keeps_one(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        network = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
        network["b"].weight = network["a"].weight
        return network

    source = tied()
    state = {name: value for name, value in source.state_dict().items() if name != "b.weight"}
    target = tied()
    load_into(target, checkpoint_of(state, tmp_path))
    assert torch.equal(target["b"].weight, source["a"].weight)  # type: ignore[index]


def test_short_diff(net: nn.Module, tmp_path: Path) -> None:
    state = dict(Net(num_classes=10, width=5).state_dict())
    del state["fc.bias"]
    state["extra\n1"] = torch.ones(1)
    with pytest.raises(ArchitectureError) as caught:
        load_into(net, checkpoint_of(state, tmp_path))
    line = one_line(caught.value)
    assert (
        "does not fit the architecture (Net): 1 missing (fc.bias); 1 unexpected (extra\\n1); 7 wrong-shaped (" in line
    )
    assert "conv.weight 5x3x3x3 in the file, 4x3x3x3 expected" in line and "and 4 more" in line
    assert line.endswith("Check --arch, --num-classes and --arch-arg")


def test_hints(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match="Pass --num-classes 20") as caught:
        load_into(net, checkpoint_of(Net(num_classes=20).state_dict(), tmp_path))
    one_line(caught.value)
    wrapped = {"backbone.net." + name: value for name, value in net.state_dict().items()}
    with pytest.raises(ArchitectureError, match=r"Pass --strip-prefix backbone\.net\.") as caught:
        load_into(net, checkpoint_of(wrapped, tmp_path))
    one_line(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.tensor(1.0), "fc.bias scalar in the file, 10 expected).*Check --arch, --num"),
        (torch.zeros(0), "fc.bias 0 in the file, 10 expected).*Check --arch, --num"),
        (torch.zeros(10, dtype=torch.complex64), "complex64 in the file.* weights are real numbers"),
        (torch.zeros(10, dtype=torch.int32), "int32 in the file.* weights are real numbers"),
        (torch.zeros(1), "Check --num-classes and --arch-arg; a network with one output"),
    ],
    ids=["scalar", "empty", "complex", "whole", "one"],
)
def test_other_tensors_are_no_hint_at_the_number_of_classes(
    given: Tensor, words: str, net: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(ArchitectureError, match=words.replace(")", r"\)")) as caught:
        load_into(net, checkpoint_of({**net.state_dict(), "fc.bias": given}, tmp_path))
    assert "Pass" not in one_line(caught.value)


def test_packed_integers_are_not_weights(net: nn.Module, tmp_path: Path) -> None:
    state = dict(net.state_dict())
    state["fc.weight"] = state["fc.weight"].to(torch.int8)
    with pytest.raises(ArchitectureError, match=r"fc.weight 10x4 int8 in the file, 10x4 expected"):
        load_into(net, checkpoint_of(state, tmp_path))


def test_network_with_its_own_loading(tmp_path: Path, net: nn.Module) -> None:
    class Picky(Net):
        def load_state_dict(self, *_: Any, **__: Any) -> Any:
            raise KeyError("mine")

    with pytest.raises(ArchitectureError, match="does not load: KeyError: 'mine'"):
        load_into(Picky(), checkpoint_of(net.state_dict(), tmp_path))


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:0", "", "mps", "cuda:-1", "cuda:99"])
def test_devices_that_are_not_there(device: str) -> None:
    with pytest.raises(UsageError, match="--device") as caught:
        resolve_device(device)
    one_line(caught.value)


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_subject(net: nn.Module, tmp_path: Path, code: str, rgb8: Preprocess) -> None:
    path = save(tmp_path / "m.pt", net.state_dict())
    subject = open_subject(path, arch=f"{code}:net", preprocess=rgb8, device="cpu")
    assert (subject.num_classes, subject.arch, subject.arch_args) == (10, f"{code}:net", {})
    assert subject.preprocess is rgb8 and subject.device == torch.device("cpu")
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(subject.network(x), net.eval()(x))


def test_subject_without_architecture(net: nn.Module, tmp_path: Path, rgb8: Preprocess) -> None:
    with pytest.raises(ArchitectureError, match="does not say its architecture: pass --arch"):
        open_subject(save(tmp_path / "m.pt", net.state_dict()), preprocess=rgb8)


def test_subject_without_either_asks_for_both_at_once(net: nn.Module, tmp_path: Path, rgb8: Preprocess) -> None:
    path = save(tmp_path / "m.pt", net.state_dict())
    words = "does not say its architecture or its preprocessing: pass --arch .*; and --preprocess FILE, a preset"
    with pytest.raises(ArchitectureError, match=words) as caught:
        open_subject(path)
    one_line(caught.value)
    for more in ({"preprocess": rgb8}, {"preprocess_overrides": {"input_size": 8}}):
        with pytest.raises(ArchitectureError, match=r"does not say its architecture: .* module:callable$"):
            open_subject(path, **more)


def test_subject_without_preprocessing(net: nn.Module, tmp_path: Path, code: str) -> None:
    path = save(tmp_path / "m.pt", net.state_dict())
    with pytest.raises(PreprocessError, match="unknown: pass --preprocess FILE") as caught:
        open_subject(path, arch=f"{code}:net")
    one_line(caught.value)


def test_preprocess_overrides(net: nn.Module, tmp_path: Path, code: str, rgb8: Preprocess) -> None:
    path = save(tmp_path / "m.pt", net.state_dict())
    arch = f"{code}:net"
    subject = open_subject(path, arch=arch, preprocess=rgb8, preprocess_overrides={"input_size": 16})
    assert subject.preprocess.input_size == (3, 16, 16) and subject.preprocess.mean == rgb8.mean
    whole = {"input_size": 8, "mean": [0.5] * 3, "std": [0.5] * 3}
    assert open_subject(path, arch=arch, preprocess_overrides=whole).preprocess.std == (0.5,) * 3
    with pytest.raises(PreprocessError, match="std is missing"):
        open_subject(path, arch=arch, preprocess_overrides={"input_size": 8, "mean": [0.5] * 3})


def test_wrong_channels(net: nn.Module, tmp_path: Path, code: str) -> None:
    grey = Preprocess((1, 8, 8), (0.5,), (0.5,))
    with pytest.raises(PreprocessError, match=r"takes 3 channel.* gives 1") as caught:
        open_subject(save(tmp_path / "m.pt", net.state_dict()), arch=f"{code}:net", preprocess=grey)
    one_line(caught.value)


def test_wrong_size(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10))
    path = save(tmp_path / "m.pt", network.state_dict())
    (tmp_path / "flat_net_module.py").write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10))\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        sizes = Preprocess((3, 16, 16), (0.5,) * 3, (0.5,) * 3)
        with pytest.raises(ArchitectureError, match=r"fails on an image of 3x16x16 .*check --input-size") as caught:
            open_subject(path, arch="flat_net_module:make", preprocess=sizes)
        one_line(caught.value)


@pytest.mark.parametrize("layer", ["nn.Conv2d(3, 4, 8)", "nn.Sequential(nn.Flatten(), nn.Linear(192, 4))"])
@pytest.mark.parametrize("cast", ["double", "bfloat16"])
def test_a_network_that_casts_is_told_so(
    layer: str, cast: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rgb8: Preprocess
) -> None:
    made = tmp_path / "casting_net.py"
    made.write_text(
        "from torch import nn\n"
        f"class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.b = {layer}\n"
        f"    def forward(self, x):\n        return self.b(x.{cast}()).flatten(1).float()\n"
    )
    monkeypatch.delitem(sys.modules, "casting_net", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    path = save(tmp_path / "m.pt", importlib.import_module("casting_net").Net().state_dict())
    with pytest.raises(ArchitectureError, match=r"are float32 here: take casts such as \.double\(\)") as caught:
        open_subject(path, arch="casting_net:Net", preprocess=rgb8)
    one_line(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tuple_net", "returns a tuple, not logits"),
        ("segmenter", "1x4x8x8"),
        ("quitter", r"fails on an image of 3x8x8 \(SystemExit: 0\)"),
    ],
)
def test_no_classifier(name: str, words: str, net: nn.Module, tmp_path: Path, code: str, rgb8: Preprocess) -> None:
    with pytest.raises(ArchitectureError, match=words) as caught:
        open_subject(save(tmp_path / "m.pt", net.state_dict()), arch=f"{code}:{name}", preprocess=rgb8)
    one_line(caught.value)


def test_number_of_classes_is_checked(tmp_path: Path, code: str, rgb8: Preprocess) -> None:
    path = save(tmp_path / "m.pt", Net(num_classes=7).state_dict())
    assert open_subject(path, arch=f"{code}:net", preprocess=rgb8).num_classes == 7
    with pytest.raises(ArchitectureError, match="has 7 classes, --num-classes says 5"):
        open_subject(path, arch=f"{code}:fixed", num_classes=5, preprocess=rgb8)
    with pytest.raises(ArchitectureError, match="Pass --num-classes 7"):
        open_subject(path, arch=f"{code}:net", num_classes=5, preprocess=rgb8)


def test_container_names_the_architecture(tmp_path: Path, rgb8: Preprocess) -> None:
    network = build("squeezenet1_1", num_classes=5, arch_args={})
    value = {"model_name": "squeezenet1_1", "num_classes": 5, "model": network.state_dict()}
    sizes = Preprocess((3, 64, 64), (0.5,) * 3, (0.5,) * 3)
    subject = open_subject(save(tmp_path / "m.pt", value), preprocess=sizes)
    assert (subject.arch, subject.num_classes) == ("squeezenet1_1", 5)
    value["model_name"] = "preactresnet18"
    with pytest.raises(ArchitectureError, match=r"'preactresnet18'.*named by the file's container; --arch") as caught:
        open_subject(save(tmp_path / "m.pt", value), preprocess=sizes)
    one_line(caught.value)


def test_timm_folder(tmp_path: Path) -> None:
    network = build("timm:resnet10t", num_classes=10, arch_args={})
    config = {**TIMM, "architecture": "resnet10t"}
    path = folder(tmp_path / "hub", network.state_dict(), config=config)
    subject = open_subject(path)
    assert (subject.arch, subject.num_classes) == ("timm:resnet10t", 10)
    assert subject.preprocess.input_size == (3, 32, 32) and subject.arch_args == {"in_chans": 3}


def test_transformers_folder_asks_for_the_code(tmp_path: Path, net: nn.Module, rgb8: Preprocess) -> None:
    path = folder(tmp_path / "hub", net.state_dict(), config={"architectures": ["ViTForImageClassification"]})
    with pytest.raises(
        ArchitectureError, match=r"ViTForImageClassification of transformers.*module:callable"
    ) as caught:
        open_subject(path, preprocess=rgb8)
    one_line(caught.value)


def test_a_timm_tag_tells_the_preprocessing(tmp_path: Path) -> None:
    network = build("timm:resnet10t", num_classes=4, arch_args={})
    path = save(tmp_path / "m.pt", network.state_dict())
    subject = open_subject(path, arch="timm:resnet10t.c3_in1k")
    assert subject.preprocess.input_size == (3, 176, 176) and subject.num_classes == 4
    with pytest.raises(PreprocessError):
        open_subject(path, arch="timm:resnet10t")
    with pytest.raises((ArchitectureError, PreprocessError)) as caught:
        open_subject(path, arch="timm:resnet10t.nonsense")
    one_line(caught.value)


def written(path: Path, state: dict[str, Tensor], arch: str, **args: Any) -> Path:
    preprocess = {"input_size": [3, 8, 8], "mean": [0.5] * 3, "std": [0.5] * 3}
    write_tensors(path, state, {"arch": arch, "arch_args": args, "preprocess": preprocess})
    return path


def test_an_earlier_output_needs_no_flags(tmp_path: Path, code: str) -> None:
    state = Net(num_classes=6, width=5).state_dict()
    subject = open_subject(written(tmp_path / "o.safetensors", state, f"{code}:net", width=5))
    assert (subject.num_classes, subject.arch_args) == (6, {"width": 5})
    again = open_subject(tmp_path / "o.safetensors", arch=f"{code}:net", arch_args={"channels": 3})
    assert again.arch_args == {"width": 5, "channels": 3}
    with pytest.raises(ArchitectureError, match="does not fit"):
        open_subject(tmp_path / "o.safetensors", arch=f"{code}:Net")  # another architecture: its arguments are not ours


@pytest.mark.parametrize(
    "arch", ["os:system", "subprocess:run", "builtins:exec", "shutil:rmtree", "timm:os", "torch.hub:load"]
)
def test_a_file_cannot_call_what_it_likes(arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata is data: it names code of the user's own folder at most, never the standard library's or a package's."""
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "o.safetensors", Net().state_dict(), arch, command="touch PWNED")
    with pytest.raises(ArchitectureError) as caught:
        open_subject(path)
    assert "rectify metadata; --arch overrides it" in one_line(caught.value)
    assert not (tmp_path / "PWNED").exists()


def test_a_file_cannot_reach_through_the_users_code(tmp_path: Path, code: str) -> None:
    with open(tmp_path / f"{code}.py", "a") as file:
        file.write("\nimport os\nfrom os import system\n")
    for name in ("os.system", "system"):
        path = tmp_path / f"{name}.safetensors"
        written(path, Net().state_dict(), f"{code}:{name}", command="touch PWNED")
        with pytest.raises(ArchitectureError, match="not defined in"):
            open_subject(path)
    assert not (tmp_path / "PWNED").exists()


def test_a_container_cannot_name_code(tmp_path: Path, code: str, rgb8: Preprocess, net: nn.Module) -> None:
    value = {"model_name": f"{code}:net", "num_classes": 10, "model": net.state_dict()}
    with pytest.raises(ArchitectureError, match=r"asks to import .*pass --arch"):
        open_subject(save(tmp_path / "m.pt", value), preprocess=rgb8)


def test_config_cannot_name_code(tmp_path: Path, net: nn.Module) -> None:
    path = folder(tmp_path / "hub", net.state_dict(), config={**TIMM, "architecture": "os:system"})
    with pytest.raises(ArchitectureError, match="timm has no architecture 'os:system'"):
        open_subject(path)


def test_missing_file_comes_first(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        open_subject(tmp_path / "m.pt", arch="resnet18")


def test_broken_preprocessing_in_a_file(tmp_path: Path) -> None:
    """It is said, and another may be passed."""
    network = build("timm:resnet10t", num_classes=10, arch_args={})
    config = json.loads(json.dumps({**TIMM, "architecture": "resnet10t"}))
    config["pretrained_cfg"]["mean"] = [127, 127, 127]
    path = folder(tmp_path / "hub", network.state_dict(), config=config)
    with pytest.raises(
        PreprocessError, match=r"config\.json: mean is \[127.*divide by 255.*--preprocess FILE"
    ) as caught:
        open_subject(path)
    one_line(caught.value)
    assert open_subject(path, preprocess=Preprocess((3, 32, 32), (0.5,) * 3, (0.5,) * 3)).num_classes == 10
    said = json.dumps({"arch": "timm:resnet10t", "preprocess": {"mean": 1}})
    safetensors.torch.save_file(network.state_dict(), tmp_path / "o.safetensors", {"rectify": said})
    with pytest.raises(PreprocessError, match=r"rectify metadata of o\.safetensors: .*pass --preprocess FILE"):
        open_subject(tmp_path / "o.safetensors")


def test_a_softmax_at_the_end_is_undone_and_a_single_output_told(
    net: nn.Module, tmp_path: Path, rgb8: Preprocess
) -> None:
    (tmp_path / "ends.py").write_text(
        "from torch import nn\n"
        "def end(num_classes=3, soft=True):\n"
        "    last = [nn.Softmax(1)] if soft else []\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes), *last)\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        state = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).state_dict()
        path = save(tmp_path / "m.pt", state)
        soft = open_subject(path, arch="ends:end", preprocess=rgb8)
        plain = open_subject(path, arch="ends:end", arch_args={"soft": False}, preprocess=rgb8)
        assert "ends in a softmax" in soft.notes[0] and len(soft.notes) == 1 and plain.notes == ()
        x = 30 * torch.randn(5, 3, 8, 8)  # sure enough that some probabilities vanish
        answers = [copy.deepcopy(subject.network)(x) for subject in (soft, plain)]
        torch.testing.assert_close(answers[0].softmax(1), answers[1].softmax(1))
        assert bool(answers[0].isfinite().all())
        assert soft.network.state_dict().keys() == state.keys()
        single = save(tmp_path / "s.pt", {name: value[:1] for name, value in state.items()})
        for classes in (None, 1):
            with pytest.raises(ArchitectureError, match=r"torch\.cat\(\[-z, z\], 1\)") as caught:
                open_subject(single, arch="ends:end", num_classes=classes, preprocess=rgb8)
            one_line(caught.value)
    finally:
        sys.path.remove(str(tmp_path))


def test_a_module_without_its_callable_is_told_how_to_name_one(code: str) -> None:
    with pytest.raises(ArchitectureError, match=f"it is a module; pass --arch {code}:CALLABLE") as caught:
        build(code, num_classes=10, arch_args={})
    one_line(caught.value)


def one_storage() -> nn.Module:
    network = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    network["b"].weight = nn.Parameter(network["a"].weight.data)  # type: ignore[union-attr]
    return network


@pytest.mark.parametrize("parted", [False, True], ids=["as it is built", "in a copy"])
def test_a_file_that_the_network_cannot_hold_is_refused(parted: bool, tmp_path: Path) -> None:
    """An edit of one of two weights over one storage: whoever loads it has two edited ones, or none."""
    network = one_storage()
    load_into(network, checkpoint_of(network.state_dict(), tmp_path))
    state = {name: value.clone() for name, value in network.state_dict().items()}
    state["a.weight"] += 0.01
    with pytest.raises(ArchitectureError, match=r"holds other numbers than ModuleDict .*\((a|b)\.weight\)") as caught:
        load_into(copy.deepcopy(network) if parted else one_storage(), checkpoint_of(state, tmp_path))
    one_line(caught.value)


def test_loading_may_round(net: nn.Module, tmp_path: Path) -> None:
    class Scaled(Net):
        def load_state_dict(self, state: Any, **how: Any) -> Any:
            return super().load_state_dict(
                {n: v / 3 * 3 if v.is_floating_point() else v for n, v in state.items()}, **how
            )

    load_into(Scaled(), checkpoint_of(net.state_dict(), tmp_path))


def test_a_network_that_gives_no_numbers_is_refused(
    net: nn.Module, tmp_path: Path, code: str, rgb8: Preprocess
) -> None:
    state = net.state_dict()
    low = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    assert open_subject(save(tmp_path / "half.pt", low), arch=f"{code}:net", preprocess=rgb8).num_classes == 10
    state["bn.running_var"][:] = -1
    with pytest.raises(CheckpointError, match="values that are not finite") as caught:
        open_subject(save(tmp_path / "m.pt", state), arch=f"{code}:net", preprocess=rgb8)
    one_line(caught.value)


def test_a_network_that_is_random_or_remembers_is_told(
    net: nn.Module, tmp_path: Path, code: str, rgb8: Preprocess
) -> None:
    with open(tmp_path / f"{code}.py", "a") as file:
        file.write(
            "\nclass Random(Net):\n    def forward(self, x):\n"
            "        return super().forward(x * (1 + 0.5 * torch.rand_like(x)))\n"
        )
    path = save(tmp_path / "m.pt", net.state_dict())
    assert open_subject(path, arch=f"{code}:net", preprocess=rgb8).notes == ()
    assert open_subject(path, arch=f"{code}:Random", preprocess=rgb8).notes == (RANDOM,)


LAZY = """

class Lazy(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv, self.bn, self.fc = nn.LazyConv2d(4, 3, padding=1), nn.LazyBatchNorm2d(), nn.LazyLinear(num_classes)

    def forward(self, x):
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


class Unused(Lazy):
    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.other = nn.LazyLinear(3)
"""


def test_lazy_modules_get_their_shapes_before_the_file_is_loaded(
    net: nn.Module, tmp_path: Path, code: str, rgb8: Preprocess
) -> None:
    with open(tmp_path / f"{code}.py", "a") as file:
        file.write(LAZY)
    path = save(tmp_path / "m.pt", net.state_dict())
    subject = open_subject(path, arch=f"{code}:Lazy", preprocess=rgb8, device="cpu")
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(subject.network(x), net.eval()(x))
    with pytest.raises(ArchitectureError, match=r"no shape after an image .*\(other.weight, other.bias\)") as caught:
        open_subject(path, arch=f"{code}:Unused", preprocess=rgb8, device="cpu")
    one_line(caught.value)
    other = Preprocess((3, 8, 8), (0.5,) * 3, (0.5,) * 3)
    fresh = [fresh_subject(f"{code}:Lazy", other, num_classes=5, device="cpu").network.state_dict() for _ in range(2)]
    assert all(torch.equal(value, fresh[1][name]) for name, value in fresh[0].items())
