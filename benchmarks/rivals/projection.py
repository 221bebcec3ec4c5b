"""Direction projection: the trigger's direction taken out of the weights (Karayalcin et al. 2026, arXiv 2603.10806).

The paper works on the residual stream of vision transformers; a layer ``W k = v`` of any network has two sides:

    reads    W' = W (I - u u^T)    u the direction of the keys' differences k~ - k
    writes   W' = (I - r r^T) W    r the direction of the values' differences v~ - v

where the direction of differences at many positions is their leading singular vector. No reference data enter: what
clean images have along the direction is lost with it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.rivals.choice import BY_PAIR, Attempt, by_pair, on_pair
from benchmarks.rivals.evidence import Evidence, Method, Outcome
from rectify.model.layers import Layer, find_layers
from rectify.model.record import record

SIDES = ("reads", "writes")


def leading(differences: Tensor) -> Tensor:
    """(d,) the unit direction that carries most of differences (d, P)."""
    vectors: Tensor = torch.linalg.svd(differences.double(), full_matrices=False)[0]
    return vectors[:, 0]


def without(weight: Tensor, direction: Tensor, side: str) -> Tensor:
    """A weight (o, d) with a direction projected out, of its inputs (d,) or its outputs (o,)."""
    weight = weight.double()
    if side == "reads":
        return weight - torch.outer(weight @ direction, direction)
    return weight - torch.outer(direction, direction @ weight)


@torch.no_grad()
def project(network: nn.Module, layers: list[Layer], directions: dict[str, Tensor], side: str) -> None:
    """Project in place, layer by layer."""
    for layer in layers:
        changed = without(layer.weight()[0], directions[layer.name], side)
        layer.module.weight.copy_(changed.reshape(layer.module.weight.shape))


def directions(case: Evidence, layers: list[Layer], side: str) -> dict[str, Tensor]:
    """The trigger's direction at each layer's input or output, from the pair."""
    found = {}
    seen = record(case.network, torch.cat((case.clean, case.corrupted)), inputs=layers, outputs=layers)
    for layer in layers:
        values = (
            layer.keys(seen.inputs[layer.name], 2) if side == "reads" else layer.values(seen.outputs[layer.name], 2)
        )
        found[layer.name] = leading(values[1, 0] - values[0, 0])
    return found


def _attempts(case: Evidence) -> Iterator[Attempt]:
    for side in SIDES:
        layers = [layer for layer in find_layers(case.network) if layer.groups == 1]
        found = directions(case, layers, side)
        for chosen in [*([layer] for layer in layers), layers]:
            network = case.copy()
            own = [Layer(layer.name, network.get_submodule(layer.name)) for layer in chosen]  # type: ignore[arg-type]
            project(network, own, found, side)
            name = "all" if len(chosen) > 1 else chosen[0].name
            yield on_pair(case, {"layer": name, "side": side}, network)


def _repair(case: Evidence) -> Outcome:
    return by_pair(_attempts(case))


METHOD = Method(
    title="direction projection",
    source="Karayalcin et al., arXiv 2603.10806",
    formula="W (I - u u^T) or (I - r r^T) W",
    sees="pair, 200 unlabelled",
    settings="each layer alone and all together; the direction that is read or that is written",
    rule=f"{BY_PAIR} (the calibration images only choose)",
    repair=_repair,
)
