"""What a caller of the package sees: every kind of picture, every size, whatever torch's settings are."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import pickle
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import inpaint
import patchswap
from inpaint import weights
from inpaint.commands import main
from inpaint.errors import InpaintError
from inpaint.inpainter import Inpainter
from inpaint.mask import center
from inpaint.matching import Copies, MatchCoherently, mean_of_copies
from inpaint.photo import Patch
from inpaint.recipe import NARROW, TINY, WIDE, Recipe, default_recipe
from inpaint.scene import Scene
from inpaint.stages import StageTime
from inpaint.work import Filled, Job, prepare

KINDS = ["thin", "medium", "thick", "specks", "frame", "rectangles", "one known pixel"]
TENSOR_TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
ARRAY_TYPES = ["uint8", "uint16", "float16", "float32", "float64", ">u2", ">f4"]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def array(height: int, width: int, channels: int, dtype: str, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).random((height, width, channels) if channels else (height, width))
    kind = np.dtype(dtype)
    return (values if kind.kind == "f" else values * np.iinfo(kind).max).astype(kind)


def a_hole(height: int = 75, width: int = 100, side: int = 30) -> np.ndarray:
    return center(height, width, side).numpy()


# Known pixels, and what holes hold


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(0, 2**31),
    st.sampled_from(KINDS),
    st.sampled_from(TENSOR_TYPES),
)
def test_known_pixels_of_tensors_stay_bit_for_bit(
    inpainter: Inpainter, make_hole, height: int, width: int, seed: int, kind: str, dtype: torch.dtype
) -> None:
    if height * width == 1:
        return
    image = noise(3, height, width, seed=seed).to(dtype)
    hole = make_hole(kind, height, width, seed)
    given_image = image.clone()
    filled = inpainter(image, hole)
    assert torch.equal(image, given_image)
    assert filled.shape == image.shape and filled.dtype == dtype
    assert torch.equal(filled[:, ~hole], image[:, ~hole])
    assert torch.isfinite(filled).all() and filled.min() >= 0 and filled.max() <= 1


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(0, 2**31),
    st.sampled_from(KINDS),
    st.sampled_from(ARRAY_TYPES),
    st.sampled_from([0, 1, 2, 3, 4]),
)
def test_arrays_come_back_as_they_were_given(
    inpainter: Inpainter, make_hole, height: int, width: int, seed: int, kind: str, dtype: str, channels: int
) -> None:
    """Case 31: the same type and shape, known samples and alpha bit for bit."""
    if height * width == 1:
        return
    image, hole = array(height, width, channels, dtype, seed), make_hole(kind, height, width, seed)
    given_image = image.copy()
    filled = inpainter(image, hole)
    assert np.array_equal(image, given_image)
    assert isinstance(filled, np.ndarray) and filled.shape == image.shape and filled.dtype == image.dtype
    assert np.array_equal(filled[~hole], image[~hole])
    if channels in (2, 4):
        assert np.array_equal(filled[..., -1], image[..., -1])
    if image.dtype.kind == "f":
        assert filled.min() >= 0 and filled.max() <= 1


def test_arrays_of_any_layout(inpainter: Inpainter) -> None:
    image, hole = array(75, 100, 3, "uint8"), a_hole()
    expected = inpainter(image, hole)
    assert not np.array_equal(expected, image)
    for view in (np.asfortranarray(image), np.ascontiguousarray(image[::-1])[::-1], np.dstack([image] * 2)[..., :3]):
        assert np.array_equal(inpainter(view, hole), expected)
    image.flags.writeable = False
    assert np.array_equal(inpainter(image, hole), expected)
    assert np.array_equal(inpainter(image[:, :, :1], hole)[..., 0], inpainter(image[:, :, 0], hole))


def test_arrays_and_tensors_of_the_same_picture_are_filled_alike(inpainter: Inpainter) -> None:
    image, hole = array(75, 100, 3, "float32"), a_hole()
    as_tensor = inpainter(torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(hole))
    assert np.array_equal(as_tensor.permute(1, 2, 0).numpy(), inpainter(image, hole))


@pytest.mark.parametrize("scales", [None, [38, 75], [19, 38]])
@pytest.mark.parametrize("value", [0.0, 1.0, torch.nan, torch.inf, -1e30])
def test_what_holes_hold_has_no_influence(inpainter: Inpainter, scales: list[int] | None, value: float) -> None:
    image, hole = noise(3, 75, 100), a_hole()
    hole[5, 7] = True
    other = image.clone()
    other[:, hole] = value
    first, second = inpainter(image, hole, scales), inpainter(other, hole, scales)
    assert torch.equal(first, second)
    first, second = (inpainter(each.permute(1, 2, 0).numpy(), hole, scales) for each in (image, other))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("scales", [[50, 100, 200, 400], [50, 400], [50, 100]])
def test_holes_of_other_windows_are_unknown_too(inpainter: Inpainter, scales: list[int]) -> None:
    """A hole inside another one's window: nothing of what either held is seen."""
    image, hole, other_hole = noise(3, 400, 900), np.zeros((400, 900), bool), np.zeros((400, 900), bool)
    hole[40:140, 140:240] = other_hole[300:304, 500:504] = True
    job = prepare(image.permute(1, 2, 0).numpy(), hole | other_hole, scales=scales)
    windows = inpainter.fill(job).windows
    assert len(windows) == 2 and any((window.unknown & ~window.own).any() for window in windows)
    expected = inpainter(image, hole | other_hole, scales)
    for changed in (hole, other_hole):
        for value in (0.0, 1.0, torch.nan):
            other = image.clone()
            other[:, changed] = value
            assert torch.equal(inpainter(other, hole | other_hole, scales), expected)


