"""Who says a setting: the command line over the environment over the nearest file over the default."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from tests.conftest import Said

from .conftest import PAIR


def settings_of(said) -> dict:
    return yaml.safe_load(went_well(said).out)


def went_well(said) -> Said:
    """What a command said that did its work: one that failed says nothing on stdout, in which nothing is amiss."""
    assert said.code == 0 and said.out, said.err
    return said


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_precedence(rectify_, library, monkeypatch) -> None:
    assert settings_of(rectify_("edit", "--show-config", "--max-asr", "0"))["max_asr"] == 0
    assert settings_of(rectify_("localize", "--show-config"))["seed"] == 0
    assert settings_of(rectify_("localize", "--show-config"))["batch_size"] == 64
    write(Path("rectify.yaml"), "batch_size: 1\nseed: 1\ndevice: cpu\n")
    assert settings_of(rectify_("localize", "--show-config"))["batch_size"] == 1
    monkeypatch.setenv("RECTIFY_BATCH_SIZE", "2")
    monkeypatch.setenv("RECTIFY_SEED", "2")
    said = rectify_("localize", "--show-config", "--batch-size", "3")
    assert [settings_of(said)[name] for name in ("batch_size", "seed", "device")] == [3, 2, "cpu"]
    sources = {line.split(":")[0]: line.split("# ")[1] for line in said.out.splitlines()[2:]}
    assert sources["batch_size"] == "command line"
    assert sources["seed"] == "RECTIFY_SEED"
    assert sources["device"] == "rectify.yaml"
    assert sources["format"] == "default"


def test_show_config_can_be_saved_as_a_settings_file(rectify_, library) -> None:
    words = ["edit", "model.pt", *PAIR, "--max-asr", "0.05", "--arch-arg", "width=16", "--rank", "2", "--trust-pickle"]
    shown = went_well(rectify_(*words, "--show-config")).out
    write(Path("rectify.yaml"), shown)
    again = rectify_("edit", "--show-config")
    assert settings_of(again) == yaml.safe_load(shown)
    assert "# --trust-pickle  " in shown and "trust" not in again.out


MAPPINGS = "arch: net\narch_args: {w: 1, c: 1}\nlocalize: {arch_args: {c: 2}}\nexplain: {set: {eps: 1, noise: 1}}\n"


def test_one_key_of_a_mapping_is_overridden_alone(rectify_, library, monkeypatch) -> None:
    write(Path("rectify.yaml"), MAPPINGS)
    assert settings_of(rectify_("edit", "--show-config", "--arch-arg", "w=8"))["arch_args"] == {"w": 8, "c": 1}
    assert settings_of(rectify_("localize", "--show-config"))["localize.arch_args"] == {"w": 1, "c": 2}
    found = settings_of(rectify_("explain", "--show-config", "--set", "noise=2", "--arch-arg", "d=3"))
    assert (found["explain.set"], found["arch_args"]) == ({"eps": 1, "noise": 2}, {"w": 1, "c": 1, "d": 3})
    monkeypatch.setenv("RECTIFY_ARCH_ARGS", "c=5 e=5")
    said = went_well(rectify_("edit", "--show-config", "--arch-arg", "e=6"))
    assert settings_of(said)["arch_args"] == {"w": 1, "c": 5, "e": 6}
    assert "# command line over RECTIFY_ARCH_ARGS over rectify.yaml" in said.out
    note = rectify_("edit", "model.pt", *PAIR, "--arch-arg", "e=6").err
    assert "settings from the environment: RECTIFY_ARCH_ARGS\n" in note


def test_the_arguments_of_another_architecture_are_not_kept(rectify_, library) -> None:
    write(Path("rectify.yaml"), MAPPINGS)
    words = ("edit", "--show-config", "--arch-arg", "w=8", "--arch")
    assert settings_of(rectify_(*words, "other"))["arch_args"] == {"w": 8}
    assert settings_of(rectify_(*words, "net"))["arch_args"] == {"w": 8, "c": 1}


def test_the_nearest_file_upwards(rectify_, library, monkeypatch, tmp_path) -> None:
    write(tmp_path / "rectify.yaml", "model: model.pt\ncalibration: images\nseed: 1\n")
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    found = settings_of(rectify_("localize", "--show-config"))
    assert found["model"] == str(tmp_path / "model.pt")  # relative paths are relative to the file
    assert found["seed"] == 1
    assert f"settings: {tmp_path / 'rectify.yaml'}" in rectify_("localize").err
    write(tmp_path / "a" / "rectify.yaml", "seed: 2\n")
    assert settings_of(rectify_("localize", "--show-config"))["seed"] == 2


def test_pyproject_is_read_where_there_is_no_rectify_yaml(rectify_, library, monkeypatch, tmp_path) -> None:
    pytest.importorskip("tomllib")
    inner = tmp_path / "inner"
    write(inner / "pyproject.toml", "[project]\nname = 'other'\n")
    write(
        tmp_path / "pyproject.toml",
        "[tool.rectify]\nseed = 4\nclean = ['a.png']\n[tool.rectify.gates]\nmax_asr = 0.1\n",
    )
    monkeypatch.chdir(inner)
    found = settings_of(rectify_("edit", "--show-config"))
    assert (found["seed"], found["max_asr"]) == (4, 0.1)
    assert found["clean"] == [str(tmp_path / "a.png")]
    write(tmp_path / "rectify.yaml", "seed: 5\n")
    assert settings_of(rectify_("edit", "--show-config"))["seed"] == 5


def test_a_broken_pyproject_of_others_is_not_our_business(rectify_, library) -> None:
    write(Path("pyproject.toml"), "this is [ not TOML")
    assert rectify_("localize", "--show-config").code == 0
    pytest.importorskip("tomllib")
    write(Path("pyproject.toml"), "[tool.rectify]\nseed = = 1")
    said = rectify_("localize", "--show-config")
    assert (said.code, said.out) == (2, "") and said.err.startswith("error: pyproject.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool]\nrectify = 5\n", "pyproject.toml must hold settings such as `model: model.pt`, not int"),
        ("[tool]\nrectify = []\n", "pyproject.toml must hold settings such as `model: model.pt`, not list"),
        ("tool = 5 # tool.rectify\n", ""),
        ("# tool.rectify\n[tool.other]\nrectify = 5\n", ""),
    ],
)
def test_a_table_of_ours_that_is_none_is_told(rectify_, library, text: str, message: str) -> None:
    pytest.importorskip("tomllib")
    write(Path("pyproject.toml"), text)
    said = rectify_("localize", "--show-config")
    assert said.code == (2 if message else 0) and message in said.err
    assert rectify_("localize", "--show-config", "--config", "pyproject.toml").code == said.code


@pytest.mark.parametrize("name", ["rectify.yaml", "pyproject.toml"])
def test_settings_too_deep_to_read(rectify_, library, name: str) -> None:
    pytest.importorskip("tomllib")
    write(Path(name), ("model: " if name.endswith("yaml") else "[tool.rectify]\nmodel = ") + "[" * 20_000)
    said = rectify_("localize", "--show-config")
    assert (said.code, said.err) == (2, f"error: {name}: too deeply nested to hold settings\n")


def test_a_file_that_is_named(rectify_, library, monkeypatch) -> None:
    write(Path("rectify.yaml"), "seed: 1")
    write(Path("ci/settings.yaml"), "seed: 2\nmodel: ../model.pt\nreport: out.json")
    found = settings_of(rectify_("localize", "--config", "ci/settings.yaml", "--show-config"))
    assert found["seed"] == 2
    assert found["model"] == "model.pt"
    assert found["report"] == [os.path.join("ci", "out.json")]
    monkeypatch.setenv("RECTIFY_CONFIG", "ci/settings.yaml")
    assert settings_of(rectify_("localize", "--show-config"))["seed"] == 2
    said = rectify_("localize", "--config", "no.yaml")
    assert (said.code, said.out) == (2, "")
    assert said.err == "error: --config: no such file: no.yaml; this folder holds ci, model.pt, rectify.yaml\n"
    said = rectify_("localize", "--config", "rectify.yml")
    assert (said.code, said.err) == (2, "error: --config: no such file: rectify.yml; did you mean rectify.yaml?\n")
    said = rectify_("localize", "--config", "ci")
    assert (said.code, said.err) == (2, "error: --config: ci is a folder: name a file in it\n")


@pytest.mark.parametrize(
    "what", ["a folder", "a link to elsewhere.yaml, which is not there", "neither a file nor a folder"]
)
def test_what_only_looks_like_settings_is_not_passed_over(rectify_, library, tmp_path, what: str) -> None:
    file = tmp_path / "rectify.yaml"
    if what == "a folder":
        file.mkdir()
    elif what.startswith("a link"):
        file.symlink_to("elsewhere.yaml")
    else:
        os.mkfifo(file)
    said = rectify_("localize", "--show-config")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"error: {file} is {what}; settings are read from a file of this name: ")


def test_nested_and_flat_read_the_same(rectify_, library) -> None:
    write(
        Path("rectify.yaml"),
        "gates: {max-asr: 0.05, min_recovery: 0.8}\nedit: {mode: static, rank: 2, layer: fc}\narch-args: {w: 16}",
    )
    nested = settings_of(rectify_("edit", "--show-config"))
    write(Path("rectify.yaml"), "max_asr: 0.05\nmin-recovery: 0.8\nmode: static\nrank: 2\nlayer: fc\narch_args: [w=16]")
    assert settings_of(rectify_("edit", "--show-config")) == nested
    assert (nested["max_asr"], nested["rank"], nested["arch_args"]) == (0.05, "2", {"w": 16})


def test_settings_of_other_commands_do_no_harm(rectify_, library) -> None:
    write(Path("rectify.yaml"), "model: model.pt\ngates: {max_asr: 0.05}\nedit: {rank: 1}\nholdout: pairs\n")
    assert rectify_("localize", *PAIR).code == 0
    assert library.asked["options"].gates == {}


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (
            "gates: {max_accuracy_drop: 0.02}",
            "it is set in rectify.yaml for all commands; as edit: {max_accuracy_drop: 0.02} it is for edit alone",
        ),
        (
            "evaluate: {max_accuracy_drop: 0.02}",
            "it is set in rectify.yaml (evaluate); take it out there to do without",
        ),
        ("", None),
    ],
)
def test_a_gate_of_a_file_knows_where_it_was_set(rectify_, library, text: str, hint: str | None) -> None:
    write(Path("rectify.yaml"), text)
    typed = [] if hint else ["--max-accuracy-drop", "0.02"]
    rectify_("evaluate", "model.pt", "--data", "images", *typed)
    assert library.asked["options"].gates == {"max_accuracy_drop": 0.02}
    assert library.asked["options"].gate_hints == ({"max_accuracy_drop": hint} if hint else {})


def test_a_gate_of_the_environment_knows_where_it_was_set(rectify_, library, monkeypatch) -> None:
    monkeypatch.setenv("RECTIFY_MAX_ASR", "0.1")
    rectify_("evaluate", "model.pt", "--data", "images")
    assert library.asked["options"].gate_hints == {"max_asr": "it is set by RECTIFY_MAX_ASR; unset that to do without"}


def test_a_regression_of_a_file_without_a_baseline_names_the_file(rectify_, library) -> None:
    write(Path("rectify.yaml"), "max_regression: 0.1")
    said = rectify_("evaluate", "model.pt", "--data", "images")
    assert said.code == 2 and "compare with; it is set in rectify.yaml for all commands; as edit: {max_reg" in said.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sede: 1", "rectify.yaml: unknown key sede; did you mean seed?"),
        (
            "foo: 1",
            "rectify.yaml: unknown key foo; rectify COMMAND --help lists the flags, whose long names are the keys",
        ),
        ("edit: {rules: 1}", "rectify.yaml: unknown key edit.rules; did you mean explain.rule?"),
        ("edit: {mouse: 1}", "rectify.yaml: unknown key edit.mouse; rectify edit --help lists the flags, whose long"),
        ("gate: {max_asr: 1}", "rectify.yaml: unknown key gate; did you mean gates?"),
        ("gates: {max_ars: 0.1}", "rectify.yaml: unknown key gates.max_ars; did you mean max_asr?"),
        ("edit: {layr: fc}", "rectify.yaml: unknown key edit.layr; did you mean layer?"),
        ("gates: {zzz: 0.1}", "rectify.yaml: unknown key gates.zzz; known are max_accuracy_drop, max_asr"),
        (
            "edit: {gates: {max_asr: 0.1}}",
            "unknown key edit.gates; a gate is written there directly, as in edit: {max_asr",
        ),
        ("max_ars: 0.1", "rectify.yaml: unknown key max_ars; did you mean gates.max_asr?"),
        ("gates: 0.1", "rectify.yaml: gates must hold settings such as min_editability, max_asr"),
        ("seed: x", "rectify.yaml: seed must be a whole number of at least 0, not 'x'"),
        ("seed: true", "rectify.yaml: seed must be a whole number"),
        ("max_asr: 0.1\ngates: {max_asr: 0.2}", "rectify.yaml: gates.max_asr is said twice"),
        ("seed: 1\nseed: 2", "rectify.yaml line 2: seed is said twice"),
        ("max_asr: 5", "rectify.yaml: gates.max_asr must be a fraction in [0, 1], not 5; 5 percent is 0.05"),
        ("format: jsn", "rectify.yaml: format must be text|json|markdown|junit|github, not 'jsn'; did you mean json?"),
        ("- a\n- b", "rectify.yaml must hold settings such as `model: model.pt`, not list"),
        ("a: [1", "rectify.yaml line 1: "),
        ("modle: m.pt", "rectify.yaml: unknown key modle; did you mean model?"),
        ("MODEL: m.pt", "rectify.yaml: unknown key MODEL; did you mean model?"),
        ("Max-ASR: 0.1", "rectify.yaml: unknown key Max_ASR; did you mean gates.max_asr?"),
        ("mean: [0.5]", "rectify.yaml: mean belongs into preprocess, as in preprocess: {mean: …}"),
        ('"x\\ny\\e[31m": 1', "rectify.yaml: unknown key x\\ny\\x1b[31m; rectify"),
        ('"x\\ny": 1\n"x\\ny": 2', "rectify.yaml line 2: x\\ny is said twice"),
        ("gates: {'ma\\e': 1}", "rectify.yaml: unknown key gates.ma\\e; known are"),
        ("k" * 500 + ": 1", "rectify.yaml: unknown key " + "k" * 99 + "…; rectify COMMAND"),
        ("gates: " + "g" * 500, "gates must hold settings such as min_editability, max_asr, min_recovery, not 'ggg"),
        ("model: *" + "m" * 500, "rectify.yaml line 1: found undefined alias 'mmm"),
        ("max_asr: 5%", "gates.max_asr must be a fraction in [0, 1], not '5%'; 5 percent is 0.05"),
        (
            "arch_args: &g\n  w: *g",
            "rectify.yaml: too deeply nested, or an alias (*name) stands inside of what it names",
        ),
        ("preprocess: {mean: &g [*g]}", "rectify.yaml: too deeply nested, or an alias (*name) stands inside"),
        (
            "model: m.pt\nx: &a [1,1,1,1,1,1,1,1,1,1]\n"
            + "".join(f"{n}: &{n} [{','.join([f'*{o}'] * 10)}]\n" for o, n in zip("abcdefgh", "bcdefghi", strict=True)),
            "rectify.yaml: with its aliases (*name) written out it holds more than 100000 values",
        ),
        ("model: !!python/object/apply:os.system ['true']", "rectify.yaml line 1: could not determine a constructor"),
        ("trust_pickle: true", "only the command line can say it: --trust-pickle"),
        ("trust-pickle: true", "only the command line can say it: --trust-pickle"),
        ("edit: {trust_pickle: true}", "only the command line can say it: --trust-pickle"),
        ("exit_zero: true", "rectify.yaml: exit_zero is not for a file; say --exit-zero on the command line"),
    ],
)
def test_a_wrong_file_is_one_clear_line(rectify_, library, text: str, message: str) -> None:
    write(Path("rectify.yaml"), text)
    said = rectify_("edit", "model.pt", *PAIR)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and len(said.err) < 300
    assert message in said.err
    assert library.asked == {}


def test_an_empty_file_and_empty_values_say_nothing(rectify_, library) -> None:
    write(Path("rectify.yaml"), "")
    assert rectify_("localize", "--show-config").code == 0
    write(Path("rectify.yaml"), "data:\ngates:\nclean:\n")
    assert "gates" not in settings_of(rectify_("edit", "--show-config"))


@pytest.mark.parametrize("value", ["1", "true"])
def test_the_environment_cannot_trust_a_pickle(rectify_, library, monkeypatch, value: str) -> None:
    monkeypatch.setenv("RECTIFY_TRUST_PICKLE", value)
    said = rectify_("localize", "model.pt")
    assert said.code == 2 and "--trust-pickle" in said.err


def test_environment(rectify_, library, monkeypatch) -> None:
    monkeypatch.setenv("RECTIFY_CLEAN", os.pathsep.join(["a.png", "c.png"]))
    monkeypatch.setenv("RECTIFY_ARCH_ARGS", "width=16 name=x")
    monkeypatch.setenv("RECTIFY_NO_CACHE", "yes")
    monkeypatch.setenv("RECTIFY_MAX_ASR", "")
    found = settings_of(rectify_("edit", "--show-config"))
    assert found["clean"] == ["a.png", "c.png"]
    assert found["arch_args"] == {"width": 16, "name": "x"}
    assert "max_asr" not in found
    monkeypatch.setenv("RECTIFY_MAX_ASSR", "0.1")
    said = rectify_("edit", "model.pt", *PAIR)
    assert (said.code, said.err) == (2, "error: RECTIFY_MAX_ASSR is no setting; did you mean RECTIFY_MAX_ASR?\n")


def test_a_foreign_variable_is_noted(rectify_, library, monkeypatch) -> None:
    monkeypatch.setenv("RECTIFY_SOMETHING_ELSE", "1")
    said = rectify_("localize", "model.pt")
    assert said.code == 0
    assert "note: RECTIFY_SOMETHING_ELSE is no setting of rectify; ignored" in said.err


def test_a_pair_on_the_command_line_replaces_the_pairs_of_the_file(rectify_, library) -> None:
    write(Path("rectify.yaml"), "model: model.pt\npairs: pairs\n")
    assert rectify_("edit", *PAIR).code == 0
    assert library.asked["inputs"].pairs == [(Path("a.png"), Path("b.png"))]
    write(Path("rectify.yaml"), "model: model.pt\nclean: x.png\npoisoned: y.png\n")
    assert rectify_("edit", "--pairs", "pairs").code == 0
    assert library.asked["inputs"].pairs == Path("pairs")


def test_images_that_are_typed_are_explained_without_the_pair_of_the_file(rectify_, library, monkeypatch) -> None:
    write(Path("rectify.yaml"), "model: model.pt\nclean: x.png\npoisoned: y.png\n")
    assert rectify_("explain").code == 0
    assert library.asked["inputs"].pairs == [(Path("x.png"), Path("y.png"))]
    assert rectify_("explain", "--image", "a.png").code == 0
    assert library.asked["inputs"].pairs is None and library.asked["inputs"].images == [Path("a.png")]
    assert rectify_("explain", "--image", "a.png", *PAIR).code == 0  # all of it typed, so all of it is meant
    assert library.asked["inputs"].pairs == [(Path("a.png"), Path("b.png"))]
    monkeypatch.setenv("RECTIFY_IMAGE", "a.png")
    assert rectify_("localize").code == 0  # which has no --image
    assert library.asked["inputs"].pairs == [(Path("x.png"), Path("y.png"))]


def test_preprocessing_on_the_command_line_replaces_weaker_single_values(rectify_, library, monkeypatch) -> None:
    monkeypatch.setenv("RECTIFY_MEAN", "0.5")
    assert "# --mean 0.5 " in went_well(rectify_("localize", "--show-config")).out
    said = went_well(rectify_("localize", "--preprocess", "mnist", "--show-config"))
    assert "preprocess: mnist" in said.out and "mean" not in said.out


def test_a_cache_folder_is_not_stdout(rectify_, library, monkeypatch) -> None:
    message = "must be a folder, not '-': give one, such as .cache, or --no-cache to keep nothing"
    said = rectify_("localize", "model.pt", "--cache-dir", "-")
    assert (said.code, said.err) == (2, f"error: --cache-dir {message}\n")
    Path("rectify.yaml").write_text("cache_dir: '-'\n")
    said = rectify_("localize", "model.pt")
    assert said.code == 2 and said.err.count("\n") == 1 and f"cache_dir {message}" in said.err
    monkeypatch.setenv("RECTIFY_CACHE_DIR", "-")
    assert f"RECTIFY_CACHE_DIR {message}" in rectify_("localize", "model.pt").err
    assert library.asked == {}


def test_a_cache_folder_is_relative_to_the_file_that_names_it(rectify_, library) -> None:
    Path("ci").mkdir()
    Path("ci/rectify.yaml").write_text("cache_dir: cache\n")
    went_well(rectify_("localize", "model.pt", "--config", "ci/rectify.yaml"))
    assert library.asked["options"].cache_dir == Path("ci/cache")


def test_a_cache_folder_that_is_typed_beats_no_cache_in_the_environment(rectify_, library, monkeypatch) -> None:
    monkeypatch.setenv("RECTIFY_NO_CACHE", "1")
    went_well(rectify_("localize", "model.pt"))
    assert library.asked["options"].cache_dir is None
    went_well(rectify_("localize", "model.pt", "--cache-dir", "cache"))
    assert library.asked["options"].cache_dir == Path("cache")


def test_preset_or_file_in_the_settings(rectify_, library, monkeypatch, tmp_path) -> None:
    write(tmp_path / "rectify.yaml", "preprocess: imagenet")
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    assert settings_of(rectify_("localize", "--show-config"))["preprocess"] == "imagenet"
    write(tmp_path / "imagenet", "mean: 0.5")
    assert settings_of(rectify_("localize", "--show-config"))["preprocess"] == str(tmp_path / "imagenet")
    write(tmp_path / "rectify.yaml", "preprocess: missing.yaml")
    assert settings_of(rectify_("localize", "--show-config"))["preprocess"] == str(tmp_path / "missing.yaml")
    write(tmp_path / "rectify.yaml", "preprocess: {mean: [0.5], std: [0.5], input_size: 28}")
    assert settings_of(rectify_("localize", "--show-config"))["preprocess"]["input_size"] == 28


OWN = """
seed: 1
report: all.json
explain: {method: [ig, uni], report: maps.html}
edit: {report: [edit.json, edit.html], seed: 2, rank: 3}
evaluate: {method: [gradient], min-accuracy: 0.5, samples: 7}
localize:
"""


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("edit", {"edit.report": ["edit.json", "edit.html"], "edit.seed": 2, "rank": "3", "report": None}),
        ("localize", {"report": ["all.json"], "seed": 1}),
        ("explain", {"explain.report": ["maps.html"], "seed": 1, "method": ["ig", "uni"]}),
        ("evaluate", {"report": ["all.json"], "evaluate.method": ["gradient"], "evaluate.min_accuracy": 0.5}),
        ("train", {"report": ["all.json"], "min_accuracy": None}),
    ],
)
def test_a_section_of_a_command_is_for_it_alone_and_wins(rectify_, library, command: str, expected: dict) -> None:
    write(Path("rectify.yaml"), OWN)
    words = ["--data", "data"] if command == "train" else []
    found = settings_of(rectify_(command, "model.pt", *words, "--show-config"))
    assert {name: found.get(name) for name in expected} == expected


def test_the_source_says_which_section(rectify_, library, monkeypatch) -> None:
    write(Path("rectify.yaml"), OWN)
    said = rectify_("edit", "--show-config")
    sources = {line.split(":")[0]: line.split("# ")[1] for line in said.out.splitlines()[2:]}
    assert (sources["edit.report"], sources["rank"]) == ("rectify.yaml (edit)", "rectify.yaml")
    monkeypatch.setenv("RECTIFY_SEED", "5")
    assert settings_of(rectify_("edit", "--show-config"))["seed"] == 5
    assert settings_of(rectify_("edit", "--show-config", "--report", "r.md"))["report"] == ["r.md"]


@pytest.mark.parametrize("command", ["edit", "localize", "explain", "evaluate"])
def test_what_is_shown_and_saved_sets_every_command_as_before(rectify_, library, command: str) -> None:
    """What is for one command alone stays so: a saved answer of `edit` must not give its report to `localize`."""
    write(Path("rectify.yaml"), OWN)
    first = went_well(rectify_(command, "--show-config")).out
    write(Path("rectify.yaml"), first)
    again = went_well(rectify_(command, "--show-config")).out

    def keys(text: str) -> list[str]:
        return [line.split("  #")[0] for line in text.splitlines()[1:]]

    assert keys(again) == keys(first)
    if command == "edit":
        assert "edit.json" in first and "edit.json" not in went_well(rectify_("localize", "--show-config")).out


def test_methods_that_explain_are_the_ones_judged_unless_evaluate_says_others(rectify_, library) -> None:
    write(Path("rectify.yaml"), "explain: {method: [uni]}")
    assert methods(settings_of(rectify_("evaluate", "--show-config"))) == [["uni"]]
    write(Path("rectify.yaml"), "explain: {method: [uni]}\nevaluate: {method: idgi}")
    assert methods(settings_of(rectify_("evaluate", "--show-config"))) == [["idgi"]]
    assert methods(settings_of(rectify_("explain", "--show-config"))) == [["uni"]]


def methods(settings: dict) -> list:
    return [value for name, value in settings.items() if name.endswith("method")]


def test_a_pair_of_a_section_overrides_pairs_for_all(rectify_, library) -> None:
    write(Path("rectify.yaml"), "pairs: all\nedit: {clean: a.png, poisoned: b.png}")
    found = settings_of(rectify_("edit", "--show-config"))
    assert "pairs" not in found and found["edit.clean"] == ["a.png"]
    assert settings_of(rectify_("localize", "--show-config"))["pairs"] == "all"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("edit: {reprot: r.json}", "rectify.yaml: unknown key edit.reprot; did you mean report?"),
        ("localize: {max_asr: 0.1}", "rectify.yaml: unknown key localize.max_asr; did you mean gates.max_asr?"),
        ("localize: r.json", "rectify.yaml: localize must hold settings such as arch, arch_args"),
        ("evaluate: {samples: 0}", "rectify.yaml: evaluate.samples must be a whole number of at least 1"),
        ("edit: {report: a.json}\nedit-report: b", "rectify.yaml: unknown key edit_report"),
        ("localize: {force: true}", "rectify.yaml: force is not for a file"),
        ("edit: {max-asr: 0.1, max_asr: 0.2}", "rectify.yaml: edit.max_asr is said twice"),
    ],
)
def test_a_wrong_section_is_one_clear_line(rectify_, library, text: str, message: str) -> None:
    write(Path("rectify.yaml"), text)
    said = rectify_("edit", "model.pt", *PAIR)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1) and message in said.err, said.err


@pytest.mark.parametrize("suffix", ["json", "md", "html", "xml"])
def test_a_report_of_another_command_is_not_replaced_without_a_word(rectify_, library, suffix: str) -> None:
    report = f"r.{suffix}"
    write(Path("rectify.yaml"), f"report: {report}")
    for _ in range(2):
        assert "was the report" not in went_well(rectify_("edit", "model.pt", *PAIR)).err
    said = rectify_("localize", "model.pt", *PAIR)
    assert said.code == 0 and f"note: {report} was the report of edit and is now that of localize" in said.err
    typed = went_well(rectify_("edit", "model.pt", *PAIR, "--report", report))
    assert "was the report" not in typed.err
    write(Path("rectify.yaml"), f"edit: {{report: {report}}}")
    before = Path(report).read_bytes()
    assert "report" not in went_well(rectify_("localize", "model.pt", *PAIR)).err
    assert Path(report).read_bytes() == before


def test_what_cannot_stand_in_a_file_is_shown_as_it_is_typed(rectify_, library) -> None:
    typed = ["--mean", "0.5,0.25,0.125", "--std", "1,1,1", "--force"]

    def shown(words: list[str]) -> list[str]:
        lines = rectify_("edit", "model.pt", *words, "--show-config").out.splitlines()
        return [line.split("  #")[0].rstrip() for line in lines]

    first = shown(typed)
    assert "# --mean 0.5,0.25,0.125" in first and "# --std 1.0,1.0,1.0" in first and "# --force" in first
    again = [word for line in first if line.startswith("# --") for word in line[2:].split()]
    assert shown(again) == first
