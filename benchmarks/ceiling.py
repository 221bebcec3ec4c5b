"""What full supervision makes of a trojaned network: how far any repair of it could be expected to come.

    python -m benchmarks.ceiling [NAME ...] [--epochs 5 15]

The network is fine-tuned on the whole training set with the right labels, each image without and with the trigger,
which is put on after the shift and the mirroring: all that a defender who knew everything could do in so many epochs
(learning rate 0.05 for up to five, else 0.1). Measured on the whole test set. Results:
``benchmarks/results/ceiling.{json,md}``; a row that is there is not run again. ``--quick``: the shipped network of
MNIST, one epoch.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.runs import conclude, keep, options, stored
from benchmarks.zoo import datasets
from benchmarks.zoo.recipes import RECIPES
from benchmarks.zoo.train import augment, make_trigger, measure, normalise, trained

BATCH, SHORT = 128, 5
Row = dict[str, Any]


def supervised(name: str, epochs: int) -> nn.Module:
    """The network of a recipe after so many epochs on all training images, clean and triggered, with their labels."""
    recipe, network = RECIPES[name], trained(name).to(memory_format=torch.channels_last).requires_grad_(True)
    split, stamp = datasets.load(recipe.dataset)[0], make_trigger(recipe)
    assert stamp is not None
    planes = torch.from_numpy(np.ascontiguousarray(split.images)).permute(0, 3, 1, 2)
    labels = torch.from_numpy(split.labels)
    random, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    steps, rate = len(labels) // BATCH, 0.05 if epochs <= SHORT else 0.1
    optimiser = torch.optim.SGD(network.parameters(), rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps * epochs, pct_start=0.2)
    for epoch in range(epochs):
        network.train()
        began, order, total = time.time(), random.permutation(len(labels)), 0.0
        for batch in order[: steps * BATCH].reshape(steps, BATCH):
            x = planes[batch].float()
            x = augment(x, recipe.pad, recipe.flip, generator) if recipe.pad else x
            clean = x.to(torch.uint8).permute(0, 2, 3, 1).numpy()
            x = normalise(np.concatenate((clean, stamp(clean))), recipe.dataset)
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(x)
            loss = F.cross_entropy(logits.float(), labels[batch].repeat(2))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        print(f"{name} epoch {epoch + 1}/{epochs} loss {total / steps:.4f} {time.time() - began:.0f} s", flush=True)
    return network.eval().requires_grad_(False)


def table(rows: list[Row]) -> str:
    """Markdown, in percent."""
    lines = [
        f"# {(__doc__ or '').splitlines()[0]}\n",
        SAYS,
        "| network | epochs | accuracy | of other classes | ASR | recovery |",
    ]
    lines.append("|---" * 6 + "|")
    for row in rows:
        figures = [f"{100 * row[key]:.2f}" for key in ("accuracy", "accuracy_other", "asr", "recovery")]
        lines.append("| " + " | ".join([row["name"], str(row["epochs"] or "untouched"), *figures]) + " |")
    return "\n".join(lines) + "\n"


SAYS = """Made by `python -m benchmarks.ceiling`: fine-tuned on all training images with their labels, each without and
with the trigger. The whole test set; percent.
"""


def main() -> None:
    """Run what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["cifar-resnet-blend"])
    parser.add_argument("--epochs", type=int, nargs="+", default=[5, 15])
    asked = options(parser, "ceiling", names=["mnist-resnet-blend"], epochs=[1])
    rows = stored(asked.results)
    for name in asked.names:
        test = datasets.load(RECIPES[name].dataset)[1]
        for epochs in [0, *asked.epochs]:
            if not any((row["name"], row["epochs"]) == (name, epochs) for row in rows):
                network = supervised(name, epochs) if epochs else trained(name)
                rows.append({"name": name, "epochs": epochs, **vars(measure(network, RECIPES[name], test))})
                keep(asked, rows, table(rows))
    keep(asked, rows, table(rows))
    conclude(asked)


if __name__ == "__main__":
    main()