class Listening:
    """A picture that remembers what is to be put into it."""

    size = (400, 900)

    def __init__(self) -> None:
        self.patches: list[Patch] = []

    def colours(self, rows: slice, columns: slice) -> Tensor:
        return noise(3, *self.size)[:, rows, columns]

    def filled(self, patches: Iterable[Patch]) -> Listening:
        self.patches = list(patches)
        return self

    def check_known(self, hole: np.ndarray) -> None:
        pass


def test_every_window_paints_its_own_holes_alone(inpainter: Inpainter) -> None:
    picture, hole = Listening(), np.zeros((400, 900), bool)
    hole[40:140, 40:140] = hole[300:304, 500:504] = True
    (filled,) = [inpainter.fill(Job(picture, hole), keep=True)]
    assert len(picture.patches) == 2 and any((window.unknown & ~window.own).any() for window in filled.windows)
    painted = np.zeros(hole.shape, int)
    for patch in picture.patches:
        painted[patch.rows, patch.columns] += patch.hole
    assert np.array_equal(painted, hole.astype(int))
    for kept in filled.kept:
        for scale in kept.scales:
            others = ~torch.from_numpy(scale.level.own)
            assert torch.equal(scale.result[:, others], scale.part[:, others])


@pytest.mark.parametrize("size", [(40, 40), (1, 9), (2, 30)])
def test_a_hole_that_leaves_one_known_pixel_is_filled(inpainter: Inpainter, size: tuple[int, int]) -> None:
    hole = np.ones(size, bool)
    hole[0, 5] = False
    filled = inpainter(noise(3, *size), hole)
    assert torch.isfinite(filled).all()


@pytest.mark.parametrize("size", [(20, 31), (1, 1), (1, 70)])
def test_an_empty_hole_returns_the_picture(inpainter: Inpainter, size: tuple[int, int]) -> None:
    image, hole = noise(3, *size), np.zeros(size, bool)
    filled = inpainter(image, hole)
    assert torch.equal(filled, image) and filled.data_ptr() != image.data_ptr()
    samples = array(*size, 3, "uint8")
    same = inpainter(samples, hole)
    assert np.array_equal(same, samples) and not np.shares_memory(same, samples)
    done = inpainter.fill(prepare(samples, hole, may_be_empty=True))
    assert done.windows == done.times == done.kept == []


