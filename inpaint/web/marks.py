"""What a visitor painted: the hole, and where copies may come from.

The photograph is painted over at a smaller size (``inpaint.web.preview``). One pixel there stands for a square of the
photograph's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import ImageColor

from inpaint.errors import InpaintError
from inpaint.photo import read
from inpaint.web.preview import LONGEST, enlarged, size_of

OPACITY = 0.7  # of paint: the photograph shines through


class Tool(NamedTuple):
    """A brush."""

    name: str
    colour: str


REMOVE = Tool("Remove", "#e6007e")
COPY_FROM = Tool("Copy only from here", "#00a0ff")
BOX = Tool("Box by two corners", "#ffd400")
TOOLS = (REMOVE, COPY_FROM, BOX)


@dataclass(frozen=True, eq=False)
class Marks:
    """hole, source: (H, W) bool; source is None where nothing was painted with its brush."""

    hole: np.ndarray
    source: np.ndarray | None

    @classmethod
    def of(cls, layer: str | None, size: tuple[int, int]) -> Marks:
        """Reads the layer that was painted on a photograph of (height, width).

        Args:
            layer: a file; whatever is not transparent is paint. None where nothing was painted.
            size: of the photograph.

        Raises:
            InpaintError: the layer is no picture, or belongs to another photograph; or all was painted over.
        """
        if layer is None:
            return cls(np.zeros(size, bool), None)
        painted = read(layer, max_megapixels=LONGEST**2 / 1e6)
        if painted.size != size_of(size):
            raise InpaintError(
                f"the paint is {painted.size[1]}x{painted.size[0]} pixels: expected {size_of(size)[1]}x"
                f"{size_of(size)[0]}, as the photograph is shown; drop the photograph again"
            )
        if not painted.has_alpha or painted.is_grey:
            raise InpaintError("the paint has no colour or no transparency: expected both; drop the photograph again")
        tool = _nearest_tool(painted.samples)
        hole = (tool == TOOLS.index(REMOVE)) | _box_around(tool == TOOLS.index(BOX))
        source = tool == TOOLS.index(COPY_FROM)
        if hole.all():
            raise InpaintError("all of the photograph is marked: expected a part to copy from; erase some paint")
        return cls(enlarged(hole, size), enlarged(source, size) if source.any() else None)


def _nearest_tool(layer: np.ndarray) -> np.ndarray:
    """For each pixel of a layer (H, W, 4) the number of the brush with the nearest colour; -1 where it is clear."""
    colours = np.array([ImageColor.getrgb(tool.colour) for tool in TOOLS])
    rows, columns = layer[..., 3].nonzero()
    distance = ((layer[rows, columns, None, :3].astype(int) - colours) ** 2).sum(-1)
    tool = np.full(layer.shape[:2], -1)
    tool[rows, columns] = distance.argmin(-1)
    return tool


def _box_around(marked: np.ndarray) -> np.ndarray:
    """The smallest rectangle with all marked pixels of (H, W) bool."""
    box = np.zeros_like(marked)
    rows, columns = marked.any(1).nonzero()[0], marked.any(0).nonzero()[0]
    if len(rows):
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box
