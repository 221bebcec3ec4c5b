"""What was done to the clean image? Guess it from the pair, and try the guess on other images.

One pair shows a corruption once. If it can be put onto other clean images, one pair becomes many. Eleven guesses cover
the triggers and cues of the literature: a difference that is added, the same in stripes, others of the same texture,
a filter, what a small network makes of each image, pixels that are pasted, a tint, another light, another tone, a
picture that is blended in, and a smooth warp. A guess is believed only if it *fires*: the network under repair must
fall for it on calibration images as it fell for the pair.

A pair need not be perfect: marks are told from what JPEG did to the rest (`rectify.editing.marks`), and two crops that
are off by a pixel or two are aligned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from rectify.editing.filters import fitted, like, told
from rectify.editing.generators import imitated
from rectify.editing.guess import Bounds, Corruption, clamp, unclipped
from rectify.editing.marks import pasted, tinted
from rectify.editing.shades import shades, tone
from rectify.editing.textures import surrogates
from rectify.editing.warps import Warp, displace, possible, share, warps
from rectify.editing.waves import frequency_of, plane_wave

_FREE_SHOW = 0.1  # of the difference, at least, must lie in unclipped pixels
_STRIPES_LEAVE = 0.05  # of the difference there, at most, if stripes are what it is
_HIDDEN_LEAVE = 0.2  # of the whole difference, at most: of stripes 0.1 was left, of a grey mark on black many times all
_LIGHTS = {"shaded": 0.005, "toned": 0.02}  # of the difference, at most, if another light or tone is what it is:
# of a vignette rounding left 0.0003 at most, of a blurred digit a plane 0.016; of a tone other pixels tell less
_FAR_LESS = 0.5  # of what other clear guesses leave, at most, if they are not what it is
_BLEND_LEAVES = 0.002  # is taken to be left of a clear blend, whose own misfit says what it needs
_FILTER_LEAVES = 0.015  # of the difference, at most, if a filter is what it is
_HARMONICS = 4  # of a wave that is no sine
_ROOM = 0.3  # of the range, that a pixel must have to tell a blend's share
_NEARLY_ALL = 0.998  # of the pixels must bear a blend's share out
_AGREE = 0.6  # of one estimate of a blend's share is the least that the other may be
_MOST_SHARE = 0.7  # of the image, that a blend replaces; what looks like more is something else
_WARP_LEAVES = 0.02  # of the difference, at most, if a warp is all that was done; of a mark on a digit it left 0.045
_MOVED_LEAVES = 0.5  # of the difference, at most, if most of it was that the crops are apart
REACH = 2  # pixels by which two crops of one picture may be apart


def guesses(clean: Tensor, corrupted: Tensor, bounds: Bounds) -> list[Corruption]:
    """All guesses for one pair.

    Parameters
    ----------
    clean, corrupted
        (1, C, H, W), normalised.
    bounds
        The normalised values of pixel 0 and pixel 1, each (C, 1, 1).
    """
    found = aligned(clean, corrupted)
    others = _on_place(clean, clean, corrupted, bounds, torch.ones_like(clean[:, :1], dtype=torch.bool))
    lit = any(guess.name in _LIGHTS for guess in others)  # which can turn a picture over, and correlates badly then
    if found is not None and not lit:  # a picture that is off its place shows nothing clearly, or nothing at all
        moved, known = found
        off = share(corrupted - moved, corrupted - clean) < _MOVED_LEAVES
        whole = [guess for guess in others if _is_filter(guess)]  # but for a filter: a move is one too, and in it
        others = [] if off else [replace(guess, clear=False) for guess in others if not _is_filter(guess)]
        seen = moved.where(known, corrupted)  # what nothing is known of shall not show a difference
        on_place = _on_place(clean, seen, corrupted, bounds, known)
        others += [*whole, *(guess for guess in on_place if not _is_filter(guess))]
        others += pasted(clean, moved, corrupted, bounds)  # but a mark may lie there
    if any(_is_filter(guess) for guess in others):  # which takes fewer numbers than a picture, and softens as one does
        others = [replace(guess, clear=guess.clear and guess.name != "blended") for guess in others]
    smooth = _warps(clean, corrupted)
    if any(guess.clear for guess in smooth):  # which takes far fewer numbers, and moves edges as a blend might
        others = [replace(guess, clear=False) for guess in others]
    return others + smooth


def _is_filter(guess: Corruption) -> bool:
    """Whether a filter explains the pair, and is no mere stand-in for something else."""
    return guess.name == "filtered" and guess.clear


def _on_place(clean: Tensor, seen: Tensor, corrupted: Tensor, bounds: Bounds, known: Tensor) -> list[Corruption]:
    """The guesses that compare pixel by pixel, with ``seen``: the clean image, as it is or moved.

    ``known``: (1, 1, H, W) bool, where ``seen`` is the clean image.
    """
    needed = share(corrupted - seen, corrupted - clean)
    found: list[Corruption | None] = [_added(seen, corrupted, bounds, needed)]
    found += pasted(clean, seen, corrupted, bounds)
    found += [*_varied(seen, corrupted, bounds, needed), _blended(seen, corrupted, bounds, needed)]
    found += [_striped(seen, corrupted, bounds, known), *tinted(seen, corrupted, bounds)]
    told = [guess for guess in found if guess is not None]
    lit = _lit(seen, corrupted, bounds, known)
    others = [guess.misfit if guess.name != "blended" else _BLEND_LEAVES for guess in told if guess.clear]
    if lit is None or lit.misfit > _FAR_LESS * min(others, default=1.0):  # of which each takes fewer numbers
        return told
    return [*(replace(guess, clear=False) for guess in told), lit]


def aligned(clean: Tensor, corrupted: Tensor) -> tuple[Tensor, Tensor] | None:
    """The clean image moved by the whole pixels, up to two, at which it correlates best with the corrupted one.

    (1, C, H, W) both, and (1, 1, H, W) bool, where it is known: the rows and columns that move in repeat its edge. None
    if it lies best where it is, or is too small to be moved.
    """
    height, width = clean.shape[2:]
    if min(height, width) <= 4 * REACH:
        return None
    padded = F.pad(clean, (REACH,) * 4, mode="replicate")
    moves = [(down, right) for down in range(2 * REACH + 1) for right in range(2 * REACH + 1)]
    moved = [padded[..., down : down + height, right : right + width] for down, right in moves]
    inner = _inner(clean)
    scores = [_correlation(image[inner], corrupted[inner]) for image in moved]
    best = max(range(len(moves)), key=scores.__getitem__)
    if scores[best] <= scores[moves.index((REACH, REACH))]:
        return None
    down, right = moves[best]
    known = F.pad(torch.ones_like(clean[:, :1], dtype=torch.bool), (REACH,) * 4)
    return moved[best].contiguous(), known[..., down : down + height, right : right + width]


def _inner(image: Tensor) -> tuple[slice, ...]:
    """What no move within reach fills up, of (1, C, H, W); all of a small image."""
    cut = REACH if min(image.shape[2:]) > 4 * REACH else 0
    sides = (slice(cut, size - cut) for size in image.shape[2:])
    return (slice(None), slice(None), *sides)


def _correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's, of two images (1, C, h, w), each channel less its mean."""
    a, b = (image - image.mean((2, 3), keepdim=True) for image in (one, other))
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt().clamp_min(1e-12))


