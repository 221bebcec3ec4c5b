"""The terminal's text: eighty columns, verbatim names, colour only where it is wanted."""

from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from rectify.reporting.build import conclude
from rectify.reporting.content import facts
from rectify.reporting.html import to_html
from rectify.reporting.render import print_text, render
from rectify.reporting.tables import attempts_table
from rectify.reporting.verdict import decide, judge
from tests.reporting.samples import (
    ODD,
    REPORTS,
    SHA,
    AsciiOutput,
    edit_report,
    evaluate_report,
    inconclusive_report,
    localize_report,
    many_layers,
    odd_report,
    resnet_layers,
    scan_report,
)


def shown(name_or_report: object, width: int = 80, **console: object) -> str:
    report = REPORTS[name_or_report]() if isinstance(name_or_report, str) else name_or_report
    stream = console.pop("file", None) or io.StringIO()
    options = {"force_terminal": False, "_environ": {}, **console}
    print_text(report, Console(file=stream, width=width, **options))  # type: ignore[arg-type]
    return stream.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("name", REPORTS)
def test_nothing_is_wider_than_the_console(name: str, width: int) -> None:
    assert max(cell_len(line) for line in shown(name, width).splitlines()) <= width


@pytest.mark.parametrize("name", REPORTS)
def test_verdict_and_exit_code_come_first(name: str) -> None:
    report = REPORTS[name]()
    first = shown(report).splitlines()[0].rstrip()
    assert first == f"rectify {report['command']}: {report['verdict'].upper()} (exit code {report['exit_code']})"


def test_names_are_verbatim() -> None:
    report = odd_report()
    text = shown(report)
    for name in ODD:
        assert text.count(name) >= 4, name  # steps, attempts, layers, trials


def test_names_cannot_drive_the_terminal() -> None:
    report = edit_report()
    report["localize"]["layers"][0]["name"] = "\x1b[31mred\r\n"
    report["model"]["path"] = "a\x1b]0;title\x07.pt"
    report["run"]["notes"] = ["\x1b[2J"]
    text = shown(report, force_terminal=True, color_system=None)
    assert "\x1b" not in text and "\x07" not in text and r"\x1b[31mred\r\n" in text


def test_no_color_is_obeyed_and_colour_is_used() -> None:
    coloured = shown("failed", force_terminal=True, color_system="standard")
    assert "\x1b[31m" in coloured and "\x1b[1;31mFAIL" in coloured
    plain = shown("failed", force_terminal=True, _environ={"NO_COLOR": "1"}, color_system="standard")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", plain)
    assert "\x1b" not in shown("failed")


def test_ascii_output() -> None:
    text = shown("odd", file=AsciiOutput())
    assert text.isascii()
    assert "<= 5.00%" in text and "0.998 -> 0.271" in text and "#######" in text and "na\\xefve->\\u5c64" in text


def test_figures_are_percent_and_say_the_change() -> None:
    lines = {line.split("  ")[0]: line for line in shown("edit").splitlines()}
    assert re.search(r"100\.00% +█+ +1\.67% +▏ +-98\.33 pp", lines["attack success"])  # the later table: the holdout
    assert re.search(r"99\.37% +█+ +99\.21% +█+ +-0\.16 pp", lines["accuracy"])
    assert "base rate" in lines and "0.998" in shown("edit")


def test_gates_show_limit_and_value() -> None:
    text = shown("failed")
    assert re.search(r"✗ failed +max_asr +attack success +≤ 5\.00% +38\.33%", text)
    assert re.search(r"✓ held +min_accuracy +accuracy +≥ 95\.00% +99\.21%", text)
    assert re.search(r"✗ failed +max_leakage +leakage +≤ 2\.5 +not measured", text)


def test_gates_of_an_inconclusive_run_have_not_failed() -> None:
    report = inconclusive_report()
    conclude(report, decide(judge({"max_asr": 0.05, "min_accuracy": 0.05}, report), inconclusive="no fault"))
    text = shown(report, force_terminal=True, color_system="standard")
    assert text.count("– not judged") == 2 and "failed" not in text and "held" not in text and "\x1b[31m" not in text
    assert "- not judged" in shown(report, file=AsciiOutput())


def test_layers_are_ranked_and_their_bars_fall() -> None:
    text = shown(localize_report(trial=False), 120)
    names = re.findall(r"^ *\d+ +(\S+) +(?:conv|linear)", text, re.MULTILINE)
    layers = localize_report(trial=False)["localize"]["layers"]
    ordered = sorted((layer for layer in layers if layer["rank"]), key=lambda layer: layer["rank"])
    assert names == [layer["name"] for layer in ordered]
    bars = [len(bar) for bar in re.findall(r" (█+)[▏▎▍▌▋▊▉]? ", text)]
    assert bars == sorted(bars, reverse=True) and bars[0] == 7


