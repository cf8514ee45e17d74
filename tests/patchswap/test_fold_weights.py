"""fold with weights, and of the k best: its values and its gradient with respect to weights."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import vmap

import patchswap
from patchswap import contract, ops, reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def tolerance(dtype):
    # One rounding to the result's dtype, and a few of the sum.
    return {"rtol": 4 * torch.finfo(dtype).eps, "atol": 8 * torch.finfo(dtype).eps}


def problem(dtype, patch_size=3, batch=2, channels=3, size=(11, 7), key_size=(9, 8), device="cpu", ranks=None):
    """index with gaps, key, base, and weights of which a fifth are 0."""
    key, base = (torch.randn(batch, channels, *one, device=device).to(dtype) for one in (key_size, size))
    shape = (batch, *(() if ranks is None else (ranks,)), *contract.patch_grid(*size, patch_size))
    key_rows, key_columns = contract.patch_grid(*key_size, patch_size)
    index = torch.where(torch.rand(shape) < 0.5, torch.randint(0, max(key_rows * key_columns, 1), shape), -1)
    weights = torch.where(torch.rand(shape) < 0.2, 0, torch.rand(shape, dtype=contract.accumulation_dtype(dtype)))
    index = torch.full_like(index, -1) if key_rows == 0 else index
    return index.to(device), key, base, weights.to(device)


def slow_fold(index, key, base, weights, patch_size):
    """Cell by cell in float64, as the docstring has it: sum(w * copy) / sum(w), or base."""
    key, result = key.double(), base.double().clone()
    if index.dim() == 3:
        index, weights = index[:, None], weights[:, None]
    _, ranks, rows, columns = index.shape
    for b, y, x in itertools.product(*map(range, (result.shape[0], *result.shape[2:]))):
        total, sum_of_weights = torch.zeros(result.shape[1], dtype=torch.float64), 0.0
        for rank, dy, dx in itertools.product(range(ranks), range(patch_size), range(patch_size)):
            row, column = y - dy, x - dx
            if 0 <= row < rows and 0 <= column < columns and index[b, rank, row, column] >= 0:
                top, left = divmod(int(index[b, rank, row, column]), key.shape[3] - patch_size + 1)
                weight = float(weights[b, rank, row, column])
                total += weight * key[b, :, top + dy, left + dx]
                sum_of_weights += weight
        if sum_of_weights > 0:
            result[b, :, y, x] = total / sum_of_weights
    return result


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("patch_size", range(1, 8))
@pytest.mark.parametrize("ranks", [None, 1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_is_the_weighted_mean(device, dtype, patch_size, ranks, layout):
    index, key, base, weights = problem(dtype, patch_size, device=device, ranks=ranks)
    result = patchswap.fold(
        index, key.to(memory_format=layout), patch_size=patch_size, base=base.to(memory_format=layout), weights=weights
    )
    assert result.dtype == dtype and result.is_contiguous()
    expected = slow_fold(index.cpu(), key.cpu(), base.cpu(), weights.cpu(), patch_size)
    torch.testing.assert_close(result.double().cpu(), expected, **tolerance(dtype))
    plain = reference.fold(index, key, base, *base.shape[2:], patch_size, weights)
    torch.testing.assert_close(result, plain, **tolerance(dtype))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(0, 12)] * 4),
    batch=st.integers(0, 3),
    patch_size=st.integers(1, 7),
    ranks=st.sampled_from([None, 1, 2, 8]),
    seed=st.integers(0, 1 << 30),
)
def test_any_shape_forward_and_backward(sizes, batch, patch_size, ranks, seed):
    torch.manual_seed(seed)
    index, key, base, weights = problem(torch.float32, patch_size, batch, 2, sizes[:2], sizes[2:], ranks=ranks)
    grad = torch.randn_like(base)
    result = ops.fold(index, key, base, *sizes[:2], patch_size, weights)
    torch.testing.assert_close(result, reference.fold(index, key, base, *sizes[:2], patch_size, weights))
    found = ops.fold_backward(grad, index, *sizes[2:], patch_size, weights)
    expected = reference.fold_backward(grad, index, *sizes[2:], patch_size, weights)
    torch.testing.assert_close(found, expected)
    found = ops.fold_weights_backward(grad, index, key, result, weights, patch_size)
    expected = reference.fold_weights_backward(
        grad.double(), index, key.double(), result.double(), weights.double(), patch_size
    )
    scale = reference.fold_weights_backward(
        grad.double().abs(), index, key.double().abs(), -result.double().abs(), weights.double(), patch_size
    )
    assert bool(((found - expected).abs() <= 1e-5 * scale).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_weights_give_the_plain_mean(device, dtype):
    index, key, base, weights = problem(dtype, device=device)
    expected = patchswap.fold(index, key, base=base)
    for value in (1, 0.3, 1e-30, 1e37):
        result = patchswap.fold(index, key, base=base, weights=torch.full_like(weights, value))
        torch.testing.assert_close(result, expected, **tolerance(dtype))


@pytest.mark.parametrize("patch_size", [1, 3, 5])
def test_one_rank_is_an_index_without_ranks_bit_for_bit(device, patch_size):
    index, key, base, weights = problem(torch.float32, patch_size, device=device)
    grad, size = torch.randn_like(base), key.shape[2:]
    for one in (None, weights):
        ranked = None if one is None else one[:, None]
        result = ops.fold(index, key, base, 11, 7, patch_size, one)
        assert torch.equal(ops.fold(index[:, None], key, base, 11, 7, patch_size, ranked), result)
        gradient = ops.fold_backward(grad, index, *size, patch_size, one)
        assert torch.equal(ops.fold_backward(grad, index[:, None], *size, patch_size, ranked), gradient)
    gradient = ops.fold_weights_backward(grad, index, key, result, weights, patch_size)
    ranked = ops.fold_weights_backward(grad, index[:, None], key, result, weights[:, None], patch_size)
    assert torch.equal(ranked, gradient[:, None])


def test_ranks_without_weights_count_the_same(device):
    """The mean over all copies; a query may have fewer keys than ranks."""
    query, key = torch.randn(1, 4, 8, 9, device=device), torch.randn(1, 4, 3, 4, device=device)
    match = patchswap.match(query, key, topk=3)
    assert bool((match.index[:, 2] == -1).all()) and bool((match.index[:, 1] >= 0).all())
    each = [patchswap.fold(match.index[:, rank], key) for rank in range(2)]
    torch.testing.assert_close(patchswap.fold(match, key), (each[0] + each[1]) / 2)
    equal = torch.full_like(match.score, 0.7)
    torch.testing.assert_close(patchswap.fold(match, key, weights=equal), patchswap.fold(match, key))


def test_soft_attention_over_the_best_becomes_hard(device):
    """softmax(score / T) as weights, against plain torch; the colder, the nearer to the best key alone."""
    query, key = torch.randn(2, 6, 9, 10, device=device), torch.randn(2, 6, 8, 11, device=device)
    values = torch.randn(2, 3, 8, 11, device=device)
    match = patchswap.match(query, key, topk=4)
    hard = patchswap.fold(match.index[:, 0], values)
    differences = []
    for temperature in (1.0, 0.1, 0.01, 1e-6):
        weights = torch.softmax(match.score / temperature, dim=1)
        soft = patchswap.fold(match, values, weights=weights)
        total, count = torch.zeros(2, 3, 9, 10, device=device), torch.zeros(2, 1, 9, 10, device=device)
        patches = torch.nn.functional.unfold(values, 3)
        for rank in range(4):
            taken = match.index[:, rank].flatten(1)[:, None]
            share = weights[:, rank].flatten(1)[:, None]
            total += torch.nn.functional.fold(
                patches.gather(2, taken.expand(-1, 27, -1)) * share, (9, 10), kernel_size=3
            )
            count += torch.nn.functional.fold(share.expand(-1, 9, -1), (9, 10), kernel_size=3)
        torch.testing.assert_close(soft, total / count)
        differences.append(float((soft - hard).abs().max()))
    assert differences == sorted(differences, reverse=True)
    torch.testing.assert_close(soft, hard)


def test_a_common_factor_changes_nothing(device):
    index, key, base, weights = problem(torch.float32, device=device)
    expected = patchswap.fold(index, key, base=base, weights=weights)
    for factor in (1e-35, 3e-4, 7.0, 1e36):
        result = patchswap.fold(index, key, base=base, weights=weights * factor)
        torch.testing.assert_close(result, expected, **tolerance(torch.float32))
    for exponent in (-60, 5, 90):  # a power of two changes no bit
        assert torch.equal(patchswap.fold(index, key, base=base, weights=weights * 2.0**exponent), expected)


def test_weight_0_is_a_query_mask(device):
    """Bit for bit, whatever the patches left out hold; where nothing else lies, base comes through."""
    index, key, base, weights = problem(torch.float32, device=device)
    key[0, 0, 0, 0] = torch.nan
    weights[index == 0] = 0
    masked = patchswap.fold(index, key, base=base, weights=weights, query_mask=weights > 0)
    result = patchswap.fold(index, key, base=base, weights=weights)
    assert torch.equal(result, masked) and bool(result.isfinite().all())
    nothing = torch.zeros_like(weights)
    assert torch.equal(patchswap.fold(index, key, base=base, weights=nothing), base)
    assert not bool(patchswap.fold(index, key, weights=nothing).any())
    grad = torch.randn_like(base)
    assert torch.equal(
        ops.fold_backward(grad, index, 9, 8, 3, weights),
        ops.fold_backward(grad, index.masked_fill(weights == 0, -1), 9, 8, 3, weights),
    )


def test_a_cell_of_one_patch_is_its_copy_bit_for_bit(device):
    key = torch.randn(1, 3, 6, 6, device=device)
    index = torch.full((1, 4, 4), -1, device=device)
    index[0, 1, 1] = 5
    weights = torch.rand(1, 4, 4, device=device) * 1e-3
    result = patchswap.fold(index, key, weights=weights)
    assert torch.equal(result[..., 1:4, 1:4], key[..., 1:4, 1:4])


def test_strides_and_many_channels(device):
    """More channels than one thread takes, more covered cells than fit into one band, weights of any strides."""
    shape = {"batch": 2, "channels": 70, "size": (100, 120), "key_size": (40, 90), "device": device}
    index, key, base, weights = problem(torch.float32, **shape)
    strided = torch.empty(98, 118, 2, 2, device=device)[..., 1].permute(2, 0, 1).copy_(weights)
    planes = patchswap.fold(index, key, base=base, weights=weights)
    cells = patchswap.fold(index, key.to(memory_format=torch.channels_last), base=base, weights=strided)
    assert not strided.is_contiguous() and torch.equal(planes, cells)
    expected = reference.fold(index, key.double(), base.double(), 100, 120, 3, weights.double())
    torch.testing.assert_close(planes.double(), expected, rtol=1e-5, atol=1e-5)
    grad, transposed = torch.randn_like(base), torch.randn(2, 70, 90, 40, device=device).mT
    found = ops.fold_weights_backward(grad.to(memory_format=torch.channels_last), index, transposed, planes, strided, 3)
    again = ops.fold_weights_backward(grad, index, transposed.contiguous(), planes, weights, 3)
    torch.testing.assert_close(found, again, rtol=1e-4, atol=1e-3)  # plain torch sums in the order of the strides


@pytest.mark.parametrize(("patch_size", "ranks"), [(1, None), (3, None), (5, None), (2, 2), (3, 2), (4, None), (6, 1)])
def test_gradients(device, patch_size, ranks):
    shape = {"channels": 2, "size": (7, 7) if patch_size == 6 else (5, 7), "device": device, "ranks": ranks}
    index, key, base, weights = problem(torch.float64, patch_size, **shape)
    weights = (weights + 0.1).requires_grad_()
    key.requires_grad_(), base.requires_grad_()

    def fold(key, base, weights):
        return patchswap.fold(index, key, patch_size=patch_size, base=base, weights=weights)

    assert torch.autograd.gradcheck(fold, (key, base, weights))
    constant = weights.detach()
    assert torch.autograd.gradgradcheck(lambda key, base: fold(key, base, constant), (key, base), fast_mode=True)

    def gradient_of_key(grad, weights):
        return ops.fold_backward(grad, index, *key.shape[2:], patch_size, weights)

    grad = torch.randn_like(base).requires_grad_()
    assert torch.autograd.gradcheck(gradient_of_key, (grad, weights))


def test_gradient_where_weights_are_0(device):
    """One-sided at a weight of 0, 0 without a patch, and without cells that would step from base to the copy."""
    key = torch.randn(1, 2, 3, 5, dtype=torch.float64, device=device)
    index = torch.tensor([[[0, 2, 1, -1]]], device=device)
    weights = torch.tensor([[[0.5, 0.0, 0.0, 3.0]]], dtype=torch.float64, device=device, requires_grad=True)
    grad = torch.randn(1, 2, 3, 6, dtype=torch.float64, device=device)
    with torch.no_grad():
        grad[..., 3:] = 0  # cells that no patch of positive weight covers: fold steps there

    def value(weights):
        return (patchswap.fold(index, key, output_size=(3, 6), weights=weights) * grad).sum()

    (found,) = torch.autograd.grad(value(weights), weights)
    constant = weights.detach()
    for query in range(4):
        step = torch.zeros_like(constant)
        step[..., query] = 1e-6
        slope = (value(constant + step) - value(constant)) / 1e-6
        assert float(found[..., query]) == pytest.approx(float(slope), abs=1e-4)
    assert float(found[..., 3]) == 0 and float(found[..., 1].abs()) > 0


def test_the_gradient_of_weights_has_none(device):
    index, key, _, weights = problem(torch.float64, device=device)
    weights, key = (weights + 0.1).requires_grad_(), key.requires_grad_()
    result = patchswap.fold(index, key, weights=weights).square().sum()
    (gradient,) = torch.autograd.grad(result, weights, create_graph=True)
    with pytest.raises(RuntimeError, match="gradient with respect to weights has no gradient itself; take"):
        torch.autograd.grad(gradient.sum(), key)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_gradient_is_summed_in_float32(device, dtype):
    """One key patch used by 400 queries: a sum in half precision would stop growing at 256 or 2048."""
    index = torch.zeros(1, 20, 20, dtype=torch.int64, device=device)
    grad = torch.ones(1, 1, 20, 20, device=device).to(dtype)
    weights = torch.rand(1, 20, 20, device=device) + 0.1
    assert float(ops.fold_backward(grad, index, 3, 3, 1, weights)[0, 0, 0, 0]) == 400


@pytest.mark.parametrize("ranks", [None, 3])
@pytest.mark.parametrize("value", [-0.5, -torch.inf, torch.nan, torch.inf, 2e37])
def test_what_is_no_weight(value, ranks):
    """27 copies of weight 1e37 would have an infinite sum."""
    index, key, base, weights = problem(torch.float32, ranks=ranks)
    weights[1, ..., 2, 3] = value
    most = r"1e\+37" if ranks is None else r"1e\+35"
    calls = {
        "fold": (index, key, None, 11, 7, 3, weights),
        "fold_backward": (base, index, 9, 8, 3, weights),
        "fold_weights_backward": (base, index, key, base, weights, 3),
    }
    for name, arguments in calls.items():
        words = rf"{name}: weights must be numbers from 0 to {most}; got {value:g}".replace("2e+37", r"2e\+37")
        with pytest.raises((RuntimeError, ValueError), match=words):
            getattr(ops, name)(*arguments)
        with pytest.raises(ValueError, match=words):
            getattr(reference, name)(*arguments)


@pytest.mark.gpu
def test_what_is_no_weight_on_the_gpu():
    """It counts as 0, as the kernel does not wait for the device."""
    index, key, base, weights = problem(torch.float32, device="cuda")
    weights[:, ::3] = torch.tensor([-0.5, -torch.inf, torch.nan, torch.inf, 2e37], device="cuda")
    key.requires_grad_(), base.requires_grad_()
    results = []
    for one in (weights, torch.where((weights >= 0) & (weights <= 1e37), weights, 0)):
        result = patchswap.fold(index, key, base=base, weights=one.requires_grad_())
        results.append((result, *torch.autograd.grad(result.square().sum(), (key, base, one))))
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("ranks", [None, 2])
@pytest.mark.parametrize(("dtype", "requires_grad"), [(torch.float32, True), (torch.bfloat16, False)])
def test_opcheck(device, dtype, requires_grad, ranks):
    index, key, base, weights = problem(dtype, device=device, ranks=ranks)
    key, base, weights = (tensor.requires_grad_(requires_grad) for tensor in (key, base, weights))
    operators = torch.ops.patchswap
    torch.library.opcheck(operators.fold.default, (index, key, base, 11, 7, 3, weights))
    torch.library.opcheck(operators.fold.default, (index, key, None, 11, 7, 3), {"weights": weights})
    torch.library.opcheck(operators.fold_backward.default, (base, index, 9, 8, 3, weights))
    given = [tensor.detach() for tensor in (base, index, key, base, weights)]
    torch.library.opcheck(operators.fold_weights_backward.default, (*given, 3))


def test_compile_with_dynamic_shapes(device):
    """One compilation serves every size, forward and backward."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def loss(index, key, base, weights):
        one = patchswap.fold(index, key, base=base, weights=weights * 2)
        two = patchswap.fold(index[:, None].expand(-1, 2, -1, -1), key, base=base)
        return (one * two).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend=counter, dynamic=True)
    for size, key_size in (((9, 16), (11, 21)), ((12, 7), (9, 13)), ((30, 11), (13, 6))):
        index, *maps = problem(torch.float32, size=size, key_size=key_size, device=device)
        maps = [tensor.requires_grad_() for tensor in maps]
        torch.testing.assert_close(compiled(index, *maps), loss(index, *maps))
        found = torch.autograd.grad(compiled(index, *maps), maps)
        torch.testing.assert_close(found, torch.autograd.grad(loss(index, *maps), maps))
    assert counter.frame_count == 1


