from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import inpaint
import patchswap
from inpaint import weights
from inpaint.errors import InpaintError
from inpaint.mask import center, feature_hole, strokes
from inpaint.networks import Feature2Image, Image2Feature
from inpaint.networks.feature2image import Feature2ImageConfig
from inpaint.networks.image2feature import Image2FeatureConfig
from inpaint.networks.vgg import load_vgg19
from inpaint.pipeline import Inpainter, _lost_detail, _off_at_rim


@pytest.fixture(scope="module")
def inpainter() -> Inpainter:
    """Real VGG-19, small untrained networks: what is tested here holds for any weights."""
    torch.manual_seed(0)
    networks = weights.Networks(
        Image2Feature(Image2FeatureConfig(widths=(8, 8, 8), dilations=(1, 2))).eval().requires_grad_(False),
        Feature2Image(Feature2ImageConfig(widths=(8, 8), upper=(8, 8))).eval().requires_grad_(False),
        load_vgg19(weights.FOLDER / weights.VGG_FILE),
        "",
    )
    return Inpainter(networks)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**31), st.sampled_from(["thin", "medium", "thick"]))
def test_known_pixels_stay_bit_for_bit_at_any_size(
    inpainter: Inpainter, height: int, width: int, seed: int, kind
) -> None:
    image = noise(3, height, width, seed=seed)
    hole = strokes(height, width, torch.Generator().manual_seed(seed), kind=kind)
    result = inpainter.run(image, hole)
    assert result.image.shape == image.shape
    assert torch.equal(result.image[:, ~hole], image[:, ~hole])
    assert torch.isfinite(result.image).all() and result.image.min() >= 0 and result.image.max() <= 1


@pytest.mark.parametrize("size", [(64, 64), (75, 131)])
def test_the_result_does_not_depend_on_what_the_hole_held(inpainter: Inpainter, size: tuple[int, int]) -> None:
    image, hole = noise(3, *size), center(*size, 30)
    other = torch.where(hole, noise(3, *size, seed=1), image)
    other[:, hole.nonzero()[0][0], hole.nonzero()[0][1]] = float("nan")
    first, second = (inpainter.run(each, hole, scales=[32, 64]) for each in (image, other))
    assert torch.equal(first.image[:, hole], second.image[:, hole])


