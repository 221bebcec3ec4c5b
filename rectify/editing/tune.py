"""Tune the closed form of one layer: what corrupted images weigh against clean ones, and how far its moment is shrunk.

A layer that sees few keys (the first linear layer of a small network has thousands of inputs and one key an image)
learns the calibration images by heart: what the closed form asks of it there costs accuracy on all others. Less weight
and more damping keep that accuracy, and how much of them is right depends on the layer, the fault and the number of
images. So the judge, whose images the form is not solved on, is asked: a walk downhill on a small grid, from the
strongest edit on. The normal equations are summed once, so that a step of it costs one factorisation and one judgement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from rectify.editing.cascade import LayerEdit, Material, Strength, apply, equations, solution
from rectify.editing.judge import Bench, Judgement
from rectify.model.copies import copied
from rectify.model.trace import Site

WEIGHTS = (1.0, 0.3, 0.1, 0.03)  # of a corrupted image against a clean one
DAMPINGS = (0.01, 0.03, 0.1, 0.3)
MOST_INPUTS = 8192  # of the layer: the factorisation of more takes a core longer than a quarter of a minute
Place = tuple[int, int]  # in WEIGHTS and in DAMPINGS


@dataclass(frozen=True)
class Tuned:
    """A layer's edit at the strength that the judge likes best, and what the judge says of it."""

    strength: Strength
    edit: LayerEdit
    judgement: Judgement


def is_tunable(site: Site) -> bool:
    """Whether a layer is small enough for its normal equations to be solved a dozen times."""
    return bool(site.layer.weight().shape[-1] <= MOST_INPUTS)


def tuned(
    network: nn.Module,
    site: Site,
    material: Material,
    strength: Strength,
    bench: Bench,
    *,
    weights: Sequence[float] = WEIGHTS,
    batch: int = 64,
    advance: Callable[[Strength], None] = lambda strength: None,
) -> Tuned:
    """One layer's edit at the strength that the judge likes best, of those that a walk from the strongest edit meets.

    Parameters
    ----------
    network
        The one that is edited; the same at the end as at the beginning.
    site
        Of the layer.
    material
        What the edit is solved on.
    strength
        Of which weight and damping are tuned, and the rest is kept.
    bench
        What it is judged on.
    weights
        That are tried, the strongest first.
    advance
        Called with each strength once it has been judged.
    """
    asked = equations(network, site, material, strength.changed_only, batch)
    best: Tuned | None = None

    def loss(place: Place) -> float:
        nonlocal best
        at = replace(strength, weight=weights[place[0]], damping=DAMPINGS[place[1]])
        student, edit = copied(network), solution(site.name, asked, at)
        apply(student, edit)
        tried = Tuned(at, edit, bench.judge(student))
        if best is None or tried.judgement.loss < best.judgement.loss:
            best = tried  # where the walk ends: it goes to what is better than all it has met
        advance(at)
        return tried.judgement.loss

    downhill(loss, (len(weights), len(DAMPINGS)))
    assert best is not None
    return best


def downhill(loss: Callable[[Place], float], shape: Place) -> Place:
    """Where a walk on a grid ends that begins at (0, 0) and goes to the best neighbour as long as that is better.

    ``loss`` is asked once of each place that is met.
    """
    known: dict[Place, float] = {}

    def value(place: Place) -> float:
        if place not in known:
            known[place] = loss(place)
        return known[place]

    here: Place = (0, 0)
    while True:
        row, column = here
        around = [(row + 1, column), (row, column + 1), (row - 1, column), (row, column - 1)]
        inside = [place for place in around if 0 <= place[0] < shape[0] and 0 <= place[1] < shape[1]]
        best = min(inside, key=value)
        if value(best) >= value(here):
            return here
        here = best