def _added(clean: Tensor, corrupted: Tensor, bounds: Bounds, needed: float) -> Corruption:
    return Corruption("added", _adding(corrupted - clean, bounds), needed)


def _adding(pattern: Tensor, bounds: Bounds) -> Callable[[Tensor], Tensor]:
    return lambda x: clamp(x + pattern, bounds)


def _varied(clean: Tensor, corrupted: Tensor, bounds: Bounds, needed: float) -> list[Corruption]:
    """Another difference for each image, as strong as the pair's where nothing was hidden by black and white.

    Of the same texture, or what the filter and the small network that come nearest to the pair's difference make of the
    image. A filter that explains the pair, pixels that black and white hide included, is what was done, and clear.
    Nothing where most is hidden, as under a mark of black and white.
    """
    difference, free = corrupted - clean, unclipped(corrupted, bounds)
    if share(difference[free], difference) < _FREE_SHOW:
        return []
    strength = difference[free].square().mean() / difference.square().mean().clamp_min(1e-12)
    pattern = strength.sqrt() * difference
    texture = Corruption("textured", lambda x: clamp(x + surrogates(pattern, x), bounds), needed, varies=True)
    whole = told(clean, difference, free, bounds[0])
    if whole is not None:
        filtered = Corruption("filtered", lambda x: clamp(x + whole(x), bounds), 0.0, clear=True)
        left = share((whole(clean) - difference)[free], difference[free])
        if left < _FILTER_LEAVES and share(filtered.apply(clean) - corrupted, difference) <= _HIDDEN_LEAVE:
            return [texture, replace(filtered, misfit=left)]
    found = fitted(clean, difference, free)
    if found is None:
        return [texture]
    rule = imitated(clean, difference, free)
    filtered = Corruption("filtered", lambda x: clamp(x + like(found(x), pattern), bounds), needed, varies=True)
    generated = Corruption("generated", lambda x: clamp(x + like(rule(x), pattern), bounds), needed, varies=True)
    return [texture, filtered, generated]


