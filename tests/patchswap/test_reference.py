"""The reference itself, against a triple loop written from the definition."""

from __future__ import annotations

import pytest
import torch

from patchswap import reference


def slow_match(query, key, query_mask, key_mask, patch_size, topk):
    batch, _, height, width = query.shape
    rows, columns = height - patch_size + 1, width - patch_size + 1
    key_columns = key.shape[3] - patch_size + 1
    index = torch.full((batch, topk, rows, columns), -1)
    score = torch.full((batch, topk, rows, columns), -torch.inf, dtype=torch.float64)
    for b, y, x in torch.cartesian_prod(torch.arange(batch), torch.arange(rows), torch.arange(columns)).tolist():
        if not query_mask[b, y, x]:
            continue
        q = query[b, :, y : y + patch_size, x : x + patch_size]
        scores = []
        for v, u in key_mask[b].nonzero().tolist():
            k = key[b, :, v : v + patch_size, u : u + patch_size]
            norm = float(q.norm() * k.norm())
            scores.append((-float((q * k).sum()) / norm if norm else 0.0, v * key_columns + u))
        for rank, (value, position) in enumerate(sorted(scores)[:topk]):
            index[b, rank, y, x], score[b, rank, y, x] = position, -value
    return index, score


@pytest.mark.parametrize("patch_size", range(1, 7))
@pytest.mark.parametrize("topk", [1, 3])
def test_match(patch_size, topk, monkeypatch):
    monkeypatch.setattr(reference, "SCORES_PER_CHUNK", 40)  # several chunks
    query, key = torch.randn(2, 3, 7, 6).double(), torch.randn(2, 3, 6, 8).double()
    key[0, :, :5, :5] = 0
    query_mask = torch.rand(2, 8 - patch_size, 7 - patch_size) < 0.7
    key_mask = torch.rand(2, 7 - patch_size, 9 - patch_size) < 0.5
    index, score, _ = reference.match(query, key, query_mask, key_mask, patch_size, topk)
    expected_index, expected_score = slow_match(query, key, query_mask, key_mask, patch_size, topk)
    assert torch.equal(index, expected_index)
    torch.testing.assert_close(score, expected_score)


@pytest.mark.parametrize("patch_size", range(1, 8))
def test_fold(patch_size):
    key, base = torch.randn(2, 3, 7, 6).double(), torch.randn(2, 3, 8, 9).double()
    rows, columns, keys = 9 - patch_size, 10 - patch_size, (8 - patch_size) * (7 - patch_size)
    index = torch.randint(-1, keys, (2, rows, columns)).where(torch.rand(2, rows, columns) < 0.3, -1)
    expected = torch.zeros_like(base)
    for b in range(2):
        for y in range(8):
            for x in range(9):
                covering = []
                for row in range(max(0, y - patch_size + 1), min(rows, y + 1)):
                    for column in range(max(0, x - patch_size + 1), min(columns, x + 1)):
                        position = int(index[b, row, column])
                        if position >= 0:
                            top, left = divmod(position, 7 - patch_size)
                            covering.append(key[b, :, top + y - row, left + x - column])
                expected[b, :, y, x] = torch.stack(covering).mean(0) if covering else base[b, :, y, x]
    torch.testing.assert_close(reference.fold(index, key, base, 8, 9, patch_size), expected)
    without_base = reference.fold(index, key, None, 8, 9, patch_size)
    uncovered = reference.cover_count(index, 8, 9, patch_size)[:, None] == 0
    assert bool(uncovered.any())
    torch.testing.assert_close(without_base, expected.masked_fill(uncovered, 0))


@pytest.mark.parametrize("patch_size", range(1, 8))
def test_fold_backward_is_the_transpose(patch_size):
    key, grad = torch.randn(2, 3, 7, 6).double(), torch.randn(2, 3, 8, 9).double()
    index = torch.randint(-1, (8 - patch_size) * (7 - patch_size), (2, 9 - patch_size, 10 - patch_size))
    forward = (reference.fold(index, key, None, 8, 9, patch_size) * grad).sum()
    backward = (reference.fold_backward(grad, index, 7, 6, patch_size) * key).sum()
    torch.testing.assert_close(forward, backward)
