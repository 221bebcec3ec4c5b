"""From settings to opened models and images, with real files; only the library's work is replaced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from .conftest import FakeLibrary

NETWORK = """
import torch
from torch import nn

def net(num_classes=4, width=6):
    print("a network that talks")
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
"""  # noqa: E501
PREPROCESS = "input_size: 8\nmean: [0.5, 0.5, 0.5]\nstd: [0.25, 0.25, 0.25]\n"
LAYER = {
    "name": "0", "kind": "conv", "shape": [6, 3, 3, 3], "parameters": 168, "editability": 0.5, "attribution": 0.4,
    "completeness_gap": None, "out_of_span": 0.1, "rank": 1, "editability_scale_free": 0.2, "leverage": 0.3,
    "candidate": True, "trial": None, "lipschitz_outlier": None,
}  # fmt: skip


@pytest.fixture
def folder(jobs: FakeLibrary, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The current folder, with a network's code, a checkpoint, and pictures."""
    module = f"net_{abs(hash(request.node.name))}"
    (tmp_path / f"{module}.py").write_text(NETWORK)
    torch.manual_seed(0)
    state = {"0.weight": torch.randn(6, 3, 3, 3), "0.bias": torch.zeros(6)}
    state |= {"4.weight": torch.randn(4, 6), "4.bias": torch.zeros(4)}
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "model.pt")
    save_file(state, tmp_path / "edited.safetensors")
    for index, name in enumerate(["a", "b", "calibration/0", "calibration/1", "data/0/x", "data/3/y"]):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (10 * index, 200, 30)).save(path)
    (tmp_path / "preprocess.yaml").write_text(PREPROCESS)
    (tmp_path / "rectify.yaml").write_text(
        f"model: model.pt\narch: {module}:net\narch_args: {{width: 6}}\nnum_classes: 4\npreprocess: preprocess.yaml\n"
    )
    return tmp_path


PAIR = ("--clean", "a.png", "--poisoned", "b.png")


def test_edit_with_the_model_from_the_file(folder, jobs, rectify_) -> None:
    said = rectify_("edit", *PAIR, "--calibration", "calibration", "--data", "data", "--device", "cpu", "-v")
    assert said.code == 0, said.err
    inputs = jobs.asked["inputs"]
    assert inputs.pairs.names == (("a.png", "b.png"),)
    assert (len(inputs.calibration), inputs.data.labels, inputs.holdout) == (2, (0, 3), None)
    assert inputs.subject.num_classes == 4 and inputs.subject.arch_args == {"width": 6}
    assert jobs.asked["editing"].out == Path("model.rectified.safetensors")
    assert "module." in said.err and "state_dict" in said.err  # which part of the file was used
    assert "a network that talks" in said.err and "talks" not in said.out


def test_localize_with_everything_from_the_file_and_triage_without_a_pair(folder, jobs, rectify_) -> None:
    said = rectify_("localize", "model.pt")
    assert said.code == 0, said.err
    assert jobs.asked["inputs"].pairs is None
    assert "data-free triage" in said.err
    with open("rectify.yaml", "a") as file:
        file.write("clean: a.png\npoisoned: [b.png]\n")
    assert rectify_("localize", "model.pt").code == 0
    assert len(jobs.asked["inputs"].pairs) == 1
    assert rectify_("localize").code == 0


def test_evaluate_against_takes_architecture_and_preprocessing_from_the_model(folder, jobs, rectify_) -> None:
    said = rectify_("evaluate", "edited.safetensors", *PAIR, "--against", "model.pt", "--mean", "0.1,0.2,0.3")
    assert said.code == 0, said.err
    before, after = jobs.asked["against"], jobs.asked["inputs"].subject
    assert before.preprocess == after.preprocess
    assert after.preprocess.mean == (0.1, 0.2, 0.3) and after.preprocess.std == (0.25, 0.25, 0.25)
    assert before.arch == after.arch


def test_flags_override_single_fields_of_the_preprocessing(folder, jobs, rectify_) -> None:
    words = ["localize", *PAIR, "--input-size", "12", "--crop-pct", "0.5", "--interpolation", "nearest", "--std", "1"]
    said = rectify_(*words)
    assert said.code == 2 and "channels" in said.err  # one entry of std, three of mean
    assert rectify_(*words[:-1], "1,1,1").code == 0
    used = jobs.asked["inputs"].subject.preprocess
    assert (used.input_size, used.crop_pct, used.interpolation) == ((3, 12, 12), 0.5, "nearest")
    assert (used.mean, used.std) == ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))


