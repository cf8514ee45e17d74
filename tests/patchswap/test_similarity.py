"""The score of chosen pairs, and its gradients."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim
from torch.func import vmap
from torch.nn import functional as F

import patchswap
from patchswap import contract, ops, reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def problem(dtype, patch_size=3, batch=2, channels=5, size=(9, 7), key_size=(8, 11), ranks=None, device="cpu"):
    """query, key, and an index with gaps in which some keys are chosen often."""
    query, key = (torch.randn(batch, channels, *one, device=device).to(dtype) for one in (size, key_size))
    shape = (batch, *(() if ranks is None else (ranks,)), *contract.patch_grid(*size, patch_size))
    key_rows, key_columns = contract.patch_grid(*key_size, patch_size)
    keys = key_rows * key_columns
    index = torch.randint(0, max(keys, 1), shape)
    index = torch.where(torch.rand(shape) < 0.3, index % 3 % max(keys, 1), index)
    index = torch.where((torch.rand(shape) < 0.8) & (keys > 0), index, -1)
    return query, key, index.to(device)


def slow_similarity(query, key, index, patch_size):
    """Pair by pair, with torch's own cosine."""
    columns = key.shape[3] - patch_size + 1
    score = torch.full(index.shape, -torch.inf, dtype=torch.float64)
    for place in itertools.product(*map(range, index.shape)):
        chosen = int(index[place])
        if chosen >= 0:
            (y, x), (row, column) = place[-2:], divmod(chosen, columns)
            left = query[place[0], :, y : y + patch_size, x : x + patch_size].double()
            right = key[place[0], :, row : row + patch_size, column : column + patch_size].double()
            score[place] = F.cosine_similarity(left.flatten(), right.flatten(), dim=0)
    return score


def unfolded_similarity(query, key, index):
    """The lines of the docstring."""
    queries, keys = F.unfold(query, 3), F.unfold(key, 3)
    chosen = keys.gather(2, index.flatten(1)[:, None].expand(-1, keys.shape[1], -1))
    return F.cosine_similarity(queries, chosen, dim=1).view(index.shape)


def gradients(function, query, key, index, patch_size, grad):
    """Of query and key, with a gradient of NaN where there is no key."""
    query, key = query.clone().requires_grad_(), key.clone().requires_grad_()
    grad = torch.where(index >= 0, grad, torch.nan)
    return torch.autograd.grad(function(query, key, index, patch_size), (query, key), grad)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("patch_size", range(1, 8))
