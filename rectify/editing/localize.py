"""Which layer carries the fault, and can it be edited?

Published score (arXiv 2603.15656): the layer's attribution M on the path from corrupted to clean, projected on the edit
direction, ``G = || sum_p M_p (C^-1 k_p)^T ||_F`` over the positions p of the corrupted image (for one position,
``||M|| ||C^-1 k*||``). It changes when a layer's keys are rescaled. The scale-free form whitens the keys once,
``C^-1/2 k_p``, so that for one position it is ``||M|| sqrt(ρ)`` with the leverage ``ρ = k*^T C^-1 k*``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rectify.attribution.sweep import STEPS, LayerAttribution, sweep
from rectify.editing.fault import Fault
from rectify.editing.judge import Judgement
from rectify.editing.moments import POSITIONS, gram
from rectify.editing.solve import Factor, factor, leverage
from rectify.model.passes import images_a_pass
from rectify.model.record import record
from rectify.model.trace import Site

LARGEST_KEY = 8192  # wider second moments (half a GiB and more) are not formed; such layers are no candidates
IN_SPAN = 1e-6  # eigenvalues below this share of the largest count as outside the span of the reference keys

Moments = dict[str, Tensor]  # C = E[k k^T] of each layer, (G, d, d) float64
Recall = Callable[[Callable[[], Moments]], Moments]  # moments that were kept, or else those that it is given to compute


@dataclass(frozen=True)
class LayerScore:
    """One row of the table; figures are means over the pairs.

    Attributes
    ----------
    editability, scale_free
        The published score and its scale-free form, in units of f (and of f over key for the published one).
    attribution
        ``||M||``.
    completeness_gap
        ``|conductance - (f(x) - f(x~))| / |f(x) - f(x~)|`` where the layer cuts the graph, else None.
    leverage
        Mean ρ of the corrupted image's positions, weighted by ``||M_p||``.
    out_of_span
        ``||k - Pk|| / ||k||``, weighted alike: share of the key outside the span of the reference keys.
    trial
        What a closed-form edit of this layer alone would do, if it was tried.
    """

    site: Site
    candidate: bool
    editability: float | None
    scale_free: float | None
    attribution: float | None
    completeness_gap: float | None
    leverage: float | None
    out_of_span: float | None
    trial: Judgement | None = None
    gap_after: float | None = None


@dataclass(frozen=True)
class Localization:
    """Layers, best first, and the completeness error of the whole path relative to the change of f."""

    scores: tuple[LayerScore, ...]
    completeness_gap: float


def objective(fault: Fault, row: int) -> Callable[[Tensor], Tensor]:
    """f: the logit of the class at stake, less that of the target where there is another class to hold it against."""
    label = int(fault.labels[row])

    def f(logits: Tensor) -> Tensor:
        if fault.target is None or fault.target == label:
            return logits[:, label]
        return logits[:, label] - logits[:, fault.target]

    return f


def is_candidate(site: Site) -> bool:
    """Whether an edit of this layer is worth a thought: no projection beside a branch, no giant moment."""
    return not site.is_shortcut and site.layer.key_size <= LARGEST_KEY


def measurable(sites: Sequence[Site]) -> list[Site]:
    """The layers whose second moment is formed."""
    return [site for site in sites if site.layer.key_size <= LARGEST_KEY]


def localize(
    network: nn.Module,
    sites: Sequence[Site],
    clean: Tensor,
    corrupted: Tensor,
    fault: Fault,
    reference: Tensor,
    *,
    batch: int = 64,
    steps: int = STEPS,
    advance: Callable[[int], None] = lambda n: None,
    recall: Recall = lambda compute: compute(),
) -> Localization:
    """Score every site on the pairs that show the fault.

    Parameters
    ----------
    network
        The network to look into (untouched or already edited).
    sites
        Its layers, from `rectify.model.trace.survey`.
    clean, corrupted
        (n, C, H, W).
    reference
        (N, C, H, W) images whose keys are the reference: calibration images, or what stands in for them.
    recall
        Gives the second moments of `measurable` sites: computes them, or knows them from an earlier run.
    """
    rows = fault.shown.nonzero().flatten().tolist()
    layers = [site.layer for site in sites]
    sweeps = []
    for row in rows:
        one = slice(row, row + 1)
        sweeps.append(sweep(network, layers, corrupted[one], clean[one], objective(fault, row), steps))
        advance(1)
    moments = recall(lambda: second_moments(network, measurable(sites), reference, batch))
    scores = []
    for site in sites:
        space = Space.of(moments[site.name]) if site.name in moments else None
        parts = [
            _score(site, corrupted[row : row + 1], network, found.layers.get(site.name), found.change, space)
            for row, found in zip(rows, sweeps, strict=True)
        ]
        scores.append(_mean(parts))
        advance(1)
    scores.sort(key=lambda s: (not s.candidate, -(s.scale_free or 0.0), s.site.order))
    whole = sum(s.input_gap for s in sweeps) / max(sum(abs(s.change) for s in sweeps), 1e-12)
    return Localization(tuple(scores), whole)


@torch.no_grad()
def second_moments(network: nn.Module, sites: Sequence[Site], images: Tensor, batch: int = 64) -> Moments:
    """C = E[k k^T] of every site in one pass over the images, (G, d, d) float64 a layer."""
    batch = images_a_pass(images, batch)
    sums: Moments = {}
    counts: dict[str, int] = {}
    for start in range(0, len(images), batch):
        x = images[start : start + batch]
        seen = record(network, x, inputs=[site.layer for site in sites])
        for site in sites:
            keys = _some(site.layer.keys(seen.inputs[site.name], len(x)))
            flat = keys.permute(1, 2, 0, 3).flatten(2)
            product = gram(flat)
            if site.name not in sums:
                sums[site.name] = torch.zeros_like(product, dtype=torch.float64)
            sums[site.name].add_(product)
            counts[site.name] = counts.get(site.name, 0) + flat.shape[-1]
    return {name: total.div_(counts[name]) for name, total in sums.items()}


def _some(keys: Tensor) -> Tensor:
    """At most ``POSITIONS`` of the keys (N, G, d, P), at places drawn by lot: steps of one length would meet the same
    columns of an image again and again, and one border or none."""
    positions = keys.shape[-1]
    if positions <= POSITIONS:
        return keys
    chosen = torch.randperm(positions, generator=torch.Generator().manual_seed(positions))[:POSITIONS]
    return keys[..., chosen.to(keys.device)]


@dataclass(frozen=True)
class Space:
    """What one layer's scores need of its moment: its factor, and where the span of the reference keys ends."""

    factor: Factor
    vectors: Tensor  # (G, d, d) eigenvectors of the moment
    inside: Tensor  # (G, d) 1 where one spans, else 0

    @classmethod
    def of(cls, moment: Tensor) -> Space:
        """Of a second moment (G, d, d) float64; raises `Inconclusive` where that is not finite."""
        values, vectors = torch.linalg.eigh(moment)
        inside = values > IN_SPAN * values[:, -1:].clamp_min(1e-300)
        return cls(factor(moment), vectors, inside.to(moment))

    def outside(self, keys: Tensor) -> Tensor:
        """``||k - Pk|| / ||k||`` of keys (G, d, m), (G, m); P projects on the span of the reference keys."""
        kept = ((self.vectors.transpose(1, 2) @ keys) * self.inside.unsqueeze(2)).square().sum(1)
        whole = keys.square().sum(1)
        share = torch.where(whole > 0, kept / whole.clamp_min(1e-300), torch.ones_like(whole))  # zero is in any span
        return (1 - share).clamp_min(0).sqrt()


