"""Rows of a result that carry a seed: kept between runs, and several seeds in one cell of a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 1) -> str:
    """One value as it is, ``50.0``; of several the median and the range, ``50.0 [42.1–57.3]``."""
    middle = f"{scale * statistics.median(values):.{digits}f}"
    if len(values) < 2:
        return middle
    return f"{middle} [{scale * min(values):.{digits}f}–{scale * max(values):.{digits}f}]"


def merged(rows: Sequence[Row], row: Row, order: Mapping[str, Sequence[str]]) -> list[Row]:
    """The rows with one more, which replaces one of the same names and seed.

    Parameters
    ----------
    order
        The keys that name a row, and the order of their values; seeds come last, ascending.
    """

    def name(one: Row) -> tuple[Any, ...]:
        return *(one[key] for key in order), one["seed"]

    def place(one: Row) -> tuple[Any, ...]:
        known = (list(values).index(one[key]) if one[key] in values else len(values) for key, values in order.items())
        return *known, *name(one)

    return sorted([*(one for one in rows if name(one) != name(row)), row], key=place)
