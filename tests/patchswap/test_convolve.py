from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from patchswap import ops, reference


def exact(features, weight, bias=None, skip=None, *, dilation=1, doubled=False, replicate=False, slope=1.0):
    """The definition in float64."""
    given = (None if each is None else each.double() for each in (features, weight, bias, skip))
    return reference.convolution(*given, dilation, doubled, replicate, slope)


def assert_close(found, expected):
    assert found.shape == expected.shape and found.is_contiguous(memory_format=torch.channels_last)
    error = (found.double() - expected).abs().max() if expected.numel() else 0
    assert error <= 2e-5 * max(1, expected.abs().max() if expected.numel() else 0)


def random_case(size, channels, outputs, skipped, doubled, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scale = 2 if doubled else 1
    shapes = {
        "features": (2, channels, *size),
        "weight": (outputs, channels + skipped, 3, 3),
        "bias": (outputs,),
        "skip": (2, skipped, scale * size[0], scale * size[1]),
    }
    case = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    case["weight"] /= 3 * (channels + skipped) ** 0.5
    return case if skipped else {**case, "skip": None}


@pytest.mark.parametrize("doubled", [False, True])
@pytest.mark.parametrize("replicate", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4), (7, 9), (5, 50), (33, 6)])
@pytest.mark.parametrize(
    ("channels", "outputs", "skipped"), [(1, 1, 0), (3, 64, 0), (20, 33, 7), (64, 3, 0), (40, 16, 24)]
)
def test_it_is_the_convolution(size, channels, outputs, skipped, replicate, doubled):
    case = random_case(size, channels, outputs, skipped, doubled)
    found = ops.convolve(**case, doubled=doubled, replicate=replicate, slope=0.2)
    assert_close(found, exact(**case, doubled=doubled, replicate=replicate, slope=0.2))


@pytest.mark.parametrize("replicate", [False, True])
@pytest.mark.parametrize("dilation", [2, 3, 8, 40])
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (7, 30), (33, 6)])
def test_dilated(size, dilation, replicate):
    case = random_case(size, 12, 20, 4, False)
    found = ops.convolve(**case, dilation=dilation, replicate=replicate)
    assert_close(found, exact(**case, dilation=dilation, replicate=replicate))


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 23), st.integers(1, 23)),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 20),
    st.booleans(),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.integers(0, 99),
)
def test_any_size(size, channels, outputs, skipped, doubled, slope, seed):
    case = random_case(size, channels, outputs, skipped, doubled, seed)
    assert_close(ops.convolve(**case, doubled=doubled, slope=slope), exact(**case, doubled=doubled, slope=slope))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_makes_no_difference(threads):
    case = random_case((61, 83), 32, 24, 0, False)
    before = torch.get_num_threads()
    expected = ops.convolve(**case)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(ops.convolve(**case), expected)
    finally:
        torch.set_num_threads(before)


def test_any_strides():
    case = random_case((12, 9), 16, 8, 16, True)
    expected = ops.convolve(**case, doubled=True)
    last = {name: each.contiguous(memory_format=torch.channels_last) for name, each in case.items() if each.dim() == 4}
    torch.testing.assert_close(ops.convolve(**{**case, **last}, doubled=True), expected)
    wide = torch.randn(2, 24, 30, 20).contiguous(memory_format=torch.channels_last)
    part = wide[:, 4:20, 3:15, 2:11]
    assert_close(ops.convolve(part, case["weight"][:, :16]), exact(part, case["weight"][:, :16]))
    turned = case["features"].transpose(2, 3).contiguous().transpose(2, 3)
    torch.testing.assert_close(ops.convolve(**{**case, "features": turned}, doubled=True), expected)
    flipped = case["weight"].flip(1).contiguous().flip(1)
    assert torch.equal(ops.convolve(**{**case, "weight": flipped}, doubled=True), expected)


@pytest.mark.parametrize("convolve", [ops.convolve, exact], ids=["operator", "definition"])
@pytest.mark.parametrize("doubled", [False, True])
@pytest.mark.parametrize("shape", [(0, 4, 8, 8), (2, 4, 0, 8), (2, 4, 8, 0), (1, 0, 8, 8)])
def test_nothing_to_add_up(shape, doubled, convolve):
    features, weight, bias = torch.randn(shape), torch.randn(5, shape[1], 3, 3), torch.randn(5)
    found = convolve(features, weight, bias, doubled=doubled)
    assert found.shape == (shape[0], 5, *(length * (1 + doubled) for length in shape[2:]))
    assert torch.equal(found.float(), bias[:, None, None].expand_as(found))


@pytest.mark.parametrize("doubled", [False, True])
def test_channels_of_the_skip_alone(doubled):
    side = 4 if doubled else 8
    features, skip, weight = torch.randn(1, 0, side, side), torch.randn(1, 4, 8, 8), torch.randn(5, 4, 3, 3)
    expected = F.conv2d(skip.double(), weight.double(), padding=1)
    for convolve in (ops.convolve, exact):
        found = convolve(features, weight, skip=skip, doubled=doubled)
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_reaches_the_result(value):
    features, weight = torch.randn(1, 4, 20, 20), torch.randn(3, 4, 3, 3)
    features[0, 2, 9, 9] = value
    found = ops.convolve(features, weight, slope=0.0)
    assert not found[0, :, 8:11, 8:11].isfinite().any()
    expected = exact(features, weight, slope=0.0)
    assert torch.allclose(found[..., 12:].double(), expected[..., 12:], atol=1e-4)  # at most a tile further on


def test_it_is_not_for_training():
    case = {name: each.requires_grad_() for name, each in random_case((5, 6), 4, 3, 2, True).items()}
    with pytest.raises(RuntimeError, match="has no gradient; to train, call torch.nn.functional.conv2d"):
        ops.convolve(**case, doubled=True).sum().backward()


@pytest.mark.parametrize("dynamic", [False, True])
def test_it_compiles(dynamic):
    compiled = torch.compile(ops.convolve, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size in ((5, 6), (9, 4)):
        case = random_case(size, 4, 3, 2, True)
        torch.testing.assert_close(compiled(**case, doubled=True), ops.convolve(**case, doubled=True))
