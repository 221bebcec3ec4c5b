"""The chosen report on stdout and nothing else; notes and progress on stderr."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from rectify import __version__
from rectify.cli.app import main
from rectify.cli.terminal import Terminal, report_console, write_stdout
from rectify.errors import OutputError
from rectify.reporting import files as report_files

from .conftest import PAIR

EDIT = ("edit", "model.pt", *PAIR)


def test_json_is_pure_whatever_libraries_print(rectify_, library) -> None:
    def chatter() -> None:
        print("a network's own words")
        warnings.warn("a library's worry", stacklevel=1)

    library.during = chatter
    said = rectify_(*EDIT, "--format", "json")
    assert json.loads(said.out)["verdict"] == "pass"
    assert "a network's own words" in said.err
    assert "worry" not in said.err


def test_json_is_pure_whatever_is_written_to_the_descriptor(library, capfd) -> None:
    def chatter() -> None:
        os.write(1, b"raw bytes\n")
        os.system("echo a child")
        ctypes.CDLL(None).printf(b"words of C\n")  # C keeps them in its buffer

    library.during = chatter
    assert main([*EDIT, "--format", "json"]) == 0
    os.write(1, b"\n")  # stdout is itself again
    streams = capfd.readouterr()
    assert json.loads(streams.out)["verdict"] == "pass" and streams.out.endswith("}\n\n")
    assert [line for line in streams.err.splitlines() if " " in line][:3] == ["raw bytes", "a child", "words of C"]


@pytest.mark.parametrize(
    ("closed", "out", "err"),
    [
        ("", "before\nreport\n", "raw\nother name\n"),
        ("2>&-", "before\nreport\n", ""),
        (">&-", "", "other name\n"),
        (">&- 2>&-", "", ""),
    ],
)
def test_stdout_is_set_aside_whatever_is_closed(closed: str, out: str, err: str) -> None:
    words = "import os, sys; from rectify.cli.terminal import occupy_closed, stdout_set_aside, write_stdout\n"
    words += "occupy_closed(); print('before')\n"
    words += "with stdout_set_aside(): os.write(1, b'raw\\n'); print('other name', file=sys.__stdout__)\n"
    words += "write_stdout('report\\n')\n"
    shell = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, words]
    done = subprocess.run(shell, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (out, err)


@pytest.mark.parametrize(("word", "out"), [("--version", f"rectify {__version__}\n"), ("--nonsense", "")])
def test_what_exit_handlers_print_is_not_on_stdout(word: str, out: str) -> None:
    words = "import atexit, sys; from rectify.cli.app import main; atexit.register(print, 'goodbye'); sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", words, word], capture_output=True, text=True, check=False)
    assert done.stdout == out and done.stderr.endswith("goodbye\n")


def test_junit_is_pure(rectify_, library) -> None:
    said = rectify_(*EDIT, "--format", "junit", "--max-asr", "0")
    root = ElementTree.fromstring(said.out)
    assert (said.code, root.tag, root.get("failures")) == (1, "testsuites", "1")


def test_stdout_and_the_report_file_agree(rectify_, library) -> None:
    said = rectify_(*EDIT, "--format", "json", "--report", "report.json")
    shown, written = json.loads(said.out), json.loads(Path("report.json").read_text())
    assert shown == written


def test_every_kind_of_report_file(rectify_, library) -> None:
    names = ["r.json", "r.md", "r.html", "r.xml"]
    said = rectify_(*EDIT, *[word for name in [*names, "r.json"] for word in ("--report", name)])
    assert said.code == 0
    assert json.loads(Path("r.json").read_text())["verdict"] == "pass"
    assert ElementTree.parse("r.xml").getroot().get("failures") == "0"
    assert Path("r.md").read_text().startswith("#")
    assert Path("r.html").read_text().startswith("<!DOCTYPE html>")
    assert [line for line in said.err.splitlines() if line.startswith("report: ")] == [f"report: {n}" for n in names]


def test_a_report_that_cannot_be_written_leaves_no_verdict_on_stdout(rectify_, library, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OutputError("cannot write r.json: no space left")

    monkeypatch.setattr(report_files, "write_report", full)
    said = rectify_(*EDIT, "--format", "json", "--report", "r.json")
    assert (said.code, said.out) == (2, "")
    assert "error: cannot write r.json" in said.err and "model" in said.err.partition("error:")[0]


def test_quiet_leaves_the_report_and_the_errors(rectify_, library, monkeypatch) -> None:
    monkeypatch.setenv("RECTIFY_SOMETHING_ELSE", "1")
    said = rectify_(*EDIT, "-q", "--report", "r.json")
    assert (said.code, said.err) == (0, "") and "edit" in said.out and Path("r.json").exists()
    assert rectify_("edit", "-q").err.startswith("error: ")


def test_what_the_environment_says_is_told(rectify_, library, monkeypatch) -> None:
    """It stands in no command line: a wrong folder in it would be a riddle."""
    monkeypatch.setenv("RECTIFY_SEED", "1")
    monkeypatch.setenv("RECTIFY_DATA", "nowhere")
    said = rectify_(*EDIT, "--seed", "2", "--dry-run")
    assert said.err.splitlines()[0] == "settings from the environment: RECTIFY_DATA"
    assert "environment" not in rectify_(*EDIT, "-q").err


def test_nothing_is_drawn_outside_a_terminal(rectify_, library, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("RECTIFY_SOMETHING_ELSE", "1")
    said = rectify_(*EDIT)
    notes = "note: RECTIFY_SOMETHING_ELSE is no setting of rectify; ignored\nno model written\n"
    assert (said.code, said.err) == (0, notes)


@pytest.mark.parametrize(
    ("words", "env", "coloured"),
    [
        ((), {}, False),
        ((), {"FORCE_COLOR": "1"}, True),
        (("--color", "never"), {"FORCE_COLOR": "1"}, False),
        (("--color", "always"), {}, True),
        (("--color", "always"), {"NO_COLOR": "1", "TERM": "dumb"}, True),
        (("--format", "json", "--color", "always"), {"FORCE_COLOR": "1"}, False),
    ],
)
def test_colour(rectify_, library, monkeypatch, words, env, coloured) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    said = rectify_(*EDIT, "--max-asr", "0", *words)
    assert said.code == 1 and "max_asr" in said.out and ("\x1b[" in said.out) is coloured


def test_no_color_is_obeyed(rectify_, library, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    said = rectify_(*EDIT, "--max-asr", "0")
    assert said.code == 1 and "max_asr" in said.out
    assert "\x1b[3" not in said.out and "\x1b[9" not in said.out  # no colours; bold may stay


def test_a_terminal_on_stderr_puts_no_colour_into_a_file(rectify_, library, monkeypatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert "\x1b" not in rectify_(*EDIT, "--no-progress").out


def test_the_console_prints_layer_names_verbatim(capsys) -> None:
    console = report_console("auto")
    console.print("layer4[1] [bold]x[/bold] :smile:")
    assert capsys.readouterr().out == "layer4[1] [bold]x[/bold] :smile:\n"


def test_progress_on_a_terminal_is_transient(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with Terminal() as terminal:
        terminal.start("trying [layers]", 3)
        terminal.advance(2)
        terminal.say("kept layer4[1]")
        terminal.start("measuring")
    streams = capsys.readouterr()
    assert streams.out == ""
    assert "trying [layers]" in streams.err and "measuring" in streams.err  # drawn as they are, and gone at the end
    assert [line.strip() for line in left_on_screen(streams.err) if line.strip()] == ["kept layer4[1]"]


def test_what_is_left_stands_behind_what_has_passed(monkeypatch, capsys) -> None:
    """Of a step without a known end there is no count, and nothing is said to be left."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    drawn = []
    for total in (3, None):
        with Terminal() as terminal:
            terminal.start("trying", total)
            terminal.advance()
        drawn.append(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err))
    assert re.search(r"1/3 0:00:00 · (0:00:\d\d|-:--:--) left", drawn[0])
    assert re.search(r"trying .*0:00:00", drawn[1]) and "left" not in drawn[1] and "?" not in drawn[1]


