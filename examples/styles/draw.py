"""Draw three of the example style pictures: a mosaic, an engraving and dots of paint, all of the same landscape.

    python examples/styles/draw.py

Writes mosaic.jpg, engraving.jpg and dots.jpg, 512x512, beside this file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 512
SKY = ((24, 52, 120), (74, 130, 190), (236, 196, 130), (250, 238, 200))  # from the zenith to the horizon
HILLS = ((70, 96, 120), (44, 92, 74), (60, 84, 30), (28, 36, 24))  # from the farthest to the nearest
FIELDS = ((214, 160, 46), (150, 60, 40), (110, 140, 50))


def landscape(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """RGB colours in [0, 255] at places in the unit square, y downwards: a sun over hills and fields."""
    bands = np.linspace(0, 0.5, len(SKY))
    colours = np.stack([np.interp(y, bands, [colour[channel] for colour in SKY]) for channel in range(3)], axis=-1)
    clouds = np.sin(9 * x + 14 * y + 2 * np.sin(23 * y)) * np.sin(31 * y + 3 * np.sin(5 * x))
    colours += np.clip(clouds - 0.2, 0, 1)[..., None] * np.array([70, 50, 40])
    sun = np.hypot(x - 0.68, y - 0.27)
    colours = np.where((sun < 0.1)[..., None], (255, 226, 120), colours)
    glow = np.clip(1 - np.abs(sun - 0.1) / 0.12, 0, 1)[..., None] * (sun >= 0.1)[..., None]
    colours = colours * (1 - 0.6 * glow) + np.array([252, 180, 80]) * 0.6 * glow
    for number, hill in enumerate(HILLS):
        crest = (
            0.46 + 0.12 * number + 0.05 * np.sin((5 + 2 * number) * x + 1.7 * number) + 0.02 * np.sin(17 * x + number)
        )
        ground = np.broadcast_to(np.array(hill, dtype=float), colours.shape)
        if number in (1, 2):
            furrow = ((9 * x + 6 * (y - crest) + number) % len(FIELDS)).astype(int)
            ground = 0.5 * ground + 0.5 * np.array(FIELDS, dtype=float)[furrow]
        light = 1.25 - 2.2 * np.clip(y - crest, 0, 0.3)
        colours = np.where((y > crest)[..., None], ground * light[..., None], colours)
    return np.clip(colours, 0, 255)


def mosaic(random: np.random.Generator, cell: int = 15) -> Image.Image:
    """Stones with dark joints: the Voronoi cells of a jittered grid."""
    count = SIDE // cell + 3
    rows, columns = np.mgrid[-1 : count - 1, -1 : count - 1]
    seeds = np.stack([columns + random.uniform(0.1, 0.9, rows.shape), rows + random.uniform(0.1, 0.9, rows.shape)])
    seeds *= cell
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    distances = np.full((2, SIDE, SIDE), np.inf)
    stone = np.zeros((SIDE, SIDE), dtype=int)
    for step_y in (-1, 0, 1):
        for step_x in (-1, 0, 1):
            row, column = (y // cell).astype(int) + 1 + step_y, (x // cell).astype(int) + 1 + step_x
            distance = np.hypot(seeds[0, row, column] - x, seeds[1, row, column] - y)
            nearer = distance < distances[0]
            distances[1] = np.where(nearer, distances[0], np.minimum(distances[1], distance))
            distances[0] = np.where(nearer, distance, distances[0])
            stone = np.where(nearer, row * count + column, stone)
    colours = landscape(*(np.clip(seeds.reshape(2, -1) / SIDE, 0, 1)))
    colours = colours * random.uniform(0.75, 1.2, (len(colours), 1)) + random.uniform(-18, 18, colours.shape)
    edge = np.clip((distances[1] - distances[0]) / 2 - 0.5, 0, 1)[..., None]
    shine = 1 + 0.02 * np.clip(distances[1] - distances[0], 0, 8)[..., None]
    return _image(edge * colours[stone] * shine + (1 - edge) * np.array([38, 34, 36]))


def engraving(period: float = 7.0) -> Image.Image:
    """Black lines on cream paper, thicker and crossed where the landscape is darker."""
    fine = 3
    y, x = np.mgrid[: SIDE * fine, : SIDE * fine] / (SIDE * fine)
    colours = landscape(x, y)
    darkness = 1 - np.clip(colours @ np.array([0.299, 0.587, 0.114]) / 235, 0, 1)
    ink = np.zeros_like(darkness)
    bend = 0.03 * np.sin(7 * x + 2 * np.sin(4 * y)) + 0.02 * np.sin(11 * y)
    for angle, start in ((0.1, 0.05), (0.95, 0.42), (-0.8, 0.66)):
        across = (np.cos(angle) * y + np.sin(angle) * x + bend) * SIDE / period
        distance = np.abs(across % 1 - 0.5) * 2
        ink = np.maximum(ink, distance < np.clip(1.1 * (darkness - start), 0, 0.8))
    paper = np.array([244, 232, 206]) * (1 - ink[..., None]) + np.array([32, 26, 24]) * ink[..., None]
    return _image(paper).resize((SIDE, SIDE), Image.Resampling.BOX)


def dots(random: np.random.Generator) -> Image.Image:
    """Round touches of pure colour that mix in the eye."""
    fine = 2
    image = Image.new("RGB", (SIDE * fine, SIDE * fine), (236, 226, 200))
    draw = ImageDraw.Draw(image)
    for radius, number in ((5.5, 6000), (3.8, 16000), (2.8, 12000)):
        centres = random.uniform(0, 1, (2, number))
        colours = landscape(*centres)
        grey = colours.mean(axis=1, keepdims=True)
        colours = np.clip(grey + 1.5 * (colours - grey) + random.normal(0, 26, colours.shape), 0, 255)
        for x, y, colour in zip(*(centres * SIDE * fine), colours.astype(int), strict=True):
            reach = radius * fine * random.uniform(0.8, 1.1)
            draw.ellipse((x - reach, y - reach, x + reach, y + reach), tuple(colour))
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _image(colours: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))


def main() -> None:
    folder = Path(__file__).resolve().parent
    random = np.random.default_rng(0)
    for name, image in (("mosaic", mosaic(random)), ("engraving", engraving()), ("dots", dots(random))):
        image.save(folder / f"{name}.jpg", quality=90, subsampling=0)


if __name__ == "__main__":
    main()
