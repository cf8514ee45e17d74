"""Strokes over maps larger than a tile: each row of a tile of queries has columns of its own."""

from __future__ import annotations

import pytest
import torch

import patchswap
from patchswap import contract, ops
from patchswap.swap import masks_from_hole
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
@pytest.mark.parametrize("patch_size", [1, 3, 5])
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
