"""Marks: pixels that are pasted over an image, and rectangles that are tinted; the same in other places.

What changed is tried at several thresholds, and the mark as one clean colour too: JPEG blurs a pasted mark, and changes
all other pixels a little.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from rectify.editing.chance import generator_of
from rectify.editing.guess import Bounds, Corruption, clamp, unclipped
from rectify.editing.warps import share

PASTED_FROM = (0.05, 0.15, 0.3, 0.5, 0.7)  # of the largest change of the image: what counts as changed
_PASTE_AT_MOST = 0.5  # a paste that covers more of the image would replace it, not mark it
_MARK_AT_MOST = 0.25  # a mark covers no more of the image; only amid no noise such a paste is tried all the same
_MARK_STANDS_OUT = 16  # the mean squared change of a mark amid noise is at least so many times that of the rest
_HOT = 0.75  # of the largest change: pixels that show the mark's colour at its purest
_SNAP = 0.25  # of the range: a mark's colour that is so near to 0 or 1 is taken to have been 0 or 1
_TINT_LEAVES = 0.02  # of the difference, at most, if a tint is what it is
_TELLS = 0.03  # of the range, as standard deviation of the clean image where it is tinted
_LEAST_PIXELS = 6  # of each channel
_STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))  # down, to the right


def pasted(clean: Tensor, seen: Tensor, corrupted: Tensor, bounds: Bounds) -> list[Corruption]:
    """Pixels that changed take the corrupted image's values, or all the mark's one colour.

    Of a mark that has the colour of what it covers in places, those do not change: so the rectangle around all that
    did is tried too. What changed is told from ``seen``, the clean image where it lies best; the misfit is that of the
    pair as it is.
    """
    change = (corrupted - seen).abs().amax(1, keepdim=True)
    one_colour = _colour(corrupted, change >= _HOT * change.max(), bounds).expand_as(corrupted)
    found: list[Corruption] = []
    last = torch.zeros_like(change, dtype=torch.bool)
    for least in PASTED_FROM:
        mask = change > least * change.max()
        if torch.equal(mask, last) or not _is_mark(mask, change, noisy=least > PASTED_FROM[0]):
            continue
        last = mask
        tries = [(mask, corrupted), (mask, one_colour)]
        box = _box(mask)
        if not torch.equal(box, mask) and float(box.float().mean()) <= _MARK_AT_MOST:
            tries.append((box, corrupted))
        for where, picture in tries:
            left = torch.where(where, picture, seen) - corrupted
            paste = _paste(where, picture, share(left, corrupted - clean))
            if picture is corrupted and torch.equal(where, box):
                paste = replace(paste, wider=partial(_wider, box, corrupted, paste.misfit, bounds))
            found += [paste, *elsewhere(paste, where)]
    return found


def _wider(box: Tensor, corrupted: Tensor, misfit: float, bounds: Bounds) -> list[list[Corruption]]:
    """Rectangles that go on by a pixel, or an eighth, to a side or over a corner, where all is black or white anyhow.

    A mark of black and white pixels shows its white ones alone on a black ground, and the rectangle around these
    misses what is black along its edge: of four such pixels, three of them black, one pair showed one.
    """
    height, width = box.shape[2:]
    rows, columns = _extent(box)
    high, wide = (max(1, len(span) // 8) for span in (rows, columns))
    found = []
    for down, right in ((high * y, wide * x) for y, x in _STEPS):
        top, bottom = int(rows[0]) + min(down, 0), int(rows[-1]) + max(down, 0)
        left, far = int(columns[0]) + min(right, 0), int(columns[-1]) + max(right, 0)
        if min(top, left) < 0 or bottom >= height or far >= width:
            continue
        wider = box.clone()
        wider[..., top : bottom + 1, left : far + 1] = True
        told = (wider & ~box & unclipped(corrupted, bounds)).any()
        if not bool(told) and float(wider.float().mean()) <= _MARK_AT_MOST:
            paste = _paste(wider, corrupted, misfit)
            paste = replace(paste, wider=partial(_wider, wider, corrupted, misfit, bounds))
            found.append([paste, *elsewhere(paste, wider)])
    return found


def elsewhere(guess: Corruption, mask: Tensor) -> list[Corruption]:
    """The same in a place that each image decides on; nothing if it covers too much to be a mark.

    Where a network was trained on shifted images, or convolves throughout, a mark often fires in places where it was
    never put, and a repair that has only seen it in one of them leaves it the others. ``mask``, (1, 1, H, W), holds
    all pixels that the guess changes.
    """
    rows, columns = _extent(mask)
    if not 0 < len(rows) * len(columns) <= _MARK_AT_MOST * mask.numel():
        return []
    height, width = mask.shape[2:]
    ranges = [(-int(where.min()), size - int(where.max())) for where, size in ((rows, height), (columns, width))]

    def one(image: Tensor) -> Tensor:
        generator = generator_of(image)
        move = [int(torch.randint(low, high, (), generator=generator)) for low, high in ranges]
        back = [-step for step in move]
        return guess.apply(image[None].roll(back, (2, 3))).roll(move, (2, 3))[0]

    def apply(images: Tensor) -> Tensor:
        return torch.stack([one(image) for image in images]) if len(images) else images

    return [Corruption(f"{guess.name} elsewhere", apply, guess.misfit, elsewhere_of=guess.name)]


def _extent(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns, from the first to the last, that these pixels, (1, 1, H, W), span; empty if there are none."""
    spans = []
    for axis in (3, 2):
        where = mask.any(dim=axis).flatten().nonzero().flatten()
        spans.append(torch.arange(int(where.min()), int(where.max()) + 1) if len(where) else where)
    return spans[0], spans[1]


