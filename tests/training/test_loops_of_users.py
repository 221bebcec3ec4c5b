"""The objectives in anyone's own loop: the loops of README.md and of the docstring run as they are written."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rectify.files.preprocess import Preprocess
from rectify.names import OBJECTIVES
from rectify.training import objectives
from rectify.training.inner import Ball
from rectify.training.objectives import ig_sum_norm, natural

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
GREY = Preprocess((1, 8, 8), (0.4,), (0.5,))


def images() -> list[tuple[Tensor, Tensor]]:
    """Batches whose classes are told apart by brightness, normalised."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(12) % 3
    x = 0.3 * y.view(-1, 1, 1, 1) + 0.3 * torch.rand(12, 1, 8, 8, generator=generator)
    return list(zip(((x - 0.4) / 0.5).split(6), y.split(6), strict=True))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def loops() -> dict[str, str]:
    """The code of README.md and of the docstring, word for word; the docstring's needs its imports only."""
    (readme,) = (code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "loader" in code)
    written = re.findall(r"\n\n((?: {4}.*\n|\n)+)", inspect.getmodule(objectives).__doc__ or "")  # type: ignore[union-attr]
    (docstring,) = (textwrap.dedent(block) for block in written if "loader" in block)
    imports = "from rectify.training.inner import Ball\nfrom rectify.training.objectives import ig_sum_norm\n"
    return {"README.md": readme, "docstring": imports + docstring}


@pytest.mark.parametrize("place", ["README.md", "docstring"])
def test_the_loop_as_it_is_written(place: str) -> None:
    code = loops()[place]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    net = network()
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    names: dict[str, Any] = {"network": net, "optimiser": optimiser, "loader": images(), "preprocess": GREY}
    losses = []
    for _ in range(6):
        exec(compile(code, place, "exec"), names)
        losses.append(names["loss"].item())
    assert losses[-1] < 0.8 * losses[0]
    assert net.training and all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_a_function_for_a_loop(name: str) -> None:
    function, net, batches = getattr(objectives, name.replace("-", "_")), network(), images()
    more = {"ball": Ball(0.1, 0.05, 2, GREY.bounds())} if "ball" in inspect.signature(function).parameters else {}
    more |= {"points": 3, "attack_points": 1} if "points" in inspect.signature(function).parameters else {}
    optimiser = torch.optim.SGD(net.parameters(), 0.05)
    before = natural(net, *batches[0]).item()
    for x, y in batches * 10:
        loss = function(net, x, y, **more)
        assert loss.ndim == 0
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert natural(net, *batches[0]).item() < 0.9 * before


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_docstring_gives_formula_and_source(name: str) -> None:
    first = (inspect.getdoc(getattr(objectives, name.replace("-", "_"))) or "").splitlines()[0]
    assert "E[" in first, "formula"
    assert name == "natural" or re.search(r"\(.* 20\d\d, ", first), "source"


def test_a_network_of_pixels_needs_no_bounds() -> None:
    net, (x, y) = network(), images()[0]
    loss = ig_sum_norm(net, (x * 0.5 + 0.4).clamp(0, 1), y, Ball(8 / 255, 2 / 255, 2), points=2, attack_points=1)
    loss.backward()
    assert loss.isfinite()