def test_many_layers_are_cut_unless_all_are_wanted() -> None:
    report = localize_report(layers=many_layers(60), trial=False)
    text = shown(report)
    assert "… and 36 more layers: --report FILE.html or --format json has them all." in text
    stream = io.StringIO()
    print_text(report, Console(file=stream, width=80), every_layer=True)
    assert "more layers" not in stream.getvalue() and "classifier" in stream.getvalue()
    assert "more layers" not in shown(localize_report(layers=resnet_layers()))


def test_wide_consoles_get_more_columns() -> None:
    assert "leverage" not in shown("localize", 80)
    report = localize_report()
    report["gates"] = []
    assert "leverage" in shown(report, 120) and "as pub-" in shown(report, 120) and "as pub-" not in shown(report, 80)


def test_terms_are_explained_once_and_only_where_their_column_is_shown() -> None:
    narrow, wide = (shown("edit", width) for width in (80, 120))
    assert narrow.count("Gap: probability of the true class") == 1
    for term in ("Attribution", "Completeness gap", "Out of span", "Scale-free editability", "Attack success and"):
        assert narrow.count(f"\n{term}") == 1, term
    assert "\nLeverage:" not in narrow and "\nAs published:" not in narrow
    assert "\nLeverage: how far" in wide and "\nAs published:" in wide
    assert "outside the span of those of calibration images." in wide
    assert "\nFaithfulness: correlation" in shown("explain") and "\nFaithfulness" not in shown("edit")
    for page in (render(edit_report(), "markdown"), to_html(edit_report())):
        assert page.count("Leverage: how far") == 1 and page.count("Gap: probability") == 1


def test_what_trials_are_measured_on_is_told() -> None:
    report = localize_report()
    assert "Attack success and recovery: of calibration images that the fault was carried over to" in shown(report, 200)
    report["calibration"] = None
    assert "of variations of the clean image that the fault was carried over to" in shown(report, 200)


def test_the_order_of_the_layers_and_why_some_are_not_offered_are_told() -> None:
    assert "Order: what a trial edit of each layer loses" in shown("localize", 200)
    report = localize_report(trial=False)
    assert "Order:" not in shown(report, 200)
    wide, unreached = report["localize"]["layers"][:2]
    wide |= {"candidate": False, "editability_scale_free": None}
    unreached |= {"candidate": False, "attribution": None}
    text = shown(report, 400)
    assert f"Not offered for an edit: {wide['name']} (too many inputs)." in text
    assert f"Not offered for an edit: {unreached['name']} (the image does not reach it)." in text
    assert "layer4.0.shortcut.0 (shortcuts beside a longer branch)." in text
    assert "(beside a longer branch, or of too many inputs)." in shown("triage", 200)


def test_the_two_editabilities_have_two_names_and_the_judged_one_is_shown() -> None:
    """The gate is about the published one: it must stand in the table that the gate's value is looked up in."""
    text = shown("localize", 80)
    assert re.search(r"min_editability +best editability as published +≥ 1 +12\.33", text)
    assert re.search(r"scale-free .*as pub-\n.* editability .*lished", text)


@pytest.mark.parametrize(("folder", "whole"), [("holdout-poisoned", True), ("x" * 60, False)])
def test_a_column_is_left_out_before_a_file_name_is_cut(folder: str, whole: bool) -> None:
    report = scan_report(12)
    for number, row in enumerate(report["scan"]["images"]):
        row["image"] = f"{'holdout' if number else folder}/{5604 + number}.png"
    text = shown(report, 80)
    assert (f"{folder}/5604.png" in text) is whole and "holdout/5605.png" in text


def test_triage_says_what_it_is_and_what_a_pair_would_add() -> None:
    text = " ".join(shown("triage").split())
    assert "Most unusual: layer4.0.shortcut.0" in text
    assert text.count("only a data-free triage") == 1 and "A pair gives" in text
    assert "Outlier score: by how many standard deviations the channel of the greatest gain stands out" in text
    assert "editability" not in text


def test_headlines() -> None:
    assert "First to edit: layer1.1.conv2 (scale-free editability 4.564). Its trial edit: recovery" in shown(
        "localize", 200
    )
    assert "2 layers edited: attack success 100.00% → 1.67% on the holdout" in shown("edit", 200)
    assert "attack success 0.13%, recovery 98.94% on the pair, accuracy 99.21%" in shown("evaluate", 200)
    few = edit_report()
    few["metrics"]["holdout"] = None
    assert "attack success 100.00% → 0.10%, recovery 0.00% → 98.94% on the pair, accuracy" in shown(few, 400)
    expected = "Expected of other images: 99.60% of the accuracy, 98.80% of the recovery, attack success 0.40%."
    assert expected in shown(few, 400) and expected not in shown("edit", 400)
    few["pairs"]["count"], few["edit"]["expected"] = 20, None
    assert "98.94%, accuracy" in shown(few, 400) and "Expected" not in shown(few, 400)
    assert "at chance for 10 classes" in shown("inconclusive", 200)


