"""Outlines from JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inpaint.errors import InpaintError
from inpaint.holes import read_hole
from inpaint.polygons import inside

SQUARE = [[10, 5], [20, 5], [20, 15], [10, 15]]
SIZE = (24, 32)


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    hole = np.zeros(SIZE, bool)
    hole[top:bottom, left:right] = True
    return hole


def written(tmp_path: Path, document: Any) -> Path:
    path = tmp_path / "mask.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def labelme(*shapes: dict[str, Any], height: int = 24, width: int = 32) -> dict[str, Any]:
    return {"imageHeight": height, "imageWidth": width, "shapes": list(shapes)}


def coco(*segmentations: Any, image_id: int = 7) -> dict[str, Any]:
    images = [{"id": 7, "file_name": "folder/photo.jpg", "height": 24, "width": 32}]
    return {"images": images, "annotations": [{"image_id": image_id, "segmentation": each} for each in segmentations]}


def reference(outline: list[tuple[float, float]], size: tuple[int, int]) -> np.ndarray:
    """The even-odd rule, pixel by pixel."""
    hole = np.zeros(size, bool)
    for row, column in np.ndindex(size):
        x, y = column + 0.5, row + 0.5
        for (x0, y0), (x1, y1) in zip(outline, [*outline[1:], outline[0]], strict=True):
            if (y0 <= y) != (y1 <= y) and x >= x0 + (y - y0) * (x1 - x0) / (y1 - y0):
                hole[row, column] ^= True
    return hole


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-40, 100), st.integers(-40, 100)), min_size=2, max_size=8),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_inside_is_the_even_odd_rule(corners, height, width) -> None:
    outline = [(x / 7 + 0.01, y / 7 + 0.013) for x, y in corners]  # no middle of a pixel on an edge, up to rounding
    assert np.array_equal(inside(np.array(outline), (height, width)), reference(outline, (height, width)))


def test_labelme(tmp_path: Path) -> None:
    path = written(tmp_path, labelme({"points": SQUARE, "shape_type": "polygon"}))
    assert np.array_equal(read_hole(path, size=SIZE), box(5, 10, 15, 20))
    assert np.array_equal(read_hole(str(path), size=SIZE, invert=True), ~box(5, 10, 15, 20))
    assert np.array_equal(read_hole(path, size=SIZE, dilate=2), box(3, 8, 17, 22))
    two = labelme({"points": SQUARE}, {"points": [[0, 0], [3, 2]], "shape_type": "rectangle"})
    assert np.array_equal(read_hole(written(tmp_path, two), size=SIZE), box(5, 10, 15, 20) | box(0, 0, 2, 3))
    circle = labelme({"points": [[16, 12], [16, 20]], "shape_type": "circle"})
    rows, columns = np.mgrid[:24, :32] + 0.5
    assert np.array_equal(read_hole(written(tmp_path, circle), size=SIZE), np.hypot(rows - 12, columns - 16) < 8)


def test_coco_polygons_and_run_lengths(tmp_path: Path) -> None:
    flat = [sum(SQUARE, [])]
    assert np.array_equal(read_hole(written(tmp_path, coco(flat)), size=SIZE), box(5, 10, 15, 20))
    runs = [10 * 24 + 5, 10, *[14, 10] * 9, 9 + 12 * 24]
    for counts in (runs, compressed(runs)):
        path = written(tmp_path, coco({"size": [24, 32], "counts": counts}))
        assert np.array_equal(read_hole(path, size=SIZE), box(5, 10, 15, 20))
    other = written(tmp_path, coco(flat, image_id=8))
    assert not read_hole(other, size=SIZE).any()


def compressed(runs: list[int]) -> str:
    """The text that COCO's own tools write (maskApi.c, rleToString)."""
    text = ""
    for number, run in enumerate(runs):
        value = run - runs[number - 2] if number > 2 else run
        while True:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
            if not more:
                break
    return text


