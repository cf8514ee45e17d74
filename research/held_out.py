"""The photographs that training never sees, as squares with masks: to choose on, so that the evaluation only confirms.

    python research/held_out.py --data photographs --out held_out

Writes held_out/photographs/000.png, ... and held_out/masks/center_000.png, thick_000.png, ..., named as
`inpaint evaluate` and research/ablation.py want them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from inpaint.mask import center, strokes
from inpaint.photo import read, save_picture, to_pil
from inpaint.training.config import load_config
from inpaint.training.data import Photographs
from inpaint.training.sources import Photograph, open_photograph

SIDE, HOLE = 256, 112  # pixels
COUNT = 64


def squares(data: Path, count: int = COUNT) -> list[Tensor]:
    """The middle squares, (3, SIDE, SIDE) in [0, 1], of ``count`` held-out photographs, evenly over all sources."""
    files = Photographs(data, load_config("compact", "feature2image"), validation=True).files
    count = min(count, len(files))
    return [_middle_square(files[number * len(files) // count]) for number in range(count)]


def _middle_square(photograph: Photograph) -> Tensor:
    with open_photograph(photograph) as stream, Image.open(stream) as file:
        image = read(file.convert("RGB")).colours()
    top, left = ((length - SIDE) // 2 for length in image.shape[1:])
    return image[:, top : top + SIDE, left : left + SIDE]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="photographs of 256 or more, as in training")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--count", type=int, default=COUNT)
    arguments = parser.parse_args()
    for folder in ("photographs", "masks"):
        (arguments.out / folder).mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(squares(arguments.data, arguments.count)):
        save_picture(arguments.out / "photographs" / f"{number:03}.png", to_pil(picture))
        holes = {"center": center(SIDE, SIDE, HOLE)}
        for kind in ("thick", "medium", "thin"):
            holes[kind] = strokes(SIDE, SIDE, torch.Generator().manual_seed(number), kind=kind)
        for kind, hole in holes.items():
            save_picture(arguments.out / "masks" / f"{kind}_{number:03}.png", Image.fromarray(hole.numpy()))


if __name__ == "__main__":
    main()
