"""The use case: what filling a photograph means, from what a person gives to what they get back.

The command, the Python API, the demo and the evaluation all go this way. ``prepare`` makes every check before any
network is loaded; ``batches`` cuts the work into windows and puts those of equal shape together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from inpaint import holes, photo
from inpaint.cells import CELL, PATCH, pooled, touched
from inpaint.codec import name_of
from inpaint.errors import InpaintError
from inpaint.mask_sources import Coloured, MaskSource, NotANumber, Transparent
from inpaint.photo import MAX_MEGAPIXELS, Patch, Photo
from inpaint.recipe import Recipe, RecipeRule
from inpaint.stages import StageTime
from inpaint.tensor_photo import TensorPhoto
from inpaint.upright import note_about_turning
from inpaint.window import Level, Window, halvings_of

LARGEST_BATCH = 1 << 19  # pixels of small windows that are filled at once, of their finest scale


class Picture(Protocol):
    """What is filled: a ``Photo`` or a ``TensorPhoto``."""

    @property
    def size(self) -> tuple[int, int]: ...
    def colours(self, rows: slice, columns: slice) -> Tensor: ...
    def filled(self, patches: Iterable[Patch]) -> Any: ...
    def check_known(self, hole: np.ndarray) -> None: ...


@dataclass(frozen=True, eq=False)
class Job:
    """A picture to be filled, which passed all checks.

    hole: (H, W) bool, True = hole. scales: short sides in pixels, or None for the automatic choice. notes: remarks for
    the user. barred: (H, W) bool, pixels that are not copied, or None. feather: pixels over which the photograph passes
    into the filling, inside the hole. variant: 0, or the number of another fill.
    """

    picture: Picture
    hole: np.ndarray
    scales: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()
    barred: np.ndarray | None = None
    feather: int = 0
    variant: int = 0


@dataclass(frozen=True, eq=False)
class KeptScale:
    """One scale of a window: its level; its part of the photograph, with the coarser result in the hole (3, h, w); what
    Feature2Image made of the swapped features; the result; and the match, (h'-2, w'-2) int64 positions in the part's
    own patch grid, -1 where nothing was matched."""

    level: Level
    part: Tensor
    decoded: Tensor
    result: Tensor
    match_index: Tensor


@dataclass(frozen=True, eq=False)
class KeptWindow:
    """A window with Image2Feature's completion of its coarsest part, (3, h, w), and its scales."""

    window: Window
    coarse: Tensor
    scales: list[KeptScale]


@dataclass(frozen=True, eq=False)
class Filled:
    """A filled picture: of the kind that was given; notes for the user; the windows that were worked on.

    times: of every step, together with those of other pictures that were filled in the same call. kept: what each
    window's steps made, where that was asked for.
    """

    picture: Any
    notes: tuple[str, ...]
    windows: list[Window]
    times: list[StageTime] = field(default_factory=list)
    kept: list[KeptWindow] = field(default_factory=list)


def prepare(
    image: Any,
    mask: Any,
    *,
    scales: Sequence[int] | None = None,
    threshold: float | None = None,
    invert: bool = False,
    dilate: int | None = None,
    resize: bool = False,
    feather: int = 0,
    source: Any = None,
    exclude: Any = None,
    variant: int = 0,
    max_megapixels: float = MAX_MEGAPIXELS,
    may_be_empty: bool = False,
) -> Job:
    """Reads a picture and its hole, and makes all checks.

    Args:
        image: whatever ``inpaint.photo.read`` takes; or a ``Photo``, or a ``TensorPhoto``.
        mask: whatever ``inpaint.holes.read_hole`` takes, of the picture's size as displayed; or one of
            ``inpaint.mask_sources``; or a list of these, whose holes are joined.
        scales: short sides in pixels, coarse to fine; chosen from the hole by default.
        threshold, invert, resize: as for ``inpaint.holes.read_hole``.
        dilate: the same, of the joined hole. Without it, the pixels within ``inpaint.holes.RIM`` of a colour belong to
            the hole as well.
        feather: pixels, counted from the rim into the hole, over which what the photograph holds there passes into the
            filling. The hole stays the same, and so do the pixels around it.
        source: a mask; the hole is filled with copies of what it marks.
        exclude: a mask; nothing that it marks is copied.
        variant: 0, or the number of another fill (``inpaint.variants``).
        max_megapixels: the limit for files.
        may_be_empty: accept a mask without a hole.

    Raises:
        InpaintError: anything that keeps the picture from being filled.
        ValueError: an option is out of range.
    """
    if feather < 0 or variant < 0:
        raise ValueError(f"expected 0 or more, got feather {feather} and variant {variant}")
    picture: Picture = (
        image if isinstance(image, Photo | TensorPhoto) else photo.read(image, max_megapixels=max_megapixels)
    )
    if 0 in picture.size:
        raise InpaintError("image: expected at least one pixel, got none; check how it was read")
    masks = list(mask) if isinstance(mask, list | tuple) else [mask]
    hole, found_notes = _joined_hole(picture, image, masks, threshold, invert, dilate, resize, max_megapixels)
    name = name_of(masks[0], "the mask") if len(masks) == 1 else "the mask"
    if not may_be_empty:
        holes.refuse_empty(hole, name=name, inverted=invert)
    notes = (*found_notes, *holes.check_hole(hole, name=name, inverted=invert))
    notes = (*note_about_turning(image, name_of(image, "the photograph")), *notes)
    if isinstance(picture, Photo):
        if any(isinstance(each, Transparent) for each in masks):
            picture = _opaque_in(picture, hole)
        notes = (*picture.notes, *notes, *holes.check_transparency(picture, hole))
    if scales is not None:
        halvings_of(scales, picture.size)
    if feather and any(isinstance(each, Transparent | NotANumber) for each in masks):
        raise InpaintError(
            "feather blends what the photograph holds in the hole, and what is transparent or NaN holds no colours; "
            "leave out --feather"
        )
    picture.check_known(hole)
    barred = _barred(picture.size, hole, source, exclude, resize, max_megapixels)
    return Job(picture, hole, None if scales is None else tuple(scales), notes, barred, feather, variant)


