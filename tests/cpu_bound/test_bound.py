"""The bound of the pruned CPU search holds for every pair of patches, and each of its terms is needed.

A mutant is the search with one term of the bound deleted. Each has an input on which that term decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import torch

KERNELS = {"separate": 0, "quads": 1, "avx2": 2, "avx512": 3, "avx512vnni": 4}


def natural(channels: int, height: int, width: int, rank: int = 6, noise: float = 0.05) -> torch.Tensor:
    coarse = torch.randn(1, min(rank, channels), height // 3 + 2, width // 3 + 2)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
    mixed = torch.einsum("cr,rhw->chw", torch.randn(channels, len(smooth)), smooth)
    return (mixed + noise * torch.randn(channels, height, width)).relu()


def planned_cases() -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """name, query, key: for the search's own axes and steps."""
    torch.manual_seed(0)
    query, key = natural(24, 9, 10), natural(24, 10, 9)
    yield "natural", query, key
    yield "noise", torch.randn(24, 9, 9), torch.randn(24, 9, 9)
    yield "negative", -query, key
    yield "tiny norms", query * 1e-10, key * 1e-10
    yield "huge norms", query * 1e16, key * 1e16
    yield "denormal queries", query * 1e-21, key
    yield "tiny and huge", query * 1e-9, key * 1e17
    yield "constant", torch.ones(24, 9, 9), key
    yield "all constant", torch.ones(24, 9, 9), torch.full((24, 9, 9), 3.0)
    near = torch.randn(24, 1, 1) + 1e-6 * torch.randn(24, 9, 9)
    yield "near-parallel", near, near.flip(1) * 1.7
    outlier = key.clone()
    outlier[:, 3, 3] *= 1e4
    outlier[5] *= 300
    yield "saturated cells and a strong channel", outlier, key
    sparse = torch.zeros(24, 9, 9)
    sparse[3, 4, 4], sparse[20, 7, 2] = 5, -1e-3
    yield "sparse", sparse, key
    yield "many channels", natural(300, 5, 5, rank=40), natural(300, 5, 6, rank=40)
    yield "one channel", natural(1, 9, 9), natural(1, 9, 9)


@pytest.mark.parametrize("kernel", KERNELS)
def test_bound_holds_on_all_pairs(all_variants, kernel):
    for name, query, key in planned_cases():
        for patch_size in (1, 2, 3, 5, 7):
            output = all_variants.check(query, key, patch_size, kernel=KERNELS[kernel])
            if output is None:
                pytest.skip(f"this machine has no {kernel}")
            assert not output.faults(), (name, patch_size, output.faults())
            assert output.refused or output.pairs > 0 or name == "denormal queries", name


def test_norms_too_small_for_the_bound_are_refused(all_variants):
    query, key = natural(24, 9, 10), natural(24, 10, 9)
    assert all_variants.check(query, key * 1e-16).refused
    assert all_variants.check(query, key * 0).refused
    assert not all_variants.check(query, key * 1e-11).refused


def biased(count: int) -> tuple[float, torch.Tensor, torch.Tensor]:
    """A unit vector (1, d, d, ...) / norm, a multiple of it, and the relative error of their product in float32.

    d is such that every addition of the product rounds up, by nearly half a unit in the last place.
    """
    best = (0.0, torch.ones(1), torch.ones(1))
    for percent in range(100, 120):
        vector = torch.full((count + 1,), math.sqrt(percent / 100 * 2.0**-24), dtype=torch.float64)
        vector[0] = 1
        vector = (vector / vector.norm()).float()
        multiple = vector * 1.01
        products = vector * multiple
        total = products[0]
        for _ in range(count):
            total = total + products[1]
        error = float(total.double() / (vector.double() * multiple.double()).sum()) - 1
        best = max(best, (error, vector, multiple), key=lambda candidate: candidate[0])
    return best


