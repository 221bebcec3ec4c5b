"""What every method takes and returns: one signature for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rectify.attribution.score import Score


@dataclass(frozen=True)
class Settings:
    """How to attribute. Every method reads what concerns it; None means the method's own default.

    Attributes
    ----------
    steps
        Path points, or samples of a method that averages over samples.
    rule
        Quadrature of the path methods: see `rectify.attribution.quadrature`.
    tolerance
        Double the steps until the completeness gap is at most this share of the change of F, up to ``most_steps``.
    baseline
        ``black``, ``white``, ``mean``, ``blur``, ``noise``, ``uniform``, or images (1 or N, C, H, W).
    bounds
        Values of a black and of a white pixel, each (C, 1, 1).
    reference
        (M, C, H, W): images that stand for the data (expected gradients draws its baselines from them).
    layer
        Attribute to this layer's output instead of the image.
    seed
        Of everything random.
    options
        What only one method has, such as ``eps`` of UNI or ``noise`` of SmoothGrad.
    """

    steps: int | None = None
    rule: str | None = None
    tolerance: float | None = None
    most_steps: int = 1024
    baseline: str | Tensor = "black"
    bounds: tuple[Tensor, Tensor] | None = None
    reference: Tensor | None = None
    layer: str | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def generator(self, device: torch.device) -> torch.Generator:
        """A fresh random generator of the seed."""
        return torch.Generator(device).manual_seed(self.seed)


@dataclass(frozen=True)
class Attribution:
    """The maps of N images.

    Attributes
    ----------
    values
        (N, C, H, W) signed, in units of F; with a layer (N, *its output's shape).
    confidence
        (N,) F_c(x).
    baseline
        (N, C, H, W) the start of the path, None where there is none.
    change
        (N,) F_c(x) - F_c(x'), None without a baseline.
    path_scores
        F_c along each image's path from baseline to image, ends included, in order, (K,) each; None without a path.
    complete
        Whether the method promises sum(values) = change.
    settings
        What was used, as JSON values.
    """

    values: Tensor
    confidence: Tensor
    baseline: Tensor | None = None
    change: Tensor | None = None
    path_scores: tuple[Tensor, ...] | None = None
    complete: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def gap(self) -> Tensor | None:
        """(N,) completeness gap |sum A - (F(x) - F(x'))|, float64; None where completeness is not promised."""
        if self.change is None or not self.complete:
            return None
        return (self.values.double().flatten(1).sum(1) - self.change.double()).abs()

    def heat(self) -> Tensor:
        """(N, H, W): the values summed over channels, signed."""
        return self.values.sum(1)


Method = Callable[[Score, Tensor, Tensor, Settings], Attribution]