@torch.no_grad()
def _score(
    site: Site,
    corrupted: Tensor,
    network: nn.Module,
    found: LayerAttribution | None,
    change: float,
    space: Space | None,
) -> LayerScore:
    candidate = is_candidate(site)
    if found is None:
        return LayerScore(site, False, None, None, None, None, None, None)
    m = site.layer.values(found.attribution.unsqueeze(0), 1)[0].double()  # (G, o, P)
    gap = abs(found.conductance - change) / max(abs(change), 1e-12) if site.is_cut else None
    norm = float(m.norm())
    if space is None:
        return LayerScore(site, candidate, None, None, norm, gap, None, None)
    inputs = record(network, corrupted, inputs=[site.layer]).inputs[site.name]
    keys = site.layer.keys(inputs, 1)[0].double()  # (G, d, P)
    white = space.factor.whiten(keys)
    editability = float((m @ space.factor.solve(keys.transpose(1, 2))).norm())
    scale_free = float((m @ white.transpose(1, 2)).norm())
    weights = m.square().sum(1).sqrt()  # (G, P)
    weights = weights / weights.sum().clamp_min(1e-300)
    rho = float((weights * leverage(keys, space.factor)).sum())
    outside = float((weights * space.outside(keys)).sum())
    return LayerScore(site, candidate, editability, scale_free, norm, gap, rho, outside)


def _mean(parts: list[LayerScore]) -> LayerScore:
    def over(name: str) -> float | None:
        values = [getattr(part, name) for part in parts]
        return None if any(v is None for v in values) else sum(values) / len(values)

    names = ("editability", "scale_free", "attribution", "completeness_gap", "leverage", "out_of_span")
    return replace(parts[0], **{name: over(name) for name in names})  # type: ignore[arg-type]


def triage(sites: Sequence[Site]) -> list[tuple[Site, float]]:
    """Data-free: how far the most sensitive channel of each convolution stands out, in standard deviations, best first.

    The channel Lipschitz bound of CLP (Zheng et al., ECCV 2022): spectral norm of the channel's kernel as a matrix
    (inputs, kernel area), times the factor of the batch norm behind it.
    """
    found = []
    for site in sites:
        weight = site.layer.module.weight.detach()
        if weight.dim() != 4 or len(weight) < 8:
            continue
        bounds = torch.linalg.matrix_norm(weight.flatten(2).double(), 2)
        if site.norm_scale is not None:
            bounds = bounds * site.norm_scale.double().abs()
        found.append((site, float((bounds.max() - bounds.mean()) / bounds.std().clamp_min(1e-12))))
    return sorted(found, key=lambda item: -item[1])
