"""Work on copies of a network: which layers are edited and how strongly (a rung), and the steps that come of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from rectify.editing.cascade import LayerEdit, Material, Strength, cascade
from rectify.editing.casebook import Case
from rectify.editing.fault import gap
from rectify.editing.judge import Judgement, probabilities
from rectify.model.copies import copied
from rectify.model.trace import Site


@dataclass(frozen=True)
class Step:
    """One edit of one layer, kept or rolled back, with the pairs' gap before and after it.

    Attributes
    ----------
    expected
        What the judge expected of the attempt that a step rolled back was part of; None of a kept one.
    """

    edit: LayerEdit
    delta_norm: float
    relative_norm: float
    gap_before: float
    gap_after: float
    kept: bool
    reason: str
    expected: Judgement | None = None


@dataclass(frozen=True)
class Rung:
    """A candidate repair: which layers, how strong."""

    name: str
    sites: tuple[Site, ...]
    strength: Strength


class Workshop:
    """Runs rungs on copies of the untouched network and remembers every step.

    The network that it is given is the same at the end as at the beginning.
    """

    def __init__(
        self,
        network: nn.Module,
        case: Case,
        batch: int = 64,
        advance: Callable[[str], None] = lambda label: None,
        seed: int = 0,
    ) -> None:
        self.network, self.case, self.batch, self.advance, self.seed = network, case, batch, advance, seed

    def run(self, rung: Rung, material: Material) -> tuple[nn.Module, list[Step]]:
        """Edit a copy of the network layer by layer, in forward order."""
        student = copied(self.network)
        gaps = [self.gap(student)]

        def done(edit: LayerEdit) -> None:
            gaps.append(self.gap(student))
            self.advance(f"{rung.name}: {edit.layer}")

        edits = cascade(student, rung.sites, material, rung.strength, batch=self.batch, advance=done)
        steps = [
            Step(edit, *_norms(self.network, edit), *before_and_after, True, rung.name)
            for edit, before_and_after in zip(edits, pairwise(gaps), strict=True)
        ]
        return student, steps

    def gap(self, network: nn.Module) -> float:
        """Mean f(clean) - f(corrupted) over the pairs."""
        clean = probabilities(network, self.case.teacher.clean[-self.case.pairs :])
        corrupted = probabilities(network, self.case.corrupted[-self.case.pairs :])
        return gap(clean, corrupted, self.case.fault.labels[self.case.fault.shown])


def joint_steps(workshop: Workshop, edits: Sequence[LayerEdit], moved: nn.Module, name: str) -> list[Step]:
    """Each layer's part in a refinement; all share the gaps of the whole, before and after."""
    gaps = workshop.gap(workshop.network), workshop.gap(moved)
    return [Step(edit, *_norms(workshop.network, edit), *gaps, True, name) for edit in edits]


def _norms(network: nn.Module, edit: LayerEdit) -> tuple[float, float]:
    """Norm of a delta, and as a share of the norm of the weight that it is added to."""
    weight = network.get_submodule(edit.layer).weight
    assert isinstance(weight, Tensor)
    norm = float(edit.delta().norm())
    return norm, norm / max(float(weight.double().norm()), 1e-300)
