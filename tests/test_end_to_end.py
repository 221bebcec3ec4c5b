"""The whole program on the shipped networks: files, figures and exit codes, checked by hand from the outside."""

from __future__ import annotations

import csv
import functools
import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from fixtures.networks import resnet18
from rectify.files.checkpoint import read_tensors, write_tensors
from rectify.reporting import schema

from .conftest import (
    ROOT,
    Said,
    Shared,
    copy_images,
    judge_flags,
    model_flags,
    pair_flags,
    run_here,
    sha256,
)
from .trouble import full_disk, stopped_while_judged, take_rights

BLEND = ROOT / "fixtures" / "mnist-blend"
MODEL = BLEND / "model.safetensors"
TARGET = 3
BASE = ["edit", str(MODEL), *model_flags()]
PAIR = pair_flags()
LAYER_KEYS = {"name", "kind", "editability", "attribution", "completeness_gap", "out_of_span", "rank"}
METRIC_KEYS = {"accuracy", "asr", "recovery", "gap"}
STEP_KEYS = {"layer", "rank", "delta_norm", "relative_norm", "gap_before", "gap_after", "kept"}


# ------------------------------------------------------------------------------------------------- our own figures


def pixels(paths: Sequence[Path]) -> Tensor:
    """Images as the network of mnist-blend wants them, with nothing of rectify."""
    raw = np.stack([np.asarray(Image.open(path).convert("L"), dtype=np.float32) for path in paths])
    return ((torch.from_numpy(raw) / 255 - 0.1307) / 0.3081).unsqueeze(1)


@torch.no_grad()
def probabilities(state: dict[str, Tensor], x: Tensor) -> Tensor:
    network = resnet18(10, width=16, channels=1).eval()
    network.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in state.items()})
    return torch.cat([network(x[i : i + 100]) for i in range(0, len(x), 100)]).softmax(1)


def figures_by_hand(path: Path) -> dict[str, float]:
    """Accuracy on the holdout and asr, base rate, recovery and gap on its pairs, from a file of weights."""
    return figures_of(path.read_bytes())


