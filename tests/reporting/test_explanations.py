"""Explanations in a report: tables, headline, facts, the page's gallery, and the schema."""

from __future__ import annotations

import base64
import math
import re
from pathlib import Path
from typing import Any

import pytest

from rectify.reporting.build import empty_report
from rectify.reporting.content import facts, headline, image_names, worst_gap
from rectify.reporting.explanations import better, explanation_table, metric_table, similarity_table
from rectify.reporting.html import to_html
from rectify.reporting.jsonfile import to_json
from rectify.reporting.markdown import to_markdown
from rectify.reporting.render import render
from rectify.reporting.schema import load
from rectify.reporting.tables import Table, split, tables
from tests.reporting.samples import (
    blank,
    edit_report,
    errors,
    explain_pair_report,
    explain_report,
    explanation,
    quality,
    quality_report,
)
from tests.reporting.test_files import PNG, Page


def titles(table: Table | None) -> list[str]:
    assert table is not None
    return [column.title for column in table.columns]


def texts(table: Table | None) -> list[list[str]]:
    assert table is not None
    return [[cell.text for cell in row] for row in table.rows]


def with_entries(*entries: dict[str, Any]) -> dict[str, Any]:
    return blank("explain") | {"explanations": list(entries)}


def test_many_images_have_the_worst_completeness_first() -> None:
    gaps = [float(row[4].rstrip("%")) for row in texts(explanation_table(explain_report(12)))]
    assert gaps == sorted(gaps, reverse=True)
    few = texts(explanation_table(explain_report(4)))
    assert [row[0] for row in few] == ["0000.png", "0001.png", "0002.png", "0003.png"]


def test_the_note_names_the_extremes() -> None:
    table = explanation_table(explain_report(12))
    assert table is not None and table.title == "Explanations (ig)"
    assert "Worst completeness: 0002.png (6.2%)." in table.note
    assert "Most faithful: 0000.png (0.31); least: 0011.png (-0.020)." in table.note
    one = explanation_table(explain_report(1))
    assert one is not None and "Worst" not in one.note and "Most faithful" not in one.note
    assert "Completeness gap: how far" in one.note


def test_only_columns_that_tell_something() -> None:
    single = titles(explanation_table(with_entries(explanation("a/b.png", 0))))
    assert single == ["image", "class", "confidence", "completeness gap", "of the change", "monotonicity"]
    pair = titles(explanation_table(explain_pair_report()))
    assert pair[:4] == ["image", "role", "method", "model"]
    bare = explanation("b.png", 0, completeness_gap=None, relative_gap=None, monotonicity=None)
    assert titles(explanation_table(with_entries(bare))) == ["image", "class", "confidence"]


def test_a_map_that_misses_much_is_marked() -> None:
    entries = [explanation("a.png", 0, relative_gap=0.31), explanation("b.png", 1, relative_gap=0.003)]
    table = explanation_table(with_entries(*entries))
    assert table is not None
    assert [row[titles(table).index("of the change")].mood for row in table.rows] == ["bad", ""]


def test_a_gap_of_more_than_all_is_no_figure() -> None:
    entries = [explanation(f"{gap}.png", 0, relative_gap=gap) for gap in (6.111, 1.0, 0.02)]
    table = explanation_table(with_entries(*entries))
    assert table is not None and "Worst completeness: 6.111.png (>100%)." in table.note
    assert [row[titles(table).index("of the change")] for row in texts(table)] == [">100%", "100.0%", "2.0%"]
    assert "6.111" in to_json(with_entries(*entries))


def test_a_map_of_a_layer_names_it() -> None:
    layer = {"settings": {"layer": "layer2"}, "completeness_gap": None, "relative_gap": None}
    entries = [explanation("a.png", 0), explanation("a.png", 0, **layer)]
    table = explanation_table(with_entries(*entries))
    assert [row[1] for row in texts(table)] == ["ig", "ig @ layer2"]
    assert [row[titles(table).index("completeness gap")] for row in texts(table)] == ["0.0121", "–"]
    alone = explanation_table(with_entries(entries[1]))
    assert alone is not None and alone.title == "Explanations (ig @ layer2)" and "method" not in titles(alone)


def test_names_of_layers_are_wrapped_not_cut() -> None:
    names = ["\x1b[2J.conv", "blocks.0.2.expansion.depthwise.convolution.padded"]
    entries = [explanation("a.png", 0, settings={"layer": name}) for name in names]
    text = render(with_entries(*entries) | {"verdict": "pass"}, "text")
    assert "ig @ \\x1b[2J.conv" in text and "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "blocks.0.2.expansion" in text and "padded" in text


def test_long_tables_are_cut_in_the_terminal_only() -> None:
    report = explain_report(40)
    text = render(report, "text")
    assert "… and 32 more maps: --report FILE.html or --format json has them all." in text
    assert len(re.findall(r"^\d{4}\.png ", text, re.MULTILINE)) == 8
    assert to_html(report).count("<code>") == 40


