"""The loop: what a step does, what is kept, and that a resumed run is the run that was never stopped."""

from __future__ import annotations

import copy
import itertools
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rectify.errors import CheckpointError, OutputError, TrainingError, UsageError
from rectify.training import state
from rectify.training.data import Labelled
from rectify.training.loop import Training, accuracy_of, make_optimiser, train
from rectify.training.presets import OBJECTIVES, Plan
from rectify.training.state import Keeper, Position, generator, order, random_states, set_random_states

PLAN = Plan(
    objective="ig-sum-norm",
    eps=0.1,
    attack_step=0.05,
    attack_steps=2,
    path_points=3,
    attack_points=2,
    weight=0.1,
    ramp=0.5,
    epochs=3,
    batch_size=4,
    schedule=((0, 0.02), (3, 0.01)),
)
BOUNDS = (torch.zeros(1, 1, 1), torch.ones(1, 1, 1))


class Silence:
    """Progress that remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.done = 0

    def start(self, label: str, total: int | None = None) -> None:
        self.done = 0

    def advance(self, n: int = 1) -> None:
        self.done += n

    def say(self, line: str) -> None:
        self.said.append(line)

    def stop(self) -> None:
        pass


class Net(nn.Module):
    """Batch normalisation and dropout: buffers, and a random state that has to be restored."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3))
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x))
        return out


def images(count: int = 10) -> Labelled:
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(count) % 3
    x = 0.3 * labels.view(-1, 1, 1, 1) + 0.3 * torch.rand(count, 1, 6, 6, generator=generator)
    return Labelled(x, labels, None, "0" * 64)


def fresh(plan: Plan = PLAN, keeper: Keeper | None = None, count: int = 10, val: Labelled | None = None) -> Training:
    torch.manual_seed(7)
    return Training(Net(), plan, images(count), BOUNDS, torch.device("cpu"), val, keeper)


def keeper(path: Path, plan: Plan = PLAN, seconds: float = 0.0) -> Keeper:
    return Keeper(path, asdict(plan) | {"schedule": [list(s) for s in plan.schedule]}, seconds)


class Killed(Exception):
    pass


def kill_after(writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """End the run right after the so-manieth state was written, before anything else happens."""
    counter = itertools.count(1)
    write = state.write_atomic

    def and_die(*args: Any, **more: Any) -> None:
        write(*args, **more)
        if next(counter) == writes:
            raise Killed

    monkeypatch.setattr(state, "write_atomic", and_die)


@pytest.mark.parametrize("optimiser", ["adam", "momentum"])
@pytest.mark.parametrize("writes", [1, 2, 4, 5, 10])  # its start, within an epoch, at its end, the end of all
def test_a_resumed_run_is_the_run_that_was_not_stopped(
    writes: int, optimiser: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(PLAN, optimiser=optimiser, weight_decay=0.01)
    whole = fresh(plan, val=images(6))
    history = train(whole, Silence())
    kept = keeper(tmp_path / "a.resume", plan)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(writes, patch)
        train(fresh(plan, kept, val=images(6)), Silence())
    torch.manual_seed(99)  # another process: everything that was is gone
    np.random.seed(99)
    again = Training(Net(), plan, images(), BOUNDS, torch.device("cpu"), images(6), keeper(kept.path, plan))
    assert train(again, Silence(), resume=True) == history
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_learns(objective: str) -> None:
    run = fresh(replace(PLAN, objective=objective, epochs=12, ramp=0.0))
    history = train(run, Silence())
    assert history[-1]["loss"] < 0.95 * history[0]["loss"]
    assert not run.network.training and not any(p.requires_grad for p in run.network.parameters())
    assert accuracy_of(run.network, run.data, run.device) > 0.5


def test_history_and_progress() -> None:
    run, progress = fresh(val=images(6)), Silence()
    history = train(run, progress)
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    assert [entry["lr"] for entry in history] == [0.02, 0.01, 0.01]
    assert [entry["eps"] for entry in history] == pytest.approx([0.1 * 3 / 4.5, 0.1, 0.1])
    assert all(0 <= entry["val_accuracy"] <= 1 for entry in history)
    assert progress.done == run.steps == 9
    assert "left" in progress.said[0] and "left" not in progress.said[2] and "epoch 3 of 3" in progress.said[2]


@pytest.mark.parametrize(("images", "size", "steps"), [(10, 4, 3), (9, 4, 2), (8, 4, 2), (1, 4, 1), (3, 4, 1)])
def test_a_last_batch_of_one_image_is_left_out(images: int, size: int, steps: int) -> None:
    assert fresh(replace(PLAN, batch_size=size), count=images).steps_an_epoch == steps


def test_an_epoch_may_be_a_part_drawn_anew() -> None:
    assert fresh(replace(PLAN, epoch_size=6)).steps_an_epoch == 2
    first, second = (order(10, 0, epoch, 6) for epoch in (0, 1))
    assert len(first) == 6 and not torch.equal(first, second)
    assert sorted(order(10, 0, 0, None).tolist()) == list(range(10))
    assert torch.equal(order(10, 0, 0, None)[:6], first)
    assert not torch.equal(order(10, 1, 0, 6), first)


def test_the_noise_of_a_step_is_its_own() -> None:
    draws = [torch.rand(3, generator=generator(*numbers)) for numbers in ((0, 2, 5), (0, 2, 5), (0, 2, 6), (1, 2, 5))]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], draws[3])


