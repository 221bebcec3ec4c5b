"""`rectify explain` and `rectify evaluate --metrics` through the command line, on the shipped networks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import rectify
from rectify import names
from rectify.attribution.attribution import Settings
from rectify.attribution.methods import METHODS, attribute
from rectify.attribution.score import OUTPUTS, Score
from rectify.cli import options
from rectify.evaluation import quality
from rectify.reporting.schema import load as load_schema

from .conftest import ROOT, Said, model_flags, pair_flags, run_here

FIXTURE = ROOT / "fixtures" / "mnist-blend"
MODEL = str(FIXTURE / "model.safetensors")


def explain(tmp_path: Path, *words: str | Path) -> Said:
    return run_here(["explain", MODEL, *model_flags(), *words, "--format", "json"], tmp_path)


def schema_holds(said: Said) -> None:
    jsonschema.validate(said.report, load_schema())


def test_every_name_stands_for_something() -> None:
    from rectify.attribution import methods, quadrature

    assert tuple(methods._PLACES) == names.METHODS and names.SCORES == OUTPUTS
    assert tuple(quadrature.RULES) == names.QUADRATURES and tuple(quality._MEASURES) == names.METRICS


def test_an_image_by_two_methods(tmp_path: Path) -> None:
    image = FIXTURE / "calibration" / "000.png"
    said = explain(tmp_path, "--image", image, "--method", "ig", "--method", "uni", "--out", "maps")
    assert said.code == 0, said.err
    schema_holds(said)
    rows = said.report["explanations"]
    assert [row["method"] for row in rows] == ["ig", "uni"]
    assert all(Path(tmp_path, file).is_file() for row in rows for file in row["files"])
    found = load_file(tmp_path / "maps" / "000.ig.safetensors")["attribution"]
    assert found.shape == (1, 28, 28) and found.dtype == torch.float32
    subject = rectify.load(
        MODEL,
        arch="fixtures.networks:resnet18",
        arch_args={"width": 16, "channels": 1},
        num_classes=10,
        preprocess=rectify.preprocessing(FIXTURE / "preprocess.yaml"),
    )
    from rectify.files.images import read_images

    x = read_images([image], subject.preprocess).stack().to(subject.device)
    score = Score(subject.network)
    target = score.predictions(x)
    again = attribute("ig", score, x, target, Settings(bounds=subject.preprocess.bounds()))
    torch.testing.assert_close(found, again.values[0].cpu(), rtol=1e-4, atol=1e-6)
    assert rows[0]["target"] == rows[0]["prediction"] == int(target)
    assert rows[0]["confidence"] == pytest.approx(float(score.values(x, target)), abs=1e-5)
    assert rows[0]["completeness_gap"] == pytest.approx(float(again.gap), abs=1e-5)  # type: ignore[arg-type]
    assert load_file(tmp_path / "maps" / "000.uni.safetensors").keys() == {"attribution", "baseline"}


def test_a_pair_before_and_after_a_repair(tmp_path: Path, shared: object) -> None:
    out = str(shared.out)  # type: ignore[attr-defined]
    said = explain(tmp_path, *pair_flags(), "--compare", out, "--out", "maps", "--method", "gradient-x-input")
    assert said.code == 0, said.err
    schema_holds(said)
    assert said.report["compare"] == {"path": out, "sha256": hashlib.sha256(Path(out).read_bytes()).hexdigest()}
    assert said.report["against"] is None
    pairs = {row["model"]: row for row in said.report["explanation_pairs"]}
    assert pairs.keys() == {"model", "compare"}
    assert pairs["compare"]["pearson"] > pairs["model"]["pearson"] + 0.1  # Figure 1: the repaired one looks alike
    by_role = {(row["role"], row["model"]): row for row in said.report["explanations"]}
    assert len({row["target"] for row in by_role.values()}) == 1  # the clean image's class, for all four
    assert by_role["corrupted", "model"]["prediction"] != by_role["corrupted", "compare"]["prediction"]
    names = {path.name for path in (tmp_path / "maps").iterdir()}
    stem = "clean-0.gradient-x-input"
    assert {f"{stem}.png", f"{stem}.pair.png", f"{stem}.safetensors", f"{stem}.compare.safetensors"} <= names
    clean, corrupted = (
        load_file(tmp_path / "maps" / f"{side}-0.gradient-x-input.safetensors")["attribution"].sum(0).flatten()
        for side in ("clean", "poisoned")
    )
    expected = float(np.corrcoef(clean.numpy(), corrupted.numpy())[0, 1])
    assert pairs["model"]["pearson"] == pytest.approx(expected, abs=1e-5)


def test_each_image_its_own_prediction(tmp_path: Path) -> None:
    said = explain(tmp_path, *pair_flags(), "--target", "predicted", "--method", "gradient")
    targets = [row["target"] for row in said.report["explanations"]]
    assert targets == [row["prediction"] for row in said.report["explanations"]] and targets[0] != targets[1]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_a_folder(tmp_path: Path, method: str) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        data = (FIXTURE / "calibration" / f"{number:03d}.png").read_bytes()
        (tmp_path / "images" / f"{number}.png").write_bytes(data)
    more = ["--calibration", str(FIXTURE / "calibration")] if method == "expected-gradients" else []
    said = explain(tmp_path, "--image", "images", "--method", method, "--out", "m", "--steps", "8", *more)
    assert said.code == 0, said.err
    schema_holds(said)
    assert len(said.report["explanations"]) == 3
    for number in range(3):
        values = load_file(tmp_path / "m" / f"{number}.{method}.safetensors")["attribution"]
        assert values.shape == (1, 28, 28) and bool(values.isfinite().all()) and bool(values.any())
        with Image.open(tmp_path / "m" / f"{number}.{method}.png") as picture:
            assert min(picture.size) > 200


def test_equal_runs_give_equal_files(tmp_path: Path) -> None:
    words = ("--image", FIXTURE / "calibration" / "001.png", "--method", "uni", "--method", "smoothgrad")
    first, second = (explain(tmp_path, *words, "--out", name) for name in ("a", "b"))
    assert first.code == second.code == 0
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_a_layer_and_a_score(tmp_path: Path) -> None:
    words = ("--image", FIXTURE / "calibration" / "001.png", "--layer", "layer2", "--score", "logit", "--out", "m")
    said = explain(tmp_path, *words)
    assert said.code == 0, said.err
    assert load_file(tmp_path / "m" / "001.ig.layer2.safetensors")["attribution"].ndim == 3
    row = said.report["explanations"][0]
    assert row["settings"]["output"] == "logit" and row["settings"]["layer"] == "layer2"
    assert row["completeness_gap"] is None  # beside a shortcut the sum is a part of the change, not an error


def test_uni_at_a_layer_keeps_its_baseline(tmp_path: Path) -> None:
    image = FIXTURE / "calibration" / "001.png"
    said = explain(tmp_path, "--image", image, "--layer", "layer2", "--method", "uni", "--out", "m", "--set", "eps=0.5")
    assert said.code == 0, said.err
    told = said.report["explanations"][0]["settings"]
    assert told["baseline"] == "unlearned" and told["eps"] == 0.5
    assert "baseline" in load_file(tmp_path / "m" / "001.uni.layer2.safetensors")


def test_a_tolerance_that_is_missed_or_not_heeded_is_said(tmp_path: Path) -> None:
    image = FIXTURE / "calibration" / "001.png"
    said = explain(tmp_path, "--image", image, "--tolerance", "1e-9", "--method", "ig", "--method", "gradient")
    notes = " ".join(said.report["run"]["notes"])
    assert "miss the tolerance" in notes and "gradient did not heed it" in notes


@pytest.mark.parametrize("name", ["pp.json", "start.ig.png"])
def test_nothing_that_was_read_is_written_over(tmp_path: Path, name: str) -> None:
    data = (FIXTURE / "calibration" / "000.png").read_bytes()
    (tmp_path / "start.png").write_bytes(data)
    (tmp_path / "start.ig.png").write_bytes((FIXTURE / "calibration" / "001.png").read_bytes())
    (tmp_path / "pp.json").write_text(json.dumps({"input_size": [1, 28, 28], "mean": [0.1307], "std": [0.3081]}))
    before = (tmp_path / name).read_bytes()
    flags = [*model_flags()[:-2], "--preprocess", "pp.json"]
    more = ["--report", "pp.json"] if name == "pp.json" else ["--baseline", "start.ig.png", "--out", "."]
    said = run_here(["explain", MODEL, *flags, "--image", "start.png", *more], tmp_path)
    assert said.code == 2 and "never overwritten" in said.err
    assert (tmp_path / name).read_bytes() == before


def test_the_baseline_of_a_settings_file_is_relative_to_it_and_the_environment_has_its_name(tmp_path: Path) -> None:
    (tmp_path / "cfg").mkdir()
    (tmp_path / "b.png").write_bytes((FIXTURE / "calibration" / "001.png").read_bytes())
    (tmp_path / "cfg" / "rectify.yaml").write_text("explain: {baseline: ../b.png, steps: 4}\n")
    image = str(FIXTURE / "calibration" / "000.png")
    said = explain(tmp_path, "--config", "cfg/rectify.yaml", "--image", image)
    assert said.code == 0, said.err
    assert said.report["explanations"][0]["settings"]["baseline"] == "image"
    from rectify.cli.config import resolve

    found = resolve("explain", options.EXPLAIN_FLAGS, {}, {"RECTIFY_EXPLAIN_BASELINE": "white"}, tmp_path)
    assert found["start"] == "white"


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    said = explain(tmp_path, "--image", FIXTURE / "calibration" / "000.png", "--target", "\u00b2", "--out", "new")
    assert said.code == 2 and "0 to 9" in said.err and not (tmp_path / "new").exists()


def test_a_map_of_a_layer_is_summed_over_its_channels() -> None:
    from rectify.jobs.explain import Explained, Item

    def heat(values: tuple[int, ...], image: tuple[int, ...]) -> tuple[int, ...]:
        one = Explained(
            Item(Path("a")), "model", "ig", 0, torch.zeros(image), torch.ones(values), 1.0, 0, *[None] * 5, {}
        )
        return tuple(one.heat().shape)

    assert heat((16, 16, 32), (1, 16, 32)) == (16, 32)  # a convolution of 16 channels on a wide image
    assert heat((7, 7, 96), (3, 224, 224)) == (7, 7) and heat((7, 7, 7), (3, 224, 224)) == (7, 7)
    assert heat((50, 64), (3, 32, 32)) == (7, 7) and heat((10,), (3, 32, 32)) == (1, 10)


def test_a_page_of_a_folder_opens_without_a_network(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(6):
        data = (FIXTURE / "calibration" / f"{number:03d}.png").read_bytes()
        (tmp_path / "images" / f"{number}.png").write_bytes(data)
    said = explain(tmp_path, "--image", "images", "--report", "page.html", "--steps", "8")
    assert said.code == 0, said.err
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 6 and "http" not in page.replace("Content-Security", "").replace(
        "http-equiv", ""
    )
    assert all(-1 <= row["faithfulness"] <= 1 for row in said.report["explanations"])
    assert "ost faithful" in page and "Worst completeness" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "explain what"),
        (["--image", "none.png"], "none.png"),
        (["--image", "a.png", "--method", "igg"], "ig"),
        (["--image", "a.png", "--target", "12"], "0 to 9"),
        (["--image", "a.png", "--baseline", "blakc"], "black"),
        (["--image", "a.png", "--baseline", "none.png"], "none.png"),
        (["--image", "a.png", "--layer", "layer9"], "layer"),
        (["--image", "a.png", "--layer", "layer2", "--method", "deeplift"], "ig"),
        (["--image", "a.png", "--set", "epss=1"], "eps"),
        (["--image", "a.png", "--set", "eps=big"], "a number"),
        (["--image", "a.png", "--method", "expected-gradients"], "--calibration"),
        (["--image", "a.png", "--rule", "trapezoid", "--steps", "1"], "at least 2"),
        (["--image", "a.png", "--out", "a.png"], "--out"),
        (["--image", "a.png", "--tolerance", "0"], "above 0"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_2(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "a.png").write_bytes((FIXTURE / "calibration" / "000.png").read_bytes())
    said = explain(tmp_path, *words)
    assert said.code == 2 and said.out == ""
    error = said.err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error and "internal" not in error


def test_an_input_is_never_written_over(tmp_path: Path) -> None:
    data = (FIXTURE / "calibration" / "000.png").read_bytes()
    for name in ("a.png", "a.ig.png"):
        (tmp_path / name).write_bytes(data)
    said = explain(tmp_path, "--image", "a.png", "--image", "a.ig.png", "--out", ".")
    assert said.code == 2 and "never overwritten" in said.err
    assert (tmp_path / "a.ig.png").read_bytes() == data and sorted(p.name for p in tmp_path.iterdir()) == [
        "a.ig.png",
        "a.png",
    ]


@pytest.mark.parametrize("reference", [False, True])
def test_nor_by_a_picture_beside_a_report(tmp_path: Path, reference: bool) -> None:
    data = (FIXTURE / "calibration" / "000.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data)
    (tmp_path / "deep" / "in").mkdir(parents=True)
    input_ = tmp_path / "deep" / "in" / "r.a.ig.png"
    input_.write_bytes(data)
    words = ("--calibration", "deep") if reference else ("--image", input_)
    said = explain(tmp_path, "--image", "a.png", *words, "--report", "deep/in/r.md")
    assert said.code == 2 and "never overwritten: give --report deep/in/r.md, whose picture it would be" in said.err
    assert input_.read_bytes() == data and not (tmp_path / "explanations").exists()


def test_a_report_may_go_where_the_maps_do(tmp_path: Path) -> None:
    """The folder is made before the report is written, and so are those above it."""
    image = FIXTURE / "calibration" / "000.png"
    words = ("--image", image, "--method", "gradient", "--faithfulness", "off", "--out", "deep/maps")
    said = explain(tmp_path, *words, "--report", "./deep/maps/index.md", "--report", tmp_path / "deep" / "r.html")
    assert said.code == 0, said.err
    assert "](index.000.gradient.png)" in (tmp_path / "deep" / "maps" / "index.md").read_text(encoding="utf-8")
    made = ("maps/000.gradient.png", "maps/index.000.gradient.png", "r.html")
    assert all((tmp_path / "deep" / name).is_file() for name in made)
    said = explain(tmp_path, *words, "--report", "deep/maps/in/index.md")
    assert said.code == 2 and "no folder deep/maps/in; type: mkdir -p deep/maps/in" in said.err


def test_a_report_that_cannot_be_written_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    image = FIXTURE / "calibration" / "000.png"
    for out, message in (("file/maps", "file is a file, not a folder"), ("maps", "no folder other")):
        said = explain(tmp_path, "--image", image, "--out", out, "--report", f"{out.replace('maps', 'other')}/r.md")
        assert said.code == 2 and message in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# ------------------------------------------------------------------------------------------ evaluate --metrics


def evaluate(tmp_path: Path, *words: str) -> Said:
    argv = ["evaluate", MODEL, *model_flags(), "--data", str(FIXTURE / "holdout"), *words, "--format", "json"]
    return run_here(argv, tmp_path)


def test_the_quality_of_explanations(tmp_path: Path) -> None:
    metrics = [m for m in quality.METRICS if m not in ("leakage", "robustness", "stability")]
    words = [word for metric in metrics for word in ("--metrics", metric)]
    said = evaluate(tmp_path, *words, "--method", "ig", "--method", "gradient", "--samples", "6", "--steps", "8")
    assert said.code == 0, said.err
    schema_holds(said)
    rows = {(row["method"], row["metric"]): row for row in said.report["explanation_metrics"]}
    for metric in ("mufidelity", "mufidelity-absolute", "deletion", "insertion"):
        for method in ("ig", "gradient"):
            assert rows[method, metric]["null_floor"] is not None and rows[method, metric]["settings"]["seed"] == 0
    assert rows["ig", "monotonicity"]["value"] is not None and rows["gradient", "monotonicity"]["value"] is None
    assert ("ig", "completeness-gap") in rows
    assert rows["ig", "deletion"]["settings"]["steps"] == 10


def test_robustness_and_stability(tmp_path: Path) -> None:
    words = ["--metrics", "robustness", "--metrics", "stability", "--samples", "2", "--method", "ig"]
    said = evaluate(tmp_path, *words, "--set", "attack_iterations=2", "--set", "attack_eps=0.1")
    assert said.code == 0, said.err
    rows = {row["metric"]: row for row in said.report["explanation_metrics"]}
    assert {"robustness-attack-spearman", "robustness-fgsm-kendall", "stability-steps-15-spearman"} <= rows.keys()
    assert rows["robustness-attack-spearman"]["settings"]["eps"] == pytest.approx(0.1)
    assert rows["robustness-attack-spearman"]["value"] < 0.999
    topk = evaluate(tmp_path, *words[:2], *words[4:], "--set", "attack_iterations=2", "--set", "attack_objective=top-k")
    assert topk.report["explanation_metrics"][0]["settings"]["objective"] == "top-k"
    assert evaluate(tmp_path, *words, "--set", "attack_objective=topp").code == 2


def test_what_a_method_does_not_have_is_said(tmp_path: Path) -> None:
    one = evaluate(tmp_path, "--metrics", "monotonicity", "--method", "gradient", "--samples", "2")
    assert one.code == 3 and one.report["explanation_metrics"][0]["value"] is None
    words = ["--metrics", "monotonicity", "--method", "gradient", "--method", "ig", "--samples", "2", "--steps", "4"]
    both = evaluate(tmp_path, *words)
    schema_holds(both)
    assert both.code == 0 and "gradient has no monotonicity" in both.report["run"]["notes"]
    told = both.report["explanation_metrics"][1]["settings"]
    assert told["images"] == 2 and told["attribution"]["steps"] == 4


def test_leakage_counts_for_its_gate(tmp_path: Path, shared: object) -> None:
    mask = np.zeros((28, 28), np.uint8)
    mask[:, :6] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    words = ["--metrics", "leakage", "--null-region", "mask.png", "--samples", "8"]
    said = evaluate(tmp_path, *words, "--max-leakage", "0.9")
    assert said.code == 0, said.err
    value = said.report["metrics"]["after"]["leakage"]
    assert 0 < value < 0.9 and said.report["gates"][0]["value"] == value
    assert evaluate(tmp_path, *words, "--max-leakage", "0.0").code == 1
    both = evaluate(tmp_path, *words, "--against", str(shared.out))  # type: ignore[attr-defined]
    assert both.report["metrics"]["before"]["leakage"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metrics", "leakage"], "--null-region"),
        (["--max-leakage", "0.1"], "--metrics leakage"),
        (["--metrics", "leakage", "--null-region", "white.png"], "all white"),
        (["--method", "ig"], "--metrics"),
        (["--metrics", "fidelity"], "mufidelity"),
        (["--metrics", "deletion", "--samples", "0"], "at least 1"),
    ],
)
def test_metrics_that_cannot_be_measured(tmp_path: Path, words: list[str], message: str) -> None:
    Image.new("L", (28, 28), 255).save(tmp_path / "white.png")
    said = evaluate(tmp_path, *words)
    assert said.code == 2 and message in said.err.strip().splitlines()[-1]


def test_the_json_is_json(tmp_path: Path) -> None:
    said = evaluate(tmp_path, "--metrics", "completeness", "--samples", "2")
    assert json.loads(said.out)["explanation_metrics"]
