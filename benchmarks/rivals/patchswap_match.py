"""This package: patchswap.match with each kernel, and whole swaps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cases import PATCH_SIZE, Case
from torch import Tensor

import patchswap
from rivals.rival import Rival


class PatchswapMatch(Rival):
    """patchswap.match, from float32 features."""

    group = "ours"

    def __init__(self, method: str, precision: str, devices: tuple[str, ...]) -> None:
        self.method, self.precision, self.devices = method, precision, devices
        self.exact = precision == "exact"
        self.name = "ours" + ("" if method == "auto" else f"-{method}") + ("" if self.exact else "-fast")
        kernel = [] if method == "auto" else [method]
        self.label = ", ".join(["patchswap.match", *kernel, *([] if self.exact else ['precision="fast"'])])
        if method in ("mma", "wgmma"):
            self.dtype = torch.bfloat16

    def operations(self, case: Case) -> float | None:
        """Known where nothing is pruned: the per-cell identity, or each pair by the definition."""
        if self.method == "direct":
            return case.direct_operations
        return case.cell_operations if self.method in ("dense", "mma", "wgmma") else None

    def arguments(self, case: Case) -> dict[str, Any]:
        masks = {"query_mask": case.query_mask, "key_mask": case.key_mask}
        return {**masks, "patch_size": PATCH_SIZE, "topk": 1, "precision": self.precision, "method": self.method}

    def prepare(self, case: Case, **settings: Any) -> Callable[[], Tensor]:
        arguments = self.arguments(case)

        def run() -> Tensor:
            index, _, self.tally = torch.ops.patchswap.match(case.features, case.features, **arguments)
            return index[0, 0]

        return run

    def notes(self) -> dict[str, int]:
        scored_again, searched_in_full = self.tally.tolist()
        return {"pairs_scored_again": scored_again, "queries_searched_in_full": searched_in_full}


class PatchswapSwap(Rival):
    """patchswap.swap: match and fold; with a CUDA graph, without the cost of launching each kernel from Python."""

    group = "ours"

    def __init__(self, graph: bool) -> None:
        self.graph = graph
        self.name = "ours-swap-graph" if graph else "ours-swap"
        self.label = "patchswap.swap (match and fold)" + (", CUDA graph" if graph else "")
        self.devices = ("cuda",) if graph else ("cpu", "cuda")

    def operations(self, case: Case) -> None:
        return None

    def prepare(self, case: Case, **settings: Any) -> Callable[[], None]:
        def swap() -> None:
            patchswap.swap(case.features, hole=case.hole)

        if not self.graph:
            return swap
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            swap()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            swap()
        return graph.replay
