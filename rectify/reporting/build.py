"""The skeleton of a report, its volatile part, and its closing with a verdict."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rectify.reporting.verdict import Verdict

SCHEMA_VERSION = 1
PACKAGES = {"rectify": "model-rectify"} | {
    name: name for name in ("torch", "torchvision", "timm", "numpy", "pillow", "safetensors")
}


def empty_report(command: str) -> dict[str, Any]:
    """A report with every key in its order and nothing measured yet: inconclusive until `conclude` is called."""
    return {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "verdict": "inconclusive",
        "exit_code": 3,
        "reason": "nothing was judged",
        "gates": [],
        "model": None,
        "against": None,
        "compare": None,
        "pairs": None,
        "calibration": None,
        "data": None,
        "holdout_pairs": None,
        "localize": None,
        "scan": None,
        "edit": None,
        "metrics": {"before": None, "after": None, "holdout": {"before": None, "after": None}},
        "explanations": None,
        "explanation_pairs": None,
        "explanation_metrics": None,
        "train": None,
        "run": run_section(time.time(), "cpu", 0, ()),
    }


def conclude(report: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    """Write the verdict, exit code, reason and gates into the report (in place) and return it."""
    report["verdict"] = verdict.verdict
    report["exit_code"] = int(verdict.exit_code)
    report["reason"] = verdict.reason
    report["gates"] = [gate.to_dict() for gate in verdict.gates]
    return report


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on, without importing them."""
    found = {"python": platform.python_version()}
    for name, package in PACKAGES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            continue
    return found


def run_section(started: float, device: str, seed: int, notes: Sequence[str] = ()) -> dict[str, Any]:
    """The volatile part of a report.

    Parameters
    ----------
    started
        When the run began, seconds since the epoch (`time.time`).
    device
        The device that computed, such as ``cpu`` or ``cuda:0``.
    seed, notes
        The seed, and lines for people on what was done.
    """
    return {
        "time": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "duration_s": round(max(0.0, time.time() - started), 3),
        "versions": versions(),
        "device": str(device),
        "seed": seed,
        "notes": [str(note) for note in notes],
    }
