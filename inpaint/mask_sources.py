"""Holes that are marked without a black and white mask: by place, by colour, by label, or by what has no colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import ImageColor

from inpaint.codec import decode, name_of
from inpaint.errors import InpaintError
from inpaint.holes import Seen, check_size
from inpaint.photo import MAX_MEGAPIXELS, Photo, read, row_strips

TOLERANCE = 16  # of 255, by which each of red, green and blue may differ from a colour that is looked for


@runtime_checkable
class MaskSource(Protocol):
    """What marks a hole in a photograph."""

    def marked(self, picture: Seen, *, resize: bool = False, max_megapixels: float = MAX_MEGAPIXELS) -> np.ndarray:
        """The hole, (H, W) bool. ``resize`` stretches what was drawn on a picture of another size.

        Raises:
            InpaintError: it cannot mark a hole in this photograph.
        """
        ...


@dataclass(frozen=True)
class Rectangle:
    """The pixels from column ``x`` and row ``y`` on; what lies outside the photograph is cut off."""

    x: int
    y: int
    width: int
    height: int

    def marked(self, picture: Seen, *, resize: bool = False, max_megapixels: float = MAX_MEGAPIXELS) -> np.ndarray:
        hole = np.zeros(picture.size, bool)
        hole[max(0, self.y) : max(0, self.y + self.height), max(0, self.x) : max(0, self.x + self.width)] = True
        if not hole.any():
            raise InpaintError(
                f"the box {self.x},{self.y},{self.width},{self.height} (x, y, width, height) lies outside the "
                f"photograph of {picture.size[1]}x{picture.size[0]} pixels; give one inside"
            )
        return hole


@dataclass(frozen=True)
class Coloured:
    """The pixels of a colour, up to TOLERANCE, in the photograph or in a picture of its size.

    colour: a name, "#rrggbb" and whatever else ``PIL.ImageColor`` reads. mask: that picture, whatever
    ``inpaint.photo.read`` takes; None: the photograph.
    """

    colour: str
    mask: Any = None

    def __post_init__(self) -> None:
        rgb(self.colour)

    def marked(self, picture: Seen, *, resize: bool = False, max_megapixels: float = MAX_MEGAPIXELS) -> np.ndarray:
        painted, name = picture, "the photograph"
        if self.mask is not None:
            name = name_of(self.mask, "the mask")
            painted = read(self.mask, max_megapixels=max_megapixels)
            if not resize:
                check_size(painted.size, picture.size, name)
        wanted = np.array(rgb(self.colour))[:, None, None]
        hole = np.empty(painted.size, bool)
        with np.errstate(invalid="ignore"):  # NaN has no colour
            for rows in row_strips(painted.size):
                colours = painted.colours(rows, slice(None)).cpu().numpy()
                hole[rows] = (np.abs(255 * colours - wanted) <= TOLERANCE).all(0)
        if isinstance(painted, Photo) and painted.has_alpha:
            hole &= painted.samples[..., -1] > painted.white / 2
        if not hole.any():
            raise InpaintError(
                f"{name} has no pixel of the colour {self.colour} (red, green and blue within {TOLERANCE} of "
                f"{', '.join(map(str, rgb(self.colour)))}); choose another colour"
            )
        return stretched(hole, picture.size)


@dataclass(frozen=True)
class Labelled:
    """The pixels of some labels in a label image: a mask of integers, or of palette indices.

    mask: whatever ``inpaint.holes.read_hole`` takes but outlines and tensors.
    """

    mask: Any
    labels: Sequence[int]

    def marked(self, picture: Seen, *, resize: bool = False, max_megapixels: float = MAX_MEGAPIXELS) -> np.ndarray:
        name = name_of(self.mask, "the mask")
        values = _label_image(self.mask, name, max_megapixels)
        if not resize:
            check_size((values.shape[0], values.shape[1]), picture.size, name)
        hole = np.isin(values, list(self.labels))
        if not hole.any():
            present = np.unique(values)
            shown = ", ".join(str(value) for value in present[:20].tolist()) + (", ..." if len(present) > 20 else "")
            raise InpaintError(
                f"{name} has no pixel of label {', '.join(map(str, self.labels))}: its labels are {shown}; choose "
                "one of these"
            )
        return stretched(hole, picture.size)


@dataclass(frozen=True)
class Transparent:
    """The pixels of the photograph that are not fully opaque. They become opaque when they are filled."""

    def marked(self, picture: Seen, *, resize: bool = False, max_megapixels: float = MAX_MEGAPIXELS) -> np.ndarray:
        if not isinstance(picture, Photo) or not picture.has_alpha:
            raise InpaintError("the photograph has no transparency: expected an alpha channel; mark the hole by a mask")
        hole = picture.samples[..., -1] < picture.white
        if not hole.any():
            raise InpaintError("the photograph is opaque everywhere: expected transparent pixels; erase the hole first")
        return hole


@dataclass(frozen=True)
class NotANumber:
    """The pixels of the photograph with a colour that is NaN."""

    def marked(self, picture: Seen, *, resize: bool = False, max_megapixels: float = MAX_MEGAPIXELS) -> np.ndarray:
        hole = np.empty(picture.size, bool)
        for rows in row_strips(picture.size):
            hole[rows] = np.isnan(picture.colours(rows, slice(None)).cpu().numpy()).any(0)
        if not hole.any():
            raise InpaintError("the photograph has no NaN: expected floats, NaN where the hole is; use another mask")
        return hole


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue from 0 to 255. Raises InpaintError for what is no colour."""
    try:
        values = ImageColor.getrgb(colour)
    except ValueError as error:
        raise InpaintError(f"expected a colour such as red or #ff0000, got {colour!r}; choose one") from error
    return values[0], values[1], values[2]


def stretched(hole: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A hole (h, w) bool at another (height, width); every pixel takes the nearest one."""
    if hole.shape == tuple(size):
        return hole
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, hole.shape, strict=True))
    return hole[rows][:, columns]


def _label_image(mask: Any, name: str, max_megapixels: float) -> np.ndarray:
    """(H, W) integers."""
    if isinstance(mask, np.ndarray):
        samples = mask[..., 0] if mask.ndim == 3 and mask.shape[2] == 1 else mask
    else:
        samples = decode(mask, name, max_megapixels, purpose="labels")[0]
        samples = samples[..., 0] if samples.shape[2] == 1 else samples
    if samples.ndim != 2 or samples.dtype.kind not in "bui":
        raise InpaintError(
            f"{name}: expected a label image, one integer or palette index a pixel, got {samples.dtype} of shape "
            f"{samples.shape}; choose by colour with --mask-colour"
        )
    return samples
