"""Markdown, JUnit and GitHub annotations."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rectify.errors import UsageError
from rectify.reporting.build import empty_report
from rectify.reporting.html import to_html
from rectify.reporting.junit import to_junit
from rectify.reporting.markdown import code, escape, to_markdown
from rectify.reporting.render import FORMATS, render
from tests.reporting.samples import REPORTS, edit_report, failed_report, odd_report


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("format", FORMATS)
def test_every_report_in_every_format(name: str, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    text = render(REPORTS[name](), format)
    assert text.endswith("\n") and text.strip()
    assert text == render(REPORTS[name](), format)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown format 'yaml'; the formats are text, json"):
        render(edit_report(), "yaml")


@pytest.mark.parametrize("name", REPORTS)
def test_markdown_tables_are_whole(name: str) -> None:
    widths: set[int] = set()
    for line in to_markdown(REPORTS[name]()).splitlines():
        if not line.startswith("|"):
            widths.clear()
            continue
        widths.add(len(re.findall(r"(?<!\\)\|", line)))
        assert len(widths) == 1, line


def test_markdown_names() -> None:
    text = to_markdown(odd_report())
    for shown in ("`layer4[1]`", "`[bold]x`", "`` a\\|b`c` ``", "`$x$_<b>&`", "`naïve→層`"):
        assert shown in text
    assert "because of $x" not in text and r"because of \$x\$\_\<b\>\&" in text
    assert escape("<script>@user #1") == r"\<script\>\@user \#1"
    assert code("a\nb") == r"`a\nb`"


def test_markdown_says_verdict_remarks_and_pictures() -> None:
    text = to_markdown(failed_report(), {"Layers": "pictures/layers.png"})
    assert text.startswith("# rectify edit: ❌ fail\n")
    assert "- **warning**: 7.1% of the edit was lost" in text
    assert text.index("## Edit") < text.index("![Layers](pictures/layers.png)") < text.index("## Layers")


def test_junit_has_one_case_a_gate() -> None:
    root = ElementTree.fromstring(to_junit(failed_report()))
    suite = root.find("testsuite")
    assert suite is not None and suite.attrib | {"time": ""} == {
        "name": "rectify edit", "tests": "4", "failures": "3", "errors": "0", "skipped": "0", "time": "",
        "timestamp": "2026-03-02T09:14:07",
    }  # fmt: skip
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == ["max_asr", "min_recovery", "min_accuracy", "max_leakage"]
    failures = [case.find("failure") for case in cases]
    assert [None if failure is None else failure.get("type") for failure in failures] == [
        "GateViolated", "GateViolated", None, "NotMeasured",
    ]  # fmt: skip
    assert failures[0] is not None and failures[0].get("message") == "attack success 38.33%, limit ≤ 5.00%"


def test_junit_is_never_green_when_inconclusive_and_never_empty() -> None:
    root = ElementTree.fromstring(to_junit(REPORTS["inconclusive"]()))
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("1", "0", "1")
    error = root.find("testsuite/testcase/error")
    assert error is not None and "at chance" in (error.get("message") or "")
    root = ElementTree.fromstring(to_junit(REPORTS["triage"]()))
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("1", "0", "0")


def test_junit_survives_control_characters() -> None:
    report = REPORTS["inconclusive"]()
    report["reason"] = "bad \x00 \x1b <name> & ]]>"
    error = ElementTree.fromstring(to_junit(report)).find("testsuite/testcase/error")
    assert error is not None and error.get("message") == r"bad \x00 \x1b <name> & ]]>"


@pytest.fixture
def summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    return path


def test_github_has_one_error_and_the_table_in_the_summary(summary: Path) -> None:
    summary.write_text("earlier step\n")
    lines = render(failed_report(), "github").splitlines()
    assert lines[0].startswith(
        "::error title=rectify edit%3A fail::3 of 4 gates failed: attack success 38.33%25, limit"
    )
    assert lines[1].startswith("::warning title=rectify edit::7.1%25 of the edit")
    assert len(lines) == 2
    text = summary.read_text()
    assert text.startswith("earlier step\n# rectify edit: ❌ fail") and "| `max_asr` |" in text


@pytest.mark.parametrize(("name", "level"), [("edit", "notice"), ("inconclusive", "error"), ("failed", "error")])
def test_github_levels(name: str, level: str, summary: Path) -> None:
    assert render(REPORTS[name](), "github").startswith(f"::{level} title=rectify ")


def test_github_shows_ten_annotations_at_most_and_no_others(summary: Path) -> None:
    report = edit_report()
    report["edit"]["warnings"] = [f"warning {n}\n::error::injected" for n in range(30)]
    lines = render(report, "github").splitlines()
    assert len(lines) == 10 and lines[-1].endswith("::22 more warnings are in the report")
    assert not any(line.startswith("::error") for line in lines)


def test_github_without_a_writable_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "missing" / "summary.md"))
    lines = render(edit_report(), "github").splitlines()
    assert lines[-1].startswith("::warning title=rectify edit::the step summary could not be written: No such file")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "")
    assert len(render(edit_report(), "github").splitlines()) == 1


@pytest.mark.parametrize("command", ["localize", "edit", "explain", "evaluate", "train"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_report_that_got_nowhere(command: str, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    report = empty_report(command)
    assert "nothing was judged" in render(report, format)
    assert "nothing was judged" in to_html(report)
    report["localize"] = {"method": "integrated-gradients", "target": None, "completeness_gap": None, "layers": []}
    report |= {"reason": None, "verdict": "pass", "exit_code": 0}
    assert ("no gate was set" in render(report, format)) == (format != "json")
