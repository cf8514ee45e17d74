"""A fused GEMM and arg-max in Triton: scores stay in registers, a running best per query goes to memory."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def best_key(
    queries,  # (query_count, depth) bfloat16
    keys,  # (key_count, depth) bfloat16
    scale,  # (key_count,) float32: 1 / norm of each key
    score,  # (splits, query_count) float32
    index,  # (splits, query_count) int32
    query_count,
    key_count,
    splits,
    depth: tl.constexpr,
    block_q: tl.constexpr,
    block_k: tl.constexpr,
    block_d: tl.constexpr,
):
    """One program: block_q queries and one of `splits` slices of the keys. depth must be a multiple of block_d."""
    # Neighbouring programs hold different queries and walk the same keys, which they find in the L2 cache.
    query_blocks = tl.cdiv(query_count, block_q)
    block, split = tl.program_id(0) % query_blocks, tl.program_id(0) // query_blocks
    rows = block * block_q + tl.arange(0, block_q)
    inside = rows < query_count
    inner = tl.arange(0, block_d)
    key_blocks = tl.cdiv(key_count, block_k)
    first, last = key_blocks * split // splits, key_blocks * (split + 1) // splits
    best = tl.full((block_q,), float("-inf"), tl.float32)
    chosen = tl.zeros((block_q,), tl.int32)
    query_cells = queries + rows[:, None].to(tl.int64) * depth + inner[None, :]
    for key_block in range(first, last):
        columns = key_block * block_k + tl.arange(0, block_k)
        usable = columns < key_count
        key_cells = keys + columns[:, None].to(tl.int64) * depth + inner[None, :]
        total = tl.zeros((block_q, block_k), tl.float32)
        for start in range(0, depth, block_d):
            left = tl.load(query_cells + start, mask=inside[:, None], other=0.0)
            right = tl.load(key_cells + start, mask=usable[:, None], other=0.0)
            total = tl.dot(left, tl.trans(right), total)
        total = total * tl.load(scale + columns, mask=usable, other=0.0)[None, :]
        total = tl.where(usable[None, :], total, float("-inf"))
        block_best, block_chosen = tl.max(total, 1, return_indices=True)
        better = block_best > best
        best = tl.where(better, block_best, best)
        chosen = tl.where(better, block_chosen + key_block * block_k, chosen)
    place = split.to(tl.int64) * query_count + rows
    tl.store(score + place, best, mask=inside)
    tl.store(index + place, chosen, mask=inside)


tuned_best_key = triton.autotune(
    configs=[
        triton.Config({"block_q": q, "block_k": k, "block_d": d}, num_warps=warps, num_stages=stages)
        for q, k, d, warps, stages in (
            (64, 128, 64, 4, 4),
            (128, 64, 64, 4, 4),
            (128, 128, 64, 4, 3),
            (128, 128, 64, 8, 4),
            (128, 128, 128, 8, 2),
            (128, 256, 64, 8, 3),
            (128, 256, 64, 8, 4),
            (256, 128, 64, 8, 3),
            (256, 128, 64, 8, 4),
        )
    ],
    key=["query_count", "key_count", "depth"],
)(best_key)
