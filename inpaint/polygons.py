"""Holes from outlines: the JSON files of labelme, and of COCO with polygons or run lengths.

A pixel is hole where its middle lies inside an outline. The pixel in column x and row y has its middle at
(x + 0.5, y + 0.5).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from inpaint.codec import name_of, reason
from inpaint.errors import InpaintError

MOST_PIXELS = 1_000_000_000  # of the picture that outlines to be stretched were drawn on
FORMS = 'COCO ("annotations" with "segmentation") or labelme ("shapes" with "points")'


def is_polygon_file(mask: Any) -> bool:
    """Whether it is a path, or a stream with a name, that ends in .json."""
    name = mask if isinstance(mask, str | os.PathLike) else getattr(mask, "name", None)
    return isinstance(name, str | os.PathLike) and PurePath(name).suffix.lower() == ".json"


def read_polygons(file: Any, *, size: tuple[int, int], photograph: str = "", resize: bool = False) -> np.ndarray:
    """The union of all outlines of a file: (H, W) bool.

    Args:
        file: its path, or a binary stream.
        size: (height, width) of the photograph as displayed.
        photograph: its file's name, which chooses the annotations where a COCO file has several pictures.
        resize: stretch outlines that were drawn on a picture of another size.

    Raises:
        InpaintError: not such a file, no outline, or outlines of a picture of another size.
    """
    path = name_of(file, "the outlines")
    document = _read(file, path)
    hole = np.zeros(size, bool)
    try:
        drawn_on, outlines = _of_labelme(document) if "shapes" in document else _of_coco(document, path, photograph)
        _check_size(path, drawn_on, size, resize)  # before any outline is drawn: a short file can name any size
        for outline in outlines:
            hole |= _drawn(outline, drawn_on, size)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _unfit(path, f"{type(error).__name__}: {error}") from error
    return hole


def _check_size(path: str, drawn_on: tuple[int, int], size: tuple[int, int], resize: bool) -> None:
    if drawn_on != size and not resize:
        raise InpaintError(
            f"{path} was drawn on a picture of {drawn_on[1]}x{drawn_on[0]}, the photograph is {size[1]}x{size[0]} "
            "(width x height, as displayed); choose the photograph it belongs to, or stretch it with --resize-mask"
        )
    if drawn_on != size and drawn_on[0] * drawn_on[1] > MOST_PIXELS:
        raise InpaintError(
            f"{path} was drawn on a picture of {drawn_on[1]}x{drawn_on[0]}: expected at most {MOST_PIXELS // 10**6} "
            "megapixels; correct the size in the file"
        )


def _drawn(outline: np.ndarray, drawn_on: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """An outline, or its pixels as bool, on a picture of another size."""
    if outline.dtype != bool:
        return inside(outline * (size[1] / drawn_on[1], size[0] / drawn_on[0]), size)
    rows, columns = (np.arange(length) * old // length for length, old in zip(size, outline.shape, strict=True))
    return outline[rows][:, columns]


def inside(outline: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels whose middle lies inside an outline, by the even-odd rule: (H, W) bool.

    Args:
        outline: (N, 2) x and y of its corners; the last is joined to the first.
        size: (height, width).
    """
    height, width = size
    starts, ends = outline, np.roll(outline, -1, axis=0)
    crossings = np.zeros((height, width + 1), np.int32)  # edges that cross a row just left of a pixel's middle
    for (x, y), (other_x, other_y) in zip(starts, ends, strict=True):
        (low, low_x), (high, high_x) = sorted([(y, x), (other_y, other_x)])
        first, last = (int(np.clip(math.ceil(end - 0.5), 0, height)) for end in (low, high))
        if first == last:
            continue
        rows = np.arange(first, last)
        at = low_x + (rows + 0.5 - low) * ((high_x - low_x) / (high - low))
        crossings[rows, np.clip(np.ceil(at - 0.5), 0, width).astype(int)] += 1
    return np.cumsum(crossings[:, :-1], axis=1) % 2 == 1


