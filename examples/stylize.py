"""Paint four of the example photographs in four styles.

    python examples/stylize.py [--output sheet.jpg]

Writes one contact sheet: styles above, photographs on the left, results between them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

import inpaint

EXAMPLES = Path(__file__).resolve().parent
CONTENTS = ["astronaut.jpg", "chelsea.png", "china.jpg", "coffee.png"]
STYLES = ["starry_night.jpg", "mosaic.jpg", "engraving.jpg", "dots.jpg"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--output", type=Path, default=Path("styles.jpg"), help="default: styles.jpg")
    arguments = parser.parse_args()
    inpainter = inpaint.load(device=arguments.device)
    contents = [Image.open(EXAMPLES / "photos" / name).convert("RGB") for name in CONTENTS]
    styles = [Image.open(EXAMPLES / "styles" / name).convert("RGB") for name in STYLES]
    rows = [[Image.new("RGB", (4, 3), "white"), *styles]]
    for content in contents:
        rows.append([content, *(inpaint.stylize(content, style, inpainter=inpainter) for style in styles)])
    contact_sheet(rows).save(arguments.output, quality=82)


def contact_sheet(rows: list[list[Image.Image]], width: int = 240, height: int = 180, gap: int = 4) -> Image.Image:
    """Rows of pictures of about one size, each cut to width x height around its middle."""
    size = (gap + len(rows[0]) * (width + gap), gap + len(rows) * (height + gap))
    sheet = Image.new("RGB", size, "white")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            factor = max(width / picture.width, height / picture.height)
            small = picture.resize(
                (round(picture.width * factor), round(picture.height * factor)), Image.Resampling.LANCZOS
            )
            left, top = (small.width - width) // 2, (small.height - height) // 6
            cell = small.crop((left, top, left + width, top + height))
            sheet.paste(cell, (gap + column * (width + gap), gap + row * (height + gap)))
    return sheet


if __name__ == "__main__":
    main()
