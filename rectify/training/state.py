"""What a training needs to go on as if it had never stopped: weights, optimiser, random states and the position.

The order of the images follows from seed and epoch and the noise of the attacks from seed and step, so that a position
is three numbers. A state file is written whole or not at all, and read with ``weights_only=True``.
"""

from __future__ import annotations

import functools
import io
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rectify.errors import CheckpointError, OutputError, TrainingError, UsageError
from rectify.files.atomic import write_atomic
from rectify.files.words import plain, reason
from rectify.training.presets import schedule_text

SECONDS = 30.0  # between two states
SHARE = 0.05  # of the time that may go into writing them
FORMAT = 1
DERIVED = ("attack_step", "attack_points", "momentum", "summed")  # they follow from settings that have a flag
FLAGS = {
    "base": "MODEL",
    "schedule": "--lr",
    "optimiser": "--optimizer",
    "path_points": "--path-steps",
    "arch_args": "--arch-arg",
    **{name: name.replace("_", " ") for name in DERIVED},
}


@dataclass
class Position:
    """Where a training stands: the step that comes next, and what the epoch under way has added up to."""

    step: int = 0
    loss: float = 0.0  # summed over the images of this epoch so far
    images: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Keeper:
    """Writes the state of a training, now and then.

    Attributes
    ----------
    path
        The state file.
    plan
        What the state belongs to, as JSON values: only the same plan on the same data may go on from it.
    seconds
        Least time between two states.
    """

    path: Path
    plan: dict[str, Any]
    seconds: float = SECONDS
    last: float = 0.0
    took: float = 0.0
    where: str = "its start"

    def due(self) -> bool:
        """Whether it is time for the next state; with 0 seconds it always is."""
        return not self.seconds or time.monotonic() - self.last >= max(self.seconds, self.took / SHARE)

    def keep(self, network: nn.Module, optimiser: torch.optim.Optimizer, at: Position, where: str) -> None:
        """Write the state.

        Raises
        ------
        TrainingError
            If a weight is no finite number: the state before stays.
        OutputError
            If it cannot be written; the state before stays.
        """
        began = time.monotonic()
        weights = network.state_dict()
        odd = next((n for n, v in weights.items() if v.is_floating_point() and not bool(v.isfinite().all())), None)
        if odd is not None:
            raise TrainingError(f"{plain(odd)} holds values that are no numbers {self.hint(where)}")
        state = {
            "format": FORMAT,
            "plan": self.plan,
            "model": weights,
            "optimiser": optimiser.state_dict(),
            "position": {"step": at.step, "loss": at.loss, "images": at.images, "history": at.history},
            "random": random_states(),
            "where": where,
        }
        stream = io.BytesIO()
        torch.save(state, stream)
        try:
            write_atomic(self.path, stream.getvalue())
        except OutputError as error:
            raise OutputError(f"{error}; {self.told()}") from None
        self.last, self.took, self.where = time.monotonic(), time.monotonic() - began, where

    def hint(self, where: str) -> str:
        """Where it happened, what to type, and what is kept."""
        if not self.last:
            return f"at {where}: nothing was trained, the weights that it would start from are no use"
        return f"{advice(where, self.plan)}; the last good state ({self.where}) is kept in {plain(self.path)}"

    def told(self) -> str:
        """What is left of a run that stops here, and what to type."""
        if self.last:
            kept = f"the state at {self.where} is kept in {plain(self.path)}"
            return f"{kept}: the same command with --resume goes on with it"
        return f"{plain(self.path)} is as it was" if self.there() else "nothing was trained yet"

    def restore(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> Position:
        """Bring network, optimiser and random states back to the state of the file, in place.

        Raises
        ------
        CheckpointError
            If the file cannot be read, or holds other tensors than the network and its optimiser.
        UsageError
            If it is of another plan, with what differs.
        """
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            told = state["plan"] if state["format"] == FORMAT else None
        except Exception:  # a truncated or foreign file may fail in any way
            raise CheckpointError(f"{plain(self.path)} is no state of a training: delete it to start anew") from None
        if told is None:
            raise CheckpointError(f"{plain(self.path)} is of another version of rectify: delete it to start anew")
        _check_plan(told, self.plan, self.path)
        try:
            at = Position(**state["position"])
            network.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            set_random_states(state["random"])
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{plain(self.path)} does not fit the network as it is now ({reason(error)}): undo what was changed in "
                "its code, or start anew with --force in place of --resume"
            ) from None
        self.last, self.where = time.monotonic(), str(state.get("where", self.where))
        return at

    def drop(self) -> None:
        """Delete the state file: the training is over and its result written."""
        self.path.unlink(missing_ok=True)

    def there(self) -> bool:
        """Whether an earlier run left a state."""
        return os.path.lexists(self.path)


def advice(where: str, plan: Mapping[str, Any]) -> str:
    """Where a training went astray, and what to type: a tenth of its learning rate, from the start."""
    rates = [rate for _, rate in plan.get("schedule", ())]
    rate = min(1e-3, max(rates, default=1e-2) / 10)
    return f"at {where}: start anew with --lr {rate:g} --force in place of --resume, or a smaller --eps or --weight"


def _check_plan(told: dict[str, Any], plan: dict[str, Any], path: Path) -> None:
    odd = sorted((key for key in plan if told.get(key) != plan[key]), key=lambda key: key in DERIVED)
    if not odd:
        return
    key = odd[0]
    name = FLAGS.get(key, f"--{key}".replace("_", "-"))
    before, now = _shown(key, told.get(key), plan.get(key))
    differs = f"{name} {before}, not {now}" if key not in ("base", "data") else f"another {name}"
    raise UsageError(
        f"{plain(path)} is of a run with {differs}: resume with the same settings, or start anew with --force in "
        "place of --resume"
    )


def _shown(key: str, before: Any, now: Any) -> tuple[str, str]:
    """A setting then and now as it would be typed; of a mapping what differs."""
    if key == "schedule" and before and now:
        return str(schedule_text(before)), str(schedule_text(now))
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        odd = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        words = [", ".join(f"{name}={side[name]}" for name in odd if name in side) for side in (before, now)]
        return plain(words[0] or "left out"), plain(words[1] or "left out")
    return plain(before), plain(now)


def random_states() -> dict[str, Any]:
    """The states of every generator that a network may draw from."""
    name, keys, place, has_gauss, cached = np.random.get_state()  # the legacy form: a tuple
    found: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(place),
            int(has_gauss),
            float(cached),
        ],
    }
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def set_random_states(states: dict[str, Any]) -> None:
    """Put them back."""
    torch.set_rng_state(states["torch"])
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, place, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), place, has_gauss, cached))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


def mixed(seed: int, *numbers: int) -> int:
    """One seed out of several numbers."""
    return int(np.random.SeedSequence((seed, *numbers)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, *numbers: int) -> torch.Generator:
    """A generator on the CPU that is the same on every machine."""
    return torch.Generator().manual_seed(mixed(seed, *numbers))


@functools.lru_cache(maxsize=2)
def order(count: int, seed: int, epoch: int, size: int | None) -> Tensor:
    """The rows of an epoch: a permutation of ``count``, its first ``size``."""
    return torch.randperm(count, generator=generator(seed, 1, epoch))[:size]
