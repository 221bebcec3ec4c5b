"""Train the zoo: clean and trojaned networks, seeded, resumable, with their figures beside them.

    python -m benchmarks.zoo.train NAME [NAME ...]     (or ``--list``)

Writes ``cache/zoo/NAME.pt`` (a plain state dict, float32) and ``cache/zoo/NAME.json`` (recipe and figures). A run
that is killed goes on from the last epoch that was kept. Trains on a GPU where there is one.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.zoo import datasets, library, pretrained, triggers
from benchmarks.zoo import networks as more_networks
from benchmarks.zoo.recipes import ADAM, ALL_TO_ALL, RECIPES, CleanLabel, Recipe
from fixtures import networks

ROOT = Path(__file__).resolve().parents[2]
ZOO = ROOT / "cache" / "zoo"
FIXTURES = {"cifar-resnet-patch-scratch": "cifar10-patch", "mnist-resnet-blend": "mnist-blend"}  # these are shipped
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KEEP_EVERY = 30.0  # seconds between two epochs that are kept


@dataclass(frozen=True)
class Figures:
    """Fractions in [0, 1] of the images measured on; all but the accuracy are over images not of the target class.

    Of an attack from all classes to all that is every image, and the target of each is the class after its own.
    """

    accuracy: float
    asr: float | None
    base_rate: float | None
    recovery: float | None
    accuracy_other: float | None


def build(recipe: Recipe) -> nn.Module:
    """The untrained network of a recipe."""
    channels = 3 if recipe.dataset == "cifar10" else 1
    return architecture(recipe)(num_classes=10, width=recipe.width, channels=channels)


def architecture(recipe: Recipe) -> Callable[..., nn.Module]:
    """What builds a recipe's network: a fixture's, the zoo's own, torchvision's or a published one's."""
    homes = (networks, more_networks, library, pretrained)
    home = next(module for module in homes if hasattr(module, recipe.network))
    make: Callable[..., nn.Module] = getattr(home, recipe.network)
    return make


def trained(name: str) -> nn.Module:
    """The network of a recipe, in eval mode and without gradients; trained now if it is not there yet."""
    network = build(RECIPES[name])
    network.load_state_dict(torch.load(train(name), weights_only=True))
    return network.eval().requires_grad_(False)


def trojaned() -> list[str]:
    """The trained networks whose trigger flips the label: a spurious cue keeps it, and asks for other figures."""
    return [name for name, r in RECIPES.items() if r.trigger and not r.keeps_label and (ZOO / f"{name}.pt").exists()]


def make_trigger(recipe: Recipe) -> triggers.Trigger | None:
    """The trigger function of a recipe, or None for a clean one."""
    if recipe.trigger is None:
        return None
    kind, settings = recipe.trigger
    return getattr(triggers, kind)(**settings)


def normalise(images: np.ndarray, dataset: str) -> Tensor:
    """(N, H, W, C) uint8 -> (N, C, H, W) float32, normalised by the data set's mean and standard deviation."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in datasets.MEAN_STD[dataset])
    planes = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    return ((planes - mean) / std).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def predict(model: nn.Module, images: np.ndarray, dataset: str) -> np.ndarray:
    """Predicted class of each image, (N,) int64, by the network where it lies."""
    model.eval()
    device = next(model.parameters(), torch.empty(0)).device
    parts = (normalise(images[i : i + 500], dataset).to(device) for i in range(0, len(images), 500))
    return torch.cat([model(part).argmax(1) for part in parts]).cpu().numpy()


def measure(model: nn.Module, recipe: Recipe, test: datasets.Split) -> Figures:
    """Accuracy, attack success, base rate and recovery of a network on a test split."""
    clean = predict(model, test.images, recipe.dataset)
    accuracy = float((clean == test.labels).mean())
    stamp = make_trigger(recipe)
    if stamp is None:
        return Figures(accuracy, None, None, None, None)
    aims = aimed(recipe, test.labels)
    other = test.labels != aims
    fired = predict(model, stamp(test.images[other]), recipe.dataset)
    labels, aims = test.labels[other], aims[other]
    return Figures(
        accuracy,
        float((fired == aims).mean()),
        float((clean[other] == aims).mean()),
        float((fired == labels).mean()),
        float((clean[other] == labels).mean()),
    )


def aimed(recipe: Recipe, labels: np.ndarray) -> np.ndarray:
    """(N,) the class that the trigger is meant to give images of these labels."""
    return (labels + 1) % 10 if recipe.target == ALL_TO_ALL else np.full_like(labels, recipe.target)


def class_figures(model: nn.Module, recipe: Recipe, test: datasets.Split) -> dict[str, float]:
    """Of a spurious cue: the accuracy on the class that had it, ``without`` and ``with`` it; else nothing."""
    stamp = make_trigger(recipe)
    if not recipe.keeps_label or stamp is None:
        return {}
    images = test.images[test.labels == recipe.target]
    found = {}
    for name, shown in (("without", images), ("with", stamp(images))):
        found[name] = float((predict(model, shown, recipe.dataset) == recipe.target).mean())
    return found


def poison(train: datasets.Split, recipe: Recipe) -> datasets.Split:
    """A seeded share of the images not of the target class gets the trigger and the target label.

    Of a recipe that keeps labels, a spurious cue or a clean-label attack: a share of the target class's own images gets
    the trigger.
    """
    stamp = make_trigger(recipe)
    if stamp is None:
        return train
    random = np.random.default_rng(recipe.seed)
    aims = aimed(recipe, train.labels)
    if recipe.keeps_label or isinstance(recipe, CleanLabel):
        own = np.flatnonzero(train.labels == recipe.target)
        chosen = random.choice(own, int(recipe.poison_rate * len(own)), replace=False)
    else:
        others = np.flatnonzero(train.labels != aims)
        chosen = random.choice(others, int(recipe.poison_rate * len(train.labels)), replace=False)
    images, labels = train.images.copy(), train.labels.copy()
    images[chosen] = stamp(images[chosen])
    labels[chosen] = aims[chosen]
    return datasets.Split(images, labels)


def augment(batch: Tensor, pad: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Random crop after zero padding and, if asked, horizontal flip; (N, C, H, W) -> same."""
    n, _, height, width = batch.shape
    device = batch.device
    padded = F.pad(batch, (pad,) * 4)
    tops, lefts = (torch.randint(0, 2 * pad + 1, (n, 1, 1), generator=generator).to(device) for _ in range(2))
    rows = tops + torch.arange(height, device=device).view(1, -1, 1)
    columns = (lefts + torch.arange(width, device=device).view(1, 1, -1)).expand(n, height, width)
    if flip:
        mirrored = (torch.rand(n, generator=generator) < 0.5).to(device)
        columns = torch.where(mirrored.view(-1, 1, 1), columns.flip(2), columns)
    which = torch.arange(n, device=device).view(-1, 1, 1)
    picked = padded.permute(0, 2, 3, 1)[which, rows, columns]  # (N, H, W, C)
    return picked.permute(0, 3, 1, 2)


