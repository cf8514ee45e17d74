"""Masks for photographs of your own: the five kinds of holes of the evaluation, from a seed.

    python benchmarks/make_masks.py PHOTOGRAPHS MASKS --seed 0

Writes MASKS/KIND/NAME.png, white = hole, of each photograph's size, as `inpaint evaluate` wants them. A mask depends on
the seed, its kind, the photograph's name and size, and on nothing else. A hole is drawn again until its share of the
picture lies in the range of the kind, which is the range of the masks in evaluation_masks/. Those were drawn by another
generator, with other strokes, and are kept as they are.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from inpaint.errors import InpaintError
from inpaint.evaluation.protocol import EXTENSIONS, make_folder
from inpaint.mask import center, rectangle, strokes
from inpaint.photo import save_picture

# kind: the smallest and the largest share of the picture that is hole
SHARES = {
    "center": (0.0, 1.0),
    "rect": (0.05, 0.30),
    "thin": (0.03, 0.13),
    "medium": (0.10, 0.27),
    "thick": (0.20, 0.50),
}
MOST_RECTANGLES = 3


def make_mask(kind: str, height: int, width: int, generator: torch.Generator) -> Tensor:
    """A hole of this kind: (height, width) bool, its share of the picture in the kind's range."""
    smallest, largest = SHARES[kind]
    while True:
        hole = draw(kind, height, width, generator)
        if smallest <= hole.float().mean() <= largest:
            return hole


def draw(kind: str, height: int, width: int, generator: torch.Generator) -> Tensor:
    """One hole of this kind, of any share."""
    short = min(height, width)
    if kind == "center":
        return center(height, width, 7 * short // 16)
    if kind == "rect":
        count = int(torch.randint(1, MOST_RECTANGLES + 1, (), generator=generator))
        sides = {"smallest": short // 8, "largest": short // 2}
        drawn = [rectangle(height, width, generator, **sides) for _ in range(count)]
        return torch.stack(drawn).any(0)
    return strokes(height, width, generator, kind=kind)  # type: ignore[arg-type]


def seeded(seed: int, kind: str, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {kind} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def make_all(photographs: Path, masks: Path, kinds: list[str], seed: int) -> int:
    """Writes the masks of all photographs; how many. InpaintError where there is no photograph or a small one."""
    files = sorted(file for file in photographs.glob("*") if file.suffix.lower() in EXTENSIONS)
    sizes = {file: Image.open(file).size for file in files}
    if not files:
        raise InpaintError(f"expected photographs in {photographs}, found none; accepted are {', '.join(EXTENSIONS)}")
    for file, size in sizes.items():
        if min(size) < 64:
            raise InpaintError(f"expected photographs of at least 64x64 pixels, {file} has {size[0]}x{size[1]}")
    for kind in kinds:
        make_folder(masks / kind)
        for file, (width, height) in sizes.items():
            hole = make_mask(kind, height, width, seeded(seed, kind, file.stem))
            save_picture(masks / kind / f"{file.stem}.png", Image.fromarray(hole.numpy()))
    return len(files) * len(kinds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photographs", type=Path)
    parser.add_argument("masks", type=Path, help="folder to write to")
    parser.add_argument("--kinds", nargs="+", choices=SHARES, default=list(SHARES), metavar="KIND")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        count = make_all(arguments.photographs, arguments.masks, arguments.kinds, arguments.seed)
    except InpaintError as error:
        sys.exit(f"error: {error}")
    print(f"{count} masks in {arguments.masks}")


if __name__ == "__main__":
    main()
