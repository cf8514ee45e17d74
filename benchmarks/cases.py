"""What is matched: features of photographs or random ones, and a hole in them.

A size is written SIDE/HOLE: a picture of SIDE x SIDE pixels with a centred square hole of HOLE pixels, or SIDE/thin,
with seeded thin strokes. Features have 256 channels at a quarter of the resolution, as VGG-19's relu3_1.

Photographs: those of examples/photos, each cropped to its centred square and resized to a tile of 512 x 512 (256 x 256
for a picture of 256), tiles laid side by side where the picture is larger. The first tile is the astronaut; from the
seventh on tiles are turned or mirrored, so that none repeats up to pictures of 2048 (at 4096, 16 of the 64 do).
Random features: independent normal numbers, the worst case for anything that hopes for structure.
Spectrum features lie between the two: "spectrum-R/S" is a smooth map along R random directions, the i-th with energy
1 / i, of standard deviation 1, plus independent noise of standard deviation S, through a ReLU.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from inpaint import mask as masks
from inpaint.networks.vgg import load_vgg19
from inpaint.weights import FOLDER, VGG_FILE
from patchswap import masks_from_hole

PHOTOGRAPHS = ("astronaut.jpg", "china.jpg", "coffee.png", "flower.jpg", "rocket.jpg", "chelsea.png")
PHOTOGRAPH_FOLDER = Path(__file__).parent.parent / "examples" / "photos"
CHANNELS = 256
SPECTRA = {  # directions and noise
    "spectrum-16/0.05": (16, 0.05),
    "spectrum-64/0.3": (64, 0.3),
    "spectrum-200/0.05": (200, 0.05),
    "spectrum-200/0.3": (200, 0.3),
    "spectrum-64/1.0": (64, 1.0),
}
PATCH_SIZE = 3


@dataclass(frozen=True)
class Case:
    """features (1, C, H, W) float32 and hole (1, H, W) bool on one device, and what follows from them."""

    size: str
    kind: str  # "photo", "random" or one of SPECTRA
    features: Tensor
    hole: Tensor

    @cached_property
    def query_mask(self) -> Tensor:
        """(1, H-2, W-2): patches that overlap the hole."""
        return masks_from_hole(self.hole, PATCH_SIZE, 0)[0]

    @cached_property
    def key_mask(self) -> Tensor:
        """(1, H-2, W-2): patches that do not."""
        return masks_from_hole(self.hole, PATCH_SIZE, 0)[1]

    @cached_property
    def queries(self) -> int:
        return int(self.query_mask.sum())

    @cached_property
    def keys(self) -> int:
        return int(self.key_mask.sum())

    @cached_property
    def query_cells(self) -> Tensor:
        """(H, W): cells that some query patch covers."""
        return _covered(self.query_mask)

    @cached_property
    def key_cells(self) -> Tensor:
        return _covered(self.key_mask)

    @property
    def channels(self) -> int:
        return self.features.shape[1]

    @property
    def depth(self) -> int:
        """Numbers in a patch."""
        return PATCH_SIZE * PATCH_SIZE * self.channels

    @property
    def direct_operations(self) -> float:
        """Floating-point operations of one inner product for each pair of patches."""
        return 2.0 * self.queries * self.keys * self.depth

    @property
    def cell_operations(self) -> float:
        """The same for each pair of cells: what the per-cell identity needs (docs/kernels.md)."""
        return 2.0 * float(self.query_cells.sum()) * float(self.key_cells.sum()) * self.channels

    def to(self, device: str) -> Case:
        return Case(self.size, self.kind, self.features.to(device), self.hole.to(device))

    def clone(self) -> Case:
        """The same numbers at another place in memory."""
        return Case(self.size, self.kind, self.features.clone(), self.hole.clone())

    def save(self, path: Path) -> None:
        save_file({"features": self.features.cpu(), "hole": self.hole.cpu()}, path, {"size": self.size})

    @staticmethod
    def load(path: Path, size: str, kind: str) -> Case:
        tensors = load_file(path)
        return Case(size, kind, tensors["features"], tensors["hole"])


def make_case(size: str, kind: str, device: str = "cpu") -> Case:
    """The case of a size such as "512/224" and a kind of features; the same on every machine, up to rounding."""
    side = parse_size(size)[0]
    if kind == "photo":
        pixels = torch.from_numpy(photograph(side)).to(device).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            features = load_vgg19(FOLDER / VGG_FILE).to(device).relu3_1(pixels).contiguous()
    elif kind == "random":
        generator = torch.Generator().manual_seed(side)
        features = torch.randn(1, CHANNELS, side // 4, side // 4, generator=generator).to(device)
    elif kind in SPECTRA:
        features = spectrum_features(side // 4, *SPECTRA[kind]).to(device)
    else:
        raise ValueError(f"features: expected one of photo, random, {', '.join(SPECTRA)}; got {kind!r}")
    return Case(size, kind, features, masks.feature_hole(make_hole(size)[None]).to(device))


def spectrum_features(side: int, directions: int, noise: float, channels: int = CHANNELS) -> Tensor:
    """(1, channels, side, side), as described above."""
    generator = torch.Generator().manual_seed(side)
    corners = torch.randn(1, directions, side // 3 + 2, side // 3 + 2, generator=generator)
    smooth = torch.nn.functional.interpolate(corners, size=(side, side), mode="bilinear", align_corners=False)
    smooth = smooth / torch.arange(1, directions + 1).sqrt()[:, None, None]
    mixed = torch.einsum("cr,brhw->bchw", torch.randn(channels, directions, generator=generator), smooth)
    return (mixed / mixed.std() + noise * torch.randn(mixed.shape, generator=generator)).relu()


def parse_size(size: str) -> tuple[int, str]:
    """ "512/224" -> (512, "224"). ValueError for anything that is not SIDE/HOLE or SIDE/thin."""
    side, _, hole = size.partition("/")
    fits = (
        side.isdigit() and int(side) % 256 == 0 and (hole == "thin" or (hole.isdigit() and 0 < int(hole) < int(side)))
    )
    if not fits:
        raise ValueError(f"size: expected SIDE/HOLE such as 512/224 or 512/thin, SIDE a multiple of 256; got {size!r}")
    return int(side), hole


def make_hole(size: str) -> Tensor:
    """The hole in pixels: (SIDE, SIDE) bool."""
    side, hole = parse_size(size)
    if hole == "thin":
        return masks.strokes(side, side, torch.Generator().manual_seed(1), kind="thin")
    return masks.center(side, side, int(hole))


def photograph(side: int) -> np.ndarray:
    """(side, side, 3) uint8: the photographs as described above."""
    tile = min(side, 512)
    rows = []
    for row in range(side // tile):
        tiles = [_tile(row * (side // tile) + column, tile) for column in range(side // tile)]
        rows.append(np.concatenate(tiles, axis=1))
    return np.ascontiguousarray(np.concatenate(rows))


def _tile(number: int, side: int) -> np.ndarray:
    with Image.open(PHOTOGRAPH_FOLDER / PHOTOGRAPHS[number % len(PHOTOGRAPHS)]) as file:
        short, left, top = min(file.size), (file.width - min(file.size)) // 2, (file.height - min(file.size)) // 2
        square = file.convert("RGB").crop((left, top, left + short, top + short))
    pixels = np.array(square.resize((side, side), Image.Resampling.LANCZOS))
    orientation = number // len(PHOTOGRAPHS) % 8
    pixels = np.rot90(pixels, orientation % 4)
    return pixels[:, ::-1] if orientation >= 4 else pixels


def _covered(patches: Tensor) -> Tensor:
    return torch.nn.functional.max_pool2d(
        torch.nn.functional.pad(patches.float(), (PATCH_SIZE - 1,) * 4), PATCH_SIZE, stride=1
    )[0].bool()
