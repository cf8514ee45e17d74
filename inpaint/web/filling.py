"""What the page does for a visitor, in a turn of the queue: shows a photograph, and fills it."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from PIL import Image

from inpaint import photo
from inpaint.errors import InpaintError
from inpaint.explanation import explain
from inpaint.mask_sources import Rectangle
from inpaint.stage_pictures import draw_stages
from inpaint.web import preview
from inpaint.web.download import Download, check_format, own_format, written
from inpaint.web.marks import Marks
from inpaint.work import prepare

if TYPE_CHECKING:
    from inpaint.web.filler import Turn
    from inpaint.web.upload import Upload
    from inpaint.work import Filled, Job


@dataclass(frozen=True)
class Wish:
    """What a visitor wants to be done.

    layer: the file of what was painted, or None. box: left, top, width and height in pixels, filled as well, or None.
    variant: counted from 1. dilate, feather: as for ``inpaint.work.prepare``. with_steps: draw the steps, too.
    """

    upload: Upload
    layer: str | None
    box: tuple[int, int, int, int] | None = None
    variant: int = 1
    dilate: int = 0
    feather: int = 0
    with_steps: bool = False


@dataclass(frozen=True, eq=False)
class Shown:
    """What a visitor gets: previews before and after; the filled photograph; its mask, white where the hole was; one
    line a note; the steps with their names."""

    before: Image.Image
    after: Image.Image
    result: Download
    mask: Download
    notes: tuple[str, ...]
    steps: list[tuple[Image.Image, str]] = field(default_factory=list)


def show(upload: Upload, megapixels: float) -> tuple[Image.Image, str]:
    """The preview of a photograph, and a line about it.

    Raises:
        InpaintError: it cannot be read.
    """
    picture = photo.read(upload.opened(), max_megapixels=megapixels)
    height, width = picture.size
    side = preview.square_of(picture.size)
    scale = "" if side == 1 else f" Shown at 1/{side} of its size; the whole of it is filled."
    kind = {"uint8": "8 bits", "uint16": "16 bits"}.get(picture.samples.dtype.name, "floating point")
    return preview.draw(picture), f"{upload.name}: {width} x {height} pixels, {kind}.{scale}"


def fill(wish: Wish, turn: Turn, megapixels: float) -> Shown:
    """Fills the photograph of a wish.

    Raises:
        InpaintError: what a visitor can mend.
        Stopped: nobody waits for the result.
    """
    picture = photo.read(wish.upload.opened(), max_megapixels=megapixels)
    marks = Marks.of(wish.layer, picture.size)
    masks: list[Any] = [marks.hole] if marks.hole.any() else []
    masks += [Rectangle(*wish.box)] if wish.box else []
    if not masks:
        raise InpaintError("nothing is marked: expected paint on what has to go; paint over it, then press Fill")
    job = prepare(
        picture, masks, dilate=wish.dilate, feather=wish.feather, source=marks.source, variant=wish.variant - 1
    )
    file_format = own_format(picture, wish.upload.name)
    job = replace(job, notes=(*job.notes, *check_format(picture, file_format)))
    filled = turn.fill(job, keep=wish.with_steps)
    result = written(filled.picture, wish.upload.name, file_format)
    turn.check()
    return Shown(
        preview.draw(picture),
        preview.draw(filled.picture),
        result,
        _mask(job, wish.upload.name),
        filled.notes,
        _steps(job, filled) if wish.with_steps else [],
    )


def _mask(job: Job, name: str) -> Download:
    stream = io.BytesIO()
    Image.fromarray(job.hole).save(stream, "PNG")
    return Download(f"{PurePath(name).stem}_mask.png", "image/png", stream.getvalue())


def _steps(job: Job, filled: Filled) -> list[tuple[Image.Image, str]]:
    copied = preview.reduced(photo.to_pil(explain(job, filled)))
    pictures = [(picture, name.replace("_", " ")) for name, picture in draw_stages(filled)]
    return [(copied, "in colour what was copied, in the hole where to"), *pictures]
