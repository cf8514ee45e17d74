"""Small pictures of every completed photograph: one strip per photograph, and contact sheets of strips."""

from __future__ import annotations

import io
import math
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageOps

from inpaint.errors import InpaintError
from inpaint.photo import save_picture

TILE = 224  # pixels; the longer side of a picture in a strip
DIFFERENCE_GAIN = 3
TILES = ("input", "mask", "result", "truth", f"difference x{DIFFERENCE_GAIN}")
GAP = 6
CAPTION = 18
ROWS, GROUPS = 10, 2  # a sheet shows ROWS x GROUPS photographs


def draw_strip(truth: Image.Image, hole: Image.Image, result: Image.Image) -> Image.Image:
    """The pictures named by ``TILES`` side by side.

    ``truth`` and ``result`` have mode RGB; ``hole`` has mode L, white = hole. The hole of the input is grey. The
    difference is |result - truth| per channel, times 3 and cut off at white; black outside the hole.
    """
    masked = Image.composite(Image.new("RGB", truth.size, (128, 128, 128)), truth, hole)
    difference = ImageChops.difference(result, truth).point(lambda value: min(255, DIFFERENCE_GAIN * value))
    pictures = [masked, hole.convert("RGB"), result, truth, difference]
    tiles = [ImageOps.contain(picture, (TILE, TILE)) for picture in pictures]
    width, height = tiles[0].size
    strip = Image.new("RGB", (len(tiles) * (width + GAP) - GAP, height), "white")
    for position, tile in enumerate(tiles):
        strip.paste(tile, (position * (width + GAP), 0))
    return strip


def cut_strip(path: Path) -> dict[str, Image.Image]:
    """The pictures of a strip by their names in ``TILES``. Raises InpaintError if the file is no such strip."""
    try:
        with Image.open(path) as file:
            strip = file.convert("RGB")
    except OSError as error:
        raise InpaintError(f"cannot read {path}: {error}; run `inpaint evaluate` again") from error
    step = (strip.width + GAP) // len(TILES)
    return {
        name: strip.crop((number * step, 0, (number + 1) * step - GAP, strip.height))
        for number, name in enumerate(TILES)
    }


def webp(picture: Image.Image) -> bytes:
    """The picture as a WebP file, small rather than exact."""
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=80)
    return file.getvalue()


class ContactSheets:
    """Sheets of captioned strips, ``<prefix>_1.png``, ``_2.png``, ... in ``folder``.

    A sheet is written as soon as it is full, so that memory holds one at a time. ``close`` writes the last.
    """

    def __init__(self, folder: Path, prefix: str, title: str) -> None:
        self._folder, self._prefix, self._title = folder, prefix, title
        self._entries: list[tuple[str, Image.Image]] = []
        self._written = 0

    def add(self, caption: str, strip: Image.Image) -> None:
        """Add one photograph."""
        self._entries.append((caption, strip))
        if len(self._entries) == ROWS * GROUPS:
            self.close()

    def close(self) -> None:
        """Write the photographs added since the last full sheet, if there are any."""
        if not self._entries:
            return
        self._written += 1
        save_picture(self._folder / f"{self._prefix}_{self._written}.png", self._draw())
        self._entries = []

    def _draw(self) -> Image.Image:
        groups = min(GROUPS, len(self._entries))
        rows = math.ceil(len(self._entries) / groups)
        group_width, row_height = len(TILES) * (TILE + GAP) + 2 * GAP, TILE + CAPTION + GAP
        sheet = Image.new("RGB", (groups * group_width, CAPTION + GAP + rows * row_height), "white")
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
        draw.text((GAP, 2), _ascii(f"{self._title}: {' | '.join(TILES)}"), fill="black", font=font)
        for position, (caption, strip) in enumerate(self._entries):
            row, group = divmod(position, groups)
            left, top = GAP + group * group_width, CAPTION + GAP + row * row_height
            draw.text((left, top + 2), _ascii(caption), fill="black", font=font)
            sheet.paste(strip, (left, top + CAPTION))
        return sheet


def _ascii(text: str) -> str:
    """Pillow's font of last resort knows no more."""
    return text.encode("ascii", "replace").decode()