def test_a_summed_loss_moves_by_as_much_more() -> None:
    plan = replace(
        PLAN, objective="natural", optimiser="momentum", momentum=0.0, epochs=1, epoch_size=4, weight_decay=0
    )
    moves = []
    for summed, rate in ((False, 0.04), (True, 0.01)):
        run = fresh(replace(plan, summed=summed, schedule=((0, rate),)))
        run.network.body[4].p = 0.0
        train(run, Silence())
        moves.append(run.network.head.weight.clone())
    torch.testing.assert_close(*moves)


def test_biases_do_not_decay() -> None:
    groups = make_optimiser(Net(), replace(PLAN, weight_decay=0.1)).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(2, 0.1), (4, 0.0)]


# --------------------------------------------------------------------------------------------------- what goes wrong


def poisoned(at: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A hook that makes the weights NaN in the so-manieth forward pass of training."""
    counter = itertools.count(1)

    def hook(module: nn.Module, _: tuple[Tensor, ...]) -> None:
        if next(counter) == at:
            with torch.no_grad():
                module.head.weight.fill_(torch.nan)

    return hook


def test_a_loss_that_is_no_number_keeps_the_last_good_state(tmp_path: Path) -> None:
    plan = replace(PLAN, objective="natural")
    run = fresh(plan, keeper(tmp_path / "a.resume", plan))
    run.network.register_forward_pre_hook(poisoned(5))
    with pytest.raises(
        TrainingError,
        match=r"the loss is nan at step 1 of epoch 2: start anew with --lr 0.001 --force in.*state .step 1 of epoch 2",
    ):
        train(run, Silence())
    kept = torch.load(tmp_path / "a.resume", weights_only=True)
    assert kept["position"]["step"] == 4 and all(bool(v.isfinite().all()) for v in kept["model"].values())


def test_a_network_that_is_no_use_in_eval_mode_ends_the_run(tmp_path: Path) -> None:
    plan = replace(PLAN, objective="natural")
    run = fresh(plan, keeper(tmp_path / "a.resume", plan))
    run = replace(run, val=run.data)
    run.network.register_forward_hook(lambda network, _, output: output if network.training else output * torch.nan)
    with pytest.raises(TrainingError, match=r"validation images is not finite at the end of epoch 1: start anew with"):
        train(run, Silence())


def test_weights_that_are_no_numbers_are_not_kept(tmp_path: Path) -> None:
    kept, network = keeper(tmp_path / "a.resume"), Net()
    optimiser = make_optimiser(network, PLAN)
    kept.keep(network, optimiser, Position(), "its start")
    before = kept.path.read_bytes()
    with torch.no_grad():
        network.head.bias[0] = torch.inf
    with pytest.raises(TrainingError, match=r"head.bias holds values that are no numbers at x:.*its start.*a.resume"):
        kept.keep(network, optimiser, Position(1), "x")
    assert kept.path.read_bytes() == before


def test_a_full_disk_stops_the_run_and_keeps_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = keeper(tmp_path / "a.resume")
    counter = itertools.count(1)
    write = state.write_atomic

    def full(*args: Any, **more: Any) -> None:
        if next(counter) == 3:
            raise OutputError("cannot write a.resume: No space left on device")
        write(*args, **more)

    told = r"No space left on device; the state at step 1 of epoch 1 is kept in .*the same command with --resume"
    with monkeypatch.context() as patch, pytest.raises(OutputError, match=told):
        patch.setattr(state, "write_atomic", full)
        train(fresh(keeper=kept), Silence())
    assert torch.load(kept.path, weights_only=True)["position"]["step"] == 1
    assert len(train(fresh(keeper=keeper(kept.path)), Silence(), resume=True)) == 3


def test_a_state_of_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    kept = keeper(tmp_path / "a.resume")
    network = Net()
    kept.keep(network, make_optimiser(network, PLAN), Position(), "its start")
    other = replace(PLAN, weight=0.2)
    with pytest.raises(UsageError, match=r"is of a run with --weight 0\.1, not 0\.2: resume with the same settings"):
        keeper(kept.path, other).restore(network, make_optimiser(network, other))


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"schedule": [[0, 0.5]]}, r"--lr 0\.02,3:0\.01, not 0\.5: resume"),
        ({"path_points": 9, "attack_points": 1}, r"--path-steps 3, not 9: resume"),
        ({"attack_step": 0.5, "attack_steps": 9}, r"--attack-steps 2, not 9: resume"),
        ({"data": "x"}, r"of a run with another --data: resume"),
    ],
)
def test_what_differs_is_named_as_it_is_typed(other: dict[str, Any], told: str, tmp_path: Path) -> None:
    kept, network = keeper(tmp_path / "a.resume"), Net()
    kept.keep(network, make_optimiser(network, PLAN), Position(), "its start")
    later = Keeper(kept.path, kept.plan | other)
    with pytest.raises(UsageError, match=told + ".*--force in place of --resume"):
        later.restore(network, make_optimiser(network, PLAN))


def test_a_state_of_another_network_says_so(tmp_path: Path) -> None:
    """The code of a user's architecture was changed between the two runs."""
    kept = keeper(tmp_path / "a.resume")
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    kept.keep(network, make_optimiser(network, PLAN), Position(), "its start")
    before = kept.path.read_bytes()
    with pytest.raises(CheckpointError, match=r"does not fit the network as it is now.*undo.*--force in place of"):
        train(fresh(keeper=keeper(kept.path)), Silence(), resume=True)
    assert kept.path.read_bytes() == before


@pytest.mark.skipif(signal.getsignal(signal.SIGINT) is not signal.default_int_handler, reason="Ctrl-C is caught")
def test_ctrl_c_keeps_the_step_under_way(tmp_path: Path) -> None:
    """Pressed in the middle of a step, with no state due for an hour."""
    history = train(fresh(), Silence())
    kept, counter = keeper(tmp_path / "a.resume", seconds=3600), itertools.count()
    run = fresh(keeper=kept)
    asked = []

    def press(*_: Any) -> None:
        if next(counter) == 17:
            asked.append(1)
            signal.raise_signal(signal.SIGINT)

    run.network.register_forward_pre_hook(press)
    with pytest.raises(KeyboardInterrupt):
        train(run, Silence())
    assert asked and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert 0 < torch.load(kept.path, weights_only=True)["position"]["step"] < 9
    again = fresh(keeper=keeper(kept.path))
    assert train(again, Silence(), resume=True) == history


@pytest.mark.parametrize("content", [b"", b"not a state", b"PK\x03\x04"])
def test_a_damaged_state_says_so(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.resume").write_bytes(content)
    with pytest.raises(CheckpointError, match="is no state of a training: delete it"):
        train(fresh(keeper=keeper(tmp_path / "a.resume")), Silence(), resume=True)


def test_a_state_of_another_version_says_so(tmp_path: Path) -> None:
    torch.save({"format": 0, "plan": {}}, tmp_path / "a.resume")
    with pytest.raises(CheckpointError, match="another version"):
        train(fresh(keeper=keeper(tmp_path / "a.resume")), Silence(), resume=True)


def test_states_are_not_written_all_the_time(tmp_path: Path) -> None:
    kept = keeper(tmp_path / "a.resume", seconds=3600)
    run = fresh(keeper=kept)
    wrote = []
    keep = kept.keep
    kept.keep = lambda *args: (wrote.append(args[2].step), keep(*args))  # type: ignore[method-assign]
    train(run, Silence())
    assert wrote == [0, 9]
    kept.seconds, kept.took = 0.001, 100.0  # slow to write: at most a twentieth of the time goes into it
    assert not kept.due()


def test_every_random_state_is_kept() -> None:
    import random

    before = random_states()
    first = random.random(), np.random.rand(), torch.rand(1).item()
    set_random_states(copy.deepcopy(before))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == first


class Once(torch.autograd.Function):
    """An operation that torch can differentiate once only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return slope


def test_a_network_that_cannot_be_differentiated_twice_is_told_so() -> None:
    run = fresh(replace(PLAN, epochs=1))
    run.network.register_forward_pre_hook(lambda module, args: (_no_second(args[0]),))
    with pytest.raises(TrainingError, match="differentiates the network twice"):
        train(run, Silence())
    fine = fresh(replace(PLAN, epochs=1, objective="natural"))
    fine.network.register_forward_pre_hook(lambda module, args: (_no_second(args[0]),))
    assert train(fine, Silence())


def _no_second(x: Tensor) -> Tensor:
    return Once.apply(x) if x.requires_grad else x  # type: ignore[no-any-return]


def test_what_drew_random_numbers_before_does_not_matter() -> None:
    """Dropout draws from torch's own generator."""
    ends = []
    for drawn in (0, 3):
        run = fresh()
        torch.rand(drawn)
        train(run, Silence())
        ends.append({name: value.clone() for name, value in run.network.state_dict().items()})
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