@pytest.mark.parametrize("ranks", [None, 1, 3])
def test_is_the_cosine(device, dtype, patch_size, ranks):
    query, key, index = problem(dtype, patch_size, ranks=ranks, device=device)
    score = patchswap.similarity(query, key, index, patch_size)
    sum_dtype = contract.accumulation_dtype(dtype)
    assert score.dtype == sum_dtype
    expected = slow_similarity(query.cpu(), key.cpu(), index.cpu(), patch_size)
    tolerance = 20 * torch.finfo(sum_dtype).eps
    torch.testing.assert_close(score.double().cpu(), expected, rtol=tolerance, atol=tolerance)
    plain = reference.similarity(query, key, index, patch_size)
    torch.testing.assert_close(score, plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("arguments", [{}, {"topk": 3}, {"patch_size": 1}, {"patch_size": 5, "topk": 2}])
def test_is_the_score_of_match(device, arguments):
    query, key = torch.randn(2, 70, 12, 9, device=device), torch.randn(2, 70, 8, 13, device=device)
    masks = {}
    for name, features in (("query_mask", query), ("key_mask", key)):
        grid = contract.patch_grid(*features.shape[2:], arguments.get("patch_size", 3))
        masks[name] = torch.rand(2, *grid, device=device) < 0.8
    match = patchswap.match(query, key, **masks, **arguments)
    score = patchswap.similarity(query, key, match, arguments.get("patch_size", 3))
    torch.testing.assert_close(score, match.score)
    assert torch.equal(torch.isneginf(score), match.index < 0)


def test_equals_the_lines_of_the_docstring(device):
    query, key = torch.randn(2, 8, 9, 10, device=device), torch.randn(2, 8, 7, 12, device=device)
    query.requires_grad_(), key.requires_grad_()
    index, grad = patchswap.match(query, key).index, torch.randn(2, 7, 8, device=device)
    found, expected = patchswap.similarity(query, key, index), unfolded_similarity(query, key, index)
    torch.testing.assert_close(found, expected)
    found = torch.autograd.grad(found, (query, key), grad)
    torch.testing.assert_close(found, torch.autograd.grad(expected, (query, key), grad))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("patch_size", range(1, 8))
@pytest.mark.parametrize("ranks", [None, 3])
def test_gradient_equals_the_reference(device, dtype, patch_size, ranks):
    query, key, index = problem(dtype, patch_size, ranks=ranks, device=device)
    grad = torch.randn(index.shape, device=device).to(contract.accumulation_dtype(dtype))
    found = gradients(patchswap.similarity, query, key, index, patch_size, grad)
    expected = [
        getattr(reference, name)(
            grad.double(),
            query.double(),
            key.double(),
            index,
            reference.similarity(query.double(), key.double(), index, patch_size),
            patch_size,
        )
        for name in ("similarity_query_backward", "similarity_key_backward")
    ]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(one.double(), other, rtol=4 * eps, atol=20 * eps)


def least_norm(features, patch_size):
    """Of the patches; 1 where all are longer, or there is none."""
    grid = contract.patch_grid(*features.shape[2:], patch_size)
    norms = F.unfold(features, patch_size).norm(dim=1) if 0 not in (*features.shape, *grid) else torch.ones(1)
    return norms.clamp(1e-6, 1).min().item()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(0, 12)] * 4),
    batch=st.integers(0, 3),
    channels=st.sampled_from([0, 1, 2, 17]),
    patch_size=st.integers(1, 7),
    ranks=st.sampled_from([None, 1, 8]),
    seed=st.integers(0, 1 << 30),
)
def test_any_shape_forward_and_backward(sizes, batch, channels, patch_size, ranks, seed):
    torch.manual_seed(seed)
    query, key, index = problem(torch.float32, patch_size, batch, channels, sizes[:2], sizes[2:], ranks)
    score = ops.similarity(query, key, index, patch_size)
    torch.testing.assert_close(score, reference.similarity(query, key, index, patch_size), rtol=1e-5, atol=1e-5)
    grad = torch.randn(index.shape)
    for name, like in (("similarity_query_backward", query), ("similarity_key_backward", key)):
        found = getattr(ops, name)(grad, query, key, index, score, patch_size)
        expected = getattr(reference, name)(grad, query, key, index, score, patch_size)
        assert found.shape == like.shape
        # Parts that are multiples of 1 / norm cancel out: in full where a patch has one number.
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 / least_norm(like, patch_size))


def test_layouts_are_the_same_bit_for_bit(device):
    """More channels than a slab has, in maps of any strides."""
    query, key, index = problem(torch.float32, channels=150, size=(20, 17), key_size=(13, 22), ranks=2, device=device)
    grad = torch.randn(index.shape, device=device)
    expected = patchswap.similarity(query, key, index), *gradients(patchswap.similarity, query, key, index, 3, grad)
    wide = torch.randn(2, 300, 20, 40, device=device)
    strided = wide[:, ::2, :, 3:37:2].copy_(query)
    layouts = [
        (query.to(memory_format=torch.channels_last), key),
        (strided, key.to(memory_format=torch.channels_last)),
        (query, key.mT.contiguous().mT),
    ]
    for query, key in layouts:
        assert not (query.is_contiguous() and key.is_contiguous())
        found = patchswap.similarity(query, key, index), *gradients(patchswap.similarity, query, key, index, 3, grad)
        assert all(map(torch.equal, found, expected))
    turned = index.transpose(2, 3).contiguous().transpose(2, 3)
    assert not turned.is_contiguous() and torch.equal(patchswap.similarity(query, key, turned), expected[0])


def test_threads_do_not_matter():
    query, key, index = problem(torch.float32, channels=80, size=(30, 31), key_size=(29, 33))
    grad, threads, results = torch.randn(index.shape), torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(
                (patchswap.similarity(query, key, index), *gradients(patchswap.similarity, query, key, index, 3, grad))
            )
    finally:
        torch.set_num_threads(threads)
    assert all(all(map(torch.equal, result, results[0])) for result in results)


