"""FAISS' exact flat inner-product search (Johnson, Douze, Jégou 2017): unfold, normalise the keys, add, search."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from cases import Case
from torch import Tensor

from rivals.rival import Rival, inverse_norms, patch_view


class FlatIndex(Rival):
    """knn (CPU) or knn_gpu: neither keeps an index, both take the vectors as they are."""

    name = "faiss-flat"
    label = "FAISS flat inner product, fp32"

    def unavailable(self, device: str) -> str | None:
        if not importlib.util.find_spec("faiss"):
            return "faiss is not installed" + (": pip install faiss-cpu" if device == "cpu" else " (faiss-gpu)")
        import faiss

        return None if device == "cpu" or hasattr(faiss, "StandardGpuResources") else "faiss is built without CUDA"

    def settings(self, device: str) -> list[dict[str, Any]]:
        if device == "cuda":
            return [{}]
        blocks = ((4096, 4096), (1024, 4096), (4096, 1024))
        return [{"query_block": queries, "key_block": keys} for queries, keys in blocks]

    def memory(self, case: Case, **settings: Any) -> float:
        block = settings.get("query_block", 0) * settings.get("key_block", 0)
        return 4.0 * (case.features.numel() + (case.queries + 2 * case.keys) * case.depth + block)

    def prepare(self, case: Case, **settings: Any) -> Callable[[], Tensor]:
        import faiss

        usable = case.key_mask.flatten().nonzero()[:, 0]
        if case.features.is_cuda:
            import faiss.contrib.torch_utils  # noqa: F401  # lets faiss take tensors

            resources = faiss.StandardGpuResources()

            def search(queries: Tensor, keys: Tensor) -> Tensor:
                return faiss.knn_gpu(resources, queries, keys, 1, metric=faiss.METRIC_INNER_PRODUCT)[1]
        else:
            faiss.omp_set_num_threads(torch.get_num_threads())
            faiss.cvar.distance_compute_blas_query_bs = settings["query_block"]
            faiss.cvar.distance_compute_blas_database_bs = settings["key_block"]

            def search(queries: Tensor, keys: Tensor) -> Tensor:
                found = faiss.knn(queries.numpy(), keys.numpy(), 1, metric=faiss.METRIC_INNER_PRODUCT)[1]
                return torch.from_numpy(found)

        def run() -> Tensor:
            patches = patch_view(case.features)
            queries = patches[case.query_mask[0]].flatten(1)
            keys = patches[case.key_mask[0]].flatten(1)
            keys *= inverse_norms(case.features)[case.key_mask[0]][:, None]
            return usable[search(queries, keys)[:, 0]]

        return run
