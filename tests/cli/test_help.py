"""Help is instant and whole: no heavy import, every flag told, an example that runs."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from rectify import __version__
from rectify.cli.app import COMMANDS

HEAVY = ("torch", "torchvision", "matplotlib", "numpy", "timm", "PIL", "scipy", "safetensors", "jinja2", "pydantic")


def loaded_after(*words: str) -> tuple[str, list[str]]:
    """What a command line prints, and which heavy packages it imported."""
    program = (
        "import sys\nfrom rectify.cli.app import main\ncode = main(sys.argv[1:])\n"
        f"print('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    page, _, names = done.stdout.rpartition("LOADED")
    return page, names.split()


@pytest.mark.parametrize("words", [["--help"], ["--version"], *[[name, "--help"] for name in COMMANDS]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    page, loaded = loaded_after(*words)
    assert loaded == []
    assert page.strip()


def test_version(rectify_) -> None:
    assert rectify_("--version").out == f"rectify {__version__}\n"


def test_version_is_that_of_the_package() -> None:
    from pathlib import Path

    import rectify

    project = (Path(rectify.__file__).parents[1] / "pyproject.toml").read_text()
    assert f'version = "{__version__}"' in project


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_on_the_help_page(rectify_, name: str) -> None:
    page = rectify_(name, "--help").out
    for flag in COMMANDS[name].FLAGS:
        for spelling in flag.spellings:
            assert spelling in page
        assert flag.help.split()[0] in page


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_in_an_example_that_parses(rectify_, library, name: str) -> None:
    page = rectify_(name, "--help").out
    example = page.partition("Example:")[2].replace("\\\n", " ")
    words = shlex.split(example)
    assert words[:2] == ["rectify", name]
    assert rectify_(*words[1:], "--show-config").code == 0


def test_top_level_help_lists_the_commands_and_an_example(rectify_, library) -> None:
    page = rectify_("--help").out
    assert all(name in page for name in COMMANDS)
    words = shlex.split(page.partition("Example:")[2].replace("\\\n", " "))
    assert words[0] == "rectify"
    assert rectify_(*words[1:], "--show-config").code == 0


def test_help_fits_eighty_columns(rectify_) -> None:
    for name in COMMANDS:
        assert max(map(len, rectify_(name, "--help").out.splitlines())) <= 80


def test_short_help(rectify_) -> None:
    assert rectify_("edit", "-h").out == rectify_("edit", "--help").out


def test_poisoned_and_corrupted_are_one_flag(rectify_, library) -> None:
    said = rectify_(
        "edit", "model.pt", "--clean", "a", "--corrupted", "b", "--clean", "c", "--poisoned", "d", "--show-config"
    )
    assert "poisoned: [b, d]" in said.out
