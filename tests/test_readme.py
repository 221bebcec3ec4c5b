"""README.md keeps its word: its commands run as they are typed, its links and pictures lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import ROOT, Said, run_here

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.exists() else ""
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
CALIBRATION_IMAGES = 40  # of 200: the commands are run for their exit codes, not for the best repair
EXIT_CODE = re.compile(r"\bexit(?:s|ed)?(?: code| with)?:? (\d+)")
WRITES = {"-o", "--out", "--delta", "--report", "--cache-dir"}  # flags whose file need not be there


@dataclass(frozen=True)
class Line:
    """One command of README.md with what the comments around it say."""

    words: tuple[str, ...]
    comment: str

    @property
    def code(self) -> int:
        """The exit code that the comment promises, 0 if it says nothing."""
        said = EXIT_CODE.search(self.comment)
        return int(said[1]) if said else 0

    def __str__(self) -> str:
        return " ".join(self.words)


def code_lines(text: str) -> Iterator[str]:
    """The lines of all fenced and indented blocks; a line that ends in a backslash is joined with the next."""
    fence, indented, open_line, blank = "", False, "", True
    for line in text.splitlines():
        mark = re.match(r"\s*(`{3,}|~{3,})", line)
        if mark and (not fence or line.strip() == fence):
            fence = "" if fence else mark[1]
            continue
        indented = not fence and line.startswith("    ") and (blank or indented)
        blank = not line.strip()
        if not (fence or indented):
            continue
        open_line += line.strip()
        if open_line.endswith("\\"):
            open_line = open_line[:-1]
            continue
        yield open_line
        open_line = ""


def commands(text: str) -> list[Line]:
    """What a reader would type, without prompts, pipes and redirections."""
    found, above = [], ""
    for line in code_lines(text):
        typed = line.removeprefix("$ ")
        if typed.startswith("#"):
            above = typed
            continue
        body, _, comment = typed.partition(" #")
        for part in re.split(r"\s*(?:&&|;)\s*", body.strip()):
            part = re.split(r"\s(?:\||>|2>)", part)[0]
            if re.match(r"(rectify|make|mkdir) ", part):
                found.append(Line(tuple(shlex.split(part)), f"{above} {comment}"))
        above = ""
    return found


COMMANDS = commands(TEXT)
RECTIFY = [line for line in COMMANDS if line.words[0] == "rectify"]
MAKE = [line for line in COMMANDS if line.words[0] == "make"]


def paths_read(words: tuple[str, ...]) -> list[str]:
    """The words that name files which must be there before the command runs."""
    pairs = zip(("", *words), words, strict=False)
    files = [word for flag, word in pairs if flag not in WRITES and not word.startswith("-")]
    return [word for word in files if "/" in word or re.search(r"\.(pt|pth|png|jpg|csv|yaml|json|safetensors)$", word)]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[Line, Said | None]:
    """Every command, in order, in a copy of what it needs; None where it names files that only a reader has."""
    folder = tmp_path_factory.mktemp("readme")

    def left_out(where: str, names: list[str]) -> list[str]:
        if Path(where).name == "calibration":
            return sorted(names)[CALIBRATION_IMAGES:]
        return [name for name in names if name == "__pycache__"]

    shutil.copytree(ROOT / "fixtures", folder / "fixtures", ignore=left_out)
    done: dict[Line, Said | None] = {}
    for line in COMMANDS:
        if line.words[0] == "mkdir":
            for word in line.words[1:]:
                if not word.startswith("-"):
                    (folder / word).mkdir(parents=True, exist_ok=True)
        elif line.words == ("make", "demo"):
            (folder / "out" / "demo").mkdir(parents=True, exist_ok=True)
        elif line.words[0] == "rectify" and line not in done:
            there = all((folder / word).exists() for word in paths_read(line.words))
            done[line] = run_here(line.words[1:], folder) if there else None
    return done


def test_there_is_something_to_read() -> None:
    assert {"localize", "edit", "explain", "evaluate"} <= {line.words[1] for line in RECTIFY}
    assert {("make", "demo"), ("make", "test")} <= {line.words for line in MAKE}


@pytest.mark.parametrize("line", dict.fromkeys(RECTIFY), ids=str)
def test_a_command_does_what_it_says(line: Line, outcomes: dict[Line, Said | None], tmp_path: Path) -> None:
    said = outcomes[line]
    if said is None:  # its files are the reader's own: then at least every flag must exist
        assert not any("fixtures/" in word or word.startswith("out/") for word in paths_read(line.words)), "not there"
        said = run_here([*line.words[1:], "--show-config"], tmp_path)
        assert said.code == 0, said.err
        return
    assert said.code == line.code, said.err
    assert said.out and "Traceback" not in said.err


def test_at_least_one_repair_was_really_run(outcomes: dict[Line, Said | None]) -> None:
    assert any(said is not None and line.words[1] == "edit" for line, said in outcomes.items())


@pytest.mark.parametrize("line", dict.fromkeys(MAKE), ids=str)
def test_a_target_is_in_the_makefile(line: Line) -> None:
    for target in line.words[1:]:
        if not target.startswith("-") and "=" not in target:
            assert re.search(rf"^{re.escape(target)}:(?!=)", MAKEFILE, re.MULTILINE), target


@pytest.mark.parametrize("flag", sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT))))
def test_every_flag_that_is_named_exists(flag: str) -> None:
    from rectify.cli.options import COMMAND_FLAGS

    known = {spelling for flags in COMMAND_FLAGS.values() for each in flags for spelling in each.spellings}
    assert flag in known | {"--help", "--version", "--install-completion", "--show-completion"}


# ----------------------------------------------------------------------------------------------------------- links

LINKS = re.findall(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)", TEXT) + re.findall(r"(?:src|href)=\"([^\"]+)\"", TEXT)
INTERNAL = sorted({link for link in LINKS if not re.match(r"[a-z]+:", link)})


def anchors(text: str) -> set[str]:
    """GitHub's names for the headings of a text."""
    headings = re.findall(r"^#{1,6}\s+(.+?)\s*#*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("link", INTERNAL)
def test_a_link_leads_somewhere(link: str) -> None:
    name, _, anchor = link.partition("#")
    path = ROOT / name if name else README
    assert path.exists(), link
    assert path.resolve().is_relative_to(ROOT)
    if anchor and path.suffix == ".md":
        assert anchor in anchors(path.read_text(encoding="utf-8"))


@pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="no repository here")
@pytest.mark.parametrize("link", [link for link in INTERNAL if link.partition("#")[0]])
def test_what_is_linked_is_in_the_repository(link: str) -> None:
    """A picture under an ignored folder is there for the one who made it, and for nobody else."""
    name = link.partition("#")[0]
    ignored = subprocess.run(["git", "check-ignore", "-q", "--no-index", name], cwd=ROOT, check=False)
    assert ignored.returncode == 1, f"{name} is ignored by git"


def test_folders_of_the_map_exist() -> None:
    """The list of rooms: each line begins with a path."""
    _, _, rooms = TEXT.partition("## Rooms")
    for line in code_lines(rooms.partition("\n## ")[0]):
        name = line.split()[0]
        assert (ROOT / name).exists(), name
