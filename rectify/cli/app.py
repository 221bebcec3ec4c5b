"""The program: parse, run one command, return its exit code. The only place that turns an exception into a code."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from rectify import __version__
from rectify.cli import edit, evaluate, explain, localize, train
from rectify.cli.config import Settings, resolve, show
from rectify.cli.skin import Group, Request, add_command, usage_message
from rectify.cli.terminal import (
    Terminal,
    end_stdout,
    occupy_closed,
    report_console,
    silence,
    stdout_set_aside,
    tolerate_any_text,
    write_stderr,
    write_stdout,
)
from rectify.cli.values import YES
from rectify.errors import ExitCode, RectifyError, UsageError

COMMANDS = {"localize": localize, "edit": edit, "explain": explain, "evaluate": evaluate, "train": train}
# Rounds that a thread of OpenMP waits awake for the next piece of work. By default it is a hundred times as many, and
# beside other work on all cores one repair took more than 300 seconds, in place of 139; alone it is as fast.
_SPIN = ("GOMP_SPINCOUNT", "3000")
_COMPLETION = "_RECTIFY_COMPLETE"  # what a shell sets when it asks for completions
_CLICK_ERROR: type[Exception] = typer.BadParameter.__mro__[2]  # Click's base class, wherever this Typer keeps its Click

_DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml"}  # where a package is installed by another name
_COMPLETION_FLAGS = ("--install-completion", "--show-completion")


class _Rectify(Group):
    example = "rectify edit model.pt --arch resnet18 --preprocess imagenet \\\n    --clean a.png --poisoned b.png"


def _version(asked: bool) -> None:
    if asked:
        write_stdout(f"rectify {__version__}\n")
        raise typer.Exit()


def _help(context: typer.Context, asked: bool) -> None:
    if asked:
        write_stdout(context.get_help() + "\n")
        raise typer.Exit()


def build(*, completion: bool = False) -> typer.Typer:
    """The command line with all its commands; nothing is run.

    ``completion`` adds --install-completion and --show-completion, whose mere presence makes Typer import pydantic.
    """
    # Typer's own --help makes it import pydantic, 100 ms, even for the help of a command; ours below does not.
    app = typer.Typer(cls=_Rectify, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=completion)

    @app.callback(
        add_help_option=False,
        help="Find the layer of an image classifier that carries a fault, repair it, verify the repair.",
    )
    def top(
        version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
        help: bool = typer.Option(False, "--help", "-h", callback=_help, is_eager=True, help="Show this page."),
    ) -> None:
        pass

    for name, command in COMMANDS.items():
        add_command(app, name, command.FLAGS, command.ABOUT, command.EXAMPLE)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (without the program's name) and return the exit code of the contract."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(*_SPIN)  # read when torch is loaded, which no command does before it has to
    occupy_closed()
    tolerate_any_text()
    try:
        with _sigterm_interrupts():
            outcome = _parse(words)
            code = outcome if isinstance(outcome, int) else _run(outcome)
            write_stdout("")
            return code
    except KeyboardInterrupt as stop:
        write_stderr(f"interrupted: {stop}" if str(stop) else "interrupted")
        return int(ExitCode.INTERRUPTED)
    except SystemExit:  # Typer's way of ending a completion
        raise
    except BaseException as problem:  # the user's code may raise one that is no Exception; Python would return 1
        asked = os.environ.get("RECTIFY_TRACEBACK", "").lower() in YES or "--traceback" in words
        return _failure(problem, traceback=asked)
    finally:
        if argv is None:  # this is the program itself; handlers run in reverse order: those of the user's code later
            atexit.register(end_stdout)


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Context in which SIGTERM does what Ctrl-C does: half-written files go, states are kept, the code is 130.

    Not by way of SIGINT, which a shell ignores for what it runs in the background. Where somebody else handles or
    ignores SIGTERM, or this is not the main thread, nothing changes.
    """
    ours = threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _parse(words: list[str]) -> Request | int:
    if not words and _COMPLETION not in os.environ:
        raise UsageError(f"which command? {', '.join(COMMANDS)}; rectify --help says what they do")
    completion = _COMPLETION in os.environ or any(word in _COMPLETION_FLAGS for word in words)
    command = typer.main.get_command(build(completion=completion))
    try:
        outcome = command.main(words, prog_name="rectify", standalone_mode=False)
    except _CLICK_ERROR as problem:
        raise UsageError(usage_message(problem, list(COMMANDS))) from None
    except (typer.Abort, EOFError):
        raise KeyboardInterrupt from None
    except SystemExit:  # Typer's way of ending a completion, and a help page that nobody reads any more
        if _COMPLETION in os.environ:
            raise
        silence(sys.stdout)
        return int(ExitCode.OK)
    return outcome if isinstance(outcome, Request) else int(outcome or 0)


