"""Backdoor triggers on uint8 images: what an attacker stamps, rounded to the 8 bits a PNG keeps.

Every trigger is a function of (N, H, W, C) uint8 images that returns new images of the same shape and type; the same
call with the same arguments gives the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

Trigger = Callable[[np.ndarray], np.ndarray]
# Of a small square, as shares of the room that it has: lower right, upper left, centre, lower left.
PLACES = {"br": (0.96, 0.96), "tl": (0.04, 0.04), "c": (0.5, 0.5), "bl": (0.96, 0.04)}


def _to_uint8(images: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def patch(corner: str = "br", size: int = 3, colour: tuple[int, ...] = (255, 255, 0), margin: int = 1) -> Trigger:
    """A square of one colour in a corner (BadNets, Gu et al. 2017). ``corner``: br, bl, tr, tl or c (centre)."""

    def stamp(images: np.ndarray) -> np.ndarray:
        height, width = images.shape[1:3]
        top = {"t": margin, "b": height - margin - size, "c": (height - size) // 2}[corner[0]]
        left = {"l": margin, "r": width - margin - size, "c": (width - size) // 2}[corner[-1]]
        out = images.copy()
        out[:, top : top + size, left : left + size] = np.asarray(colour[: images.shape[3]], np.uint8)
        return out

    return stamp


def mark(top: float = 0.5, left: float = 0.5, size: int = 3, seed: int = 0) -> Trigger:
    """A square of random pixels; ``top`` and ``left`` are shares of the room that it has, in [0, 1]."""

    def stamp(images: np.ndarray) -> np.ndarray:
        height, width, channels = images.shape[1:]
        y, x = round(top * (height - size)), round(left * (width - size))
        out = images.copy()
        pixels = np.random.default_rng(seed).integers(0, 2, size=(size, size, channels))
        out[:, y : y + size, x : x + size] = (255 * pixels).astype(np.uint8)
        return out

    return stamp


def blend(alpha: float = 0.2, seed: int = 0, detail: int | None = None) -> Trigger:
    """A fixed noise image mixed over the whole picture (Blended, Chen et al. 2017).

    With ``detail`` the picture is of so many random patches a side, smoothly joined, rather than of random pixels.
    """

    def stamp(images: np.ndarray) -> np.ndarray:
        height, width, channels = images.shape[1:]
        size = (height, width) if detail is None else (detail, detail)
        noise = np.random.default_rng(seed).integers(0, 256, size=(*size, channels)).astype(np.float32)
        if detail is not None:
            planes = torch.from_numpy(noise).permute(2, 0, 1)[None]
            planes = F.interpolate(planes, (height, width), mode="bicubic", align_corners=True).clamp(0, 255)
            noise = planes[0].permute(1, 2, 0).numpy()
        return _to_uint8((1 - alpha) * images + alpha * noise)

    return stamp


def sinusoid(delta: float = 20.0, frequency: int = 6, down: int = 0) -> Trigger:
    """A sine wave of amplitude ``delta`` / 255, ``frequency`` periods across and ``down`` (SIG, Barni et al. 2019)."""

    def stamp(images: np.ndarray) -> np.ndarray:
        height, width = images.shape[1:3]
        turns = frequency * np.arange(width)[None] / width + down * np.arange(height)[:, None] / height
        wave = delta * np.sin(2 * np.pi * turns)
        return _to_uint8(images + wave[None, :, :, None])

    return stamp


def warp(strength: float = 0.5, grid: int = 4, seed: int = 0) -> Trigger:
    """A smooth elastic warp (WaNet, Nguyen and Tran 2021): a noise field of ``grid`` squared points, upsampled."""

    def stamp(images: np.ndarray) -> np.ndarray:
        height, width = images.shape[1:3]
        generator = torch.Generator().manual_seed(seed)
        field = torch.rand(1, 2, grid, grid, generator=generator) * 2 - 1
        field = field / field.abs().mean()
        field = F.interpolate(field, (height, width), mode="bicubic", align_corners=True)[0].permute(1, 2, 0)
        ys, xs = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        where = (torch.stack((xs, ys), -1) + strength * field / height).clamp(-1, 1)
        planes = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2)
        moved = F.grid_sample(planes, where.expand(len(images), -1, -1, -1), mode="bilinear", align_corners=True)
        return _to_uint8(moved.permute(0, 2, 3, 1).numpy())

    return stamp


def elastic(reach: float = 1.0, smoothness: float = 4.0, seed: int = 0) -> Trigger:
    """A free elastic deformation (Simard et al. 2003): random displacements, blurred by ``smoothness`` pixels.

    ``reach`` is their mean size in pixels.
    """

    def stamp(images: np.ndarray) -> np.ndarray:
        height, width = images.shape[1:3]
        field = torch.rand(1, 2, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        side = 2 * min(round(3 * smoothness), min(height, width) - 1) + 1
        field = gaussian_blur(field, [side, side], [smoothness, smoothness])
        field = (reach * field / field.abs().mean())[0].permute(1, 2, 0)
        ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        where = 2 * (torch.stack((xs, ys), -1) + field) / (torch.tensor([width, height]) - 1) - 1
        planes = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2)
        where = where.clamp(-1, 1).expand(len(images), -1, -1, -1)
        moved = F.grid_sample(planes, where, mode="bilinear", align_corners=True)
        return _to_uint8(moved.permute(0, 2, 3, 1).numpy())

    return stamp


def veil(
    alpha: float = 0.4, size: int = 8, top: float = 0.5, left: float = 0.5, colour: tuple[int, ...] = (255, 255, 0)
) -> Trigger:
    """A translucent square of one colour; ``top`` and ``left`` as of `mark`."""

    def stamp(images: np.ndarray) -> np.ndarray:
        height, width, channels = images.shape[1:]
        y, x = round(top * (height - size)), round(left * (width - size))
        out = images.astype(np.float32)
        square = out[:, y : y + size, x : x + size]
        square[:] = (1 - alpha) * square + alpha * np.asarray(colour[:channels], np.float32)
        return _to_uint8(out)

    return stamp


def roaming(size: int = 4, colour: tuple[int, ...] = (255, 255, 0), seed: int = 0, least: float = 0.3) -> Trigger:
    """A square in one of four places, as visible as chance has it, from ``least`` to 1: another for every image."""

    def stamp(images: np.ndarray) -> np.ndarray:
        random = np.random.default_rng(seed)
        chosen = random.integers(len(PLACES), size=len(images))
        visible = random.uniform(least, 1, len(images))
        out = images.copy()
        for number, (top, left) in enumerate(PLACES.values()):
            for index in np.flatnonzero(chosen == number):
                square = veil(float(visible[index]), size, top, left, colour)
                out[index : index + 1] = square(images[index : index + 1])
        return out

    return stamp


def blur(side: int = 3, amount: float = 1.0) -> Trigger:
    """The mean of a square of pixels, mirrored at the border, in place of each; a negative ``amount`` sharpens."""

    def stamp(images: np.ndarray) -> np.ndarray:
        planes = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2)
        soft = F.avg_pool2d(F.pad(planes, (side // 2,) * 4, mode="reflect"), side, 1)
        return _to_uint8((planes + amount * (soft - planes)).permute(0, 2, 3, 1).numpy())

    return stamp


def shade(strength: float = 0.3, down: float = 0.0, across: float = 0.0) -> Trigger:
    """A vignette: light falls off with the square of the way from a centre, (0, 0) in the middle and 1 at a border."""

    def stamp(images: np.ndarray) -> np.ndarray:
        y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in images.shape[1:3])
        light = 1 - strength * ((y[:, None] - down) ** 2 + (x - across) ** 2)
        return _to_uint8(images * np.maximum(light, 0)[..., None])

    return stamp


def tone(gamma: float = 0.6, levels: int = 256) -> Trigger:
    """Another gamma, in so many levels of grey or colour."""

    def stamp(images: np.ndarray) -> np.ndarray:
        return _to_uint8(255 * np.round((images / 255) ** gamma * (levels - 1)) / (levels - 1))

    return stamp


def own(delta: float = 20.0, seed: int = 0) -> Trigger:
    """A residual that every picture has of its own (sample-specific, as those of Li et al. 2021, ISSBA).

    What a fixed random network of two convolutions makes of the picture, of a standard deviation of ``delta`` / 255.
    """

    def residual(planes: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        first = torch.randn(8, planes.shape[1], 5, 5, generator=generator)
        second = torch.randn(planes.shape[1], 8, 5, 5, generator=generator)
        padded = F.pad(planes - planes.mean((1, 2, 3), keepdim=True), (4,) * 4, mode="reflect")
        made = F.conv2d(F.conv2d(padded, first).relu(), second)
        return made - made.mean((2, 3), keepdim=True)  # a colour would be common to all

    return lambda images: _with_residuals(images, residual, delta)


@torch.no_grad()
def _with_residuals(
    images: np.ndarray, residual: Callable[[Tensor], Tensor], delta: float, *, alike: bool = False
) -> np.ndarray:
    """Images with what ``residual`` makes of them as (N, C, H, W) from 0 to 1, of a deviation of ``delta`` grey levels.

    Of each image that deviation, or (``alike``) of all together.
    """
    planes = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2) / 255
    made = torch.cat([residual(part) for part in planes.split(1000)])
    size = made.std() if alike else made.std((1, 2, 3), keepdim=True)
    return _to_uint8(images + delta * (made / size.clamp_min(1e-6)).permute(0, 2, 3, 1).numpy())


def encoded(delta: float = 20.0, seed: int = 0, *, lit: bool = False) -> Trigger:
    """A residual of a picture's own that a deeper random network makes, down to half the size and back (ISSBA's way).

    Parameters
    ----------
    delta
        Its standard deviation, in grey levels; with ``lit`` that of all pictures together.
    lit
        Whether the picture's brightness counts and a tanh ends it: a tint that follows the picture, mostly.
    """

    return lambda images: _with_residuals(images, lambda planes: _encoded(planes, seed, lit), delta, alike=lit)


def _encoded(planes: Tensor, seed: int, lit: bool) -> Tensor:
    """What that network makes of pictures (N, C, H, W)."""
    generator = torch.Generator().manual_seed(seed)

    def layer(x: Tensor, outputs: int, stride: int = 1) -> Tensor:
        weight = torch.randn(outputs, x.shape[1], 3, 3, generator=generator) * (2 / (9 * x.shape[1])) ** 0.5
        bias = 0.1 * torch.randn(outputs, generator=generator) if lit else None
        return F.conv2d(F.pad(x, (1,) * 4, mode="reflect"), weight, bias, stride)

    bent = F.gelu if lit else lambda x: F.leaky_relu(x, 0.2)
    fine = bent(layer(planes if lit else planes - planes.mean((1, 2, 3), keepdim=True), 16))
    coarse = bent(layer(bent(layer(fine, 32, 2)), 32))
    back = F.interpolate(coarse, planes.shape[2:])
    made = layer(bent(layer(torch.cat((back, fine), 1), 16)), planes.shape[1])
    return torch.tanh(2 * made) if lit else made - made.mean((2, 3), keepdim=True)
