"""What the commands of all tables have in common: where results lie, the quick size, and holding it against another.

Every table is one command, ``python -m benchmarks.TABLE``: it trains or fetches what is not there yet, goes on where
it stopped, and writes ``benchmarks/results/TABLE.{json,md}``. With ``--quick`` it makes a small run of minutes into
``out/quick`` and holds its figures against those of the same run in ``benchmarks/results/quick``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
COMMITTED = RESULTS / "quick"
QUICK = ROOT / "out" / "quick"

# Two kinds of processors sum in different orders: a network of an epoch ends some tenths of a point apart, and of 500
# images each is 0.2 points.
TOLERANCE = 0.03
# Measured, but another on every machine, or told in words and not compared figure by figure.
PASSING = {"innocent", "seconds", "cpu_seconds", "ratio", "speed", "notes", "note", "tried", "chosen"}
# What names a row.
NAMES = ("name", "network", "set", "dataset", "kind", "layer", "condition", "variant", "method", "objective", "trigger")
NAMES += ("metric", "fault", "device", "seed", "pair", "epochs", "dirty")

SAYS = (
    "*A quick run: it shows that everything works and gives the same again; its figures are those of few images and "
    "steps, and what the text says of their number is true of the whole run.*\n\n"
)


def options(parser: argparse.ArgumentParser, table: str, **quick: Any) -> argparse.Namespace:
    """What the command line asks for; ``--results`` and ``--quick`` are added here.

    Parameters
    ----------
    table
        The name of its files.
    quick
        What an option is with ``--quick``, where it is not given.
    """
    parser.add_argument("--results", type=Path, default=RESULTS / f"{table}.json")
    parser.add_argument("--quick", action="store_true", help="a small run of minutes, into out/quick")
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(results=QUICK / f"{table}.json", **quick)
        one_thread()
    asked = parser.parse_args()
    asked.results.parent.mkdir(parents=True, exist_ok=True)
    return asked


def one_thread() -> None:
    """Compute in one thread, and so what is started from here: every number of threads sums in an order of its own.

    The solar cells' network, trained in two, ends 0.9 points of accuracy away from the same in one.
    """
    import torch  # here, as it takes seconds and not all commands compute

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def stored(results: Path) -> list[dict[str, Any]]:
    """The rows that are there."""
    rows: list[dict[str, Any]] = json.loads(results.read_text()) if results.exists() else []
    return rows


def keep(asked: argparse.Namespace, found: Any, page: str) -> None:
    """Write what was found as JSON and, beside it, as a page; of a quick run that says what it is."""
    asked.results.write_text(json.dumps(found, indent=1) + "\n")
    if asked.quick:  # what is written by hand lies a folder above where such a page is committed
        page = SAYS + re.sub(r"\]\((?=[\w-]+-reading\.md\))", "](../", page)
    asked.results.with_suffix(".md").write_text(page)


def conclude(asked: argparse.Namespace) -> None:
    """Print the page; of a quick run also how it compares with the committed one, exit code 1 where it does not."""
    print(asked.results.with_suffix(".md").read_text())
    if not asked.quick:
        return
    committed = COMMITTED / asked.results.name
    if not committed.exists():
        print(f"nothing to hold it against: {committed} is not there")
        return
    found = compared(json.loads(committed.read_text()), json.loads(asked.results.read_text()))
    print(found.says(committed))
    if not found.agrees:
        raise SystemExit(1)


@dataclass(frozen=True)
class Comparison:
    """Two results of the same run, figure by figure.

    Attributes
    ----------
    figures
        How many were held against each other.
    apart
        Name to difference, the largest first, of those beyond `TOLERANCE`.
    largest
        The largest difference of all.
    missing
        What is in one of them alone.
    """

    figures: int
    apart: Mapping[str, float]
    largest: float
    missing: Sequence[str]

    @property
    def agrees(self) -> bool:
        """Whether nothing is missing or beyond the tolerance."""
        return not self.apart and not self.missing

    def says(self, other: Path) -> str:
        """In words, a line each."""
        lines = [f"{self.figures} figures held against {other}: the largest difference is {self.largest:.4f}"]
        lines += [f"  beyond {TOLERANCE}: {name} differs by {value:.4f}" for name, value in self.apart.items()]
        lines += [f"  in one of them alone: {name}" for name in self.missing]
        return "\n".join(lines)


def compared(one: Any, other: Any) -> Comparison:
    """Hold two results against each other: differences of fractions absolute, of larger figures relative."""
    first, second = dict(_figures(one)), dict(_figures(other))
    both = [name for name in first if name in second]
    differences = {name: abs(first[name] - second[name]) / max(1.0, abs(first[name])) for name in both}
    apart = {name: value for name, value in differences.items() if value > TOLERANCE}
    return Comparison(
        len(both),
        dict(sorted(apart.items(), key=lambda item: -item[1])),
        max(differences.values(), default=0.0),
        sorted(first.keys() ^ second.keys()),
    )


def _figures(found: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number with the names that lead to it."""
    if isinstance(found, Mapping):
        for key, value in found.items():
            if key not in PASSING and not key.endswith("_s"):
                yield from _figures(value, f"{path}.{key}" if path else str(key))
    elif isinstance(found, list):
        for number, value in enumerate(found):
            yield from _figures(value, f"{path}[{_label(value, number)}]")
    elif isinstance(found, (int, float)) and not isinstance(found, bool):
        yield path, float(found)


def _label(row: Any, number: int) -> str:
    """A row by what it says that it is, else by its number."""
    words = [f"{row[key]}" for key in NAMES if row.get(key) is not None] if isinstance(row, Mapping) else []
    return ", ".join(words) or str(number)
