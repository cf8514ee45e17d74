"""Style transfer by patch-swap: a picture painted anew with patches of another one.

Queries are all patches of the content's relu3_1 features, keys all patches of the style's (style-swap, Chen & Schmidt,
arXiv 1612.04337, section 3). The Feature2Image that fills holes decodes the result (Song et al., arXiv 1711.08590).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import patchswap
from inpaint.cells import CELL, PATCH
from inpaint.errors import InpaintError
from inpaint.inpainter import Inpainter, load
from inpaint.photo import LUMINANCE, Patch, Photo, as_given, read, to_pil
from inpaint.pyramid import enlarge, resize

DEFAULT_TONE = 0.35
DEFAULT_COHERENCE = 0.2
LARGEST_STYLE = 1024  # pixels of a style picture's long side at scale 1
_LARGEST_AREA = 16e6  # pixels of a style picture at any scale: each 4x4 of them are a key
_SMALL = 128  # pixels of a content's long side below which the style picture shrinks no further
_SMALLEST = 9  # pixels a side that give the three cells of a patch
_BAND = 1 << 16  # cells that are matched at once
_SWEEPS = 6  # of patchswap.cohere
_TILE = 160  # cells a side that are decoded at once, about, without the margin
_COLOUR_WINDOW = 17  # pixels a side over which colours are the copied ones, not those the decoder gave
_TONE_WINDOW = 5  # cells a side over which brightness is averaged

Picture = TypeVar("Picture", Image.Image, Tensor)
Progress = Callable[[int, int], None]


class _Style(NamedTuple):
    """What is copied from a style picture of h x w cells: their features (1, C, h, w), their pixels (1, 3, 4h, 4w), and
    what the decoder makes of the features (1, 3, 4h, 4w)."""

    features: Tensor
    pixels: Tensor
    decoded: Tensor


def stylize(
    content: Picture,
    style: Image.Image | Tensor,
    *,
    strength: float = 1.0,
    scale: float = 1.0,
    keep_colours: bool = False,
    tone: float = DEFAULT_TONE,
    coherence: float = DEFAULT_COHERENCE,
    largest_style: int = LARGEST_STYLE,
    inpainter: Inpainter | None = None,
    on_progress: Progress | None = None,
) -> Picture:
    """Paints ``content`` in the manner of ``style`` and returns a picture of the same type and size.

    Args:
        content: PIL image (as for ``inpaint.photo.read``), or float tensor (3, H, W) or (B, 3, H, W) in [0, 1], of
            any size. Transparency stays. Grey becomes RGB unless its colours are to be kept.
        style: PIL image, or float tensor (3, H', W') in [0, 1]. Transparent parts count as white.
        strength: from 0, the content itself, to 1. In between, features and lost detail are mixed.
        scale: size of the style's texture. At 1 the style picture is as large as it is, but its long side at most the
            content's (or 128) and at most ``largest_style``; that size is then multiplied by ``scale``.
        keep_colours: only brightness comes from the transfer, hue and saturation (YCbCr chroma) stay the content's.
        tone: how much brightness counts in matching, against relu3_1 features, which hardly know how bright a smooth
            surface is; 0 not at all.
        coherence: how much similarity, in units of the normalised cross-correlation, a patch may give up to continue
            what all eight neighbours copy (``patchswap.cohere``). Larger values copy larger pieces of the style and
            lose small features of the content; at 0 every patch is matched by itself.
        largest_style: pixels.
        inpainter: networks that are loaded already, from ``inpaint.load``. Left out, ``inpaint.load()`` is called.
        on_progress: called with (steps done, steps in all).

    Raises:
        InpaintError: an argument outside its range, pictures of another form, or a style picture too small for a 3x3
            patch of features (9 pixels a side at the size it is taken) or larger than 16 megapixels at that size.
    """
    check(strength=strength, scale=scale, tone=tone, coherence=coherence, largest_style=largest_style)
    texture = flattened(read(style)) if isinstance(style, Image.Image) else style
    _check_picture("style", texture, dimensions=(3,))
    if isinstance(content, Image.Image):
        photo = read(content) if keep_colours or strength == 0 else in_colour(read(content))
        pictures = photo.colours().unsqueeze(0)
    else:
        _check_picture("content", content, dimensions=(3, 4))
        pictures = content.unsqueeze(0) if content.dim() == 3 else content
    size = (pictures.shape[2], pictures.shape[3])
    taken = style_size((texture.shape[1], texture.shape[2]), size, scale, largest_style)
    if strength == 0:
        return as_given(photo, content) if isinstance(content, Image.Image) else content.clone()

    inpainter = inpainter or load()
    texture = (enlarge if taken[0] > texture.shape[1] else resize)(texture.float().unsqueeze(0), taken)
    results = _transfer(pictures.float(), texture, inpainter, strength, tone, coherence, on_progress)
    if keep_colours:
        results = (pictures + luminance(results) - luminance(pictures.float())).clamp(0, 1)
    if isinstance(content, Image.Image):
        return as_given(painted(photo, results[0]), content)
    return results.to(content).view_as(content)


def style_size(
    style: tuple[int, int], content: tuple[int, int], scale: float = 1.0, largest_style: int = LARGEST_STYLE
) -> tuple[int, int]:
    """The size (height, width) in pixels at which ``stylize`` takes a style picture of this size.

    Raises:
        InpaintError: it is too small for a patch or larger than 16 megapixels.
    """
    factor = scale * min(1.0, max(*content, _SMALL) / max(style), largest_style / max(style))
    height, width = (max(1, round(side * factor)) for side in style)
    if min(height, width) < _SMALLEST:
        raise InpaintError(
            f"style: expected at least {_SMALLEST} pixels a side at the size it is taken, one 3x3 patch of features, "
            f"got {width}x{height}; use a larger picture or a larger scale"
        )
    if height * width > _LARGEST_AREA:
        raise InpaintError(
            f"style: expected at most {_LARGEST_AREA / 1e6:.0f} megapixels at the size it is taken, got "
            f"{width}x{height}; use a smaller scale"
        )
    return height, width


def check(*, strength: float, scale: float, tone: float, coherence: float, largest_style: int) -> None:
    """Raises InpaintError where a setting of ``stylize`` is outside its range."""
    if not 0 <= strength <= 1:
        raise InpaintError(f"strength: expected a number from 0 to 1, got {strength}; 0 is the content, 1 all style")
    if not 0 < scale < float("inf"):
        raise InpaintError(f"scale: expected a number above 0, got {scale}; 1 takes the style picture as it is")
    if not 0 <= tone < float("inf"):
        raise InpaintError(f"tone: expected a number from 0 on, got {tone}; 0 ignores brightness, 0.35 is usual")
    if not 0 <= coherence < float("inf"):
        raise InpaintError(
            f"coherence: expected a number from 0 on, got {coherence}; 0 matches every patch by itself, "
            f"{DEFAULT_COHERENCE} is usual"
        )
    if largest_style < _SMALLEST:
        raise InpaintError(f"largest_style: expected at least {_SMALLEST} pixels, got {largest_style}; 1024 is usual")


def in_colour(photo: Photo) -> Photo:
    """A photograph that can hold colours: grey ones become 8-bit RGB or RGBA, without their profile, one for grey."""
    if not photo.is_grey:
        return photo
    alpha = photo.samples[..., 1:] * (255 / photo.white)
    samples = np.concatenate([np.asarray(to_pil(photo.colours())), alpha.round().astype(np.uint8)], axis=2)
    return dataclasses.replace(photo, samples=samples, icc_profile=None)


def flattened(photo: Photo) -> Tensor:
    """The colours of a photograph on white where it is transparent: (3, H, W) in [0, 1]."""
    if not photo.has_alpha:
        return photo.colours()
    alpha = torch.from_numpy(photo.samples[..., -1].astype(np.float32) / np.float32(photo.white))
    return alpha * photo.colours() + (1 - alpha)


def painted(photo: Photo, picture: Tensor) -> Photo:
    """A photograph with all of its colours taken from a picture (3, H, W)."""
    everywhere = np.ones(photo.size, dtype=bool)
    return photo.filled([Patch(slice(None), slice(None), picture, everywhere)])


def luminance(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) RGB -> (B, 1, H, W), ITU-R BT.601."""
    return (pictures * pictures.new_tensor(LUMINANCE)[:, None, None]).sum(1, keepdim=True)


