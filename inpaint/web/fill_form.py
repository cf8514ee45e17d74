"""The form of ``POST /fill``: the options of ``inpaint fill``, under the same names, and what becomes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, cast

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from inpaint.errors import InpaintError
from inpaint.web.download import Download, check_format, own_format, written
from inpaint.web.upload import Upload

if TYPE_CHECKING:
    from inpaint.photo import Photo
    from inpaint.web.filler import Turn
    from inpaint.work import Job

Box = Annotated[str, Field(pattern=r"^-?[0-9]{1,9},-?[0-9]{1,9},[1-9][0-9]{0,8},[1-9][0-9]{0,8}$")]
Colour = Annotated[str, Field(min_length=1, max_length=40)]
Label = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Unset = SkipJsonSchema[None]  # a form has no null: the field is left out
Format = Literal["png", "jpeg", "webp", "tiff", "avif", "jpeg2000", "heif", "bmp", "gif"]


class FillForm(BaseModel):
    """A photograph, what marks its hole, and how it is filled."""

    model_config = ConfigDict(extra="forbid")

    photo: UploadFile = Field(
        description="The photograph: PNG, JPEG, WebP, TIFF, AVIF, HEIC, JPEG 2000, BMP or GIF, of 8 or 16 bits or "
        "floating."
    )
    mask: UploadFile | Unset = Field(
        None, description="A picture of the photograph's size as displayed. White is the hole."
    )
    box: list[Box] = Field(
        [], description="Fill this rectangle: x,y,width,height in pixels from the top left. Repeatable."
    )
    mask_colour: list[Colour] = Field(
        [], description="Fill what is red, #ff0000 or the like, in the mask, else in the photograph. Repeatable."
    )
    mask_from_alpha: bool = Field(False, description="Fill what is transparent in the photograph, and make it opaque.")
    mask_from_nan: bool = Field(False, description="Fill what is NaN in the photograph.")
    label: list[Label] = Field([], description="The mask is a label image: fill the pixels of this label. Repeatable.")
    invert_mask: bool = Field(False, description="Black marks the hole instead of white.")
    threshold: float | Unset = Field(
        None,
        ge=0,
        lt=1,
        description="A mask pixel is hole where its brightness is above this share of white. By default 0.5.",
    )
    dilate: int | Unset = Field(
        None,
        ge=0,
        le=100_000,
        description="Grow the hole in every direction by so many pixels. By default a smooth mask's soft rim, 2 around "
        "a colour, else 0.",
    )
    resize_mask: bool = Field(False, description="Stretch a mask of another size.")
    source: UploadFile | Unset = Field(None, description="A mask. Only what is white in it is copied.")
    exclude: UploadFile | Unset = Field(None, description="A mask. Nothing that is white in it is copied.")
    page: int = Field(1, ge=1, le=100_000, description="Page of a TIFF; the others stay as they are.")
    feather: int = Field(
        0, ge=0, le=1000, description="Blend the photograph into the filling over so many pixels, from the rim inwards."
    )
    variant: int = Field(0, ge=0, le=98, description="0, or the number of another fill.")
    scales: str | Unset = Field(
        None,
        pattern=r"^[1-9][0-9]{0,5}(,[1-9][0-9]{0,5}){0,15}$",
        description="Short sides in pixels, coarse to fine: the photograph's own, halved some times; for instance "
        "256,512. By default chosen from the hole.",
    )
    format: Format | Unset = Field(None, description="Of the result. By default that of the photograph's file.")

    def filled(self, turn: Turn, megapixels: float) -> Download:
        """The whole task, in its turn. ``megapixels``: the limit for each file.

        Raises:
            InpaintError: what a visitor can mend.
            Stopped: nobody waits for the result.
        """
        photo = _read(self.photo, "photo")
        job = self._job(photo, megapixels)
        turn.check()
        picture = cast("Photo", job.picture)
        file_format = self.format.upper() if self.format else own_format(picture, photo.name)
        job = replace(job, notes=(*job.notes, *check_format(picture, file_format)))
        filled = turn.fill(job)
        turn.check()
        return written(filled.picture, photo.name, file_format, filled.notes)

    def _job(self, photo: Upload, megapixels: float) -> Job:
        from inpaint.marking import Marking

        mask = self.mask and _read_mask(self.mask, "mask")
        if mask is None and not (self.box or self.mask_colour or self.mask_from_alpha or self.mask_from_nan):
            raise InpaintError("expected a mask, got none; send one as mask, or mark the hole by box or the like")
        if mask is None and (self.label or self.invert_mask or self.resize_mask or self.threshold is not None):
            raise InpaintError("label, invert_mask, resize_mask and threshold need a mask, got none; send one as mask")
        marking = Marking(
            boxes=tuple(map(_rectangle, self.box)),
            colours=tuple(self.mask_colour),
            from_alpha=self.mask_from_alpha,
            from_nan=self.mask_from_nan,
            labels=tuple(self.label),
            invert=self.invert_mask,
            threshold=self.threshold,
            dilate=self.dilate,
            resize=self.resize_mask,
        )
        return marking.prepare(
            photo.opened(),
            mask and mask.opened,
            scales=None if self.scales is None else [int(side) for side in self.scales.split(",")],
            feather=self.feather,
            source=self.source and _read_mask(self.source, "source").opened(),
            exclude=self.exclude and _read_mask(self.exclude, "exclude").opened(),
            variant=self.variant,
            page=self.page,
            max_megapixels=megapixels,
        )


def _rectangle(box: Box) -> tuple[int, int, int, int]:
    x, y, width, height = map(int, box.split(","))
    return x, y, width, height


def _read_mask(file: UploadFile, field: str) -> Upload:
    """Outlines are refused: a short file of them can ask for any amount of time and memory."""
    from inpaint.polygons import is_polygon_file

    upload = _read(file, field)
    if is_polygon_file(upload.opened()):
        raise InpaintError(f"{upload.name}: expected a picture, got outlines; draw them into one with inpaint mask")
    return upload


def _read(file: UploadFile, field: str) -> Upload:
    return Upload.of(file.filename, file.file.read(), field)
