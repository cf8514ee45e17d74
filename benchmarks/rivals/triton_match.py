"""The Triton kernel behind an unfold, in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cases import Case
from torch import Tensor

from rivals.rival import Rival, inverse_norms, missing_module, patch_view


class TritonMatch(Rival):
    name = "triton-fused-bf16"
    label = "Triton, GEMM and arg-max fused, bf16"
    dtype = torch.bfloat16
    exact = False
    devices = ("cuda",)
    compile_seconds = 30.0

    def unavailable(self, device: str) -> str | None:
        return missing_module("triton")

    def memory(self, case: Case, **settings: Any) -> float:
        return 2.0 * (case.features.numel() + (case.queries + case.keys) * case.depth)

    def prepare(self, case: Case, **settings: Any) -> Callable[[], Tensor]:
        from triton import cdiv

        from rivals.triton_kernel import tuned_best_key

        usable = case.key_mask.flatten().nonzero()[:, 0]
        processors = torch.cuda.get_device_properties(case.features.device).multi_processor_count
        # Two programs for each multiprocessor at blocks of 128 queries, where there are enough keys.
        splits = max(1, min(2 * processors // cdiv(case.queries, 128), cdiv(case.keys, 256)))

        def run() -> Tensor:
            patches = patch_view(case.features, self.dtype)
            queries, keys = (patches[mask[0]].flatten(1) for mask in (case.query_mask, case.key_mask))
            scale = inverse_norms(case.features)[case.key_mask[0]]
            score = scale.new_empty(splits, case.queries)
            index = torch.empty_like(score, dtype=torch.int32)
            tuned_best_key[lambda block: (cdiv(case.queries, block["block_q"]) * splits,)](
                queries, keys, scale, score, index, case.queries, case.keys, splits, case.depth
            )
            winner = score.argmax(0, keepdim=True)
            return usable[index.gather(0, winner)[0].long()]

        return run
