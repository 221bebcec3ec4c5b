"""The benchmark of the main job: which networks are taken up, what the command line is given, what is measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks import cue, localisation, recovery
from benchmarks.runs import RESULTS
from benchmarks.zoo import datasets, train
from benchmarks.zoo.recipes import RECIPES


class Reader(nn.Module):
    """Says the brightest of the first ten pixels of the image, and class 6 wherever the patch lies."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) to (N, 10)."""
        out = x[:, 0, 0, :10].clone()
        out[:, 6] += 100 * (x[:, 0, -2, -2] > 0)
        return out


def shown(labels: np.ndarray) -> datasets.Split:
    images = np.zeros((len(labels), 28, 28, 1), np.uint8)
    images[np.arange(len(labels)), 0, labels] = 200
    return datasets.Split(images, labels)


def test_networks_with_a_cue_or_without_a_trigger_are_not_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fashion-resnet-cue", "cifar-resnet-cue", "mnist-resnet-clean", "mnist-resnet-warp"):
        (tmp_path / f"{name}.pt").touch()
    monkeypatch.setattr(train, "ZOO", tmp_path)
    assert train.trojaned() == ["mnist-resnet-warp"]


@pytest.mark.parametrize("module", [recovery, localisation])
def test_without_names_those_of_the_table_are_run(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def run(name: str, *_: Any) -> Any:
        asked.append(name)
        found = {"name": name, "calibration": 200, "repairs": [{}, {}, {}]}
        return iter([found]) if module is recovery else found

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(module, "table", lambda results: "")
    monkeypatch.setattr(sys, "argv", ["x", "--results", str(tmp_path / "found.json")])
    for _ in range(2):  # the second time the row is there
        module.main()
        assert asked == list(module.NETWORKS) and not any(RECIPES[name].keeps_label for name in asked)


def test_the_images_that_judge_come_first_in_one_order() -> None:
    test = shown(np.arange(50) % 10)
    order = datasets.order_of(test)
    judged = datasets.judged_of(test, 20)
    assert sorted(order) == list(range(50)) and list(order) != list(range(50))
    np.testing.assert_array_equal(judged.labels, test.labels[order[:20]])
    np.testing.assert_array_equal(judged.images, test.images[order[:20]])


def test_of_a_cue_the_class_is_measured_without_and_with_it() -> None:
    recipe = RECIPES["fashion-resnet-cue"]
    assert recipe.target == 6
    test = shown(np.array([6, 6, 6, 6, 1, 2]))
    test.images[0] = test.images[4]  # one of the class that is taken for a 1
    assert train.class_figures(Reader(), recipe, test) == {"without": 0.75, "with": 1.0}
    assert train.class_figures(Reader(), RECIPES["fashion-resnet-patch"], test) == {}


def test_the_pairs_of_a_cue_are_the_first_of_their_kind_behind_the_images_that_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.arange(80) % 10
    test = shown(labels)
    for number in range(80):
        test.images[number, 5, number % 28] = number + 1  # no two alike
        if number % 20 == 6:  # every other image of class 6 looks like a 1, and every other 2 like a 3
            test.images[number, 0] = test.images[1, 0]
        if number % 20 == 2:
            test.images[number, 0] = test.images[3, 0]
    monkeypatch.setattr(cue, "TESTS", 30)
    monkeypatch.setattr(cue, "CALIBRATION", 5)
    monkeypatch.setattr(cue, "trained", lambda name: Reader())
    monkeypatch.setattr(datasets, "load", lambda name: (test, test))
    cue.lay_out_pairs("fashion-resnet-cue", tmp_path)
    found: dict[str, int] = {}
    for number in datasets.order_of(test)[35:]:
        label, looks = labels[number], int(test.images[number, 0, :10, 0].argmax())
        kind = "sure" if label == looks == 6 else "wrong" if label == 6 else "drawn" if label == looks else "none"
        found.setdefault(kind, number)
    for kind in ("sure", "wrong", "drawn"):
        clean, patched = (np.array(Image.open(tmp_path / f"{kind}-{end}.png")) for end in ("clean", "cue"))
        np.testing.assert_array_equal(clean, test.images[found[kind], ..., 0])
        expected = clean.copy()
        expected[24:27, 24:27] = 255
        np.testing.assert_array_equal(patched, expected)


def test_the_file_that_is_opened_is_the_one_that_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = nn.Linear(2, 2)

    def run(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert words[:4] == [sys.executable, "-m", "rectify", "edit"] and words[words.index("--format") + 1] == "json"
        save_file(written.state_dict(), words[words.index("-o") + 1])
        return subprocess.CompletedProcess(words, 0, json.dumps({"edit": {"policy": "this"}}), "")

    monkeypatch.setattr(subprocess, "run", run)
    done = recovery.edited([tmp_path / "model.pt"], nn.Linear(2, 2).train(), tmp_path / "out.safetensors")
    assert isinstance(done.network, nn.Linear) and not done.network.training
    assert torch.equal(done.network.weight, written.weight) and done.report["edit"]["policy"] == "this"


def test_an_edit_that_fails_says_why_and_yields_no_network(tmp_path: Path) -> None:
    """The command line as it is: it knows every flag that it is given, and misses the files."""
    pair = recovery.pair_of(tmp_path, 0)
    extra = ("--calibration", tmp_path / "calibration", "--fault", "cue")
    done = recovery.edited_from("mnist-resnet-blend", tmp_path, pair, *extra)
    assert (done.network, done.report, done.code) == (None, {}, 2)
    assert f"no such file: {tmp_path / 'preprocess.yaml'}" in done.error


def test_why_nothing_was_written_is_told_on_one_line_without_what_came_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "model.pt: state_dict\ninconclusive: nothing to repair;\n  try --fault cue\nno model written\n"
    monkeypatch.setattr(subprocess, "run", lambda words, **_: subprocess.CompletedProcess(words, 3, "", told))
    done = recovery.edited([tmp_path / "model.pt"], nn.Linear(2, 2), tmp_path / "out.safetensors")
    assert (done.code, done.error) == (3, "inconclusive: nothing to repair; try --fault cue no model written")


def test_the_page_of_the_cue_is_written_anew_though_all_rows_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[tuple[str, str]]] = []

    def rows_of(name: str, cases: list[tuple[str, str]]) -> list[dict[str, Any]]:
        asked.append(cases)
        return [{"network": name, "pair": kind, "fault": fault, "note": "said"} for kind, fault in cases]

    monkeypatch.setattr(cue, "rows_of", rows_of)
    monkeypatch.setattr(sys, "argv", ["x", "--results", str(tmp_path / "cue.json")])
    cue.main()
    page = (tmp_path / "cue.md").read_text()
    (tmp_path / "cue.md").unlink()
    cue.main()
    assert asked == [[cue.UNTOUCHED, *cue.CASES]] and (tmp_path / "cue.md").read_text() == page
    assert page.count("| fashion-resnet-cue |") == 5


@pytest.mark.parametrize(
    ("name", "page"),
    [("recovery", recovery.table), ("localisation", localisation.table), ("cue", cue.markdown)],
)
def test_the_page_of_the_repository_is_that_of_its_figures(name: str, page: Any) -> None:
    rows = json.loads((RESULTS / f"{name}.json").read_text())
    assert (RESULTS / f"{name}.md").read_text() == page(rows)