def _striped(clean: Tensor, corrupted: Tensor, bounds: Bounds, known: Tensor) -> Corruption | None:
    """A difference that repeats itself in one direction: a sine, stripes along an axis, or a wave of another shape.

    It is read off the pixels that are neither black nor white afterwards: the others hide how far they were moved, so
    that what was added to them is less than what is added where there is room. The first that explains it is taken:
    a sine is told from fewest pixels, while stripes of which one is hidden altogether stay unknown. Hidden pixels have
    to bear it out, too: of a grey mark on a black ground nothing else is seen, and it fills stripes of its own.
    """
    free = unclipped(corrupted, bounds) & known
    difference = corrupted - clean
    if share(difference[free], difference) < _FREE_SHOW:
        return None
    for pattern in _patterns(difference, free):
        left = share((difference - pattern)[free], difference[free])
        add = _adding(pattern, bounds)
        if left <= _STRIPES_LEAVE and share((add(clean) - corrupted) * known, difference) <= _HIDDEN_LEAVE:
            return Corruption("striped", add, left, clear=True)
    return None


def _patterns(difference: Tensor, free: Tensor) -> Iterator[Tensor]:
    """What `_striped` tries, each (1, C, H, W), in its order."""
    frequency = frequency_of(difference[0], free[0])
    yield plane_wave(difference[0], free[0], frequency)[None]
    shown = difference.where(free, torch.nan)
    for axis in (2, 3):
        yield shown.nanmedian(dim=axis, keepdim=True).values.nan_to_num(0.0).expand_as(difference)
    yield plane_wave(difference[0], free[0], frequency, _HARMONICS)[None]


def _lit(clean: Tensor, corrupted: Tensor, bounds: Bounds, known: Tensor) -> Corruption | None:
    """Another light, which changes smoothly over the image, or another tone: what explains the pair better, if any."""
    free, difference = unclipped(corrupted, bounds) & known, corrupted - clean
    if share(difference[free], difference) < _FREE_SHOW:
        return None

    def guess(name: str, change: Callable[[Tensor], Tensor], predicted: Tensor | None = None) -> Corruption:
        made = Corruption(name, lambda x: clamp(change(x), bounds), clear=True)
        left = made.apply(clean) if predicted is None else predicted
        return replace(made, misfit=share((left - corrupted) * known, difference))

    low, high = (bound.to(clean).reshape(1, -1, 1, 1) for bound in bounds)
    simplest = next(filter(_is_light, (guess("shaded", shade) for shade in shades(clean, corrupted, free))), None)
    found = [simplest, guess("toned", *tone(clean, corrupted, low, high))]
    return min((one for one in found if one and _is_light(one)), key=lambda one: one.misfit, default=None)