def test_nothing_measured_and_nothing_finite() -> None:
    gone = dict.fromkeys(("confidence", "completeness_gap", "relative_gap", "monotonicity", "faithfulness"), math.nan)
    entries = [explanation(f"{place}.png", place, **gone) for place in range(6)]
    table = explanation_table(with_entries(*entries))
    assert titles(table) == ["image", "class", "confidence"] and worst_gap(entries) is None
    for report in (
        with_entries(),
        blank("explain"),
        {key: value for key, value in edit_report().items() if key in load()["required"]},
    ):
        assert explanation_table(report) is None and similarity_table(report) is None and metric_table(report) is None


def test_before_and_after_stand_side_by_side() -> None:
    table = similarity_table(explain_pair_report())
    assert titles(table) == [
        "clean", "corrupted", "method", "Pearson, before", "Pearson, after", "Spearman, before", "Spearman, after",
    ]  # fmt: skip
    assert texts(table) == [
        ["clean/0.png", "poisoned/0.png", "ig", "0.31", "0.92", "0.21", "0.82"],
        ["clean/0.png", "poisoned/0.png", "gradient", "-0.04", "0.80", "-0.14", "0.70"],
    ]
    assert table is not None and [cell.bar for cell in table.rows[1]][3:6] == [0.0, 0.8, None]


def test_one_model_and_many_pairs() -> None:
    pairs = [
        {"method": "ig", "model": "model", "clean": f"c/{n}.png", "corrupted": f"p/{n}.png", "pearson": value,
         "spearman": None}
        for n, value in enumerate([0.5, None, -0.001, *[0.1] * 20])
    ]  # fmt: skip
    report = explain_pair_report() | {"explanation_pairs": pairs}
    table = similarity_table(report, limit=8)
    assert titles(table) == ["clean", "corrupted", "Pearson", "Spearman"]
    assert [row[2] for row in texts(table)[:3]] == ["0.50", "–", "0.00"]
    assert table is not None and len(table.rows) == 8 and table.note.startswith("… and 15 more pairs. ")
    assert headline(report).startswith(
        "ig: mean Pearson correlation of the clean and the corrupted maps of 23 pairs 0.11"
    )


def test_one_method_has_spread_and_floor() -> None:
    table = metric_table(quality_report(("ig",)))
    assert table is not None and table.title == "Quality of the explanations (ig)"
    assert titles(table) == ["", "value", "spread", "null floor"]
    assert texts(table)[1] == ["deletion ↓", "0.310", "0.0312", "0.290"]
    moods = {row[0].text: row[1].mood for row in table.rows}
    assert moods["mufidelity ↑"] == "strong" and moods["deletion ↓"] == "quiet"  # worse than chance
    assert moods["robustness top k ↑"] == "" and "Null floor:" in table.note


def test_methods_stand_side_by_side() -> None:
    table = metric_table(quality_report(("ig", "uni", "grad-cam")))
    assert titles(table) == ["", "ig", "uni", "grad-cam", "null floor"]
    assert table is not None
    strong = {row[0].text: [cell.mood == "strong" for cell in row[1:4]] for row in table.rows}
    assert strong["deletion ↓"] == [False, False, True] and strong["insertion ↑"] == [True, False, False]
    assert strong["robustness top k ↑"] == [False, False, False]  # a tie


def test_what_no_one_compares_is_left_to_the_json() -> None:
    aside = [f"robustness-{kind}-share-{when}" for kind in ("tie", "zero") for when in ("before", "after")]
    report = quality_report()
    whole = metric_table(report)
    report["explanation_metrics"] += [quality("ig", name, 0.2) for name in [*aside, "stability-l1"]]
    table = metric_table(report)
    assert texts(table) == texts(whole) and table is not None and whole is not None
    assert "more in the JSON" in table.note and "JSON" not in whole.note
    assert all(name in to_json(report) for name in aside)
    report["explanation_metrics"] = [quality("ig", name, 0.2) for name in aside]
    table = metric_table(report)
    assert table is not None and table.note == "" and len(table.rows) == 4  # nothing else to show
    assert [row[0] for row in texts(table)][2:] == ["robustness zero share before", "robustness zero share after"]


def test_metrics_that_only_some_methods_have_or_that_come_twice() -> None:
    report = quality_report()
    report["explanation_metrics"] = [
        quality("ig", "deletion", 0.3, 0.2), quality("ig", "deletion", 0.2, 0.1), quality("uni", "other", None),
    ]  # fmt: skip
    assert texts(metric_table(report)) == [
        ["deletion ↓", "0.300", "", "0.20"], ["deletion ↓", "0.200", "", "0.10"], ["other", "", "–", ""],
    ]  # fmt: skip
    report["explanation_metrics"] = [quality("ig", "x", 1.0, 0.1), quality("uni", "x", 1.0, 0.4)]
    assert texts(metric_table(report))[0][-1] == "0.10 to 0.40"


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("deletion", -1), ("insertion", 1), ("mufidelity", 1), ("mufidelity-absolute", 1), ("leakage", -1),
        ("completeness-gap-relative", -1), ("monotonicity", 1), ("robustness-kendall", 1), ("robustness-top-k", 1),
        ("robustness-tie-share-before", 0), ("robustness-zero-share-after", 0),
        ("tie-share-before", 0), ("stability-spearman", 1), ("stability-l2", -1), ("adversarial-accuracy", 1),
        ("anything", 0),
    ],
)  # fmt: skip
def test_what_is_better(metric: str, direction: int) -> None:
    assert better(metric) == direction


