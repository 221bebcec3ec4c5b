"""The tables of the science bench, one after another.

    python -m benchmarks [TABLE ...] [--quick]

Each is a command of its own, ``python -m benchmarks.TABLE``, with options of its own; here all are run as they are, and
one that fails does not stop those behind it. With ``--quick`` each is a run of minutes, held against the committed one.
README.md beside this file says what each asks and how long it takes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from benchmarks.runs import ROOT

TABLES = (
    *("recovery", "wide", "conditions", "refining", "localisation", "reference_for_repair", "detector", "guesses"),
    "stand_ins",
    *("rivals", "cue", "transfer", "leakage", "solar", "large", "ceiling", "explanations", "robust_attribution"),
    *("robust_trojan", "speed", "devices"),
)


def main() -> None:
    """Run the tables that are asked for; exit code 1 if one failed or does not agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], default=[], metavar="TABLE")
    parser.add_argument("--quick", action="store_true", help="runs of minutes, held against the committed ones")
    asked = parser.parse_args()
    lines, failed = [], False
    for table in asked.tables or TABLES:
        began = time.time()
        command = [sys.executable, "-m", f"benchmarks.{table}", *(["--quick"] if asked.quick else [])]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        failed = failed or code != 0
        lines.append(f"{table:22} {'done' if code == 0 else f'exit code {code}':14} {time.time() - began:6.0f} s")
    print("\n".join(lines))
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