def test_the_name_of_the_photograph_chooses_in_a_file_of_several(tmp_path: Path) -> None:
    from inpaint.holes import find_hole

    document = coco([sum(SQUARE, [])])
    document["images"].append({"id": 8, "file_name": "other.jpg", "height": 9, "width": 9})
    path = written(tmp_path, document)
    assert find_hole(path, size=SIZE, photograph_name="/there/photo.jpg").hole.sum() == 100
    with pytest.raises(InpaintError, match="has 2 pictures: expected one called new.jpg, got 0"):
        find_hole(path, size=SIZE, photograph_name="new.jpg")


def test_outlines_of_another_size(tmp_path: Path) -> None:
    path = written(tmp_path, labelme({"points": SQUARE}))
    with pytest.raises(InpaintError, match="drawn on a picture of 32x24, the photograph is 64x48"):
        read_hole(path, size=(48, 64))
    hole = read_hole(path, size=(48, 64), resize=True)
    assert np.array_equal(hole, np.kron(box(5, 10, 15, 20), np.ones((2, 2), bool)))
    runs = written(tmp_path, coco({"size": [24, 32], "counts": [0, 24 * 16, 24 * 16]}))
    assert np.array_equal(read_hole(runs, size=(12, 16), resize=True)[0], np.arange(16) < 8)


@pytest.mark.parametrize(
    "document",
    [
        "no json",
        "[]",
        "{}",
        "[" * 100_000,
        labelme({"points": [[1, 2]]}),
        labelme({"points": [[1, "a"], [2, 3]]}),
        labelme({"points": SQUARE, "shape_type": "linestrip"}),
        labelme({"points": [[float("nan"), 1], [2, 3], [4, 4]]}),
        labelme({"points": [[float("inf"), 1], [2, 3], [4, 4]]}),
        labelme({"points": SQUARE}, height=0),
        labelme(height="high"),  # type: ignore[arg-type]
        {"shapes": 3, "imageHeight": 24, "imageWidth": 32},
        {"shapes": []},
        {"annotations": []},
        {"annotations": [], "images": 7},
        coco([[1, 2, 3]]),
        coco("text"),
        coco({"size": [24, 32], "counts": [1, 2]}),
        coco({"size": [24, 32], "counts": [-1, 1 + 24 * 32]}),
        coco({"size": [24, 31], "counts": [24 * 31]}),
        coco({"size": [24, 32], "counts": "\u00ff\u00ff"}),
        coco({"counts": []}),
    ],
    ids=lambda document: str(document)[:50],
)
def test_other_files_are_refused(tmp_path: Path, document: Any) -> None:
    with pytest.raises(InpaintError, match="mask.json: expected COCO"):
        read_hole(written(tmp_path, document), size=SIZE)


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InpaintError, match="no such file"):
        read_hole(tmp_path / "absent.json", size=SIZE)
    (tmp_path / "binary.json").write_bytes(b"\xff\x00\xfe")
    with pytest.raises(InpaintError, match="expected COCO"):
        read_hole(tmp_path / "binary.json", size=SIZE)
    with pytest.raises(InpaintError, match="expected the photograph's size"):
        read_hole(tmp_path / "absent.json", size=None)


@pytest.mark.parametrize("resize", [False, True])
def test_a_short_file_cannot_ask_for_much_memory(tmp_path: Path, resize: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No outline is drawn before sizes are compared."""
    side = 2**20
    document = coco({"size": [side, side], "counts": [5, side * side - 5]})
    document["images"][0] |= {"height": side, "width": side}

    def refuse(*_: Any) -> Any:
        raise AssertionError("drawn")

    monkeypatch.setattr("inpaint.polygons._from_run_lengths", refuse)
    with pytest.raises(InpaintError, match=f"drawn on a picture of {side}x{side}"):
        read_hole(written(tmp_path, document), size=SIZE, resize=resize)
