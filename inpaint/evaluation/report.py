"""What an evaluation leaves for people to read: Markdown table, CSV, JSON and contact sheets."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from inpaint.errors import InpaintError
from inpaint.image import save_picture

# Heading and format of each column of the table, by the name of the measured quantity.
COLUMNS = {
    "images": ("images", "{:d}"),
    "hole_l1": ("hole L1 %", "{:.2f}"),
    "ssim": ("SSIM", "{:.3f}"),
    "lpips": ("LPIPS", "{:.3f}"),
    "psnr": ("PSNR dB", "{:.2f}"),
    "seconds": ("seconds", "{:.2f}"),
}

TILE = 192  # pixels; the longer side of a picture on a contact sheet
TILES = ("input", "mask", "result", "truth")
CAPTION = 18
GAP = 6
ROWS, GROUPS = 10, 2  # a sheet shows ROWS x GROUPS photographs


def markdown_table(means: Mapping[str, Mapping[str, Any]]) -> str:
    """One row per kind of hole; a dash stands for what was not measured."""
    lines = ["| holes | " + " | ".join(heading for heading, _ in COLUMNS.values()) + " |"]
    lines.append("|---|" + "---:|" * len(COLUMNS))
    for kind, row in means.items():
        cells = (_cell(row.get(name), form) for name, (_, form) in COLUMNS.items())
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows under the first one's keys; an empty field stands for what was not measured."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """JSON with null for NaN and infinity, which it cannot hold."""
    write_text(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all. Raises InpaintError if it cannot be written."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise InpaintError(f"cannot write {path}: {error.strerror}; choose another folder") from error
    finally:
        temporary.unlink(missing_ok=True)


class ContactSheets:
    """Sheets of small pictures: per photograph the input with a grey hole, the mask, the result and the truth.

    A sheet is written as soon as it is full, so that memory holds one at a time: ``<prefix>_1.png``, ``_2.png``, ...
    in ``folder``. ``close`` writes the last.
    """

    def __init__(self, folder: Path, prefix: str, title: str) -> None:
        self._folder, self._prefix, self._title = folder, prefix, title
        self._entries: list[tuple[str, list[Image.Image]]] = []
        self._written = 0

    def add(self, caption: str, truth: Image.Image, hole: Image.Image, result: Image.Image) -> None:
        """Add one photograph; ``hole`` has mode L, white = hole."""
        masked = Image.composite(Image.new("RGB", truth.size, (128, 128, 128)), truth, hole)
        pictures = (masked, hole.convert("RGB"), result, truth)
        self._entries.append((caption, [ImageOps.contain(picture, (TILE, TILE)) for picture in pictures]))
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
        for position, (caption, pictures) in enumerate(self._entries):
            row, group = divmod(position, groups)
            left, top = GAP + group * group_width, CAPTION + GAP + row * row_height
            draw.text((left, top + 2), _ascii(caption), fill="black", font=font)
            for column, picture in enumerate(pictures):
                sheet.paste(picture, (left + column * (TILE + GAP), top + CAPTION))
        return sheet


def _cell(value: float | int | None, form: str) -> str:
    return "–" if value is None or math.isnan(value) else form.format(value)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _ascii(text: str) -> str:
    """Pillow's font of last resort knows no more."""
    return text.encode("ascii", "replace").decode()
