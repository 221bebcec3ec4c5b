"""Attribution maps as colours: signed, one scale for maps to be compared, and clipped before any cast."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rectify.reporting.canvas import BLUE, ORANGE, SKY, VERMILLION
from rectify.reporting.words import plural

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]

QUANTILE = 0.995  # of |map|: one stray pixel must not make all others pale
OPAQUE = 0.9  # of the strongest colour in an overlay: the image shows through everywhere
PURE = 0.4  # from here on a colour holds no white
# Blue ends darker than vermillion does: on a black-and-white printer what is darkest is against, never for.
DEEP = "#00405F"
STOPS = ((-1.0, DEEP), (-0.75, BLUE), (-PURE, SKY), (0.0, "#FFFFFF"), (PURE, ORANGE), (1.0, VERMILLION))


@dataclass(frozen=True)
class Map:
    """One attribution map and what is said of it.

    Attributes
    ----------
    image
        (H, W, C) or (H, W), floats in [0, 1].
    heat
        (h, w), signed; a map of a layer may be coarser than the image.
    caption
        What the image is, such as its file's name.
    lines
        Sentences about the map: class, confidence, completeness gap.
    baseline
        The image where the path began, if it is worth a look.
    """

    image: Array
    heat: Array
    caption: str = ""
    lines: tuple[str, ...] = ()
    baseline: Array | None = None


def pixels(image: Array) -> Array:
    """An image as (H, W, 3) in [0, 1]; what is not finite is black, and channels other than three are averaged.

    Raises
    ------
    ValueError
        It is not (H, W) or (H, W, C), or it is empty.
    """
    import numpy as np

    array: Array = np.asarray(image, dtype=np.float64)
    if array.ndim not in (2, 3) or array.size == 0:
        raise ValueError(f"an image must be (H, W) or (H, W, C), not {np.shape(image)}")
    if array.ndim == 3 and array.shape[2] != 3:
        array = array.mean(axis=2)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    return np.clip(np.nan_to_num(array, posinf=0.0, neginf=0.0), 0.0, 1.0)


def finite(heat: Array) -> tuple[Array, int]:
    """A map with zeros for what is not finite, and how many those are.

    Raises
    ------
    ValueError
        It is not (h, w), or it is empty.
    """
    import numpy as np

    array = np.asarray(heat, dtype=np.float64)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"a map must be (h, w), not {np.shape(heat)}")
    good = np.isfinite(array)
    return np.where(good, array, 0.0), int(array.size - good.sum())


def heat_limit(heats: Iterable[Array]) -> float:
    """The end of the colour scale that maps share: the largest of their 99.5 % quantiles of |map|; 0 for zero maps."""
    import numpy as np

    limit, top = 0.0, 0.0
    for heat in heats:
        sizes = np.abs(finite(heat)[0])
        limit = max(limit, float(np.quantile(sizes, QUANTILE)))
        top = max(top, float(sizes.max()))
    # a map that is zero but for a few pixels has a quantile of zero
    return limit if limit > 0 else top


def _share(heat: Array, limit: float) -> Array:
    import numpy as np

    end = limit if limit > 0 else 1.0
    share: Array = np.clip(finite(heat)[0], -end, end) / end
    return share


def _rgb(colour: str) -> list[float]:
    return [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]


def heat_colours(heat: Array, limit: float) -> Array:
    """The map in signed colours, (h, w, 3) floats in [0, 1]: blue below zero, white at zero, orange and red above."""
    return _coloured(_share(heat, limit))


def _coloured(share: Array) -> Array:
    import numpy as np

    places = [place for place, _ in STOPS]
    channels = zip(*(_rgb(colour) for _, colour in STOPS), strict=True)
    return np.stack([np.interp(share, places, channel) for channel in channels], axis=2)


def overlaid(image: Array, heat: Array, limit: float) -> Array:
    """The image in grey under the map's colours, (H, W, 3) floats in [0, 1]; opacity grows with |map|."""
    import numpy as np

    shown = pixels(image)
    share = resized(_share(heat, limit), *shown.shape[:2])
    # neither black nor white: blue is seen on the one, orange on the other
    grey = 0.2 + 0.65 * (shown @ np.array([0.299, 0.587, 0.114]))[:, :, None]
    # a weak pixel is thin colour, not thin white
    colour = _coloured(np.sign(share) * np.maximum(np.abs(share), PURE))
    opacity = OPAQUE * np.abs(share)[:, :, None]
    mixed: Array = np.clip((1 - opacity) * grey + opacity * colour, 0.0, 1.0)
    return mixed


def resized(heat: Array, height: int, width: int) -> Array:
    """A map (h, w) at another size, bilinear: values between those there are, never beyond them."""
    down, across = _weights(heat.shape[0], height), _weights(heat.shape[1], width)
    return heat if heat.shape == (height, width) else down @ heat @ across.T


def _weights(old: int, new: int) -> Array:
    import numpy as np

    place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.floor(place).astype(int)
    weights = np.zeros((new, old))
    weights[np.arange(new), low] = 1 - (place - low)
    weights[np.arange(new), np.minimum(low + 1, old - 1)] += place - low
    return weights


def oddities(one: Map) -> tuple[str, ...]:
    """What must be said of a map that its colours do not show."""
    heat, bad = finite(one.heat)
    said = [f"{plural(bad, 'value')} not finite, shown as 0"] if bad else []
    if not heat.any():
        said.append("the map is zero everywhere")
    return tuple(said)