def test_preprocessing_by_flags_alone_or_by_mapping(folder, jobs, rectify_) -> None:
    text = Path("rectify.yaml").read_text()
    Path("rectify.yaml").write_text(text.replace("preprocess: preprocess.yaml\n", ""))
    said = rectify_("localize", *PAIR)
    assert said.code == 2 and "preprocess" in said.err
    flags = ["--input-size", "8", "--mean", "0,0,0", "--std", "1,1,1"]
    assert rectify_("localize", *PAIR, *flags).code == 0
    mapping = "preprocess: {input_size: 8, mean: [0, 0, 0], std: [1, 1, 1]}\n"
    Path("rectify.yaml").write_text(text.replace("preprocess: preprocess.yaml\n", mapping))
    assert rectify_("localize", *PAIR).code == 0
    assert jobs.asked["inputs"].subject.preprocess.mean == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("localize", "no.pt"), "no.pt"),
        (("localize", "a.png"), "a.png"),
        (("localize", "model.pt", "--arch", "resnet1888"), "resnet18"),
        (("localize", "model.pt", "--preprocess", "imagnet"), "imagenet"),
        (("localize", "model.pt", "--arch-arg", "width=7"), "3 wrong-shaped"),
        (("edit", "--clean", "a.png", "--poisoned", "no.png"), "no.png"),
        (("edit", "--clean", "a.png", "--poisoned", "a.png"), "same image"),
        (("edit", "--pairs", "no"), "no"),
        (("edit", *PAIR, "--data", "no"), "no"),
    ],
)
def test_what_cannot_be_used_is_2_and_silent_on_stdout(folder, jobs, rectify_, words, message) -> None:
    said = rectify_(*words, "-q")
    assert (said.code, said.out) == (2, "")
    lines = [line for line in said.err.splitlines() if line != "a network that talks"]
    assert len(lines) == 1 and lines[0].startswith("error: ")
    assert message in said.err
    assert jobs.asked == {}


@pytest.mark.parametrize("flag", ["--pairs", "--holdout"])
def test_a_label_that_is_no_class_is_told_with_its_file_and_line(folder, jobs, rectify_, flag) -> None:
    Path("p.csv").write_text("clean,poisoned,label\na.png,b.png,7\n")
    said = rectify_("evaluate", flag, "p.csv", "-q")
    assert said.code == 2
    assert "p.csv, line 2: label 7 of a network of 4 classes; labels are 0 to 3: give the class of" in said.err
    assert jobs.asked == {}


@pytest.mark.parametrize("image", ["r.pairs.png", "calibration/deep/r.layers.png"])
def test_no_picture_of_a_report_replaces_an_input(folder, jobs, rectify_, image) -> None:
    Path(image).parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), (200, 20, 90)).save(image)
    before, page = Path(image).read_bytes(), str(Path(image).parent / "r.md")
    corrupted = "r.pairs.png" if image == "r.pairs.png" else "b.png"
    words = ("edit", "--clean", "a.png", "--poisoned", corrupted, "--calibration", "calibration", "--report")
    said = rectify_(*words, page)
    assert said.code == 2 and jobs.asked == {}
    assert f"never overwritten: give --report {page}, whose picture it would be, another name" in said.err
    assert Path(image).read_bytes() == before
    assert rectify_(*words, page.replace(".md", ".html")).code == 0  # holds its pictures itself


def test_trust_pickle_is_loud(folder, jobs, rectify_) -> None:
    assert "WARNING: --trust-pickle" in rectify_("localize", "--trust-pickle", *PAIR).err


def pictured(report: dict) -> None:
    """What an edit's report holds beyond the figures, as far as pictures need it."""
    report["pairs"] = {"count": 1, "sha256": "0" * 64, "target": 2, "labels": [1], "fault": "flip"}
    report["localize"] = {
        "method": "integrated-gradients", "target": 2, "completeness_gap": 0.0, "layers": [LAYER],
    }  # fmt: skip
    report["edit"] = {
        "mode": "dynamic", "policy": "default", "steps": [], "changed_tensors": [], "delta": None,
        "precision_loss": 0.0, "dry_run": False, "warnings": [],
        "out": {"path": "edited.safetensors", "sha256": "0" * 64, "bytes": 1234},
    }  # fmt: skip