def find_features(picture: Tensor, inpainter: Inpainter) -> Tensor:
    """relu3_1 of a picture (1, 3, H, W)."""
    with inpainter.pipeline.multiplying():
        return inpainter.networks.vgg.relu3_1(picture).float()


class Comparison:
    """What the patches of a content and of a style are compared by.

    For the comparison, but not for what is copied, the content's features are brought to the style's mean and standard
    deviation in every channel (as in AdaIN, Huang & Belongie 2017), so that smooth surfaces need not go to smooth ones;
    and brightness is one more channel on both sides.

    The index is computed in bands of rows, (1, rows, w-2) int64 each, from top to bottom; together they are what
    ``patchswap.fold`` takes. Bands bound the memory and change nothing in the result.
    """

    def __init__(self, content: tuple[Tensor, Tensor], style: tuple[Tensor, Tensor], tone: float) -> None:
        """content: picture (1, 3, H, W) in [0, 1] and its features; style: the same; tone: as for ``stylize``."""
        (picture, self._features), (texture, copied) = content, style
        self._mean, deviation = _statistics(self._features)
        self._style_mean, style_deviation = _statistics(copied)
        self._gain = style_deviation / deviation
        weight = tone * copied.square().sum(1).mean().sqrt()
        self._brightness = weight * _brightness(picture)
        self.key = torch.cat((copied, weight * _brightness(texture)), dim=1)

    def query(self, rows: slice) -> Tensor:
        """The content's features to be compared with ``key``, in these rows of cells."""
        aligned = (self._features[:, :, rows] - self._mean) * self._gain + self._style_mean
        return torch.cat((aligned, self._brightness[:, :, rows]), dim=1)

    def match(self) -> Iterator[Tensor]:
        """The most similar style patch of every content patch, in bands."""
        for rows in self._bands():
            yield patchswap.match(self.query(rows), self.key).index

    def cohere(self, index: Tensor, weight: float) -> Iterator[Tensor]:
        """The match chosen anew so that neighbours copy from neighbouring places (``patchswap.cohere``), in bands.

        In each sweep a patch hears of its neighbours only. So the rows of a band need as many rows around them as there
        are sweeps to become what they become in the whole index.
        """
        for rows in self._bands():
            start, stop = rows.start, rows.stop - PATCH + 1
            first, last = max(0, start - _SWEEPS), min(index.shape[1], stop + _SWEEPS)
            query = self.query(slice(first, last + PATCH - 1))
            chosen = patchswap.cohere(index[:, first:last], query, self.key, weight=weight, sweeps=_SWEEPS).index
            yield chosen[:, start - first : stop - first]

    def _bands(self) -> Iterator[slice]:
        return _bands(self._features.shape[2], self._features.shape[3])


