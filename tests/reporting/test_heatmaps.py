"""Pictures of attribution maps: signed colours that never wrap, every shape of image, equal bytes, and the terminal."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

from rectify.errors import OutputError
from rectify.reporting import heatmaps
from rectify.reporting.heat import (
    STOPS,
    finite,
    heat_colours,
    heat_limit,
    overlaid,
    pixels,
    resized,
)
from rectify.reporting.heatmaps import Map, can_preview, explanation_picture, overlay_picture, preview
from tests.reporting.samples import AsciiOutput, digit, photo

WHITE = [1.0, 1.0, 1.0]


def noise(*shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(0).standard_normal(shape)


def some(size: int = 28, **what: object) -> Map:
    made: dict[str, object] = {
        "image": digit(size),
        "heat": noise(size, size),
        "caption": "a.png",
        "lines": ("class 3",),
    }
    return Map(**(made | what))  # type: ignore[arg-type]


def drawn(path: Path) -> NDArray[np.int64]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_zero_is_white_and_the_signs_are_blue_and_red() -> None:
    colours = heat_colours(np.array([[-1.0, 0.0, 1.0]]), 1.0)[0]
    assert colours[1].tolist() == WHITE
    assert colours[0][2] > colours[0][0] and colours[2][0] > colours[2][2]


def test_colours_neither_wrap_nor_leave_their_range() -> None:
    """Far beyond the limit a map has the colour of the end, as float; a cast that wraps would turn it over."""
    values = np.array([[-1e300, -2.0, -1.0, 1.0, 2.0, 1e300]])
    colours = heat_colours(values, 1.0)[0]
    assert (colours[:3] == colours[0]).all() and (colours[3:] == colours[5]).all()
    mixed = overlaid(np.array([[-3.0, 0.0, 0.5, 1.0, 7.0, np.nan]]), values, 1e-300)
    for shown in (colours, mixed, pixels(np.array([[-0.2, 1.7]]))):
        assert shown.min() >= 0.0 and shown.max() <= 1.0 and np.isfinite(shown).all()


def luminance(colour: NDArray[np.float64]) -> float:
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_colours_survive_a_black_and_white_printer() -> None:
    """Each side grows darker with |map|, and what is darker than all of "for" is "against"."""
    levels = [luminance(colour) for colour in heat_colours(np.linspace(-1, 1, 41)[None], 1.0)[0]]
    against, favour = levels[20::-1], levels[20:]
    assert against == sorted(against, reverse=True) and favour == sorted(favour, reverse=True)
    assert against[-1] < 0.4 * favour[-1]


# Viénot, Brettel and Mollon 1999, on linear RGB: how red-blind and green-blind people see
BLINDNESS = {
    "protan": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
    "deutan": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
}


@pytest.mark.parametrize("kind", BLINDNESS)
def test_colour_blind_people_see_the_signs(kind: str) -> None:
    """At equal |map|, blue stays bluish and orange yellowish."""
    for size in (0.2, 0.5, 1.0):
        against, favour = heat_colours(np.array([[-size, size]]), 1.0)[0] ** 2.2 @ np.array(BLINDNESS[kind]).T
        assert against[2] > against[0] + 0.05 and favour[2] < favour[0] - 0.05


def test_the_limit_is_a_robust_quantile_that_maps_share() -> None:
    heat = np.linspace(-1, 1, 2001)[None]
    stray = heat.copy()
    stray[0, 0] = 1e6
    assert heat_limit([stray]) == pytest.approx(0.995, abs=0.002)
    assert heat_limit([heat, 3 * heat, np.zeros((1, 1))]) == pytest.approx(3 * heat_limit([heat]))
    lonely = np.zeros((50, 50))
    lonely[3, 3] = -2.0
    assert heat_limit([lonely]) == 2.0  # whose quantile is zero
    assert heat_limit([np.zeros((2, 2))]) == 0.0
    assert (heat_colours(np.zeros((2, 2)), 0.0) == 1.0).all()


def test_what_is_not_finite_is_zero_and_counted() -> None:
    heat = np.array([[np.nan, np.inf, -np.inf, 0.5]])
    array, bad = finite(heat)
    assert array.tolist() == [[0.0, 0.0, 0.0, 0.5]] and bad == 3
    assert heat_limit([heat]) == pytest.approx(0.5, abs=0.01)


def test_the_overlay_is_grey_where_the_map_is_silent() -> None:
    shown = overlaid(photo(), np.zeros((32, 32)), 1.0)
    assert np.ptp(shown, axis=2).max() < 1e-12
    heat = np.zeros((32, 32))
    heat[2, 2], heat[2, 4], heat[2, 6] = 1.0, 0.3, -1.0
    loud = np.abs(overlaid(photo(), heat, 1.0) - shown).sum(axis=2)
    assert np.count_nonzero(loud) == 3
    assert overlaid(photo(), heat, 1.0)[2, 6, 2] > overlaid(photo(), heat, 1.0)[2, 6, 0]


def test_coarse_maps_are_stretched_between_their_values() -> None:
    heat = np.array([[0.0, 1.0], [-1.0, 0.0]])
    wide = resized(heat, 40, 60)
    assert wide.shape == (40, 60) and wide.min() == -1.0 and wide.max() == 1.0
    assert wide[0, 0] == 0.0 and wide[0, -1] == 1.0 and wide[-1, 0] == -1.0
    assert np.allclose(resized(np.full((3, 5), 0.7), 31, 9), 0.7)
    assert resized(wide, 40, 60) is wide


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        explanation_picture([[some(), some()]], tmp_path / name, column_titles=("before", "after"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("image", "heat"),
    [
        (np.zeros((1, 1)), np.zeros((1, 1))),
        (np.full((28, 28, 1), 0.5), noise(28, 28)),
        (photo(32), noise(8, 8)),
        (photo(224), noise(7, 7)),
        (photo(64)[:20], noise(20, 64)),
        (digit(300)[:, :60], noise(1, 1)),
        (np.zeros((9, 9, 5)), np.full((9, 9), np.inf)),
        (np.full((4, 4), np.nan), np.full((4, 4), 1e-310)),
    ],
    ids=["pixel", "constant", "cifar", "layer", "wide", "tall", "channels", "nan"],
)
def test_every_image_is_drawn(image: NDArray[np.float64], heat: NDArray[np.float64], tmp_path: Path) -> None:
    overlay_picture(Map(image, heat, "x.png", ("class 1", "gap 3%"), baseline=image), tmp_path / "map.png")
    picture = drawn(tmp_path / "map.png")
    assert 500 < picture.shape[1] < 1700 and 150 < picture.shape[0] < 900
    assert (picture[:8] == 255).all() and (picture[:, :8] == 255).all() and (picture[:, -6:] == 255).all()  # a margin


def test_small_images_keep_their_pixels(tmp_path: Path) -> None:
    """A checkerboard shows no shade between black and white inside its squares."""
    board = np.indices((4, 4)).sum(0) % 2
    overlay_picture(Map(board.astype(float), np.zeros((4, 4))), tmp_path / "map.png")
    panel = drawn(tmp_path / "map.png")[80:280, 40:280]
    assert np.isin(panel, [0, 255]).mean() > 0.95


def test_a_row_has_one_scale(tmp_path: Path) -> None:
    """A map ten times as weak is pale beside the strong one, and as strong when it is alone."""
    strong, weak = some(), some(heat=0.1 * noise(28, 28))
    explanation_picture([[strong, weak]], tmp_path / "beside.png")
    overlay_picture(weak, tmp_path / "alone.png")
    explanation_picture([[strong], [weak]], tmp_path / "scales.png")
    explanation_picture([[strong], [weak]], tmp_path / "scale.png", one_scale=True)

    def vivid(path: str) -> float:
        half = drawn(tmp_path / path)
        half = half[half.shape[0] // 2 :] if path.startswith("scale") else half
        half = half[:, half.shape[1] * 62 // 100 : half.shape[1] * 89 // 100] if path == "beside.png" else half
        return float(np.ptp(half, axis=2).mean())

    assert vivid("beside.png") < 0.5 * vivid("alone.png")
    assert vivid("scale.png") < 0.5 * vivid("scales.png")


@pytest.mark.parametrize(
    ("limit", "end"),
    [
        (1.234e-5, "1.2e-05"), (1e-5, "1.0e-05"), (3e-4, "0.00030"), (0.00123, "0.0012"), (0.0099, "0.0099"),
        (0.0123, "0.012"), (0.5, "0.50"), (3.14, "3.1"), (250.0, "250"), (3.2e7, "3.2e+07"),
    ],
)  # fmt: skip
def test_the_colour_bar_has_significant_figures(
    limit: float, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = heatmaps._write

    def spy(figure: Figure, text: str, *places: float, **how: Any) -> None:
        written.append(text)
        write(figure, text, *places, **how)

    monkeypatch.setattr(heatmaps, "_write", spy)
    overlay_picture(some(4, heat=np.full((4, 4), limit)), tmp_path / "map.png")
    assert [text for text in written if text[0] in "+−"] == [f"+{end}", f"−{end}"]


def test_an_image_is_shown_once_where_models_are_compared(tmp_path: Path) -> None:
    explanation_picture([[some(), some()]], tmp_path / "once.png")
    explanation_picture([[some(), some(image=photo(28))]], tmp_path / "twice.png")
    assert drawn(tmp_path / "twice.png").shape[0] < drawn(tmp_path / "once.png").shape[0] - 30  # six panels for five


def test_ragged_rows_and_many_rows(tmp_path: Path) -> None:
    based = some(baseline=digit() + 0.01)
    explanation_picture([[some()], [], [based, some()]], tmp_path / "ragged.png", column_titles=("a", "b", "c"))
    explanation_picture([[some(4)]] * 20, tmp_path / "many.png")
    explanation_picture([[some(4)]] * 12, tmp_path / "most.png")
    assert drawn(tmp_path / "many.png").shape[0] == drawn(tmp_path / "most.png").shape[0]


def test_long_and_odd_texts_stay_in_their_place(tmp_path: Path) -> None:
    long = "\x1b[31m $x$ 層 " + "folder/" * 60
    one = some(caption=long, lines=(long, "", "ok"))
    explanation_picture([[one, one]], tmp_path / "map.png", title=long, column_titles=(long, long))
    picture = drawn(tmp_path / "map.png")
    assert (picture[:, -6:] == 255).all() and (picture[-8:] == 255).all()


def test_nothing_to_draw_and_wrong_arrays(tmp_path: Path) -> None:
    empty: list[list[list[Map]]] = [[], [[]]]
    for rows in empty:
        with pytest.raises(ValueError, match="nothing to draw"):
            explanation_picture(rows, tmp_path / "map.png")
    with pytest.raises(ValueError, match=r"a map must be \(h, w\), not \(3, 4, 4\)"):
        overlay_picture(Map(np.zeros((4, 4)), np.zeros((3, 4, 4))), tmp_path / "map.png")
    for wrong in (np.zeros(4), np.zeros((0, 4, 3)), np.zeros((1, 3, 4, 4))):
        with pytest.raises(ValueError, match="an image must be"):
            overlay_picture(Map(wrong, np.zeros((4, 4))), tmp_path / "map.png")
    with pytest.raises(OutputError):
        overlay_picture(some(), tmp_path / "missing" / "map.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("width", "size"), [(80, 28), (40, 224), (7, 2), (200, 32)])
def test_the_preview_fits(width: int, size: int) -> None:
    text = preview([some(size), some(size, image=photo(size)[: max(1, size // 2)])], width)
    lines = text.plain.splitlines()
    assert max(cell_len(line) for line in lines) <= width
    assert lines[:2] == ["a.png", "class 3"] and lines.count("a.png") == 2 and set(lines[2]) <= {"▀", " "}


def test_the_preview_says_what_colours_do_not_and_drives_nothing() -> None:
    text = preview(some(caption="\x1b[2J[bold]x", heat=np.full((28, 28), np.nan)), 60).plain
    assert r"\x1b[2J[bold]x" in text and "784 values not finite, shown as 0" in text
    assert "the map is zero everywhere" in text


def test_the_preview_shows_the_image_and_fine_maps() -> None:
    image = np.zeros((2, 2, 3))
    image[0, 1] = 1.0
    heat = noise(224, 224) * 1e-3
    heat[:112, :112] += 0.01
    text = preview(Map(image, np.eye(2)), 10)
    styles = [str(text.get_style_at_offset(Console(), place)) for place in (0, 3)]
    assert styles == ["#000000 on #000000", "#ffffff on #ffffff"]
    colours = [
        style.style.color for style in preview(Map(photo(224), heat), 80).spans if not isinstance(style.style, str)
    ]
    reds = [c.triplet for c in colours if c and c.triplet and c.triplet.red > c.triplet.blue + 60]
    assert len(reds) > 100  # means over boxes have a scale of their own: they do not fade
    plain = preview(some(), 40, "256").spans[0].style
    assert not isinstance(plain, str) and plain.color is not None and plain.color.triplet is None


def console(**what: object) -> Console:
    options = {"file": io.StringIO(), "width": 80, "force_terminal": True, "color_system": "truecolor", "_environ": {}}
    return Console(**(options | what))  # type: ignore[arg-type]


def test_who_gets_a_preview(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert can_preview(console()) and can_preview(console(color_system="256", width=40))
    for what in (
        {"force_terminal": False}, {"width": 39}, {"color_system": "standard"}, {"color_system": None},
        {"no_color": True}, {"file": AsciiOutput()}, {"_environ": {"TERM": "dumb"}}, {"_environ": {"NO_COLOR": "1"}},
    ):  # fmt: skip
        assert not can_preview(console(**what)), what
    monkeypatch.setenv("NO_COLOR", "1")
    assert not can_preview(console())


def test_the_stops_are_in_order() -> None:
    places = [place for place, _ in STOPS]
    assert places == sorted(places) and (places[0], places[-1]) == (-1.0, 1.0)


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys\nfrom rectify.reporting import explanations, heatmaps\n"
        "print([name for name in ('torch', 'matplotlib', 'numpy', 'jinja2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
