"""Report files: kind by suffix, whole or not at all, the page self-contained."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rectify.errors import OutputError, UsageError
from rectify.reporting.files import check_path, write_report
from rectify.reporting.html import to_html
from rectify.reporting.jsonfile import to_json
from tests.reporting.samples import ODD, REPORTS, edit_report, failed_report, odd_report

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects text and addresses, and checks that tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.parametrize("name", REPORTS)
def test_pages_are_balanced_and_load_nothing(name: str) -> None:
    page = Page(to_html(REPORTS[name]()))
    assert page.addresses == [] and not page.tags & {"script", "link", "iframe"}


def test_page_names_are_verbatim() -> None:
    page = Page(to_html(odd_report()))
    for name in ODD:
        assert page.text.count(name) >= 3, name


def test_page_says_what_the_report_says() -> None:
    text = to_html(failed_report())
    for words in ("3 of 4 gates failed", "not measured", "38.33%", "Warning:", "layer1.1.conv2.weight", "seed 0"):
        assert words in text
    assert re.search(r'<span class="bar"><i style="width:38\.3%"></i></span>', text)
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text


def test_page_holds_its_pictures(tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    picture.write_bytes(PNG)
    page = Page(to_html(edit_report(), {"A <picture>": picture}))
    assert page.addresses == ["data:image/png;base64," + base64.b64encode(PNG).decode()]
    assert "A <picture>" in page.text
    with pytest.raises(OutputError, match=r"gone\.png: the picture for the page cannot be read"):
        to_html(edit_report(), {"A": tmp_path / "gone.png"})
    with pytest.raises(OutputError, match=r"a page can hold \.png"):
        to_html(edit_report(), {"A": tmp_path / "p.bmp"})


def test_each_suffix_has_its_kind(tmp_path: Path) -> None:
    report = edit_report()
    for suffix in (".json", ".md", ".html", ".xml", ".JSON"):
        write_report(report, tmp_path / f"report{suffix}")
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(to_json(report))
    assert (tmp_path / "report.md").read_text(encoding="utf-8").startswith("# rectify edit")
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert ElementTree.parse(tmp_path / "report.xml").getroot().tag == "testsuites"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "report.JSON", "report.html", "report.json", "report.md", "report.xml",
    ]  # fmt: skip


def test_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    write_report(edit_report(), path)
    assert path.read_text() == to_json(edit_report())


@pytest.mark.parametrize("name", ["report.txt", "report", "report.html.gz", ".json"])
def test_unknown_suffixes_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must be one of \.json \.md \.html \.xml"):
        write_report(edit_report(), tmp_path / name)
    with pytest.raises(UsageError):
        check_path(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_report(edit_report(), tmp_path / "missing" / "report.json")


@pytest.mark.parametrize("target", ["archive/old.md", "gone/old.md", "r.md"], ids=["page", "dangling", "loop"])
def test_markdown_over_a_link_has_its_pictures_beside_it(tmp_path: Path, target: str) -> None:
    """The report takes the link's place, as all results do; what it led to stays as it was, and gets no pictures."""
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "old.md").write_text("old")
    page, drawn = tmp_path / "r.md", tmp_path / "r.layers.png"
    page.symlink_to(target)
    drawn.write_bytes(PNG)
    far = tmp_path / "archive" / "far.png"
    far.write_bytes(PNG)
    write_report(edit_report(), page, {"Beside": drawn, "Below": far})
    assert not page.is_symlink() and (tmp_path / "archive" / "old.md").read_text() == "old"
    text = page.read_text(encoding="utf-8")
    assert "![Beside](r.layers.png)" in text and "![Below](archive/far.png)" in text
    assert sorted(path.name for path in (tmp_path / "archive").iterdir()) == ["far.png", "old.md"]


def test_markdown_in_a_linked_folder_has_its_pictures_beside_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    drawn = tmp_path / "link" / "r.layers.png"
    drawn.write_bytes(PNG)
    write_report(edit_report(), tmp_path / "link" / "r.md", {"Beside": drawn})
    assert "![Beside](r.layers.png)" in (tmp_path / "real" / "r.md").read_text(encoding="utf-8")


def test_markdown_links_pictures_and_keeps_those_from_elsewhere(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    (folder / "pictures").mkdir(parents=True)
    elsewhere.mkdir()
    near, far = folder / "pictures" / "a b.png", elsewhere / "layers.png"
    near.write_bytes(PNG)
    far.write_bytes(PNG)
    write_report(edit_report(), folder / "report.md", {"Near": near, "Far": far})
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "![Near](pictures/a%20b.png)" in text and "![Far](report.layers.png)" in text
    assert (folder / "report.layers.png").read_bytes() == PNG
    with pytest.raises(OutputError, match="cannot be read"):
        write_report(edit_report(), folder / "report.md", {"Gone": elsewhere / "gone.png"})