def _box(mask: Tensor) -> Tensor:
    """The least rectangle, (1, 1, H, W), that holds these pixels."""
    box = torch.zeros_like(mask)
    rows, columns = _extent(mask)
    if len(rows):
        box[..., rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box


def tinted(clean: Tensor, corrupted: Tensor, bounds: Bounds) -> list[Corruption]:
    """``corrupted = a clean + b`` in a rectangle, a and b for each channel: a mark that shows what it covers.

    A translucent square, a wash of colour, or, where the rectangle is the image, another brightness or contrast. Told
    only where the clean image has some contrast there; pixels that end black or white are left out.
    """
    change = (corrupted - clean).abs().amax(1, keepdim=True)
    box = _box(change > PASTED_FROM[0] * change.max().clamp_min(1e-12))
    if not bool(box.any()):
        return []
    low, high = (bound.to(clean).reshape(1, -1, 1, 1) for bound in bounds)
    use = (box & unclipped(corrupted, bounds)).double()
    count = use.sum((2, 3), keepdim=True).clamp_min(1)
    x, y = clean.double(), corrupted.double()
    middle_x, middle_y = ((image * use).sum((2, 3), keepdim=True) / count for image in (x, y))
    spread = (use * (x - middle_x).square()).sum((2, 3), keepdim=True)
    if bool((spread / count < (_TELLS * (high - low)).square()).any()) or bool((count < _LEAST_PIXELS).any()):
        return []
    gain = (use * (x - middle_x) * (y - middle_y)).sum((2, 3), keepdim=True) / spread
    offset = (middle_y - gain * middle_x).to(clean)
    gain = gain.to(clean)

    def apply(images: Tensor) -> Tensor:
        return torch.where(box, clamp(gain * images + offset, bounds), images)

    left = share(apply(clean) - corrupted, corrupted - clean)
    if left >= _TINT_LEAVES:
        return []
    tint = Corruption("tinted", apply, left, clear=True)
    return [tint, *elsewhere(tint, box)]


def _is_mark(mask: Tensor, change: Tensor, *, noisy: bool) -> bool:
    """Whether these pixels mark the image, rather than being the peaks of something that lies over all of it."""
    share = float(mask.float().mean())
    if not noisy or share == 0:
        return 0 < share <= _PASTE_AT_MOST
    inside, outside = (float(change[where].square().mean()) for where in (mask, ~mask))
    return share <= _MARK_AT_MOST and inside >= _MARK_STANDS_OUT * outside


def _paste(mask: Tensor, picture: Tensor, left: float) -> Corruption:
    covers = float(mask.float().mean())
    return Corruption("pasted", lambda x: torch.where(mask, picture, x), left, covers=covers)


def _colour(image: Tensor, where: Tensor, bounds: Bounds) -> Tensor:
    """The median colour of these pixels, (1, C, 1, 1); channels that are near to 0 or 1 are taken all the way."""
    colour = image.flatten(2)[..., where.flatten()].median(2).values.unsqueeze(2).unsqueeze(3)
    low, high = (bound.to(image).reshape(1, -1, 1, 1) for bound in bounds)
    share = (colour - low) / (high - low)
    return torch.where(share < _SNAP, low, torch.where(share > 1 - _SNAP, high, colour))
