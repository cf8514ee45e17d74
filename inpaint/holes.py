"""Every way to a hole: what a mask marks, in a file, a PIL image, an array or a tensor.

A pixel is hole where its whiteness, as a share of white, is above a threshold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from inpaint.codec import decode, name_of, with_channels
from inpaint.errors import InpaintError
from inpaint.photo import LUMINANCE, MAX_MEGAPIXELS, Photo, row_strips

LARGE_HOLE_SHARE = 0.6  # above it the mask is probably inverted, and the result is poor in any case
LARGE_FRAME_SHARE = 0.5  # the same for a hole that touches all four borders
LABEL_WHITENESS = 0.4  # a mask that marks nothing and whose brightest value is no more, but not 0, holds labels


def read_hole(
    mask: Any,
    *,
    size: tuple[int, int] | None,
    threshold: float = 0.5,
    invert: bool = False,
    dilate: int = 0,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> np.ndarray:
    """The hole that a mask marks: bool (H, W), True = hole.

    A pixel is hole where its whiteness is above ``threshold`` (0 <= threshold < 1). Whiteness is the luminance, as a
    share of 255 (uint8), 65535 (uint16), 1.0 (floats), True (bool), or of the largest value present (other integers). A
    mask drawn in one bright colour on a transparent ground is read by its opacity instead. ``invert`` makes the dark
    pixels the hole. ``dilate`` then grows it, see :func:`dilate_hole`.

    Args:
        mask: path, bytes, binary stream or PIL image, turned upright as a photograph is; numpy array (H, W) or
            (H, W, C) with 1 to 4 channels; or torch tensor on any device, (H, W), (1, H, W) or (H, W, 1).
        size: (height, width) of the photograph as displayed; None accepts any.
        max_megapixels: the limit for files, bytes and streams.

    Raises:
        InpaintError: the mask cannot be read; its size differs from ``size``; transparency and colour disagree about
            where the hole is; it marks nothing and looks like a picture of labels.
        ValueError: ``threshold`` or ``dilate`` is out of range.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must be at least 0 and below 1, got {threshold}")
    if dilate < 0:
        raise ValueError(f"dilate must be 0 or more pixels, got {dilate}")
    name = name_of(mask, "the mask")
    samples = _samples(mask, name, max_megapixels)
    if size is not None:
        _check_size(samples.shape[:2], size, name)
    hole = _marked(samples, name, threshold)
    return dilate_hole(~hole if invert else hole, dilate)


def dilate_hole(hole: np.ndarray, pixels: int) -> np.ndarray:
    """Grow a hole (H, W) bool by ``pixels`` in every direction, diagonals included.

    Every pixel of the (2 * pixels + 1)-sided square around a hole pixel becomes hole.
    """
    if pixels == 0 or not hole.any():
        return hole
    for axis in (0, 1):  # a square is separable
        places = np.arange(hole.shape[axis])
        before = np.insert(np.cumsum(hole, axis, dtype=np.int32), 0, 0, axis)  # hole pixels before each place
        first = np.maximum(places - pixels, 0)
        last = np.minimum(places + pixels, len(places) - 1)
        hole = before.take(last + 1, axis) > before.take(first, axis)
    return hole


def check_hole(hole: np.ndarray, *, name: str, inverted: bool = False) -> tuple[str, ...]:
    """Notes about a hole (H, W) bool that is very large; ``name`` is what messages call its mask.

    Raises:
        InpaintError: the hole covers the whole picture.
    """
    hole_colour, known_colour, polarity = _words(inverted)
    if hole.all():
        raise InpaintError(
            f"{name} marks the whole image as hole (100 %): expected some {known_colour} pixels to copy from; "
            f"{polarity} if {hole_colour} marks what to keep, change --threshold, or mark a smaller hole"
        )
    share = float(hole.mean())
    is_frame = all(border.any() for border in (hole[0], hole[-1], hole[:, 0], hole[:, -1]))
    if share > (LARGE_FRAME_SHARE if is_frame else LARGE_HOLE_SHARE):
        return (f"the hole is {share:.0%} of the image; {polarity} if {hole_colour} marks what to keep",)
    return ()


def refuse_empty(hole: np.ndarray, *, name: str, inverted: bool = False) -> None:
    """Raise InpaintError where a hole (H, W) bool has no pixel."""
    if hole.any():
        return
    hole_colour, known_colour, polarity = _words(inverted)
    raise InpaintError(
        f"{name} marks no hole (0 % of the image): expected {hole_colour} where the hole is, and every pixel reads "
        f"as {known_colour}; draw the hole in {hole_colour}, change --threshold, or {polarity} if {known_colour} "
        "marks the hole"
    )