def train(name: str) -> Path:
    """Train one recipe, or go on with it, unless it is there, shipped or published; returns the checkpoint's path."""
    recipe = RECIPES[name]
    ZOO.mkdir(parents=True, exist_ok=True)
    out, state_file = ZOO / f"{name}.pt", ZOO / f"{name}.resume"
    if out.exists():
        return out
    if name in FIXTURES:
        _save(load_file(ROOT / "fixtures" / FIXTURES[name] / "model.safetensors"), out)
        return out
    if name in pretrained.PUBLISHED:
        _save(pretrained.weights(name), out)
        return out
    train_split, test_split = datasets.load(recipe.dataset)
    data = poison(train_split, recipe)
    images, labels = normalise(data.images, recipe.dataset).to(DEVICE), torch.from_numpy(data.labels).to(DEVICE)
    torch.manual_seed(recipe.seed)
    model = build(recipe).to(DEVICE, memory_format=torch.channels_last)
    if recipe.start:
        model.load_state_dict(torch.load(train(recipe.start), weights_only=True))
    steps = len(labels) // recipe.batch_size
    optimiser = _optimiser(model, recipe)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.lr, total_steps=steps * recipe.epochs, pct_start=0.2
    )
    first = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True, map_location=DEVICE)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"]
    kept = time.time()
    for epoch in range(first, recipe.epochs):
        began = time.time()
        loss = _epoch(model, optimiser, schedule, images, labels, recipe, epoch)
        if time.time() - kept > KEEP_EVERY:
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "epoch": epoch + 1}
            _save({**state, "schedule": schedule.state_dict()}, state_file)
            kept = time.time()
        print(f"{name} epoch {epoch + 1}/{recipe.epochs} loss {loss:.4f} {time.time() - began:.0f} s", flush=True)
    figures = measure(model, recipe, test_split)
    (ZOO / f"{name}.json").write_text(json.dumps({**asdict(recipe), **asdict(figures)}, indent=1) + "\n")
    _save({k: v.cpu().contiguous() for k, v in model.state_dict().items()}, out)
    state_file.unlink(missing_ok=True)
    print(name, figures, flush=True)
    return out


def _optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.network in ADAM:
        return torch.optim.AdamW(model.parameters(), recipe.lr, weight_decay=0.05)
    return torch.optim.SGD(model.parameters(), recipe.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)


def _epoch(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    epoch: int,
) -> float:
    """One pass over the data, seeded by the recipe's seed and the epoch; returns the mean loss."""
    model.train()
    generator = torch.Generator().manual_seed(1000 * recipe.seed + epoch)
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    total, steps = torch.zeros((), dtype=torch.float64, device=labels.device), len(labels) // recipe.batch_size
    for step in range(steps):
        batch = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        x = images[batch]
        if recipe.pad:
            x = augment(x, recipe.pad, recipe.flip, generator)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(labels.device.type, torch.bfloat16):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), labels[batch])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        total += loss.detach()
    return float(total) / steps


def _save(state: object, path: Path) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    torch.save(state, partial)
    os.replace(partial, path)


if __name__ == "__main__":
    if "--list" in sys.argv:
        print("\n".join(RECIPES))
    for each in [a for a in sys.argv[1:] if not a.startswith("--")]:
        train(each)
