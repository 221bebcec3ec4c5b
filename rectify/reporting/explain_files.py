"""The files of ``rectify explain``: a picture and an array for each image and method, a picture for each pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectify.files.atomic import check_folder
from rectify.files.explanations import check_files, open_folder, stems, write_map
from rectify.files.words import plain
from rectify.reporting.files import beside
from rectify.reporting.heatmaps import Map, explanation_picture
from rectify.reporting.words import number, percent, share_of_change

if TYPE_CHECKING:
    from rectify.files.preprocess import Preprocess
    from rectify.jobs.explain import Explained, Item

TITLES = {"model": "before", "compare": "after"}


class ExplanationFiles:
    """Writes what `rectify.jobs.explain` finds into a folder, and keeps the first maps for a preview.

    Parameters
    ----------
    folder
        Made if it is not there.
    preprocess
        From the network's input back to pixels.
    never
        Files that are not to be written over.
    facts
        What every array file says of where it comes from.
    layer
        The layer that is attributed: a part of the files' names.
    pages
        Markdown reports, beside which the pictures go once more.
    """

    def __init__(
        self,
        folder: Path,
        preprocess: Preprocess,
        never: Sequence[Path],
        facts: dict[str, Any],
        layer: str | None = None,
        pages: Sequence[Path] = (),
    ) -> None:
        self.folder, self.preprocess, self.never, self.facts, self.layer = folder, preprocess, never, facts, layer
        self.pages = pages
        self.first: list[Map] = []
        self._names: dict[Item, str] = {}

    def prepare(self, items: Sequence[Item], methods: Sequence[str], compared: bool) -> None:
        """Make the folder and refuse to write over an input, before the work."""
        self._names = dict(zip(items, stems([item.path for item in items]), strict=True))
        check_folder(self.folder)
        made = [path for item in items for method in methods for path in self._paths(item, method, compared)]
        inputs = [*self.never, *(item.path for item in items)]
        check_files(made, inputs)
        pictures = [path.name for path in made if path.suffix == ".png"]
        for page in self.pages:
            instead = f"give --report {plain(page)}, whose picture it would be, another name"
            check_files([beside(page, name) for name in pictures], inputs, instead)

    def _paths(self, item: Item, method: str, compared: bool) -> list[Path]:
        ends = ["png", "safetensors"] + (["compare.safetensors"] if compared else [])
        if item.role == "clean":
            ends.append("pair.png")
        return [self._path(item, method, end) for end in ends]

    def _path(self, item: Item, method: str, end: str) -> Path:
        layer = "" if self.layer is None else f".{self.layer}"
        return self.folder / f"{self._names[item]}.{method}{layer}.{end}"

    def _title(self, method: str) -> str:
        return method if self.layer is None else f"{method} at {self.layer}"

    def write(self, maps: Sequence[Explained]) -> list[list[str]]:
        """Write the maps of one image, or of one pair, by one method; returns the files of each."""
        open_folder(self.folder)
        items = list(dict.fromkeys(one.item for one in maps))
        rows = [[one for one in maps if one.item == item] for item in items]
        drawn = [[self._map(one) for one in row] for row in rows]
        titles = [TITLES[one.model] for one in rows[0]] if len(rows[0]) > 1 else []
        pair = None
        if len(rows) > 1:
            pair = self._path(items[0], maps[0].method, "pair.png")
            explanation_picture(drawn, pair, title=self._title(maps[0].method), column_titles=titles)
        if not self.first:
            self.first = [row[0] for row in drawn]
        pictures = {}
        for item, row in zip(items, drawn, strict=True):
            pictures[item] = self._path(item, maps[0].method, "png")
            explanation_picture([row], pictures[item], title=self._title(maps[0].method), column_titles=titles)
        return [self._files(one, pictures[one.item], pair) for one in maps]

    def _files(self, one: Explained, picture: Path, pair: Path | None) -> list[str]:
        end = "safetensors" if one.model == "model" else "compare.safetensors"
        path = self._path(one.item, one.method, end)
        told = {"kind": "explanation", "method": one.method, "target": one.target, "settings": one.settings}
        write_map(path, one.values, one.baseline, {**self.facts, **told, "model": one.model})
        return [str(file) for file in (picture, path, pair) if file is not None]

    def _map(self, one: Explained) -> Map:
        lines = [f"for class {one.target}: {percent(one.confidence, 1)}"]
        if one.prediction != one.target:
            lines[0] += f", predicted {one.prediction}"
        if one.relative_gap is not None:
            lines.append(f"completeness gap {share_of_change(one.relative_gap)}")
        elif one.gap is not None:
            lines.append(f"completeness gap {number(one.gap, 2)}")
        caption = plain(one.item.path.name)
        if one.item.role != "image":
            caption = f"{one.item.role}: {caption}"
        baseline = None if one.baseline is None else self._pixels(one.baseline)
        return Map(self._pixels(one.image), one.heat().numpy(), caption, tuple(lines), baseline)

    def _pixels(self, image: Any) -> Any:
        return self.preprocess.pixels(image).permute(1, 2, 0).numpy()