@pytest.mark.parametrize(("patch_size", "ranks"), [(1, None), (2, None), (3, None), (3, 2), (5, None), (6, None)])
def test_gradcheck(device, patch_size, ranks):
    shape = {"channels": 2, "size": (6, 7), "key_size": (7, 6), "ranks": ranks, "device": device}
    query, key, index = problem(torch.float64, patch_size, **shape)
    query.requires_grad_(), key.requires_grad_()

    def masked(query, key):
        return patchswap.similarity(query, key, index, patch_size).where(index >= 0, 0)

    assert torch.autograd.gradcheck(masked, (query, key))


def test_one_of_two_gradients_and_one_map_twice(device):
    query, key, index = problem(torch.float64, device=device)
    (found,) = torch.autograd.grad(patchswap.similarity(query.requires_grad_(), key, index).clamp(min=-2).sum(), query)
    expected, _ = gradients(patchswap.similarity, query.detach(), key, index, 3, torch.ones_like(index).double())
    torch.testing.assert_close(found, expected)
    features = torch.randn(1, 2, 6, 6, dtype=torch.float64, device=device, requires_grad=True)
    index = torch.randint(0, 16, (1, 4, 4), device=device)
    assert torch.autograd.gradcheck(lambda x: patchswap.similarity(x, x, index), (features,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_norm(device, dtype):
    """Score and gradient 0, as match scores such patches; other patches with the same cells keep theirs."""
    query, key = (torch.randn(1, 4, 6, 6, device=device, dtype=dtype) for _ in range(2))
    query[..., :3, :3], key[..., 3:, 3:] = 0, torch.finfo(dtype).tiny  # whose squares vanish
    index = torch.randint(0, 15, (1, 4, 4), device=device)
    index[0, 3, 3] = 15
    score = patchswap.similarity(query, key, index)
    assert float(score[0, 0, 0]) == 0 and float(score[0, 3, 3]) == 0 and bool(score.isfinite().all())
    for place in ((0, 0), (3, 3)):
        grad = torch.zeros_like(score)
        grad[0, place[0], place[1]] = 1e30
        for gradient in gradients(patchswap.similarity, query, key, index, 3, grad):
            assert not bool(gradient.any())


@pytest.mark.parametrize("scales", [(1e-17, 1.0), (1e-17, 1e-17), (1e16, 1e-17), (1e16, 1e16), (1.0, 1e16)])
def test_gradient_near_the_ends_of_float32(device, scales):
    """The gradient goes with one over the norm of its own patch; one over the product of both would overflow."""
    query, key, index = problem(torch.float32, device=device)
    query, key = query * scales[0], key * scales[1]
    grad = 1e8 * torch.randn(index.shape, device=device)
    found = gradients(patchswap.similarity, query, key, index, 3, grad)
    score = reference.similarity(query.double(), key.double(), index, 3)
    arguments = grad.double(), query.double(), key.double(), index, score, 3
    torch.testing.assert_close(patchswap.similarity(query, key, index).double(), score, rtol=1e-5, atol=1e-5)
    for gradient, scale, name in zip(found, scales, ("query", "key"), strict=True):
        expected = getattr(reference, f"similarity_{name}_backward")(*arguments)
        unit = scale / 1e8
        torch.testing.assert_close(gradient.double() * unit, expected * unit, rtol=1e-4, atol=1e-5)


def test_not_finite(device):
    """NaN in one cell reaches the pairs of its patches only."""
    query, key, index = problem(torch.float32, size=(9, 9), device=device)
    query[0, 1, 0, 0] = torch.nan
    score = patchswap.similarity(query, key, index.clamp(min=0))
    assert bool(score[0, 0, 0].isnan()) and int(score.isfinite().logical_not().sum()) == 1
    key[0, 0, 0, 0] = 1e30  # its squared norm is beyond float32
    score = patchswap.similarity(query, key, torch.zeros_like(index))
    assert bool(score[0].isnan().all()) and bool(score[1].isfinite().all())


@pytest.mark.parametrize("padding", [0, 1])
def test_cells_of_no_pair_have_no_gradient(device, padding):
    """Whatever they hold."""
    query, key = (torch.randn(1, 3, 8, width, device=device) for width in (7, 9))
    query[..., 6:, :], key[..., 6:, :] = torch.nan, torch.inf
    rows, columns = 6 + 2 * padding, 5 + 2 * padding
    index = torch.full((1, rows, columns), -1, device=device)
    index[:, :3] = torch.randint(0, 4 * (7 + 2 * padding), (1, 3, columns), device=device)
    query.requires_grad_(), key.requires_grad_()
    score = patchswap.similarity(query, key, index, padding=padding)
    gradients = torch.autograd.grad(score[:, :3].sum(), (query, key))
    assert all(gradient.isfinite().all() and not gradient[..., 6:, :].any() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(device, dtype):
    """One key patch of 400 queries: a sum in half precision would stop growing."""
    query, key = torch.ones(1, 1, 20, 20, device=device).to(dtype), torch.ones(1, 2, 1, 1, device=device).to(dtype)
    query = torch.cat((query, torch.zeros_like(query)), 1)
    index = torch.zeros(1, 20, 20, dtype=torch.int64, device=device)
    _, gradient = gradients(patchswap.similarity, query, key, index, 1, torch.ones(1, 20, 20, device=device))
    torch.testing.assert_close(
        gradient.float().flatten(), torch.tensor([141.42, -141.42], device=device).to(dtype).float()
    )


@pytest.mark.parametrize(("dtype", "requires_grad"), [(torch.float32, True), (torch.bfloat16, False)])
@pytest.mark.parametrize("ranks", [None, 2])
@pytest.mark.parametrize("padding", [0, 2])
def test_opcheck(device, dtype, requires_grad, ranks, padding):
    query, key, index = problem(dtype, ranks=ranks, device=device)
    query, key = (
        each[..., padding or None : -padding or None, padding or None : -padding or None] for each in (query, key)
    )
    operators = torch.ops.patchswap
    arguments = query.requires_grad_(requires_grad), key.requires_grad_(requires_grad), index.clamp(min=0)
    torch.library.opcheck(operators.similarity.default, (*arguments, 3, padding))
    score = ops.similarity(*arguments, 3, padding).detach()
    arguments = torch.randn_like(score), query.detach(), key.detach(), index, score, 3, padding
    torch.library.opcheck(operators.similarity_query_backward.default, arguments)
    torch.library.opcheck(operators.similarity_key_backward.default, arguments)


def loss(query, key):
    """As a network for super-resolution trains: matching, weights by similarity, copies."""
    match = patchswap.match(query, key, topk=2)
    score = patchswap.similarity(query * 2, key, match.index)
    return patchswap.fold(match.index, key, weights=torch.softmax(score, 1)).square().sum() + score.mean()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_without_graph_breaks(device, backend):
    maps = [torch.randn(2, 4, *size, device=device, requires_grad=True) for size in ((9, 10), (8, 12))]
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(*maps), loss(*maps))
    found = torch.autograd.grad(compiled(*maps), maps)
    torch.testing.assert_close(found, torch.autograd.grad(loss(*maps), maps))


def test_compile_with_dynamic_shapes(device):
    """One compilation serves every size, forward and backward."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(loss, fullgraph=True, backend=counter, dynamic=True)
    for size, key_size in (((9, 10), (8, 14)), ((12, 7), (8, 9)), ((30, 11), (13, 6))):
        maps = [torch.randn(2, 3, *one, device=device, requires_grad=True) for one in (size, key_size)]
        torch.testing.assert_close(compiled(*maps), loss(*maps))
        found = torch.autograd.grad(compiled(*maps), maps)
        torch.testing.assert_close(found, torch.autograd.grad(loss(*maps), maps), rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1


class Similarity(torch.nn.Module):
    def forward(self, query, key):
        return patchswap.similarity(query, key, patchswap.match(query, key).index)


def test_export_with_sizes_left_open():
    maps = torch.randn(1, 4, 9, 10), torch.randn(1, 4, 12, 7)
    spec = {name: {2: Dim(f"{name}_height", min=4), 3: Dim(f"{name}_width", min=4)} for name in ("query", "key")}
    exported = torch.export.export(Similarity(), maps, dynamic_shapes=spec).module()
    for size, key_size in (((9, 10), (12, 7)), ((6, 31), (20, 8)), ((17, 6), (6, 9))):
        maps = torch.randn(1, 4, *size), torch.randn(1, 4, *key_size)
        torch.testing.assert_close(exported(*maps), Similarity()(*maps))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(device, dtype):
    """It runs in float32, so query and key may have two dtypes; gradients come in their own."""
    query, key, index = problem(torch.float32, device=device)
    half = key.to(dtype)
    expected = patchswap.similarity(query, half.float(), index)
    with torch.autocast(device, dtype=dtype):
        half.requires_grad_()
        for function in (patchswap.similarity, torch.ops.patchswap.similarity):
            found = function(query, half, index, 3)
            assert torch.equal(found, expected)
            (gradient,) = torch.autograd.grad(found.clamp(min=-2).sum(), half)
            assert gradient.dtype == dtype and bool(gradient.any())
    with pytest.raises(TypeError, match="same dtype"):
        patchswap.similarity(query, half, index)


@pytest.mark.filterwarnings("error::UserWarning")  # torch warns where it has no rule and calls once for each
@pytest.mark.parametrize("ranks", [None, 2])
@pytest.mark.parametrize("in_dims", [(0, 0, 0), (None, 0, None), (None, None, 1), (2, None, 0)])
def test_vmap(device, in_dims, ranks):
    def compare(query, key, index):
        score = patchswap.similarity(query, key, index)
        arguments = (torch.ones_like(score), query, key, index, score, 3)
        return score, ops.similarity_query_backward(*arguments), ops.similarity_key_backward(*arguments)

    samples = [problem(torch.float32, ranks=ranks, device=device) for _ in range(3)]
    arguments = [
        samples[0][i] if at is None else torch.stack([sample[i] for sample in samples], at)
        for i, at in enumerate(in_dims)
    ]
    found = vmap(compare, in_dims)(*arguments)
    for i in range(3):
        one = [tensor if at is None else tensor.select(at, i) for tensor, at in zip(arguments, in_dims, strict=True)]
        for result, expected in zip(found, compare(*one), strict=True):
            torch.testing.assert_close(result[i], expected, rtol=0, atol=1e-6)


def test_gradients_of_higher_order_are_refused(device):
    query, key, index = problem(torch.float64, device=device)
    query.requires_grad_(), key.requires_grad_()
    score = patchswap.similarity(query, key, index.clamp(min=0))
    (gradient,) = torch.autograd.grad(score.square().sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="patchswap.similarity: its gradient has no gradient itself; where"):
        torch.autograd.grad(gradient.sum(), key)


def test_what_is_kept_for_the_gradient(device):
    """The maps as they were given: nothing that has been padded."""
    query, key, _ = problem(torch.float32, device=device)
    match = patchswap.match(query, key, padding=1)
    query.requires_grad_(), key.requires_grad_()
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        score = patchswap.similarity(query, key, match)
    own = {each.data_ptr() for each in (query, key, match.index, score)}
    assert len(kept) == 4 and {each.data_ptr() for each in kept} == own


PEAK = """
import torch
from patchswap import ops

def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

def step(query, key, index):
    score = ops.similarity(query, key, index, 3)
    for backward in (ops.similarity_query_backward, ops.similarity_key_backward):
        backward(torch.ones_like(score), query, key, index, score, 3)

torch.set_num_threads(2)
query, key = torch.randn(1, 256, 200, 200), torch.randn(1, 256, 200, 200).to(memory_format=torch.channels_last)
index = torch.randint(0, 198 * 198, (1, 198, 198))
step(query[:, :8, :16, :16], key[:, :8, :16, :16], torch.zeros(1, 14, 14, dtype=torch.int64))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak counts from here
before = status("VmRSS")
step(query, key, index)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(ops.extension is None, reason="the extension is not built")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory():
    """A gradient of 39 MiB, a quarter of each map, some numbers for each cell; one map unfolded would be 350 MiB."""
    result = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert int(result.stdout) < (39 + 2 * 10 + 30) << 10


@pytest.mark.gpu
def test_index_beyond_the_last_key_on_the_gpu():
    """It counts as -1, as the kernel does not wait for the device."""
    query, key, index = problem(torch.float32, device="cuda")
    wrong = torch.where(index % 5 == 0, 54 + index, index)
    right = torch.where(index % 5 == 0, -1, index)
    grad = torch.randn(index.shape, device="cuda")
    for function in (patchswap.similarity, lambda *arguments: gradients(patchswap.similarity, *arguments, 3, grad)[1]):
        assert torch.equal(function(query, key, wrong), function(query, key, right))
