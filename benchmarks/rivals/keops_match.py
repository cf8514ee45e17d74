"""KeOps' symbolic matrices (Charlier et al. 2021): the arg-max over keys as a map-reduce kernel compiled on demand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cases import Case
from torch import Tensor

from rivals.rival import Rival, inverse_norms, missing_module, patch_view


class KeopsMatch(Rival):
    name = "keops-argmax"
    label = "KeOps arg-max, fp32"
    devices = ("cuda",)
    compile_seconds = 30.0

    def unavailable(self, device: str) -> str | None:
        return missing_module("pykeops")

    def memory(self, case: Case, **settings: Any) -> float:
        return 4.0 * (case.features.numel() + (case.queries + 2 * case.keys) * case.depth)

    def prepare(self, case: Case, **settings: Any) -> Callable[[], Tensor]:
        from pykeops.torch import LazyTensor

        usable = case.key_mask.flatten().nonzero()[:, 0]

        def run() -> Tensor:
            patches = patch_view(case.features)
            queries = patches[case.query_mask[0]].flatten(1)
            keys = patches[case.key_mask[0]].flatten(1)
            keys *= inverse_norms(case.features)[case.key_mask[0]][:, None]
            scores = (LazyTensor(queries[:, None]) * LazyTensor(keys[None])).sum(-1)
            return usable[scores.argmax(dim=1)[:, 0]]

        return run
