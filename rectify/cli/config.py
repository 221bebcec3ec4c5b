"""Settings: command line over RECTIFY_* over rectify.yaml (or [tool.rectify]) over default, each with its source.

A key of a file is for all commands that have such a flag. In a section that is named after a command, such as
``edit: {report: edit.html}``, it is for this command alone, and wins over the same key outside of the section. (A key
whose home is such a section, such as ``explain.method``, is for all: ``evaluate`` judges the methods that explain.)

Of K=V settings (``arch_args``, ``explain.set``) a key that is said again overrides that one alone; but where another
architecture is said together with arguments of its own, those of the first go with it.

A file cannot say ``trust_pickle``: a cloned repository must not decide to run the code inside a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import IntEnum
from pathlib import Path
from typing import Any

from rectify.cli.options import ALL_FLAGS, COMMAND_FLAGS, Flag, unique
from rectify.cli.settings_file import find_settings_file, read_settings_file
from rectify.errors import ConfigError, RectifyError, UsageError
from rectify.files.words import plain

ENV_PREFIX = "RECTIFY_"
CLOSE = 0.75  # likeness of two keys, 0 to 1: sede and seed have .75
_REFUSED = "trust_pickle lets a checkpoint run code, so only the command line can say it: --trust-pickle"

# Two ways of saying one thing: whoever says one of them overrides the other where it was said with less right.
_RIVALS: dict[str, tuple[str, ...]] = {
    "clean": ("pairs",),
    "poisoned": ("pairs",),
    "pairs": ("clean", "poisoned"),
    "image": ("clean", "poisoned", "pairs"),  # of explain: images that are typed are asked for, not the pair of a file
    "cache_dir": ("no_cache",),
    "no_cache": ("cache_dir",),
    "preprocess": ("input_size", "crop_pct", "interpolation", "mean", "std"),
}


class Rank(IntEnum):
    """Who says it; the higher overrides the lower."""

    DEFAULT = 0
    FILE = 1
    ENVIRONMENT = 2
    COMMAND_LINE = 3


@dataclass(frozen=True)
class Setting:
    """One value and where it came from."""

    value: Any
    source: str
    rank: Rank
    own: bool = False  # from the section of a file that is for this command alone
    over: Setting | None = None  # of K=V settings: what the value has its other keys from


@dataclass(frozen=True)
class Settings(Mapping[str, Any]):
    """The merged settings of one command; indexing gives the value, None where nobody said any."""

    command: str
    flags: Mapping[str, Flag]
    said: Mapping[str, Setting]
    notes: tuple[str, ...] = ()
    file: str | None = None  # the settings file that was read

    def __getitem__(self, name: str) -> Any:
        flag = self.flags[name]
        if name in self.said:
            return self.said[name].value
        return [] if flag.many and flag.default is None else flag.default

    def __iter__(self) -> Iterator[str]:
        return iter(self.flags)

    def __len__(self) -> int:
        return len(self.flags)

    def get(self, name: str, default: Any = None) -> Any:
        """The value, or ``default`` where the command has no such setting."""
        return self[name] if name in self.flags else default

    def source(self, name: str) -> str:
        """Where the value came from."""
        return " over ".join(setting.source for setting in self._origins(name)) or "default"

    def typed(self, name: str) -> bool:
        """Whether the command line itself says it."""
        return name in self.said and self.said[name].rank is Rank.COMMAND_LINE

    def from_environment(self) -> list[str]:
        """The variables that some value came from."""
        origins = (setting for name in self.said for setting in self._origins(name))
        return sorted({setting.source for setting in origins if setting.rank is Rank.ENVIRONMENT})

    def _origins(self, name: str) -> Iterator[Setting]:
        """Who says a setting, and of K=V settings whoever says the other keys."""
        setting = self.said.get(name)
        while setting is not None:
            yield setting
            setting = setting.over


def resolve(
    command: str, flags: Iterable[Flag], given: Mapping[str, Any], environ: Mapping[str, str], folder: Path
) -> Settings:
    """Merge what was typed, the environment and the nearest settings file.

    Parameters
    ----------
    given
        Raw values from the command line; None, False and [] mean that the flag was not typed.
    folder
        Where the search for a settings file begins.

    Raises
    ------
    UsageError, ConfigError
        If a value is wrong, or a key of the file or environment is unknown.
    """
    known = unique(flags)
    typed = _from_command_line(known, given)
    environment, notes = _from_environment(environ)
    chosen = typed.get("config") or environment.get("config")
    file = find_settings_file(folder, chosen.value if chosen else None)
    where = None if file is None else _shown(file, folder)
    shared, own = ({}, {}) if file is None else _from_file(file, folder, command)
    said: dict[str, Setting] = {}
    for layer in (shared, own, environment, typed):
        for name in layer.keys() & known.keys():
            for rival in _RIVALS.get(name, ()):
                said.pop(rival, None)
        said |= _with_other_keys(said, layer)
    return Settings(command, known, {name: said[name] for name in known if name in said}, notes, where)


def _with_other_keys(said: Mapping[str, Setting], layer: Mapping[str, Setting]) -> dict[str, Setting]:
    """What ``layer`` says; K=V settings with the other keys that they have in ``said``."""
    found = dict(layer)
    for name in (name for name in layer if name in said and ALL_FLAGS[name].is_mapping):
        if name == "arch_args" and _another(said, layer, "arch"):
            continue
        found[name] = replace(layer[name], value={**said[name].value, **layer[name].value}, over=said[name])
    return found


def _another(said: Mapping[str, Setting], layer: Mapping[str, Setting], name: str) -> bool:
    """Whether both say it, and not the same."""
    return name in said and name in layer and said[name].value != layer[name].value


def _from_command_line(known: Mapping[str, Flag], given: Mapping[str, Any]) -> dict[str, Setting]:
    said = {}
    for name, raw in given.items():
        if raw is None or raw is False or raw == []:
            continue
        flag = known[name]
        label = flag.label if flag.spellings else "MODEL"
        said[name] = Setting(_read(flag, raw, label, UsageError), "command line", Rank.COMMAND_LINE)
    return said


def _from_environment(environ: Mapping[str, str]) -> tuple[dict[str, Setting], tuple[str, ...]]:
    said: dict[str, Setting] = {}
    notes = []
    settable = {
        ENV_PREFIX + flag.place.replace(".", "_").upper(): flag  # as in the file: RECTIFY_EXPLAIN_BASELINE
        for flag in ALL_FLAGS.values()
        if flag.env and flag.place is not None
    }
    settable |= {ENV_PREFIX + flag.name.upper(): flag for flag in ALL_FLAGS.values() if flag.env}
    for variable in sorted(name for name in environ if name.startswith(ENV_PREFIX) and environ[name]):
        flag = settable.get(variable)
        if variable == ENV_PREFIX + "TRUST_PICKLE":
            raise ConfigError(f"{variable}: {_REFUSED}")
        if flag is None:
            near = get_close_matches(variable, settable, 1, 0.8)
            if near:
                raise ConfigError(f"{variable} is no setting; did you mean {near[0]}?")
            notes.append(f"{plain(variable)} is no setting of rectify; ignored")
            continue
        raw: Any = _split(flag, environ[variable]) if flag.many else environ[variable]
        said[flag.name] = Setting(_read(flag, raw, variable, ConfigError), variable, Rank.ENVIRONMENT)
    return said, tuple(notes)


def _split(flag: Flag, raw: str) -> list[str]:
    """Several paths as in PATH; several K=V with blanks between them."""
    import os

    return [part for part in (raw.split(os.pathsep) if flag.is_path else raw.split()) if part]


def _from_file(file: Path, folder: Path, command: str) -> tuple[dict[str, Setting], dict[str, Setting]]:
    """What a file says for all commands, and what for this one alone."""
    content, where = read_settings_file(file), _shown(file, folder)
    shared: dict[str, Setting] = {}
    own: dict[str, Setting] = {}
    for flag, key, only, raw in _entries(content, where):
        if raw is None:
            continue
        value = _read(flag, raw, f"{where}: {key}", ConfigError)
        source = where if only is None else f"{where} ({only})"
        setting = Setting(_relative_to(flag, value, file.parent, folder), source, Rank.FILE, only is not None)
        if only is None:
            shared[flag.name] = setting
        elif only == command:
            own[flag.name] = setting
    return shared, own


_PLACES = {flag.place: flag for flag in ALL_FLAGS.values() if flag.place is not None}
_SECTIONS = {place.partition(".")[0] for place in _PLACES if "." in place} | set(COMMAND_FLAGS)
_SHORT: dict[str, str] = {}
for _place in sorted(_PLACES, key=lambda place: "." in place):  # a key of the top level means itself
    _SHORT.setdefault(_place.rpartition(".")[2], _place)


def _entries(content: Mapping[str, Any], where: str) -> Iterator[tuple[Flag, str, str | None, Any]]:
    """Nested or flat keys: the flag, its dotted key, the one command that it is for (None: all), the value."""
    seen: set[tuple[str, str | None]] = set()
    for written, raw in _flatten(content, where):
        place, only = _SHORT.get(written, written), None
        section, _, last = place.rpartition(".")
        flag = _PLACES.get(place)
        if flag is None and section in COMMAND_FLAGS:
            flag, only = _inside(section).get(last), section
        if flag is None:
            raise ConfigError(_unknown(place, where))
        if (flag.name, only) in seen:
            raise ConfigError(f"{where}: {plain(place)} is said twice")
        seen.add((flag.name, only))
        yield flag, place, only, raw


def _flatten(content: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    """Keys with the section that they are in, with underscores."""
    for raw_key, raw in content.items():
        key = str(raw_key).replace("-", "_")
        if key not in _SECTIONS:
            yield key, raw
            continue
        if raw is not None and not isinstance(raw, Mapping):
            raise ConfigError(f"{where}: {key} must hold settings such as {_example(key)}, not {plain(repr(raw))}")
        for name, value in (raw or {}).items():
            yield f"{key}.{name}".replace("-", "_"), value


def _inside(section: str) -> dict[str, Flag]:
    """What a section may hold, by the last part of its key."""
    home = {place.rpartition(".")[2]: flag for place, flag in _PLACES.items() if place.startswith(section + ".")}
    of_command = {
        flag.place.rpartition(".")[2]: flag for flag in COMMAND_FLAGS.get(section, ()) if flag.place is not None
    }
    return of_command | home


def _example(section: str) -> str:
    home = [place.partition(".")[2] for place in _PLACES if place.startswith(section + ".")]
    return ", ".join((home or list(_inside(section)))[:3])


def _unknown(place: str, where: str) -> str:
    section, _, last = place.rpartition(".")
    named = f"{where}: unknown key {plain(place)}"
    if last == "trust_pickle":
        return f"{where}: {_REFUSED}"
    if last in ALL_FLAGS and ALL_FLAGS[last].place is None:
        if ALL_FLAGS[last].panel == "Preprocessing":
            return f"{where}: {last} belongs into preprocess, as in preprocess: {{{last}: …}}"
        return f"{where}: {last} is not for a file; say {ALL_FLAGS[last].label} on the command line"
    gates = [flag.name for flag in COMMAND_FLAGS.get(section, ()) if flag.panel == "Gates" and flag.place is not None]
    if last == "gates" and gates:
        return f"{named}; a gate is written there directly, as in {section}: {{{gates[0]}: …}}"
    inside = list(_inside(section)) if section else [*_SHORT, *_SECTIONS]
    near = _nearest_key(last, inside)
    if near:
        return f"{named}; did you mean {near if section else _SHORT.get(near, near)}?"
    elsewhere = _nearest_key(last, _SHORT)
    if elsewhere:
        return f"{named}; did you mean {_SHORT[elsewhere]}?"
    if section and section not in COMMAND_FLAGS:
        return f"{named}; known are {', '.join(sorted(inside))}"
    page = f"rectify {section or 'COMMAND'} --help"  # they are dozens
    return f"{named}; {page} lists the flags, whose long names are the keys"


def _nearest_key(word: str, keys: Iterable[str]) -> str | None:
    """The key of the same letters, such as model for modle, which is as like mode; else the one most like it."""
    known, word = list(keys), word.lower()
    same = [key for key in known if sorted(key) == sorted(word)]
    return next(iter(same or get_close_matches(word, known, 1, CLOSE)), None)


def _read(flag: Flag, raw: Any, label: str, error: type[RectifyError]) -> Any:
    """The value of one setting; every gate outside its range is a usage error, whoever says it."""
    try:
        if flag.many and not flag.is_mapping:
            return [flag.read(item) for item in (raw if isinstance(raw, list | tuple) else [raw])]
        return flag.read(raw)
    except ValueError as problem:
        kind = UsageError if flag.panel == "Gates" else error
        raise kind(f"{label} {problem}") from None


def _relative_to(flag: Flag, value: Any, base: Path, folder: Path) -> Any:
    if not flag.is_path or isinstance(value, dict | str):
        return value
    if isinstance(value, list):
        return [_relative_to(flag, item, base, folder) for item in value]
    if base.resolve() == folder.resolve():
        return value
    if flag.name == "preprocess" and str(value) == value.stem and not (base / value).exists():
        return value  # a preset such as imagenet, as no file of that name lies beside the settings
    return _moved(base / value, folder.resolve())


def _moved(path: Path, folder: Path) -> Path:
    """The path without detours, seen from ``folder`` where it lies inside; a link itself is not followed."""
    direct = path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name
    return direct.relative_to(folder) if direct.is_relative_to(folder) else direct


def _shown(file: Path, folder: Path) -> str:
    try:
        return str(file.relative_to(folder))
    except ValueError:
        return str(file)


def show(settings: Settings, derived: Mapping[str, Setting] | None = None) -> str:
    """Every setting with its source, as YAML that can be saved as rectify.yaml.

    ``derived`` are values that follow from the settings and cannot be set themselves: comments at the end.
    """

    lines = [f"# rectify {settings.command}: every setting and where it comes from"]
    lines.append(f"# settings file: {settings.file or 'none found'}")
    for name, flag in settings.flags.items():
        value = settings[name]
        if value is None or value is False or value == [] or name == "show_config":
            continue
        place = flag.place or ""
        last = place.rpartition(".")[2]
        key = flag.name if last == flag.name else place
        if name in settings.said and settings.said[name].own:
            key = f"{settings.command}.{last}"
        line = f"{key}: {_written(value)}" if place else f"# {_typed(flag, value)}"
        lines.append(f"{line:<48}  # {settings.source(name)}")
    lines += [f"{f'# {name}: {_written(one.value)}':<48}  # {one.source}" for name, one in (derived or {}).items()]
    return "\n".join(lines) + "\n"


def _typed(flag: Flag, value: Any) -> str:
    """What is typed for a value."""
    if value is True:
        return flag.label
    each = value if flag.many else [value]
    import shlex

    words = [",".join(map(str, one)) if isinstance(one, list | tuple) else str(one) for one in each]
    return " ".join(f"{flag.label} {shlex.quote(word)}" for word in words)


def _written(value: Any) -> str:
    """A value as YAML on one line."""
    import yaml

    text: str = yaml.safe_dump(_plain(value), default_flow_style=True, width=10**6)
    return text.removesuffix("...\n").strip()


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value
