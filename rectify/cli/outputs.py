"""Where results go: the report on stdout, report files, and what is said about the files of an edit."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectify.cli.config import Settings
from rectify.cli.terminal import Terminal
from rectify.errors import OutputError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from rectify.files.architectures import Subject
    from rectify.jobs import Inputs, Suspect


@dataclass(frozen=True)
class Result:
    """What a command found, and what it worked on (for the pictures)."""

    report: dict[str, Any]
    inputs: Inputs
    before: Subject | None = None  # the model before the edit, where there was one to compare with
    suspects: Sequence[Suspect] = ()  # the most suspicious of the images that were scanned


def out_path(settings: Settings) -> Path:
    """Where the repaired model goes: ``-o``, else beside the model as ``<stem>.rectified.safetensors``."""
    if settings["out"] is not None:
        return Path(settings["out"])
    model = Path(settings["model"])
    if model.is_dir():
        model = model.resolve()
        return model.with_name(f"{model.name}.rectified.safetensors")
    return model.with_name(f"{model.stem}.rectified.safetensors")


def delta_path(settings: Settings) -> Path | None:
    """Where the edit alone goes: ``--delta``, or None.

    With ``--apply`` the delta is there already: what a settings file says is for the search that has made it.
    """
    wanted: Path | None = settings["delta"]
    return wanted if settings["apply"] is None or settings.typed("delta") else None


WRITTEN = ("out", "explain_out", "train_out", "report", "delta", "cache_dir")  # settings that name what is written


DRAWN = ("suspects", "layers", "pairs", "history")  # pictures that a report may have, in order; those of explain aside


def inputs_of(settings: Settings) -> list[Path]:
    """Every file and folder that the settings name to be read: nothing may be written over them."""
    found = [] if settings.file is None else [Path(settings.file)]
    for name, flag in settings.flags.items():
        if flag.is_path and name not in WRITTEN:
            value = settings[name]
            found += [Path(one) for one in (value if isinstance(value, list) else [value]) if isinstance(one, Path)]
    return found


def check(settings: Settings) -> None:
    """Find out what cannot be written before the long work, not after it.

    Raises
    ------
    UsageError, OutputError
        If a report's suffix is unknown, a folder is missing or takes no file, or a file is in the way.
    """
    from rectify.files.atomic import check_folder, check_room, check_target
    from rectify.reporting.files import check_path

    inputs = inputs_of(settings)
    coming = _coming(settings)
    for path in settings["report"]:
        check_path(path)
        check_target(path, force=True, never=inputs, flag="--report", coming=coming)
        check_room(path)
    _check_pictures(settings["report"], inputs, coming)
    if settings.command == "explain":
        check_folder(settings["explain_out"])
    if settings.command != "edit" or settings["model"] is None:
        return
    out, delta, force = out_path(settings), delta_path(settings), bool(settings["force"])
    _check_distinct(out, delta, settings["report"])
    if not settings["dry_run"]:
        check_target(out, force=force, never=inputs)
        check_room(out)
    if delta is not None:
        check_target(delta, force=force, never=inputs, flag="--delta")
        check_room(delta)


def _coming(settings: Settings) -> Path | None:
    """The folder that the command makes before a report is written, which may go there: that of explanations."""
    return settings["explain_out"] if settings.command == "explain" else None


def check_reports(settings: Settings, images: Iterable[Path]) -> None:
    """Find out that a report, or a picture of one, would replace one of the image files that were read.

    `check` cannot: it does not know what lies deeper in a folder of images, nor what a CSV file names.

    Raises
    ------
    OutputError
        If one would.
    """
    from rectify.files.atomic import check_target, files_at

    reports, coming = settings["report"], _coming(settings)
    never = files_at([*reports, *(picture for path in reports for picture in _pictures_of(path))], images)
    for path in reports if never else ():
        check_target(path, force=True, never=never, flag="--report", coming=coming)
    _check_pictures(reports, never, coming)


def _check_pictures(reports: Iterable[Path], never: Sequence[Path], coming: Path | None) -> None:
    """Refuse a report whose pictures, which go beside it, would replace a file that is read."""
    from rectify.files.atomic import check_target
    from rectify.files.words import plain

    for path in reports:
        for picture in _pictures_of(path):
            instead = f"give --report {plain(path)}, whose picture it would be, another name"
            check_target(picture, force=True, never=never, instead=instead, coming=coming)


def _pictures_of(report: Path) -> list[Path]:
    """The files beside a report that its pictures may go to."""
    from rectify.reporting.files import beside

    return [beside(report, f"{name}.png") for name in DRAWN] if report.suffix.lower() == ".md" else []


def _check_distinct(out: Path, delta: Path | None, reports: Sequence[Path]) -> None:
    """The model, the delta and the reports are files of their own: the one written last would be all that is left."""
    real = os.path.realpath  # unlike Path.resolve it takes a link that leads to itself, which a result replaces
    if delta is not None and real(delta) == real(out):
        raise UsageError("--delta and --out name the same file; the delta is a file of its own")
    taken = {real(out): "--out"} | ({} if delta is None else {real(delta): "--delta"})
    for path in reports:
        if real(path) in taken:
            raise UsageError(f"--report and {taken[real(path)]} name the same file: {path}")


def shown(report: dict[str, Any], settings: Settings, console: Console | None) -> str:
    """The report in the format that was chosen for stdout; the console is for text."""
    from rectify.reporting.render import print_text, render

    if console is None:
        written = render(report, settings["format"])
        return written if written.endswith("\n") else written + "\n"
    with console.capture() as captured:  # written by us: rich turns a broken pipe into exit code 1
        print_text(report, console)
    return captured.get()


def told(result: Result, settings: Settings, terminal: Terminal, console: Console | None) -> str:
    """Write every --report file, with pictures where the kind can hold them; what stdout is to say.

    The files of an edit lie there by now: if this fails or is interrupted, it is said where.

    Raises
    ------
    OutputError
        If a report cannot be written.
    """
    written: list[Path] = []
    try:
        said = shown(result.report, settings, console)
        _write_reports(result, settings, terminal, written)
    except (OutputError, KeyboardInterrupt):
        terminal.stop()
        _say_edited(result.report, terminal)
        _say_reports(written, terminal)
        raise
    return said


def _write_reports(result: Result, settings: Settings, terminal: Terminal, written: list[Path]) -> None:
    from rectify.cli.pictures import pictures_for
    from rectify.reporting.files import write_report

    wanted = _reports(settings)
    _say_replaced(wanted, settings, terminal)
    with pictures_for(result, terminal) as pictures:
        for path in wanted:
            write_report(result.report, path, pictures(path))
            written.append(path)


def _reports(settings: Settings) -> list[Path]:
    return list(dict.fromkeys(settings["report"]))


def _say_replaced(wanted: list[Path], settings: Settings, terminal: Terminal) -> None:
    """A note where a `report` that is set for all commands replaces the report of another one."""
    from rectify.reporting.files import command_of

    if settings.typed("report"):
        return
    for path in wanted:
        before, now = command_of(path), settings.command
        if before not in (None, now):
            terminal.note(
                f"note: {path} was the report of {before} and is now that of {now}; to keep both, say "
                f"`{before}: {{report: …}}` and `{now}: {{report: …}}` in the settings file"
            )


def say_files(report: dict[str, Any], settings: Settings, terminal: Terminal) -> None:
    """On stderr: what it came to, where stdout is not for people, and what was written, and where."""
    if settings["format"] != "text" and report["verdict"] != "pass":
        terminal.note(f"{report['verdict']}: {report.get('reason', '')}".rstrip(": "))
    _say_edited(report, terminal)
    _say_reports(_reports(settings), terminal)


def _say_reports(paths: Iterable[Path], terminal: Terminal) -> None:
    for path in paths:
        terminal.note(f"report: {path}")


def _say_edited(report: dict[str, Any], terminal: Terminal) -> None:
    edit = report.get("edit") or {}
    for key, what in (("out", "repaired model"), ("delta", "delta")):
        if edit.get(key):
            terminal.note(f"{what}: {edit[key]['path']} ({size(edit[key]['bytes'])})")
    if report["command"] == "edit" and not edit.get("out"):
        terminal.note("no model written" + (" (dry run)" if edit.get("dry_run") else ""))


def size(count: int) -> str:
    """A file's size as a person reads it."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"