def _read(file: Any, path: str) -> dict[str, Any]:
    try:
        document = json.loads(file.read() if hasattr(file, "read") else Path(file).read_bytes())
    except OSError as error:
        raise InpaintError(f"cannot read {path}: {reason(error)}; check the name and the permissions") from error
    except (ValueError, RecursionError) as error:
        raise _unfit(path, str(error)) from error
    if not isinstance(document, dict) or not {"shapes", "annotations", "segmentation"} & set(document):
        raise _unfit(path, "neither of them")
    return document


def _of_labelme(document: dict[str, Any]) -> tuple[tuple[int, int], Iterator[np.ndarray]]:
    size = _size(document["imageHeight"], document["imageWidth"])
    return size, (_labelme_outline(shape) for shape in document["shapes"])


def _labelme_outline(shape: dict[str, Any]) -> np.ndarray:
    kind, points = shape.get("shape_type", "polygon"), _points(shape["points"])
    if kind == "polygon":
        return points
    (x, y), (other_x, other_y) = points
    if kind == "rectangle":
        return np.array([(x, y), (other_x, y), (other_x, other_y), (x, other_y)])
    if kind == "circle":  # its middle, and a point on it
        turns = np.linspace(0, 2 * np.pi, 360, endpoint=False)
        radius = math.hypot(other_x - x, other_y - y)
        return np.stack([x + radius * np.cos(turns), y + radius * np.sin(turns)], axis=1)
    raise ValueError(f"shapes of type {kind} have no inside")


def _of_coco(document: dict[str, Any], path: str, photograph: str) -> tuple[tuple[int, int], Iterator[np.ndarray]]:
    images = document["images"]
    if len(images) > 1:
        images = [image for image in images if PurePath(image["file_name"]).name == PurePath(photograph).name]
    if len(images) != 1:
        raise InpaintError(
            f"{path} has {len(document['images'])} pictures: expected one called {PurePath(photograph).name or '?'}, "
            f"got {len(images)}; give the photograph the name it has in the file"
        )
    (image,) = images
    size = _size(image["height"], image["width"])
    segmentations = [each["segmentation"] for each in document["annotations"] if each["image_id"] == image["id"]]
    return size, (outline for each in segmentations for outline in _coco_outlines(each, size))


def _coco_outlines(segmentation: Any, size: tuple[int, int]) -> Iterator[np.ndarray]:
    if isinstance(segmentation, dict):
        if tuple(segmentation["size"]) != size:
            raise ValueError(f"run lengths of a picture of size {segmentation['size']}")
        yield _from_run_lengths(segmentation["counts"], size)
    else:
        yield from (_points(np.reshape(polygon, (-1, 2))) for polygon in segmentation)


def _from_run_lengths(counts: Any, size: tuple[int, int]) -> np.ndarray:
    """Runs of 0 and of 1 in turn, down the columns: a list, or COCO's text of it."""
    runs = np.array(_decoded(counts) if isinstance(counts, str) else counts, np.int64)
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != size[0] * size[1]:
        raise ValueError("run lengths that do not add up to the picture")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[1], size[0]).T


def _decoded(text: str) -> list[int]:
    """COCO's text: numbers of five bits a character, low ones first, from the fourth on less the one two before."""
    runs: list[int] = []
    place = value = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << place
        place += 5
        if bits & 32:
            continue
        if bits & 16:  # negative
            value -= 1 << place
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        place = value = 0
    return runs


def _points(points: Any) -> np.ndarray:
    array = np.array(points, float)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) < 2 or not (np.abs(array) < 1e9).all():
        raise ValueError("expected corners as pairs of numbers")
    return array


def _size(height: Any, width: Any) -> tuple[int, int]:
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise ValueError(f"a picture of size {width}x{height}")
    return height, width


def _unfit(path: str, problem: str) -> InpaintError:
    return InpaintError(f"cannot read {path}: expected {FORMS}, got {problem}; export it again in one of these forms")
