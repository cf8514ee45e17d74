"""The rivals of the benchmark choose the same keys as we do: a benchmark against a wrong rival would say nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import patchswap

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from cases import Case, make_case, make_hole, parse_size, photograph  # noqa: E402
from rivals import RIVALS, matrix_product, style_swap  # noqa: E402

MATCHING = [name for name, rival in RIVALS.items() if "cpu" in rival.devices and rival.group == "rival"]


@pytest.fixture(scope="module")
def case() -> Case:
    features = torch.randn(1, 12, 19, 23, generator=torch.Generator().manual_seed(0))
    hole = torch.zeros(1, 19, 23, dtype=torch.bool)
    hole[0, 5:9, 3:9] = hole[0, 12, 15:20] = True
    return Case("small", "random", features, hole)


def best_of_ours(case: Case) -> torch.Tensor:
    match = patchswap.match(case.features, case.features, query_mask=case.query_mask, key_mask=case.key_mask)
    return match.index[case.query_mask]


@pytest.mark.parametrize("name", MATCHING)
def test_rivals_choose_what_we_choose(case: Case, name: str) -> None:
    rival = RIVALS[name]
    if reason := rival.unavailable("cpu"):
        pytest.skip(reason)
    expected = best_of_ours(case)
    for settings in rival.settings("cpu"):
        small = {key: min(value, 50) if type(value) is int else value for key, value in settings.items()}
        for chosen in (rival.prepare(case, **settings)(), rival.prepare(case, **small)()):
            assert chosen.dtype == torch.int64 and chosen.shape == expected.shape
            same = (chosen == expected).float().mean()
            assert same == 1 if rival.exact else same > 0.9
        assert rival.memory(case, **settings) > 0
    assert rival.operations(case) >= case.direct_operations


@pytest.mark.parametrize("name", [name for name in RIVALS if name.startswith("gemm")])
def test_limits_multiply_what_they_say(case: Case, name: str) -> None:
    limit = RIVALS[name]
    rows, columns, depth = limit.extents(case)
    assert limit.operations(case) == 2 * rows * columns * depth
    assert limit.prepare(case, **limit.settings("cpu")[0])() is None


@pytest.mark.parametrize("swap", [matrix_product.swap, style_swap.swap])
def test_rivals_swap_what_we_swap(case: Case, swap) -> None:
    expected = patchswap.swap(case.features, hole=case.hole)
    torch.testing.assert_close(swap(case.features, case.hole), expected, rtol=1e-4, atol=1e-4)


def test_sizes() -> None:
    assert parse_size("512/thin") == (512, "thin") and parse_size("256/112") == (256, "112")
    for wrong in ("", "512", "500/100", "512/0", "512/512", "512/thick", "0/0", "-256/10"):
        with pytest.raises(ValueError, match="expected SIDE/HOLE"):
            parse_size(wrong)


def test_sizes_of_the_method_document() -> None:
    """Queries and keys as docs/method.md counts them."""
    for size, queries, keys in (("256/112", 900, 2944), ("512/224", 3364, 12512)):
        case = make_case(size, "random")
        assert (case.queries, case.keys) == (queries, keys)
        assert case.features.shape == (1, 256, case.hole.shape[1], case.hole.shape[2])


def test_no_tile_of_a_large_photograph_repeats() -> None:
    tiles = photograph(2048).reshape(4, 512, 4, 512, 3).swapaxes(1, 2).reshape(16, -1)
    assert len({tile.tobytes() for tile in tiles}) == 16


def test_thin_holes_are_thin() -> None:
    assert 0.005 < make_hole("512/thin").float().mean() < 0.1