@pytest.mark.filterwarnings("error::UserWarning")  # torch warns where it has no rule and calls once for each
@pytest.mark.parametrize("ranks", [None, 2])
@pytest.mark.parametrize("in_dims", [(0, 0, 0), (None, 0, None), (None, None, 1)])
def test_vmap(device, in_dims, ranks):
    def paint(index, key, weights):
        output = patchswap.fold(index, key, weights=weights)
        gradient = ops.fold_backward(output, index, 9, 8, 3, weights)
        return output, gradient, ops.fold_weights_backward(output, index, key, output, weights, 3)

    samples = [problem(torch.float32, device=device, ranks=ranks) for _ in range(3)]
    index, key, weights = (
        torch.stack([sample[i] for sample in samples], at) if at is not None else samples[0][i]
        for i, at in zip((0, 1, 3), in_dims, strict=True)
    )
    found = vmap(paint, in_dims)(index, key, weights)
    for i in range(3):
        one = [
            tensor if at is None else tensor.select(at, i)
            for tensor, at in zip((index, key, weights), in_dims, strict=True)
        ]
        for result, expected in zip(found, paint(*one), strict=True):
            torch.testing.assert_close(result[i], expected, rtol=0, atol=1e-6)


def test_weights_of_half_precision_under_autocast(device):
    index, key, base, weights = problem(torch.bfloat16, device=device)
    half = weights.bfloat16()
    expected = patchswap.fold(index, key, base=base, weights=half.float())
    with torch.autocast(device, dtype=torch.bfloat16):
        result = patchswap.fold(index, key, base=base, weights=half)
    assert result.dtype == torch.bfloat16 and torch.equal(result, expected)
    with pytest.raises(TypeError, match="weights must be float32 where key is bfloat16; got bfloat16"):
        patchswap.fold(index, key, base=base, weights=half)
