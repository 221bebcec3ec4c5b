"""When a repair that leaves the pair as it was is a result, and when it is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rectify.jobs.edit import Editing, _left_as_it_was

SEARCHED = Editing(Path("out.safetensors"))


def report(asr: float, recovery: float) -> dict[str, Any]:
    """A report of an edit of a trojan that fires on all pairs, of what the pairs show after it."""
    metrics = {"before": {"asr": 1.0, "recovery": 0.0}, "after": {"asr": asr, "recovery": recovery}}
    return {"metrics": metrics, "edit": {"warnings": []}}


@pytest.mark.parametrize("borne_out", [False, True])
def test_an_edit_that_changes_no_pair_is_a_result_only_if_other_images_bear_it_out(borne_out: bool) -> None:
    its = report(1.0, 0.0)
    why, warned = _left_as_it_was(its, SEARCHED, borne_out), its["edit"]["warnings"]
    assert (why is None) == borne_out and bool(warned) == borne_out
    assert borne_out or (why and "no edit repairs the pairs" in why)
    assert not borne_out or "rectify evaluate" in warned[0]


@pytest.mark.parametrize("asr, recovery", [(0.5, 0.0), (1.0, 0.5), (0.0, 0.0), (0.0, 1.0)])
def test_an_edit_that_changes_a_pair_is_a_result(asr: float, recovery: float) -> None:
    its = report(asr, recovery)
    assert _left_as_it_was(its, SEARCHED, False) is None and not its["edit"]["warnings"]


@pytest.mark.parametrize("asked", [{"mode": "static"}, {"layer": "head"}, {"apply": Path("delta.safetensors")}])
def test_so_is_an_edit_that_was_asked_for(asked: dict[str, Any]) -> None:
    assert _left_as_it_was(report(1.0, 0.0), replace(SEARCHED, **asked), False) is None