def _run(request: Request) -> int:
    settings = resolve(request.command, request.flags, request.given, os.environ, Path.cwd())
    if settings["show_config"]:
        write_stdout(train.shown(settings) if settings.command == "train" else show(settings))
        return int(ExitCode.OK)
    quiet, verbose = bool(settings["quiet"]), bool(settings["verbose"])
    with Terminal(quiet=quiet, verbose=verbose, progress=not settings["no_progress"]) as terminal:
        for line in settings.notes:
            terminal.note(f"note: {line}")
        variables = settings.from_environment()
        if variables:  # nobody sees them in what was typed
            terminal.note(f"settings from the environment: {', '.join(variables)}")
        if settings.file is not None:
            # one in a folder above works from afar, so it is worth a word
            (terminal.note if Path(settings.file).is_absolute() else terminal.detail)(f"settings: {settings.file}")
        return _judge(settings, terminal)


def _judge(settings: Settings, terminal: Terminal) -> int:
    from rectify.cli import outputs

    outputs.check(settings)
    console = report_console(settings["color"]) if settings["format"] == "text" else None
    with _contained(settings):
        result = COMMANDS[settings.command].run(settings, terminal)
        terminal.stop()
        # Reports first: stdout shall not say that all went well if not.
        said = outputs.told(result, settings, terminal, console)
    write_stdout(said)
    outputs.say_files(result.report, settings, terminal)
    return int(result.report["exit_code"])


@contextlib.contextmanager
def _contained(settings: Settings) -> Iterator[None]:
    """Keep what libraries and the user's network code print, warn or exit with away from stdout and the exit code."""
    with stdout_set_aside(), warnings.catch_warnings():
        if not settings["verbose"]:
            warnings.simplefilter("ignore")
        try:
            yield
        except SystemExit as problem:
            raise RuntimeError(f"code that was called tried to exit with {problem.code}") from problem
        except Exception as problem:
            if settings["batch_size"] == 1 and _out_of_memory(problem):
                raise RectifyError(
                    "out of memory with one image at a time: smaller images (--input-size, if the network takes them) "
                    "or a machine with more memory would do"
                ) from problem
            raise


def _failure(problem: BaseException, *, traceback: bool) -> int:
    if traceback:
        import traceback as tracebacks

        write_stderr("".join(tracebacks.format_exception(problem)).rstrip())
    write_stderr(f"error: {_told(problem)}")
    return int(problem.exit_code) if isinstance(problem, RectifyError) else int(ExitCode.COULD_NOT_JUDGE)


def _told(problem: Any) -> str:
    if isinstance(problem, RectifyError):
        return str(problem)
    if _out_of_memory(problem):
        return "out of memory; try a smaller --batch-size"
    if isinstance(problem, ModuleNotFoundError) and problem.name and not problem.name.startswith("rectify"):
        name = problem.name.partition(".")[0]
        return f"the package {name} is missing: pip install {_DISTRIBUTIONS.get(name, name)}"
    said = " ".join(str(problem).split())
    return f"internal: {type(problem).__name__}: {said[:300]} (--traceback shows where)"


def _out_of_memory(problem: Any) -> bool:
    full = isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError"
    return full or "can't allocate memory" in str(problem)  # the second is torch's on the CPU
