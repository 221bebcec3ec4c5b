"""The JSON Schema that every report obeys."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def load() -> dict[str, Any]:
    """The schema (JSON Schema draft 2020-12) as a dict."""
    text = files("rectify.reporting").joinpath("schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