@functools.cache
def figures_of(weights: bytes) -> dict[str, float]:
    state = safetensors.torch.load(weights)
    files = sorted((BLEND / "holdout").glob("*/*.png"))
    truth = torch.tensor([int(file.parent.name) for file in files])
    accuracy = (probabilities(state, pixels(files)).argmax(1) == truth).double().mean()
    with open(BLEND / "holdout-pairs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = torch.tensor([int(row["label"]) for row in rows])
    assert bool((labels != TARGET).all())
    clean = probabilities(state, pixels([BLEND / row["clean"] for row in rows]))
    poisoned = probabilities(state, pixels([BLEND / row["poisoned"] for row in rows]))
    at = torch.arange(len(labels))
    return {
        "accuracy": float(accuracy),
        "asr": float((poisoned.argmax(1) == TARGET).double().mean()),
        "base_rate": float((clean.argmax(1) == TARGET).double().mean()),
        "recovery": float((poisoned.argmax(1) == labels).double().mean()),
        "clean_accuracy": float((clean.argmax(1) == labels).double().mean()),
        "gap": float((clean[at, labels] - poisoned[at, labels]).double().mean()),
    }


def assert_figures_are_of(path: Path, report: dict[str, Any]) -> None:
    found = figures_by_hand(path)
    after, holdout = report["metrics"]["after"], report["metrics"]["holdout"]["after"]
    assert after["accuracy"] == pytest.approx(found["accuracy"], abs=1e-6)
    for name in ("asr", "recovery", "base_rate"):
        assert holdout[name] == pytest.approx(found[name], abs=1e-6), name
    assert holdout["gap"] == pytest.approx(found["gap"], abs=1e-4)


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else tensor.numpy().tobytes()


def changed_by_hand(before: Path, after: Path) -> set[str]:
    """Names of tensors whose bits, type or shape differ."""
    old, new = safetensors.torch.load_file(before), safetensors.torch.load_file(after)
    assert old.keys() == new.keys()
    return {
        name
        for name in old
        if old[name].dtype != new[name].dtype
        or old[name].shape != new[name].shape
        or bits(old[name]) != bits(new[name])
    }


def without_run(report: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key != "run"}


def assert_one_line(said: Said, *words: str, code: int = 2) -> None:
    assert said.code == code, said.err
    assert said.out == ""
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and said.err.splitlines()[-1] == errors[0], said.err
    assert "Traceback" not in said.err and "internal:" not in said.err
    for word in words:
        assert word in errors[0]


def assert_empty(folder: Path) -> None:
    assert [path.name for path in folder.iterdir()] == []


@pytest.fixture
def apply(shared: Shared) -> list[str]:
    """The shared repair made again from its delta file: an edit without the search."""
    return [*BASE, "--apply", str(shared.delta)]


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Twenty calibration images: enough where the quality of the repair is not the question."""
    return ["--calibration", str(copy_images(BLEND / "calibration", tmp_path_factory.mktemp("few") / "images", 20))]


# ------------------------------------------------------------------------------------------------------ the repair


def test_a_repair_from_one_pair_reaches_the_bar(shared: Shared) -> None:
    found, before = figures_by_hand(shared.out), figures_by_hand(MODEL)
    assert before["asr"] > 0.99 and before["recovery"] < 0.01
    assert found["asr"] <= before["base_rate"] + 0.005
    assert found["recovery"] >= before["clean_accuracy"] - 0.015
    assert before["accuracy"] - found["accuracy"] <= 0.004


def test_the_figures_are_those_of_the_written_file(shared: Shared) -> None:
    assert_figures_are_of(shared.out, shared.report)
    before, said = figures_by_hand(MODEL), shared.report["metrics"]
    assert said["before"]["accuracy"] == pytest.approx(before["accuracy"], abs=1e-6)
    assert said["holdout"]["before"]["asr"] == pytest.approx(before["asr"], abs=1e-6)
    assert said["holdout"]["before"]["recovery"] == pytest.approx(before["recovery"], abs=1e-6)


def test_figures_of_the_one_pair(shared: Shared) -> None:
    both = pixels([BLEND / "pairs/clean/0.png", BLEND / "pairs/poisoned/0.png"])
    label = json.loads((BLEND / "figures.json").read_text())["pairs"]["labels"][0]
    for when, path in (("before", MODEL), ("after", shared.out)):
        p = probabilities(safetensors.torch.load_file(path), both)
        said = shared.report["metrics"][when]
        assert said["asr"] == float(p[1].argmax() == TARGET)
        assert said["recovery"] == float(p[1].argmax() == label)
        assert said["gap"] == pytest.approx(float(p[0, label] - p[1, label]), abs=1e-4)


def test_stdout_is_one_json_report_that_obeys_the_schema(shared: Shared) -> None:
    report = shared.report  # the whole of stdout was parsed
    jsonschema.Draft202012Validator(schema.load()).validate(report)
    assert (report["command"], report["verdict"], report["exit_code"]) == ("edit", "pass", 0)
    assert report["model"]["sha256"] == sha256(MODEL)
    assert report["pairs"] | {"count": 1, "target": TARGET} == report["pairs"]
    assert len(report["pairs"]["sha256"]) == 64
    for part in (report["metrics"]["before"], report["metrics"]["after"], *report["metrics"]["holdout"].values()):
        assert part.keys() >= METRIC_KEYS
    assert report["edit"]["steps"] and all(step.keys() >= STEP_KEYS for step in report["edit"]["steps"])


def test_the_report_names_exactly_the_tensors_that_changed(shared: Shared) -> None:
    changed = changed_by_hand(MODEL, shared.out)
    assert changed
    assert sorted(shared.report["edit"]["changed_tensors"]) == sorted(changed)
    kept = {f"{step['layer']}.weight" for step in shared.report["edit"]["steps"] if step["kept"]}
    assert changed == kept


def test_the_report_describes_the_files(shared: Shared) -> None:
    for key, path in (("out", shared.out), ("delta", shared.delta)):
        section = shared.report["edit"][key]
        assert (section["path"], section["sha256"], section["bytes"]) == (path.name, sha256(path), path.stat().st_size)


def test_the_input_is_untouched_and_nothing_else_lies_about(shared: Shared) -> None:
    assert sha256(MODEL) == json.loads((BLEND / "figures.json").read_text())["model"]["sha256"]
    assert {path.name for path in shared.out.parent.iterdir()} == {"calibration", shared.out.name, shared.delta.name}


def test_the_metadata_names_no_path_time_or_user(shared: Shared) -> None:
    with safetensors.safe_open(shared.out, "pt") as file:
        metadata = file.metadata()
    assert set(metadata) == {"format", "rectify"}
    said = json.loads(metadata["rectify"])
    assert said["base_sha256"] == sha256(MODEL)
    assert "time" not in said and str(ROOT) not in metadata["rectify"] and "/" not in metadata["rectify"]


def test_equal_runs_give_equal_bytes(shared: Shared, tmp_path: Path) -> None:
    """Another process, another folder, the same bytes and the same report."""
    said = run_here([*shared.argv, "-o", shared.out.name, "--delta", shared.delta.name], tmp_path)
    assert said.code == 0, said.err
    assert (tmp_path / shared.out.name).read_bytes() == shared.out.read_bytes()
    assert (tmp_path / shared.delta.name).read_bytes() == shared.delta.read_bytes()
    assert without_run(said.report) == without_run(shared.report)


# ----------------------------------------------------------------------------------------------------- delta files


def test_a_delta_is_small_and_gives_the_same_file(shared: Shared, apply: list[str], tmp_path: Path) -> None:
    said = run_here([*apply, "-o", "again.safetensors", "--format", "json"], tmp_path)
    assert said.code == 0, said.err
    applied, first = tmp_path / "again.safetensors", shared.out
    one, two = safetensors.torch.load_file(applied), safetensors.torch.load_file(first)
    assert all(bits(one[name]) == bits(two[name]) for name in two)
    assert said.report["edit"]["changed_tensors"] == shared.report["edit"]["changed_tensors"]
    assert shared.delta.stat().st_size < first.stat().st_size  # factors only; how many depends on the edit chosen


def test_a_delta_with_the_pair_gives_the_same_bytes(shared: Shared, apply: list[str], tmp_path: Path) -> None:
    said = run_here([*apply, *PAIR, "-o", "again.safetensors"], tmp_path)
    assert said.code == 0, said.err
    assert (tmp_path / "again.safetensors").read_bytes() == shared.out.read_bytes()


def test_a_delta_without_the_pair_gives_the_same_bytes(shared: Shared, apply: list[str], tmp_path: Path) -> None:
    """The contract: ``rectify edit MODEL --apply delta.safetensors`` gives the same patched file."""
    said = run_here([*apply, "-o", "again.safetensors"], tmp_path)
    assert said.code == 0, said.err
    assert sha256(tmp_path / "again.safetensors") == sha256(shared.out)


def test_a_delta_of_another_base_is_refused(shared: Shared, tmp_path: Path) -> None:
    other = ROOT / "fixtures/mnist-clean/model.safetensors"
    said = run_here(["edit", other, *model_flags(), "--apply", shared.delta, "-o", "x.safetensors"], tmp_path)
    assert_one_line(said)
    assert_empty(tmp_path)


def test_a_delta_is_judged_on_holdout_pairs_alone(apply: list[str], tmp_path: Path) -> None:
    """As `evaluate` does; else --max-asr says that attack success was not measured, on 200 pairs."""
    argv = [*apply, "--holdout", BLEND / "holdout-pairs.csv", "--max-asr", "0.05", "-o", "x.safetensors"]
    said = run_here([*argv, "--format", "json"], tmp_path)
    assert said.code == 0, said.report["reason"]


def test_a_dry_run_judges_and_leaves_nothing(apply: list[str], tmp_path: Path) -> None:
    said = run_here([*apply, *PAIR, *judge_flags(), "-o", "x.safetensors", "--dry-run", "--format", "json"], tmp_path)
    assert said.code == 0, said.err
    assert said.report["edit"]["dry_run"] is True and said.report["edit"]["out"] is None
    assert said.report["metrics"]["holdout"]["after"]["asr"] <= 0.005
    assert_empty(tmp_path)


# --------------------------------------------------------------------------------------------------- low precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_kept_and_what_it_costs_is_said(dtype: torch.dtype, few: list[str], tmp_path: Path) -> None:
    state = safetensors.torch.load_file(MODEL)
    cast = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    base = tmp_path / "low.safetensors"
    safetensors.torch.save_file(cast, base)
    common = ["edit", base, *model_flags(), *judge_flags(), "--format", "json"]
    search = [*PAIR, *few, "--mode", "static", "--layer", "fc", "--seed", "1"]
    said = run_here([*common, *search, "-o", "out.safetensors", "--delta", "delta.safetensors"], tmp_path)
    assert said.code == 0, said.err
    report, written = said.report, tmp_path / "out.safetensors"
    assert changed_by_hand(base, written) == set(report["edit"]["changed_tensors"]) == {"fc.weight"}
    assert safetensors.torch.load_file(written)["fc.weight"].dtype == dtype
    assert_figures_are_of(written, report)
    lost = report["edit"]["precision_loss"]
    assert lost > 1e-5
    assert (lost > 0.05) == any("float32" in warning for warning in report["edit"]["warnings"])

    again = [*common, *PAIR, "--apply", "delta.safetensors", "-o", "wide.safetensors"]
    wide = run_here([*again, "--out-dtype", "float32"], tmp_path)
    assert wide.code == 0, wide.err
    now = safetensors.torch.load_file(tmp_path / "wide.safetensors")
    assert {name for name in now if now[name].dtype != cast[name].dtype} == {"fc.weight"}
    assert now["fc.weight"].dtype == torch.float32
    assert 0 <= wide.report["edit"]["precision_loss"] < lost / 100
    assert_figures_are_of(tmp_path / "wide.safetensors", wide.report)


def test_a_delta_knows_the_type_that_it_was_made_with(tmp_path: Path) -> None:
    state = safetensors.torch.load_file(MODEL)
    base = tmp_path / "low.safetensors"
    safetensors.torch.save_file({n: t.half() if t.is_floating_point() else t for n, t in state.items()}, base)
    common = ["edit", base, *model_flags(), "-q", "--force"]
    search = [*PAIR, "--mode", "static", "--layer", "fc", "--rank", "1", "-o", "out", "--delta", "d"]
    assert run_here([*common, *search, "--out-dtype", "float32"], tmp_path).code == 0
    assert safetensors.torch.load_file(tmp_path / "out")["fc.weight"].dtype == torch.float32
    apply = [*common, "--apply", "d", "-o", "again"]
    for flag in ([], ["--out-dtype", "float32"]):
        assert run_here([*apply, *flag], tmp_path).code == 0
        assert sha256(tmp_path / "again") == sha256(tmp_path / "out")

    tensors, metadata = read_tensors(tmp_path / "d")
    del metadata["out_dtype"]  # as deltas were that did not say it
    write_tensors(tmp_path / "d", tensors, metadata, force=True)
    assert run_here(apply, tmp_path).code == 0
    assert safetensors.torch.load_file(tmp_path / "again")["fc.weight"].dtype == torch.float16
    assert run_here([*apply, "--out-dtype", "float32"], tmp_path).code == 0
    assert sha256(tmp_path / "again") == sha256(tmp_path / "out")
    write_tensors(tmp_path / "d", tensors, metadata | {"out_dtype": "float8"}, force=True)
    assert_one_line(run_here(apply, tmp_path), "weights of type 'float8', which are not written")


# ----------------------------------------------------------------------------------------------------------- gates


@pytest.mark.parametrize("gate", ["--min-recovery=1.01", "--max-asr=-0.1", "--max-asr=5", "--min-accuracy=nan"])
def test_impossible_limits_are_refused_before_the_work(gate: str, tmp_path: Path) -> None:
    assert_one_line(run_here([*BASE, *PAIR, gate, "-o", "x.safetensors"], tmp_path), gate.partition("=")[0])
    assert_empty(tmp_path)


@pytest.mark.parametrize("extra", [[], ["--exit-zero"]])
def test_a_rejected_file_is_not_left_behind(extra: list[str], apply: list[str], shared: Shared, tmp_path: Path) -> None:
    gates = ["--min-accuracy", "0.9999", "--max-asr", "0.05"]
    argv = [*apply, *PAIR, *judge_flags(), *gates, *extra, "-o", "x.safetensors", "--format", "json"]
    said = run_here(argv, tmp_path)
    assert said.code == (0 if extra else 1), said.err
    report = said.report
    jsonschema.Draft202012Validator(schema.load()).validate(report)
    assert (report["verdict"], report["exit_code"]) == ("fail", said.code)
    assert {gate["name"]: gate["passed"] for gate in report["gates"]} == {"min_accuracy": False, "max_asr": True}
    assert report["edit"]["out"] is None
    assert report["metrics"]["after"]["accuracy"] == pytest.approx(figures_by_hand(shared.out)["accuracy"])
    assert_empty(tmp_path)


def test_a_rejected_search_leaves_no_delta_and_keeps_an_older_file(few: list[str], tmp_path: Path) -> None:
    """With --force, too."""
    (tmp_path / "x.safetensors").write_bytes(b"an older file")
    argv = [*BASE, *PAIR, *few, *judge_flags()[:2], "--mode", "static", "--layer", "fc", "--rank", "1"]
    argv += ["--min-accuracy", "0.9999", "--force", "-o", "x.safetensors", "--delta", "d.safetensors"]
    said = run_here(argv, tmp_path)
    assert said.code == 1, said.err
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    assert (tmp_path / "x.safetensors").read_bytes() == b"an older file"


def test_a_delta_that_cannot_be_written_leaves_no_model(
    few: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is given its name last: where it lies, its delta does too."""
    full_disk(monkeypatch, "d.safetensors")
    argv = [*BASE, *PAIR, *few, "--mode", "static", "--layer", "fc", "--rank", "1"]
    said = run_here([*argv, "-o", "x.safetensors", "--delta", "d.safetensors"], tmp_path)
    assert_one_line(said, "d.safetensors", "No space left")
    assert_empty(tmp_path)


def test_a_gate_without_its_measurement_does_not_pass(apply: list[str], tmp_path: Path) -> None:
    assert run_here([*apply, "--min-accuracy", "0.5", "-o", "x.safetensors"], tmp_path).code == 2
    assert_empty(tmp_path)


# ----------------------------------------------------------------------------------------- what cannot be judged


def test_the_clean_twin_has_no_fault(tmp_path: Path) -> None:
    twin = "mnist-clean"
    argv = ["edit", ROOT / "fixtures" / twin / "model.safetensors", *model_flags(twin), *pair_flags(twin)]
    argv += [*judge_flags(twin), "--exit-zero", "-o", "x.safetensors", "--delta", "d.safetensors", "--format", "json"]
    said = run_here(argv, tmp_path)
    assert said.code == 3, said.err
    report = said.report
    jsonschema.Draft202012Validator(schema.load()).validate(report)
    assert (report["verdict"], report["exit_code"]) == ("inconclusive", 3)
    assert report["reason"] and "\n" not in report["reason"]
    assert report["edit"] is None or report["edit"]["out"] is None
    assert_empty(tmp_path)


@pytest.mark.parametrize("wrong", [["--mean", "0", "--std", "1"], ["--mean", "1", "--std", "0.05"]])
def test_wrong_preprocessing_is_inconclusive(wrong: list[str], few: list[str], tmp_path: Path) -> None:
    said = run_here([*BASE, *PAIR, *few, *judge_flags(), *wrong, "-o", "x.safetensors", "--format", "json"], tmp_path)
    assert said.code == 3, said.err
    assert said.report["reason"]
    assert_empty(tmp_path)


CLEAN, POISONED = str(BLEND / "pairs/clean/0.png"), str(BLEND / "pairs/poisoned/0.png")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([*BASE], ["pair"]),
        ([*BASE, "--clean", CLEAN, "--poisoned", CLEAN], []),
        ([*BASE, "--clean", CLEAN], ["--poisoned", "1 clean", "0 poisoned"]),
        ([*BASE, "--clean", CLEAN, "--poisoned", "nowhere.png"], ["nowhere.png"]),
        ([*BASE, "--clean", CLEAN, "--poisoned", str(BLEND / "preprocess.yaml")], ["preprocess.yaml"]),
        ([*BASE, *PAIR, "--layer", "layer4.1.conv7"], ["layer4.1.conv7", "did you mean", "layer4.1.conv"]),
        ([*BASE, *PAIR, "--mean", "33.3"], ["mean", "0..1"]),
        ([*BASE, *PAIR, "--std=-0.3"], ["std"]),
        ([*BASE, *PAIR, "--rank", "0"], ["--rank"]),
        ([*BASE, *PAIR, "--rank", "many"], ["--rank"]),
        (["edit", "nowhere.pt", *model_flags(), *PAIR], ["nowhere.pt"]),
        (["edit", str(MODEL), *PAIR], ["arch"]),
        (["edit", str(MODEL), *model_flags()[:-2], *PAIR], ["preprocess"]),
        (["edit", str(MODEL), *model_flags(), "--arch-arg", "width=8", *PAIR], []),
        (["edit", str(MODEL), *model_flags("cifar10-patch"), *PAIR], []),
    ],
)
def test_what_cannot_be_judged_is_one_line_and_exit_2(argv: list[str], words: list[str], tmp_path: Path) -> None:
    assert_one_line(run_here([*argv, "-o", "x.safetensors"], tmp_path), *words)
    assert_empty(tmp_path)


