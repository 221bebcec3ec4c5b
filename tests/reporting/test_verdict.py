"""Gates and verdict: the one judgement behind the text, the JSON and the exit code."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from rectify.errors import ExitCode, UsageError
from rectify.reporting.verdict import GATES, Gate, check_limits, decide, explain, judge
from tests.reporting.samples import blank, edit_report, evaluate_report, figures, localize_report


def only(limits: dict[str, float], report: dict[str, Any], **how: Any) -> Gate:
    [gate] = judge(limits, report, **how)
    return gate


@pytest.mark.parametrize(
    ("name", "limit", "value", "passed"),
    [
        ("max_asr", 0.05, 0.0167, True),  # the holdout's, not 0.001 of the pairs
        ("max_asr", 0.01, 0.0167, False),
        ("min_recovery", 0.96, 0.9667, True),
        ("min_recovery", 0.98, 0.9667, False),  # 0.9894 on the pairs would have passed
        ("min_accuracy", 0.99, 0.9921, True),
        ("min_accuracy", 0.995, 0.9921, False),
        ("max_accuracy_drop", 0.0016, 0.0016, True),  # 0.9937 - 0.9921 is a little more in binary
        ("max_accuracy_drop", 0.001, 0.0016, False),
        ("max_spurious_gap", 0.02, 0.0121, True),
        ("max_spurious_gap", 0.01, 0.0121, False),
        ("max_leakage", 2.5, None, False),  # not measured is never passed
        ("min_editability", 12.0, pytest.approx(12.334), True),
        ("min_editability", 13.0, pytest.approx(12.334), False),
    ],
)
def test_each_gate_reads_its_figure(name: str, limit: float, value: float | None, passed: bool) -> None:
    assert only({name: limit}, edit_report()) == Gate(name, limit, value, passed)


def test_gates_come_in_one_order() -> None:
    limits = dict.fromkeys(reversed(GATES), 0.5)
    assert [gate.name for gate in judge(limits, edit_report())] == list(GATES)


def test_holdout_without_the_figure_falls_back_to_the_pairs() -> None:
    report = edit_report()
    report["metrics"]["holdout"]["after"]["asr"] = None
    assert only({"max_asr": 0.05}, report).value == 0.001
    report["metrics"]["holdout"]["after"] = None
    assert only({"min_recovery": 0.05}, report).value == 0.9894


def test_an_edit_that_did_not_come_about_has_no_figures() -> None:
    report = edit_report()
    report["metrics"]["before"] = figures(0.99, 0.0, 0.99, 0.0, 0.0)
    report["metrics"]["after"] = None
    report["metrics"]["holdout"]["after"] = None
    limits = {"max_asr": 0.05, "min_accuracy": 0.5, "max_accuracy_drop": 0.5}
    assert [(gate.value, gate.passed) for gate in judge(limits, report)] == [(None, False)] * 3


def test_localize_and_evaluate_judge_the_one_model_they_measure() -> None:
    report = blank("evaluate")
    report["metrics"]["before"] = figures(0.91, 0.4, 0.5, -0.3, 0.1)
    gates = judge({"max_asr": 0.5, "min_accuracy": 0.9, "max_spurious_gap": 0.2}, report)
    assert [(gate.name, gate.value, gate.passed) for gate in gates] == [
        ("max_asr", 0.4, True),
        ("min_accuracy", 0.91, True),
        ("max_spurious_gap", 0.3, False),  # the size of the gap, whichever way it goes
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "0.01"])
def test_what_is_no_finite_number_was_not_measured(value: Any) -> None:
    report = evaluate_report()
    report["metrics"]["after"]["asr"] = value
    assert only({"max_asr": 1.0}, report) == Gate("max_asr", 1.0, None, False)


def test_editability_counts_candidates_only() -> None:
    report = localize_report()
    for layer in report["localize"]["layers"]:
        layer["candidate"] = layer["name"] == "fc"
    assert only({"min_editability": 1.0}, report).value == pytest.approx(0.032, abs=0.001)
    report["localize"] = None
    assert only({"min_editability": 1.0}, report) == Gate("min_editability", 1.0, None, False)


def test_regression_against_a_baseline() -> None:
    before, now = evaluate_report(), evaluate_report()
    now["metrics"]["after"] = figures(0.9821, 0.0513, 0.9994, None, 0.0)
    gates = judge({"max_regression": 0.02}, now, baseline=before)
    assert gates == [
        Gate("regression_accuracy", 0.02, 0.01, True),
        Gate("regression_asr", 0.02, 0.05, False),
        Gate("regression_recovery", 0.02, -0.01, True),
    ]


def test_regression_counts_lost_figures_as_failed_and_has_a_strict_default() -> None:
    before, now = evaluate_report(), evaluate_report()
    assert [(g.limit, g.value, g.passed) for g in judge({}, now, baseline=before)] == [(0.0, 0.0, True)] * 3
    now["metrics"]["after"]["asr"] = None
    assert not {gate.name: gate for gate in judge({}, now, baseline=before)}["regression_asr"].passed
    before["metrics"]["after"]["recovery"] = None
    assert [gate.name for gate in judge({}, now, baseline=before)] == ["regression_accuracy", "regression_asr"]


def test_a_baseline_without_figures_is_refused() -> None:
    with pytest.raises(UsageError, match="no accuracy, attack success or recovery"):
        judge({}, evaluate_report(), baseline=blank("evaluate"))
    with pytest.raises(UsageError, match=r"add --baseline report\.json"):
        judge({"max_regression": 0.1}, evaluate_report())


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_asr": 5}, r"--max-asr is a fraction between 0 and 1, not 5; for 5% type --max-asr 0.05"),
        ({"min_recovery": -0.1}, r"--min-recovery is a fraction between 0 and 1, not -0.1$"),
        ({"max_regression": 2}, r"--max-regression is a fraction .* for 2% type --max-regression 0.02"),
        ({"min_accuracy": math.nan}, r"--min-accuracy must be a finite number, not nan"),
        ({"min_acuracy": 0.5}, r"unknown gate 'min_acuracy'; the gates are max_asr, min_recovery"),
    ],
)
def test_senseless_limits_are_refused(limits: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_limits(limits)
    with pytest.raises(UsageError, match=message):
        judge(limits, evaluate_report(), baseline=evaluate_report())


def test_limits_that_are_no_fractions_may_be_large() -> None:
    check_limits({"min_editability": 120.0, "max_leakage": 3.5, "max_spurious_gap": 9.1})


HELD, FAILED = Gate("max_asr", 0.05, 0.01, True), Gate("min_recovery", 0.9, 0.5, False)


@pytest.mark.parametrize(
    ("gates", "inconclusive", "exit_zero", "verdict", "code"),
    [
        ([], None, False, "pass", 0),
        ([HELD], None, False, "pass", 0),
        ([HELD, FAILED], None, False, "fail", 1),
        ([HELD, FAILED], None, True, "fail", 0),
        ([HELD], "no fault", False, "inconclusive", 3),
        ([FAILED], "no fault", True, "inconclusive", 3),
    ],
)
def test_decide(gates: list[Gate], inconclusive: str | None, exit_zero: bool, verdict: str, code: int) -> None:
    decision = decide(gates, inconclusive=inconclusive, exit_zero=exit_zero)
    assert (decision.verdict, decision.exit_code, decision.gates) == (verdict, code, tuple(gates))
    assert code in set(ExitCode)


def test_reasons() -> None:
    assert decide([]).reason == "no gate was set"
    assert decide([HELD]).reason == "the gate held"
    assert decide([HELD] * 2).reason == "both gates held"
    assert decide([HELD] * 3).reason == "all 3 gates held"
    assert decide([FAILED]).reason == "the gate failed: recovery 50.00%, limit ≥ 90.00%"
    assert decide([HELD, FAILED]).reason == "1 of 2 gates failed: recovery 50.00%, limit ≥ 90.00%"
    assert decide([], inconclusive="no valid pair").reason == "no valid pair"
    assert explain(Gate("max_leakage", 2.5, None, False)) == "leakage was not measured, limit ≤ 2.5"
    assert explain(Gate("regression_asr", 0.01, 0.05, False)) == "rise of attack success 5.00%, limit ≤ 1.00%"


def test_judging_leaves_the_report_alone() -> None:
    report = edit_report()
    kept = copy.deepcopy(report)
    judge({"max_asr": 0.1, "max_regression": 0.1}, report, baseline=report)
    assert report == kept
