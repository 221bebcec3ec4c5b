"""A report as JSON: keys in the order of the contract, figures that are no numbers as null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """The value in JSON's own types: non-finite numbers become None, array scalars Python numbers, tuples lists."""
    if isinstance(value, bool | str | int) or value is None:
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy or torch, without importing either
        return plain(value.tolist())
    raise TypeError(f"a report cannot hold {type(value).__name__}")


def to_json(report: Mapping[str, Any]) -> str:
    """The report as JSON text, indented by two, with a final newline; ASCII only, so that no terminal can choke."""
    return json.dumps(plain(report), indent=2, allow_nan=False) + "\n"
