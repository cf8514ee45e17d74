"""GEMM alone: what no form of a kind can undercut, and the peak that the rest is compared with.

Only the product is timed. Patches or cells are gathered before, scores are written into one small block over and over
and never looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cases import Case

from rivals.rival import Rival, patch_view


class Gemm(Rival):
    """The product of all queries with all keys: patches with patches ("direct"), or cells with cells ("cells")."""

    group = "limit"

    def __init__(self, shape: str, dtype: torch.dtype) -> None:
        short = {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]
        self.shape, self.dtype = shape, dtype
        self.name = f"gemm-{shape}-{short}"
        self.label = f"only the GEMM of {'patches' if shape == 'direct' else 'cells'}, {short}"

    def settings(self, device: str) -> list[dict[str, Any]]:
        return [{"key_block": block} for block in ((4096, 1024) if device == "cpu" else (32768, 8192))]

    def memory(self, case: Case, **settings: Any) -> float:
        rows, columns, depth = self.extents(case)
        return self.dtype.itemsize * (2.0 * (rows + columns) * depth + rows * settings["key_block"])

    def extents(self, case: Case) -> tuple[int, int, int]:
        if self.shape == "direct":
            return case.queries, case.keys, case.depth
        return int(case.query_cells.sum()), int(case.key_cells.sum()), case.channels

    def operations(self, case: Case) -> float:
        return case.direct_operations if self.shape == "direct" else case.cell_operations

    def prepare(self, case: Case, **settings: Any) -> Callable[[], None]:
        torch.backends.cuda.matmul.allow_tf32 = False
        if self.shape == "direct":
            patches = patch_view(case.features, self.dtype)
            queries, keys = (patches[mask[0]].flatten(1) for mask in (case.query_mask, case.key_mask))
        else:
            cells = case.features[0].permute(1, 2, 0).to(self.dtype)
            queries, keys = cells[case.query_cells], cells[case.key_cells]
        scores = queries.new_empty(queries.shape[0] * settings["key_block"])

        def run() -> None:
            for block in keys.split(settings["key_block"]):
                out = scores[: queries.shape[0] * block.shape[0]].view(queries.shape[0], block.shape[0])
                torch.mm(queries, block.T, out=out)

        return run


def peak_run(device: str, dtype: torch.dtype) -> tuple[Callable[[], Any], float]:
    """A large square product that shows what the machine can do: the function to time, and its operations."""
    torch.backends.cuda.matmul.allow_tf32 = False
    side = 3072 if device == "cpu" else 8192
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return lambda: left @ right.T, 2.0 * side**3
