"""Gates and the verdict: the one judgement that drives the text, the JSON and the exit code.

Pure functions over the report's plain dict; nothing here reads a file or prints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rectify.errors import ExitCode, UsageError

Report = Mapping[str, Any]
TOLERANCE = 1e-9  # 0.90 - 0.85 is 0.05 and a little: rounding must not turn a gate red


@dataclass(frozen=True)
class Gate:
    """One threshold and what was measured against it; ``value`` is None where nothing could be measured."""

    name: str
    limit: float
    value: float | None
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """The gate as the JSON report holds it."""
        return {"name": self.name, "limit": self.limit, "value": self.value, "passed": self.passed}


@dataclass(frozen=True)
class Rule:
    """How a gate is judged: its flag, its direction, and where the report holds its figure."""

    flag: str
    direction: Literal["max", "min"]
    read: Callable[[Report], float | None]
    label: str
    fraction: bool


@dataclass(frozen=True)
class Verdict:
    """What the run came to. ``reason`` is one sentence for people."""

    verdict: Literal["pass", "fail", "inconclusive"]
    exit_code: int
    gates: tuple[Gate, ...]
    reason: str


def measured(value: object) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _figure(report: Report, when: str, name: str) -> float | None:
    return measured(((report.get("metrics") or {}).get(when) or {}).get(name))


def current(report: Report, name: str) -> float | None:
    """The figure that describes the model as it now stands, on data and pairs (not the holdout).

    For ``edit`` that is the file after the edit and nothing else: an edit that did not come about has no figures.
    ``localize`` and ``evaluate`` measure one model; a report with nothing under ``after`` has it under ``before``.
    """
    value = _figure(report, "after", name)
    if value is None and report.get("command") != "edit":
        value = _figure(report, "before", name)
    return value


def judged(report: Report, name: str) -> float | None:
    """The figure that a gate on pairs judges: the holdout's where it was measured there, else that of the pairs."""
    holdout = (report.get("metrics") or {}).get("holdout") or {}
    value = measured((holdout.get("after") or {}).get(name))
    if value is None and report.get("command") != "edit":
        value = measured((holdout.get("before") or {}).get(name))
    return current(report, name) if value is None else value


def _accuracy_drop(report: Report) -> float | None:
    before, after = _figure(report, "before", "accuracy"), _figure(report, "after", "accuracy")
    return None if before is None or after is None else round(before - after, 12)


def _spurious_gap(report: Report) -> float | None:
    gap = judged(report, "gap")
    return None if gap is None else abs(gap)


def _editability(report: Report) -> float | None:
    layers = (report.get("localize") or {}).get("layers") or []
    values = [measured(layer.get("editability")) for layer in layers if layer.get("candidate", True)]
    return max((value for value in values if value is not None), default=None)


GATES: dict[str, Rule] = {
    "max_asr": Rule("--max-asr", "max", lambda r: judged(r, "asr"), "attack success", True),
    "min_recovery": Rule("--min-recovery", "min", lambda r: judged(r, "recovery"), "recovery", True),
    "min_accuracy": Rule("--min-accuracy", "min", lambda r: current(r, "accuracy"), "accuracy", True),
    "max_accuracy_drop": Rule("--max-accuracy-drop", "max", _accuracy_drop, "drop in accuracy", True),
    "max_spurious_gap": Rule("--max-spurious-gap", "max", _spurious_gap, "spurious gap", False),
    "max_leakage": Rule("--max-leakage", "max", lambda r: judged(r, "leakage"), "leakage", False),
    "min_editability": Rule("--min-editability", "min", _editability, "best editability as published", False),
}
# figure: +1 where more is better. Accuracy is never judged on the holdout pairs.
REGRESSIONS: dict[str, tuple[int, Callable[[Report], float | None]]] = {
    "accuracy": (+1, lambda r: current(r, "accuracy")),
    "asr": (-1, lambda r: judged(r, "asr")),
    "recovery": (+1, lambda r: judged(r, "recovery")),
}


def check_limits(limits: Mapping[str, float]) -> None:
    """Refuse limits that cannot be meant. Cheap: call it before the work starts.

    Raises
    ------
    UsageError
        An unknown gate, a limit that is no finite number, or a fraction outside [0, 1].
    """
    for name, limit in limits.items():
        if name not in GATES and name != "max_regression":
            raise UsageError(f"unknown gate {name!r}; the gates are {', '.join([*GATES, 'max_regression'])}")
        flag = GATES[name].flag if name in GATES else "--max-regression"
        if measured(limit) is None:
            raise UsageError(f"{flag} must be a finite number, not {limit!r}")
        fraction = name == "max_regression" or GATES[name].fraction
        if fraction and not 0 <= limit <= 1:
            hint = f"; for {limit:g}% type {flag} {limit / 100:g}" if 1 < limit <= 100 else ""
            raise UsageError(f"{flag} is a fraction between 0 and 1, not {limit:g}{hint}")


