"""One figure over images, with its spread and what chance alone gives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rectify.attribution.attribution import Attribution


@dataclass(frozen=True)
class Measure:
    """A metric of N images.

    Attributes
    ----------
    metric
        Its name.
    values
        (N,) float64 on the CPU.
    null
        (N,) the same statistic where there is nothing to find; None where chance has no meaning.
    settings
        Every choice that was made, as JSON values.
    """

    metric: str
    values: Tensor
    null: Tensor | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """Mean over the images."""
        return float(self.values.double().mean())

    @property
    def spread(self) -> float:
        """Standard deviation over the images; zero of one image."""
        return float((self.values.double() - self.value).square().mean().sqrt())

    @property
    def null_floor(self) -> float | None:
        """Mean over the images of what chance gives."""
        return None if self.null is None else float(self.null.double().mean())

    def to_dict(self, method: str) -> dict[str, Any]:
        """As a report holds it; a number that JSON cannot hold (no image, an infinite ratio) is None."""
        numbers = {"value": self.value, "spread": self.spread, "null_floor": self.null_floor}
        finite = {name: x if x is not None and math.isfinite(x) else None for name, x in numbers.items()}
        return {"method": method, "metric": self.metric, **finite, "settings": dict(self.settings)}


def flat_heat(attribution: Attribution) -> Tensor:
    """(N, D) float64 on the CPU: signed, summed over channels where the values are (N, C, H, W)."""
    values = attribution.values.detach()
    return (attribution.heat() if values.ndim == 4 else values).detach().flatten(1).double().cpu()
