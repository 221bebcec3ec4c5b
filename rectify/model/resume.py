"""Begin a forward pass in the middle of a network: what lies before it is known already.

A cascade edits layers in forward order, and asks for each what the images are when they reach it. Nothing before that
layer changes any more, so the images can wait where they are, and each pass begins there: a pass for each layer comes
to little more than one for all. Where a pass can begin is found by trying it: zeros stand in for what the modules
before it give, it is given its own input, and what comes of that must be the same to the last bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rectify.model.layers import find_layers
from rectify.model.passes import images_a_pass
from rectify.model.record import Begin, CountAdditions, Place, Record, Start, hooked, readable, record
from rectify.model.trace import Site

MEMORY = 512 << 20  # bytes of the values that one set of images keeps; while they move on, twice as many
IMAGES = 3  # on which a start is tried


@torch.no_grad()
def starts(network: nn.Module, example: Tensor, sites: Sequence[Site]) -> list[Start]:
    """Modules that a pass can begin at, in forward order; each spares at least one of these sites.

    Parameters
    ----------
    network
        In eval mode.
    example
        (1, C, H, W) or more images: a path that none of the first three of them opens is not seen.
    sites
        What will be asked for behind a start.
    """
    x = _tried_on(example)
    other = 0.5 * x[1:].flip(-1) + 0.1
    found: dict[int, Start] = {}
    with suppress(Exception):  # whatever a network makes of such images: without starts passes are whole
        entries, whole, others = _entries(network, x), _seen(network, x, sites), _entries(network, other)
        for name in _outermost_first(entries, sites):
            start, values = entries[name]
            if start.order in found or name not in others:
                continue
            if (len(values), len(others[name][1])) != (IMAGES, IMAGES - 1):  # rows are no images
                continue
            # What a module remembers must not be of the images that it is tried on, or it would seem to compute it.
            with readable():
                network(other.clone())
            with suppress(Exception):  # whatever it makes of zeros
                if _agree(_seen(network, x, sites, Begin(start, values)), whole):
                    found[start.order] = start
    return [found[order] for order in sorted(found)]


def _tried_on(example: Tensor) -> Tensor:
    """Three images that are all different, and nowhere zero; real ones if there are so many."""
    rows = torch.arange(IMAGES) % len(example)
    scales = torch.where(torch.arange(IMAGES) < len(example), 1.0, torch.linspace(1, 0.4, IMAGES)).to(example)
    shape = (IMAGES, *example.shape[1:])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).abs().to(example)
    return example[rows.to(example.device)] * scales[:, None, None, None] + 0.1 * noise


def _outermost_first(entries: dict[str, tuple[Start, Tensor]], sites: Sequence[Site]) -> Iterator[str]:
    """Names of the modules that are worth trying: those around the sites, and sites that every path runs through."""
    names = {site.name for site in sites if site.is_cut}
    for site in sites:
        parts = site.name.split(".")
        names |= {".".join(parts[:depth]) for depth in range(1, len(parts))}
    first = min((site.order for site in sites), default=0)
    usable = [name for name in names if name in entries and entries[name][0].order > first]
    yield from sorted(usable, key=lambda name: (entries[name][0].order, name.count("."), name))


def _seen(network: nn.Module, x: Tensor, sites: Sequence[Site], begin: Begin | None = None) -> Record:
    """Inputs, outputs and sums of the sites, of those behind the start if there is one, and the logits.

    Raises
    ------
    RuntimeError
        If one is not reached.
    """
    behind = [site for site in sites if begin is None or site.order >= begin.start.order]
    sums = {site.join.index for site in behind if site.join}
    layers = [site.layer for site in behind]
    seen = record(network, x, inputs=layers, outputs=layers, sums=sums, logits=True, begin=begin)
    if not (len(seen.inputs) == len(seen.outputs) == len(layers) and len(seen.sums) == len(sums)):
        raise RuntimeError("not all of these layers are called")
    return seen


def _agree(part: Record, whole: Record) -> bool:
    """Whether all that a part of a pass shows is what the whole pass shows, to the last bit."""
    assert part.logits is not None and whole.logits is not None
    return (
        torch.equal(part.logits, whole.logits)
        and all(torch.equal(given, whole.inputs[name]) for name, given in part.inputs.items())
        and all(torch.equal(output, whole.outputs[name]) for name, output in part.outputs.items())
        and all(torch.equal(total, whole.sums[index]) for index, total in part.sums.items())
    )


def _entries(network: nn.Module, x: Tensor) -> dict[str, tuple[Start, Tensor]]:
    """Modules that one pass calls once, with one tensor, as starts, and what they are called with."""
    watch = _Watch({layer.name for layer in find_layers(network)})
    handles = []
    for name, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(watch.enter(name), with_kwargs=True))
        handles.append(module.register_forward_hook(watch.leave(name)))
    with hooked(handles), readable(), watch.counted:
        network(x.clone())
    given = {name: shape for name, shape in watch.given.items() if watch.calls[name] == 1}
    return {
        start.name: (replace(start, skipped={one: given[one] for one in before if one in given}), values)
        for start, before, values in watch.seen
        if watch.calls[start.name] == 1
    }


class _Watch:
    """What a pass shows of its modules: what they are called with, and what has been done by then."""

    def __init__(self, layers: set[str]) -> None:
        self.layers = layers
        self.seen: list[tuple[Start, tuple[str, ...], Tensor]] = []
        self.calls: Counter[str] = Counter()
        self.given: dict[str, torch.Size] = {}  # of the modules that give a tensor, a row for an image
        self.counted = CountAdditions((), Record(), lambda: None)
        self._done: list[list[str]] = []  # of each module at work, those that it has been through
        self._finished: set[str] = set()  # layers

    def enter(self, name: str) -> Callable[..., None]:
        """A hook for before the module."""

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.calls[name] += 1
            given = args[0] if len(args) == 1 and not any(map(torch.is_tensor, kwargs.values())) else None
            if isinstance(given, Tensor) and given.dim():
                before = tuple(one for frame in self._done for one in frame)
                layout = tuple(sorted(range(given.dim()), key=given.stride, reverse=True))
                size = given[:1].numel() * given.element_size()
                start = Start(name, len(self._finished), layout, {}, self.counted.seen, size)
                self.seen.append((start, before, given.clone()))
            self._done.append([])

        return hook

    def leave(self, name: str) -> Callable[..., None]:
        """A hook for after the module."""

        def hook(_: nn.Module, __: Any, output: Any) -> None:
            self._done.pop()
            if self._done:
                self._done[-1].append(name)
            self._finished |= {name} & self.layers
            if isinstance(output, Tensor) and output.dim() and len(output) == IMAGES:
                self.given[name] = output.shape[1:]

        return hook


class Relay:
    """Images on their way through a network that is edited in forward order, kept where the next pass begins.

    Parameters
    ----------
    network
        Once the images have reached a site, it must not change before it any more.
    starts
        Where its passes can begin.
    images
        (N, C, H, W).
    batch
        Images a pass.
    """

    def __init__(self, network: nn.Module, starts: Sequence[Start], images: Tensor, batch: int = 64) -> None:
        self.network, self.starts, self.images, self.batch = network, tuple(starts), images, batch
        self._at: Begin | None = None

    def begin(self, site: Site, rows: slice | Tensor) -> Begin | None:
        """Where a pass over these of the images, that looks at a site, begins; None: with the images themselves."""
        if self._at is not None and self._at.start.order > site.order:
            self._at = None
        order = 0 if self._at is None else self._at.start.order
        for start in reversed(self.starts):
            if order < start.order <= site.order and start.size * len(self.images) <= MEMORY:
                self._at = Begin(start, self._moved(start))
                break
        return self._given(rows)

    def _given(self, rows: slice | Tensor) -> Begin | None:
        return None if self._at is None else Begin(self._at.start, self._at.values[rows])

    def _moved(self, start: Start) -> Tensor:
        """What the images are at a start behind the one where they are, (N, ...)."""
        place = Place(start.name, self.network.get_submodule(start.name))
        moved: Tensor | None = None
        batch = images_a_pass(self.images, self.batch)
        for first in range(0, len(self.images), batch):
            rows = slice(first, first + batch)
            values = record(self.network, self.images[rows], inputs=[place], begin=self._given(rows)).inputs[place.name]
            if moved is None:
                moved = values.new_empty(len(self.images), *values.shape[1:])
            moved[rows] = values
        assert moved is not None
        return moved
