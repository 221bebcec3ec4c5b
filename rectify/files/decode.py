"""Picture files decoded the way a person sees them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features
from torch import Tensor

from rectify.errors import ImageError, NotAnImage
from rectify.files.endless import refuse_endless
from rectify.files.preprocess import Preprocess
from rectify.files.words import no_such_file, plain, reason

_AVIF = {".avif"} if "avif" in features.modules and features.check("avif") else set()  # of newer Pillows
SUFFIXES = (
    frozenset({".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm"})
    | _AVIF
)

_MOST_RESIZED = 2**28  # pixels: a gigabyte


def read_image(path: Path, preprocess: Preprocess) -> Tensor:
    """Read one picture as the network's input.

    EXIF rotation is applied, transparency goes over white, 16 bit is scaled to 8, of an animation the first frame
    counts.

    Parameters
    ----------
    path : Path
        The file.
    preprocess : Preprocess
        Size and normalisation.

    Returns
    -------
    Tensor
        (C, H, W), float32.

    Raises
    ------
    ImageError
        If it is no image that can be read.
    """
    return as_input(path, decode(path, read_bytes(path)), preprocess)


def as_input(path: Path, image: Image.Image, preprocess: Preprocess) -> Tensor:
    """A decoded picture as the network's input, (C, H, W), float32.

    Parameters
    ----------
    path : Path
        For messages.
    image : PIL.Image.Image
        As `decode` returns it.
    preprocess : Preprocess
        Size and normalisation.

    Raises
    ------
    ImageError
        If it is so long and narrow that it does not fit into memory once its shorter side is resized.
    """
    width, height = preprocess.resized(image.width, image.height)
    try:
        if width * height <= _MOST_RESIZED:
            return preprocess.tensor(image)
    except MemoryError:
        pass
    raise ImageError(
        f"{plain(path)} has {image.width}x{image.height} pixels, and {width}x{height} once it is resized for the "
        "network, which do not fit into memory: crop it first, or give a smaller --input-size"
    )


def read_bytes(path: Path) -> bytes:
    """The bytes of an image file.

    Raises
    ------
    ImageError
        If there is no such file, or it cannot be read, is empty, or is a device or a pipe.
    """
    refuse_endless(path, ImageError, "give an image file")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(no_such_file(path)) from None
    except IsADirectoryError:
        raise ImageError(
            f"{plain(path)} is a folder, not an image: name a file in it (pairs in folders: --pairs DIR, with clean/ "
            "and poisoned/ in it)"
        ) from None
    except OSError as error:
        raise ImageError(f"cannot read {plain(path)}: {reason(error)}") from None
    if not content:
        raise ImageError(f"{plain(path)} is empty (0 bytes), not an image")
    return content


def decode(path: Path, content: bytes) -> Image.Image:
    """Decode an image file: upright, 8 bit, grey or RGB, transparency over white, the first frame.

    Parameters
    ----------
    path : Path
        For messages.
    content : bytes
        The file's bytes.

    Returns
    -------
    PIL.Image.Image
        Of mode ``L`` or ``RGB``.

    Raises
    ------
    ImageError
        If it is no image, damaged, too large, or of floating-point values.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.seek(0)
            image.load()
            return _plain_mode(path, ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ImageError(f"{plain(path)} has too many pixels: scale it down first") from None
    except MemoryError:
        raise ImageError(f"{plain(path)} does not fit into memory: scale it down first") from None
    except UnidentifiedImageError:
        raise NotAnImage(f"{plain(path)} is no image that can be read: use PNG or JPEG") from None
    except Exception as error:  # Pillow's decoders raise what a damaged file leads them to
        raise ImageError(f"{plain(path)} is a damaged image ({plain(reason(error))}): save it again") from None


def _plain_mode(path: Path, image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB"):
        if "transparency" not in image.info:
            return image
        image = image.convert("RGBA" if image.mode == "RGB" else "LA")
    if image.mode.startswith("I"):
        # 16-bit greys arrive as I;16 or I; PIL's own conversion cuts them off at 255.
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip((values + 128) // 257, 0, 255).astype(np.uint8))
    if image.mode == "F":
        raise ImageError(f"{plain(path)} holds floating-point values: save it as 8-bit PNG")
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        whole = image.convert("RGBA")
        white = Image.new("RGBA", whole.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, whole).convert("L" if image.mode in ("LA", "La") else "RGB")
    return image.convert("L" if image.mode == "1" else "RGB")