def _joined_hole(
    picture: Picture,
    image: Any,
    masks: Sequence[Any],
    threshold: float | None,
    invert: bool,
    dilate: int | None,
    resize: bool,
    max_megapixels: float,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The union of the holes of all masks, grown, and notes about them."""
    hole = np.zeros(picture.size, bool)
    notes: list[str] = []
    is_soft = threshold is None and dilate is None
    for mask in masks:
        if isinstance(mask, MaskSource):
            marked = mask.marked(picture, resize=resize, max_megapixels=max_megapixels)
            # Brushes have soft rims: next to a stroke its colour is mixed with the photograph's.
            hole |= holes.dilate_hole(marked, holes.RIM if dilate is None and isinstance(mask, Coloured) else 0)
            continue
        if holes.is_same_file(mask, image):
            raise InpaintError(f"{mask} is the photograph itself: expected a mask, white where the hole is")
        found = holes.find_hole(
            mask,
            size=picture.size,
            threshold=threshold,
            invert=invert,
            dilate=None if is_soft else 0,
            resize=resize,
            photograph=picture,
            photograph_name=name_of(image, ""),
            max_megapixels=max_megapixels,
        )
        hole |= found.hole
        notes += found.notes
    return holes.dilate_hole(hole, dilate or 0), tuple(notes)


def _opaque_in(picture: Photo, hole: np.ndarray) -> Photo:
    samples = np.copy(picture.samples)
    samples[hole, -1] = picture.white
    return replace(picture, samples=samples)


def _barred(
    size: tuple[int, int], hole: np.ndarray, source: Any, exclude: Any, resize: bool, max_megapixels: float
) -> np.ndarray | None:
    """(H, W) bool: what is not copied; None where all may be.

    Raises:
        InpaintError: nothing remains to copy.
    """
    barred = np.zeros(size, bool)
    for mask, is_source in ((source, True), (exclude, False)):
        if mask is not None:
            marked = holes.read_hole(
                mask, size=size, dilate=0 if is_source else None, resize=resize, max_megapixels=max_megapixels
            )
            barred |= ~marked if is_source else marked
    if not barred.any():
        return None
    if touched(pooled(barred | hole)).all():
        raise InpaintError(
            f"nothing remains to copy: expected {PATCH * CELL}x{PATCH * CELL} known pixels or more that --source marks "
            "and --exclude does not; mark more, or less"
        )
    return barred


class Batch(NamedTuple):
    """Windows of equal shape, the number of the job that each belongs to, and how they are filled."""

    windows: list[Window]
    jobs: list[int]
    recipe: Recipe


def batches(windows: Sequence[Sequence[Window]], largest_part: float, rule: RecipeRule) -> Iterator[Batch]:
    """The windows of all jobs in batches of equal shape and recipe, as many in one as ``largest_part`` pixels hold."""
    groups: dict[Any, list[tuple[Window, int]]] = {}
    for number, of_job in enumerate(windows):
        for window in of_job:
            groups.setdefault((window.shape, rule(window.depth)), []).append((window, number))
    for (_, recipe), members in groups.items():
        pixels = max(level.part.size[0] * level.part.size[1] for level in members[0][0].levels)
        count = max(1, int(min(largest_part, LARGEST_BATCH)) // pixels)
        for start in range(0, len(members), count):
            chunk = members[start : start + count]
            yield Batch([window for window, _ in chunk], [job for _, job in chunk], recipe)
