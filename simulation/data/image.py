"""The one place that opens images: whatever they are stored as, what a person would see comes out, in RGB."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageFile, ImageOps

from zkapex.errors import InputError

MOST_PIXELS = 2**26
"""Of one image, 67 million: more than cameras make, less than what fills the memory when unpacked."""


@contextmanager
def _whole_images_only() -> Iterator[None]:
    """Pillow fills up what is missing of an image if anybody in the process has asked for that, as WeasyPrint does."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def decode(data: bytes, name: str) -> Image.Image:
    """An image in RGB, turned as its EXIF data say, on white where it is transparent.

    Grey of 16 bits keeps its upper eight. Of an animation it is the first picture.

    Parameters
    ----------
    data : bytes
        A file in any format that Pillow reads.
    name : str
        What to call it in messages, such as its path.

    Raises
    ------
    InputError
        It is no image, incomplete, too large, or has pixels that are no colours.
    """
    if not data:
        raise InputError(
            f"the image {name} cannot be decoded", why="the file is empty", fix="delete it, or fetch it again"
        )
    try:
        with warnings.catch_warnings(), _whole_images_only():
            warnings.simplefilter("ignore")  # of damaged metadata, and of sizes that are checked below
            with Image.open(io.BytesIO(data)) as opened:
                pixels = opened.width * opened.height
                if pixels <= MOST_PIXELS:
                    return _rgb(ImageOps.exif_transpose(opened), name)
    except Image.DecompressionBombError as e:
        raise _too_large(name, str(e)) from e
    except InputError:
        raise
    except Exception as e:  # Pillow's decoders raise whatever the bytes make them stumble over
        why = str(e) if isinstance(e, OSError) and "BytesIO" not in str(e) else "it is no image of a known format"
        raise InputError(
            f"the image {name} cannot be decoded",
            why=f"{why} (it begins with {data[:16]!r})",
            fix="delete it, or fetch it again",
        ) from e
    raise _too_large(name, f"it has {pixels} pixels")


def _too_large(name: str, why: str) -> InputError:
    return InputError(f"the image {name} is too large", why=why, fix=f"scale it down to at most {MOST_PIXELS} pixels")


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise InputError(f"the image {name} has pixels that are no colours", why="they are floating-point numbers")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"the image {name} has pixels that are no colours", why="they exceed 16 bits")
        return Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return image.convert("RGB")
