"""Hole masks: generators for training, evaluation and tests, and the step from pixels to feature cells.

A hole mask is a bool tensor, True = hole. Generators return (H, W) and draw every random number from the
``torch.Generator`` they are given, so that the same seed gives the same mask on every machine.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from inpaint.cells import CELL

StrokeKind = Literal["thin", "medium", "thick"]

# Largest width and number of strokes at a short side of 512, scaled with the picture. After the irregular masks of
# LaMa (Suvorov et al. 2021, supplement): thin strokes are many and long, thick ones few and wide.
_STROKES: dict[str, tuple[int, int, int]] = {  # kind: (width in pixels, strokes at most, vertices at most)
    "thin": (20, 20, 8),
    "medium": (60, 8, 6),
    "thick": (120, 4, 5),
}


def center(height: int, width: int, side: int) -> Tensor:
    """A square hole of ``side`` pixels in the middle: (H, W) bool."""
    _check_size(height, width)
    if not 0 < side <= min(height, width):
        raise ValueError(
            f"center: expected a side between 1 and {min(height, width)}, got {side}; choose a smaller hole"
        )
    hole = torch.zeros(height, width, dtype=torch.bool)
    top, left = (height - side) // 2, (width - side) // 2
    hole[top : top + side, left : left + side] = True
    return hole


def rectangle(height: int, width: int, generator: torch.Generator, *, smallest: int = 32, largest: int = 128) -> Tensor:
    """One rectangle with sides drawn from [smallest, largest] pixels (Song et al. 2017, training at 256): (H, W) bool.

    Sides are cut to what leaves at least a quarter of the picture's side known.
    """
    _check_size(height, width)
    hole = torch.zeros(height, width, dtype=torch.bool)
    rows = min(_integer(generator, smallest, largest), max(1, 3 * height // 4))
    columns = min(_integer(generator, smallest, largest), max(1, 3 * width // 4))
    top = _integer(generator, 0, height - rows)
    left = _integer(generator, 0, width - columns)
    hole[top : top + rows, left : left + columns] = True
    return hole


def strokes(height: int, width: int, generator: torch.Generator, *, kind: StrokeKind = "medium") -> Tensor:
    """Free-form strokes with round ends, the width scaled with the short side: (H, W) bool, never all hole."""
    _check_size(height, width)
    if kind not in _STROKES:
        raise ValueError(f"strokes: expected a kind out of {', '.join(_STROKES)}, got {kind!r}; choose one of these")
    widest, most_strokes, most_vertices = _STROKES[kind]
    short = min(height, width)
    widest = max(2, round(widest * short / 512))
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    for _ in range(_integer(generator, 1, most_strokes)):
        thickness = _integer(generator, max(1, widest // 2), widest)
        x, y = _integer(generator, 0, width - 1), _integer(generator, 0, height - 1)
        heading = 2 * math.pi * _uniform(generator)
        points = [(x, y)]
        for _ in range(_integer(generator, 1, most_vertices)):
            heading += (2 * _uniform(generator) - 1) * math.pi / 2
            length = (0.05 + 0.2 * _uniform(generator)) * short
            x = int(min(max(x + length * math.cos(heading), 0), width - 1))
            y = int(min(max(y + length * math.sin(heading), 0), height - 1))
            points.append((x, y))
        draw.line(points, fill=1, width=thickness)
        radius = thickness / 2
        for px, py in points:
            draw.ellipse((px - radius, py - radius, px + radius, py + radius), fill=1)
    hole = torch.frombuffer(bytearray(canvas.convert("L").tobytes()), dtype=torch.uint8).view(height, width) > 0
    if hole.all():
        hole[0] = False  # a mask without a known pixel is no training example
    return hole


def training_mask(height: int, width: int, generator: torch.Generator) -> Tensor:
    """The mixture of holes that the networks are trained on: (H, W) bool.

    Three in ten a centre square of 7/16 of the short side (the paper's 224 of 512), three in ten a rectangle of 1/8 to
    1/2 of it (32..128 of 256), the rest strokes of each kind.
    """
    short = min(height, width)
    draw = _uniform(generator)
    if draw < 0.3:
        return center(height, width, max(1, 7 * short // 16))
    if draw < 0.6:
        return rectangle(height, width, generator, smallest=max(1, short // 8), largest=max(1, short // 2))
    kinds: tuple[StrokeKind, ...] = ("thin", "medium", "thick")
    return strokes(height, width, generator, kind=kinds[_integer(generator, 0, 2)])


def feature_hole(hole: Tensor, stride: int = CELL) -> Tensor:
    """The hole seen by a feature map: (..., H, W) bool -> (..., ceil(H/stride), ceil(W/stride)) bool.

    A cell is hole if any of its pixels is (max-pool): no feature of a known cell is replaced, none of a hole is kept.
    """
    flat = hole.reshape(-1, 1, *hole.shape[-2:]).float()
    pooled = F.max_pool2d(flat, stride, ceil_mode=True) > 0
    return pooled.reshape(*hole.shape[:-2], *pooled.shape[-2:])


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise ValueError(f"expected a mask of at least 1x1 pixels, got {height}x{width}; give the picture's size")


def _uniform(generator: torch.Generator) -> float:
    return torch.rand((), generator=generator).item()


def _integer(generator: torch.Generator, low: int, high: int) -> int:
    """An integer in [low, high], both included."""
    return low if high <= low else int(torch.randint(low, high + 1, (), generator=generator).item())
