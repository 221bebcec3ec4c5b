"""FT-SAM: fine-tuning with sharpness-aware minimisation (Zhu et al., ICCV 2023, arXiv 2304.11823).

    min_w  max_{||T_w^-1 e|| <= ρ}  L(w + e),   T_w = diag |w|

over clean labelled images. The inner maximum to first order is ``e = ρ T_w^2 g / ||T_w g||`` with g the gradient: large
weights, which the backdoor likes, are moved most. The step down takes the gradient at w + e.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.rivals.choice import BY_ACCURACY, by_accuracy, validated
from benchmarks.rivals.evidence import Evidence, Method, Outcome
from benchmarks.rivals.training import SGD, Loss, Step, descend, statistics_kept

TRIED = ((0.03, 0.5), (0.03, 2.0), (0.1, 2.0))  # learning rate and ρ


@torch.no_grad()
def ascent(weights: list[Tensor], gradients: list[Tensor], rho: float) -> list[Tensor]:
    """The step e for each weight: ``||T_w^-1 e|| = ρ`` over all weights together."""
    scaled = [w.abs() * g for w, g in zip(weights, gradients, strict=True)]
    norm = torch.stack([s.norm() for s in scaled]).norm().clamp_min(1e-12)
    return [rho * w.abs() * s / norm for w, s in zip(weights, scaled, strict=True)]


def sam_step(rho: float) -> Step:
    """A step of descent that takes its gradient at the top of the ascent."""

    def step(network: nn.Module, optimiser: torch.optim.Optimizer, loss: Loss) -> None:
        weights = [p for group in optimiser.param_groups for p in group["params"]]
        gradients = torch.autograd.grad(loss(), weights)  # here, at w itself, batch norms gather their statistics
        moves = ascent(weights, list(gradients), rho)
        before = [w.detach().clone() for w in weights]
        with torch.no_grad():
            torch._foreach_add_(weights, moves)
        optimiser.zero_grad(set_to_none=True)
        with statistics_kept(network):
            loss().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            torch._foreach_copy_(weights, before)
        optimiser.step()

    return step


def _repair(case: Evidence) -> Outcome:
    return by_accuracy(
        case,
        (
            validated(case, {"lr": lr, "rho": rho}, descend(case, case.copy(), lr, step=sam_step(rho)))
            for lr, rho in TRIED
        ),
    )


METHOD = Method(
    title="FT-SAM",
    source="Zhu et al., ICCV 2023",
    formula="fine-tuning at the worst weights within a ball",
    sees="5 % labelled",
    settings=f"{SGD}; learning rate and ρ {', '.join(f'{lr:g} and {rho:g}' for lr, rho in TRIED)}; the paper's ρ is 2",
    rule=BY_ACCURACY,
    repair=_repair,
)
