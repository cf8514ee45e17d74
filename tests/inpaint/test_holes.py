from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from PIL import ExifTags, Image

from inpaint.errors import InpaintError
from inpaint.holes import RIM, check_hole, check_transparency, dilate_hole, find_hole, read_hole, refuse_empty
from inpaint.photo import read


def some_hole(height: int, width: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width)) < 0.3


def read_any(mask, **options) -> np.ndarray:
    """By the threshold alone, where no test says otherwise."""
    hole = read_hole(mask, size=None, **{"dilate": 0, **options})
    assert hole.dtype == bool and hole.ndim == 2
    return hole


def mask_file(tmp_path: Path, pixels: np.ndarray, name: str = "mask.png") -> Path:
    Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path / name


# The definition


def test_white_is_hole_and_the_threshold_is_exclusive(tmp_path):
    path = mask_file(tmp_path, np.array([[0, 127, 128, 255]], dtype=np.uint8))
    assert read_any(path).tolist() == [[False, False, True, True]]
    assert read_any(path, threshold=0).tolist() == [[False, True, True, True]]
    assert read_any(path, threshold=0.51).tolist() == [[False, False, False, True]]
    assert read_any(path, threshold=128 / 255).tolist() == [[False, False, False, True]]
    assert read_any(path, invert=True).tolist() == [[True, True, False, False]]
    for threshold in (-0.1, 1.0):
        with pytest.raises(ValueError, match="threshold"):
            read_any(path, threshold=threshold)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[False, True]]), [[False, True]]),
        (np.array([[0, 127, 128]], np.uint8), [[False, False, True]]),
        (np.array([[0, 32767, 32768]], np.uint16), [[False, False, True]]),
        (np.array([[0, 0.5, 0.51]], np.float16), [[False, False, True]]),
        (np.array([[0, 0.5, 1.0]], np.float32), [[False, False, True]]),
        (np.array([[0, 0.5, 255.0]], np.float64), [[False, False, True]]),
        (np.array([[0, 1]], np.int32), [[False, True]]),  # a share of the largest value that is there
        (np.array([[0, 127, 255]], np.int64), [[False, False, True]]),
        (np.array([[-1, 0, 1]], np.int8), [[False, False, True]]),
        (np.array([[0, 1]], np.uint32), [[False, True]]),
        (np.array([[0, 0]], np.int64), [[False, False]]),
    ],
)
def test_white_of_each_type(values, expected):
    assert read_any(values).tolist() == expected
    assert read_any(values.astype(values.dtype.newbyteorder(">"))).tolist() == expected
    assert read_any(torch.from_numpy(values)).tolist() == expected


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_a_mask_reads_the_same_in_every_mode(tmp_path, mode):
    expected = some_hole(9, 14)
    white = expected.astype(np.uint8) * 255
    deep = Image.fromarray(white.astype(np.uint16) * 257)
    image = deep if mode == "I;16" else Image.fromarray(white).convert(mode)
    image.save(tmp_path / "mask.png")
    for mask in (tmp_path / "mask.png", image):
        assert np.array_equal(read_any(mask), expected)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize("white", [1, 255])
def test_tiff_masks_of_32_bits(tmp_path, dtype, white):
    hole = some_hole(9, 14)
    image = Image.fromarray(hole.astype(dtype) * dtype(white))
    image.save(tmp_path / "mask.tif")
    for mask in (tmp_path / "mask.tif", image):
        assert np.array_equal(read_any(mask), hole)


@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_is_no_obstacle_for_a_mask(tmp_path, channels):
    cv2 = pytest.importorskip("cv2")
    hole = some_hole(5, 7)
    deep = np.full((5, 7, channels), 65535, np.uint16)
    deep[~hole, :3] = 0
    content = cv2.imencode(".png", deep)[1].tobytes()
    assert np.array_equal(read_any(content), hole)
    assert np.array_equal(read_any(deep), hole)


