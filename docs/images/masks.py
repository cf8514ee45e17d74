"""Draws masks.jpg beside this file: a mask made in four ways above, and the filled photograph below each."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import inpaint
from inpaint.mask_sources import Coloured, Rectangle
from inpaint.overlay import draw_overlay
from inpaint.photo import to_pil
from inpaint.work import prepare

FOLDER = Path(__file__).resolve().parent
EXAMPLES = FOLDER.parent.parent / "examples"
WIDTH, HEIGHT, GAP = 300, 225, 6
TREE = [[545, 190], [560, 140], [590, 122], [639, 122], [639, 367], [575, 367], [548, 300]]


def main() -> None:
    inpainter = inpaint.load()
    sheet = Image.new("RGB", (4 * (WIDTH + GAP) - GAP, 2 * HEIGHT + GAP), "white")
    with tempfile.TemporaryDirectory() as folder:
        for column, (name, mask, shown) in enumerate(ways(Path(folder))):
            job = prepare(EXAMPLES / "photos" / name, mask)
            above = to_pil(draw_overlay(job)) if shown is None else shown
            for row, picture in enumerate((above, to_pil(inpainter.fill(job).picture.colours()))):
                place = (column * (WIDTH + GAP), row * (HEIGHT + GAP))
                sheet.paste(cut(picture).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS), place)
    sheet.save(FOLDER / "masks.jpg", quality=85, optimize=True)


def ways(folder: Path) -> list[tuple[str, object, Image.Image | None]]:
    """The photograph, what marks its hole, and what is shown of it; None: the picture of ``inpaint mask``."""
    brushed = EXAMPLES / "masks" / "astronaut.png"
    painted = np.array(Image.open(EXAMPLES / "photos" / "chelsea.png").convert("RGB"))
    painted[np.array(Image.open(EXAMPLES / "masks" / "chelsea.png").convert("L")) > 127] = (0, 255, 0)
    outline = folder / "outline.json"
    shapes = [{"points": TREE, "shape_type": "polygon"}]
    outline.write_text(json.dumps({"imageWidth": 640, "imageHeight": 427, "shapes": shapes}))
    return [
        ("rocket.jpg", Rectangle(428, 118, 40, 262), None),
        ("astronaut.jpg", brushed, Image.open(brushed).convert("RGB")),
        ("chelsea.png", Coloured("lime", painted), Image.fromarray(painted)),
        ("china.jpg", outline, None),
    ]


def cut(picture: Image.Image) -> Image.Image:
    """The largest part of the sheet's proportions, from the bottom right."""
    width = min(picture.width, picture.height * WIDTH // HEIGHT)
    height = width * HEIGHT // WIDTH
    return picture.crop((picture.width - width, picture.height - height, picture.width, picture.height))


if __name__ == "__main__":
    main()