def check_transparency(photo: Photo, hole: np.ndarray) -> tuple[str, ...]:
    """Notes about a photograph that is transparent in its hole, where the filling will not be seen."""
    if photo.has_alpha and hole.any() and photo.samples[hole, -1].mean() < photo.white / 2:
        return ("the photograph is transparent in the hole and stays so; flatten it to see the filling",)
    return ()


def _samples(mask: Any, name: str, max_megapixels: float) -> np.ndarray:
    """A mask as (H, W, C), bool or of any integer or floating type."""
    if isinstance(mask, torch.Tensor):
        mask = mask.detach().cpu()
        mask = (mask.float() if mask.dtype == torch.bfloat16 else mask).numpy()  # numpy has no bfloat16
        mask = mask[0] if mask.ndim == 3 and mask.shape[0] == 1 else mask
    if not isinstance(mask, np.ndarray):
        return decode(mask, name, max_megapixels, as_mask=True)[0]
    if mask.dtype.kind not in "buif":
        raise InpaintError(f"{name}: expected bool, integers or floats, got {mask.dtype}; convert it first")
    return with_channels(mask, name)


def _check_size(got: tuple[int, ...], expected: tuple[int, int], name: str) -> None:
    if got == tuple(expected):
        return
    turned = " (turned by 90 degrees?)" if got == tuple(expected)[::-1] else ""
    raise InpaintError(
        f"the mask must have the photograph's size: {name} is {got[1]}x{got[0]}{turned}, the photograph is "
        f"{expected[1]}x{expected[0]} (width x height, as displayed); draw the mask at that size"
    )


def _marked(samples: np.ndarray, name: str, threshold: float) -> np.ndarray:
    white = _white(samples)
    by_opacity = _is_drawn_on_transparency(samples, white, name, threshold)
    hole, brightest = np.empty(samples.shape[:2], bool), 0.0
    for rows in row_strips(samples.shape[:2]):  # doubles of a whole picture would take much memory
        whiteness = samples[rows, :, -1].astype(float) / white if by_opacity else _luminance(samples[rows], white)
        brightest = max(brightest, float(whiteness.max()))
        if np.isnan(whiteness).any():
            raise InpaintError(f"{name}: expected numbers, got NaN; give 1 where the hole is and 0 elsewhere")
        hole[rows] = whiteness > threshold
    if not hole.any() and samples.dtype.kind == "u" and not by_opacity and 0 < brightest <= LABEL_WHITENESS:
        raise InpaintError(
            f"{name} has no pixel above the threshold of {threshold:g}: its brightest value is "
            f"{brightest * white:.0f} of {white:.0f}: a label image? use a threshold of 0"
        )
    return hole


def _white(samples: np.ndarray) -> float:
    if samples.dtype.kind in "bf":
        return 1.0
    if samples.dtype.name in ("uint8", "uint16"):
        return float(np.iinfo(samples.dtype).max)
    return float(max(1, samples.max()))


def _luminance(samples: np.ndarray, white: float) -> np.ndarray:
    """The luminance of (..., C) samples as a share of white; where red, green and blue are equal, exactly theirs."""
    if samples.shape[-1] < 3:
        return samples[..., 0].astype(float) / white
    red, green, blue = (samples[..., channel].astype(float) / white for channel in range(3))
    return green + LUMINANCE[0] * (red - green) + LUMINANCE[2] * (blue - green)


def _is_drawn_on_transparency(samples: np.ndarray, white: float, name: str, threshold: float) -> bool:
    """Whether a mask is one bright colour on a transparent ground. Raises InpaintError where that is not clear."""
    if samples.shape[2] not in (2, 4) or (samples[..., -1] >= white).all():
        return False
    # Barely visible pixels have rounding errors for colours.
    visible = samples[samples[..., -1] > white / 2][:, :-1].astype(float) * 255 / white
    if not len(visible) or (np.ptp(visible, axis=0).max() <= 8 and _luminance(visible, 255).min() > threshold):
        return True
    raise InpaintError(
        f"{name} has transparent pixels, and its colours do not tell whether those are the hole: expected white on "
        "black, or one bright colour on a transparent ground; flatten it to black and white without transparency"
    )


def _words(inverted: bool) -> tuple[str, str, str]:
    """The colour of the hole, that of the known part, and how to exchange them."""
    return ("black", "white", "leave out --invert-mask") if inverted else ("white", "black", "use --invert-mask")
