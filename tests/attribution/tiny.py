"""Networks small enough for a loop over pixels, in float64, and images for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rectify.attribution.score import Score

CLASSES = 4
SHAPE = (2, 5, 6)
BOUNDS = (torch.full((2, 1, 1), -1.0, dtype=torch.float64), torch.full((2, 1, 1), 1.5, dtype=torch.float64))


def tiny(activation: Callable[[], nn.Module] = nn.Softplus, seed: int = 0) -> nn.Sequential:
    """conv, activation, conv, activation, linear, with four classes: `SHAPE` to (N, 4). The seed settles all of it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            *(nn.Conv2d(2, 3, 3, padding=1), activation(), nn.Conv2d(3, 3, 2), activation(), nn.Flatten()),
            nn.Linear(60, CLASSES),
        )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2.0)  # far enough from linear
    return network.double().eval().requires_grad_(False)


def images(count: int = 3, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Images (N, *SHAPE) and classes (N,)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, *SHAPE, generator=generator, dtype=torch.float64) * 2.5 - 1
    return x, torch.arange(count) % CLASSES


class Formula(nn.Module):
    """Two logits of images (N, 1, 2, 1): a formula of both pixels, and zero."""

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.formula = formula

    def forward(self, x: Tensor) -> Tensor:
        value = self.formula(x[:, 0, 0, 0], x[:, 0, 1, 0])
        return torch.stack([value, torch.zeros_like(value)], 1)


def formula(of: Callable[[Tensor, Tensor], Tensor]) -> Score:
    """The score that explains a formula of two pixels."""
    return Score(Formula(of).eval(), "logit")


def pixels(first: float, second: float) -> Tensor:
    """The image (1, 1, 2, 1) of two pixels."""
    return torch.tensor([first, second], dtype=torch.float64).view(1, 1, 2, 1)