@torch.inference_mode()
def _transfer(
    contents: Tensor,
    style: Tensor,
    inpainter: Inpainter,
    strength: float,
    tone: float,
    coherence: float,
    on_progress: Progress | None,
) -> Tensor:
    """(B, 3, H, W) and (1, 3, H', W') in [0, 1] -> (B, 3, H, W) in [0, 1], where the contents were."""
    height, width = contents.shape[2:]
    pictures = F.pad(contents, (0, max(0, _SMALLEST - width), 0, max(0, _SMALLEST - height)), mode="replicate")
    texture = style.to(inpainter.device)
    keys = _study(texture, inpainter)
    rows, columns = (-(-side // CELL) for side in pictures.shape[2:])
    tiles = list(_tiles((rows, columns), inpainter.networks.feature2image))
    bands = len(list(_bands(rows, columns)))
    total = len(contents) * (bands * (2 if coherence else 1) + len(tiles))
    steps = iter(range(1, total + 1))

    def done() -> None:
        if on_progress:
            on_progress(next(steps), total)

    def whole(parts: Iterator[Tensor]) -> Tensor:
        found = []
        for part in parts:
            found.append(part)
            done()
        return torch.cat(found, dim=1)

    def find_index(picture: Tensor, features: Tensor) -> Tensor:
        comparison = Comparison((picture, features), (texture, keys.features), tone)
        index = whole(comparison.match())
        return whole(comparison.cohere(index, coherence)) if coherence else index

    results = torch.empty_like(contents)
    for content, result in zip(pictures.split(1), results, strict=True):
        picture = content.to(inpainter.device)
        features = find_features(picture, inpainter)
        index = find_index(picture, features)
        painted = torch.empty_like(picture)
        for tile in tiles:
            tile.paste(_paint(tile, index, keys, picture, features, inpainter, strength), painted)
            done()
        result.copy_(painted[0, :, :height, :width].clamp(0, 1))
    return results


def _paint(
    tile: _Tile,
    index: Tensor,
    keys: _Style,
    picture: Tensor,
    features: Tensor,
    inpainter: Inpainter,
    strength: float,
) -> Tensor:
    """The tile's outer cells, decoded: (1, 3, h, w)."""
    rows, columns = tile.outer
    reach = PATCH - 1
    place = index[:, rows.start : rows.stop - reach, columns.start : columns.stop - reach]
    height, width = keys.features.shape[2:]
    cells, pixels, decoded = (patchswap.fold(place, part, key_size=(height, width)) for part in keys)
    if strength < 1:
        own = features[:, :, rows, columns]
        cells = torch.lerp(own, cells, strength)
        pixels = torch.lerp(_whole_cells(picture[:, :, _pixels(rows), _pixels(columns)]), pixels, strength)
        decoded = torch.lerp(_decode(own, inpainter), decoded, strength)
    painted = _decode(cells, inpainter)
    # What the decoder lost of the copied patches, then their colours where the decoder mixed others.
    return painted + (pixels - decoded) + _smooth(decoded - painted, _COLOUR_WINDOW)


def _study(style: Tensor, inpainter: Inpainter) -> _Style:
    """What is to be known of a style picture (1, 3, h, w)."""
    features = find_features(style, inpainter)
    decoded = torch.empty_like(style)
    for tile in _tiles((features.shape[2], features.shape[3]), inpainter.networks.feature2image):
        tile.paste(_decode(features[:, :, tile.outer[0], tile.outer[1]], inpainter), decoded)
    return _Style(features, _whole_cells(style), _whole_cells(decoded))


def _decode(features: Tensor, inpainter: Inpainter) -> Tensor:
    with inpainter.pipeline.multiplying():
        return inpainter.networks.feature2image(features)


def _statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel, (1, C, 1, 1)."""
    deviation, mean = torch.std_mean(features, dim=(2, 3), correction=0, keepdim=True)
    return mean, deviation.clamp(min=1e-3)


def _brightness(picture: Tensor) -> Tensor:
    """Luminance around every cell, with mean 0 and standard deviation 1 over the picture: (1, 1, h, w)."""
    smooth = _smooth(F.avg_pool2d(_whole_cells(luminance(picture)), CELL), _TONE_WINDOW)
    mean, deviation = _statistics(smooth)
    return (smooth - mean) / deviation


def _whole_cells(picture: Tensor) -> Tensor:
    """A picture whose sides are multiples of a cell, its last pixels repeated."""
    height, width = picture.shape[2:]
    return F.pad(picture, (0, -width % CELL, 0, -height % CELL), mode="replicate")


def _smooth(picture: Tensor, window: int) -> Tensor:
    """The mean over the window around every place, or what there is of it at the border."""
    half = window // 2
    columns = F.avg_pool2d(picture, (1, window), stride=1, padding=(0, half), count_include_pad=False)
    return F.avg_pool2d(columns, (window, 1), stride=1, padding=(half, 0), count_include_pad=False)


def _bands(rows: int, columns: int) -> Iterator[slice]:
    """Rows of cells whose patches are matched together: each band repeats the last two rows of the one before."""
    step = max(1, _BAND // columns)
    for start in range(0, rows - PATCH + 1, step):
        yield slice(start, min(rows, start + step + PATCH - 1))


class _Tile(NamedTuple):
    """Rows and columns of cells: those to be decoded, and those of them that no border of the tile distorts."""

    outer: tuple[slice, slice]
    inner: tuple[slice, slice]

    def paste(self, painted: Tensor, picture: Tensor) -> None:
        """Copies the inner part of what was decoded from the outer cells to its place in the picture."""
        (rows, columns), (top, left) = self.inner, (self.outer[0].start, self.outer[1].start)
        target = picture[..., _pixels(rows), _pixels(columns)]
        first_row, first_column = CELL * (rows.start - top), CELL * (columns.start - left)
        target.copy_(
            painted[..., first_row : first_row + target.shape[2], first_column : first_column + target.shape[3]]
        )


def _tiles(grid: tuple[int, int], feature2image: nn.Module) -> Iterator[_Tile]:
    """Overlapping tiles of a map of cells; one, where it is small."""
    stride: Any = feature2image.stride  # the deepest cells of a tile are those of the whole map
    margin = 4 * stride

    def spans(length: int) -> Iterator[tuple[slice, slice]]:
        count = -(-length // _TILE)
        step = -(-length // count // stride) * stride
        for start in range(0, length, step):
            stop = min(length, start + step)
            yield slice(max(0, start - margin), min(length, stop + margin)), slice(start, stop)

    for outer_rows, inner_rows in spans(grid[0]):
        for outer_columns, inner_columns in spans(grid[1]):
            yield _Tile((outer_rows, outer_columns), (inner_rows, inner_columns))


def _pixels(cells: slice) -> slice:
    return slice(CELL * cells.start, CELL * cells.stop)


def _check_picture(name: str, picture: Tensor, dimensions: tuple[int, ...]) -> None:
    if picture.dim() not in dimensions or picture.shape[-3] != 3 or not picture.is_floating_point():
        shapes = "(3, H, W) or (B, 3, H, W)" if 4 in dimensions else "(3, H, W)"
        raise InpaintError(
            f"{name}: expected a float tensor {shapes} with values in [0, 1], got {picture.dtype} "
            f"{tuple(picture.shape)}; convert it first"
        )
    if picture.numel() == 0:
        raise InpaintError(f"{name}: expected at least one pixel, got none; check how it was read")
    if not bool(((picture >= 0) & (picture <= 1)).all()):
        raise InpaintError(
            f"{name}: expected values in [0, 1], got {picture.min():.3g} to {picture.max():.3g}; "
            "divide 8-bit values by 255"
        )
