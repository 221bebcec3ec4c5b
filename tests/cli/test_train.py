"""`rectify train` from outside: what a person types, what is written, and what every mistake is answered with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from PIL import Image

from rectify.reporting.schema import load as load_schema
from tests.cli.train_samples import FRESH, QUICK, one_line
from tests.conftest import run_here, sha256
from tests.files.flower_samples import flowers


def test_fresh_weights_then_fine_tuning_without_saying_the_architecture_again(place: Path) -> None:
    said = run_here([*FRESH, *QUICK, "--val", "val", "-o", "m.safetensors", "--format", "json"], place)
    assert said.code == 0, said.err
    report = said.report
    jsonschema.validate(report, load_schema())
    train = report["train"]
    assert (train["objective"], train["epochs"], train["judged_on"]) == ("ig-sum-norm", 2, "val")
    assert len(train["history"]) == 2 and train["settings"]["path_points"] == 2
    assert report["model"]["sha256"] == sha256(place / "m.safetensors") == train["out"]["sha256"]
    assert report["metrics"]["before"] is None and report["metrics"]["after"]["accuracy"] == train["natural_accuracy"]
    assert not (place / "m.safetensors.resume").exists()
    again = run_here(
        ["train", "m.safetensors", "--data", "data", *QUICK, "--format", "json", "--objective", "madry"], place
    )
    assert again.code == 0, again.err
    assert (place / "m.trained.safetensors").exists()
    assert again.report["model"]["sha256"] == sha256(place / "m.safetensors")
    assert again.report["metrics"]["before"]["accuracy"] is not None
    assert again.report["train"]["judged_on"] == "data"
    assert any("flatters" in note for note in again.report["run"]["notes"])
    evaluated = run_here(["evaluate", "m.trained.safetensors", "--data", "val"], place)
    assert evaluated.code in (0, 3), evaluated.err  # it opens by its own metadata; chance may be all it has learned


def test_equal_runs_give_equal_bytes_and_reports(place: Path) -> None:
    out = []
    for _ in range(2):
        said = run_here([*FRESH, *QUICK, "-o", "m.safetensors", "--format", "json", "--force"], place)
        assert said.code == 0, said.err
        out.append((sha256(place / "m.safetensors"), {k: v for k, v in said.report.items() if k != "run"}))
    assert out[0] == out[1]
    other = run_here([*FRESH, *QUICK, "-o", "m.safetensors", "--seed", "1", "--force"], place)
    assert other.code == 0 and sha256(place / "m.safetensors") != out[0][0]


def test_a_preset_fills_what_flags_do_not_say(place: Path) -> None:
    words = [*FRESH, "--preset", "gtsrb-quick", "--objective", "ig-norm", "--epochs", "1", "--epoch-size", "6"]
    words += ["--attack-samples", "0", "-o", "m.safetensors", "--format", "json"]
    said = run_here(words, place)
    assert said.code == 0, said.err
    train = said.report["train"]
    assert (train["preset"], train["settings"]["path_points"], train["settings"]["batch_size"]) == (
        "gtsrb-quick",
        10,
        50,
    )
    assert train["settings"]["eps"] == pytest.approx(8 / 255) and train["adversarial_accuracy"] is None
    assert said.report["model"]["arch"] == "nets:net"


def test_gtsrb_on_a_folder_of_its_layout(tmp_path: Path) -> None:
    """torchvision's GTSRB: class folders 00000 to 00042; pictures of any size, here of three of the classes."""
    random = np.random.default_rng(0)
    for name in ("00000", "00007", "00042"):
        (tmp_path / "GTSRB" / name).mkdir(parents=True)
        for number in range(2):
            pixels = random.integers(0, 255, (21 + number, 30, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "GTSRB" / name / f"{number}.ppm")
    words = ["train", "--preset", "gtsrb-quick", "--data", "GTSRB", "--epochs", "1", "--attack-samples", "0"]
    said = run_here(
        [*words, "--path-steps", "2", "--attack-steps", "1", "-o", "m.safetensors", "--format", "json"], tmp_path
    )
    assert said.code == 0, said.err
    assert said.report["model"]["num_classes"] == 43 and said.report["model"]["preprocess"]["crop_mode"] == "squash"


@pytest.mark.parametrize("preset", ["flower", "flower-quick"])
def test_flower_on_a_folder_of_its_layout(preset: str, tmp_path: Path) -> None:
    """torchvision's Flowers102, here of three classes: its parts train and judge, evaluate takes the test part."""
    folder = flowers(tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    words = ["train", "--preset", preset, "--data", "flowers-102", "--epochs", "1", "--epoch-size", "4"]
    words += ["--batch-size", "2", "--path-steps", "2", "--attack-steps", "1", "--attack-samples", "1"]
    words += ["-o", "m.safetensors", "--format", "json", "--arch-arg", "width=4", "--input-size", "32"]
    said = run_here(words, tmp_path)
    assert said.code == 0, said.err
    report, train = said.report, said.report["train"]
    jsonschema.validate(report, load_schema())
    assert report["model"]["num_classes"] == 3 and report["model"]["preprocess"]["crop_mode"] == "squash"
    assert (report["data"]["count"], train["val"]["count"], train["judged_on"]) == (6, 3, "val")
    assert train["settings"]["eps"] == pytest.approx(8 / 255) and train["settings"]["weight"] == 0.1
    assert train["adversarial_accuracy"] is not None and len(train["history"]) == 1
    evaluated = run_here(["evaluate", "m.safetensors", "--data", ".", "--format", "json"], tmp_path)
    assert evaluated.code in (0, 3), evaluated.err
    assert evaluated.report["data"]["count"] == 3 and evaluated.report["data"]["sha256"] != train["val"]["sha256"]
    one_line(run_here([*words, "-o", "flowers-102/setid.mat", "--force"], tmp_path), "never overwritten")
    assert all(path.read_bytes() == content for path, content in before.items())


def test_flower_without_its_labels_or_without_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["train", "--preset", "flower-quick", "--data", "flowers-102", "-o", "m.safetensors"]
    folder = flowers(tmp_path)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "scipy.io", None)
        one_line(run_here(words, tmp_path), "the package scipy is missing: pip install scipy")
    (folder / "imagelabels.mat").unlink()
    one_line(run_here(words, tmp_path), "has no imagelabels.mat: put it beside jpg/")
    one_line(run_here([*words[:3], "-o", "m.safetensors"], tmp_path), "train on what? --data DIR, your own copy")


def test_report_files_hold_the_course(place: Path) -> None:
    words = [*FRESH, *QUICK, "--val", "val", "-o", "m.safetensors"]
    said = run_here(
        [*words, "--report", "r.html", "--report", "r.md", "--report", "r.xml", "--report", "r.json"], place
    )
    assert said.code == 0, said.err
    page, markdown = (place / "r.html").read_text(), (place / "r.md").read_text()
    for text in (page, markdown):
        assert "Course of the training" in text and "natural accuracy" in text
    assert "data:image/png" in page and "r.history.png" in markdown and (place / "r.history.png").exists()
    assert "epoch 1 of 2: loss" in said.err and "left" in said.err and "trained model: m.safetensors" in said.err
    assert "ig-sum-norm, 2 epochs: natural accuracy" in said.out.replace("\n", " ")
    jsonschema.validate(json.loads((place / "r.json").read_text()), load_schema())


def test_a_violated_gate_exits_1_and_keeps_the_work(place: Path) -> None:
    said = run_here([*FRESH, *QUICK, "--objective", "natural", "--min-accuracy", "1", "--epochs", "1", "--lr", "1e-6",
                     "-o", "m.safetensors"], place)  # fmt: skip
    assert said.code == 1 and (place / "m.safetensors").exists()
    held = run_here([*FRESH, *QUICK, "--min-accuracy", "0", "-o", "m.safetensors", "--force"], place)
    assert held.code == 0


def test_settings_from_rectify_yaml(place: Path) -> None:
    lines = ["arch: nets:net", "data: val", "preprocess: {input_size: 6, mean: [0], std: [1]}", "train:"]
    lines += [
        "  data: data",
        "  objective: natural",
        "  epochs: 1",
        "  out: from-yaml.safetensors",
        "  attack_samples: 0",
        "  lr: 0.01",
    ]
    (place / "rectify.yaml").write_text("\n".join(lines) + "\n")
    said = run_here(["train", "--format", "json"], place)
    assert said.code == 0, said.err
    assert said.report["train"]["objective"] == "natural" and (place / "from-yaml.safetensors").exists()


def test_the_data_of_a_settings_file_judges_and_is_not_trained_on(place: Path) -> None:
    (place / "rectify.yaml").write_text("arch: nets:net\ndata: val\npreprocess: {input_size: 6, mean: [0], std: [1]}\n")
    one_line(run_here(["train", "-o", "m.safetensors"], place), "train on what?")


def test_what_show_config_prints_can_be_saved(place: Path) -> None:
    words = [*FRESH, *QUICK, "-o", "m.safetensors", "--objective", "madry"]
    shown = run_here([*words, "--show-config"], place)
    kept = [line for line in shown.out.splitlines() if not line.startswith("#")]
    (place / "rectify.yaml").write_text("\n".join([*kept, "preprocess: {input_size: 6, mean: [0], std: [1]}"]) + "\n")
    said = run_here(["train", "--format", "json"], place)
    assert said.code == 0, said.err
    assert said.report["train"]["objective"] == "madry" and (place / "m.safetensors").exists()


def test_the_library_does_the_same(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import rectify
    from rectify.training.presets import Plan
    from rectify.training.start import fresh_subject

    monkeypatch.chdir(place)
    plain = rectify.preprocessing({"input_size": 6, "mean": [0.0], "std": [1.0]})
    subject = fresh_subject("nets:net", plain, num_classes=3, device="cpu")
    plan = Plan(objective="madry", eps=0.1, attack_step=0.1, attack_steps=1, epochs=1, batch_size=6)
    report = rectify.train(subject, "data", out="m.safetensors", val="val", plan=plan, attack_samples=2)
    assert report["verdict"] == "pass" and report["train"]["objective"] == "madry"
    assert rectify.load("m.safetensors", device="cpu").num_classes == 3


def test_two_ways_of_saying_eps() -> None:
    from rectify.cli.values import pixels

    assert pixels("8/255") == pytest.approx(8 / 255) and pixels(0.3) == 0.3 and pixels("0.3") == 0.3
    for wrong in ("8", "-1/255", "x", "1/0", "300/255", True):
        with pytest.raises(ValueError):
            pixels(wrong)