def test_every_step_of_every_scale_is_reported(inpainter: Inpainter) -> None:
    image, hole = noise(3, 75, 100), center(75, 100, 31)
    heard = []
    result = inpainter.run(image, hole, scales=[37, 75], on_stage=heard.append)
    assert [scale.size for scale in result.scales] == [(37, 49), (75, 100)]
    assert result.coarse.shape == (3, 37, 49)
    assert [(stage.name, stage.size) for stage in heard] == [
        ("infer", (37, 49)),
        *((name, (37, 49)) for name in ("vgg", "match", "translate", "blend")),
        *((name, (75, 100)) for name in ("vgg", "match", "translate", "blend")),
    ]
    assert heard == result.times and all(stage.seconds >= 0 for stage in heard)
    for scale in result.scales:
        assert scale.decoded.shape == scale.result.shape == (3, *scale.size)
        cells = [-(-length // 4) for length in scale.size]
        assert scale.match_index.shape == (cells[0] - 2, cells[1] - 2)


def test_a_window_gives_indices_on_the_whole_grid(inpainter: Inpainter) -> None:
    """Far outside the window nothing is matched, and inside, no match lies beyond the window or in the hole."""
    image = noise(3, 600, 640)
    hole = torch.zeros(600, 640, dtype=torch.bool)
    hole[400:420, 300:324] = True
    index = inpainter.run(image, hole, scales=[600]).scales[0].match_index
    columns = 640 // 4 - 2
    matched = index >= 0
    assert matched.sum() == (420 - 400 + 8) // 4 * (324 - 300 + 8) // 4
    rows_of_match, columns_of_match = index[matched] // columns, index[matched] % columns
    assert rows_of_match.min() >= (400 - 128) // 4 and rows_of_match.max() <= (420 + 128) // 4
    assert columns_of_match.min() >= (300 - 128) // 4 and columns_of_match.max() <= (324 + 128) // 4
    near_hole = (rows_of_match > 97) & (rows_of_match < 105) & (columns_of_match > 72) & (columns_of_match < 81)
    assert not near_hole.any()


def test_the_same_input_gives_the_same_output(inpainter: Inpainter) -> None:
    image, hole = noise(3, 64, 64), center(64, 64, 20)
    assert torch.equal(inpainter(image, hole), inpainter(image, hole, seed=5))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_pil_images_come_back_in_their_own_mode(inpainter: Inpainter, mode: str) -> None:
    channels = {"RGB": 3, "RGBA": 4, "L": 1, "LA": 2}[mode]
    pixels = (noise(40, 52, channels) * 255).byte().numpy()
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels, mode=mode)
    hole = center(40, 52, 12)
    mask = Image.fromarray(hole.numpy().astype(np.uint8) * 255)
    filled = inpainter(image, mask)
    assert filled.mode == mode and filled.size == image.size
    before, after = np.array(image), np.array(filled)
    assert np.array_equal(after[~hole.numpy()], before[~hole.numpy()])
    assert not np.array_equal(after, before)
    if channels in (2, 4):
        assert np.array_equal(after[..., -1], before[..., -1])


def test_batches_take_one_mask_or_one_each(inpainter: Inpainter) -> None:
    images = noise(2, 3, 48, 48)
    holes = torch.stack([center(48, 48, 12), center(48, 48, 20)])
    together = inpainter(images, holes)
    assert together.shape == images.shape and together.dtype == images.dtype
    for image, hole, filled in zip(images, holes, together, strict=True):
        assert torch.equal(inpainter(image, hole), filled)
    assert torch.equal(inpainter(images, holes.unsqueeze(1).float()), together)
    assert torch.equal(inpainter(images, holes[0])[1], inpainter(images[1], holes[0]))


def test_an_empty_hole_returns_the_picture(inpainter: Inpainter) -> None:
    image = noise(3, 20, 31)
    result = inpainter.run(image, torch.zeros(20, 31, dtype=torch.bool))
    assert torch.equal(result.image, image) and result.scales == [] and result.times == []


def test_a_hole_that_leaves_one_known_pixel_is_filled(inpainter: Inpainter) -> None:
    hole = torch.ones(40, 40, dtype=torch.bool)
    hole[3, 5] = False
    filled = inpainter(noise(3, 40, 40), hole)
    assert torch.isfinite(filled).all()


def test_scales_beyond_the_largest_window_are_left_out(inpainter: Inpainter) -> None:
    networks = weights.Networks(inpainter.image2feature, inpainter.feature2image, inpainter.vgg, "")
    small = Inpainter(networks, largest_window=0.005)
    image, hole = noise(3, 120, 120), center(120, 120, 60)
    result = small.run(image, hole, scales=[60, 120])
    assert [scale.size for scale in result.scales] == [(60, 60)]
    assert torch.equal(result.image[:, ~hole], image[:, ~hole]) and torch.isfinite(result.image).all()


@pytest.mark.parametrize(
    ("image", "hole", "message"),
    [
        (torch.rand(3, 8, 8), torch.ones(8, 8, dtype=torch.bool), "hole covers 100 %"),
        (torch.rand(3, 8, 8), torch.zeros(8, 9, dtype=torch.bool), r"bool tensor of shape \(8, 8\)"),
        (torch.rand(3, 8, 8), torch.zeros(8, 8), "bool tensor"),
        (torch.rand(4, 8, 8), torch.zeros(8, 8, dtype=torch.bool), r"float tensor \(3, H, W\)"),
        (torch.ones(3, 8, 8, dtype=torch.uint8), torch.zeros(8, 8, dtype=torch.bool), r"float tensor \(3, H, W\)"),
        (torch.rand(3, 0, 8), torch.zeros(0, 8, dtype=torch.bool), "at least one pixel"),
        (torch.full((3, 8, 8), 200.0), torch.eye(8, dtype=torch.bool), "divide 8-bit values by 255"),
        (torch.full((3, 8, 8), torch.nan), torch.eye(8, dtype=torch.bool), r"known pixels in \[0, 1\]"),
    ],
)
def test_unfit_input_is_named(inpainter: Inpainter, image: torch.Tensor, hole: torch.Tensor, message: str) -> None:
    with pytest.raises(InpaintError, match=message):
        inpainter.run(image, hole)


def test_unfit_masks_of_the_library_call_are_named(inpainter: Inpainter) -> None:
    with pytest.raises(InpaintError, match=r"the mask is 6x8 \(turned by 90 degrees\?\), the photograph is 8x6"):
        inpainter(Image.new("RGB", (8, 6)), Image.new("L", (6, 8)))
    with pytest.raises(InpaintError, match="one mask, or one per picture"):
        inpainter(noise(3, 3, 8, 8), torch.zeros(2, 8, 8))


@pytest.mark.parametrize("mode", ["CMYK", "I", "F", "YCbCr"])
def test_modes_that_cannot_be_kept_are_refused_before_any_work(inpainter: Inpainter, monkeypatch, mode: str) -> None:
    monkeypatch.setattr(inpainter, "run", lambda *_, **__: pytest.fail("the hole was filled"))
    with pytest.raises(InpaintError, match=f"its mode is {mode}; convert it"):
        inpainter(Image.new(mode, (8, 6)), Image.new("L", (8, 6)))


def test_devices_are_checked_when_loading() -> None:
    with pytest.raises(InpaintError, match="expected auto, cpu or cuda, got 'potato'"):
        inpaint.load("default", device="potato")
    if not torch.cuda.is_available():
        with pytest.raises(InpaintError, match="found none; use --device cpu"):
            inpaint.load("default", device="cuda")


@pytest.mark.gpu
def test_the_gpu_gives_the_cpu_result(inpainter: Inpainter) -> None:
    image, hole = noise(3, 96, 96), center(96, 96, 40)
    networks = weights.Networks(inpainter.image2feature, inpainter.feature2image, inpainter.vgg, "")
    expected = inpainter.run(image, hole).image
    try:
        assert (Inpainter(networks, "cuda").run(image, hole).image - expected).abs().mean() < 5e-3
    finally:
        Inpainter(networks, "cpu")


def test_the_default_fills_a_texture_better_than_its_mean_colour() -> None:
    """The embedded weights at work: stripes continued into the hole, not greyed."""
    rows = torch.sin(torch.arange(160) / 3)[:, None].expand(160, 160)
    image = (0.5 + 0.3 * rows).expand(3, -1, -1).contiguous()
    hole = center(160, 160, 48)
    filled = inpaint.load("default")(image, hole)
    grey = (image[:, ~hole].mean() - image[:, hole]).abs().mean()
    assert (filled - image)[:, hole].abs().mean() < 0.6 * grey


def test_lost_detail_is_the_error_of_the_matched_patch() -> None:
    """With one match for all, every hole cell receives the mean of what its patches say, here the same for all."""
    residual = torch.zeros(1, 3, 22, 30)
    tile = noise(3, 4, 4)
    residual[0, :, :12, :12] = tile.repeat(1, 3, 3)
    index = torch.full((1, 4, 6), -1)
    index[0, 2:4, 3:5] = 0
    copied = _lost_detail(residual, index)
    assert copied.shape == residual.shape
    assert torch.allclose(copied[0, :, 8:22, 12:28], tile.repeat(1, 4, 4)[:, :14], atol=1e-6)
    assert (copied[0, :, :8] == 0).all() and (copied[0, :, :, :12] == 0).all()


def test_what_is_off_at_the_rim_is_spread_over_the_hole() -> None:
    """Seen on the known cells that matched patches cover, and nowhere else."""
    hole = center(58, 62, 22)
    cells = feature_hole(hole)[None]
    match = patchswap.swap(noise(1, 4, *cells.shape[1:]), hole=cells, return_match=True)[1]
    covered = F.max_pool2d(F.pad((match.index >= 0)[:, None].float(), (2, 2, 2, 2)), 3, stride=1) > 0
    seen = F.interpolate((covered & ~cells[:, None]).float(), scale_factor=4)[..., :58, :62].expand(1, 3, 58, 62) > 0
    residual = torch.where(seen, 0.25, torch.full((1, 3, 58, 62), 7.0))
    off = _off_at_rim(residual, match.index, cells)
    assert torch.allclose(off[..., hole], torch.tensor(0.25), atol=1e-6)
    assert (off[..., :8, :] == 0).all() and (off[..., :, -8:] == 0).all()
    assert torch.equal(_off_at_rim(residual, torch.full_like(match.index, -1), cells), torch.zeros_like(residual))
