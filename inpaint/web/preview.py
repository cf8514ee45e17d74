"""What a browser shows of a photograph: 8 bits a colour, sRGB, upright, and small enough to be painted on.

Browsers show neither TIFF nor 16 bits, and phones have no memory for large canvases. So they get a picture in which one
pixel is the mean of a square of the photograph's. The squares have whole sides: what is painted maps back exactly.
"""

from __future__ import annotations

import contextlib
import io

import numpy as np
from PIL import Image, ImageCms

from inpaint.photo import Photo

LONGEST = 2048  # pixels of the longer side


def square_of(size: tuple[int, int]) -> int:
    """Pixels a side of the square that one pixel shows, of a photograph of (height, width)."""
    return max(1, -(-max(size) // LONGEST))


def size_of(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of what is shown of a photograph of (height, width)."""
    side = square_of(size)
    return -(-size[0] // side), -(-size[1] // side)


def enlarged(marked: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What was marked on the preview, (h, w) bool, on the photograph of (height, width)."""
    side = square_of(size)
    return marked.repeat(side, 0).repeat(side, 1)[: size[0], : size[1]]


def draw(photo: Photo) -> Image.Image:
    """The preview, RGB. What is transparent shows its colours."""
    image = reduced(Image.fromarray(np.squeeze(_as_bytes(photo), 2) if photo.is_grey else _as_bytes(photo)))
    if photo.icc_profile is not None:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):  # a damaged profile, or one of another colour space
            profile = ImageCms.ImageCmsProfile(io.BytesIO(photo.icc_profile))
            converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            return image if converted is None else converted
    return image.convert("RGB")


def reduced(image: Image.Image) -> Image.Image:
    """A picture of the photograph's size at the preview's."""
    return image.reduce(square_of((image.height, image.width)))


def _as_bytes(photo: Photo) -> np.ndarray:
    """(H, W, 1 or 3) uint8."""
    samples = photo.samples[..., : 1 if photo.is_grey else 3]
    if samples.dtype == np.uint8:
        return np.ascontiguousarray(samples)
    if samples.dtype == np.uint16:
        return (samples >> 8).astype(np.uint8)
    return (np.nan_to_num(samples, nan=0.0).clip(0, 1) * 255).astype(np.uint8)
