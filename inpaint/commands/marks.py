"""What marks the hole on the command line, and where copies may come from: the options and what becomes of them."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from inpaint.commands.common import FILE, Number, in_order, option
from inpaint.commands.places import STANDARD
from inpaint.errors import InpaintError

if TYPE_CHECKING:
    from inpaint.marking import Marking
    from inpaint.work import Job

_HOLE, _SOURCES = "The hole", "Where copies come from"


class Box(click.ParamType):
    """A rectangle in pixels: "x,y,width,height"."""

    name = "X,Y,W,H"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        try:
            x, y, width, height = (int(number) for number in value.split(","))
        except ValueError:
            self.fail(f"expected four numbers of pixels such as 100,50,40,30, got {value!r}", param, context)
        if width < 1 or height < 1 or max(abs(x), abs(y), width, height) >= 2**31:
            self.fail(f"expected a width and a height of 1 or more, got {value!r}", param, context)
        return x, y, width, height


def mark_options(*, with_mask: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The fields of ``Marks``; without an option for the mask where that is an argument."""
    mask = option(
        "--mask",
        type=FILE,
        heading=_HOLE,
        help='The mask, where all arguments are photographs; "{name}" in it stands for the name of each.',
    )
    return in_order(
        [
            *([mask] if with_mask else []),
            option(
                "--box",
                "boxes",
                type=Box(),
                multiple=True,
                heading=_HOLE,
                help="Fill this rectangle, in pixels from the top left. Repeatable.",
            ),
            option(
                "--mask-colour",
                "--mask-color",
                "colours",
                metavar="COLOUR",
                multiple=True,
                heading=_HOLE,
                help="Fill what is red, #ff0000 or the like, in the mask, else in the photograph. Repeatable.",
            ),
            option(
                "--mask-from-alpha",
                "from_alpha",
                is_flag=True,
                heading=_HOLE,
                help="Fill what is transparent in the photograph, and make it opaque.",
            ),
            option(
                "--mask-from-nan", "from_nan", is_flag=True, heading=_HOLE, help="Fill what is NaN in the photograph."
            ),
            option(
                "--label",
                "labels",
                type=int,
                metavar="N",
                multiple=True,
                heading=_HOLE,
                help="The mask is a label image: fill the pixels of label N. Repeatable.",
            ),
            option("--invert-mask", is_flag=True, heading=_HOLE, help="Black marks the hole instead of white."),
            option(
                "--threshold",
                type=Number(0, 1, max_open=True),
                metavar="SHARE",
                heading=_HOLE,
                help="A mask pixel is hole where its brightness is above this share of white. [0.5]",
            ),
            option(
                "--dilate",
                type=click.IntRange(min=0),
                metavar="PIXELS",
                heading=_HOLE,
                help="Grow the hole in every direction. [a smooth mask's soft rim; 2 around a colour; else 0]",
            ),
            option("--resize-mask", is_flag=True, heading=_HOLE, help="Stretch a mask of another size."),
            option("--source", type=FILE, metavar="MASK", heading=_SOURCES, help="Copy only what is white in MASK."),
            option(
                "--exclude", type=FILE, metavar="MASK", heading=_SOURCES, help="Copy nothing that is white in MASK."
            ),
        ]
    )


@dataclass
class Marks:
    """These options."""

    boxes: tuple[tuple[int, int, int, int], ...]
    colours: tuple[str, ...]
    from_alpha: bool
    from_nan: bool
    labels: tuple[int, ...]
    invert_mask: bool
    threshold: float | None
    dilate: int | None
    resize_mask: bool
    source: Path | None
    exclude: Path | None
    mask: Path | None = None

    @classmethod
    def of(cls, options: dict[str, Any]) -> Marks:
        """Takes its fields out of a command's options."""
        return cls(**{each.name: options.pop(each.name) for each in fields(cls) if each.name in options})

    def photographs(self, arguments: tuple[Path, ...]) -> list[Path]:
        """The arguments that are photographs: all, if an option marks the hole; otherwise the last one is the mask.

        Raises:
            click.UsageError: no mask, or an option that needs one.
        """
        photographs = list(arguments)
        if not (self.mask or self.marks_without_mask):
            if len(arguments) < 2:
                raise click.UsageError(
                    "Missing argument 'MASK': give a mask, or mark the hole with --box or another option."
                )
            self.mask = photographs.pop()
        if self.mask is None:
            self.refuse_options_of_masks("--mask")
        if [*photographs, self.mask, self.source, self.exclude].count(STANDARD) > 1:
            raise click.UsageError("Standard input, -, can be one photograph or one mask.")
        return photographs

    @property
    def marks_without_mask(self) -> bool:
        """Whether an option marks the hole, so that there need be no mask."""
        return bool(self.boxes or self.colours or self.from_alpha or self.from_nan)

    def refuse_options_of_masks(self, remedy: str) -> None:
        """click.UsageError where an option needs a mask, which ``remedy`` gives."""
        if self.labels or self.invert_mask or self.resize_mask or self.threshold is not None:
            raise click.UsageError(f"--label, --invert-mask, --resize-mask and --threshold need a mask: give {remedy}.")

    def mask_of(self, photograph: Path) -> Path | None:
        """The mask's file, with the photograph's name in it."""
        return None if self.mask is None else Path(str(self.mask).replace("{name}", photograph.stem))

    def files(self, photographs: list[Path]) -> list[tuple[Path, str]]:
        """The files of all masks, and what each is."""
        masks = [(self.mask_of(photograph), "mask") for photograph in photographs]
        masks += [(self.source, "source mask"), (self.exclude, "mask of what is excluded")]
        return [(path, called) for path, called in masks if path is not None]

    def prepare(self, photograph: Path, *, max_megapixels: float, **options: Any) -> Job:
        """The job of filling a photograph, with all checks made."""
        path = self.mask_of(photograph)
        return self.marking.prepare(
            self.opened(photograph),
            None if path is None else partial(self.opened, path),
            source=None if self.source is None else self.opened(self.source),
            exclude=None if self.exclude is None else self.opened(self.exclude),
            max_megapixels=max_megapixels,
            **options,
        )

    @property
    def marking(self) -> Marking:
        """What the options say, apart from the files."""
        from inpaint.marking import Marking

        return Marking(
            boxes=self.boxes,
            colours=self.colours,
            from_alpha=self.from_alpha,
            from_nan=self.from_nan,
            labels=self.labels,
            invert=self.invert_mask,
            threshold=self.threshold,
            dilate=self.dilate,
            resize=self.resize_mask,
        )

    def opened(self, path: Path) -> Path | io.BytesIO:
        """The file; of standard input what it holds."""
        if path != STANDARD:
            return path
        content = io.BytesIO(self._standard_input)
        content.name = "standard input"
        return content

    @cached_property
    def _standard_input(self) -> bytes:
        return sys.stdin.buffer.read()


def refuse_lost_mask(photograph: Path, last: Job, first: Job) -> None:
    """InpaintError where the last photograph of several is black and white and the first is not: a mask, it seems."""
    if _is_black_and_white(last) and not _is_black_and_white(first):
        raise InpaintError(
            f"{photograph} looks like a mask: where an option marks the hole, every argument is a photograph; give the "
            f"mask as --mask {photograph}"
        )


def _is_black_and_white(job: Job) -> bool:
    colours = job.picture.colours(slice(None), slice(None))
    return bool(((colours == 0) | (colours == 1)).all())
