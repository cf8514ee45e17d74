"""How holes are marked, as data: what the commands' options say, apart from the files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inpaint.errors import InpaintError
from inpaint.mask_sources import Coloured, Labelled, NotANumber, Rectangle, Transparent
from inpaint.work import Job, prepare


@dataclass(frozen=True)
class Marking:
    """What marks the holes of photographs besides their masks, and how the masks are read.

    boxes: x, y, width and height in pixels. colours: names or "#rrggbb", looked for in the mask, or in the photograph
    where there is none. from_alpha, from_nan: what is transparent or NaN in the photograph. labels: the mask is a label
    image, and these are the hole. invert, threshold, dilate, resize: as for ``inpaint.work.prepare``.

    Raises:
        InpaintError: invert or threshold with colours or labels, which are not read by brightness.
    """

    boxes: tuple[tuple[int, int, int, int], ...] = ()
    colours: tuple[str, ...] = ()
    from_alpha: bool = False
    from_nan: bool = False
    labels: tuple[int, ...] = ()
    invert: bool = False
    threshold: float | None = None
    dilate: int | None = None
    resize: bool = False

    def __post_init__(self) -> None:
        if (self.invert or self.threshold is not None) and (self.colours or self.labels):
            raise InpaintError(
                "--invert-mask and --threshold read a mask by its brightness, --mask-colour and --label do not; leave "
                "out one or the other"
            )

    def prepare(self, photograph: Any, mask: Any, **options: Any) -> Job:
        """The job of filling a photograph, with all checks made.

        Args:
            photograph: whatever ``inpaint.work.prepare`` takes.
            mask: a function that opens the mask anew with each call, or None where there is no mask.
            options: of ``inpaint.work.prepare``.

        Raises:
            InpaintError: anything that keeps the photograph from being filled.
        """
        masks: list[Any] = [Rectangle(*box) for box in self.boxes]
        masks += [Coloured(colour, mask and mask()) for colour in self.colours]
        if mask is not None and self.labels:
            masks.append(Labelled(mask(), self.labels))
        elif mask is not None and not self.colours:
            masks.append(mask())
        masks += [Transparent()] * self.from_alpha + [NotANumber()] * self.from_nan
        return prepare(
            photograph,
            masks,
            threshold=self.threshold,
            invert=self.invert,
            dilate=self.dilate,
            resize=self.resize,
            **options,
        )
