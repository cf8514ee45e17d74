"""cohere against match, on the CPU: what coherent patches cost.

    pytest benchmarks/development/bench_cohere.py --benchmark-only

Sizes are image/hole in pixels, features those of a photograph (cases.py), channels last as the networks leave
them. "ours" is match alone.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import Case, make_case

import patchswap
from patchswap import Match

WEIGHT = 0.1


def match(case: Case) -> Match:
    return patchswap.match(case.features, case.features, query_mask=case.query_mask, key_mask=case.key_mask)


def cohere(case: Case, found: Match) -> Match:
    masks = {"query_mask": case.query_mask, "key_mask": case.key_mask}
    return patchswap.cohere(found, case.features, case.features, weight=WEIGHT, **masks)


FORMS: dict[str, Callable[[Case, Match], Match]] = {
    "ours": lambda case, found: match(case),
    "match_and_cohere": lambda case, found: cohere(case, match(case)),
    "cohere": cohere,
}


@pytest.fixture(scope="module", params=["256/112", "512/224"])
def case(request: pytest.FixtureRequest) -> Case:
    made = make_case(request.param, "photo")
    features = made.features.contiguous(memory_format=torch.channels_last)
    return Case(made.size, made.kind, features, made.hole)


@pytest.mark.parametrize("form", FORMS)
def test_cohere(benchmark, case: Case, form: str) -> None:
    with torch.inference_mode():
        found = match(case)
        benchmark.group = f"cohere {case.size}"
        benchmark.pedantic(FORMS[form], args=(case, found), rounds=7, warmup_rounds=1)
