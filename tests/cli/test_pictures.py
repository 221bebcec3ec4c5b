"""The gallery of an explanation report: each picture once, worst completeness first, and not without end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rectify.cli.pictures import MOST_EXPLAINED, _explanations, _layers_caption
from tests.reporting.samples import localize_report, triage_report


class Ear:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def note(self, line: str) -> None:
        self.heard.append(line)


def row(image: str, gap: float | None, *files: str) -> dict[str, Any]:
    return {"image": image, "method": "ig", "relative_gap": gap, "files": list(files)}


def gallery(rows: list[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    ear = Ear()
    found = _explanations(SimpleNamespace(report={"explanations": rows}), ear)  # type: ignore[arg-type]
    return found, ear.heard


@pytest.mark.parametrize(
    ("report", "caption"),
    [
        (localize_report(), "The layers, by trial edit"),
        (localize_report(trial=False), "The layers, by scale-free editability"),
        (triage_report(), "The layers, by outlier score"),
        ({"localize": None}, "The layers"),
    ],
)
def test_the_caption_says_what_the_layers_are_ordered_by(report: dict[str, Any], caption: str) -> None:
    assert _layers_caption(SimpleNamespace(report=report)) == caption  # type: ignore[arg-type]


def test_a_pair_is_shown_once_and_equal_names_both() -> None:
    rows = [
        row("clean/0.png", 0.1, "m/clean-0.ig.png", "m/clean-0.ig.safetensors", "m/clean-0.ig.pair.png"),
        row("poisoned/0.png", 0.3, "m/poisoned-0.ig.png", "m/clean-0.ig.pair.png"),
        row("a/1.png", 0.2, "m/a-1.ig.png"),
        row("b/1.png", None, "m/b-1.ig.png"),
    ]
    found, heard = gallery(rows)
    assert [path.name for path in found.values()] == ["clean-0.ig.pair.png", "a-1.ig.png", "b-1.ig.png"]
    assert list(found) == ["0.png by ig", "1.png by ig", "b/1.png by ig"] and heard == []


def test_a_large_folder_shows_the_worst() -> None:
    rows = [row(f"{i}.png", i / 1000, f"m/{i}.ig.png") for i in range(MOST_EXPLAINED + 30)]
    found, heard = gallery(rows)
    assert len(found) == MOST_EXPLAINED and next(iter(found.values())).name == f"{MOST_EXPLAINED + 29}.ig.png"
    assert len(heard) == 1 and str(len(rows)) in heard[0]
