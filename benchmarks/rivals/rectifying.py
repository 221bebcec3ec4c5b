"""Static and dynamic rectifying as published (arXiv 2603.15656); what it leaves open is chosen here and said here.

A layer is a linear associative memory: k* the key of the corrupted image, v* the clean image's value, C the second
moment of keys of reference images. The edit is of rank one:

    W' = W + Λ (C^-1 k*)^T,    Λ = argmin || v* - f_l(k*; W') ||

Static: one edit of the last feature layer. Dynamic: score every layer on the current model by the editability
``G = || M (C^-1 k*)^T ||_F`` (M its attribution on the path from corrupted to clean), edit the best, keep the edit if
the degradation is acceptable, else roll back and stop; until the gap f(x) - f(x~) is closed.

Open in the paper, and chosen here: of a convolution, k* is the mean of the keys at the positions that the fault changes
(residual above 5 % of the largest), or the key where it changes most, and Λ is least squares over the changed positions
(exact for one); v* is the layer's own output; C is damped by 1e-2; f is the probability of the class; degradation is
the share of calibration images that change their class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.rivals.choice import BY_PAIR, Attempt, by_pair, logits, on_pair
from benchmarks.rivals.evidence import Evidence, Method, Outcome
from rectify.editing.fault import Fault
from rectify.editing.localize import localize, second_moments
from rectify.model.record import record
from rectify.model.trace import Site, survey

CHANGED, DAMPING = 0.05, 1e-2
KEYS = ("mean", "largest")
MOST_EDITS, CLOSED = 10, 0.05  # dynamic: edits at most, and the gap that counts as closed
DEGRADATIONS = (0.01, 0.05)
STEPS = 16  # of the path


def rank_one(keys: Tensor, residuals: Tensor, moment: Tensor, which: str = "mean") -> Tensor:
    """The edit Λ (C^-1 k*)^T.

    Parameters
    ----------
    keys
        (d, P) of the corrupted image.
    residuals
        (o, P), the clean image's values less the corrupted one's.
    moment
        (d, d) C, undamped.
    which
        ``mean`` of the changed positions, or the position of the ``largest`` change.

    Returns
    -------
    Tensor
        (o, d) float64.
    """
    keys, residuals, moment = keys.double(), residuals.double(), moment.double()
    size = residuals.norm(dim=0)
    changed = size >= CHANGED * size.max()
    key = keys[:, changed].mean(1) if which == "mean" else keys[:, size.argmax()]
    identity = torch.eye(len(moment), dtype=torch.float64)
    damped = (1 - DAMPING) * moment + DAMPING * moment.diagonal().mean() * identity
    towards = torch.linalg.solve(damped, key)
    along = towards @ keys[:, changed]
    return torch.outer(residuals[:, changed] @ along / along.square().sum().clamp_min(1e-300), towards)


@torch.no_grad()
def edit(network: nn.Module, site: Site, case: Evidence, which: str) -> None:
    """Edit one layer of the network in place."""
    layer = site.layer
    seen = record(network, torch.cat((case.clean, case.corrupted)), inputs=[layer], outputs=[layer])
    keys, values = layer.keys(seen.inputs[layer.name], 2)[1, 0], layer.values(seen.outputs[layer.name], 2)
    moment = second_moments(network, [site], case.calibration)[layer.name][0]
    delta = rank_one(keys, values[0, 0] - values[1, 0], moment, which)
    weight = layer.module.weight
    weight.copy_(weight.double() + delta.reshape(weight.shape))


def sites(network: nn.Module, case: Evidence, features: bool = True) -> list[Site]:
    """The layers that may be edited, but for the projections beside residual branches.

    The feature layers are the convolutions; else the classifier may be edited too.
    """
    found = [site for site in survey(network, case.clean) if not site.is_shortcut and site.layer.groups == 1]
    return [site for site in found if isinstance(site.layer.module, nn.Conv2d)] if features else found


def best(network: nn.Module, case: Evidence, features: bool = True) -> Site:
    """The layer of the greatest published score on the current model."""
    found = sites(network, case, features)
    target = int(logits(network, case.corrupted).argmax())
    fault = Fault("flip", target, torch.tensor([case.label]), torch.tensor([True]), ())
    scored = localize(network, found, case.clean, case.corrupted, fault, case.calibration, steps=STEPS)
    return max(scored.scores, key=lambda score: score.editability or 0.0).site


def gap(network: nn.Module, case: Evidence) -> float:
    """f(x) - f(x~)."""
    both = logits(network, torch.cat((case.clean, case.corrupted))).softmax(1)[:, case.label]
    return float(both[0] - both[1])


def last_convolution(network: nn.Module, case: Evidence) -> Site:
    """The last feature layer."""
    return sites(network, case)[-1]


def _static(case: Evidence, find: Callable[[nn.Module, Evidence], Site]) -> Iterator[Attempt]:
    for which in KEYS:
        network = case.copy()
        site = find(network, case)
        edit(network, site, case, which)
        yield on_pair(case, {"layer": site.name, "key": which}, network)


def dynamic(case: Evidence, which: str, most: float, features: bool = True) -> tuple[nn.Module, list[str]]:
    """The published loop; returns the network and the layers edited, in their order."""
    network = case.copy()
    edited: list[str] = []
    opinion = logits(case.network, case.calibration).argmax(1)
    while gap(network, case) > CLOSED and len(edited) < MOST_EDITS:
        site = best(network, case, features)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        edit(network, site, case, which)
        if float((logits(network, case.calibration).argmax(1) != opinion).float().mean()) > most:
            network.load_state_dict(before)
            break
        edited.append(site.name)
    return network, edited


def _dynamic(case: Evidence, features: bool) -> Iterator[Attempt]:
    for which in KEYS:
        for most in DEGRADATIONS:
            network, edited = dynamic(case, which, most, features)
            yield on_pair(case, {"layers": "+".join(edited) or "none", "key": which, "eps": most}, network)


def _repair_static(case: Evidence) -> Outcome:
    return by_pair(_static(case, last_convolution))


def _repair_best(case: Evidence) -> Outcome:
    return by_pair(_static(case, best))


def _repair_dynamic(case: Evidence) -> Outcome:
    return by_pair(_dynamic(case, features=True))


def _repair_anywhere(case: Evidence) -> Outcome:
    return by_pair(_dynamic(case, features=False))


STATIC = Method(
    title="static rectifying",
    source="arXiv 2603.15656",
    formula="W + Λ (C^-1 k*)^T, the last feature layer",
    sees="pair, 200 unlabelled",
    settings="the last convolution; k* the mean of the changed positions or the position changed most; damping 1e-2",
    rule=BY_PAIR,
    repair=_repair_static,
)
BEST = Method(
    title="static, best score",
    source="arXiv 2603.15656",
    formula="the same, at the feature layer of the greatest editability",
    sees="pair, 200 unlabelled",
    settings="the convolution of the greatest score; else as static rectifying",
    rule=BY_PAIR,
    repair=_repair_best,
)
DYNAMIC = Method(
    title="dynamic rectifying",
    source="arXiv 2603.15656, Algorithm 1",
    formula="the same, at the feature layer of the greatest editability, again until the gap closes",
    sees="pair, 200 unlabelled",
    settings=f"k* as there; degradation at most {' or '.join(f'{100 * d:g} %' for d in DEGRADATIONS)}; gap closed at "
    f"{CLOSED:g}, {MOST_EDITS} edits at most",
    rule=BY_PAIR,
    repair=_repair_dynamic,
)
ANYWHERE = replace(
    DYNAMIC,
    title="dynamic, any layer",
    formula="the same, the classifier among the layers",
    settings="as dynamic rectifying",
    repair=_repair_anywhere,
)
