"""What the commands of all tables share: the quick size, and how one run is held against another."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import __main__ as every
from benchmarks import runs


def asked(words: list[str], monkeypatch: pytest.MonkeyPatch, **quick: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=["a", "b"])
    parser.add_argument("--pairs", type=int, default=3)
    monkeypatch.setattr(sys, "argv", ["x", *words])
    return runs.options(parser, "table", **quick)


def test_quick_changes_what_is_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "QUICK", tmp_path / "quick")
    whole = asked([], monkeypatch, names=["a"], pairs=1)
    assert (whole.names, whole.pairs, whole.results) == (["a", "b"], 3, runs.RESULTS / "table.json")
    small = asked(["--quick"], monkeypatch, names=["a"], pairs=1)
    assert (small.names, small.pairs, small.results) == (["a"], 1, tmp_path / "quick" / "table.json")
    given = asked(["b", "--quick", "--pairs", "2", "--results", str(tmp_path / "x.json")], monkeypatch, names=["a"])
    assert (given.names, given.pairs, given.results) == (["b"], 2, tmp_path / "x.json")


def test_figures_are_held_against_each_other_by_what_names_their_rows() -> None:
    one = [{"name": "a", "pair": 0, "accuracy": 0.90, "seconds": 5}, {"name": "b", "pair": 0, "epe": 20.0}]
    other = [{"name": "b", "pair": 0, "epe": 20.4}, {"name": "a", "pair": 0, "accuracy": 0.95, "seconds": 9}]
    found = runs.compared(one, other)
    assert found.figures == 4 and not found.missing and not found.agrees  # two pairs, an accuracy, an epe
    assert found.apart == pytest.approx({"[a, 0].accuracy": 0.05}) and found.largest == pytest.approx(0.05)
    other[1]["accuracy"] = 0.92
    found = runs.compared(one, other)
    assert found.agrees and found.largest == pytest.approx(0.02)


def test_what_is_in_one_alone_is_no_agreement() -> None:
    found = runs.compared({"rows": [{"x": 1.0}]}, {"rows": [{"x": 1.0}, {"x": 2.0}]})
    assert found.missing == ["rows[1].x"] and not found.agrees and "in one of them alone" in found.says(Path("y"))
    assert not runs.compared([], [{"x": 1}]).agrees


@pytest.mark.parametrize(("accuracy", "code"), [(0.91, 0), (0.80, 1)])
def test_a_quick_run_ends_with_the_comparison(
    accuracy: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs, "COMMITTED", tmp_path / "committed")
    (tmp_path / "committed").mkdir()
    (tmp_path / "committed" / "t.json").write_text('[{"name": "a", "accuracy": 0.9}]')
    mine = SimpleNamespace(quick=True, results=tmp_path / "t.json")
    runs.keep(mine, [{"name": "a", "accuracy": accuracy}], "a page\n")
    assert runs.stored(mine.results) == [{"name": "a", "accuracy": accuracy}] and not runs.stored(tmp_path / "no.json")
    if code:
        with pytest.raises(SystemExit, match="1"):
            runs.conclude(mine)
    else:
        runs.conclude(mine)
    said = capsys.readouterr().out
    assert (
        said.startswith("*A quick run")
        and "a page\n" in said
        and "1 figures held against" in said
        and ("beyond" in said) == bool(code)
    )


def test_a_quick_run_of_a_new_table_says_that_there_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs, "COMMITTED", tmp_path)
    (tmp_path / "own").mkdir()
    mine = SimpleNamespace(quick=True, results=tmp_path / "own" / "t.json")
    runs.keep(mine, [], "a page\n")
    runs.conclude(mine)
    assert "nothing to hold it against" in capsys.readouterr().out


@pytest.mark.parametrize("quick", [True, False])
def test_a_quick_page_links_to_what_is_written_by_hand_a_folder_above_it(quick: bool, tmp_path: Path) -> None:
    mine = SimpleNamespace(quick=quick, results=tmp_path / "t.json")
    runs.keep(mine, [], "[a](some-reading.md) and [b](other.md)\n")
    above = "../" if quick else ""
    assert mine.results.with_suffix(".md").read_text().endswith(f"[a]({above}some-reading.md) and [b](other.md)\n")


def test_all_tables_are_run_though_one_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        ran.append(command[2:])
        return SimpleNamespace(returncode=int("cue" in command[2]))

    monkeypatch.setattr(subprocess, "run", run)
    for words, code in ((["cue", "guesses", "--quick"], 1), ([], 1), (["guesses"], 0)):
        monkeypatch.setattr(sys, "argv", ["x", *words])
        with pytest.raises(SystemExit) as ended:
            every.main()
        assert ended.value.code == code
    assert ran[:2] == [["benchmarks.cue", "--quick"], ["benchmarks.guesses", "--quick"]]
    assert ran[2:-1] == [[f"benchmarks.{table}"] for table in every.TABLES] and ran[-1] == ["benchmarks.guesses"]
    assert "exit code 1" in capsys.readouterr().out


@pytest.mark.parametrize("table", every.TABLES)
def test_every_table_has_a_quick_run_that_is_committed_and_a_place_on_the_page(table: str) -> None:
    home = runs.ROOT / "benchmarks"
    assert (home / f"{table}.py").exists() or (home / table / "__main__.py").exists()
    page = (home / "README.md").read_text()
    assert f"`{table}`" in page
    stem = table.replace("_", "-") if table.startswith("robust") else table
    assert json.loads((runs.COMMITTED / f"{stem}.json").read_text()) and (runs.COMMITTED / f"{stem}.md").exists()
    assert f"(results/{stem}.md)" in page and (runs.RESULTS / f"{stem}.md").exists()