def _gate(name: str, direction: str, limit: float, value: float | None) -> Gate:
    if value is None:
        return Gate(name, limit, None, False)
    passed = value <= limit + TOLERANCE if direction == "max" else value >= limit - TOLERANCE
    return Gate(name, limit, value, passed)


def judge(limits: Mapping[str, float], report: Report, *, baseline: Report | None = None) -> list[Gate]:
    """Hold a report's figures against limits, in the order of `GATES`, then against a baseline report.

    Parameters
    ----------
    limits
        Gate name to limit, and ``max_regression`` for the comparison with ``baseline`` (0 where it is absent).
    report
        The report under judgement; its ``gates`` are not read.
    baseline
        An earlier report. Accuracy and recovery may not fall, attack success may not rise, by more than
        ``max_regression``: gates ``regression_accuracy``, ``regression_asr``, ``regression_recovery``, one for each
        figure that the baseline has.

    Raises
    ------
    UsageError
        Unknown gate or senseless limit, ``max_regression`` without a baseline, or a baseline without any figure.
    """
    check_limits(limits)
    gates = [
        _gate(name, rule.direction, limits[name], rule.read(report)) for name, rule in GATES.items() if name in limits
    ]
    if baseline is None:
        if "max_regression" in limits:
            raise UsageError("--max-regression needs an earlier report to compare with: add --baseline report.json")
        return gates
    return gates + _regressions(limits.get("max_regression", 0.0), report, baseline)


def _regressions(limit: float, report: Report, baseline: Report) -> list[Gate]:
    gates = []
    for name, (sign, read) in REGRESSIONS.items():
        then, now = read(baseline), read(report)
        if then is None:
            continue
        # Lost measurements must not look like progress: a figure that only the baseline has is a failed gate.
        loss = None if now is None else round(sign * (then - now), 12)
        gates.append(_gate(f"regression_{name}", "max", limit, loss))
    if not gates:
        raise UsageError("the --baseline report holds no accuracy, attack success or recovery to compare with")
    return gates


def decide(gates: Iterable[Gate], *, inconclusive: str | None = None, exit_zero: bool = False) -> Verdict:
    """Turn gates into the verdict and the exit code.

    ``inconclusive`` is why there is nothing to judge; it wins over every gate, and ``exit_zero`` does not touch it.
    """
    gates = tuple(gates)
    if inconclusive is not None:
        return Verdict("inconclusive", int(ExitCode.INCONCLUSIVE), gates, inconclusive)
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        reason = f"{len(failed)} of {len(gates)} gates failed: " + "; ".join(explain(gate) for gate in failed)
        reason = reason.replace("1 of 1 gates", "the gate", 1)
        return Verdict("fail", int(ExitCode.OK if exit_zero else ExitCode.GATE_VIOLATED), gates, reason)
    reason = {0: "no gate was set", 1: "the gate held", 2: "both gates held"}.get(
        len(gates), f"all {len(gates)} gates held"
    )
    return Verdict("pass", int(ExitCode.OK), gates, reason)


def gate_label(name: str) -> str:
    """What a gate measures, in words."""
    if name in GATES:
        return GATES[name].label
    words = {"accuracy": "loss of accuracy", "asr": "rise of attack success", "recovery": "loss of recovery"}
    return words.get(name.removeprefix("regression_"), name)


def gate_sign(name: str) -> str:
    """``≤`` or ``≥``."""
    return "≥" if name in GATES and GATES[name].direction == "min" else "≤"


def gate_figure(name: str, value: float | None) -> str:
    """A gate's limit or value as people read it: percent for fractions."""
    from rectify.reporting.words import MISSING, percent

    fraction = GATES[name].fraction if name in GATES else name.startswith("regression_")
    if fraction:
        return percent(value)
    return MISSING if value is None else f"{value:.4g}"


def explain(gate: Gate) -> str:
    """A gate in a few words: ``attack success 12.00%, limit ≤ 5.00%``."""
    limit = f"limit {gate_sign(gate.name)} {gate_figure(gate.name, gate.limit)}"
    if gate.value is None:
        return f"{gate_label(gate.name)} was not measured, {limit}"
    return f"{gate_label(gate.name)} {gate_figure(gate.name, gate.value)}, {limit}"
