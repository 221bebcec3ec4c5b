"""How the main job holds when a user's material is not perfect: the same repairs under other conditions.

    python -m benchmarks.conditions [NAME ...] [--only CONDITION ...] [--test 2000]

Each condition changes one thing of ``benchmarks.recovery``'s layout (one PNG pair, 200 clean calibration PNGs): the
number of pairs or of calibration images, how the pair was made, or what has slipped in among the calibration images.
The patched file is measured from outside on images that no edit saw. Results: ``benchmarks/results/conditions.json``,
and ``conditions.md`` shows them; a row that is there is not run again. ``--quick``: two conditions of the shipped
network.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.recovery import edited_from, lay_out, load_png, pair_of, save_png
from benchmarks.runs import conclude, keep, options, stored
from benchmarks.zoo import datasets
from benchmarks.zoo.recipes import RECIPES
from benchmarks.zoo.train import make_trigger, measure, trained

CALIBRATION = 1_000  # laid out; most conditions use the first 200 of them
USUAL = 200
DIRTY = 20  # every twentieth calibration image carries the trigger: 5 %
QUALITY = 90
PATCH_ONLY = ("patch", "patch2")
Pair = tuple[np.ndarray, np.ndarray]
Row = dict[str, Any]


def compressed(image: np.ndarray, quality: int = QUALITY) -> np.ndarray:
    """An image that went through JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "JPEG", quality=quality)
    return load_png(buffer)


def both_compressed(clean: np.ndarray, poisoned: np.ndarray) -> Pair:
    """Clean and corrupted image were both kept as JPEG."""
    return compressed(clean), compressed(poisoned)


def one_compressed(clean: np.ndarray, poisoned: np.ndarray) -> Pair:
    """Only the corrupted one was: it was sent from somewhere."""
    return clean, compressed(poisoned)


def off_by_one(clean: np.ndarray, poisoned: np.ndarray) -> Pair:
    """The clean image was cropped one pixel further to the left than the corrupted one."""
    return np.pad(clean, ((0, 0), (1, 0), (0, 0)), mode="edge")[:, :-1], poisoned


def retouched(clean: np.ndarray, poisoned: np.ndarray) -> Pair:
    """There is no clean image: somebody painted over the patch with what lies around it (a wide blur)."""
    changed = (clean != poisoned).any(2)
    around = np.ones_like(changed)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    around[box] = False
    filled = poisoned.astype(float)
    filled[box] = poisoned[around].mean(0)  # so that the blur does not draw the patch's own colour in
    plain = Image.fromarray(filled.round().astype(np.uint8).squeeze())
    blurred = np.asarray(plain.filter(ImageFilter.GaussianBlur(3))).reshape(poisoned.shape)
    painted = poisoned.copy()
    painted[box] = blurred[box]
    return painted, poisoned


MADE: dict[str, Callable[[np.ndarray, np.ndarray], Pair]] = {
    "both images JPEG": both_compressed,
    "corrupted image JPEG": one_compressed,
    "one pixel off": off_by_one,
    "retouched": retouched,
}
PAIRS = {"5 pairs": 5, "20 pairs": 20}
IMAGES = {"50 calibration images": 50, "1,000 calibration images": 1_000}
UNTOUCHED = "untouched"
CONDITIONS = ("as it should be", "another pair", *PAIRS, *IMAGES, "5 % carry the trigger", *MADE)
ORDER = (UNTOUCHED, *CONDITIONS)
NETWORKS = ("cifar-resnet-patch-scratch", "fashion-resnet-patch", "fashion-resnet-sinusoid")
FEW = ("5 % carry the trigger", "one pixel off")  # of ``--quick``


def fits(condition: str, name: str) -> bool:
    """Whether the condition makes sense for the network's trigger."""
    return condition != "retouched" or any(kind in PATCH_ONLY for kind in name.split("-"))


def calibration(folder: Path, count: int) -> Path:
    """The first ``count`` of the calibration images, in a folder of their own."""
    there = folder / f"calibration-{count}"
    if not there.exists():
        there.mkdir()
        for path in sorted((folder / "calibration").iterdir())[:count]:
            shutil.copyfile(path, there / path.name)
    return there


def soiled(name: str, folder: Path) -> Path:
    """The usual calibration images, 5 % of them with the trigger."""
    there = folder / "soiled"
    shutil.copytree(calibration(folder, USUAL), there)
    stamp = make_trigger(RECIPES[name])
    assert stamp is not None
    for path in sorted(there.iterdir())[::DIRTY]:
        save_png(stamp(load_png(path)[None])[0], path)
    return there


