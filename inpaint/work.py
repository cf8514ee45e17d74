"""The use case: what filling a photograph means, from what a person gives to what they get back.

The command, the Python API, the demo and the evaluation all go this way. ``prepare`` makes every check before any
network is loaded; ``batches`` cuts the work into windows and puts those of equal shape together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from inpaint import holes, photo
from inpaint.codec import name_of
from inpaint.errors import InpaintError
from inpaint.photo import MAX_MEGAPIXELS, Patch, Photo
from inpaint.recipe import Recipe, RecipeRule
from inpaint.stages import StageTime
from inpaint.tensor_photo import TensorPhoto
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
    the user.
    """

    picture: Picture
    hole: np.ndarray
    scales: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()


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
    threshold: float = 0.5,
    invert: bool = False,
    dilate: int = 0,
    max_megapixels: float = MAX_MEGAPIXELS,
    may_be_empty: bool = False,
) -> Job:
    """Reads a picture and its hole, and makes all checks.

    Args:
        image: whatever ``inpaint.photo.read`` takes; or a ``Photo``, or a ``TensorPhoto``.
        mask: whatever ``inpaint.holes.read_hole`` takes, of the picture's size as displayed.
        scales: short sides in pixels, coarse to fine; chosen from the hole by default.
        threshold, invert, dilate: as for ``inpaint.holes.read_hole``.
        max_megapixels: the limit for files.
        may_be_empty: accept a mask without a hole.

    Raises:
        InpaintError: anything that keeps the picture from being filled.
    """
    picture: Picture = (
        image if isinstance(image, Photo | TensorPhoto) else photo.read(image, max_megapixels=max_megapixels)
    )
    if 0 in picture.size:
        raise InpaintError("image: expected at least one pixel, got none; check how it was read")
    hole = holes.read_hole(
        mask, size=picture.size, threshold=threshold, invert=invert, dilate=dilate, max_megapixels=max_megapixels
    )
    name = name_of(mask, "the mask")
    if not may_be_empty:
        holes.refuse_empty(hole, name=name, inverted=invert)
    notes = holes.check_hole(hole, name=name, inverted=invert)
    if isinstance(picture, Photo):
        notes = (*picture.notes, *notes, *holes.check_transparency(picture, hole))
    if scales is not None:
        halvings_of(scales, picture.size)
    picture.check_known(hole)
    return Job(picture, hole, None if scales is None else tuple(scales), notes)


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
