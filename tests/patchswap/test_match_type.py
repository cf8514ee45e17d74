"""What a Match is to Python and to torch: a pair that carries its grid through pickle, compile, export and vmap."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim
from torch.func import vmap
from torch.utils import _pytree as pytree

import patchswap
from patchswap import Grid, Match


def maps(device="cpu", size=(6, 7), key_size=(8, 5), batch=2):
    query, key = torch.randn(batch, 4, *size, device=device), torch.randn(batch, 4, *key_size, device=device)
    values = torch.randn(batch, 2, 2 * key_size[0], 2 * key_size[1], device=device)
    return query, key, values


def test_offsets(device):
    """The flow from each query to its key; a roll of the map is found again."""
    key = torch.randn(1, 6, 9, 12, device=device)
    query = key.roll((2, -3), (2, 3))
    match = patchswap.match(query, key, padding=1)
    down, right = match.offsets()
    assert down.shape == right.shape == match.index.shape
    assert bool((down[:, 3:-1, 1:-4] == -2).all()) and bool((right[:, 3:-1, 1:-4] == 3).all())
    rows, columns = torch.arange(9, device=device)[:, None], torch.arange(12, device=device)
    assert torch.equal((rows + down) * 12 + columns + right, match.index)


def test_offsets_on_another_grid(device):
    query, key, _ = maps(device)
    query_mask = torch.rand(2, 4, 5, device=device) < 0.5
    match = patchswap.match(query, key, topk=3, query_mask=query_mask)
    down, right = match.offsets()
    rows, columns = torch.arange(4, device=device)[:, None], torch.arange(5, device=device)
    position = (rows + down) * 3 + columns + right  # three patches in a row of a key of five cells
    matched = match.index >= 0
    assert torch.equal(position[matched], match.index[matched])
    assert not bool(down[~matched].any()) and not bool(right[~matched].any())


def test_is_a_pair_with_a_grid(device):
    query, key, values = maps(device)
    match = patchswap.match(query, key, padding=1)
    index, score = match
    assert torch.equal(index, match.index) and torch.equal(score, match.score)
    assert match.grid == Grid((8, 5), 3, 1, "zeros")
    for other in (pickle.loads(pickle.dumps(match)), copy.deepcopy(match), copy.copy(match)):
        assert other.grid == match.grid and torch.equal(patchswap.fold(other, values), patchswap.fold(match, values))


def test_is_a_pytree(device):
    match = patchswap.match(*maps(device)[:2], padding=1)
    leaves, spec = pytree.tree_flatten([match])
    assert len(leaves) == 2
    (again,) = pytree.tree_unflatten(leaves, spec)
    assert isinstance(again, Match) and again.grid == match.grid
    (saved,) = pytree.tree_unflatten(leaves, pytree.treespec_loads(pytree.treespec_dumps(spec)))
    assert saved.grid == match.grid
    assert pytree.tree_map(lambda tensor: tensor[:1], match).index.shape == (1, 6, 7)


def multi_level(query, key, values):
    match = patchswap.match(query, key, padding=1)
    index, score = match
    down, right = match.offsets()
    return match, patchswap.fold(match, values), score.sum() + (index - down - right).sum()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_without_graph_breaks(device, backend):
    torch._dynamo.reset()
    given = maps(device)
    compiled = torch.compile(multi_level, fullgraph=True, backend=backend)
    match, pasted, total = compiled(*given)
    expected_match, expected, expected_total = multi_level(*given)
    assert isinstance(match, Match) and match.grid == expected_match.grid
    assert torch.equal(match.index, expected_match.index)
    torch.testing.assert_close((pasted, total), (expected, expected_total))
    wrong = given[2][..., :-2]
    with pytest.raises(Exception, match="must have the height and width of the key that was matched"):
        compiled(*given[:2], wrong)
    as_argument = torch.compile(patchswap.fold, fullgraph=True, backend=backend)
    torch.testing.assert_close(as_argument(match, given[2]), expected)


def test_compile_with_dynamic_shapes(device):
    """One compilation serves every size, with padding, values of a finer level and one key for all samples."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def loss(query, key, values):
        levels, match = patchswap.swap(
            query, key, values=(key, values), padding=1, padding_mode="reflect", divisor=9, return_match=True
        )
        return sum(level.square().sum() for level in levels) + match.score.sum()

    compiled = torch.compile(loss, fullgraph=True, backend=counter, dynamic=True)
    counts = []  # of the backend's calls; one compilation makes two of them where it specialises a number
    for size, key_size in (((9, 10), (8, 14)), ((12, 7), (8, 9)), ((30, 11), (13, 6)), ((5, 64), (21, 40))):
        query, key, values = maps(device, size, key_size)
        key, values = key[:1].clone().requires_grad_(), values.requires_grad_()
        torch.testing.assert_close(compiled(query, key, values), loss(query, key, values))
        found = torch.autograd.grad(compiled(query, key, values), (key, values))
        torch.testing.assert_close(found, torch.autograd.grad(loss(query, key, values), (key, values)))
        counts.append(counter.frame_count)
    assert len(set(counts)) == 1


