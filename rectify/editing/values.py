"""What a layer should have said: target values from the untouched network, residuals of the edited one.

The target of a layer that ends a residual branch is the block's *sum*, so that its edit also cancels what leaks
through the shortcut; elsewhere it is the layer's own output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from rectify.model.passes import images_a_pass
from rectify.model.record import Begin, Start, record
from rectify.model.resume import Relay, starts
from rectify.model.trace import Site, survey

MEMORY = 2 << 30  # bytes of target values kept for all layers together


@dataclass
class Teacher:
    """The untouched network and the clean images; remembers its values where memory allows.

    Parameters
    ----------
    network
        In eval mode; never changed.
    clean
        (N, C, H, W) normalised images whose values are the targets.
    batch
        Images a forward pass.
    """

    network: nn.Module
    clean: Tensor
    batch: int = 64
    _kept: dict[str, Tensor] = field(default_factory=dict)
    _relay: Relay | None = None

    @cached_property
    def starts(self) -> list[Start]:
        """Where passes can begin, of the network and of its copies."""
        return starts(self.network, self.clean, survey(self.network, self.clean[:1]))

    def prepare(self, sites: list[Site]) -> None:
        """Get ready to be asked for these sites' values, in forward order.

        They are fetched in one pass, if they fit into memory; others make room for them. If they do not fit, passes
        begin as near to each site as they can, until `release`.
        """
        self.release()
        missing = [site for site in sites if site.name not in self._kept]
        if not missing:
            return
        wanted = {site.name: self._kept[site.name] for site in sites if site.name in self._kept}
        needed = self._bytes(missing)
        if needed + sum(map(_size, wanted.values())) > MEMORY:
            self._relay = Relay(self.network, self.starts, self.clean, self.batch)
            return
        if needed + sum(map(_size, self._kept.values())) > MEMORY:
            self._kept = wanted
        parts: dict[str, list[Tensor]] = {site.name: [] for site in missing}
        batch = images_a_pass(self.clean, self.batch)
        for start in range(0, len(self.clean), batch):
            for name, values in _read(self.network, self.clean[start : start + batch], missing).items():
                parts[name].append(values)
        self._kept |= {name: torch.cat(chunks) for name, chunks in parts.items()}

    def release(self) -> None:
        """Keep no images on their way any more."""
        self._relay = None

    def values(self, site: Site, rows: Tensor) -> Tensor:
        """Target values of a site for these rows of the clean images, (n, numbers an image)."""
        if site.name in self._kept:
            return self._kept[site.name][rows]
        begin = None if self._relay is None else self._relay.begin(site, rows)
        return _read(self.network, self.clean[rows], [site], begin)[site.name]

    def _bytes(self, sites: Sequence[Site]) -> int:
        one = _read(self.network, self.clean[:1], sites)
        return sum(map(_size, one.values())) * len(self.clean)


def _size(values: Tensor) -> int:
    """Bytes."""
    return values.numel() * values.element_size()


def _read(network: nn.Module, x: Tensor, sites: Sequence[Site], begin: Begin | None = None) -> dict[str, Tensor]:
    sums = {site.join.index for site in sites if site.join}
    outputs = [site.layer for site in _bound(network, sites) if site.join is None]
    seen = record(network, x, outputs=outputs, sums=sums, begin=begin)
    values = {s.name: seen.sums[s.join.index] if s.join else seen.outputs[s.name] for s in sites}
    return {name: value.reshape(len(x), -1) for name, value in values.items()}  # windows and tokens go with their image


def _bound(network: nn.Module, sites: Sequence[Site]) -> list[Site]:
    """The same sites with the modules of this network (a copy has modules of its own)."""
    return [bind(network, site) for site in sites]


def bind(network: nn.Module, site: Site) -> Site:
    """A site of one network, in a copy of that network."""
    module = network.get_submodule(site.name)
    return replace(site, layer=replace(site.layer, module=module))  # type: ignore[arg-type]


def keys_and_residuals(
    student: nn.Module,
    site: Site,
    x: Tensor,
    rows: Tensor,
    teacher: Teacher,
    batch: int,
    relay: Relay | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Keys of the student on ``x`` and what its output lacks of the teacher's on the clean images ``rows``.

    Parameters
    ----------
    student
        The network under edit.
    site
        Any site of it (bound or not).
    x
        (n, C, H, W), corrupted or clean.
    rows
        (n,) the clean image in the teacher that each row of ``x`` should be treated like.
    relay
        The images ``x`` on their way through the student, if they are asked for layer by layer.

    Yields
    ------
    keys, residuals
        (b, G, d, P) and (b, G, o, P), float32, in batches.
    """
    site, batch = bind(student, site), images_a_pass(x, batch)
    for start in range(0, len(x), batch):
        part = slice(start, start + batch)
        images = x[part]
        sums = [site.join.index] if site.join else []
        begin = None if relay is None else relay.begin(site, part)
        seen = record(student, images, inputs=[site.layer], outputs=[site.layer], sums=sums, begin=begin)
        target = teacher.values(site, rows[part])
        output = seen.outputs[site.name]
        if site.join:
            residual = site.join.pull_back(target - seen.sums[site.join.index].reshape(target.shape))
        else:
            residual = target - output.reshape(target.shape)
        yield (
            site.layer.keys(seen.inputs[site.name], len(images)),
            site.layer.values(residual.reshape(output.shape), len(images)),
        )
