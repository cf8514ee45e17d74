"""Strokes over maps larger than a tile, where each row of a tile of queries has columns of its own; narrow maps."""

from __future__ import annotations

import pytest
import torch

import patchswap
from patchswap import contract, masks_from_hole, ops
from patchswap.testing import assert_match_close

pytestmark = pytest.mark.skipif(ops.extension is None, reason="the extension is not built")


def strokes(height, width, kind):
    """A hole, (1, height, width): a diagonal, verticals, dots, a ring, all of one cell's width, or all but an edge."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    holes = {
        "diagonal": (rows * 2 - columns).abs() <= 1,
        "verticals": columns % 9 == 0,
        "dots": (rows % 5 == 0) & (columns % 7 == 3),
        "ring": ((rows - height // 2) ** 2 + (columns - width // 2) ** 2 - (min(height, width) // 3) ** 2).abs() < 60,
        "most": columns > 4,
    }
    return holes[kind][None]


@pytest.mark.parametrize("kind", ["diagonal", "verticals", "dots", "ring", "most"])
@pytest.mark.parametrize("patch_size", range(1, 8))
def test_strokes(kind, patch_size):
    height, width = 75, 140
    features = torch.randn(1, 3, height, width)
    query_mask, key_mask = masks_from_hole(strokes(height, width, kind), patch_size, 0)
    if not key_mask.any():  # dots this dense leave no patch of 5
        key_mask = torch.zeros_like(key_mask).index_fill_(2, torch.tensor([3, 77]), True)
    arguments = {"patch_size": patch_size, "query_mask": query_mask, "key_mask": key_mask}
    match = patchswap.match(features, features, **arguments, method="dense")
    assert_match_close(match, features, features, **arguments)
    pruned = patchswap.match(features, features, **arguments, method="pruned")
    assert torch.equal(pruned.index, match.index)
    assert torch.equal(pruned.score, match.score)


def test_every_query_is_found_again_wherever_its_tile_was_cut():
    features = torch.randn(1, 6, 140, 90)
    query_mask = torch.rand(1, *contract.patch_grid(140, 90, 3)) < 0.3
    for method in ("dense", "pruned"):
        match = patchswap.match(features, features, query_mask=query_mask, method=method)
        expected = torch.arange(query_mask.numel()).view_as(match.index)
        assert torch.equal(match.index, torch.where(query_mask, expected, -1))


def views(features):
    """The same numbers with other strides: channels last, columns before rows, every second column of a wider map."""
    wide = torch.zeros(*features.shape[:3], 2 * features.shape[3])
    wide[..., ::2] = features
    yield features
    yield features.to(memory_format=torch.channels_last)
    yield features.transpose(2, 3).contiguous().transpose(2, 3)
    yield wide[..., ::2]


@pytest.mark.parametrize("method", ["dense", "pruned"])
@pytest.mark.parametrize(
    "size, key_size", [((300, 1), (200, 1)), ((1, 300), (200, 1)), ((90, 3), (7, 40)), ((50, 6), (45, 5))]
)
def test_narrow_maps(method, size, key_size):
    """Rows and columns are exchanged inside: results and ties are the caller's."""
    query, key = torch.randn(2, 20, *size), torch.randn(2, 20, *key_size)
    for patch_size in range(1, 8):
        if min(*size, *key_size) < patch_size:
            continue
        masks = {
            "query_mask": torch.rand(2, *contract.patch_grid(*size, patch_size)) < 0.7,
            "key_mask": torch.rand(2, *contract.patch_grid(*key_size, patch_size)) < 0.7,
        }
        arguments = {"patch_size": patch_size, **masks}
        for query_view, key_view in zip(views(query), views(key), strict=True):
            match = patchswap.match(query_view, key_view, **arguments, topk=3, method=method)
            assert_match_close(match, query, key, **arguments)


@pytest.mark.parametrize("method", ["dense", "pruned"])
@pytest.mark.parametrize("patch_size", [1, 2, 3])
def test_ties_go_to_the_lowest_index_in_narrow_maps(method, patch_size):
    texture = torch.randn(1, 8, patch_size, patch_size)
    key = texture.repeat(1, 1, 60 // patch_size, 6 // patch_size)
    match = patchswap.match(texture, key, patch_size=patch_size, topk=4, method=method)
    columns = 6 - patch_size + 1
    equal = [row * columns + column for row in range(0, 60, patch_size) for column in range(0, columns, patch_size)]
    assert match.index.flatten().tolist() == sorted(equal)[:4]