def cases(bound_fixture: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor, int, Any]]:
    """Inputs on which single terms decide: query, key, patch size, and axes and steps."""
    scheme = bound_fixture.Scheme
    torch.manual_seed(1)
    result = {}

    # Coordinates in whole eighths of a step: nothing is lost but the fraction of a step that the floor takes.
    eighths = torch.randint(-40, 41, (2, 8, 8, 8)) / 8
    result["whole eighths"] = (eighths[0], eighths[1], 3, scheme(torch.eye(8), 8, 1, 1, 1e12, 1, True))

    # Axes that hold the features, computed along the first of them with a rounding that always goes up.
    error, vector, multiple = biased(4096)
    assert error > 2e-4
    axis = torch.cat([vector, torch.zeros(1)])[None]
    along = torch.cat([multiple, torch.zeros(1)]).view(-1, 1, 1).repeat(1, 3, 3)
    rounding = scheme(axis, 1, 1 / 4000, 1 / 4000, 4000 / 0.06, 1)
    result["rounded coordinates"] = (along, along, 1, rounding)
    beside = along.clone()
    beside[-1] = math.sqrt(3e-4)
    result["rounded coordinates and a rest"] = (beside, along, 1, rounding)

    # Exact coordinates along e_0 and (0, 1, 1, ...) / 64; each of the 4,096 additions of the score rounds up.
    axes = torch.zeros(2, 4097)
    axes[0, 0], axes[1, 1:] = 1, 1 / 64
    features = torch.empty(2, 4097, 2, 2)
    features[:, 0] = 2900
    features[0, 1:], features[1, 1:] = 0.75, 0.6875
    result["rounded scores"] = (features[0], features[1], 1, scheme(axes, 2, 1, 1, 1e12, 1, True))

    # Sums of products beyond 2^31.
    large = torch.full((8, 4, 4), 4000.0)
    result["large numbers"] = (large, large, 1, scheme(torch.eye(8), 8, 1, 1, 1, 1, True))
    three = large.clone()
    three[3:] = 0
    result["three large numbers"] = (three, three, 1, scheme(torch.eye(8), 8, 1, 1, 1, 1, True))

    # Much is clipped, and lost on both sides.
    clipped = torch.zeros(4, 3, 3)
    clipped[0] = 10000
    result["clipped"] = (clipped, clipped, 1, scheme(torch.eye(4), 4, 1, 1, 4096 / 5904, 1, True))
    trailing = torch.zeros(6, 3, 3)
    trailing[3] = 300
    result["clipped trailing"] = (trailing, trailing, 1, scheme(torch.eye(6), 2, 1, 1, 1, 127 / 173, True))

    # Axes that are not orthogonal; features in their span, and a little off it.
    skew = torch.zeros(2, 4)
    skew[0, 0], skew[1, 0], skew[1, 1] = 1, 0.2, math.sqrt(1 - 0.04)
    top = (skew[0] + skew[1]) / (skew[0] + skew[1]).norm()
    inside = top.view(4, 1, 1) * torch.linspace(900, 1000, 9).view(1, 3, 3)
    result["skew axes"] = (inside, inside, 1, scheme(skew, 2, 1, 1, 1e4, 1))
    outside = inside.clone()
    outside[2] = inside.norm(dim=0) * 0.05
    result["skew axes and a rest"] = (outside, outside, 1, scheme(skew, 2, 1, 1, 1e4, 1))

    # Random cells with exact coordinates, a little off the axes: sums of squares rounded in float32.
    cells = torch.randn(80, 12, 12) * 1000
    cells[64:] *= 3e-5
    result["sums of squares"] = (cells, cells.flip(1), 1, scheme(torch.eye(80)[:64], 48, 1, 1, 1e3, 10, True))

    # Norms of 1e-19: products of the score are denormal, and each rounds up.
    small = torch.full((1024, 4, 4), 183 * 2.0**-77)
    step = 183 * 2.0**-77 * 32 / 3000
    result["denormal products"] = (small, small, 3, scheme(torch.full((1, 1024), 1 / 32), 1, step, step, 3e4, 1, True))

    result["natural"] = (natural(24, 9, 10), natural(24, 10, 9), 3, None)
    return result


class Mutant(NamedTuple):
    file: str
    text: str  # must occur once
    replacement: str
    case: str