def test_colour_counts_by_luminance():
    pixels = 255 * np.eye(3, dtype=np.uint8)[None]
    assert read_any(Image.fromarray(pixels)).tolist() == [[False, True, False]]
    assert read_any(pixels).tolist() == [[False, True, False]]
    assert read_any(pixels, threshold=0.2).tolist() == [[True, True, False]]


@settings(max_examples=80, deadline=None)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    channels=st.sampled_from([None, 1, 3]),
    threshold=st.sampled_from([0, 0.25, 100 / 255, 0.5, 0.9]),
    invert=st.booleans(),
    dilate=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_one_mask_gives_one_hole_in_whatever_form(height, width, channels, threshold, invert, dilate, seed):
    """File, bytes, stream, PIL image, array and tensor, of 8 and 16 bits and as floats, by one definition."""
    generator = np.random.default_rng(seed)
    shape = (height, width) if channels is None else (height, width, channels)
    pixels = generator.choice(np.array([0, 63, 64, 100, 101, 127, 128, 255], np.uint8), shape)
    pixels.flat[-1 if channels is None else slice(-channels, None)] = 255
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    masks = [stream.getvalue(), io.BytesIO(stream.getvalue()), image, pixels, pixels.astype(np.uint16) * 257]
    masks += [pixels / 255, np.asfortranarray(pixels), pixels.astype(np.int32)]
    if channels is None:
        tensors = [torch.from_numpy(values) for values in (pixels, pixels / 255, pixels.astype(np.int64))]
        masks += tensors + [tensor[None] for tensor in tensors] + [each[..., None] for each in tensors if height > 1]
    options = {"threshold": threshold, "invert": invert, "dilate": dilate}
    grey = pixels.reshape(height, width, -1).astype(float) / 255
    luminance = grey @ (0.299, 0.587, 0.114) if channels == 3 else grey[..., 0]
    assume(channels != 3 or (np.abs(luminance - threshold) > 1e-9).all())  # this luminance has errors of rounding
    expected = read_hole((luminance > threshold) ^ invert, size=(height, width), dilate=dilate)
    for mask in masks:
        assert np.array_equal(read_hole(mask, size=(height, width), **options), expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float16, torch.bfloat16, torch.float64, torch.int16])
def test_tensors_of_other_types(dtype):
    hole = torch.from_numpy(some_hole(6, 7))
    mask = hole.to(dtype)
    if dtype.is_floating_point:
        mask.requires_grad_()
    for form in (mask, mask[None], mask[..., None], mask.T.contiguous().T):
        assert np.array_equal(read_any(form), hole.numpy())


@pytest.mark.gpu
def test_tensors_on_a_gpu():
    hole = torch.from_numpy(some_hole(6, 7))
    assert np.array_equal(read_any(hole.cuda()), hole.numpy())


# Transparency


