from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import patchswap
from patchswap import ops

MATCH = torch.ops.patchswap.match.default
FOLD = torch.ops.patchswap.fold.default
FOLD_BACKWARD = torch.ops.patchswap.fold_backward.default


@pytest.mark.parametrize(("dtype", "requires_grad"), [(torch.float32, True), (torch.bfloat16, False)])
def test_opcheck(device, dtype, requires_grad):
    query = torch.randn(2, 3, 7, 8, device=device).to(dtype).requires_grad_(requires_grad)
    key = torch.randn(2, 3, 6, 9, device=device).to(dtype).requires_grad_(requires_grad)
    query_mask = torch.rand(2, 5, 6, device=device) < 0.5
    torch.library.opcheck(MATCH, (query, key, query_mask, None, 3, 2, "exact", "auto"))
    index = patchswap.match(query, key, query_mask=query_mask).index
    base = torch.randn(2, 3, 7, 8, device=device).to(dtype).requires_grad_(requires_grad)
    torch.library.opcheck(FOLD, (index, key, base, 7, 8, 3))
    torch.library.opcheck(FOLD, (index, key, None, 7, 8, 3))
    torch.library.opcheck(FOLD_BACKWARD, (base, index, 6, 9, 3))


@pytest.mark.parametrize(("dtype", "requires_grad"), [(torch.float32, True), (torch.bfloat16, False)])
def test_opcheck_of_cohere(device, dtype, requires_grad):
    query = torch.randn(2, 3, 7, 8, device=device).to(dtype).requires_grad_(requires_grad)
    key = torch.randn(2, 3, 6, 9, device=device).to(dtype).requires_grad_(requires_grad)
    query_mask, key_mask = torch.rand(2, 5, 6, device=device) < 0.8, torch.rand(2, 4, 7, device=device) < 0.8
    index = torch.randint(-1, 28, (2, 2, 5, 6), device=device)
    for arguments in ((index, query_mask, key_mask), (index[:, 1], None, None)):
        given, *masks = arguments
        torch.library.opcheck(torch.ops.patchswap.cohere.default, (given, query, key, *masks, 0.2, 4, 3))


def test_opcheck_of_convolve():
    features, weight, bias, skip = (torch.randn(shape) for shape in ((2, 3, 4, 5), (6, 5, 3, 3), (6,), (2, 2, 8, 10)))
    torch.library.opcheck(torch.ops.patchswap.convolve.default, (features, weight, bias, skip, 1, True, False, 0.2))


def test_opcheck_of_fill_smoothly(device):
    hole = torch.rand(2, 9, 6, device=device) < 0.5
    for layout in (torch.contiguous_format, torch.channels_last):
        image = torch.randn(2, 3, 9, 6, device=device).contiguous(memory_format=layout)
        torch.library.opcheck(torch.ops.patchswap.fill_smoothly.default, (image, hole))
        torch.library.opcheck(torch.ops.patchswap.fill_smoothly.default, (image[:, 1:, ::2], hole[:, ::2]))


@pytest.mark.skipif(ops.extension is None, reason="the extension is not built")
@pytest.mark.parametrize("name", list(ops.SCHEMAS))
def test_schemas_of_the_extension_and_of_the_fallback_agree(name):
    schema = getattr(torch.ops.patchswap, name).default._schema
    assert str(schema) == f"patchswap::{name}{ops.SCHEMAS[name]}"


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_without_graph_breaks(device, backend):
    features = torch.randn(2, 4, 10, 11, device=device, requires_grad=True)
    hole = torch.zeros(2, 10, 11, dtype=torch.bool, device=device)
    hole[:, 3:6, 4:8] = True

    def loss(features):
        return (patchswap.swap(features * 2, hole=hole, key_margin=1, coherence=0.2) ** 2).sum()

    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(features), loss(features))
    (gradient,) = torch.autograd.grad(compiled(features), features)
    (expected,) = torch.autograd.grad(loss(features), features)
    torch.testing.assert_close(gradient, expected)


