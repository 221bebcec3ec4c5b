"""What a flag, an environment variable or a line of rectify.yaml may say, and what it then means.

A reader takes the raw value (text, or what YAML made of it) and returns the value, or raises ValueError with the
end of a sentence that begins with the setting's name: "must be a whole number, not 'abc'".
"""

from __future__ import annotations

import ast
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rectify.names import BASELINES

Reader = Callable[[Any], Any]

YES = {"1", "true", "yes", "on"}
NO = {"0", "false", "no", "off"}


def text(raw: Any) -> str:
    """Any scalar as text: YAML reads ``layer: 4`` as a number."""
    if isinstance(raw, bool) or not isinstance(raw, str | int | float) or raw == "":
        raise ValueError(f"must be text, not {raw!r}")
    return str(raw)


def path(raw: Any) -> Path:
    """A path; ``~`` is the home folder."""
    if not isinstance(raw, str | Path) or not str(raw).strip():
        raise ValueError(f"must be a path, not {raw!r}")
    if "\0" in str(raw):
        raise ValueError("must be a path without NUL bytes")
    try:
        os.fsencode(raw)
    except UnicodeEncodeError:  # half of a character, which YAML can say; bytes of a file's name that are no text pass
        raise ValueError(f"must be a path, and no file is called {str(raw)!a}") from None
    return Path(raw).expanduser()


def cache(raw: Any) -> Path:
    """A folder to keep things in; ``-`` would make one of this name."""
    if raw == "-":
        raise ValueError("must be a folder, not '-': give one, such as .cache, or --no-cache to keep nothing")
    return path(raw)


def start(raw: Any) -> str | Path:
    """The name of a baseline, or an image."""
    return str(raw) if str(raw) in BASELINES else path(raw)


def switch(raw: Any) -> bool:
    """On or off."""
    word = str(raw).strip().lower()
    if word in YES | NO:
        return word in YES
    raise ValueError(f"must be true or false, not {raw!r}")


def whole(least: int) -> Reader:
    """A whole number of at least ``least``."""

    def read(raw: Any) -> int:
        try:
            number = int(raw) if isinstance(raw, str) else raw
        except ValueError:
            number = None
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ValueError(f"must be a whole number of at least {least}, not {raw!r}")
        return number

    return read


MOST_SEED = 2**63 - 1  # what every generator of torch takes


def seed(raw: Any) -> int:
    """A whole number that every generator takes."""
    value: int = whole(0)(raw)
    if value > MOST_SEED:
        raise ValueError(f"must be a whole number from 0 to {MOST_SEED}, not {raw!r}")
    return value


def number(raw: Any) -> float:
    """A finite number."""
    try:
        value = math.nan if isinstance(raw, bool) else float(raw)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"must be a number, not {raw!r}")
    return value


def fraction(raw: Any) -> float:
    """A gate: a fraction in [0, 1]. ``5`` for five percent is a mistake worth its own words."""
    if isinstance(raw, str) and raw.strip().endswith("%"):
        share = number(raw.strip().removesuffix("%"))
        raise ValueError(f"must be a fraction in [0, 1], not {raw!r}; {share:g} percent is {share / 100:g}")
    value = number(raw)
    if 1 < value <= 100:
        raise ValueError(f"must be a fraction in [0, 1], not {raw}; {value:g} percent is {value / 100:g}")
    if not 0 <= value <= 1:
        raise ValueError(f"must be a fraction in [0, 1], not {raw}")
    return value


def floor(raw: Any) -> float:
    """A gate on a score that has no upper bound (editability)."""
    value = number(raw)
    if value < 0:
        raise ValueError(f"must be at least 0, not {raw}")
    return value


def positive(raw: Any) -> float:
    """A number above zero."""
    value = number(raw)
    if value <= 0:
        raise ValueError(f"must be above 0, not {raw}")
    return value


def rates(raw: Any) -> float | str:
    """A learning rate, or one that changes: ``0.002,600:0.0005`` is 0.002, and 0.0005 from step 600."""
    if isinstance(raw, str) and ("," in raw or ":" in raw):
        from rectify.training.presets import schedule_text

        return schedule_text(schedule_of(raw))
    return positive(raw)


