"""The fifty photographs of the evaluation, 512x512, from their public sources.

    python benchmarks/get_photographs.py photographs
    python benchmarks/get_photographs.py photographs --originals originals

evaluation_photographs.csv names every photograph, its source, its licence and the SHA-256 of its 512x512 pixels. Those
with an address are downloaded; the others are read from --originals under their name in the column `original`. The
middle square is taken and resized to 512x512. Which resampling made the evaluation's files is not recorded, so the
usual ones are tried until the pixels are the recorded ones.

Prints what was made, what has other pixels than the recorded ones, and what is missing and has to be brought. Exit
status 1 unless all fifty are there with the recorded pixels.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

LIST = Path(__file__).with_name("evaluation_photographs.csv")
SIDE = 512
SECONDS = 60  # to wait for a server
RESAMPLINGS = (
    Image.Resampling.LANCZOS,
    Image.Resampling.BICUBIC,
    Image.Resampling.BOX,
    Image.Resampling.HAMMING,
    Image.Resampling.BILINEAR,
)


def rows() -> list[dict[str, str]]:
    """The photographs in the order of their names: name, source, original, url, licence, size, SHA-256."""
    with LIST.open(newline="") as file:
        return list(csv.DictReader(file))


def pixels_sha256(picture: Image.Image) -> str:
    """What `inpaint evaluate` writes into per_image.csv as photograph_sha256."""
    values = np.ascontiguousarray(np.asarray(picture.convert("RGB")).transpose(2, 0, 1))
    return hashlib.sha256(f"{values.shape} ".encode() + values.tobytes()).hexdigest()


def squares(original: Image.Image) -> Iterator[Image.Image]:
    """The middle of a photograph as 512x512, in every way that its file may have been made, the likeliest first."""
    colours = original.convert("RGB")
    for resampling in RESAMPLINGS:
        yield ImageOps.fit(colours, (SIDE, SIDE), resampling)
    factor = SIDE / min(colours.size)
    size = (round(colours.width * factor), round(colours.height * factor))
    for resampling in RESAMPLINGS:
        yield ImageOps.fit(colours.resize(size, resampling), (SIDE, SIDE))


def read_original(row: dict[str, str], originals: Path | None) -> Image.Image | str:
    """The photograph in its first size, or why there is none."""
    brought = originals and originals / row["original"]
    try:
        if brought and brought.is_file():
            return Image.open(brought).convert("RGB")
        if not row["url"]:
            return "bring it"
        with urllib.request.urlopen(row["url"], timeout=SECONDS) as answer:
            return Image.open(io.BytesIO(answer.read())).convert("RGB")
    except (OSError, urllib.error.URLError) as error:
        return f"{type(error).__name__}: {error}"


def get(row: dict[str, str], out: Path, originals: Path | None) -> str:
    """Makes one photograph unless it is there. What became of it: "as recorded", "other pixels" or what is missing."""
    file = out / row["name"]
    if file.is_file() and pixels_sha256(Image.open(file)) == row["pixels_sha256"]:
        return "as recorded"
    original = read_original(row, originals)
    if isinstance(original, str):
        place = originals or Path("originals")
        return f"missing, {original}: {row['source']} as {place / row['original']}, {row['original_size']} pixels"
    candidates = list(squares(original))
    made = next((each for each in candidates if pixels_sha256(each) == row["pixels_sha256"]), None)
    temporary = file.with_name(file.name + ".part")
    (made or candidates[0]).save(temporary, "png")
    os.replace(temporary, file)
    return "as recorded" if made else "other pixels"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write the photographs to")
    parser.add_argument("--originals", type=Path, help="folder of photographs that cannot be downloaded")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = {row["name"]: get(row, arguments.out, arguments.originals) for row in rows()}
    for name, state in found.items():
        print(f"{name}: {state}")
    complete = sum(state == "as recorded" for state in found.values())
    print(f"{complete} of {len(found)} photographs are those of the evaluation")
    return 0 if complete == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
