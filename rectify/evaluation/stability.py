"""How much a map depends on the number of path points and on the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rectify.attribution.attribution import Attribution, Method, Settings
from rectify.attribution.baselines import baseline_name
from rectify.attribution.score import Score
from rectify.evaluation.measure import Measure, flat_heat
from rectify.evaluation.ranks import constant_rows, spearman
from rectify.names import BASELINES

STEPS = (1, 15, 30)
REFERENCE_STEPS = 300


def stability_over_steps(
    method: Method,
    score: Score,
    x: Tensor,
    targets: Tensor,
    settings: Settings,
    *,
    steps: Sequence[int] = STEPS,
    reference_steps: int = REFERENCE_STEPS,
) -> list[Measure]:
    """Maps with few path points against the map with many, all else equal.

    Parameters
    ----------
    method, score, x, targets, settings
        What to attribute and how; ``steps`` and ``tolerance`` of the settings are not used.
    steps
        Numbers of path points to judge.
    reference_steps
        Of the map that they are held against.

    Returns
    -------
    For each number of steps ``stability-spearman`` (of |channel sum|), ``stability-l1`` and ``stability-l2``
    (distance of the signed channel sums relative to the norm of the reference).
    """
    fixed = replace(settings, tolerance=None)  # a tolerance would change the steps
    reference = method(score, x, targets, replace(fixed, steps=reference_steps))
    told = {"baseline": baseline_name(settings), "reference_steps": reference_steps, "rule": _rule(reference)}
    found: list[Measure] = []
    for number in steps:
        here = method(score, x, targets, replace(fixed, steps=number))
        found += compare(flat_heat(here), flat_heat(reference), "stability", {"steps": number, **told})
    return found


def stability_over_baselines(
    method: Method,
    score: Score,
    x: Tensor,
    targets: Tensor,
    settings: Settings,
    *,
    baselines: Sequence[str | Tensor] = BASELINES,
    steps: int = STEPS[-1],
    reference_steps: int = REFERENCE_STEPS,
) -> list[Measure]:
    """Maps from other baselines against the map of many steps from the baseline of ``settings``.

    A method that makes its own baseline, such as UNI, gives the same map for each: nothing is to be learned of it here.

    Parameters
    ----------
    method, score, x, targets, settings
        What to attribute and how; the reference starts from ``settings.baseline``.
    baselines
        Names or images, see `rectify.attribution.baselines`; all but ``mean`` and ``blur`` need ``settings.bounds``.
    steps, reference_steps
        Path points of the maps judged and of the reference.

    Returns
    -------
    For each baseline what `stability_over_steps` gives, named ``baseline-stability-...``.
    """
    fixed = replace(settings, tolerance=None)
    reference = method(score, x, targets, replace(fixed, steps=reference_steps))
    told = {"steps": steps, "reference_baseline": baseline_name(settings), "reference_steps": reference_steps}
    told |= {"rule": _rule(reference), "seed": settings.seed}
    found: list[Measure] = []
    for baseline in baselines:
        changed = replace(fixed, baseline=baseline, steps=steps)
        here = flat_heat(method(score, x, targets, changed))
        named = {"baseline": baseline_name(changed), **told}
        found += compare(here, flat_heat(reference), "baseline-stability", named)
    return found


def compare(heat: Tensor, reference: Tensor, name: str, told: dict[str, Any]) -> list[Measure]:
    """Spearman of |heat| and relative L1 and L2 distance of two sets of maps (N, D).

    ``constant`` counts the images with a map that does not vary (Spearman 0), ``empty_reference`` those whose
    reference is zero everywhere: their distance is 0 if the map is zero too, else 1.
    """
    one, other = heat.abs(), reference.abs()
    constant = int((constant_rows(one) | constant_rows(other)).sum())
    found = [Measure(f"{name}-spearman", spearman(one, other), None, {**told, "map": "|channel sum|"})]
    found[0] = replace(found[0], settings={**found[0].settings, "constant": constant})
    for order in (1, 2):
        size = reference.norm(order, dim=1)
        distance = (heat - reference).norm(order, dim=1)
        relative = torch.where(size > 0, distance / size.masked_fill(size == 0, 1), (distance > 0).double())
        more = {"map": "signed channel sum", "empty_reference": int((size == 0).sum())}
        found.append(Measure(f"{name}-l{order}", relative, None, {**told, **more}))
    return found


def _rule(attribution: Attribution) -> str | None:
    """The quadrature that the method used, its own default included."""
    rule: str | None = attribution.settings.get("rule")
    return rule
