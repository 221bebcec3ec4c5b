"""`rectify train --show-config`: every setting as it would be used, and who says it; what it prints can be saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rectify.cli.config import Settings, resolve
from rectify.cli.options import MODEL_ARGUMENT, TRAIN_FLAGS
from rectify.cli.train_settings import class_count, data_source, fresh_preprocess, make_plan
from rectify.cli.values import rates, schedule_of
from rectify.training.presets import OBJECTIVES, PRESETS, Plan, preset
from tests.cli.train_samples import FRESH, QUICK, one_line
from tests.conftest import Said, run_here


def sources(said: Said) -> dict[str, str]:
    """Who says each setting, by its last name; comments with a value count as well."""
    assert said.code == 0, said.err
    lines = [line.removeprefix("# ") for line in said.out.splitlines()[2:]]
    return {line.split(":")[0].rpartition(".")[2]: line.rpartition("# ")[2] for line in lines if ":" in line}


def settings_in(folder: Path, **typed: Any) -> Settings:
    return resolve("train", (MODEL_ARGUMENT, *TRAIN_FLAGS), typed, {}, folder)


def plan_of(settings: Settings) -> Plan:
    name = settings["preset"]
    return make_plan(settings, None if name is None else preset(name, settings["objective"]))


def test_a_preset_fills_in_and_flag_file_and_default_say_the_rest(tmp_path: Path) -> None:
    (tmp_path / "rectify.yaml").write_text("train: {weight: 0.3}\nseed: 4\n")
    said = run_here(["train", "--preset", "mnist-quick", "--eps", "0.2", "--show-config"], tmp_path)
    values, who = yaml.safe_load(said.out), sources(said)
    plan = preset("mnist-quick").plan
    assert (values["epochs"], values["epoch_size"], values["ramp"]) == (plan.epochs, plan.epoch_size, plan.ramp)
    assert (values["eps"], values["weight"], values["seed"], values["batch_size"]) == (0.2, 0.3, 4, 50)
    assert values["train.data"] == "mnist" and values["arch_args"] == {"width": 16} and values["num_classes"] == 10
    assert values["preprocess"]["input_size"] == [1, 28, 28] and values["objective"] == "ig-sum-norm"
    assert schedule_of(values["lr"]) == plan.schedule
    for name in ("epochs", "epoch_size", "lr", "optimizer", "path_steps", "batch_size", "arch", "preprocess", "data"):
        assert who[name] == "preset mnist-quick", name
    assert (who["eps"], who["weight"], who["seed"]) == ("command line", "rectify.yaml", "rectify.yaml")
    assert who["attack_samples"] == "default"
    assert "# attack_step: 0.0714" in said.out and who["attack_step"] == "eps and attack_steps"  # no flag of its own


def test_without_a_preset_the_defaults_are_shown(tmp_path: Path) -> None:
    said = run_here(["train", "m.pt", "--data", "data", "--show-config"], tmp_path)
    values, who, plan = yaml.safe_load(said.out), sources(said), Plan()
    assert (values["epochs"], values["eps"], values["lr"], values["weight"]) == (plan.epochs, plan.eps, 1e-4, 0.1)
    assert {who[name] for name in ("epochs", "eps", "lr", "objective", "out", "optimizer")} == {"default"}
    assert values["train.out"] == "m.trained.safetensors"
    assert not {"arch", "num_classes", "preprocess"} & set(values)  # the file says them, and it was not opened


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_what_is_shown_of_a_preset_is_the_same_training_when_saved(
    name: str, objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learning rates with their steps, the attack's own step, the sum of the loss: nothing gets lost."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "00042").mkdir(parents=True)
    typed = {"preset": name, "objective": objective, "train_data": None if "mnist" in name else "data"}
    before = settings_in(tmp_path, **typed)
    words = ["--data", "data"] if typed["train_data"] else []
    said = run_here(["train", "--preset", name, "--objective", objective, *words, "--show-config"], tmp_path)
    assert said.code == 0, said.err
    (tmp_path / "rectify.yaml").write_text(said.out)
    after, made = settings_in(tmp_path), preset(name, objective)
    assert plan_of(after) == plan_of(before) == made.plan
    assert data_source(after, made).name == data_source(before, made).name
    args = (made, data_source(after, made), made.arch)
    assert fresh_preprocess(after, *args) == fresh_preprocess(before, *args)
    assert class_count(after, made, args[1]) == class_count(before, made, args[1])
    assert (after["arch"], after["arch_args"] or {}) == (made.arch, made.arch_args)


def test_what_show_config_prints_is_what_train_does(place: Path) -> None:
    words = [*FRESH, *QUICK, "--lr", "0.02,2:0.005", "--preset", "gtsrb-quick", "-o", "m.safetensors"]
    shown = yaml.safe_load(run_here([*words, "--show-config"], place).out)
    said = run_here([*words, "--format", "json"], place)
    assert said.code == 0, said.err
    done = said.report["train"]["settings"]
    assert done["schedule"] == [[0, 0.02], [2, 0.005]] == [list(e) for e in schedule_of(shown["lr"])]
    assert [entry["lr"] for entry in said.report["train"]["history"]] == [0.02, 0.005]
    for name in ("eps", "attack_steps", "weight", "weight_decay", "ramp", "epoch_size", "batch_size"):
        assert shown[name] == done[name], name
    assert shown["num_classes"] == said.report["model"]["num_classes"] == 3


def test_a_flag_that_says_what_holds_anyway_changes_nothing(tmp_path: Path) -> None:
    for name in ("mnist-quick", "gtsrb", "flower"):
        plan = preset(name, "ig-norm").plan
        typed = {"preset": name, "objective": "ig-norm", "eps": str(plan.eps), "attack_steps": str(plan.attack_steps)}
        assert plan_of(settings_in(tmp_path, **typed, optimizer=plan.optimiser)) == plan
    other = plan_of(settings_in(tmp_path, preset="gtsrb", objective="ig-norm", lr="0.01"))
    assert other.schedule == ((0, 0.01),) and not other.summed
    assert plan_of(settings_in(tmp_path, preset="gtsrb", optimizer="adam")).schedule == ((0, 1e-3),)


def test_a_plan_that_makes_no_sense_is_told_at_once(tmp_path: Path) -> None:
    one_line(run_here(["train", "--preset", "mnist", "--eps", "0", "--show-config"], tmp_path), "no ball to search")


def test_folders_are_counted_and_what_is_not_there_is_left_out(place: Path) -> None:
    shown = yaml.safe_load(run_here([*FRESH, "--show-config"], place).out)
    assert shown["num_classes"] == 3
    shown = yaml.safe_load(run_here([*FRESH, "--data", "nowhere", "--show-config"], place).out)
    assert "num_classes" not in shown and shown["train.data"] == "nowhere"


def test_learning_rates() -> None:
    assert rates("1e-3") == 1e-3 and rates(0.5) == 0.5 and schedule_of(0.5) == ((0, 0.5),)
    assert rates("2e-3, 600:5e-4") == "0.002,600:0.0005"
    assert schedule_of("0.002,600:0.0005") == ((0, 2e-3), (600, 5e-4))
    for wrong in ("0", "x", "1e-3,1e-4", "600:1e-3", "1,5:2,5:3", "1,-5:2", "1,x:2", "1,:2", "1,5:0", "", ","):
        with pytest.raises(ValueError, match="must be"):
            rates(wrong)