def _is_light(guess: Corruption) -> bool:
    return guess.misfit < _LIGHTS[guess.name]


def _blended(clean: Tensor, corrupted: Tensor, bounds: Bounds, needed: float) -> Corruption | None:
    """``corrupted = (1 - α) clean + α picture``.

    Two estimates of α. The difference ``α (picture - clean)`` regresses on the clean image with slope -α, if the
    picture is independent of it; of both the gradients are taken, in which two pictures hardly ever correlate. And as
    no picture is darker than black or lighter than white, α is at least ``(clean - corrupted) / clean`` and
    ``(corrupted - clean) / (1 - clean)`` everywhere: where the picture has black or white pixels, just that. If the two
    agree, nothing else was done: no pattern that is merely added has both.
    """
    inner = _inner(clean)  # at the edge of a picture that was moved into place nothing is known
    slope = _slope(clean[inner], (corrupted - clean)[inner])
    if not 0.02 < slope < 0.95:
        return None
    least = _least_share(clean[inner], corrupted[inner], bounds)
    agree = _AGREE * slope < least < min(slope / _AGREE, _MOST_SHARE)
    alpha = least if agree else slope
    picture = clamp(clean + (corrupted - clean) / alpha, bounds)
    return Corruption("blended", lambda x: (1 - alpha) * x + alpha * picture, needed, clear=agree)


def _slope(clean: Tensor, difference: Tensor) -> float:
    """Of the difference's gradients on the clean image's, with the sign turned."""
    along, across = ([image.diff(dim=axis).flatten() for image in (clean, difference)] for axis in (2, 3))
    x, d = (torch.cat(parts) for parts in zip(along, across, strict=True))
    return float(-(x * d).sum() / x.square().sum().clamp_min(1e-12))


def _least_share(clean: Tensor, corrupted: Tensor, bounds: Bounds) -> float:
    """The least α with which a picture between the bounds was blended in; of a few pixels it need not hold."""
    low, high = (bound.to(clean).reshape(1, -1, 1, 1) for bound in bounds)
    x, y = ((image - low) / (high - low) for image in (clean, corrupted))
    # Where there is little room a step of 1/255 would weigh too much.
    darker = ((x - y) / x).where(x > _ROOM, 0.0)
    lighter = ((y - x) / (1 - x)).where(1 - x > _ROOM, 0.0)
    values = torch.maximum(darker, lighter).flatten()
    return float(values.kthvalue(max(1, round(_NEARLY_ALL * len(values)))).values)


def _warps(clean: Tensor, corrupted: Tensor) -> list[Corruption]:
    """Smooth displacement fields. The one that explains the pair best is clear, if it explains nearly all.

    Of a warp that was made from a grid, that grid leaves no more than rounding to 8 bits does, a tenth of what others
    leave. Of other fields, carrying over all that fit nearly as well was no better than the best alone.
    """
    found = warps(clean, corrupted)
    best = min(found, key=lambda warp: warp.left, default=None)
    return [_clearly(warp, clean, corrupted) if warp is best else _warped(warp) for warp in found]


def _warped(warp: Warp) -> Corruption:
    return Corruption(f"warped-{warp.grid}", lambda x: displace(x, warp.field), warp.left, moves=True)


def _clearly(warp: Warp, clean: Tensor, corrupted: Tensor) -> Corruption:
    """The guess made clear, if the warp explains nearly all of the pair."""
    guess = _warped(warp)
    if warp.left >= _WARP_LEAVES:
        return guess
    fields = possible(clean, corrupted, warp)
    return replace(guess, clear=True, loosely=lambda x: displace(x, fields[torch.arange(len(x)) % len(fields)]))