def test_a_picture_of_one_pixel(inpainter: Inpainter) -> None:
    with pytest.raises(InpaintError, match="whole image"):
        inpainter(noise(3, 1, 1), np.ones((1, 1), bool))


# Windows


def test_two_distant_holes_are_filled_as_each_alone(inpainter: Inpainter) -> None:
    """The same bits, where each is a batch of its own; up to rounding, where they are one."""
    image = noise(3, 420, 1100)
    one, other = np.zeros((420, 1100), bool), np.zeros((420, 1100), bool)
    one[30:50, 20:45] = True
    other[280:380, 960:1060] = True  # of another size
    together = inpainter.fill(prepare(image.permute(1, 2, 0).numpy(), one | other))
    assert len(together.windows) == 2
    filled = inpainter(image, one | other)
    for hole in (one, other):
        assert torch.equal(filled[:, hole], inpainter(image, hole)[:, hole])
    same = np.roll(one, (280, 960), (0, 1))
    filled = inpainter(image, one | same)
    for hole in (one, same):
        difference = (filled - inpainter(image, hole))[:, hole].abs()
        assert difference.max() < 1e-4


def test_pictures_filled_in_one_call_are_filled_as_alone(inpainter: Inpainter) -> None:
    pictures = [array(75, 100, 3, "uint8", seed) for seed in range(3)] + [array(60, 50, 0, "uint16")]
    holes = [a_hole(side=12), a_hole(side=30), a_hole(side=12), a_hole(60, 50, 9)]
    jobs = [prepare(picture, hole) for picture, hole in zip(pictures, holes, strict=True)]
    for job, filled in zip(jobs, inpainter.fill_all(jobs), strict=True):
        alone = inpainter.fill(job)
        difference = filled.picture.samples.astype(float) - alone.picture.samples
        assert np.abs(difference).max() <= 0.01 * filled.picture.white
        assert [window.crop for window in filled.windows] == [window.crop for window in alone.windows]
    assert inpainter.fill_all([]) == []


# Files and PIL images


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "I;16"])
def test_pil_images_come_back_in_their_own_mode(inpainter: Inpainter, mode: str) -> None:
    channels = {"RGB": 3, "RGBA": 4, "L": 0, "LA": 2, "I;16": 0}[mode]
    image = Image.fromarray(array(40, 52, channels, "uint16" if mode == "I;16" else "uint8"))
    hole = a_hole(40, 52, 12)
    filled = inpainter(image, Image.fromarray(hole))
    assert image.mode == filled.mode == mode and filled.size == image.size
    before, after = np.array(image), np.array(filled)
    assert np.array_equal(after[~hole], before[~hole]) and not np.array_equal(after, before)
    if mode in ("RGBA", "LA"):
        assert np.array_equal(after[..., -1], before[..., -1])


class _Unused(torch.nn.Module):
    def forward(self, *_: object) -> Tensor:
        raise AssertionError("a network was called")


@pytest.mark.parametrize("mode", ["CMYK", "I", "F", "YCbCr", "HSV", "LAB"])
def test_case_33_modes_that_cannot_be_kept_are_refused_before_any_work(networks: weights.Networks, mode: str) -> None:
    idle = Inpainter(networks._replace(image2feature=_Unused(), feature2image=_Unused(), vgg=_Unused()))  # type: ignore[arg-type]
    with pytest.raises(InpaintError, match=f"its mode is {mode}; convert it"):
        idle(Image.new(mode, (8, 6)), Image.new("L", (8, 6)))


