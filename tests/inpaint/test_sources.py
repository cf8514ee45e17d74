"""Where copies may come from: source, exclusion, variants, feather, and the picture that explains a filling."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import inpaint
from inpaint.cells import CELL, PATCH
from inpaint.errors import InpaintError
from inpaint.explanation import explain
from inpaint.feather import depth_in
from inpaint.holes import dilate_hole
from inpaint.inpainter import Inpainter
from inpaint.mask_sources import Rectangle
from inpaint.match_field import DIM
from inpaint.photo import read
from inpaint.recipe import NARROW, WIDE, Recipe
from inpaint.variants import bar_some
from inpaint.window import find_windows
from inpaint.work import Filled, Job, prepare

KINDS = ["thin", "medium", "specks", "frame", "scratch", "rectangles"]


def photograph(height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def a_hole(height: int = 96, width: int = 128, side: int = 24) -> np.ndarray:
    hole = np.zeros((height, width), bool)
    top, left = (height - side) // 2, (width - side) // 2
    hole[top : top + side, left : left + side] = True
    return hole


def left_half(height: int = 96, width: int = 128) -> np.ndarray:
    return np.tile(np.arange(width) < width // 2, (height, 1))


def copied(job: Job, filled: Filled) -> np.ndarray:
    """Pixels of the photograph from which any patch was copied at any scale: (H, W) bool."""
    found = np.zeros(job.hole.shape, bool)
    for kept in filled.kept:
        for scale in kept.scales:
            columns, factor = scale.match_index.shape[1], 1 << scale.level.halvings
            for index in scale.match_index[scale.match_index >= 0].unique().tolist():
                top, left = CELL * (index // columns), CELL * (index % columns)
                place = scale.level.part.moved(0, 0)
                bottom, right = (
                    min(start + PATCH * CELL, side) for start, side in zip((top, left), place.size, strict=True)
                )
                rows = slice(factor * (place.top + top), factor * (place.top + bottom))
                found[rows, factor * (place.left + left) : factor * (place.left + right)] = True
    return found


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(0, 999),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.001, 0.3]),
)
def test_no_key_holds_a_barred_or_unknown_pixel(make_hole, kind, height, width, seed, variant, share) -> None:
    hole = make_hole(kind, height, width, seed)
    barred = np.random.default_rng(seed).random((height, width)) < share
    for window in find_windows(hole, barred=barred, variant=variant):
        for level in window.levels:
            factor, part = 1 << level.halvings, level.part
            for row, column in np.argwhere(level.keys)[::7].tolist():
                top, left = part.top + CELL * row, part.left + CELL * column
                rows = slice(factor * top, factor * min(top + PATCH * CELL, part.bottom))
                columns = slice(factor * left, factor * min(left + PATCH * CELL, part.right))
                assert not (hole | barred)[rows, columns].any()
            assert level.queries.any() <= level.keys.any()


def test_without_a_choice_windows_are_the_same(make_hole) -> None:
    hole = make_hole("rectangles", 200, 300, 3)
    for plain, free in zip(find_windows(hole), find_windows(hole, barred=np.zeros_like(hole)), strict=True):
        assert plain.crop == free.crop
        for one, other in zip(plain.levels, free.levels, strict=True):
            assert np.array_equal(one.keys, other.keys) and np.array_equal(one.queries, other.queries)


def test_a_window_reaches_to_a_source_far_away() -> None:
    hole = np.zeros((200, 1200), bool)
    hole[90:110, 40:60] = True
    source = np.zeros_like(hole)
    source[20:180, 900:1100] = True
    (near,) = find_windows(hole)
    assert near.crop.right < 400
    (window,) = find_windows(hole, barred=~source)
    assert window.crop.right >= 1100 and window.levels[-1].keys.sum() > 1000
    (wide,) = find_windows(hole, barred=dilate_hole(source, 0))  # all but that: what is near is enough
    assert wide.crop == near.crop


@pytest.mark.parametrize("recipe", [NARROW, WIDE], ids=["narrow", "wide"])
def test_copies_come_from_the_source_and_never_from_what_is_excluded(networks, recipe: Recipe) -> None:
    chosen = Inpainter(networks, precision="float32", max_memory=2**33, recipe=recipe)
    image, hole, left = photograph(), a_hole(side=40), left_half()
    scales = [48, 96] if recipe is WIDE else None
    both = chosen.fill(prepare(image, hole, scales=scales), keep=True)
    assert copied(prepare(image, hole), both)[~left].any()
    for options, allowed in (({"source": left}, left), ({"exclude": left}, ~left)):
        job = prepare(image, hole, scales=scales, **options)
        filled = chosen.fill(job, keep=True)
        used = copied(job, filled)
        assert used.any() and not used[~allowed].any()
        assert np.array_equal(filled.picture.samples[~hole], image[~hole])
        assert not np.array_equal(filled.picture.samples, both.picture.samples)
    nothing = prepare(image, hole, scales=scales, exclude=np.zeros_like(hole))
    assert nothing.barred is None
    job = prepare(image, hole, scales=scales, source=~hole | hole)
    assert np.array_equal(chosen.fill(job).picture.samples, both.picture.samples)


def test_where_nothing_remains_to_copy_is_said() -> None:
    image, hole = photograph(), a_hole()
    small = np.zeros_like(hole)
    small[0:11, 0:11] = True
    for options in ({"source": small}, {"source": hole}, {"exclude": ~small}, {"source": small, "exclude": small}):
        with pytest.raises(InpaintError, match="nothing remains to copy: expected 12x12 known pixels"):
            prepare(image, hole, **options)
    small[0:12, 0:12] = True
    assert prepare(image, hole, source=small).barred.sum() == image[..., 0].size - 144
    with pytest.raises(InpaintError, match="the mask is 20x20, the photograph is 128x96"):
        prepare(image, hole, source=np.ones((20, 20), bool))


# Variants


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 999), st.booleans())
def test_a_variant_bars_about_half_and_leaves_something(make_hole, height, width, seed, is_barred) -> None:
    unknown = make_hole("rectangles", height, width, seed)
    barred = np.zeros_like(unknown) if is_barred else None
    some = bar_some(unknown, barred, (1, seed, 0))
    if some is not barred:
        assert 0 < some.mean() < 1
        assert find_windows(unknown, barred=some)[0].levels
    assert some is barred or not np.array_equal(some, bar_some(unknown, barred, (2, seed, 0))) or some.size < 10_000


def test_variants_differ_and_keep_what_is_known(networks) -> None:
    chosen = Inpainter(networks, precision="float32", max_memory=2**33, recipe=NARROW)
    image, hole = photograph(160, 160), a_hole(160, 160, 32)
    filled = [chosen.fill(prepare(image, hole, variant=number)).picture.samples for number in range(4)]
    for number, one in enumerate(filled):
        assert np.array_equal(one[~hole], image[~hole])
        for other in filled[:number]:
            assert (one[hole] != other[hole]).any(-1).mean() > 0.2
    again = chosen.fill(prepare(image, hole, variant=2)).picture.samples
    assert np.array_equal(again, filled[2])
    with pytest.raises(ValueError, match="variant -1"):
        prepare(image, hole, variant=-1)


def test_variants_of_the_default_weights_differ() -> None:
    rows, columns = np.mgrid[:128, :128]
    waves = 127 + 60 * np.sin(rows / 3) + 60 * np.sin(columns / (4 + rows / 64))
    noise = np.random.default_rng(0).normal(0, 8, (128, 128, 3))
    image = np.clip(waves[..., None] + noise, 0, 255).astype(np.uint8)
    hole = a_hole(128, 128, 32)
    chosen = inpaint.load(device="cpu", precision="float32")
    one, other = (chosen.fill(prepare(image, hole, variant=number)).picture.samples for number in (0, 1))
    assert (np.abs(one[hole].astype(int) - other[hole]).max(-1) > 4).mean() > 0.2


def test_where_nothing_is_copied_a_choice_of_sources_is_noted(networks) -> None:
    chosen = Inpainter(networks, precision="float32", max_memory=2**33)
    image, speck = photograph(), np.zeros((96, 128), bool)
    speck[40:43, 50:53] = True
    assert chosen.fill(prepare(image, speck)).notes == ()
    for options in ({"variant": 1}, {"exclude": left_half()}):
        (note,) = chosen.fill(prepare(image, speck, **options)).notes
        assert note.startswith("the holes are too small to be filled with copies")
        assert chosen.fill(prepare(image, a_hole(), **options)).notes == ()


def test_an_inpainter_takes_whatever_marks_a_hole(inpainter: Inpainter) -> None:
    image, hole = photograph(), np.zeros((96, 128), bool)
    hole[20:40, 30:60] = hole[50:60, 30:60] = True
    expected = inpainter(image, hole)
    assert np.array_equal(inpainter(image, [Rectangle(30, 20, 30, 20), Rectangle(30, 50, 30, 10)]), expected)
    assert np.array_equal(inpainter(image, [Rectangle(30, 20, 30, 20), hole]), expected)
    tensors = torch.rand(2, 3, 96, 128)
    box = Rectangle(1, 2, 5, 5)
    assert torch.equal(inpainter(tensors, box), inpainter(tensors, box.marked(read(image))))


# A bright object with a smooth rim


@pytest.mark.parametrize("quality", [None, 75])
def test_no_halo_of_a_bright_object_stays(quality) -> None:
    places = np.arange(128 * 8).reshape(-1, 1) / 8 - 64 + 1 / 16
    covered = (places**2 + places.T**2 < 20**2).reshape(128, 8, 128, 8).mean((1, 3))
    ground = np.random.default_rng(0).normal(60, 10, (128, 128, 3))
    image = np.round(np.clip(ground + covered[..., None] * (250 - ground), 0, 255)).astype(np.uint8)
    stream = io.BytesIO()
    mask = Image.fromarray(np.round(255 * covered).astype(np.uint8))
    mask.save(stream, "JPEG" if quality else "PNG", quality=quality or -1)
    chosen = inpaint.load(device="cpu", precision="float32")
    near = (covered > 0.05) & (covered < 0.5)  # half-covered, beyond the threshold

    def brightest(**options) -> float:
        filled = chosen.fill(prepare(image, stream.getvalue(), **options)).picture.samples
        return float(np.sort(filled[near].mean(1))[-10:].mean())

    assert brightest() < 100 < 110 < brightest(dilate=0)


# The feather


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 999), st.integers(1, 6))
def test_depth_counts_steps_to_the_nearest_known_pixel(make_hole, height, width, seed, most) -> None:
    hole = make_hole("rectangles", height, width, seed)
    known = np.argwhere(~hole)
    expected = np.zeros(hole.shape, int)
    for row, column in np.argwhere(hole).tolist():
        steps = np.abs(known - (row, column)).max(1).min() if len(known) else most + 1
        expected[row, column] = min(steps, most + 1)
    assert np.array_equal(depth_in(hole, most), expected)


def test_the_feather_mixes_in_equal_steps_inside_the_hole(inpainter: Inpainter) -> None:
    image, hole = photograph().astype(np.float32) / 255, a_hole()
    hole[10:14, 100:120] = True  # a second window
    plain = inpainter.fill(prepare(image, hole)).picture.samples
    mixed = inpainter.fill(prepare(image, hole, feather=3)).picture.samples
    assert np.array_equal(mixed[~hole], image[~hole])
    share = (np.minimum(depth_in(hole, 3), 4) / 4)[..., None]
    assert np.allclose(mixed[hole], (share * plain + (1 - share) * image)[hole], atol=1e-6)
    image[hole] = np.nan
    assert np.array_equal(inpainter.fill(prepare(image, hole, feather=3)).picture.samples[hole], plain[hole])
    with pytest.raises(ValueError, match="feather -1"):
        prepare(image, hole, feather=-1)


# The explanation


@pytest.mark.parametrize("scales", [None, [48]], ids=["at its own scale", "at half"])
def test_an_explanation_shows_what_was_copied_and_where_to(inpainter: Inpainter, scales) -> None:
    image, hole = photograph(), a_hole(side=24)
    hole[4:20, 108:124] = True
    job = prepare(image, hole, scales=scales)
    filled = inpainter.fill(job, keep=True)
    drawn = explain(job, filled)
    assert drawn.shape == (3, 96, 128) and drawn.dtype == torch.float32
    used = torch.from_numpy(copied(job, filled) & ~hole)
    colours = job.picture.colours(slice(None), slice(None))
    assert used.any() and torch.equal(drawn[:, used], colours[:, used])
    plain = torch.from_numpy(~copied(job, filled) & ~hole)
    assert plain.any() and torch.allclose(drawn[:, plain], (DIM * colours.mean(0))[plain].expand(3, -1))
    hole[:8] = hole[:, -8:] = False  # cells at the border are the middle of no patch
    assert drawn[:, torch.from_numpy(hole)].amax(0).min() > 0.9  # colours of the match field


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 90), st.integers(2, 90), st.integers(0, 999))
def test_an_explanation_has_the_size_of_the_photograph(inpainter, make_hole, kind, height, width, seed) -> None:
    job = prepare(photograph(height, width), make_hole(kind, height, width, seed), may_be_empty=True)
    drawn = explain(job, inpainter.fill(job, keep=True))
    assert drawn.shape == (3, height, width) and drawn.min() >= 0 and drawn.max() <= 1