def test_compiled_hole_with_values_of_any_size(device):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    module = patchswap.nn.PatchSwap(padding=1, padding_mode="replicate", key_margin=1, coherence=0.1)
    compiled = torch.compile(module, fullgraph=True, backend=counter, dynamic=True)
    counts = []
    for size in ((9, 10), (12, 7), (8, 30)):
        features, _, _ = maps(device, size)
        fine = torch.randn(2, 2, 4 * size[0], 4 * size[1], device=device)
        hole = torch.zeros(2, 1, *size, dtype=torch.bool, device=device)
        hole[..., 3:6, 2:5] = True
        found = compiled(features, values=(features, fine), hole=hole)
        torch.testing.assert_close(found, module(features, values=(features, fine), hole=hole))
        counts.append(counter.frame_count)
    assert len(set(counts)) == 1


class MultiLevel(torch.nn.Module):
    def forward(self, query, key, values):
        return multi_level(query, key, values)


def test_export_with_fixed_sizes(tmp_path):
    given = maps()
    torch.export.save(torch.export.export(MultiLevel(), given), tmp_path / "program.pt2")
    match, pasted, _ = torch.export.load(tmp_path / "program.pt2").module()(*given)
    assert isinstance(match, Match) and match.grid == Grid((8, 5), 3, 1, "zeros")
    torch.testing.assert_close(pasted, multi_level(*given)[1])


def test_export_with_open_sizes():
    """The Match that comes out does not know its grid; inside the program it did."""
    height, width = Dim("height", min=4), Dim("width", min=4)
    sizes = {
        "query": {2: Dim("rows", min=4), 3: Dim("columns", min=4)},
        "key": {2: height, 3: width},
        "values": {2: 2 * height, 3: 2 * width},
    }
    program = torch.export.export(MultiLevel(), maps(), dynamic_shapes=sizes).module()
    for size, key_size in (((6, 7), (8, 5)), ((4, 20), (9, 11)), ((13, 5), (6, 4))):
        given = maps(size=size, key_size=key_size)
        match, pasted, total = program(*given)
        expected = multi_level(*given)
        assert match.grid is None and torch.equal(match.index, expected[0].index)
        torch.testing.assert_close((pasted, total), expected[1:])


@pytest.mark.filterwarnings("error::UserWarning")  # torch warns where it has no rule and calls once for each
def test_vmap(device):
    """A Match as the result of a mapped function, and as its argument."""
    query, key, values = (torch.stack(each) for each in zip(*(maps(device) for _ in range(3)), strict=True))
    match = vmap(lambda query, key: patchswap.match(query, key, padding=1))(query, key)
    assert isinstance(match, Match) and match.grid == Grid((8, 5), 3, 1, "zeros")
    pasted = vmap(patchswap.fold)(match, values)
    divided = vmap(lambda match, values: patchswap.fold(match, values, divisor=9))(match, values)
    shared = vmap(lambda query: patchswap.swap(query, key[0], values=values[0], padding=1))(query)
    for i in range(3):
        expected = patchswap.match(query[i], key[i], padding=1)
        assert torch.equal(match.index[i], expected.index)
        torch.testing.assert_close(pasted[i], patchswap.fold(expected, values[i]))
        torch.testing.assert_close(divided[i], patchswap.fold(expected, values[i], divisor=9))
        torch.testing.assert_close(shared[i], patchswap.swap(query[i], key[0], values=values[0], padding=1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(device, dtype):
    """Chosen in float32; values keep their dtypes."""
    query, key, values = maps(device)
    expected = patchswap.match(query, key.to(dtype).float(), padding=1)
    with torch.autocast(device, dtype=dtype):
        results, match = patchswap.swap(
            query, key.to(dtype), values=(values, values.to(dtype)), padding=1, return_match=True
        )
    assert torch.equal(match.index, expected.index) and torch.equal(match.score, expected.score)
    assert [result.dtype for result in results] == [torch.float32, dtype]
    assert torch.equal(results[0], patchswap.fold(expected, values))


def test_module_is_the_function(device):
    query, key, values = maps(device)
    settings = {"padding": 2, "padding_mode": "replicate", "coherence": 0.3, "sweeps": 2, "divisor": 25}
    module = patchswap.nn.PatchSwap(5, **settings)
    assert torch.equal(module(query, key), patchswap.swap(query, key, patch_size=5, **settings))
    found, match = module(query, key, values=(values,), return_match=True)
    expected, expected_match = patchswap.swap(query, key, values=(values,), patch_size=5, return_match=True, **settings)
    assert torch.equal(found[0], expected[0]) and torch.equal(match.index, expected_match.index)
    assert not list(module.parameters()) and not module.state_dict()
    assert str(module).startswith("PatchSwap(patch_size=5, padding=2, padding_mode='replicate', key_margin=0,")
    hole = torch.zeros(6, 7, dtype=torch.bool, device=device)
    hole[2:4, 3:5] = True
    filled = patchswap.nn.PatchSwap(key_margin=1)(query, hole=hole)
    assert torch.equal(filled, patchswap.swap(query, hole=hole, key_margin=1))
