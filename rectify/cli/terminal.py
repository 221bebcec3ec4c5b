"""The two streams: the report on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from rectify.errors import OutputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress

    from rectify.reporting.heatmaps import Map


def write_stdout(text: str) -> None:
    """Write and flush; a reader that went away is no error of ours.

    Raises
    ------
    OutputError
        If stdout cannot be written for another reason, such as a full disk.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)
    except OSError as problem:
        silence(sys.stdout)
        raise OutputError(f"stdout cannot be written: {problem.strerror}") from None


def write_stderr(line: str) -> None:
    """One line on stderr, whatever has become of it."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        silence(sys.stderr)


def silence(stream: IO[str]) -> None:
    """Point a broken stream at nothing, so that Python does not complain about it when it exits."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        place, nothing = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, place)
        os.close(nothing)


def occupy_closed() -> None:
    """Point those of the first three descriptors that are closed at nothing: else the next file opened gets one."""
    while (place := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(place)


@contextlib.contextmanager
def stdout_set_aside() -> Iterator[None]:
    """Context in which stdout is stderr: for ``print``, and for C code and child processes, which know descriptors."""
    with _descriptor_set_aside(), contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def _descriptor_set_aside() -> Iterator[None]:
    stream = sys.stdout
    if stream is None:  # closed from the start
        yield
        return
    write_stdout("")  # what is said already goes where it was meant to go
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()  # somebody may have written into it by its other name, sys.__stdout__
        _flush_c()
        os.dup2(kept, 1)
        os.close(kept)


def end_stdout() -> None:
    """Nothing more of ours follows: what exit handlers of the user's code print goes to stderr."""
    if sys.stdout is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            os.dup2(2, 1)


def _flush_c() -> None:
    """Let out what C code has printed: it keeps that until it exits, unless stdout is a terminal."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError, TypeError):  # the last on Windows
        ctypes.CDLL(None).fflush(None)


def tolerate_any_text() -> None:
    """A layer or file name that the terminal's encoding does not have is escaped, not an exception."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def report_console(color: str) -> Console:
    """The console of the text report. `auto` obeys NO_COLOR and FORCE_COLOR, and has no colour outside a terminal.

    Made while stdout is itself: what it is then decides.
    """
    from rich.console import Console

    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False, "file": sys.stdout}
    if color == "never":
        return Console(color_system=None, no_color=True, **plain)
    if color == "always":
        return Console(force_terminal=True, no_color=False, color_system="standard", **plain)
    return Console(**plain)


class Terminal:
    """Notes and progress on stderr; leaving the context clears the progress bar.

    Parameters
    ----------
    quiet
        No notes, no progress.
    verbose
        Details too.
    progress
        Draw bars, if stderr is a terminal.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, progress: bool = True) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self._draws = progress and not quiet and sys.stderr is not None and sys.stderr.isatty()
        self._bar: RichProgress | None = None
        self._task: Any = None

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def note(self, line: str) -> None:
        """Something the user should know; silent with --quiet."""
        if not self.quiet:
            self._line(line)

    def detail(self, line: str) -> None:
        """Something only --verbose shows."""
        if self.verbose and not self.quiet:
            self._line(line)

    def say(self, line: str) -> None:
        """A note of the library."""
        self.note(line)

    def preview(self, maps: Sequence[Map]) -> None:
        """Show maps in coloured half blocks, where stderr is a terminal that can."""
        if self.quiet or not maps or sys.stderr is None or not sys.stderr.isatty():
            return
        from rich.console import Console

        from rectify.reporting.heatmaps import can_preview, preview

        console = Console(stderr=True, highlight=False)
        if can_preview(console):
            depth: Any = "truecolor" if console.color_system == "truecolor" else "256"
            console.print(preview(maps, console.width, depth))

    def start(self, label: str, total: int | None = None) -> None:
        """Begin a step of ``total`` parts (None: unknown)."""
        self.stop()
        if not self._draws:
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), BarColumn(bar_width=24)]
        if total is None:  # neither how much of it is done nor what is left can be said
            columns += [TimeElapsedColumn()]
        else:
            columns += [MofNCompleteColumn(), TimeElapsedColumn()]
            columns += [TextColumn("·"), TimeRemainingColumn(), TextColumn("left")]
        self._bar = Progress(
            *columns,
            console=Console(stderr=True, highlight=False),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task(label, total=total)
        self._bar.start()

    def advance(self, n: int = 1) -> None:
        """``n`` parts of the step are done."""
        if self._bar is not None:
            self._bar.advance(self._task, n)

    def stop(self) -> None:
        """The step is done; its bar disappears."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _line(self, line: str) -> None:
        if self._bar is None:
            write_stderr(line)
            return
        from rich.text import Text

        self._bar.console.print(Text(line), soft_wrap=True)
