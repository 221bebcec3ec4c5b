"""Class artefact compensation, P-ClArC and A-ClArC (Anders et al., Information Fusion 2022, arXiv 1912.11425).

In the activations a of one layer the artefact is a unit direction v, here from the pair: ``v ~ a(x~) - a(x)`` (a
pattern of one pair; with many images the papers fit it). Both move the coordinate along v and nothing else:

    h(a) = (I - v v^T) a + v v^T z  =  a + (v^T z - v^T a) v

P-ClArC puts h with z, the mean activation of clean images, into the network for good. A-ClArC puts h with z, the
activation of the artefact, in while it fine-tunes the layers behind on clean labelled images (on a random half of each
batch), so that they learn to ignore the direction, and takes it out again.

The direction is of the whole activation (channels, height, width), or of the channels alone, the same at all positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from benchmarks.rivals.choice import BY_PAIR, Attempt, accuracy, by_pair, on_pair
from benchmarks.rivals.evidence import Evidence, Method, Outcome
from benchmarks.rivals.training import SGD, descend
from fixtures.networks import BasicBlock

RATE = 0.03
SHAPES = ("whole", "channels")


@dataclass(frozen=True)
class Direction:
    """A unit direction of activations (1, C, H, W) or, of the channels alone, (1, C, 1, 1)."""

    unit: Tensor

    def along(self, a: Tensor) -> Tensor:
        """Coordinates of activations (N, C, H, W) along the direction: (N, 1, 1, 1) or, a position, (N, 1, H, W)."""
        products = (a * self.unit).sum(1, keepdim=True)
        return products if self.unit.shape[2:] == (1, 1) else products.sum((2, 3), keepdim=True)

    def moved(self, a: Tensor, level: Tensor) -> Tensor:
        """h(a): activations whose coordinate along the direction is ``level``, and which are else the same."""
        return a + (level - self.along(a)) * self.unit


def direction(clean: Tensor, corrupted: Tensor, shape: str) -> Direction:
    """From the activations of the pair, each (1, C, H, W)."""
    difference = corrupted - clean
    if shape == "channels":
        difference = difference.mean((2, 3), keepdim=True)
    return Direction(difference / difference.norm().clamp_min(1e-12))


@torch.no_grad()
def activation(network: nn.Module, point: str, images: Tensor) -> Tensor:
    """What a module puts out, (N, C, H, W)."""
    seen: list[Tensor] = []
    handle = network.get_submodule(point).register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    try:
        network(images)
    finally:
        handle.remove()
    return seen[0]


def blocks(network: nn.Module) -> list[str]:
    """The residual blocks, from the front: the layers at which artefacts are compensated."""
    return [name for name, module in network.named_modules() if isinstance(module, BasicBlock)]


@contextmanager
def inserted(network: nn.Module, point: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The network with a function put in behind a module."""
    handle = network.get_submodule(point).register_forward_hook(lambda _, __, output: change(output))
    try:
        yield
    finally:
        handle.remove()


def _projective(case: Evidence, point: str, shape: str) -> Attempt:
    network = case.copy()
    found = direction(activation(network, point, case.clean), activation(network, point, case.corrupted), shape)
    level = found.along(activation(network, point, case.calibration)).mean()
    network.get_submodule(point).register_forward_hook(lambda _, __, output: found.moved(output, level))
    return on_pair(case, {"layer": point, "direction": shape}, network)


def _p_clarc(case: Evidence) -> Outcome:
    return by_pair(_projective(case, point, shape) for point in blocks(case.network) for shape in SHAPES)


def behind(network: nn.Module, point: str) -> tuple[list[nn.Parameter], tuple[nn.Module, ...]]:
    """Parameters of all modules defined after a module (and its parts), and the modules before them."""
    names = [name for name, _ in network.named_modules()]
    inside = [i for i, name in enumerate(names) if name == point or name.startswith(f"{point}.")]
    front: Sequence[str] = names[1 : inside[-1] + 1]
    modules = tuple(network.get_submodule(name) for name in front)
    leaves = [module for module in modules if not list(module.children())]
    kept = {id(p) for module in leaves for p in module.parameters()}
    return [p for p in network.parameters() if id(p) not in kept], tuple(leaves)


def _augmentive(case: Evidence, point: str, shape: str) -> Attempt:
    network = case.copy()
    clean, corrupted = (activation(network, point, x) for x in (case.clean, case.corrupted))
    found = direction(clean, corrupted, shape)
    level = found.along(corrupted).mean()
    generator = torch.Generator().manual_seed(case.seed)

    def add(output: Tensor) -> Tensor:
        half = (torch.rand(len(output), 1, 1, 1, generator=generator) < 0.5).to(output)
        return output + half * (found.moved(output, level) - output)

    parameters, front = behind(network, point)
    with inserted(network, point, add):
        descend(case, network, RATE, parameters=parameters, frozen=front)
    tried = on_pair(case, {"layer": point, "direction": shape}, network)
    right = accuracy(network, case.validation)
    return replace(tried, figures={**tried.figures, "validation": right, "agreement": right})


def _a_clarc(case: Evidence) -> Outcome:
    points = blocks(case.network)[1::2][:-1]  # the ends of the stages; behind the last there is only the classifier
    return by_pair(_augmentive(case, point, shape) for point in points for shape in SHAPES)


P_CLARC = Method(
    title="P-ClArC",
    source="Anders et al., Information Fusion 2022",
    formula="project the artefact's direction to the clean mean, in the activations of one layer",
    sees="pair, 200 unlabelled",
    settings="behind each residual block; direction of the whole activation or of the channels",
    rule=BY_PAIR,
    repair=_p_clarc,
)
A_CLARC = Method(
    title="A-ClArC",
    source="Anders et al., Information Fusion 2022",
    formula="fine-tune the layers behind with the artefact added in the activations",
    sees="pair, 5 % labelled",
    settings=f"behind the last block of each stage but the last; direction of the whole activation or of the channels; "
    f"{SGD}; learning rate {RATE:g}",
    rule=f"{BY_PAIR}, with the accuracy on the validation images in place of the agreement",
    repair=_a_clarc,
)