def test_the_headline_tells_the_trial_of_the_layer_that_it_names() -> None:
    """Trials are ordered by all that they did: the first need not have the most recovery."""
    report = localize_report()
    first, second = sorted(report["localize"]["layers"], key=lambda layer: layer["rank"] or 99)[:2]
    first["trial"] |= {"recovery": 0.9855, "agreement": 0.9999}
    second["trial"] |= {"recovery": 0.9873, "agreement": 0.9987}
    line = shown(report, 200).splitlines()[1]
    assert "First to edit: layer1.1.conv2" in line and "Its trial edit: recovery 98.55%, agreement 99.99%." in line
    assert second["name"] not in line and "98.73%" not in line
    first["trial"] = None
    assert "trial edit" not in shown(report, 200).splitlines()[1]


@pytest.mark.parametrize(
    ("mode", "policy", "title"),
    [
        ("static", "static edit of fc", "Edit (static edit of fc)"),
        ("dynamic", "cascade of 3", "Edit (dynamic, cascade of 3)"),
        ("static", "", "Edit (static)"),
    ],
)
def test_the_title_of_an_edit_says_nothing_twice(mode: str, policy: str, title: str) -> None:
    report = edit_report()
    report["edit"] |= {"mode": mode, "policy": policy}
    assert title in shown(report).splitlines()


def test_pairs_without_a_fault_are_not_taken_for_an_attack_on_each_class() -> None:
    """A sound model has no target either."""
    report = edit_report()
    report["pairs"] |= {"target": None, "each": False}
    assert "each class to another" not in shown(report)
    report["pairs"]["each"] = True
    assert "fault flip, each class to another" in shown(report)


def test_the_model_that_was_compared_is_named_beside_the_model() -> None:
    report = evaluate_report()
    assert [name for name, _ in facts(report)][:2] == ["model", "network"]
    report["against"] = {"path": "before[0].pt", "sha256": SHA}
    assert dict(facts(report))["before"] == f"before[0].pt · sha256 {SHA[:12]}"
    assert re.search(rf"^before +before\[0\]\.pt · sha256 {SHA[:12]}", shown(report), re.MULTILINE)
    lines = dict(facts(REPORTS["explain-pair"]()))
    assert lines["after"].startswith("models/mnist-resnet-patch.rectified.safetensors · sha256 ")
    assert "before" not in lines


def test_a_network_is_described_in_one_order() -> None:
    """Typed before an edit, it comes in another order from the file afterwards."""
    report = edit_report()
    first = facts(report)
    report["model"]["arch_args"] = dict(reversed(report["model"]["arch_args"].items()))
    assert facts(report) == first and "channels=1 width=16" in dict(first)["network"]


def test_what_was_written_or_not() -> None:
    report = edit_report()
    assert "mnist-resnet-patch.rectified.safetensors · 2.8 MB" in shown(report)
    assert "nothing: no patched file is left behind" in shown("failed")
    assert "7.10% of the edit was lost in the cast" in shown("failed")
    report["edit"] |= {"out": None, "dry_run": True}
    assert "nothing (dry run)" in shown(report) and "2 tensors would change (dry run)." in shown(report)
    report["edit"] |= {"changed_tensors": []}
    assert "No tensor was changed." in shown(report)
    report["model"]["trusted_pickle"] = True
    assert "--trust-pickle" in shown(report)


def test_rendered_text_is_plain_and_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    text = render(edit_report(), "text")
    assert "\x1b" not in text and text.endswith("\n")
    assert max(cell_len(line) for line in text.splitlines()) <= 80


def test_what_was_tried_and_rolled_back_is_told_in_figures() -> None:
    report = edit_report()
    table = attempts_table(report)
    assert table is not None
    assert [column.title for column in table.columns] == [
        "edit",
        "layers",
        "accuracy kept",
        "recovery kept",
        "attack success",
    ]
    assert [[cell.text for cell in row] for row in table.rows] == [["fc alone", "1", "97.90%", "95.10%", "0.40%"]]
    report["edit"]["policy"] = "fc alone"  # the one that is kept is no other attempt
    assert attempts_table(report) is None


def test_no_attack_success_is_told_of_a_fault_without_a_target() -> None:
    table = attempts_table(odd_report())
    assert table is not None and table.columns[-1].title == "recovery kept"
