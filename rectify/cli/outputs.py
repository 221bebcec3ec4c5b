"""Where results go: the report on stdout, report files, and what is said about the files of an edit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectify.cli.config import Settings
from rectify.cli.terminal import Terminal, report_console
from rectify.errors import OutputError, UsageError

if TYPE_CHECKING:
    from rectify.jobs import Inputs

REPORT_SUFFIXES = (".json", ".md", ".html", ".xml")
_PICTURED = (".html", ".md")


@dataclass(frozen=True)
class Result:
    """What a command found, and what it worked on (for the pictures)."""

    report: dict[str, Any]
    inputs: Inputs


def out_path(settings: Settings) -> Path:
    """Where the repaired model goes: ``-o``, else beside the model as ``<stem>.rectified.safetensors``."""
    if settings["out"] is not None:
        return Path(settings["out"])
    model = Path(settings["model"])
    if model.is_dir():
        model = model.resolve()
        return model.with_name(f"{model.name}.rectified.safetensors")
    return model.with_name(f"{model.stem}.rectified.safetensors")


def check(settings: Settings) -> None:
    """Find out what cannot be written before the long work, not after it.

    Raises
    ------
    UsageError, OutputError
        If a report's suffix is unknown, a folder is missing, or a file is in the way.
    """
    for path in settings["report"]:
        if path.suffix.lower() not in REPORT_SUFFIXES:
            raise UsageError(f"--report {path}: the suffix must be {', '.join(REPORT_SUFFIXES)}")
        _check_folder(path, "--report")
    if settings.command == "edit" and settings["model"] is not None:
        _check_edit(settings)


def _check_edit(settings: Settings) -> None:
    out, delta = out_path(settings), settings["delta"]
    if delta is not None:
        _check_folder(delta, "--delta")
        if delta == out:
            raise UsageError("--delta and --out name the same file")
    if settings["dry_run"]:
        return
    _check_folder(out, "--out")
    if out.exists() and not settings["force"] and out.resolve() != Path(settings["model"]).resolve():
        raise OutputError(f"{out} exists; add --force to overwrite it, or choose another name with -o")


def _check_folder(path: Path, label: str) -> None:
    if path.is_dir():
        raise OutputError(f"{label} {path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise OutputError(f"{label} {path}: there is no folder {path.parent}; mkdir -p {path.parent}")


def shown(report: dict[str, Any], settings: Settings) -> str:
    """The report in the format that was chosen for stdout."""
    from rectify.reporting.render import print_text, render

    if settings["format"] != "text":
        written = render(report, settings["format"])
        return written if written.endswith("\n") else written + "\n"
    console = report_console(settings["color"])
    with console.capture() as captured:  # written by us: rich turns a broken pipe into exit code 1
        print_text(report, console)
    return captured.get()


def write_reports(result: Result, settings: Settings, terminal: Terminal) -> None:
    """Write every --report file, with pictures where the kind can hold them, and say where the files are."""
    import tempfile

    from rectify.reporting.files import write_report

    wanted = list(dict.fromkeys(settings["report"]))
    with tempfile.TemporaryDirectory(prefix="rectify-") as folder:
        pictures: dict[str, Path] = {}
        if any(path.suffix.lower() in _PICTURED for path in wanted):
            from rectify.cli.pictures import draw

            pictures = draw(result, Path(folder), terminal)
        for path in wanted:
            write_report(result.report, path, pictures if path.suffix.lower() in _PICTURED else None)
    say_files(result.report, wanted, terminal)


def say_files(report: dict[str, Any], reports: list[Path], terminal: Terminal) -> None:
    """On stderr: what was written, and where."""
    edit = report.get("edit") or {}
    for key, what in (("out", "repaired model"), ("delta", "delta")):
        if edit.get(key):
            terminal.note(f"{what}: {edit[key]['path']} ({size(edit[key]['bytes'])})")
    if report["command"] == "edit" and not edit.get("out"):
        terminal.note("no model written" + (" (dry run)" if edit.get("dry_run") else ""))
    for path in reports:
        terminal.note(f"report: {path}")


def size(count: int) -> str:
    """A file's size as a person reads it."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"
