"""Every report validates; what is no report does not."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest

from rectify.reporting.build import conclude, empty_report, run_section
from rectify.reporting.jsonfile import to_json
from rectify.reporting.schema import load
from rectify.reporting.verdict import GATES, REGRESSIONS, decide
from tests.reporting.samples import REPORTS, edit_report, errors, figures


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(load())


def test_the_schema_names_every_gate() -> None:
    names = load()["$defs"]["gate"]["properties"]["name"]["enum"]
    assert names == [*GATES, *(f"regression_{name}" for name in REGRESSIONS)]


@pytest.mark.parametrize("name", REPORTS)
def test_every_kind_of_report_validates(name: str) -> None:
    assert errors(REPORTS[name]()) == []


@pytest.mark.parametrize("command", ["localize", "edit", "explain", "evaluate", "train"])
def test_an_empty_report_validates_and_cannot_pass(command: str) -> None:
    report = empty_report(command)
    assert errors(report) == []
    assert (report["verdict"], report["exit_code"]) == ("inconclusive", 3)


def test_empty_and_full_reports_have_the_keys_of_the_contract_in_order() -> None:
    keys = list(load()["properties"])
    for report in (empty_report("edit"), edit_report()):
        assert list(report) == keys and list(json.loads(to_json(report))) == keys
    assert [key for key in keys if key in load()["required"]] == load()["required"]


def broken(path: str, value: Any) -> dict[str, Any]:
    report = edit_report()
    *way, last = path.split("/")
    place: Any = report
    for key in way:
        place = place[int(key)] if isinstance(place, list) else place[key]
    place[last] = value
    return report


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("extra", 1), ("schema_version", 2), ("command", "repair"), ("verdict", "ok"), ("exit_code", 2),
        ("exit_code", 1),
        ("verdict", "fail"), ("verdict", "inconclusive"), ("model/sha256", "abc"), ("model/extra", 1),
        ("model/preprocess/mean", []), ("pairs/count", 0), ("pairs/fault", "trojan"), ("metrics/after/accuracy", 99.21),
        ("metrics/after/extra", 0.1), ("metrics/holdout/before", 1), ("localize/method", "guess"),
        ("localize/layers/0/kind", "conv3d"), ("localize/layers/0/trial/recovery", 55), ("localize/layers/0/rank", 0),
        ("edit/steps/0/rank", -1), ("edit/out/bytes", 0), ("edit/mode", "magic"), ("run/versions/torch", 2.14),
        ("gates/0/name", "max_fun"), ("gates/0/passed", False), ("gates/0/value", None),
        ("against", "model.pt"), ("against", {"path": "model.pt"}), ("compare", {"path": "m.pt", "sha256": "abc"}),
    ],
)  # fmt: skip
def test_what_is_no_report_is_refused(path: str, value: Any) -> None:
    assert errors(broken(path, value)), path


@pytest.mark.parametrize("key", load()["required"])
def test_no_key_may_be_missing(key: str) -> None:
    report = edit_report()
    del report[key]
    assert errors(report)


def test_a_failed_verdict_needs_a_failed_gate() -> None:
    report = conclude(edit_report(), decide([]))
    assert errors(report) == []
    report |= {"verdict": "fail", "exit_code": 1}
    assert errors(report)


def test_json_text() -> None:
    report = edit_report()
    report["metrics"]["after"] = {**figures(np.float32(0.5), math.nan, math.inf, None, 0.25)}  # type: ignore[arg-type]
    report["model"]["path"] = Path("naïve") / "[bold]\udc80.pt"
    report["pairs"]["labels"] = np.array([7, 3])
    text = to_json(report)
    assert text.isascii() and text.endswith("}\n") and text.startswith('{\n  "schema_version": 1,\n  "command": "edit"')
    loaded = json.loads(text)
    assert loaded["metrics"]["after"] == {
        "accuracy": 0.5,
        "asr": None,
        "recovery": None,
        "gap": None,
        "base_rate": 0.25,
    }
    assert loaded["model"]["path"] == "naïve/[bold]\udc80.pt"
    assert loaded["pairs"]["labels"] == [7, 3]
    assert errors(loaded) == []


def test_json_refuses_what_it_does_not_know() -> None:
    with pytest.raises(TypeError, match="a report cannot hold set"):
        to_json({"a": {1}})


def test_equal_reports_give_equal_bytes_outside_run() -> None:
    first, second = edit_report(), copy.deepcopy(edit_report())
    second["run"] = run_section(0.0, "cuda:0", 1, ["another"])
    assert to_json(first | {"run": None}) == to_json(second | {"run": None})


def test_run_section() -> None:
    run = run_section(0.0, "cpu", 3, ("a",))
    assert run["time"] == "1970-01-01T00:00:00+00:00"
    assert (run["device"], run["seed"], run["notes"]) == ("cpu", 3, ["a"])
    assert run["duration_s"] > 0 and {"python", "torch", "numpy"} <= set(run["versions"])
