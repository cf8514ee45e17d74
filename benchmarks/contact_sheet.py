"""Sheets of all photographs, worst first: input, coarse completion, result and truth side by side.

    python benchmarks/contact_sheet.py PHOTOGRAPHS MASKS --out sheets --lpips-weights lpips_alex.safetensors

Writes sheets/center_1.jpg, center_2.jpg, ... with ten photographs each, sorted by LPIPS, and sheets/center.csv.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from tqdm import tqdm

import inpaint
from inpaint.evaluation.metrics import LPIPS, l1, ssim
from inpaint.evaluation.protocol import Sample, pair_samples
from inpaint.holes import read_hole
from inpaint.photo import read, save_picture, to_pil
from inpaint.pipeline import Inpainter
from inpaint.scales import enlarge

COLUMNS = ("input", "coarse", "result", "truth")
TILE, GAP, CAPTION = 256, 4, 16  # pixels
GROUPS, ROWS = 2, 5  # photographs side by side, and below each other


class Row(NamedTuple):
    name: str
    lpips: float
    ssim: float
    hole_l1: float
    pictures: list[Image.Image]


def main() -> None:
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    inpainter, perceptual = inpaint.load(arguments.weights, device=arguments.device), LPIPS(arguments.lpips_weights)
    samples, _ = pair_samples(arguments.images, arguments.masks, [arguments.kind], arguments.limit)
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = [fill(sample, inpainter, perceptual) for sample in tqdm(samples, unit="photo")]
    rows.sort(key=lambda row: row.lpips, reverse=True)
    with (arguments.out / f"{arguments.kind}.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(Row._fields[:-1])
        table.writerows([row.name, *(f"{value:.4f}" for value in row[1:-1])] for row in rows)
    for number, start in enumerate(range(0, len(rows), GROUPS * ROWS), 1):
        path = arguments.out / f"{arguments.kind}_{number}.jpg"
        save_picture(path, draw(rows[start : start + GROUPS * ROWS]))
        print(path)


def fill(sample: Sample, inpainter: Inpainter, perceptual: LPIPS) -> Row:
    truth = read(sample.image).colours()
    hole = torch.from_numpy(read_hole(sample.mask, size=(truth.shape[1], truth.shape[2])))
    run = inpainter.run(truth, hole)
    result = read(to_pil(run.image)).colours()
    coarse = torch.where(hole, enlarge(run.coarse[None], hole.shape)[0], truth)
    pictures = [small(picture) for picture in (torch.where(hole, 0.5, truth), coarse, result, truth)]
    measured = (perceptual(result, truth).item(), ssim(result, truth).item(), l1(result, truth, hole).item())
    return Row(sample.name, *measured, pictures)


def small(picture: Tensor) -> Image.Image:
    tile = to_pil(picture)
    tile.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    return tile


def draw(rows: list[Row]) -> Image.Image:
    width, height = len(COLUMNS) * (TILE + GAP) + 4 * GAP, TILE + CAPTION + GAP
    groups = min(GROUPS, len(rows))
    lines = -(-len(rows) // groups)
    sheet = Image.new("RGB", (groups * width, CAPTION + lines * height), "white")
    canvas, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for position, row in enumerate(rows):
        line, group = divmod(position, groups)
        left, top = group * width + GAP, CAPTION + line * height
        caption = f"{row.name[:60]}   LPIPS {row.lpips:.3f}   SSIM {row.ssim:.3f}   hole L1 {row.hole_l1:.1f} %"
        canvas.text((left, top), caption, "black", font)
        for column, picture in enumerate(row.pictures):
            sheet.paste(picture, (left + column * (TILE + GAP), top + CAPTION))
    for group in range(groups):
        for column, heading in enumerate(COLUMNS):
            canvas.text((group * width + GAP + column * (TILE + GAP), 0), heading, "black", font)
    return sheet


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="folder of photographs")
    parser.add_argument("masks", type=Path, help="folder of masks, named as `inpaint evaluate` wants them")
    parser.add_argument("--out", type=Path, required=True, help="folder for the sheets")
    parser.add_argument("--kind", default="center", help="kind of hole")
    parser.add_argument("--weights", default="default", help="a name or a file")
    parser.add_argument("--lpips-weights", type=Path, help="weight file of LPIPS")
    parser.add_argument("--limit", type=int, help="use the first so many photographs only")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
