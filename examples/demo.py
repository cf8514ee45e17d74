"""Fill the holes of the example photographs.

Writes demo/NAME.png, the filled photograph, for each of them and demo/sheet.png with the columns input, mask and
result, and prints how long each stage took.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import inpaint
from inpaint.photo import as_given, save
from inpaint.work import prepare

EXAMPLES = Path(__file__).resolve().parent
NAMES = [path.stem for path in sorted((EXAMPLES / "masks").glob("*.png"))]
QUICK = ["chelsea", "coffee", "rocket"]
STAGES = ["infer", "vgg", "match", "translate", "blend"]
COLUMNS = ["input", "mask", "result"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"photographs to fill, of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--output", type=Path, default=Path("demo"), metavar="FOLDER", help="default: demo")
    arguments = parser.parse_args()
    names = arguments.names or (QUICK if arguments.quick else NAMES)
    if unknown := sorted(set(names) - set(NAMES)):
        parser.error(f"expected names among {', '.join(NAMES)}, got {', '.join(unknown)}")
    fill_examples(names, arguments.device, arguments.output)


def fill_examples(names: list[str], device: str, output: Path) -> None:
    """Fill the named examples, write the pictures to the folder `output` and print a table of times."""
    inpainter = inpaint.load("default", device=device)
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    print(f"{'seconds':<10} {'size':>9} {'hole':>6} " + " ".join(f"{stage:>9}" for stage in [*STAGES, "all"]))
    for name in names:
        photograph = Image.open(next((EXAMPLES / "photos").glob(f"{name}.*")))
        job = prepare(photograph, Image.open(EXAMPLES / "masks" / f"{name}.png"))
        filled = inpainter.fill(job)
        save(output / f"{name}.png", filled.picture)
        rows.append((name, [photograph, Image.fromarray(job.hole), as_given(filled.picture, photograph)]))

        seconds: dict[str, float] = defaultdict(float)
        for stage in filled.times:
            seconds[stage.name] += stage.seconds
        times = [*(seconds[stage] for stage in STAGES), sum(seconds.values())]
        size = f"{photograph.width}x{photograph.height}"
        share = f"{100 * job.hole.mean():.1f} %"
        print(f"{name:<10} {size:>9} {share:>6} " + " ".join(f"{time:9.3f}" for time in times), flush=True)
    contact_sheet(rows).save(output / "sheet.png")
    print(f"pictures: {output}/NAME.png; input, mask and result side by side: {output}/sheet.png")


def contact_sheet(rows: list[tuple[str, list[Image.Image]]], width: int = 400, gap: int = 8) -> Image.Image:
    """All rows below each other, every picture `width` pixels wide, with a heading per column and a name per row."""
    font = ImageFont.load_default(size=16)
    label = 24
    heights = [round(width * shown[0].height / shown[0].width) for _, shown in rows]
    size = (gap + len(COLUMNS) * (width + gap), label + sum(height + label + gap for height in heights))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, heading in enumerate(COLUMNS):
        draw.text((gap + column * (width + gap), 2), heading, "black", font)
    top = label
    for (name, shown), height in zip(rows, heights, strict=True):
        for column, picture in enumerate(shown):
            small = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
            sheet.paste(small, (gap + column * (width + gap), top))
        draw.text((gap, top + height), name, "black", font)
        top += height + label + gap
    return sheet


if __name__ == "__main__":
    main()
