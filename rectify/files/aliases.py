"""What YAML's aliases can make of a short text: values without end, or of any size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST_VALUES, MOST_DEEP = 100_000, 100


def too_much(content: Any) -> str:
    """What is wrong with values that nobody can have meant; empty if nothing is.

    An alias stands for the value itself, which may hold that alias again, or another one ten times, and that one
    another: whoever walks through it all, or writes it, would not come to an end.
    """
    waiting, count = [(content, 0)], 0
    while waiting:
        value, deep = waiting.pop()
        count += 1
        if deep > MOST_DEEP:
            return "too deeply nested, or an alias (*name) stands inside of what it names"
        if count > MOST_VALUES:
            return f"with its aliases (*name) written out it holds more than {MOST_VALUES} values"
        if isinstance(value, Mapping):
            value = list(value.values())
        if isinstance(value, list | tuple | set):
            waiting += [(each, deep + 1) for each in value]
    return ""
