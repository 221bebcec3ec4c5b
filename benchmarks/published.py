"""The published tables of arXiv 2603.15656 beside what was measured here; nothing is run, only gathered.

    python -m benchmarks.published

Published figures are quoted; measured ones are read from the results of the other benchmarks. The networks are not the
same, so that each block begins with its own untouched network. Results: ``benchmarks/results/published.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from benchmarks.runs import RESULTS, stored

Row = dict[str, Any]
NARROW = "cifar-resnet-patch-scratch"
HEAD = """# The published tables, and ours beside them

Gathered by `python -m benchmarks.published` from the other results here. *OA*: accuracy; *ASR*: attack success; *RA*:
triggered images that get their true class; percent. No recovery, seed or spread is published. The networks differ
(theirs and ours are trained apart, and much of ours is narrow), so that the lines to compare are those of one column,
with the untouched network at its head. Each row's information is that of its method: one or *n* pairs; with ours and
the rivals that have no labels, 200 unlabelled calibration images too.
"""


def load(name: str) -> list[Row]:
    """A result that was kept; nothing if it has not been measured."""
    return stored(RESULTS / f"{name}.json")


def percent(values: Sequence[float], worst: Callable[[Sequence[float]], float] | None = None, digits: int = 2) -> str:
    """The median, and in brackets the worst where there are several."""
    middle = f"{100 * median(values):.{digits}f}"
    return middle if worst is None or len(values) < 2 else f"{middle} ({100 * worst(values):.{digits}f})"


def three(rows: Sequence[Row]) -> str:
    """Accuracy, attack success and recovery."""
    if not rows:
        return "–"
    keys = (("accuracy", min), ("asr", max), ("recovery", min))
    return " / ".join(percent([row[key] for row in rows], worst) for key, worst in keys)


def lines_of(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


# ---------------------------------------------------------------- trojans

TROJAN = (  # row, n, published OA / ASR on CIFAR-10, the method that stands for it in rivals.json
    ("untouched", "–", "93.67 / 99.94", "untouched"),
    ("fine-tuning", "1", "90.83 / 73.07", "ft-pair"),
    ("fine-tuning", "20", "91.58 / 13.22", None),
    ("pruning", "20", "89.70 / 12.19", "fine-pruning"),
    ("P-ClArC", "20", "89.97 / 6.21", "p-clarc"),
    ("A-ClArC", "20", "92.53 / 6.32", "a-clarc"),
    ("static rectifying", "1", "92.93 / 2.57", "static"),
    ("dynamic rectifying", "1", "93.65 / 1.34", "dynamic"),
    ("dynamic rectifying", "20", "93.61 / 0.26", None),
)


def trojans() -> str:
    """Table 1."""
    rivals = [row for row in load("rivals") if row["network"] == NARROW]
    wide = [row for row in load("wide") if "-patch-" in row["name"]]
    conditions = [row for row in load("conditions") if row["name"] == NARROW]
    body = []
    for name, number, published, method in TROJAN:
        narrow = three([row for row in rivals if row["method"] == method])
        full = three([row["before"] for row in wide]) if method == "untouched" else ""
        body.append([name, number, published, narrow, full])
    repairs = [one for row in wide for one in row["repairs"]]
    body.append(["**ours**", "1", "", three([row for row in rivals if row["method"] == "ours"]), three(repairs)])
    twenty = [row for row in conditions if row["condition"] == "20 pairs" and "accuracy" in row]
    body.append(["**ours**", "20", "", three(twenty), ""])
    head = ("method", "n", "published, ResNet-18, OA / ASR", "here, width 16, OA / ASR / RA", "here, full width")
    return "\n".join(
        [
            "## A patch trojan, CIFAR-10 (Table 1)\n",
            lines_of(head, body),
            f"Here: [rivals.md](rivals.md) (`{NARROW}`; all from one pair, but fine-pruning and A-ClArC, which",
            "see 5 % of the training set with its labels), [conditions.md](conditions.md), [wide.md](wide.md) (three",
            "networks, triggers and targets; worst in brackets).\n",
        ]
    )


# ---------------------------------------------------------------- other marks

VISIBILITY = {"br 0.3": "6.84", "br 0.5": "5.17", "br 0.7": "7.65", "br 1": "7.91"}
POSITION = {"br 0.5": "6.36", "tl 0.5": "9.24", "c 0.5": "9.47", "bl 0.5": "8.95"}


def marks() -> str:
    """The tables of visibility and position."""
    rows = load("transfer")
    parts = ["## A mark that is more or less visible, or elsewhere\n"]
    for title, published in (("visibility", VISIBILITY), ("position", POSITION)):
        body = [["published, ASR", "91.21" if title == "visibility" else "90.85", *published.values()]]
        for name, of in (("here, untouched, ASR / RA", rows[:1]), ("here, repaired, ASR / RA", rows[1:])):
            if of:
                body.append(
                    [name, percent([row["accuracy"] for row in of], min), *(_pair(of, key) for key in published)]
                )
        parts.append(lines_of((title, "OA", *published), body))
    parts.append(
        "Repaired from one pair with the mark in the lower right, half visible. Here: [transfer.md](transfer.md).\n"
    )
    return "\n".join(parts)


def _pair(rows: Sequence[Row], key: str) -> str:
    return " / ".join(percent([row[key][i] for row in rows], worst, 1) for i, worst in ((0, max), (1, min)))


# ---------------------------------------------------------------- spurious cue, leakage, the field

SPURIOUS = (
    ("untouched", "–", "94.00", "94.42", "+5.58"),
    ("A-ClArC", "20", "92.41", "76.77", "+2.57"),
    ("P-ClArC", "20", "88.29", "16.89", "+0.23"),
    ("dynamic rectifying", "1", "92.93", "94.29", "+1.86"),
    ("dynamic rectifying", "20", "93.99", "94.30", "+0.12"),
)


def spurious() -> str:
    """Table 4."""
    names = {"untouched": "untouched", "a-clarc": "A-ClArC", "p-clarc": "P-ClArC", "dynamic": "dynamic rectifying"}
    found = [(names[row["method"]], row) for row in load("rivals") if "with" in row and row["method"] in names]
    for row in load("cue"):
        if row["pair"] != "none" and "with" in row:
            found.append((f"**ours**, pair `{row['pair']}`, `--fault {row['fault']}`", row))
        elif not any(row["network"] == other["network"] for _, other in found):
            found.append(("untouched", row))
    found.sort(key=lambda one: one[1]["network"], reverse=True)
    body = [["published", *row] for row in SPURIOUS] + [_biased(name, row) for name, row in found]
    head = ("", "method", "n", "OA", "class, clean", "bias")
    return "\n".join(
        [
            "## A spurious cue (Table 4)\n",
            lines_of(head, body),
            "Published: CIFAR-10. Here: Fashion-MNIST, shirts, of which 60 % bore the patch, and which are hard to",
            "tell without it, or ankle boots, which are easy (`faint`); and CIFAR-10, cats, of which 60 % bore it, of",
            "a narrow network and one of full width, which is drawn little (`cifar64`;",
            "[cue.md](cue.md), [rivals.md](rivals.md)).",
            "*Bias*: accuracy of the class with the cue minus without.\n",
        ]
    )


def _biased(name: str, row: Row) -> list[str]:
    bias = 100 * (row["with"] - row["without"])
    number = "–" if name == "untouched" else "1"
    return [row["network"], name, number, percent([row["accuracy"]]), percent([row["without"]]), f"{bias:+.2f}"]


LEAKAGE = (
    ("untouched", "99.17", "3.597"),
    ("IG-SUM", "94.14", "3.417"),
    ("fine-tuning", "98.67", "2.929"),
    ("static rectifying", "98.97", "2.655"),
    ("dynamic rectifying", "99.03", "2.417"),
)


def leakage() -> str:
    """Table 5."""
    body = [["published", *row, ""] for row in LEAKAGE]
    rows = load("leakage")
    for method in dict.fromkeys(row["method"] for row in rows):
        of = [row for row in rows if row["method"] == method]
        accuracy = percent([row["accuracy"] for row in of], min)
        body.append(["here", method, accuracy, "", percent([row["ig"] for row in of], max, 1)])
    head = ("", "method", "accuracy", "leakage as published", "here: share of IG on the null block")
    return "\n".join(
        [
            "## Feature leakage, BlockMNIST (Table 5)\n",
            lines_of(head, body),
            "How the published leakage is defined is not said, so that the columns cannot be compared: published,",
            "dynamic rectifying leaves two thirds of it; here closed forms leave all of it, and ours less than half",
            "([leakage.md](leakage.md), three seeds, worst in brackets). IG-SUM is a short training here.\n",
        ]
    )


FIELD = (
    ("untouched", "–", "79.00", "61.50", "+26.0"),
    ("dynamic rectifying", "10", "80.00", "61.00", "+1.5"),
)


def field() -> str:
    """The real-world case."""
    body = [["published", *row, ""] for row in FIELD]
    rows = [row for row in load("solar") if "accuracy" in row]
    for method in dict.fromkeys(row["method"] for row in rows):
        of = [row for row in rows if row["method"] == method]
        bias = median(row["with"] - row["without"] for row in of)
        number = "–" if method == "untouched" else "10" if "10" in method else "1"
        cells = [percent([row["accuracy"] for row in of], min, 1), percent([row["without"] for row in of], min, 1)]
        pulled = f"{percent([row['pull'] for row in of], max, 1)} / {percent([row['base'] for row in of], None, 1)}"
        body.append(["here", method, number, *cells, f"{100 * bias:+.1f}", pulled])
    head = ("", "method", "n", "OA", "class, clean", "bias", "drawn to it with / without the sticker")
    return "\n".join(
        [
            "## A case from the field\n",
            lines_of(head, body),
            "Published: EfficientNet-B4, skin lesions (ISIC) with colour patches. Here: EfficientNet-Lite0, solar",
            "cells (ELPV) with a sticker ([solar.md](solar.md); worst in brackets).\n",
        ]
    )


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, trojans(), marks(), spurious(), leakage(), field()])


def main() -> None:
    """Write the page."""
    (RESULTS / "published.md").write_text(page())
    print(page())


if __name__ == "__main__":
    main()
