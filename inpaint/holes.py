"""Every way to a hole: what a mask marks, in a file, a PIL image, an array or a tensor.

A pixel is hole where its whiteness, as a share of white, is above a threshold. Where the rim of a hole is soft, the
pixels that it covers in part belong to it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from inpaint import polygons
from inpaint.codec import decode, name_of, with_channels
from inpaint.errors import InpaintError
from inpaint.photo import LUMINANCE, MAX_MEGAPIXELS, Photo, row_strips

THRESHOLD = 0.5  # of white
RIM = 2  # pixels around a hole in which partly covered ones belong to it: as wide as anti-aliasing and JPEG make a rim
BARELY = 1 / 64  # of white: less is the noise of an encoder
LARGE_HOLE_SHARE = 0.6  # above it the mask is probably inverted, and the result is poor in any case
LARGE_FRAME_SHARE = 0.5  # the same for a hole that touches all four borders
LABEL_WHITENESS = 0.4  # a mask that marks nothing and whose brightest value is no more, but not 0, holds labels
MOST_LABELS = 64  # integers below it may be labels
PHOTOGRAPH_GREYS = 0.1  # share of pixels that are neither black nor white, from which a mask may be a photograph
SAME_PICTURE = 0.98  # correlation of the brightness of two pictures from which one is a copy of the other


class Seen(Protocol):
    """The photograph, as far as a mask is compared with it."""

    @property
    def size(self) -> tuple[int, int]: ...
    def colours(self, rows: slice, columns: slice) -> Tensor: ...


class Found(NamedTuple):
    """A hole (H, W) bool, and notes about how it was read."""

    hole: np.ndarray
    notes: tuple[str, ...]


def read_hole(
    mask: Any,
    *,
    size: tuple[int, int] | None,
    threshold: float | None = None,
    invert: bool = False,
    dilate: int | None = None,
    resize: bool = False,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> np.ndarray:
    """The hole that a mask marks: bool (H, W), True = hole.

    A pixel is hole where its whiteness is above ``threshold`` (0 <= threshold < 1; by default THRESHOLD). Whiteness is
    the luminance, as a share of 255 (uint8), 65535 (uint16), True (bool), or of the largest value present (other
    integers, and floats above 1). Where 0 and one other value are all that an unsigned mask holds, that value is white.
    A mask drawn in one colour on a transparent ground is read by its opacity instead. ``invert`` makes the dark pixels
    the hole. ``dilate`` then grows it, see :func:`dilate_hole`.

    Without ``threshold`` and ``dilate``, pixels within RIM of the hole belong to it that are neither black nor white:
    they hold some of what is to be removed. A mask of black and white alone has none.

    Args:
        mask: path, bytes, binary stream or PIL image, turned upright as a photograph is; a path or a stream's name that
            ends in .json, see ``inpaint.polygons``; numpy array (H, W) or (H, W, C) with 1 to 4 channels; or torch
            tensor on any device, (H, W), (1, H, W) or (H, W, 1).
        size: (height, width) of the photograph as displayed; None accepts any.
        resize: stretch a mask of another size to ``size``, with soft rims.
        max_megapixels: the limit for files, bytes and streams.

    Raises:
        InpaintError: the mask cannot be read; its size differs from ``size``; transparency and colour disagree about
            where the hole is; it marks nothing and looks like a picture of labels.
        ValueError: ``threshold`` or ``dilate`` is out of range.
    """
    found = find_hole(
        mask, size=size, threshold=threshold, invert=invert, dilate=dilate, resize=resize, max_megapixels=max_megapixels
    )
    return found.hole


def find_hole(
    mask: Any,
    *,
    size: tuple[int, int] | None,
    threshold: float | None = None,
    invert: bool = False,
    dilate: int | None = None,
    resize: bool = False,
    photograph: Seen | None = None,
    photograph_name: str = "",
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Found:
    """As :func:`read_hole`, with notes. A mask that is a copy of ``photograph`` is refused."""
    if threshold is not None and not 0 <= threshold < 1:
        raise ValueError(f"threshold must be at least 0 and below 1, got {threshold}")
    if dilate is not None and dilate < 0:
        raise ValueError(f"dilate must be 0 or more pixels, got {dilate}")
    name = name_of(mask, "the mask")
    if polygons.is_polygon_file(mask):
        if size is None:
            raise InpaintError(f"{name}: expected the photograph's size, got none; polygons do not say it")
        hole = polygons.read_polygons(mask, size=size, photograph=photograph_name, resize=resize)
        return Found(dilate_hole(~hole if invert else hole, dilate or 0), ())
    samples = _samples(mask, name, max_megapixels)
    given = (samples.shape[0], samples.shape[1])
    if size is not None and not resize:
        check_size(given, size, name)
    read = _reading(samples, name, THRESHOLD if threshold is None else threshold, is_guided=threshold is not None)
    if photograph is not None and given == photograph.size and not read.by_opacity:
        _refuse_photograph(read, photograph, name)
    notes = read.notes
    if size is not None and given != tuple(size):
        notes = (*notes, *_note_about_stretching(given, size, name))
        read = _stretched(read, size)
    above, partly = _marked(read)
    if partly.mean() > 0.5:
        notes = (*notes, f"most of {name} is neither black nor white: it may be a picture, and no mask")
    hole = ~above if invert else above
    if threshold is None and dilate is None and partly.any():
        hole |= partly & dilate_hole(hole, RIM)
    return Found(dilate_hole(hole, dilate or 0), notes)


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
        where = " and touches all four borders" if is_frame else ""
        return (f"the hole is {share:.0%} of the image{where}; {polarity} if {hole_colour} marks what to keep",)
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


def check_size(got: tuple[int, int], expected: tuple[int, int], name: str) -> None:
    """Raise InpaintError where a mask has another (height, width) than the photograph."""
    if tuple(got) == tuple(expected):
        return
    turned = " (turned by 90 degrees?)" if tuple(got) == tuple(expected)[::-1] else ""
    raise InpaintError(
        f"the mask must have the photograph's size: {name} is {got[1]}x{got[0]}{turned}, the photograph is "
        f"{expected[1]}x{expected[0]} (width x height, as displayed); draw the mask at that size, or stretch it with "
        "--resize-mask"
    )


def check_transparency(photo: Photo, hole: np.ndarray) -> tuple[str, ...]:
    """Notes about a photograph that is transparent in its hole, where the filling will not be seen."""
    if photo.has_alpha and hole.any() and photo.samples[hole, -1].mean() < photo.white / 2:
        return (
            "the photograph is transparent in the hole and stays so; flatten it to see the filling, or fill what is "
            "transparent with --mask-from-alpha",
        )
    return ()


class _Reading(NamedTuple):
    """A mask of (height, width): its whiteness, (h, W) floats, of some rows; and above which one is hole."""

    size: tuple[int, int]
    whiteness: Callable[[slice], np.ndarray]
    threshold: float
    by_opacity: bool
    notes: tuple[str, ...]


def _samples(mask: Any, name: str, max_megapixels: float) -> np.ndarray:
    """A mask as (H, W, C), bool or of any integer or floating type."""
    if isinstance(mask, torch.Tensor):
        mask = mask.detach().cpu()
        mask = (mask.float() if mask.dtype == torch.bfloat16 else mask).numpy()  # numpy has no bfloat16
        mask = mask[0] if mask.ndim == 3 and mask.shape[0] == 1 else mask
    if not isinstance(mask, np.ndarray):
        return decode(mask, name, max_megapixels, purpose="mask")[0]
    if mask.dtype.kind not in "buif":
        raise InpaintError(f"{name}: expected bool, integers or floats, got {mask.dtype}; convert it first")
    return with_channels(mask, name)


def _reading(samples: np.ndarray, name: str, threshold: float, *, is_guided: bool) -> _Reading:
    """How a mask is to be read. ``is_guided``: the user has said by which threshold."""
    white = _white(samples, name)
    by_opacity, opacity_notes = _is_drawn_on_transparency(samples, white, name)
    size = (samples.shape[0], samples.shape[1])

    def whiteness(rows: slice) -> np.ndarray:
        if by_opacity:
            return samples[rows, :, -1].astype(float) / white
        return _luminance(samples[rows], white)

    reading = _Reading(size, whiteness, threshold, by_opacity, opacity_notes)
    if by_opacity or is_guided or samples.dtype.kind not in "ui":
        return reading
    least, brightest = _positive_ends(reading)
    if least == brightest and brightest < 1 and samples.dtype.kind == "u":  # 0 and one other value
        note = f"{name} holds 0 and {brightest * white:.0f} alone: {brightest * white:.0f} is taken for the hole"
        return reading._replace(whiteness=lambda rows: whiteness(rows) / brightest, notes=(note,))
    if 0 < least < brightest:
        _refuse_labels(samples, name, white, threshold, brightest)
    return reading._replace(notes=_notes_about_labels(samples, name))


def _positive_ends(reading: _Reading) -> tuple[float, float]:
    """The least and the largest whiteness above 0; infinity and 0 where there is none."""
    least, largest = math.inf, 0.0
    for rows in row_strips(reading.size):
        part = reading.whiteness(rows)
        least = min(least, float(part.min(where=part > 0, initial=math.inf)))
        largest = max(largest, float(part.max()))
    return least, largest


def _refuse_labels(samples: np.ndarray, name: str, white: float, threshold: float, brightest: float) -> None:
    """Raise InpaintError where a mask of several integers looks like a label image."""
    if samples.dtype.name not in ("uint8", "uint16"):  # the largest value that is there is white
        if white < MOST_LABELS:
            raise InpaintError(
                f"{name} holds integers from 0 to {white:.0f}: a label image? use a threshold of 0, or choose labels "
                "with --label"
            )
    elif brightest <= min(threshold, LABEL_WHITENESS):
        raise InpaintError(
            f"{name} has no pixel above the threshold of {threshold:g}: its brightest value is "
            f"{brightest * white:.0f} of {white:.0f}: a label image? use a threshold of 0, or choose labels with "
            "--label or a colour with --mask-colour"
        )


def _notes_about_labels(samples: np.ndarray, name: str) -> tuple[str, ...]:
    """Notes about masks whose brightness may not be what marks the hole."""
    if samples.dtype == np.uint8 and samples.shape[2] < 3:
        count = np.bincount(samples[..., 0].ravel(), minlength=256)
        if count[1:MOST_LABELS].sum() > 0.01 * count.sum() and not count[MOST_LABELS:255].any():
            largest = int(np.flatnonzero(count[:MOST_LABELS])[-1])
            return (f"{name} holds values up to {largest}, and 255, which is the hole; for labels, use --label",)
    elif samples.shape[2] >= 3:
        step = max(1, int(math.sqrt(samples.shape[0] * samples.shape[1] / 2**18)))
        colours = samples[::step, ::step, :3].astype(float)
        if (np.ptp(colours, axis=2) > _white(samples, name) / 4).mean() > 0.01:
            return (
                f"{name} is coloured, and its brightness decides; if one colour marks the hole, use --mask-colour, and "
                "for labels --label",
            )
    return ()


def _marked(read: _Reading) -> tuple[np.ndarray, np.ndarray]:
    """Pixels above the threshold, and those that are neither black nor white: (H, W) bool each."""
    above, partly = np.empty(read.size, bool), np.empty(read.size, bool)
    for rows in row_strips(read.size):  # doubles of a whole picture would take much memory
        whiteness = read.whiteness(rows)
        above[rows] = whiteness > read.threshold
        partly[rows] = (whiteness > BARELY) & (whiteness < 1 - BARELY)
    return above, partly


def _stretched(read: _Reading, size: tuple[int, int]) -> _Reading:
    whiteness = np.concatenate([read.whiteness(rows).astype(np.float32) for rows in row_strips(read.size)])
    stretched = Image.fromarray(whiteness).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    values = np.asarray(stretched)
    return read._replace(size=(size[0], size[1]), whiteness=lambda rows: values[rows])


def _note_about_stretching(got: tuple[int, int], size: tuple[int, int], name: str) -> tuple[str, ...]:
    note = f"{name} is stretched from {got[1]}x{got[0]} to {size[1]}x{size[0]}"
    changes = abs(math.log(got[0] * size[1] / (got[1] * size[0]))) > 0.02
    return (f"{note}, which changes its shape" if changes else note,)


def _refuse_photograph(read: _Reading, photograph: Seen, name: str) -> None:
    """Raise InpaintError where a mask is a copy of the photograph, whose brightness says nothing about a hole."""
    step = max(1, math.isqrt(read.size[0] * read.size[1] >> 16))
    rows = range(0, read.size[0], step)
    mask = np.concatenate([read.whiteness(slice(row, row + 1))[:, ::step] for row in rows])
    if ((mask > BARELY) & (mask < 1 - BARELY)).mean() <= PHOTOGRAPH_GREYS:
        return
    colours = photograph.colours(slice(None, None, step), slice(None, None, step))
    brightness = np.tensordot(np.array(LUMINANCE), colours.cpu().numpy(), 1)
    pair = np.stack([mask.ravel(), brightness.ravel()])
    pair = pair[:, np.isfinite(pair).all(0)]
    if pair.shape[1] < 2 or not pair.std(axis=1).all() or np.corrcoef(pair)[0, 1] < SAME_PICTURE:
        return
    raise InpaintError(
        f"{name} is a copy of the photograph: expected a mask, white where the hole is; to fill what has one colour in "
        "the photograph, use --mask-colour"
    )


def is_same_file(mask: Any, image: Any) -> bool:
    """Whether both are paths of one file."""
    paths = (mask, image)
    return all(isinstance(path, str | Path) and os.path.exists(path) for path in paths) and os.path.samefile(*paths)


def _white(samples: np.ndarray, name: str) -> float:
    if samples.dtype.kind == "b":
        return 1.0
    if samples.dtype.name in ("uint8", "uint16"):
        return float(np.iinfo(samples.dtype).max)
    largest = float(samples.max())
    if not math.isfinite(largest):
        got = "NaN" if math.isnan(largest) else "infinity"
        raise InpaintError(f"{name}: expected numbers, got {got}; give 1 where the hole is and 0 elsewhere")
    return max(1.0, largest)


def _luminance(samples: np.ndarray, white: float) -> np.ndarray:
    """The luminance of (..., C) samples as a share of white; where red, green and blue are equal, exactly theirs."""
    if samples.shape[-1] < 3:
        return samples[..., 0].astype(float) / white
    red, green, blue = (samples[..., channel].astype(float) / white for channel in range(3))
    return green + LUMINANCE[0] * (red - green) + LUMINANCE[2] * (blue - green)


def _is_drawn_on_transparency(samples: np.ndarray, white: float, name: str) -> tuple[bool, tuple[str, ...]]:
    """Whether a mask is one colour on a transparent ground, and notes. Raises InpaintError where that is not clear."""
    if samples.shape[2] not in (2, 4) or (samples[..., -1] >= white).all():
        return False, ()
    # Barely visible pixels have rounding errors for colours.
    visible = samples[samples[..., -1] > white / 2][:, :-1].astype(float) * 255 / white
    if not len(visible) or np.ptp(visible, axis=0).max() <= 8:
        is_dark = len(visible) and _luminance(visible, 255).max() <= THRESHOLD
        return True, (f"{name} is dark on a transparent ground: what is opaque is the hole",) if is_dark else ()
    raise InpaintError(
        f"{name} has transparent pixels, and its colours do not tell whether those are the hole: expected white on "
        "black, or one colour on a transparent ground; flatten it to black and white without transparency, or, if it "
        "is the photograph with the hole erased, fill it with --mask-from-alpha"
    )


def _words(inverted: bool) -> tuple[str, str, str]:
    """The colour of the hole, that of the known part, and how to exchange them."""
    return ("black", "white", "leave out --invert-mask") if inverted else ("white", "black", "use --invert-mask")
