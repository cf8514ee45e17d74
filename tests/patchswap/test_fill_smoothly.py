from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchswap import ops, reference

SIZES = [(1, 1), (1, 2), (2, 1), (1, 37), (41, 1), (3, 3), (16, 16), (23, 41), (64, 64), (65, 96), (130, 127)]
HOLES = ["square", "blobs", "scattered", "nearly all", "all", "none"]
# In float32 torch's interpolation rounds where a cell lies, by more the larger the picture is. The kernels do not.
TOLERANCE = 4e-6 if ops.extension else 1e-3
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def make_hole(kind, batch, height, width, generator):
    """bool (B, H, W); every sample has another one."""
    if kind in ("all", "none"):
        return torch.full((batch, height, width), kind == "all")
    if kind == "square":
        hole = torch.zeros(batch, height, width, dtype=torch.bool)
        for sample in range(batch):
            hole[sample, height // 4 + sample : -(-3 * height // 4), width // 3 : width - sample] = True
        return hole
    share = {"blobs": 0.02, "scattered": 0.6, "nearly all": 0.98}[kind]
    hole = torch.rand(batch, 1, height, width, generator=generator) < share
    if kind == "blobs":
        hole = torch.nn.functional.max_pool2d(hole.float(), 5, 1, 2) > 0
    return hole[:, 0]


def make_case(kind, shape, layout=torch.contiguous_format, seed=0):
    """An image with NaN in its hole, and the hole; on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    batch, _, height, width = shape
    hole = make_hole(kind, batch, height, width, generator)
    image = torch.randn(shape, generator=generator).masked_fill(hole[:, None], torch.nan)
    return image.contiguous(memory_format=layout), hole


def assert_filled(filled, image, hole):
    """It is the float64 reference, up to rounding, and the image outside the hole."""
    expected = reference.smooth_fill(image.double(), hole)
    torch.testing.assert_close(filled.double(), expected, rtol=0, atol=TOLERANCE)
    assert torch.equal(torch.where(hole[:, None], 0, filled), torch.where(hole[:, None], 0, image))
    assert filled.dtype == image.dtype and filled.stride() == torch.empty_like(image).stride()


@pytest.mark.parametrize("layout", LAYOUTS, ids=["planes", "channels last"])
@pytest.mark.parametrize("kind", HOLES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_reference(device, size, kind, layout):
    for batch, channels in ((1, 3), (3, 2)):
        image, hole = (each.to(device) for each in make_case(kind, (batch, channels, *size), layout))
        assert_filled(ops.fill_smoothly(image, hole), image, hole)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 80), st.integers(1, 80)),
    st.sampled_from(HOLES),
    st.integers(0, 99),
)
def test_any_size(shape, kind, seed):
    image, hole = make_case(kind, shape, seed=seed)
    assert_filled(ops.fill_smoothly(image, hole), image, hole)


@pytest.mark.parametrize("size", [(512, 384), (1000, 701), (5, 9000)], ids=str)
def test_large_pictures(device, size):
    for kind in ("square", "scattered"):
        image, hole = (each.to(device) for each in make_case(kind, (1, 3, *size)))
        assert_filled(ops.fill_smoothly(image, hole), image, hole)


def test_reference_by_hand():
    """One row of four. The level above holds 1 and 3: half of its second cell is known, which is enough."""
    image = torch.tensor([1.0, 1.0, 3.0, 0.0], dtype=torch.float64).view(1, 1, 1, 4)
    hole = torch.tensor([False, False, False, True]).view(1, 1, 4)
    # Interpolated: 3, as beyond the last centre the last cell counts. A 3 x 3 mean of (3, x, x) is (3 + 2 x) / 3.
    assert torch.equal(reference.smooth_fill(image, hole), torch.tensor([[[[1.0, 1.0, 3.0, 3.0]]]]).double())
    hole = torch.tensor([False, True, False, True]).view(1, 1, 4)
    # Interpolated between 1 and 3: 1.5 and 3. Smoothed once: (1 + 1.5 + 3) / 3 and 3; twice: (1 + 5.5 / 3 + 3) / 3.
    expected = torch.tensor([1.0, (4 + 5.5 / 3) / 3, 3.0, 3.0], dtype=torch.float64).view(1, 1, 1, 4)
    torch.testing.assert_close(reference.smooth_fill(image, hole), expected)
    torch.testing.assert_close(ops.fill_smoothly(image.float(), hole), expected.float())


@pytest.mark.parametrize("kind", ["square", "scattered"])
def test_values_stay_in_the_range_of_the_known_pixels(device, kind):
    image, hole = (each.to(device) for each in make_case(kind, (3, 3, 61, 47)))
    filled = ops.fill_smoothly(image, hole)
    known = torch.where(hole[:, None], torch.nan, image).flatten(2)
    largest, lowest = known.nan_to_num(-torch.inf).amax(2), known.nan_to_num(torch.inf).amin(2)
    assert bool((filled.flatten(2).amax(2) <= largest + 1e-6).all())
    assert bool((filled.flatten(2).amin(2) >= lowest - 1e-6).all())


def test_continues_a_slope(device):
    slope = (torch.arange(64, device=device) / 64).expand(1, 3, 64, 64)
    hole = torch.zeros(1, 64, 64, dtype=torch.bool, device=device)
    hole[:, 20:44, 20:44] = True
    inside = hole[:, None].expand_as(slope)
    error = (ops.fill_smoothly(slope, hole) - slope).abs()[inside]
    assert error.mean() < 0.05 < (slope.mean() - slope)[inside].abs().mean()


def test_known_pixels_bit_for_bit_whatever_they_are(device):
    image = torch.tensor([-0.0, torch.inf, torch.nan, 1e38, 1e-42, -torch.inf]).expand(1, 2, 6, 6).to(device)
    hole = torch.zeros(1, 6, 6, dtype=torch.bool, device=device)
    hole[:, 2:4, 2:4] = True
    known = ~hole[:, None].expand_as(image)
    for filled in (ops.fill_smoothly(image, hole), reference.smooth_fill(image.double(), hole).float()):
        assert torch.equal(filled[known].view(torch.int32), image[known].view(torch.int32))


def test_what_the_hole_holds_does_not_matter(device):
    image, hole = (each.to(device) for each in make_case("blobs", (2, 3, 40, 50)))
    expected = ops.fill_smoothly(image, hole)
    for value in (0.0, torch.inf, 1e38):
        assert torch.equal(ops.fill_smoothly(image.nan_to_num(value), hole), expected)


def test_samples_and_channels_do_not_mix(device):
    image, hole = (each.to(device) for each in make_case("blobs", (3, 4, 40, 50)))
    hole[1] = True
    filled = ops.fill_smoothly(image, hole)
    assert bool((filled[1] == 0).all())
    for sample in range(3):
        for channel in range(4):
            one = ops.fill_smoothly(image[sample : sample + 1, channel : channel + 1], hole[sample : sample + 1])
            assert torch.equal(one[0, 0], filled[sample, channel])


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8), (2, 3, 0, 8), (2, 3, 8, 0)], ids=str)
def test_empty(device, shape):
    image = torch.randn(shape, device=device)
    hole = torch.ones(shape[0], *shape[2:], dtype=torch.bool, device=device)
    for filled in (ops.fill_smoothly(image, hole), reference.smooth_fill(image, hole)):
        assert filled.shape == shape and filled.dtype == image.dtype


def test_any_strides(device):
    image, hole = (each.to(device) for each in make_case("blobs", (2, 3, 40, 50)))
    expected = ops.fill_smoothly(image, hole)
    wide = torch.zeros(2, 5, 90, 120, device=device)
    for layout in LAYOUTS:
        part = wide.contiguous(memory_format=layout)[:, 1:4, 3:83:2, 7:107:2]
        part.copy_(image)
        assert torch.equal(ops.fill_smoothly(part, hole), expected)
    turned = image.mT.contiguous().mT
    assert torch.equal(ops.fill_smoothly(turned, hole.mT.contiguous().mT), expected)
    assert torch.equal(ops.fill_smoothly(image.flip(0, 1), hole.flip(0)), expected.flip(0, 1))
    same = image[:, :1].expand(-1, 3, -1, -1)
    assert torch.equal(ops.fill_smoothly(same, hole), expected[:, :1].expand(-1, 3, -1, -1))


def test_leaves_its_arguments_alone(device):
    image, hole = (each.to(device) for each in make_case("square", (1, 3, 20, 20)))
    before, hole_before = image.clone(), hole.clone()
    filled = ops.fill_smoothly(image, hole)
    assert filled.data_ptr() != image.data_ptr() and torch.equal(hole, hole_before)
    assert torch.equal(image.nan_to_num(7), before.nan_to_num(7))


@pytest.mark.skipif(ops.extension is None, reason="the extension is not built")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_makes_no_difference(threads):
    cases = [make_case(kind, (2, 3, 150, 201)) for kind in ("square", "scattered")]
    before = torch.get_num_threads()
    expected = [ops.fill_smoothly(*case) for case in cases]
    torch.set_num_threads(threads)
    try:
        assert all(torch.equal(ops.fill_smoothly(*case), filled) for case, filled in zip(cases, expected, strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(device, dtype):
    image, hole = (each.to(device) for each in make_case("blobs", (2, 3, 30, 21)))
    image = image.to(dtype)
    filled = ops.fill_smoothly(image, hole)
    expected = reference.smooth_fill(image.double(), hole)
    assert filled.dtype == dtype
    torch.testing.assert_close(filled.double(), expected, rtol=torch.finfo(dtype).eps, atol=TOLERANCE)
    assert torch.equal(torch.where(hole[:, None], 0, filled), torch.where(hole[:, None], 0, image))


def test_gradients(device):
    image = torch.randn(2, 1, 7, 6, dtype=torch.float64, device=device, requires_grad=True)
    hole = torch.rand(2, 7, 6, device=device) < 0.5
    assert torch.autograd.gradcheck(lambda image: ops.fill_smoothly(image, hole), (image,))
    assert torch.autograd.gradgradcheck(lambda image: ops.fill_smoothly(image, hole), (image,), fast_mode=True)


def test_float32_that_needs_a_gradient(device):
    image, hole = (each.to(device) for each in make_case("blobs", (2, 3, 30, 21)))
    needing = image.clone().requires_grad_()
    filled = ops.fill_smoothly(needing, hole)
    (gradient,) = torch.autograd.grad(filled.sum(), needing)
    assert bool((gradient[hole[:, None].expand_as(image)] == 0).all()) and bool(gradient.isfinite().all())
    torch.testing.assert_close(filled.detach(), ops.fill_smoothly(image, hole), rtol=0, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(ops.fill_smoothly(needing, hole), ops.fill_smoothly(image, hole))


def test_the_operator_says_that_it_has_no_gradient(device):
    image, hole = (each.to(device) for each in make_case("square", (1, 3, 9, 9)))
    filled = torch.ops.patchswap.fill_smoothly(image.requires_grad_(), hole)
    with pytest.raises(RuntimeError, match=r"no gradient; call patchswap\.ops\.fill_smoothly"):
        filled.sum().backward()


@pytest.mark.parametrize("needs_gradient", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_it_compiles(device, dynamic, needs_gradient):
    compiled = torch.compile(ops.fill_smoothly, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size in ((5, 6), (9, 4)):
        image, hole = (each.to(device) for each in make_case("square", (2, 3, *size), LAYOUTS[size[0] % 2]))
        image.requires_grad_(needs_gradient)
        expected = ops.fill_smoothly(image, hole)
        filled = compiled(image, hole)
        torch.testing.assert_close(filled, expected, rtol=0, atol=1e-6)
        assert filled.stride() == expected.stride()


@pytest.mark.gpu
def test_in_a_cuda_graph():
    image, hole = (each.cuda() for each in make_case("blobs", (2, 3, 150, 201)))
    ops.fill_smoothly(image, hole)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        filled = ops.fill_smoothly(image, hole)
    for _ in range(3):
        image.copy_(torch.randn_like(image))
        hole.copy_(hole.roll(7, dims=2))
        graph.replay()
        assert torch.equal(filled, ops.fill_smoothly(image, hole))


@pytest.mark.gpu
def test_runs_on_the_current_stream():
    """The image is written on a side stream after a long wait: a kernel on another stream would read zeros."""
    image, hole = (each.cuda() for each in make_case("square", (1, 3, 200, 200)))
    expected = ops.fill_smoothly(image, hole)
    late, stream = torch.zeros_like(image), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(image)
        filled = ops.fill_smoothly(late, hole)
    stream.synchronize()
    assert torch.equal(filled, expected)
