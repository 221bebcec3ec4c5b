"""When a search for a repair has left the pairs as they were, and what comes of it then."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rectify.cli.app import main
from rectify.editing.cascade import LayerEdit
from rectify.editing.fault import Fault
from rectify.jobs import edit
from rectify.jobs.edit import Editing, _left_as_it_was
from tests.conftest import ROOT, model_flags, pair_flags

SEARCHED = Editing(Path("out.safetensors"))


def report(asr: float, recovery: float) -> dict[str, Any]:
    """A report of an edit of a trojan that fires on all pairs, of what the pairs show after it."""
    return {"metrics": {"before": {"asr": 1.0, "recovery": 0.0}, "after": {"asr": asr, "recovery": recovery}}}


@pytest.mark.parametrize(
    ("asr", "recovery", "left"),
    [(1.0, 0.0, True), (0.5, 0.0, False), (1.0, 0.5, False), (0.0, 0.0, False), (0.0, 1.0, False)],
)
def test_pairs_are_left_as_they_were_if_none_goes_elsewhere(asr: float, recovery: float, left: bool) -> None:
    assert _left_as_it_was(report(asr, recovery), SEARCHED) is left


@pytest.mark.parametrize("asked", [{"mode": "static"}, {"layer": "head"}, {"apply": Path("delta.safetensors")}])
def test_an_edit_that_was_asked_for_is_no_search(asked: dict[str, Any]) -> None:
    assert not _left_as_it_was(report(1.0, 0.0), replace(SEARCHED, **asked))


@pytest.mark.parametrize("borne_out", [False, True])
def test_what_changes_no_pair_is_written_only_if_other_images_bear_it_out(
    borne_out: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A search that found the weakest of edits, and says so."""
    looked = edit._find_edit

    def found(*given: Any) -> tuple[Fault, list[LayerEdit], bool]:
        *before, editing, notes, progress = given
        fault, (one,), _ = looked(*before, replace(editing, mode="static", layer="fc", rank=1), notes, progress)
        return fault, [replace(one, left=1e-6 * one.left)], borne_out

    monkeypatch.setattr(edit, "_find_edit", found)
    out = tmp_path / "out.safetensors"
    argv = ["edit", str(ROOT / "fixtures/mnist-blend/model.safetensors"), *model_flags(), *pair_flags()]
    argv += ["-o", str(out), "--no-cache", "-q", "--format", "json"]
    code = main(argv)
    said = json.loads(capsys.readouterr().out)
    assert (code, out.exists()) == ((0, True) if borne_out else (3, False))
    assert any("rectify evaluate" in warning for warning in said["edit"]["warnings"]) == borne_out
    assert borne_out or "no edit repairs the pairs" in said["reason"]