def schedule_of(value: float | str) -> tuple[tuple[int, float], ...]:
    """What `rates` read, as steps and learning rates.

    Raises
    ------
    ValueError
        With the end of a sentence, as a reader does.
    """
    if not isinstance(value, str):
        return ((0, value),)
    found: list[tuple[int, float]] = []
    for part in value.split(","):
        step, colon, rate = part.strip().rpartition(":")
        start = int(step) if step.strip().isdecimal() else -1 if colon else 0
        if start < 0 or (found and start <= found[-1][0]) or (not found and start):
            raise ValueError(f"must be X, or X,STEP:X with growing steps, such as 0.002,600:0.0005, not {value!r}")
        found.append((start, positive(rate)))
    return tuple(found)


def pixels(raw: Any) -> float:
    """A distance between pixels where black is 0 and white is 1: ``0.3``, or ``8/255``."""
    above, slash, below = str(raw).partition("/")
    value = number(above) / positive(below) if slash else number(raw)
    if not 0 <= value <= 1:
        hint = f"; {value:g} of 255 is {value:g}/255" if 1 < value <= 255 else ""
        raise ValueError(f"must be in pixel units from 0 to 1, not {raw}{hint}")
    return value


def one_of(*names: str) -> Reader:
    """One of a few words."""

    def read(raw: Any) -> str:
        word = text(raw)
        if word in names:
            return word
        near = get_close_matches(word, names, 1)
        raise ValueError(f"must be {'|'.join(names)}, not {word!r}" + (f"; did you mean {near[0]}?" if near else ""))

    return read


def auto_or_rank(raw: Any) -> str:
    """``auto`` or a whole number of at least 1, as text."""
    if raw == "auto":
        return "auto"
    try:
        return str(whole(1)(raw))
    except ValueError:
        raise ValueError(f"must be auto or a whole number of at least 1, not {raw!r}") from None


def device(raw: Any) -> str:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:1``."""
    word = text(raw)
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", word) is None:
        raise ValueError(f"must be auto, cpu, cuda or cuda:N, not {word!r}")
    return word


def arguments(raw: Any) -> dict[str, Any]:
    """``k=v`` (or a list of them, or a mapping) as keyword arguments; a value is a Python literal, else text."""
    if isinstance(raw, Mapping):
        pairs = [(str(key), value) for key, value in raw.items()]
    else:
        items = [raw] if isinstance(raw, str) else raw
        if not isinstance(items, Sequence):
            raise ValueError(f"must be k=v, not {raw!r}")
        pairs = [_argument(item) for item in items]
    for key, _ in pairs:
        if not key.isidentifier():
            raise ValueError(f"must be k=v with a Python name as k, not {key!r}")
    return dict(pairs)


def _argument(item: Any) -> tuple[str, Any]:
    key, equals, value = str(item).partition("=")
    if not equals:
        raise ValueError(f"must be k=v, not {item!r}")
    return key.strip(), literal(value.strip())


def literal(word: str) -> Any:
    """A Python literal (or YAML's true, false, null), else the text itself."""
    plain = {"true": True, "false": False, "null": None}
    if word in plain:
        return plain[word]
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return word


def numbers(raw: Any) -> list[float]:
    """``0.49,0.48,0.45``: one number a channel."""
    items = re.split(r"[,\s]+", raw.strip("[]() ")) if isinstance(raw, str) else raw
    if not isinstance(items, list | tuple):
        items = [items]
    try:
        return [number(item) for item in items]
    except ValueError:
        raise ValueError(f"must be numbers with commas between them, such as 0.49,0.48,0.45, not {raw!r}") from None


def size(raw: Any) -> int | list[int]:
    """``32``, ``3,32,32`` or ``3x32x32``: pixels, or channels, height and width."""
    items = re.split(r"[,x\s]+", raw.strip("[]() ")) if isinstance(raw, str) else raw
    items = list(items) if isinstance(items, list | tuple) else [items]
    try:
        values: list[int] = [whole(1)(item) for item in items]
    except ValueError:
        values = []
    if len(values) not in (1, 3):
        raise ValueError(f"must be a number of pixels, or channels,height,width, not {raw!r}")
    return values[0] if len(values) == 1 else values


def preprocess(raw: Any) -> Any:
    """A file or a preset's name as a path, or a mapping with timm's names."""
    return dict(raw) if isinstance(raw, Mapping) else path(raw)