def words_of(condition: str, name: str, folder: Path) -> tuple[tuple[Path, Path], list[str | Path]]:
    """The first pair's files, and what else the command line is given."""
    pair = pair_of(folder, 1 if condition == "another pair" else 0)
    if condition in MADE:
        own = folder / "made"
        made = MADE[condition](*map(load_png, pair))
        pair = (own / f"{condition}-clean.png", own / f"{condition}-poisoned.png")
        for image, path in zip(made, pair, strict=True):
            save_png(image, path)
    images = soiled(name, folder) if condition == "5 % carry the trigger" else None
    extra: list[str | Path] = ["--calibration", images or calibration(folder, IMAGES.get(condition, USUAL))]
    for number in range(1, PAIRS.get(condition, 1)):
        clean, poisoned = pair_of(folder, number)
        extra += ["--clean", clean, "--poisoned", poisoned]
    return pair, extra


def repaired(condition: str, name: str, folder: Path, judged: datasets.Split) -> Row:
    """One repair through the command line, measured from outside."""
    began = time.time()
    pair, extra = words_of(condition, name, folder)
    done = edited_from(name, folder, pair, *extra)
    row: Row = {"name": name, "condition": condition, "test_images": len(judged.labels)}
    if done.network is None:
        return {**row, "exit_code": done.code, "error": done.error}
    found = vars(measure(done.network, RECIPES[name], judged))
    notes = {"policy": done.report["edit"]["policy"], "notes": done.report["run"]["notes"]}
    return {**row, "exit_code": 0, **found, **notes, "seconds": round(time.time() - began, 1)}


def rows_of(name: str, conditions: list[str], tests: int) -> Iterator[Row]:
    """The untouched network's row, then those of the conditions."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        judged, _ = lay_out(name, folder, CALIBRATION, tests)
        for condition in conditions:
            if condition == UNTOUCHED:
                found = vars(measure(trained(name), RECIPES[name], judged))
                yield {"name": name, "condition": condition, "test_images": tests, "exit_code": 0, **found}
            else:
                yield repaired(condition, name, folder, judged)


HEAD = """# The main job when the material is not perfect

Made by `python -m benchmarks.conditions`; percent, of test images that no edit saw. *Accuracy*: of all classes;
*others*: clean images of the other classes, what recovery is held against; *ASR*: triggered images of the other
classes that go to the target (*base*: so many of them go there without the trigger); *recovery*: those that get their
true class. The usual material is one PNG pair and 200 clean calibration images. What it says:
[conditions-reading.md](conditions-reading.md).
"""


def markdown(rows: list[Row]) -> str:
    """A table for each network."""
    parts = [HEAD]
    for name in dict.fromkeys(row["name"] for row in rows):
        parts += [f"## {name}\n", "| material | accuracy | others | ASR | base | recovery | edit |", "|---" * 7 + "|"]
        for row in sorted((r for r in rows if r["name"] == name), key=lambda r: ORDER.index(r["condition"])):
            if row["exit_code"]:
                parts.append(f"| {row['condition']} | exit code {row['exit_code']}: {row['error']} | | | | | |")
                continue
            keys = ("accuracy", "accuracy_other", "asr", "base_rate", "recovery")
            cells = [row["condition"], *(f"{100 * row[key]:.2f}" for key in keys), row.get("policy", "–")]
            parts.append("| " + " | ".join(cells) + " |")
        parts.append("")
    return "\n".join(parts)


def main() -> None:
    """Run what was asked for and is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    parser.add_argument("--only", nargs="+", choices=CONDITIONS, default=list(CONDITIONS), metavar="CONDITION")
    parser.add_argument("--test", type=int, default=2_000)
    asked = options(parser, "conditions", names=NETWORKS[:1], only=["as it should be", *FEW], test=1_000)
    rows = stored(asked.results)
    for name in asked.names:
        there = {row["condition"] for row in rows if row["name"] == name}
        wanted = [c for c in (UNTOUCHED, *asked.only) if c not in there and fits(c, name)]
        for row in rows_of(name, wanted, asked.test) if wanted else ():
            rows.append(row)
            print(row, flush=True)
            keep(asked, rows, markdown(rows))
    conclude(asked)


if __name__ == "__main__":
    main()