@pytest.mark.parametrize("mode", ["P", "1"])
def test_case_33_palette_and_bilevel_images_are_read_as_by_the_command(inpainter: Inpainter, mode: str) -> None:
    image = Image.fromarray(array(40, 52, 3, "uint8")).convert(mode)
    filled = inpainter(image, a_hole(40, 52, 12))
    kept = {"P": "RGB", "1": "L"}[mode]
    assert filled.mode == kept
    assert np.array_equal(np.array(filled)[~a_hole(40, 52, 12)], np.array(image.convert(kept))[~a_hole(40, 52, 12)])


@pytest.fixture
def command(inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """`inpaint fill` with the small networks: the picture that it writes for files of these images."""
    monkeypatch.setattr(inpaint, "load", lambda *_, **__: inpainter, raising=False)

    def run(image: Image.Image, mask: Image.Image, *options: str) -> Image.Image:
        image.save(tmp_path / "image.png", exif=image.getexif())
        mask.save(tmp_path / "mask.png", exif=mask.getexif())
        arguments = [str(tmp_path / name) for name in ("image.png", "mask.png")]
        result = CliRunner().invoke(main, ["fill", *arguments, "-o", str(tmp_path / "out.png"), *options])
        assert result.exit_code == 0, result.output
        with Image.open(tmp_path / "out.png") as written:
            written.load()
            return written

    return run


@pytest.mark.parametrize("orientation", range(1, 9))
def test_case_34_turned_images_are_filled_as_by_the_command(inpainter: Inpainter, command, orientation: int) -> None:
    image = Image.fromarray(array(40, 64, 3, "uint8"))
    image.getexif()[274] = orientation
    size = (64, 40) if orientation >= 5 else (40, 64)
    hole = np.zeros(size, bool)
    hole[10:20, 5:17] = True
    filled, written = inpainter(image, Image.fromarray(hole)), command(image, Image.fromarray(hole))
    assert filled.size == written.size == size[::-1]
    assert np.array_equal(np.array(filled), np.array(written))
    assert 274 not in filled.getexif() and 274 not in written.getexif()
    assert image.getexif()[274] == orientation


def test_case_34_masks_with_transparency_are_read_as_by_the_command(inpainter: Inpainter, command) -> None:
    """White on a transparent ground by its opacity, opaque ones by their colour."""
    image = Image.fromarray(array(40, 64, 3, "uint8"))
    hole = np.zeros((40, 64), bool)
    hole[10:20, 5:17] = True
    drawn = np.zeros((40, 64, 4), np.uint8)
    drawn[hole] = 255
    opaque = drawn.copy()
    opaque[..., 3] = 255
    expected = np.array(inpainter(image, hole))
    assert np.array_equal(expected[~hole], np.array(image)[~hole])
    for pixels in (drawn, opaque):
        mask = Image.fromarray(pixels)
        assert np.array_equal(np.array(inpainter(image, mask)), expected)
        assert np.array_equal(np.array(command(image, mask)), expected)


def test_case_34_turned_masks_are_read_as_by_the_command(inpainter: Inpainter, command) -> None:
    image = Image.fromarray(array(40, 64, 3, "uint8"))
    hole = np.zeros((64, 40), bool)
    hole[10:20, 5:17] = True
    mask = Image.fromarray(hole.astype(np.uint8) * 255)
    mask.getexif()[274] = 6
    filled = inpainter(image, mask)
    assert np.array_equal(np.array(filled), np.array(command(image, mask)))
    turned = np.rot90(hole, -1)
    assert np.array_equal(np.array(filled)[~turned], np.array(image)[~turned])


@pytest.mark.parametrize("channels", [0, 2, 3, 4])
def test_the_command_and_the_package_paint_the_same(inpainter: Inpainter, command, channels: int) -> None:
    image = Image.fromarray(array(75, 100, channels, "uint8"))
    mask = Image.fromarray(a_hole())
    expected = np.array(inpainter(image, mask))
    assert np.array_equal(np.array(command(image, mask)), expected)
    assert np.array_equal(inpainter(np.array(image), a_hole()), expected)


def test_paths_give_pil_images(inpainter: Inpainter, tmp_path: Path) -> None:
    image = Image.fromarray(array(40, 52, 3, "uint8"))
    image.save(tmp_path / "image.png")
    filled = inpainter(tmp_path / "image.png", a_hole(40, 52, 12))
    assert isinstance(filled, Image.Image)
    assert np.array_equal(np.array(filled), np.array(inpainter(image, a_hole(40, 52, 12))))


# Tensors


@pytest.mark.parametrize("dtype", TENSOR_TYPES)
def test_case_32_tensors_are_computed_in_float32(inpainter: Inpainter, dtype: torch.dtype) -> None:
    image, hole = noise(3, 75, 100).to(dtype), a_hole()
    filled = inpainter(image, hole)
    assert filled.dtype == dtype
    assert torch.equal(filled, torch.where(torch.from_numpy(hole), inpainter(image.float(), hole).to(dtype), image))


def test_batches_take_one_mask_or_one_each(inpainter: Inpainter) -> None:
    images = noise(2, 3, 48, 48)
    holes = torch.stack([center(48, 48, 12), center(48, 48, 20)])
    together = inpainter(images, holes)
    assert together.shape == images.shape and together.dtype == images.dtype
    for image, hole, filled in zip(images, holes, together, strict=True):
        assert torch.equal(inpainter(image, hole)[:, ~hole], filled[:, ~hole])
        assert (inpainter(image, hole) - filled).abs().max() < 1e-4
    assert torch.equal(inpainter(images, holes.unsqueeze(1).float()), together)
    of_one = inpainter(images, holes[0])
    assert torch.equal(inpainter(images, holes[:1]), of_one) and torch.equal(
        inpainter(images, holes[0].numpy()), of_one
    )
    assert (of_one[1] - inpainter(images[1], holes[0])).abs().max() < 1e-4
    assert torch.equal(inpainter(images[:1], holes[:1])[0], inpainter(images[0], holes[0]))
    assert inpainter(images[:0], holes[0]).shape == (0, 3, 48, 48)


def test_unfit_masks_are_named(inpainter: Inpainter) -> None:
    with pytest.raises(InpaintError, match=r"the mask is 6x8 \(turned by 90 degrees\?\), the photograph is 8x6"):
        inpainter(Image.new("RGB", (8, 6)), Image.new("L", (6, 8)))
    for mask in (torch.zeros(2, 8, 8), torch.zeros(3, 2, 8, 8), torch.zeros(2, 1, 8, 8)):
        with pytest.raises(InpaintError, match="one mask, or one per picture"):
            inpainter(noise(3, 3, 8, 8), mask)
    with pytest.raises(InpaintError, match=r"\(H, W\)"):
        inpainter(noise(3, 8, 8), torch.zeros(8))


def test_tensors_of_any_layout(inpainter: Inpainter) -> None:
    image, hole = noise(2, 3, 48, 60), center(48, 60, 12)
    expected = inpainter(image, hole)
    assert torch.equal(inpainter(image.contiguous(memory_format=torch.channels_last), hole), expected)
    assert torch.equal(inpainter(image.mT.contiguous().mT, hole), expected)
    repeated = image[:1].expand(2, -1, -1, -1)
    assert torch.equal(inpainter(repeated, hole)[0], inpainter(repeated, hole)[1])
    assert torch.equal(inpainter(image, hole.to(torch.uint8) * 255), expected)


@pytest.mark.parametrize("scales", [None, [24, 48], [24]])
def test_case_35_results_are_ordinary_tensors(inpainter: Inpainter, scales: list[int] | None) -> None:
    image, hole = noise(3, 48, 48).requires_grad_(), center(48, 48, 20)
    filled = inpainter(image, hole, scales)
    assert not filled.requires_grad and not filled.is_inference()
    filled.mul_(1)
    factor = torch.ones((), requires_grad=True)
    (factor * filled).pow(2).sum().backward()
    assert factor.grad is not None and torch.isfinite(factor.grad)
    done = inpainter.fill(prepare(image.detach().permute(1, 2, 0).numpy(), hole, scales=scales), keep=True)
    (window,) = done.kept
    kept = [window.coarse, *(each for scale in window.scales for each in vars(scale).values())]
    for tensor in kept:
        if isinstance(tensor, Tensor):
            assert not tensor.is_inference()
            tensor.mul_(1)


# torch's settings, threads and processes


@pytest.fixture
def defaults():
    """Restores torch's."""
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("image", ["tensor", "grey", "colour"])
@pytest.mark.parametrize("setting", ["dtype", "device", "autocast", "no_grad", "inference_mode", "float64 and device"])
@pytest.mark.parametrize("scales", [None, [19, 38]])
def test_torchs_settings_do_not_matter(
    inpainter: Inpainter, defaults, setting: str, image: str, scales: list[int] | None
) -> None:
    pictures = {"tensor": noise(3, 75, 100), "grey": array(75, 100, 0, "uint8"), "colour": array(75, 100, 3, "uint8")}
    picture, hole = pictures[image], a_hole()
    expected = inpainter(picture, hole, scales)
    if "dtype" in setting or "float64" in setting:
        torch.set_default_dtype(torch.float64)
    if "device" in setting:
        torch.set_default_device("meta")
    contexts = {
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode,
    }
    with contexts.get(setting, nullcontext)():
        filled = inpainter(picture, hole, scales)
    torch.set_default_device(None)
    assert type(filled) is type(expected) and filled.dtype == expected.dtype
    assert torch.equal(torch.as_tensor(filled), torch.as_tensor(expected))


@pytest.mark.parametrize("setting", ["dtype", "device"])
def test_case_36_torchs_settings_do_not_matter_when_networks_are_loaded(defaults, setting: str) -> None:
    image, hole = noise(3, 64, 64), center(64, 64, 20)
    expected = inpaint.load("default", "cpu", precision="float32")(image, hole)
    if setting == "dtype":
        torch.set_default_dtype(torch.float64)
    else:
        torch.set_default_device("meta")
    filled = inpaint.load("default", "cpu", precision="float32")(image, hole)
    torch.set_default_device(None)
    assert filled.dtype == torch.float32 and torch.equal(filled, expected)


def test_threads_share_an_inpainter_and_inpainters_share_networks(
    inpainter: Inpainter, networks: weights.Networks
) -> None:
    other = Inpainter(networks, precision="float32", max_memory=2**33)
    pictures = [noise(3, 75, 100, seed=seed) for seed in range(4)]
    expected = [inpainter(picture, a_hole()) for picture in pictures]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        for one in (inpainter, other):
            filled = list(threads.map(lambda picture, one=one: one(picture, a_hole()), pictures))
            assert all(torch.equal(*pair) for pair in zip(filled, expected, strict=True))


def test_the_callers_networks_stay_as_they_are(networks: weights.Networks) -> None:
    def state() -> list[tuple[int, tuple[int, ...], torch.device]]:
        parameters = [
            each for name in ("image2feature", "feature2image", "vgg") for each in getattr(networks, name).parameters()
        ]
        return [(each.data_ptr(), each.stride(), each.device) for each in parameters]

    before = state()
    for recipe in (NARROW, WIDE):
        Inpainter(networks, "cpu", recipe=recipe)(noise(3, 40, 40), center(40, 40, 9))
    assert state() == before


@pytest.mark.parametrize("recipe", [None, NARROW, WIDE])
def test_pickled_inpainters_paint_the_same(networks: weights.Networks, recipe: Recipe | None) -> None:
    options = {"precision": "float32", "max_memory": 2.0**33}
    one = Inpainter(networks, **options) if recipe is None else Inpainter(networks, recipe=recipe, **options)  # type: ignore[arg-type]
    other = pickle.loads(pickle.dumps(one))
    image, hole = noise(3, 75, 100), a_hole()
    assert other.device == one.device and torch.equal(other(image, hole), one(image, hole))


def test_the_same_input_gives_the_same_output(inpainter: Inpainter) -> None:
    image, hole = noise(3, 64, 64), center(64, 64, 20)
    assert torch.equal(inpainter(image, hole), inpainter(image, hole))


def test_case_37_a_spawned_process_fills_after_its_parent_did(inpainter: Inpainter) -> None:
    """A forked one hangs, as in all of torch: the threads of its parent's OpenMP are not there."""
    image, hole = array(48, 48, 3, "float32"), a_hole(48, 48, 12)
    expected = inpainter(image, hole)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        filled = processes.submit(Inpainter.__call__, inpainter, image, hole).result(timeout=100)
    assert np.allclose(filled, expected, atol=1e-6)


# Stages, recipes, precision and memory


def test_every_step_of_every_scale_is_reported(inpainter: Inpainter) -> None:
    heard: list[StageTime] = []
    done = inpainter.fill(
        prepare(array(75, 100, 3, "uint8"), a_hole(side=31), scales=[38, 75]), keep=True, on_stage=heard.append
    )
    (window,) = done.windows
    sizes = [level.part.size for level in window.levels]
    expected = [("infer", sizes[0])]
    expected += [(name, size) for size in sizes for name in ("vgg", "match", "translate", "blend")]
    assert [(stage.name, stage.size) for stage in heard] == expected and len(sizes) == 2
    assert heard == done.times and all(stage.seconds >= 0 for stage in heard)
    (kept,) = done.kept
    assert kept.window is window and kept.coarse.shape == (3, *sizes[0])
    for scale, level in zip(kept.scales, window.levels, strict=True):
        assert scale.level is level
        assert scale.part.shape == scale.decoded.shape == scale.result.shape == (3, *level.part.size)
        assert scale.match_index.shape == level.queries.shape
        assert np.array_equal((scale.match_index >= 0).numpy(), level.queries)


def test_a_coarse_last_scale_is_enlarged(inpainter: Inpainter) -> None:
    done = inpainter.fill(prepare(array(75, 100, 3, "uint8"), a_hole(), scales=[38]))
    assert [stage.name for stage in done.times] == ["infer", "vgg", "match", "translate", "blend", "enlarge"]
    assert done.times[-1].size == done.windows[0].crop.size and done.kept == []


@pytest.mark.parametrize("side", [9, 20, 90])
def test_recipes_are_one_for_all_or_a_rule(networks: weights.Networks, side: int) -> None:
    image, hole = noise(3, 200, 200), a_hole(200, 200, side)
    options = {"precision": "float32", "max_memory": 2.0**33}
    asked = []

    def rule(depth: int) -> Recipe:
        asked.append(depth)
        return default_recipe(depth)

    by_rule = Inpainter(networks, recipe=rule, **options)(image, hole)  # type: ignore[arg-type]
    fixed = {recipe: Inpainter(networks, recipe=recipe, **options)(image, hole) for recipe in (TINY, NARROW, WIDE)}  # type: ignore[arg-type]
    chosen = {9: TINY, 20: NARROW, 90: WIDE}[side]
    assert asked == [(side + 1) // 2] and torch.equal(by_rule, fixed[chosen])
    assert not any(torch.equal(by_rule, other) for recipe, other in fixed.items() if recipe is not chosen)
    assert torch.equal(Inpainter(networks, **options)(image, hole), by_rule)  # type: ignore[arg-type]


def test_matching_and_voting_can_be_chosen(networks: weights.Networks) -> None:
    seen: list[tuple[Scene, Copies | None]] = []

    def match(query: Tensor, key: Tensor, scene: Scene, coarser: Copies | None) -> patchswap.Match:
        seen.append((scene, coarser))
        return MatchCoherently(0)(query.roll(3, 2), key, scene, coarser)

    def vote(match: patchswap.Match, values: Tensor, base: Tensor | None) -> Tensor:
        assert ((match.index < 0) == (match.score == -torch.inf)).all()
        return mean_of_copies(match, values, base).roll(1, 3)

    image, hole = noise(3, 75, 100), a_hole()
    plain, matched, voted = (
        Inpainter(networks, recipe=recipe, precision="float32")(image, hole, (38, 75))
        for recipe in (Recipe(), Recipe(match=match), Recipe(vote=vote))
    )
    (coarse, nothing), (fine, copied) = seen
    assert nothing is None and copied is not None and copied.scene is coarse and fine.halvings < coarse.halvings
    for other in (matched, voted):
        assert not torch.equal(plain, other) and torch.equal(other[:, ~hole], image[:, ~hole])


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_precisions(networks: weights.Networks, inpainter: Inpainter, precision: str) -> None:
    image, hole = noise(3, 75, 100), a_hole()
    filled = Inpainter(networks, precision=precision)(image, hole)
    assert filled.dtype == torch.float32 and torch.equal(filled[:, ~hole], image[:, ~hole])
    assert (filled - inpainter(image, hole)).abs().mean() < 0.05
    with pytest.raises(InpaintError, match="expected auto, float32 or bfloat16, got 'half'"):
        Inpainter(networks, precision="half")


@pytest.mark.parametrize("max_memory", [0, 1, 1e5, 3e6])
@pytest.mark.parametrize("side", [4, 150])
def test_with_little_memory_fine_scales_are_left_out(networks: weights.Networks, max_memory: float, side: int) -> None:
    image, hole = array(420, 403, 3, "uint8"), np.zeros((420, 403), bool)
    hole[100 : 100 + side, 200 : 200 + side] = True
    done: Filled = Inpainter(networks, precision="float32", max_memory=max_memory).fill(prepare(image, hole))
    assert np.array_equal(done.picture.samples[~hole], image[~hole])
    assert (done.picture.samples[hole] != image[hole]).mean() > 0.9
    if max_memory <= 1:
        assert all(len(window.levels) == 1 and window.levels[0].halvings > 0 for window in done.windows)
        assert done.times[-1].name == "enlarge"


def test_devices_are_checked_when_loading() -> None:
    with pytest.raises(InpaintError, match="expected auto, cpu, cuda or mps, got 'potato'"):
        inpaint.load("default", device="potato")
    if not torch.cuda.is_available():
        with pytest.raises(InpaintError, match="found none; use --device cpu"):
            inpaint.load("default", device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("scales", [None, [75, 150], [75]])
def test_the_gpu_gives_the_cpu_result(
    inpainter: Inpainter, networks: weights.Networks, scales: list[int] | None
) -> None:
    image, hole = noise(3, 150, 150), center(150, 150, 60)
    filled = Inpainter(networks, "cuda", precision="float32")(image, hole, scales)
    assert not filled.is_cuda
    assert (filled - inpainter(image, hole, scales)).abs().mean() < 5e-3
    on_gpu = Inpainter(networks, "cuda", precision="float32")(image.cuda(), hole, scales)
    assert on_gpu.is_cuda and torch.equal(on_gpu.cpu(), filled)


def test_the_default_fills_a_texture_better_than_its_mean_colour() -> None:
    """The embedded weights at work: stripes continued into the hole, not greyed."""
    rows = torch.sin(torch.arange(160) / 3)[:, None].expand(160, 160)
    image = (0.5 + 0.3 * rows).expand(3, -1, -1).contiguous()
    hole = center(160, 160, 48)
    filled = inpaint.load("default", "cpu")(image, hole)
    grey = (image[:, ~hole].mean() - image[:, hole]).abs().mean()
    assert (filled - image)[:, hole].abs().mean() < 0.6 * grey
