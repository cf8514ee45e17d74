"""The file that a picture was read from, and how its rows lie in it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Origin:
    """A file, whose format can be written again with all else that it holds.

    file_format: as Pillow calls it. orientation: EXIF's number for how the stored pixels are turned, 1 to 8. page: of a
    TIFF, counted from 0.
    """

    file_format: str
    content: bytes = field(repr=False)
    orientation: int = 1
    page: int = 0


def upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Stored samples (H, W, ...) as they are displayed (EXIF 2.32, tag 274). A view."""
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return samples[:, ::-1] if orientation in (2, 3, 6, 7) else samples


def stored(samples: np.ndarray, orientation: int) -> np.ndarray:
    """The inverse of :func:`upright`."""
    return upright(samples, {6: 8, 8: 6}.get(orientation, orientation))
