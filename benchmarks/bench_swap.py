"""patch-swap whole, match and fold, against the two forms people use today, side by side in one run.

    pytest benchmarks --benchmark-only

Sizes are image/hole in pixels, features those of a photograph (cases.py). All forms fill the same hole with the same
patches; each benchmark checks that before it is timed.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import Case, make_case
from rivals import matrix_product, style_swap
from torch import Tensor

import patchswap

FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ours": lambda features, hole: patchswap.swap(features, hole=hole),
    "matrix_form": matrix_product.swap,
    "convolution_form": style_swap.swap,
}


@pytest.fixture(scope="module", params=["256/112", "512/224"])
def case(request: pytest.FixtureRequest) -> Case:
    return make_case(request.param, "photo")


@pytest.fixture(scope="module")
def expected(case: Case) -> Tensor:
    with torch.inference_mode():
        return matrix_product.swap(case.features, case.hole)


@pytest.mark.parametrize("form", FORMS)
def test_swap(benchmark, case: Case, expected: Tensor, form: str) -> None:
    with torch.inference_mode():
        result = FORMS[form](case.features, case.hole)
        differing = ((result - expected).abs().amax(1) > 1e-3).sum() / case.hole.sum()
        assert differing < 0.01  # near-ties may be decided by rounding
        benchmark.group = f"swap {case.size}"
        benchmark.pedantic(FORMS[form], args=(case.features, case.hole), rounds=7, warmup_rounds=1)
