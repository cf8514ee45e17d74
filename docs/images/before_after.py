"""Draws before_after.jpg beside this file: three example photographs with their holes marked, and the filled ones."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

import inpaint
from inpaint.holes import read_hole

FOLDER = Path(__file__).resolve().parent
EXAMPLES = FOLDER.parent.parent / "examples"
# File, and the part that is shown: left and top in pixels of the photograph, and its width; 4:3.
SHOWN = [("astronaut.jpg", 20, 230, 376), ("china.jpg", 120, 27, 520), ("rocket.jpg", 0, 0, 569)]
WIDTH, HEIGHT, GAP = 400, 300, 6
RED, OPACITY = (230, 30, 60), 0.6


def main() -> None:
    inpainter = inpaint.load()
    size = (len(SHOWN) * (WIDTH + GAP) - GAP, 2 * HEIGHT + GAP)
    sheet = Image.new("RGB", size, "white")
    for column, (name, left, top, width) in enumerate(SHOWN):
        photograph = Image.open(EXAMPLES / "photos" / name).convert("RGB")
        mask = EXAMPLES / "masks" / f"{Path(name).stem}.png"
        box = (left, top, left + width, top + round(width * HEIGHT / WIDTH))
        for row, picture in enumerate((marked(photograph, mask), inpainter(photograph, mask))):
            shown = picture.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS, box)
            sheet.paste(shown, (column * (WIDTH + GAP), row * (HEIGHT + GAP)))
    sheet.save(FOLDER / "before_after.jpg", quality=88, optimize=True)


def marked(photograph: Image.Image, mask: Path) -> Image.Image:
    """The photograph with a veil of colour over its hole."""
    hole = read_hole(mask, size=(photograph.height, photograph.width))
    veil = Image.blend(photograph, Image.new("RGB", photograph.size, RED), OPACITY)
    return Image.composite(veil, photograph, Image.fromarray(hole))


if __name__ == "__main__":
    main()