# --------------------------------------------------------------------------------------------------- where it goes


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    model, link = tmp_path / "model.safetensors", tmp_path / "link.safetensors"
    shutil.copy(MODEL, model)
    link.symlink_to(model)
    for out in (model, link):
        said = run_here(["edit", model, *model_flags(), *PAIR, "-o", out, "--force"], tmp_path)
        assert_one_line(said, "never overwritten")
        assert said.err.count("\n") == 1  # before the model was even opened
    assert sha256(model) == sha256(MODEL)


@pytest.mark.parametrize(
    ("flag", "path"),
    [
        ("-o", "data/0/deep/0.png"),  # no direct child of the folder that the command line names
        ("-o", "pairs/clean/0.png"),
        ("-o", "link"),
        ("--delta", "pairs/poisoned/0.png"),
        ("--delta", "elsewhere/c.png"),  # named by a CSV file
        ("--report", "elsewhere/c.json"),
    ],
)
def test_no_image_is_overwritten_however_it_was_named(flag: str, path: str, tmp_path: Path) -> None:
    copies = ["data/0/deep/0.png", "pairs/clean/0.png", "elsewhere/c.png", "elsewhere/c.json"]
    copies = [(CLEAN, name) for name in copies] + [(POISONED, "pairs/poisoned/0.png"), (POISONED, "elsewhere/p.png")]
    for source, name in copies:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / name)
    (tmp_path / "link").symlink_to("data/0/deep/0.png")
    rows = "elsewhere/c.png,elsewhere/p.png\nelsewhere/c.json,elsewhere/p.png\n"
    (tmp_path / "h.csv").write_text("clean,poisoned\n" + rows)
    words = [*BASE, "--pairs", "pairs", "--holdout", "h.csv", "--data", "data", flag, path, "--force"]
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    said = run_here(words if flag == "-o" else [*words, "-o", "new"], tmp_path)
    assert said.code == 2 and said.err.splitlines()[-1].startswith("error: ") and "never overwritten" in said.err
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("flag", ["-o", "--delta"])
def test_an_existing_file_is_kept_without_force(flag: str, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    other = ["-o", "new"] if flag == "--delta" else []
    said = run_here([*BASE, *PAIR, flag, "old", *other], tmp_path)
    assert_one_line(said, "--force")
    assert said.err.count("\n") == 1  # before the model was even opened
    assert (tmp_path / "old").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_force_replaces_an_older_file(apply: list[str], shared: Shared, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_text("old")
    assert run_here([*apply, *PAIR, "-o", "x.safetensors", "--force"], tmp_path).code == 0
    assert sha256(tmp_path / "x.safetensors") == sha256(shared.out)


@pytest.mark.parametrize(
    ("out", "word"),
    [("no/folder/x.safetensors", "mkdir -p"), ("file/x.safetensors", "not a folder"), (".", "a folder")],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(out: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = run_here([*BASE, *PAIR, "-o", out], tmp_path)
    assert_one_line(said, word)
    assert said.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_without_rights(apply: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    take_rights(monkeypatch, tmp_path / "locked")
    said = run_here([*apply, "-o", "locked/x.safetensors"], tmp_path)
    assert_one_line(said, "cannot write locked/", "make room or rights in")
    assert not list((tmp_path / "locked").iterdir())


def test_a_kill_leaves_no_file_under_the_name(apply: list[str], shared: Shared, tmp_path: Path) -> None:
    """Killed while the written file is judged: the name is free, and the next run takes it."""
    argv = [*apply, *PAIR, *judge_flags(), "-o", "x.safetensors"]
    assert stopped_while_judged("SIGKILL", argv, tmp_path).code == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".x.safetensors.") and left.suffix == ".candidate"
    assert run_here(argv, tmp_path).code == 0
    assert sha256(tmp_path / "x.safetensors") == sha256(shared.out)


# -------------------------------------------------------------------------------------- from a settings file beside it


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder such as a user has: the model, two pictures, rectify.yaml and no more."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("model.safetensors", "preprocess.yaml"):
        shutil.copy(BLEND / name, folder)
    shutil.copy(CLEAN, folder / "a.png")
    shutil.copy(POISONED, folder / "b.png")
    copy_images(BLEND / "calibration", folder / "images", 20)
    settings = "arch: fixtures.networks:resnet18\narch_args: {width: 16, channels: 1}\nnum_classes: 10\n"
    settings += "model: model.safetensors\npreprocess: preprocess.yaml\n"
    (folder / "rectify.yaml").write_text(settings)
    return folder


def assert_ranked(layers: list[dict[str, Any]]) -> None:
    assert all(layer.keys() >= LAYER_KEYS for layer in layers)
    assert [layer["rank"] for layer in layers] == list(range(1, len(layers) + 1))
    shapes = {name: t.shape for name, t in safetensors.torch.load_file(MODEL).items()}
    editable = {name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) in (2, 4)}
    names = [layer["name"] for layer in layers]
    assert len(set(names)) == len(names) and set(names) == editable


def test_localize_with_only_the_settings_beside_it(project: Path) -> None:
    with open(project / "rectify.yaml", "a") as file:
        file.write("clean: a.png\npoisoned: b.png\n")
    said = run_here(["localize", "model.safetensors", "--format", "json"], project)
    assert said.code == 0, said.err
    report = said.report
    jsonschema.Draft202012Validator(schema.load()).validate(report)
    assert (report["command"], report["verdict"], report["pairs"]["target"]) == ("localize", "pass", TARGET)
    assert_ranked(report["localize"]["layers"])
    for layer in report["localize"]["layers"]:
        assert all(layer[key] is not None for key in ("editability", "attribution", "out_of_span")), layer["name"]
    assert report["edit"] is None


def test_localize_without_a_pair_is_only_a_triage(project: Path) -> None:
    said = run_here(["localize", "model.safetensors", "--format", "json"], project)
    assert said.code == 0, said.err
    report = said.report
    jsonschema.Draft202012Validator(schema.load()).validate(report)
    assert "triage" in report["localize"]["method"] and report["pairs"] is None
    layers = report["localize"]["layers"]
    assert [layer["rank"] for layer in layers] == list(range(1, len(layers) + 1))
    assert all(layer["lipschitz_outlier"] is not None and layer["editability"] is None for layer in layers)
    assert "triage" in said.err and "--clean" in said.err


def test_localize_with_trials(project: Path) -> None:
    argv = ["localize", "--clean", "a.png", "--poisoned", "b.png", "--calibration", "images", "--trial"]
    said = run_here([*argv, "--format", "json"], project)
    assert said.code == 0, said.err
    layers = said.report["localize"]["layers"]
    assert_ranked(layers)
    tried = [layer for layer in layers if layer["trial"] is not None]
    assert tried == layers[: len(tried)] and {layer["name"] for layer in tried} == {
        layer["name"] for layer in layers if layer["candidate"]
    }
    best = tried[0]["trial"]
    assert best["asr"] < 0.5 and best["recovery"] > 0.5


def test_edit_from_the_pair_alone_with_rank_1(project: Path) -> None:
    """`rectify edit --clean a.png --poisoned b.png`, without calibration: the report says what that costs."""
    argv = ["edit", "--clean", "a.png", "--poisoned", "b.png", "--mode", "static", "--layer", "fc", "--rank", "1"]
    said = run_here([*argv, "--format", "json", "--delta", "delta.safetensors"], project)
    assert said.code == 0, said.err
    assert any("calibration" in note and "accuracy" in note for note in said.report["run"]["notes"])
    out = project / "model.rectified.safetensors"  # the default name
    assert changed_by_hand(project / "model.safetensors", out) == {"fc.weight"}
    old, new = (
        safetensors.torch.load_file(path)["fc.weight"].double() for path in (project / "model.safetensors", out)
    )
    assert int(torch.linalg.matrix_rank(new - old, rtol=1e-4)) == 1
    (step,) = [step for step in said.report["edit"]["steps"] if step["kept"]]
    assert (step["layer"], step["rank"]) == ("fc", 1)
    assert step["delta_norm"] == pytest.approx(float((new - old).norm()), rel=1e-3)
    assert sum(t.numel() for t in safetensors.torch.load_file(project / "delta.safetensors").values()) == 10 + 128


def test_edit_from_the_pair_alone_repairs(project: Path) -> None:
    """The common first use: everything automatic, one pair and nothing else."""
    said = run_here(["edit", "--clean", "a.png", "--poisoned", "b.png", *judge_flags(), "--format", "json"], project)
    assert said.code == 0, said.err
    found = figures_by_hand(project / "model.rectified.safetensors")
    # measured when this was written: attack success 0.125, recovery 0.79, accuracy 0.93 (0.996 before)
    assert found["asr"] <= 0.2 and found["recovery"] >= 0.7 and found["accuracy"] >= 0.9
    assert any("calibration" in note and "accuracy" in note for note in said.report["run"]["notes"])


# -------------------------------------------------------------------------------------------------------- evaluate


@pytest.fixture(scope="session")
def evaluated(shared: Shared, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The repaired model beside the model before it; its architecture and preprocessing are in the file itself."""
    folder = tmp_path_factory.mktemp("evaluated")
    argv = ["evaluate", shared.out, "--against", MODEL, *judge_flags(), *PAIR, "--max-asr", "0.05"]
    argv += ["--min-recovery", "0.9", "--max-accuracy-drop", "0.01", "--format", "json", "--report", "report.json"]
    said = run_here(argv, folder)
    assert said.code == 0, said.err
    return folder / "report.json", said.report


def test_evaluate_before_and_after(evaluated: tuple[Path, dict[str, Any]], shared: Shared) -> None:
    path, report = evaluated
    jsonschema.Draft202012Validator(schema.load()).validate(report)
    assert json.loads(path.read_text()) == report
    assert_figures_are_of(shared.out, report)
    assert report["metrics"]["before"]["accuracy"] == pytest.approx(figures_by_hand(MODEL)["accuracy"])
    assert report["metrics"]["holdout"]["before"]["asr"] == 1
    assert [gate["passed"] for gate in report["gates"]] == [True] * 3
    assert report["against"] == {"path": str(MODEL), "sha256": sha256(MODEL)} and report["compare"] is None
    # as the command line said it of the model before, and the file says it of the one after
    assert json.dumps(report["model"]["arch_args"]) == json.dumps(shared.report["model"]["arch_args"])


def test_evaluate_says_what_edit_said(evaluated: tuple[Path, dict[str, Any]], shared: Shared) -> None:
    now, then = evaluated[1]["metrics"], shared.report["metrics"]
    for key in METRIC_KEYS | {"base_rate"}:
        assert now["after"][key] == then["after"][key]
        assert now["holdout"]["after"][key] == then["holdout"]["after"][key]


def test_evaluate_against_a_baseline_report(
    evaluated: tuple[Path, dict[str, Any]], shared: Shared, tmp_path: Path
) -> None:
    judge = [*judge_flags(), "--baseline", evaluated[0]]
    same = run_here(["evaluate", shared.out, "--against", MODEL, *judge, *PAIR], tmp_path)
    assert same.code == 0, same.err
    worse = ["evaluate", MODEL, *model_flags(), *judge, *PAIR, "--format", "json"]
    said = run_here(worse, tmp_path)
    assert said.code == 1, said.err
    assert {gate["name"] for gate in said.report["gates"] if not gate["passed"]} == {
        "regression_asr",
        "regression_recovery",
    }
    assert run_here([*worse, "--max-regression", "0.5", "--exit-zero"], tmp_path).code == 0
    assert_empty(tmp_path)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--max-accuracy-drop", "0.1"], "--against MODEL"),
        (["--max-leakage", "0.1"], "--metrics leakage"),
    ],
)
def test_a_gate_that_evaluate_could_not_measure_is_refused(words: list[str], hint: str, tmp_path: Path) -> None:
    said = run_here(["evaluate", MODEL, *model_flags(), *judge_flags()[:2], *words], tmp_path)
    assert_one_line(said, words[0], hint)


@pytest.mark.parametrize(
    ("extra", "hint"), [(["--max-leakage", "0.5"], "--fault leak"), (["--min-editability", "1"], "--apply scores no")]
)
def test_a_gate_that_an_edit_could_not_measure_is_refused(
    extra: list[str], hint: str, apply: list[str], tmp_path: Path
) -> None:
    said = run_here([*apply, *PAIR, *extra, "-o", "x.safetensors"], tmp_path)
    assert_one_line(said, extra[0], hint)
    assert_empty(tmp_path)


def test_an_edit_of_a_named_layer_says_how_it_was_made(few: list[str], tmp_path: Path) -> None:
    argv = [*BASE, *PAIR, *few, "--layer", "fc", "--dry-run", "--format", "json"]
    said = run_here(argv, tmp_path)
    assert said.report["edit"]["mode"] == "dynamic", said.err
    assert {step["layer"] for step in said.report["edit"]["steps"]} == {"fc"}
    said = run_here([*argv, "--mode", "static"], tmp_path)
    assert said.report["edit"]["mode"] == "static"
    assert [(step["layer"], step["rank"]) for step in said.report["edit"]["steps"]] == [("fc", 1)]


def test_evaluate_usage(evaluated: tuple[Path, dict[str, Any]], shared: Shared, tmp_path: Path) -> None:
    assert_one_line(run_here(["evaluate", shared.out], tmp_path), "nothing to evaluate")
    data = judge_flags()[:2]
    assert_one_line(run_here(["evaluate", shared.out, *data, "--max-regression", "0.1"], tmp_path), "--baseline")
    assert_one_line(run_here(["evaluate", shared.out, *data, "--baseline", MODEL], tmp_path), "--baseline")
    assert run_here(["evaluate", shared.out, *data, "--min-accuracy", "0.99"], tmp_path).code == 0
    assert run_here(["evaluate", shared.out, *data, "--min-accuracy", "0.9999"], tmp_path).code == 1


def test_a_figure_that_equals_its_limit_passes(tmp_path: Path) -> None:
    """19 of 20 is 0.95: `--min-recovery 0.95` holds. In float32 it is 0.94999999."""
    pairs = tmp_path / "pairs.csv"
    clean = sorted((BLEND / "holdout/0").glob("*.png"))[:20]
    state = safetensors.torch.load_file(MODEL)
    assert bool((probabilities(state, pixels(clean)).argmax(1) == 0).all())
    other = sorted((BLEND / "holdout/1").glob("*.png"))[0]
    # every "poisoned" copy but the first, which is a 1, is its neighbour, which is right
    rows = [f"{path},{clean[(i + 1) % 20] if i else other},0" for i, path in enumerate(clean)]
    pairs.write_text("\n".join(["clean,poisoned,label", *rows]) + "\n")
    argv = ["evaluate", MODEL, *model_flags(), "--pairs", pairs, "--min-recovery", "0.95", "--format", "json"]
    said = run_here(argv, tmp_path)
    assert said.report["metrics"]["after"]["recovery"] == pytest.approx(0.95, abs=1e-6)
    assert said.code == 0, said.report["reason"]


@pytest.mark.parametrize("flag", ["--pairs", "--holdout"])
def test_of_an_attack_from_all_classes_to_all_each_class_has_its_own_target(flag: str, tmp_path: Path) -> None:
    """Corrupted images are those of the next class, which the model reads as that: all go where their class goes."""
    images = {c: sorted((BLEND / f"holdout/{c}").glob("*.png"))[:3] for c in range(4)}
    state = safetensors.torch.load_file(MODEL)
    assert all(bool((probabilities(state, pixels(paths)).argmax(1) == c).all()) for c, paths in images.items())
    rows = [f"{one},{other},{c}" for c in range(3) for one, other in zip(images[c], images[c + 1], strict=True)]
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("\n".join(["clean,poisoned,label", *rows]) + "\n")
    said = run_here(["evaluate", MODEL, *model_flags(), flag, pairs, "--format", "json"], tmp_path)
    found = said.report["metrics"]["after"] if flag == "--pairs" else said.report["metrics"]["holdout"]["after"]
    assert (found["asr"], found["base_rate"], found["recovery"]) == (1, 0, 0)
    told = "attack success counts each where its class went"
    assert any(told in note for note in said.report["run"]["notes"]) == (flag == "--holdout")
