"""The training loop: one plan, one network, one set of images; killed at any moment it goes on where it was."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rectify.errors import CheckpointError, RectifyError, TrainingError
from rectify.evaluation.accuracy import softmax
from rectify.files.builders import line_of_users
from rectify.files.words import reason
from rectify.training import objectives
from rectify.training.data import Labelled
from rectify.training.inner import Ball, steady
from rectify.training.path import nodes_that_fit
from rectify.training.presets import WITH_PATHS, Plan
from rectify.training.state import Keeper, Position, advice, generator, mixed, order

if TYPE_CHECKING:
    from rectify.jobs.common import Progress

WATCHED = 2_000  # validation images that are looked at after every epoch
STOPS = (signal.SIGINT, signal.SIGTERM)  # signals that end a training when its step is done
Bounds = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Training:
    """What is trained, on what and how.

    Attributes
    ----------
    network
        Trained in place, on ``device``.
    plan, data, val
        Settings, images, and images that only watch.
    bounds
        The network's values of a black and of a white pixel.
    keeper
        Where states are kept; None keeps none.
    """

    network: nn.Module
    plan: Plan
    data: Labelled
    bounds: Bounds
    device: torch.device
    val: Labelled | None = None
    keeper: Keeper | None = None

    @property
    def steps_an_epoch(self) -> int:
        """Steps of one pass; a last batch of one image is left out where there are others: it has no statistics."""
        images = min(len(self.data), self.plan.epoch_size or len(self.data))
        full, rest = divmod(images, self.plan.batch_size)
        return full + (rest > (1 if full else 0))

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.plan.epochs * self.steps_an_epoch


def train(run: Training, progress: Progress, *, resume: bool = False) -> list[dict[str, Any]]:
    """Train the network in place and return what every epoch came to.

    Parameters
    ----------
    resume
        Go on from the keeper's state.

    Returns
    -------
    list of dict
        ``epoch``, ``loss`` (mean over its images), ``val_accuracy`` (None without validation images), ``lr``, ``eps``.

    Raises
    ------
    TrainingError
        If the loss is no finite number, or the network cannot be trained.
    CheckpointError, UsageError, OutputError
        See `Keeper`.
    """
    network = run.network.train()
    network.requires_grad_(True)
    optimiser = make_optimiser(network, run.plan)
    objective = make_objective(run, _chunk(run))
    with _between_steps() as asked:
        at = _begin(run, network, optimiser, resume)
        progress.start(f"training ({run.plan.objective})", run.steps)
        progress.advance(at.step)
        clock = _Clock(run.steps, at.step)
        while at.step < run.steps and not asked.is_set():
            _step(run, objective, optimiser, at)
            progress.advance()
            if at.step % run.steps_an_epoch == 0:
                _close_epoch(run, at, progress, clock)
            if run.keeper is not None and (run.keeper.due() or at.step == run.steps):
                run.keeper.keep(network, optimiser, at, _where(run, at.step))
        if asked.is_set():
            if run.keeper is not None:
                run.keeper.keep(network, optimiser, at, _where(run, at.step))
            raise KeyboardInterrupt
    progress.stop()
    network.eval().requires_grad_(False)
    return at.history


def _begin(run: Training, network: nn.Module, optimiser: torch.optim.Optimizer, resume: bool) -> Position:
    """Where the training stands: at its start, which is kept, or where the kept state is."""
    at = Position()
    torch.manual_seed(mixed(run.plan.seed, 3))  # of dropout; a state to go on from has its own
    if run.keeper is not None and resume:
        return run.keeper.restore(network, optimiser)
    if run.keeper is not None:
        run.keeper.keep(network, optimiser, at, "its start")
    return at


@contextmanager
def _between_steps() -> Iterator[threading.Event]:
    """Context in which the first Ctrl-C or SIGTERM only sets the event: the step or save under way is finished.

    The second one interrupts at once. A signal that is somebody else's business, or another thread than the main one,
    is left alone: only where Python's own handler would raise KeyboardInterrupt is there anything to put off.
    """
    asked = threading.Event()
    ours = [each for each in STOPS if signal.getsignal(each) is signal.default_int_handler]
    if threading.current_thread() is not threading.main_thread():
        ours = []

    def give_back() -> None:
        for each in ours:
            signal.signal(each, signal.default_int_handler)

    def ask(*_: object) -> None:
        asked.set()
        give_back()

    for each in ours:
        signal.signal(each, ask)
    try:
        yield asked
    finally:
        give_back()


Step = Callable[[Tensor, Tensor, float, torch.Generator], Tensor]  # images, classes, eps, generator to the loss


def make_objective(run: Training, chunk: int | None) -> Step:
    """The plan's objective as a function of a batch, its eps and its generator."""
    plan, network = run.plan, run.network

    def loss(x: Tensor, y: Tensor, eps: float, noise: torch.Generator) -> Tensor:
        if plan.objective == "natural":
            return objectives.natural(network, x, y)
        if plan.objective == "input-gradient":
            return objectives.input_gradient(network, x, y, plan.weight)
        # a smaller ball is searched in steps that are smaller by as much
        ball = Ball(eps, plan.attack_step * eps / plan.eps, plan.attack_steps, run.bounds)
        if plan.objective == "madry":
            return objectives.madry(network, x, y, ball, noise)
        function = objectives.ig_norm if plan.objective == "ig-norm" else objectives.ig_sum_norm
        points = {"points": plan.path_points, "attack_points": plan.attack_points}
        return function(network, x, y, ball, weight=plan.weight, **points, chunk=chunk, generator=noise)

    return loss


