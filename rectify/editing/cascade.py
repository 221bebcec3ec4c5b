"""Edit layers in forward order, each by one closed form on what the edited network before it now passes on.

Keys come from the *already edited* network, target values from the *untouched* network on the clean images. Two sets
enter each layer's normal equations: corrupted images, which shall be treated like their clean twins, and clean
images, which shall be treated as before. Clean images have residuals too, as soon as an earlier layer was edited: they
pull the network back to what it was, so that the cost in accuracy does not pile up along the cascade.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rectify.editing.moments import Normal, accumulate
from rectify.editing.solve import DAMPING, Factor, Spectrum, factor
from rectify.editing.values import Teacher, bind, keys_and_residuals
from rectify.model.resume import Relay
from rectify.model.trace import Site


@dataclass(frozen=True)
class Material:
    """What an edit is made from.

    Attributes
    ----------
    teacher
        The untouched network and its clean images.
    corrupted, rows
        (M, C, H, W), and for each the row of its clean twin in the teacher.
    reference
        (R,) rows of the clean images that shall be treated as before.
    """

    teacher: Teacher
    corrupted: Tensor
    rows: Tensor
    reference: Tensor


@dataclass(frozen=True)
class Strength:
    """How an edit weighs repair against preservation.

    Attributes
    ----------
    weight
        Of a corrupted image against a clean one.
    damping
        a, the shrinkage of the moment (see `rectify.editing.solve.factor`).
    changed_only
        Share of the largest residual below which a position of a corrupted image is left out.
    rank
        Kept rank a group, or None for as many as ``energy`` needs.
    energy
        Share of the delta's squared norm (in the metric of the fit) that is kept where rank is None.
    """

    weight: float = 1.0
    damping: float = DAMPING
    changed_only: float = 0.0
    rank: int | None = None
    energy: float = 1.0


ENERGY = 0.99  # share of a delta's squared norm kept when the rank is chosen automatically
CARRIED = Strength(weight=1.0, energy=ENERGY)


@dataclass(frozen=True)
class LayerEdit:
    """One change of one weight: ``W' = W + left @ right``, grouped (G, o, r) and (G, r, d), float64."""

    layer: str
    left: Tensor
    right: Tensor

    @property
    def rank(self) -> int:
        """Rank a group."""
        return int(self.left.shape[-1])

    def delta(self) -> Tensor:
        """The change of the weight, (G, o, d) float64."""
        return self.left @ self.right


@dataclass(frozen=True)
class Way:
    """The clean and the corrupted images of a material on their way through a student that is edited layer by layer."""

    clean: Relay
    corrupted: Relay


@dataclass(frozen=True)
class Equations:
    """The normal equations of one layer: of clean images, and of corrupted ones."""

    clean: Normal
    faulty: Normal


def equations(
    student: nn.Module,
    site: Site,
    material: Material,
    changed_only: float = 0.0,
    batch: int = 64,
    way: Way | None = None,
) -> Equations:
    """What the images of a material ask of one layer of the student; see `solve_layer`."""
    teacher = material.teacher

    def stream(x: Tensor, rows: Tensor, relay: Relay | None) -> Iterable[tuple[Tensor, Tensor]]:
        return keys_and_residuals(student, site, x, rows, teacher, batch, relay)

    clean = accumulate(stream(teacher.clean[material.reference], material.reference, way.clean if way else None))
    corrupted = stream(material.corrupted, material.rows, way.corrupted if way else None)
    return Equations(clean, accumulate(corrupted, changed_only=changed_only))


def solution(name: str, asked: Equations, strength: Strength) -> LayerEdit:
    """The edit of the layer of that name which these equations have at this strength."""
    clean, faulty = asked.clean, asked.faulty
    fit = factor(
        clean.moment + strength.weight * faulty.moment,
        strength.damping,
        ridge=clean.moment.diagonal(dim1=1, dim2=2).mean(1),
    )
    return _low_rank(name, fit.solve(clean.cross + strength.weight * faulty.cross), fit, strength)


def solve_layer(
    student: nn.Module, site: Site, material: Material, strength: Strength, batch: int = 64, way: Way | None = None
) -> LayerEdit:
    """The closed-form edit of one layer of the student; nothing is changed.

    ``way``: where the images are, if layers before this one have been edited.
    """
    return solution(site.name, equations(student, site, material, strength.changed_only, batch, way), strength)


def _low_rank(name: str, delta: Tensor, fit: Factor, strength: Strength) -> LayerEdit:
    whole = min(delta.shape[1:])
    if (strength.rank or whole) >= whole and strength.energy >= 1:
        return whole_rank(name, delta)
    spectrum = Spectrum(delta, fit)
    rank = strength.rank or spectrum.rank(strength.energy)
    return whole_rank(name, delta) if rank >= whole else LayerEdit(name, *spectrum.truncated(rank))


def whole_rank(name: str, delta: Tensor) -> LayerEdit:
    """A delta (G, o, d) float64 as an edit, uncut: the shorter factor is the identity."""
    identity = torch.eye(min(delta.shape[1:]), dtype=delta.dtype, device=delta.device).expand(len(delta), -1, -1)
    return LayerEdit(name, identity, delta) if delta.shape[1] <= delta.shape[2] else LayerEdit(name, delta, identity)


@torch.no_grad()
def apply(network: nn.Module, edit: LayerEdit) -> None:
    """Add an edit to a network's weight, in place: one addition in float64, one rounding to the weight's type."""
    weight = network.get_submodule(edit.layer).weight
    assert isinstance(weight, Tensor)
    changed = weight.double() + edit.delta().to(weight.device).reshape(weight.shape)
    weight.copy_(changed)


def cascade(
    student: nn.Module,
    sites: Sequence[Site],
    material: Material,
    strength: Strength,
    *,
    batch: int = 64,
    advance: Callable[[LayerEdit], None] = lambda edit: None,
) -> list[LayerEdit]:
    """Edit the student's layers ``sites`` in the order of execution, in place, and return what was done.

    ``advance`` is called with each edit once it is made.
    """
    teacher, way = material.teacher, None
    if len(sites) > 1:  # of one layer the few values that are needed are read as they are needed
        teacher.prepare(list(sites))
        sets = teacher.clean[material.reference], material.corrupted
        way = Way(*(Relay(student, teacher.starts, images, batch) for images in sets))
    done = []
    try:
        for site in sorted(sites, key=lambda s: s.order):
            edit = solve_layer(student, bind(student, site), material, strength, batch, way)
            apply(student, edit)
            done.append(edit)
            advance(edit)
    finally:
        teacher.release()
    return done