def forms(pixels: np.ndarray) -> list:
    """A picture with alpha in the forms that must agree."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    deep = pixels.astype(np.uint16) * 257
    return [stream.getvalue(), Image.fromarray(pixels), pixels, deep, pixels.astype(np.float32) / 255]


@pytest.mark.parametrize("ground", [(0, 0, 0), (255, 255, 255)])
def test_bright_strokes_on_a_transparent_ground_are_the_hole(ground):
    hole = some_hole(6, 7)
    pixels = np.zeros((6, 7, 4), dtype=np.uint8)
    pixels[..., :3] = ground
    pixels[hole] = 255
    for mask in forms(pixels):
        assert np.array_equal(read_any(mask), hole)
    for mask in forms(pixels[..., 2:]):
        assert np.array_equal(read_any(mask), hole)
    pixels[hole, 3] = 100  # less than half opaque
    for mask in forms(pixels):
        assert not read_any(mask).any()
        assert np.array_equal(read_any(mask, threshold=0.3), hole)


def test_one_colour_may_vary_by_the_errors_of_rounding():
    pixels = np.zeros((6, 7, 4), dtype=np.uint8)
    pixels[:, :4] = (200, 208, 200, 255)
    pixels[2, 2, 1] = 200
    for mask in forms(pixels):
        assert read_any(mask).sum() == 24
    pixels[2, 2, 1] = 199
    for mask in forms(pixels):
        with pytest.raises(InpaintError, match="flatten"):
            read_any(mask)


def test_transparency_that_contradicts_the_colours_is_refused():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, 4), dtype=np.uint8)
    for mask in forms(pixels):
        with pytest.raises(InpaintError, match="the mask has transparent pixels.*flatten"):
            read_any(mask)  # a photograph with its hole erased
        with pytest.raises(InpaintError, match="erased, fill it with --mask-from-alpha"):
            read_any(mask)


@pytest.mark.parametrize("colour", [(0, 0, 0), (200, 0, 0), (90, 90, 90)])
def test_dark_strokes_on_a_transparent_ground_are_the_hole_and_that_is_said(colour):
    hole = some_hole(6, 7)
    pixels = np.zeros((6, 7, 4), dtype=np.uint8)
    pixels[hole] = (*colour, 255)
    for mask in forms(pixels):
        found = find_hole(mask, size=None)
        assert np.array_equal(found.hole, hole)
        assert found.notes == ("the mask is dark on a transparent ground: what is opaque is the hole",)
    pixels[hole] = 255
    assert find_hole(pixels, size=None).notes == ()


def test_opaque_alpha_says_nothing():
    hole = some_hole(6, 7)
    pixels = np.full((6, 7, 4), 255, np.uint8)
    pixels[~hole, :3] = 0
    for mask in forms(pixels):
        assert np.array_equal(read_any(mask), hole)


# Size and orientation


def test_a_mask_of_another_size_names_both_sizes(tmp_path):
    path = mask_file(tmp_path, np.zeros((6, 8), dtype=np.uint8))
    assert read_hole(path, size=(6, 8)).shape == (6, 8)
    with pytest.raises(InpaintError, match=r"mask.png is 8x6, the photograph is 9x6"):
        read_hole(path, size=(6, 9))
    with pytest.raises(InpaintError, match=r"8x6 \(turned by 90 degrees\?\), the photograph is 6x8"):
        read_hole(path, size=(8, 6))
    for mask in (np.zeros((6, 8)), torch.zeros(1, 6, 8), Image.new("L", (8, 6))):
        with pytest.raises(InpaintError, match=r"the mask is 8x6 \(turned by 90 degrees\?\), the photograph is 6x8"):
            read_hole(mask, size=(8, 6))


def test_a_mask_is_turned_upright_like_a_photograph(tmp_path):
    pixels = np.zeros((4, 6), dtype=np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(pixels).save(tmp_path / "mask.png", exif=exif)
    with Image.open(tmp_path / "mask.png") as opened:
        for mask in (tmp_path / "mask.png", opened):
            hole = read_hole(mask, size=(6, 4))
            assert np.argwhere(hole).tolist() == [[0, 3]]


# What is refused


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(2, 6, 8), r"got \(2, 6, 8\); move the channels to the end"),
        (np.zeros((1, 6, 8)), r"got \(1, 6, 8\); move the channels to the end"),
        (np.zeros((6, 8, 5)), r"got \(6, 8, 5\); give one picture"),
        (np.zeros((0, 8)), "at least one pixel"),
        (np.zeros(8), r"expected an array \(H, W\)"),
        (np.zeros((6, 8), complex), "expected bool, integers or floats, got complex128"),
        (np.zeros((6, 8), object), "expected bool, integers or floats, got object"),
        (np.full((6, 8), np.nan), "expected numbers, got NaN"),
        (np.full((6, 8), np.inf), "expected numbers, got infinity"),
        (b"hello", "cannot read the mask: expected a PNG"),
        (None, "cannot read the mask: expected a path, bytes, .* got NoneType"),
        (Image.new("CMYK", (8, 6)), "cannot read the mask: .* its mode is CMYK; convert it"),
    ],
)
def test_other_masks_are_named(mask, message):
    with pytest.raises(InpaintError, match=message):
        read_any(mask)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("value", [1, 76, 255])
def test_zero_and_one_other_value_are_black_and_white(dtype, value):
    hole = some_hole(6, 7)
    labels = hole.astype(dtype) * dtype(value)
    for mask in (labels, torch.from_numpy(labels), Image.fromarray(labels)):
        for invert in (False, True):
            found = find_hole(mask, size=None, invert=invert)
            assert np.array_equal(found.hole, hole ^ invert)
            is_plain = value == np.iinfo(dtype).max
            note = f"the mask holds 0 and {value} alone: {value} is taken for the hole"
            assert found.notes == (() if is_plain else (note,))
        if value == 1:
            assert not read_any(mask, threshold=0.5).any()  # who gives a threshold is taken at their word
        assert np.array_equal(read_any(mask, threshold=0), hole)
    assert not read_any(np.zeros((6, 7), dtype)).any()  # black is an empty hole, not a label image


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_labels_are_told_from_black_and_white(dtype, white):
    labels = np.random.default_rng(0).integers(0, 4, (6, 7)).astype(dtype)
    for mask in (labels, torch.from_numpy(labels), Image.fromarray(labels)):
        for invert in (False, True):
            with pytest.raises(
                InpaintError, match=f"brightest value is 3 of {white}: a label image\\? use a threshold of 0.*--label"
            ):
                read_any(mask, invert=invert)
        assert np.array_equal(read_any(mask, threshold=0), labels > 0)
    assert not read_any(np.full((6, 7), 0.3)).any()  # a map of low probabilities


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint32])
def test_labels_of_other_integers_are_told_by_their_size(dtype):
    labels = np.random.default_rng(0).integers(0, 4, (6, 7)).astype(dtype)
    with pytest.raises(InpaintError, match="holds integers from 0 to 3: a label image.*--label"):
        read_any(labels)
    assert np.array_equal(read_any(labels, threshold=0), labels > 0)
    assert np.array_equal(read_any(labels // 3 * 3), labels == 3)  # 0 and one other value


def test_a_palette_of_two_colours_is_black_and_white(tmp_path):
    image = Image.fromarray(some_hole(6, 7).astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 128, 0, 0])  # background and aeroplane of PASCAL VOC
    image.save(tmp_path / "mask.png")
    assert np.array_equal(read_any(tmp_path / "mask.png"), some_hole(6, 7))


def test_a_palette_of_labels_is_named(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 3, (6, 7)).astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 0, 128])
    image.save(tmp_path / "mask.png")
    with pytest.raises(InpaintError, match="mask.png has no pixel above .* brightest value is 38 of 255: a label"):
        read_any(tmp_path / "mask.png")


def test_what_may_not_be_a_mask_is_noted():
    labels = np.zeros((60, 70), np.uint8)
    labels[10:20, 10:20], labels[20, 10:30] = 15, 255  # PASCAL VOC draws 255 around its objects
    assert find_hole(labels, size=None).notes == (
        "the mask holds values up to 15, and 255, which is the hole; for labels, use --label",
    )
    coloured = np.zeros((60, 70, 3), np.uint8)
    coloured[10:20, 10:20], coloured[30:40, 10:20] = (255, 0, 0), (255, 255, 0)
    (note,) = find_hole(coloured, size=None).notes
    assert note.startswith("the mask is coloured, and its brightness decides") and "--mask-colour" in note
    grey = np.random.default_rng(0).integers(0, 256, (60, 70), np.uint8)
    assert find_hole(grey, size=None).notes == (
        "most of the mask is neither black nor white: it may be a picture, and no mask",
    )


@pytest.mark.parametrize("largest", [1.0, 3.5, 255.0, 65535.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_count_by_the_share_of_the_largest(dtype, largest):
    shares = np.linspace(0, 1, 42).reshape(6, 7)
    assert np.array_equal(read_any((shares * largest).astype(dtype)), shares > 0.5)


# Soft rims


def disc(size: int = 64, radius: float = 18, scale: int = 8) -> np.ndarray:
    """The share of every pixel that a disc covers: (size, size) floats."""
    places = (np.arange(size * scale) + 0.5) / scale - size / 2
    inside = places[:, None] ** 2 + places**2 < radius**2
    return inside.reshape(size, scale, size, scale).mean((1, 3))


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("quality", [None, 95, 75])
def test_a_pixel_that_a_smooth_mask_covers_in_part_is_hole(quality, invert):
    covered = disc()
    pixels = np.round(255 * (1 - covered if invert else covered)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG" if quality else "PNG", **({"quality": quality} if quality else {}))
    hole = read_hole(stream.getvalue(), size=(64, 64), invert=invert)
    least = 0.05 if quality else 1 / 63
    assert hole[covered > least].all()
    assert not hole[~dilate_hole(covered > 0, 2)].any()
    by_threshold = read_hole(stream.getvalue(), size=(64, 64), invert=invert, dilate=0)
    assert not by_threshold[(covered > 0.1) & (covered < 0.4)].any()  # the threshold alone leaves the rim


def test_a_wide_soft_brush_grows_by_the_rim_alone():
    ramp = np.tile(np.linspace(0, 1, 101), (20, 1))
    assert read_hole(ramp, size=None).sum(1).tolist() == [50 + RIM] * 20
    for options in ({"threshold": 0.5}, {"dilate": 0}):
        assert read_hole(ramp, size=None, **options).sum(1).tolist() == [50] * 20


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 999), st.booleans(), st.sampled_from([None, 0, 1, 3]))
def test_black_and_white_have_no_rim(height, width, seed, invert, dilate):
    hole = some_hole(height, width, seed)
    expected = dilate_hole(~hole if invert else hole, dilate or 0)
    for mask in (hole, hole.astype(np.uint8) * 255, hole.astype(np.float32), Image.fromarray(hole)):
        assert np.array_equal(read_hole(mask, size=None, invert=invert, dilate=dilate), expected)


# Stretching


def test_a_mask_is_stretched_where_that_is_asked_for():
    hole = np.zeros((20, 30), bool)
    hole[5:10, 10:20] = True
    found = find_hole(hole, size=(40, 60), dilate=0, resize=True)
    assert np.array_equal(found.hole, np.kron(hole, np.ones((2, 2), bool)))
    assert found.notes == ("the mask is stretched from 30x20 to 60x40",)
    assert "which changes its shape" in find_hole(hole, size=(40, 30), resize=True).notes[0]
    assert find_hole(hole, size=(20, 30), resize=True).notes == ()
    small = find_hole(hole.astype(np.uint8), size=(10, 15), resize=True)  # 0 and 1
    assert small.hole[3:5, 5:10].all() and small.hole.sum() < 40


# The photograph as its mask


def test_a_copy_of_the_photograph_is_no_mask(tmp_path):
    generator = np.random.default_rng(0)
    small = Image.fromarray(generator.integers(0, 256, (6, 8, 3), np.uint8))
    photograph = read(small.resize((80, 60), Image.Resampling.BICUBIC))
    image = Image.fromarray(photograph.samples)
    image.save(tmp_path / "copy.jpg", quality=70)
    for mask in (photograph.samples, image, image.convert("L"), tmp_path / "copy.jpg"):
        with pytest.raises(InpaintError, match="is a copy of the photograph"):
            find_hole(mask, size=(60, 80), photograph=photograph)
    soft = np.round(255 * disc(60)).astype(np.uint8)
    hole = np.hstack([soft, np.zeros((60, 20), np.uint8)])
    assert find_hole(hole, size=(60, 80), photograph=photograph).hole.any()
    text = np.where(generator.random((60, 80)) < 0.1, 255, 0).astype(np.uint8)  # white on black, and all of it the hole
    assert np.array_equal(find_hole(text, size=(60, 80), photograph=read(text)).hole, text > 0)


ANY_SHAPE = st.lists(st.integers(0, 6), min_size=0, max_size=4).map(tuple)
INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
ANY_DTYPE = st.sampled_from(["bool", *INTEGERS, "float16", "float32", "float64"])


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(ANY_DTYPE, ANY_SHAPE).flatmap(lambda kind: numpy_strategies.arrays(*kind)),
    st.sampled_from([None, (3, 4), (6, 6)]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 0, 0.5]),
)
def test_whatever_array_comes_gives_a_hole_or_one_line(array, size, invert, resize, threshold):
    before = array.copy()
    try:
        found = find_hole(array, size=size, invert=invert, resize=resize, threshold=threshold)
    except InpaintError as error:
        assert "\n" not in str(error) and len(str(error)) > 20
    else:
        assert found.hole.dtype == bool and found.hole.shape == (size or array.shape[:2])
    assert np.array_equal(array, before, equal_nan=array.dtype.kind == "f")


# Growing


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 12), width=st.integers(1, 12), pixels=st.integers(0, 15), seed=st.integers(0, 1000))
def test_dilation_is_a_square_around_every_hole_pixel(height, width, pixels, seed):
    hole = np.random.default_rng(seed).random((height, width)) < 0.05
    before, expected = hole.copy(), np.zeros_like(hole)
    for row, column in np.argwhere(hole):
        expected[max(row - pixels, 0) : row + pixels + 1, max(column - pixels, 0) : column + pixels + 1] = True
    assert np.array_equal(dilate_hole(hole, pixels), expected)
    assert np.array_equal(hole, before)


def test_inversion_comes_before_dilation(tmp_path):
    pixels = np.full((5, 5), 255, dtype=np.uint8)
    pixels[2, 2] = 0
    hole = read_any(mask_file(tmp_path, pixels), invert=True, dilate=1)
    assert hole.sum() == 9 and hole[1:4, 1:4].all()
    with pytest.raises(ValueError, match="dilate"):
        read_any(tmp_path / "mask.png", dilate=-1)


# Holes that are odd


def test_holes_of_everything_and_of_nothing_are_refused_by_name():
    everything, nothing = np.ones((4, 4), bool), np.zeros((4, 4), bool)
    with pytest.raises(InpaintError, match=r"^m.png marks the whole image .*100 %.*use --invert-mask if white marks"):
        check_hole(everything, name="m.png")
    with pytest.raises(InpaintError, match="leave out --invert-mask if black marks what to keep"):
        check_hole(everything, name="m.png", inverted=True)
    with pytest.raises(InpaintError, match=r"^m.png marks no hole \(0 %.*use --invert-mask if black marks the hole"):
        refuse_empty(nothing, name="m.png")
    with pytest.raises(InpaintError, match="leave out --invert-mask if white marks the hole"):
        refuse_empty(nothing, name="m.png", inverted=True)
    assert check_hole(nothing, name="m.png") == ()
    refuse_empty(everything, name="m.png")


def test_very_large_holes_are_noted():
    hole = np.zeros((10, 10), bool)
    hole[:6] = True
    assert check_hole(hole, name="m.png") == ()
    hole[6, 0] = True
    (note,) = check_hole(hole, name="m.png")
    assert note == "the hole is 61% of the image; use --invert-mask if white marks what to keep"
    (note,) = check_hole(hole, name="m.png", inverted=True)
    assert note.endswith("leave out --invert-mask if black marks what to keep")


def test_a_hole_around_the_picture_is_noted_above_a_half():
    frame = np.ones((10, 10), bool)
    frame[2:9, 2:9] = False  # 51 % is hole
    assert len(check_hole(frame, name="m.png")) == 1
    frame[9, 9] = False
    frame[8, 9] = False
    assert check_hole(frame, name="m.png") == ()


def test_a_photograph_that_is_transparent_in_its_hole_is_noted():
    hole = some_hole(6, 7)
    for white, dtype in ((255, np.uint8), (65535, np.uint16), (1, np.float32)):
        pixels = np.full((6, 7, 4), white, dtype)
        assert check_transparency(read(pixels), hole) == ()
        pixels[hole, 3] = 0
        (note,) = check_transparency(read(pixels), hole)
        assert note.startswith("the photograph is transparent in the hole and stays so")
        assert check_transparency(read(pixels), ~hole) == ()
        assert check_transparency(read(pixels), np.zeros((6, 7), bool)) == ()
        assert check_transparency(read(pixels[..., :3]), hole) == ()
