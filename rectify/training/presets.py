"""The settings of a training, and the paper's own by name.

Chen et al. 2019 (arXiv 1905.09957) and the configuration files of its official code, read setting by setting. Where
that code sums the loss over the batch (all of its attribution objectives) and moves by momentum, the sum belongs to the
learning rate, and ``summed`` keeps it; with Adam a sum and a mean are the same course.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rectify.errors import UsageError
from rectify.files.words import did_you_mean
from rectify.names import OBJECTIVES

Schedule = tuple[tuple[int, float], ...]  # (step, learning rate) from which it holds
WITH_PATHS = ("ig-norm", "ig-sum-norm")
ATTACKED = ("madry", *WITH_PATHS)
WEIGHTS = {"input-gradient": 1.0, "ig-norm": 1.0, "ig-sum-norm": 0.1}


@dataclass(frozen=True)
class Plan:
    """How a network is trained. All of it is in the report, and a run can only be resumed under the same plan.

    Attributes
    ----------
    objective
        One of `OBJECTIVES`.
    eps, attack_step, attack_steps
        The L-infinity ball and its search, in pixel units (white is 1).
    path_points, attack_points
        m, and how many of them the attack takes.
    weight
        lambda of IG-NORM and of the input gradient, beta of IG-SUM-NORM.
    ramp
        Share of the training in which eps grows from 0 in equal steps; 0: it is whole from the start. A short training
        in a large ball does not begin to learn without.
    epochs, epoch_size, batch_size
        Passes over the data, images a pass (None: all), images a step.
    optimiser
        ``adam``, or ``momentum``: SGD with ``momentum``.
    weight_decay
        Of weights with two dimensions or more, not of biases; added to the loss as ``weight_decay / 2 * ||w||^2``.
    schedule
        (step, learning rate) from which it holds, the first at step 0.
    summed
        Multiply the loss by the batch size: see the top of this file.
    seed
        Of the fresh weights, the order of the images and the attacks.
    """

    objective: str = "natural"
    eps: float = 8 / 255
    attack_step: float = 2 / 255
    attack_steps: int = 7
    path_points: int = 10
    attack_points: int = 2
    weight: float = 0.0
    ramp: float = 0.0
    epochs: int = 10
    epoch_size: int | None = None
    batch_size: int = 64
    optimiser: str = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = ((0, 1e-4),)
    summed: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises
        ------
        UsageError
            An unknown objective or optimiser, no ball to search, or a count below one.
        """
        if self.objective not in OBJECTIVES:
            raise UsageError(f"no objective {self.objective!r}; {did_you_mean(self.objective, OBJECTIVES)}")
        if self.optimiser not in ("adam", "momentum"):
            raise UsageError(f"no optimiser {self.optimiser!r}: adam or momentum")
        if self.objective in ATTACKED and self.eps <= 0:
            raise UsageError(
                f"eps {self.eps:g} leaves {self.objective} no ball to search: give one above 0, or natural"
            )
        counts = (self.attack_steps, self.path_points, self.attack_points, self.epochs, self.batch_size)
        if min(*counts, 1 if self.epoch_size is None else self.epoch_size) < 1:
            raise UsageError("steps, path points, epochs and images a step are at least 1")

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step."""
        return [rate for start, rate in self.schedule if start <= step][-1]

    def radius(self, step: int, steps: int) -> float:
        """eps of a step of so many."""
        if not self.ramp:
            return self.eps
        return self.eps * min(1.0, (step + 1) / (self.ramp * steps))


@dataclass(frozen=True)
class Preset:
    """One row of the paper: what it trains on, which network, and how.

    Attributes
    ----------
    data
        The packaged set that it is for, None where the user has to bring a folder.
    preprocess
        As values that `Preprocess.from_dict` takes.
    images
        Images of the paper's training set: a step count becomes epochs by it.
    top, attack_top
        k of the top-k intersection, and of the attack that lowers it.

    Notes
    -----
    For GTSRB the official code equalises the histogram of each channel before anything else; a folder has to be
    prepared so, as preprocessing that a checkpoint can name knows no such step.
    """

    arch: str
    arch_args: dict[str, Any]
    num_classes: int
    preprocess: dict[str, Any]
    images: int
    plan: Plan
    data: str | None = None
    top: int = 100
    attack_top: int = 100


_GREY = {"input_size": [1, 28, 28], "mean": [0.0], "std": [1.0]}  # the paper's networks take pixels as they are


def _colour(size: int) -> dict[str, Any]:
    return {"input_size": [3, size, size], "mean": [0.0] * 3, "std": [1.0] * 3, "crop_mode": "squash"}


_CNN = "rectify.training.networks:small_cnn"
_RESNET = "rectify.training.networks:small_resnet"
_MNIST = Plan(eps=0.3, attack_step=0.01, attack_steps=40, path_points=50, attack_points=10, batch_size=50)
_ROAD = Plan(
    path_points=50,
    attack_points=5,
    batch_size=64,
    optimiser="momentum",
    weight_decay=2e-4,
    schedule=((0, 1e-3), (500, 1e-2), (60_000, 1e-3)),
)
_ROWS: dict[str, Preset] = {
    "mnist": Preset(_CNN, {}, 10, _GREY, 55_000, _MNIST, "mnist", attack_top=200),
    "fashion-mnist": Preset(_CNN, {}, 10, _GREY, 55_000, replace(_MNIST, eps=0.1, attack_steps=20), "fashion-mnist"),
    "gtsrb": Preset(_RESNET, {}, 43, _colour(32), 39_209, _ROAD),
    "flower": Preset(_RESNET, {}, 17, _colour(128), 1_224, replace(_ROAD, batch_size=16), None, 1000, 1000),
}
_STEPS = {"mnist": 100_000, "fashion-mnist": 100_000, "gtsrb": 70_000, "flower": 70_000}
_NATURAL_STEPS = {"mnist": 25_000, "fashion-mnist": 25_000}
_WEIGHTS = {"gtsrb": {"ig-sum-norm": 1.0}, "flower": {"ig-norm": 0.1}}  # where they are not those of MNIST
PRESETS = (*_ROWS, *(f"{name}-quick" for name in _ROWS))


def schedule_text(schedule: Schedule) -> float | str:
    """A schedule as ``--lr`` reads it: ``0.002,600:0.0005``; a number where the rate never changes."""
    if len(schedule) == 1:
        return schedule[0][1]
    return ",".join(f"{step}:{rate!r}" if step else repr(rate) for step, rate in schedule)


def preset(name: str, objective: str | None = None) -> Preset:
    """A preset with its objective's own weight, steps and learning rate; the paper's subject, IG-SUM-NORM, by default.

    A ``-quick`` form takes a quarter of an hour on one core: ten path points, two of them in the attack, seven attack
    steps over the same ball, which grows over the first half; 800 steps with a larger learning rate; and, where it is
    the convolutional network, one of half the width. It is no reproduction of the row.

    Raises
    ------
    UsageError
        Unknown name.
    """
    row = name.removesuffix("-quick")
    if row not in _ROWS or name not in PRESETS:
        raise UsageError(f"--preset {name}: no such preset; {did_you_mean(name, PRESETS)}")
    chosen = objective or "ig-sum-norm"
    found = _ROWS[row]
    plan = replace(found.plan, objective=chosen, weight=weight_of(chosen, row))
    steps = _NATURAL_STEPS.get(row, _STEPS[row]) if chosen == "natural" else _STEPS[row]
    plan = replace(plan, epochs=-(-steps // -(-found.images // plan.batch_size)))
    if chosen in WITH_PATHS and plan.optimiser == "momentum":
        plan = replace(plan, summed=True)
        if row == "flower":
            plan = replace(plan, schedule=tuple((start, rate / 10) for start, rate in plan.schedule))
    if name == row:
        return replace(found, plan=plan)
    return replace(found, plan=_quick(plan), arch_args={"width": 16})  # the ResNet's own width, half of the other's


def weight_of(objective: str, row: str = "mnist") -> float:
    """lambda or beta of an objective: the row's, else that of MNIST; 0 where the objective has none."""
    return _WEIGHTS.get(row, {}).get(objective, WEIGHTS.get(objective, 0.0))


def _quick(plan: Plan) -> Plan:
    return replace(
        plan,
        attack_step=plan.eps / 4,
        attack_steps=7,
        path_points=10,
        attack_points=2,
        ramp=0.5,
        epochs=8,
        epoch_size=5_000,
        batch_size=50,
        optimiser="adam",
        weight_decay=0.0,
        schedule=((0, 2e-3), (600, 5e-4)),
        summed=False,
    )
