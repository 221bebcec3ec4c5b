"""Ours, as a user runs it: ``rectify edit`` with its defaults, one PNG pair, 200 unlabelled PNGs. And the untouched."""

from __future__ import annotations

from benchmarks.recovery import edited_from, pair_of
from benchmarks.rivals.evidence import Evidence, Method, Outcome


def _repair(case: Evidence) -> Outcome:
    folder = case.folder
    done = edited_from(case.name, folder, pair_of(folder, case.pair), "--calibration", folder / "calibration")
    if done.network is None:
        return Outcome(None, {}, note=f"exit code {done.code}: {done.error}")
    return Outcome(done.network, {"edit": done.report["edit"]["policy"]})


def _nothing(case: Evidence) -> Outcome:
    return Outcome(case.copy(), {})


OURS = Method(
    title="ours",
    source="this project",
    formula="`rectify edit`",
    sees="pair, 200 unlabelled",
    settings="the defaults of the command line",
    rule="its own, on the pair and the calibration images",
    repair=_repair,
)
UNTOUCHED = Method(
    title="untouched",
    source="",
    formula="the network as it is",
    sees="nothing",
    settings="none",
    rule="none",
    repair=_nothing,
)