def test_pictures_are_in_the_page_and_beside_the_markdown(folder, jobs, rectify_) -> None:
    jobs.fill = pictured
    said = rectify_("edit", *PAIR, "--report", "out.html", "--report", "out.md", "--report", "out.json")
    assert said.code == 0, said.err
    assert "no picture" not in said.err
    page = Path("out.html").read_text()
    assert page.count("data:image/png;base64") >= 2
    for name in ("out.layers.png", "out.pairs.png"):
        assert Path(name).read_bytes().startswith(b"\x89PNG")
        assert name in Path("out.md").read_text()
    assert "repaired model: edited.safetensors (1.2 kB)" in said.err
    assert "report: out.html" in said.err
    assert json.loads(Path("out.json").read_text())["edit"]["out"]["bytes"] == 1234


def test_what_lies_there_is_said_where_the_reports_are_interrupted(folder, jobs, rectify_, monkeypatch) -> None:
    from rectify.cli import pictures

    def stop(result: object, path: Path) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(pictures, "_layers", stop)
    jobs.fill = pictured
    said = rectify_("edit", *PAIR, "--report", "out.json", "--report", "out.html")
    assert (said.code, said.out) == (130, "") and not Path("out.html").exists()
    lines = ["repaired model: edited.safetensors (1.2 kB)", "report: out.json", "interrupted"]
    assert said.err.splitlines()[-3:] == lines


def test_rows_of_the_picture(folder, jobs, rectify_) -> None:
    from rectify.cli.outputs import Result
    from rectify.cli.pictures import pair_rows

    jobs.fill = pictured
    rectify_("edit", *PAIR)
    report: dict = {"command": "edit"}
    pictured(report)
    inputs = jobs.asked["inputs"]
    (row,) = pair_rows(Result(report, inputs))
    assert row["clean"].shape == (8, 8, 3) and row["label"] == "class 1" and row["target"] == "class 2"
    with torch.inference_mode():
        shares = inputs.subject.network(inputs.pairs.corrupted.to(inputs.subject.device)).softmax(1)[0]
    assert row["before"][0]["confidence"] == pytest.approx(float(shares.max()))
    assert row["after"] == row["before"]  # the written file holds the same weights here
    report["edit"]["out"] = None
    (row,) = pair_rows(Result(report, inputs))
    assert "after" not in row and "before" in row


def test_a_picture_that_fails_is_left_out(folder, jobs, rectify_, monkeypatch) -> None:
    from rectify.cli import pictures

    def fail(result: object, path: Path) -> bool:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(pictures, "_layers", fail)
    jobs.fill = pictured
    said = rectify_("edit", *PAIR, "--report", "out.html")
    assert said.code == 0
    assert "note: no picture of the layers: no fonts" in said.err
    assert Path("out.html").exists()


def test_the_library_itself(folder, jobs: FakeLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    import rectify

    module = next(folder.glob("net_*.py"))
    module.write_text(module.read_text().replace("print", "str"))
    name = Path("rectify.yaml").read_text().split("arch: ")[1].split()[0]
    preprocess = rectify.preprocessing("preprocess.yaml")
    assert rectify.preprocessing({"input_size": 8, "mean": [0.5], "std": [0.5]}).input_size == (1, 8, 8)
    subject = rectify.load("model.pt", arch=name, num_classes=4, preprocess=preprocess, device="cpu")
    pairs = rectify.pairs(["a.png"], ["b.png"], subject=subject)
    assert rectify.localize(subject, pairs, seed=3)["command"] == "localize"
    assert jobs.asked["options"].seed == 3
    assert rectify.edit(subject, pairs, out="x.safetensors", how={"rank": "1"})["command"] == "edit"
    assert (jobs.asked["editing"].out, jobs.asked["editing"].rank) == (Path("x.safetensors"), "1")
    assert rectify.evaluate(subject, pairs, gates={"max_asr": 0.0})["exit_code"] == 1
    assert capsys.readouterr().err == ""  # the library speaks only when asked to