def make_optimiser(network: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """Adam or momentum, with weight decay on weights of two dimensions or more.

    Raises
    ------
    TrainingError
        If the network has no weights.
    """
    if not any(True for _ in network.parameters()):
        raise TrainingError("the network has no weights to train: give another --arch")
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    rate = plan.learning_rate(0)
    if plan.optimiser == "adam":
        return torch.optim.Adam(groups, rate)
    return torch.optim.SGD(groups, rate, momentum=plan.momentum)


def _chunk(run: Training) -> int | None:
    """Path points a pass, by the memory bound."""
    if run.plan.objective not in WITH_PATHS:
        return None
    x, y = (t.to(run.device) for t in run.data.take(torch.zeros(1, dtype=torch.int64)))
    batch = min(run.plan.batch_size, len(run.data))
    with _in_words(run):
        return nodes_that_fit(run.network, x.expand(batch, *x.shape[1:]), y)


def _step(run: Training, objective: Step, optimiser: torch.optim.Optimizer, at: Position) -> None:
    plan = run.plan
    epoch, batch = divmod(at.step, run.steps_an_epoch)
    rows = order(len(run.data), plan.seed, epoch, plan.epoch_size)[batch * plan.batch_size :][: plan.batch_size]
    x, y = (t.to(run.device) for t in run.data.take(rows))
    with _in_words(run):
        loss = objective(x, y, plan.radius(at.step, run.steps), generator(plan.seed, 2, at.step))
    value = float(loss.detach())
    if not math.isfinite(value):
        where = _where(run, at.step)
        raise TrainingError(f"the loss is {value} {_hint(run, where)}")
    for group in optimiser.param_groups:
        group["lr"] = plan.learning_rate(at.step)
    optimiser.zero_grad()
    with _in_words(run):
        (loss * len(x) if plan.summed else loss).backward()
    optimiser.step()
    at.loss, at.images, at.step = at.loss + value * len(x), at.images + len(x), at.step + 1


@contextmanager
def _in_words(run: Training) -> Iterator[None]:
    """What a network cannot do, or its own code raises, becomes a line that says what to do; our errors stay errors."""
    try:
        yield
    except (RectifyError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        said = str(error)
        if "can't allocate memory" in said:  # out of memory, as torch says it on the CPU
            raise
        if run.plan.objective in ("input-gradient", *WITH_PATHS) and _once_only(said):
            what = said.partition("derivative for ")[2].partition(" ")[0].removeprefix("aten::") or "own operation"
            raise TrainingError(
                f"{run.plan.objective} differentiates the network twice, and torch cannot do that to its {what}: "
                "use --objective madry, or a network without it"
            ) from error
        if "does not require grad" in said or "not have been used in the graph" in said:
            raise TrainingError(
                "the network's output has no gradient: something in it detaches (no_grad, detach, numpy); "
                "take that out of its code"
            ) from error
        if place := line_of_users(error):
            kept = "" if run.keeper is None else f"; {run.keeper.told()}"
            raise TrainingError(f"the network fails in training: {reason(error)} ({place}){kept}") from error
        raise


def _once_only(said: str) -> bool:
    """Whether torch says so that an operation has no second derivative."""
    return "derivative for" in said or "differentiate twice" in said


def _close_epoch(run: Training, at: Position, progress: Progress, clock: _Clock) -> None:
    plan, epoch = run.plan, at.step // run.steps_an_epoch
    entry = {
        "epoch": epoch,
        "loss": at.loss / at.images,
        "val_accuracy": _watched(run, at.step),
        "lr": plan.learning_rate(at.step - 1),
        "eps": plan.radius(at.step - 1, run.steps) if plan.objective in ("madry", *WITH_PATHS) else None,
    }
    at.history, at.loss, at.images = [*at.history, entry], 0.0, 0
    watched = "" if entry["val_accuracy"] is None else f", validation accuracy {100 * entry['val_accuracy']:.1f} %"
    left = clock.left(at.step)
    progress.say(f"epoch {epoch} of {plan.epochs}: loss {entry['loss']:.4f}{watched}{left}")


def _watched(run: Training, step: int) -> float | None:
    """Accuracy on some of the validation images, where there are any."""
    if run.val is None:
        return None
    try:
        return accuracy_of(run.network, run.val, run.device, WATCHED)
    except CheckpointError:
        hint = _hint(run, _where(run, step))
        raise TrainingError(f"what the network says of the validation images is not finite {hint}") from None


def _hint(run: Training, where: str) -> str:
    return run.keeper.hint(where) if run.keeper else advice(where, asdict(run.plan))


def accuracy_of(
    network: nn.Module, images: Labelled, device: torch.device, most: int | None = None, batch: int = 256
) -> float:
    """Share of the images (the first ``most`` of a fixed shuffle) that the network classifies right, in eval mode."""
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:most]
    right = 0
    with steady(network):
        for part in rows.split(batch):
            x, y = images.take(part)
            right += int((softmax(network, x, batch, device).argmax(1).cpu() == y).sum())
    return right / len(rows)


def _where(run: Training, step: int) -> str:
    epoch, batch = divmod(step, run.steps_an_epoch)
    return f"step {batch} of epoch {epoch + 1}" if batch else f"the end of epoch {epoch}" if epoch else "the first step"


@dataclass
class _Clock:
    """Says how long it will still take, from the pace since this process began."""

    steps: int
    first: int
    began: float = 0.0

    def __post_init__(self) -> None:
        self.began = time.monotonic()

    def left(self, step: int) -> str:
        """``, 3 min left``; empty at the end."""
        seconds = (time.monotonic() - self.began) / max(1, step - self.first) * (self.steps - step)
        if step >= self.steps:
            return ""
        if seconds < 90:
            return f", {seconds:.0f} s left"
        return f", {seconds / 60:.0f} min left" if seconds < 5400 else f", {seconds / 3600:.1f} h left"
