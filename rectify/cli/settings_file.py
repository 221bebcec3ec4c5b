"""Find and read rectify.yaml, or [tool.rectify] in pyproject.toml."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rectify.errors import ConfigError
from rectify.files.aliases import too_much
from rectify.files.words import no_file, no_such_file, plain

_TOO_DEEP = "too deeply nested to hold settings"
NAMES = ("rectify.yaml", "rectify.yml")


def find_settings_file(folder: Path, chosen: Path | None) -> Path | None:
    """The file asked for, else the nearest rectify.yaml upwards, else the nearest pyproject.toml with settings.

    Raises
    ------
    ConfigError
        If the file that was asked for is not there, or what is called rectify.yaml is no file.
    """
    if chosen is not None:
        file = chosen if chosen.is_absolute() else folder / chosen
        if not _is_file(file):
            raise ConfigError(f"--config: {no_such_file(chosen)}")
        return file
    folders = [folder, *folder.parents]
    for name_set in (NAMES, ("pyproject.toml",)):
        for place in folders:
            for file in (place / name for name in name_set):
                if _is_file(file) and (file.suffix != ".toml" or _has_table(file)):
                    return file
                if file.suffix != ".toml" and os.path.lexists(file):  # somebody relies on what it should say
                    raise ConfigError(
                        f"{plain(file)} is {no_file(file)}; settings are read from a file of this name: rename it, or "
                        "pass --config FILE"
                    )
    return None


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a folder above that may not be looked into has no settings for us
        return False


def _has_table(file: Path) -> bool:
    try:
        written = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    if "rectify" not in written:
        return False
    try:
        import tomllib

        tool = tomllib.loads(written).get("tool")
    except (ModuleNotFoundError, ValueError, RecursionError):
        return "tool.rectify" in written  # whoever reads it tells what is wrong
    return isinstance(tool, Mapping) and "rectify" in tool


def read_settings_file(file: Path) -> Mapping[str, Any]:
    """The settings in a YAML file, or in the [tool.rectify] table of a TOML file.

    Raises
    ------
    ConfigError
        If the file cannot be read or does not hold ``key: value`` settings.
    """
    try:
        written = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"{file.name} cannot be read: {problem}") from None
    content = _toml(file, written) if file.suffix == ".toml" else _yaml(file, written)
    if content is None:
        return {}
    if wrong := too_much(content):
        raise ConfigError(f"{file.name}: {wrong}")
    if not isinstance(content, Mapping):
        raise ConfigError(f"{file.name} must hold settings such as `model: model.pt`, not {type(content).__name__}")
    return content


def _yaml(file: Path, written: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Plain values only, and no key said twice: the second gate would silently win."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"{plain(key.value)} is said twice", problem_mark=key.start_mark)
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(written, Loader)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark is not None else ""
        what = getattr(problem, "problem", None) or "not YAML"
        raise ConfigError(f"{file.name}{where}: {plain(what, 200)}") from None
    except RecursionError:
        raise ConfigError(f"{file.name}: {_TOO_DEEP}") from None


def _toml(file: Path, written: str) -> Any:
    try:
        import tomllib
    except ModuleNotFoundError:
        raise ConfigError(f"{file.name}: settings in TOML need Python 3.11; put them into rectify.yaml") from None
    try:
        content = tomllib.loads(written)
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(f"{file.name}: {plain(problem, 200)}") from None
    except RecursionError:
        raise ConfigError(f"{file.name}: {_TOO_DEEP}") from None
    tool = content.get("tool")
    table = tool.get("rectify") if isinstance(tool, Mapping) else None
    if table is None and file.name == "pyproject.toml":
        return {}
    return content if table is None else table