def left_on_screen(written: str) -> list[str]:
    """The lines of a terminal after all this: of its escapes only those that move the cursor up and erase a line."""
    lines, row, column = [""], 0, 0
    for escape, text in re.findall(r"(\x1b\[[0-9;?]*[A-Za-z]|[\r\n])|([^\x1b\r\n]+)", written):
        if escape == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif escape == "\r":
            column = 0
        elif escape.endswith("A"):
            row -= int(escape[2:-1] or 1)
        elif escape.endswith("K"):
            assert escape == "\x1b[2K"
            lines[row] = ""
        elif text:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
    return lines


@pytest.mark.parametrize("how", [{"quiet": True}, {"progress": False}])
def test_no_progress_when_told(monkeypatch, capsys, how) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Terminal(**how) as terminal:
        terminal.start("trying", 3)
        terminal.advance()
    assert capsys.readouterr().err == ""


def test_verbose_tells_more(capsys) -> None:
    for verbose in (False, True):
        Terminal(verbose=verbose).detail("resnet18, 10 classes")
    assert capsys.readouterr().err.count("resnet18") == 1


def test_a_broken_stdout_does_not_raise(monkeypatch) -> None:
    class Gone:
        def write(self, text: str) -> None:
            raise BrokenPipeError

        def fileno(self) -> int:
            raise OSError

    monkeypatch.setattr(sys, "stdout", Gone())
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("a file is opened that is never closed"))
    write_stdout("text")
    monkeypatch.setattr(sys, "stdout", None)
    write_stdout("text")


def test_a_reader_that_goes_away_leaves_the_verdict(rectify_, library, monkeypatch) -> None:
    from rectify.cli import app

    def broken(text: str) -> None:
        class Gone:
            def write(self, text: str) -> None:
                raise BrokenPipeError

            def fileno(self) -> int:
                raise OSError

        monkeypatch.setattr(sys, "stdout", Gone())
        write_stdout(text)
        monkeypatch.undo()

    monkeypatch.setattr(app, "write_stdout", broken)
    assert app.main([*EDIT, "--max-asr", "0"]) == 1


@pytest.mark.parametrize(
    "given, expected", [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_threads_wait_asleep_unless_the_environment_says_otherwise(given: dict[str, str], expected: str | None) -> None:
    asks = "import os, sys; from rectify.cli.app import main; main(['--version'])\n"
    asks += "print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules, file=sys.stderr)"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GOMP", "OMP_WAIT"))} | given
    done = subprocess.run([sys.executable, "-c", asks], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.split() == [str(expected), "False"]  # set before torch, which reads it, is there