def test_compile_with_dynamic_shapes(device):
    """One compilation serves every size of content and style, forward and backward."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def loss(content, style):
        return patchswap.swap(content, style, coherence=0.2).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend=counter, dynamic=True)
    for size, style_size in (((9, 10), (8, 14)), ((12, 7), (8, 9)), ((30, 11), (13, 6)), ((5, 64), (21, 40))):
        content, style = torch.randn(1, 3, *size, device=device), torch.randn(1, 3, *style_size, device=device)
        style.requires_grad_()
        torch.testing.assert_close(compiled(content, style), loss(content, style))
        (gradient,) = torch.autograd.grad(compiled(content, style), style)
        (expected,) = torch.autograd.grad(loss(content, style), style)
        torch.testing.assert_close(gradient, expected)
    assert counter.frame_count == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast(device, dtype):
    """match and cohere cast to float32, which also lets them take two dtypes; fold keeps the dtype of its key."""
    query, key = torch.randn(1, 5, 8, 8, device=device), torch.randn(1, 5, 8, 8, device=device).to(dtype)
    index, score, _ = MATCH(query, key.float(), None, None, 3, 1)
    coherent = patchswap.cohere(index, query, key.float(), weight=0.2)
    with torch.autocast(device, dtype=torch.bfloat16):
        mixed = torch.ops.patchswap.cohere(index, query, key, None, None, 0.2, 6, 3)
        assert all(torch.equal(a, b) for a, b in zip(mixed, coherent, strict=True))
        mixed_index, mixed_score, _ = MATCH(query, key, None, None, 3, 1)
        assert patchswap.fold(index[:, 0], key, output_size=(8, 8)).dtype == dtype
        assert patchswap.swap(key, key.flip(2)).dtype == dtype
    assert torch.equal(mixed_index, index) and torch.equal(mixed_score, score)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_public_functions_take_two_dtypes_under_autocast(device, dtype):
    """As the operators do; swap gives the wider dtype."""
    query, key = torch.randn(1, 5, 8, 8, device=device), torch.randn(1, 5, 8, 8, device=device).to(dtype)
    match = patchswap.match(query, key.float())
    coherent = patchswap.cohere(match, query, key.float(), weight=0.2)
    swapped = patchswap.swap(query, key.float(), coherence=0.2)
    with torch.autocast(device, dtype=dtype):
        for found, expected in (
            (patchswap.match(query, key), match),
            (patchswap.cohere(match, query, key, weight=0.2), coherent),
        ):
            assert torch.equal(found.index, expected.index) and torch.equal(found.score, expected.score)
        assert torch.equal(patchswap.swap(query, key, coherence=0.2), swapped)
        assert patchswap.swap(key, query).dtype == torch.float32
        compiled = torch.compile(patchswap.swap, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(query, key, coherence=0.2), swapped)
        with pytest.raises(TypeError, match="query and key must have the same dtype; got float64 and float32"):
            patchswap.match(query.double(), key)  # autocast leaves float64 alone
    with pytest.raises(TypeError, match="same dtype"):
        patchswap.match(query, key)


def test_inference_mode(device):
    with torch.inference_mode():
        features = torch.randn(1, 3, 6, 6, device=device)
        assert patchswap.swap(features, features).shape == features.shape


def test_build_info_describes_the_loaded_library():
    info = patchswap.build_info()
    assert info["extension"] is (ops.extension is not None)
    assert info["cpu_kernel"] in ("avx512vnni", "avx512", "avx2", "generic", "reference")
    assert (info["extension_error"] is None) == (info["extension_cause"] is None) == info["extension"]
    assert bool(info["cuda_architectures"]) == info["cuda_kernel"]


@pytest.mark.gpu
def test_runs_on_the_current_stream_inside_a_cuda_graph():
    query, key = torch.randn(1, 8, 12, 12, device="cuda"), torch.randn(1, 8, 12, 12, device="cuda")
    patchswap.swap(query, key)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = patchswap.swap(query, key)
    query.copy_(torch.randn_like(query))
    graph.replay()
    torch.testing.assert_close(result, patchswap.swap(query, key))


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_uses_the_device_of_its_arguments():
    features = torch.randn(1, 8, 12, 12, device="cuda:1")
    torch.testing.assert_close(patchswap.swap(features, features), features)
