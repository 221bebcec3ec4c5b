"""Typer's part: from a table of flags to a command with a help page; parsing only, no work."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from rectify.cli.options import COMMAND_FLAGS, MODEL_ARGUMENT, PANELS, Flag
from rectify.files.words import plain

HELP = {"help_option_names": ["-h", "--help"]}
CLOSE = 0.75  # likeness of two flags, 0 to 1: --posioned and --poisoned have .9, --foo and --color .67
COLUMN = 26  # width of the flags on a help page; longer ones have their meaning on the next line


@dataclass(frozen=True)
class Request:
    """A parsed command line: which command, and what was typed, unread."""

    command: str
    flags: tuple[Flag, ...]
    given: Mapping[str, Any]


def add_command(app: typer.Typer, name: str, flags: Sequence[Flag], about: str, example: str) -> None:
    """Register a command that parses ``flags`` and returns a `Request`."""
    everything = (MODEL_ARGUMENT, *flags)

    def callback(**given: Any) -> Request:
        return Request(name, everything, given)

    parameters = [_parameter(flag) for flag in everything]
    callback.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    callback.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    page = _page(flags, example)
    app.command(name, cls=page, help=about, short_help=about.splitlines()[0], context_settings=HELP)(callback)


def _parameter(flag: Flag) -> inspect.Parameter:
    """One argument of the callback; values stay text, so that all sources are read by the same code."""
    kind: Any
    info: Any
    if not flag.spellings:
        kind, info = str | None, typer.Argument(metavar=flag.name.upper(), show_default=False)
    elif flag.is_switch:
        kind, info = bool, typer.Option(*flag.spellings)
    else:
        kind, info = (list[str] | None if flag.many else str | None), typer.Option(*flag.spellings)
    default = False if flag.is_switch else None
    return inspect.Parameter(
        flag.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
    )


def _page(flags: Sequence[Flag], example: str) -> type[TyperCommand]:
    """A command whose help shows the flags by panel, then an example that can be run."""

    class Page(TyperCommand):
        def format_options(self, context: Any, formatter: Any) -> None:
            formatter.width = max(formatter.width, 80)
            for panel in PANELS:
                rows = [_row(flag) for flag in (MODEL_ARGUMENT, *flags) if flag.panel == panel]
                rows += [_padded("-h, --help", "Show this page.")] if panel == "Settings" else []
                if rows:
                    with formatter.section(panel):
                        formatter.write_dl(rows, col_max=COLUMN)

        def format_epilog(self, context: Any, formatter: Any) -> None:
            with formatter.section("Example"):
                for line in example.strip().splitlines():
                    formatter.write(f"  {line}\n")

    return Page


def _row(flag: Flag) -> tuple[str, str]:
    default = "" if flag.is_switch or flag.default is None else f" [default: {flag.default}]"
    words = ", ".join(flag.spellings) or flag.name.upper()
    return _padded(f"{words} {flag.metavar}", flag.help + default)


def _padded(flag: str, about: str) -> tuple[str, str]:
    return f"{flag.strip():<{COLUMN}}", about  # equal widths: all panels share one column


class Group(TyperGroup):
    """The top level: the commands, then an example."""

    example = ""

    def format_epilog(self, context: Any, formatter: Any) -> None:
        """End with an example that can be run."""
        with formatter.section("Completion"):
            formatter.write("  rectify --install-completion sets it up for your shell.\n")
        with formatter.section("Example"):
            for line in self.example.strip().splitlines():
                formatter.write(f"  {line}\n")


def usage_message(problem: Any, commands: Sequence[str]) -> str:
    """What Click has to say about a command line, in one line with the nearest spelling."""
    from difflib import get_close_matches

    context: Any = getattr(problem, "ctx", None)
    option = getattr(problem, "option_name", None)
    if type(problem).__name__ == "NoSuchOption":
        known = [word for parameter in context.command.params for word in parameter.opts] if context else []
        owners = _owners(str(option))
        if owners and (context is None or context.info_name not in COMMAND_FLAGS):
            return f"{option} goes after the command: rectify {owners[0]} {option}"
        if owners:
            return f"{context.info_name} has no {option}; it belongs to {' and '.join(owners)}"
        near = get_close_matches(str(option), [*known, "--help"], 1, CLOSE)
        return f"no such option: {option}" + (_near(near) or f"; {_command(context, commands)} --help lists them")
    message = " ".join(str(problem.format_message()).split())
    word = next(iter(context.args if context else []), "")
    if message.lower().startswith("no such command"):
        typed = message.split("'")[1] if "'" in message else word
        near = get_close_matches(typed, commands, 1)
        return f"no such command: {typed}" + (_near(near) or f"; commands are {', '.join(commands)}")
    if "unexpected extra argument" in message:
        extra = message.rpartition(" (")[2].rstrip(").")
        many = "a repeatable flag is written again for each value (--image and --scan take a folder, too)"
        return f"unexpected: {plain(extra)}; there is one MODEL, and {many}"
    return message[:1].lower() + message[1:].rstrip(".")


def _command(context: Any, commands: Sequence[str]) -> str:
    """What was typed up to the first flag: the program, with the command where there was one."""
    name = getattr(context, "info_name", None)
    return f"rectify {name}" if name in commands else "rectify"


def _owners(option: str) -> list[str]:
    """The commands that have such an option."""
    return [name for name, flags in COMMAND_FLAGS.items() if any(option in flag.spellings for flag in flags)]


def _near(words: Sequence[str]) -> str:
    return f"; did you mean {words[0]}?" if words else ""