MUTANTS = {
    "floor": Mutant("bound.h", "norm * norm + patch_size * patch_size;", "norm * norm;", "whole eighths"),
    "coordinate rounding in errors": Mutant(
        "bound.h", "slack = scheme.coordinate_rounding * norm;", "slack = 0;", "rounded coordinates"
    ),
    "coordinate rounding in the rest": Mutant(
        "kernels/encode.h",
        "along - scheme.coordinate_rounding * std::sqrt(square)",
        "along",
        "rounded coordinates and a rest",
    ),
    "coordinate rounding is forgotten": Mutant(
        "bound.h", "return sum_rounding(basis.channels + 8) *", "return 0 *", "rounded coordinates"
    ),
    "score rounding": Mutant(
        "bound.h", "sum_rounding(basis.channels + patch_size * patch_size + 32)", "0", "rounded scores"
    ),
    "score rounding is forgotten": Mutant("bound.h", "scheme.score_rounding * norm * norm +", "", "rounded scores"),
    "overflow guard": Mutant("coarse.h", "kMostLeadingSquare = 2.1e9f", "kMostLeadingSquare = 1e30f", "large numbers"),
    "overflow guard one bit late": Mutant(
        "coarse.h", "kMostLeadingSquare = 2.1e9f", "kMostLeadingSquare = 4.2e9f", "three large numbers"
    ),
    "lost leading part": Mutant("kernels/encode.h", "leading_error[i] = along_leading[i];", "", "large numbers"),
    "sizes without their errors": Mutant(
        "bound.h", "most_size = std::sqrt(size) + most_error;", "most_size = std::sqrt(size);", "clipped"
    ),
    "trailing errors": Mutant("bound.h", "leading + trailing + off_axis", "leading + off_axis", "clipped trailing"),
    "sums of squares not enlarged": Mutant(
        "kernels/encode.h", "kUp = static_cast<float>(1 + kSquaresRounding)", "kUp = 1", "sums of squares"
    ),
    "squares along axes not reduced": Mutant(
        "kernels/encode.h", "square_along * (1 - kSquaresRounding)", "square_along", "sums of squares"
    ),
    "deviation in the rest": Mutant(
        "kernels/encode.h", "least * least * (1 - scheme.basis.deviation)", "least * least", "skew axes and a rest"
    ),
    "deviation in scores": Mutant("bound.h", "1.2 * basis.deviation + ", "", "skew axes"),
    "off the axes": Mutant("bound.h", "leading + trailing + off_axis", "leading + trailing", "natural"),
    "off the leading axes": Mutant("bound.h", "std::sqrt(leading + off_leading)", "std::sqrt(leading)", "natural"),
    "half the bound": Mutant("coarse_packer.h", "factor = (is_query_ ? 1 :", "factor = (is_query_ ? 0.5 :", "natural"),
    "smallest norm": Mutant("bound.h", "kSmallestNorm = 1e-12", "kSmallestNorm = 0", "denormal products"),
    "rounding of full scores": Mutant(
        "bound.h",
        "return sum_rounding(cells * (channels / 16.0 + 64) + 8) + sum_rounding(channels + cells + 4);",
        "return 0 * cells;",
        "natural",
    ),
}


@pytest.fixture(scope="module")
def libraries(builder) -> Iterator[dict[str, Future]]:
    """The search as it is, under "none", and every mutant, compiled two at a time while tests run."""
    with ThreadPoolExecutor(max_workers=2) as executor:
        unchanged = {"none": executor.submit(builder.build)}
        changed = {name: executor.submit(builder.build_mutant, *mutant[:3]) for name, mutant in MUTANTS.items()}
        yield unchanged | changed
        executor.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def all_variants(builder):
    return builder.build(flags=["-O1", "-DPATCHSWAP_ALL_VARIANTS"])


@pytest.fixture(scope="module")
def all_cases(bound):
    return cases(bound)


@pytest.mark.parametrize("kernel", ["separate", "quads"])
def test_unchanged_search_passes(libraries, all_cases, kernel):
    for name, (query, key, patch_size, scheme) in all_cases.items():
        output = libraries["none"].result().check(query, key, patch_size, scheme, KERNELS[kernel])
        assert not output.faults(), (name, output.faults())
        assert output.refused == (name == "denormal products") and (output.refused or output.pairs > 0), name


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_fails(libraries, all_cases, name):
    library = libraries[name].result()  # a mutant that does not compile is an error of this test
    query, key, patch_size, scheme = all_cases[MUTANTS[name].case]
    output = library.check(query, key, patch_size, scheme)
    assert output.faults()
    print(f"{name}: {output.faults()} of {output.pairs} pairs")