def test_headlines() -> None:
    assert headline(explain_report(12)) == "12 images explained by ig: worst completeness gap 6.2% (0002.png)"
    assert headline(explain_report(1)) == "1 image explained by ig: completeness gap 1.2%"
    pair = headline(explain_pair_report())
    assert pair.startswith(
        "ig: Pearson correlation of the clean and the corrupted map 0.31 (before), 0.92 (after); grad"
    )
    methods = [explanation("a.png", 0, method=name, relative_gap=None) for name in ("ig", "uni", "gradient")]
    assert headline(with_entries(*methods) | {"verdict": "pass"}) == "1 image explained by ig, uni and gradient"
    assert headline(empty_report("explain")) == ""


def test_facts_say_what_was_explained_and_where_the_maps_are() -> None:
    told = dict(facts(explain_report(12)))
    assert told["explained"] == "12 images by ig · F is the class's probability"
    assert told["written"] == "24 files in maps"


def test_short_names() -> None:
    assert image_names(["a/b/x.png"]) == {"a/b/x.png": "x.png"}
    assert image_names(["a/b/x.png", "a/c/x.png"]) == {"a/b/x.png": "b/x.png", "a/c/x.png": "c/x.png"}
    assert image_names(["x.png", "/a/x.png"]) == {"x.png": "x.png", "/a/x.png": "/a/x.png"}
    assert image_names([]) == {}


def test_odd_names_are_verbatim_and_drive_nothing() -> None:
    odd = "[bold]\x1b[31m|`$x$<b>.png"
    report = with_entries(*(explanation(f"d/{place}{odd}", place) for place in range(2))) | {"verdict": "pass"}
    for text in (render(report, "text"), to_markdown(report), to_html(report)):
        assert "\x1b" not in text and r"\x1b[31m" in text.replace("\\\\", "\\").replace("\\[", "[")
    assert "<b>" not in to_html(report)


def test_pictures_come_before_the_long_table() -> None:
    upper, lower = split(tables(explain_pair_report()))
    assert [table.key for table in upper] == ["explanation-pairs"]
    assert [table.key for table in lower] == ["explanations"]
    order = [table.key for table in tables(quality_report())]
    assert order == ["gates", "figures", "explanation-metrics"]


def test_many_pictures_are_a_gallery_that_needs_no_network(tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    picture.write_bytes(PNG)
    few = to_html(explain_report(), {f"{n}.png": picture for n in range(4)})
    assert 'class="gallery"' not in few and Page(few).addresses.count("data:image/png;base64," + encoded()) == 4
    many = to_html(explain_report(), {f"{n} <b>.png": picture for n in range(50)})
    page = Page(many)
    assert many.count('class="gallery"') == 1 and many.count("<figure id=") == 50
    assert all(address.startswith(("data:image/png;base64,", "#picture")) for address in page.addresses)
    assert not page.tags & {"script", "link", "iframe"} and "7 <b>.png" in page.text
    assert "default-src 'none'" in many
    assert many.index('class="gallery"') < many.index('id="explanations"')


def encoded() -> str:
    return base64.b64encode(PNG).decode()


@pytest.mark.parametrize("command", ["explain", "train"])
def test_empty_reports_of_the_new_commands_validate(command: str) -> None:
    assert errors(empty_report(command)) == []


def test_an_old_report_stays_valid() -> None:
    report = {key: value for key, value in edit_report().items() if key in [*load()["required"], "reason"]}
    assert "explanations" not in report and errors(report) == []


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("explanations", {"role": "dirty"}), ("explanations", {"target": -1}), ("explanations", {"target": None}),
        ("explanations", {"confidence": 98.7}), ("explanations", {"completeness_gap": -0.1}),
        ("explanations", {"monotonicity": 1.2}), ("explanations", {"extra": 1}), ("explanations", {"settings": None}),
        ("explanations", {"files": "a.png"}), ("explanations", {"model": "after"}),
        ("explanation_pairs", {"pearson": -1.5}), ("explanation_pairs", {"extra": 1}),
        ("explanation_metrics", {"value": "high"}), ("explanation_metrics", {"extra": 1}),
    ],
)  # fmt: skip
def test_what_is_no_explanation_is_refused(part: str, value: dict[str, Any]) -> None:
    report = explain_pair_report() | {"explanation_metrics": quality_report()["explanation_metrics"]}
    assert errors(report) == []
    report[part][0] |= value
    assert errors(report)
    for key in list(report[part][1]):
        broken = explain_pair_report() | {"explanation_metrics": quality_report()["explanation_metrics"]}
        del broken[part][1][key]
        assert errors(broken), key
