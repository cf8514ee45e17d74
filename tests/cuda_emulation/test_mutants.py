"""Proof that the emulation finds faults: kernels with one mistake put in must fail where the real ones pass."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import pytest
import torch

from patchswap.matching import Match
from patchswap.testing import assert_match_close


class Mutant(NamedTuple):
    file: str
    text: str  # must occur once
    replacement: str


MUTANTS = {
    # barriers and copies
    "stages filled while they are read": Mutant("match_mma.cuh", "block_barrier();  // the chunk is there", "//"),
    "next item begun too early": Mutant("match_mma.cuh", "block_barrier();  // the item before is done", "//"),
    "thresholds read without barrier": Mutant("match_mma.cuh", "if (chunks() == 1) block_barrier();", ""),
    "copies not waited for": Mutant("match_mma.cuh", "copy_wait<kStages - 2>();", ""),
    "copies not all waited for": Mutant("match_mma.cuh", "copy_wait<kStages - 2>();", "copy_wait<kStages - 1>();"),
    "sums read without barrier": Mutant(
        "prepare.cuh", "errors + thread, error);\n    block_barrier();", "errors + thread, error);"
    ),
    "slots counted without barrier": Mutant(
        "plan.cuh", "scratch.store(warp, place);\n      block_barrier();", "scratch.store(warp, place);"
    ),
    "results of warps read without barrier": Mutant(
        "rescore.cuh", "best_patch.store(warp, choice.patch);\n      }\n      block_barrier();", "}"
    ),
    "search begun too early": Mutant("match_wgmma.cuh", "  wait_for_launch_before();\n", ""),
    "search of tiles begun too early": Mutant("match_mma.cuh", "  wait_for_launch_before();\n", ""),
    "rescoring begun too early": Mutant("rescore.cuh", "  wait_for_launch_before();\n", ""),
    "norms before all rows are packed": Mutant("prepare.cuh", "== kPatch * parts - 1);", "== kPatch * parts - 2);"),
    "zeros not shown to products": Mutant("bulk_copies.cuh", "  fence_for_async_proxy();\n", ""),
    "full stages not waited for": Mutant("match_wgmma.cuh", "wait_at_copy_barrier(barriers(), full(", "(void)(full("),
    "empty stages not waited for": Mutant(
        "bulk_copies.cuh", "wait_at_copy_barrier(barriers(), empty(", "(void)(empty("
    ),
    "stages released while they are read": Mutant("match_wgmma.cuh", "wait_for_products<1>();", ""),
    "products not waited for": Mutant("match_wgmma.cuh", "wait_for_products(c.numbers);", ""),
    "products not fenced": Mutant("match_wgmma.cuh", "fence_products();", ""),
    "rows handed round without barrier": Mutant("match_wgmma.cuh", "named_barrier(1 + group, kWarpgroup);", ""),
    "buffers not used in turn": Mutant("match_wgmma.cuh", "buffer ^= 1;", ""),
    # indices
    "wrong bytes announced": Mutant("bulk_copies.cuh", "(pieces.slots + end - begin)", "(pieces.slots + kCells)"),
    "wrong parity": Mutant("bulk_copies.cuh", "(round_of(n) + 1) % 2", "round_of(n) % 2"),
    "parity of a round without turns": Mutant("match_wgmma.cuh", "parity = round_of(n) % 2", "parity = 0"),
    "stages released in the wrong order": Mutant("match_wgmma.cuh", "release(chunk - 1,", "release(chunk,"),
    "edge of the same warp": Mutant("match_wgmma.cuh", "(warp_in_group() + 1) %", "warp_in_group() %"),
    "first two rows taken for one": Mutant("match_wgmma.cuh", "is_first_two_rows = g < 2", "is_first_two_rows = g < 1"),
    "halo of slots not copied": Mutant("bulk_copies.cuh", "used | used << 1 | used << 2", "used | used << 1"),
    "distances of an operand swapped": Mutant("match_wgmma.cuh", "kCells * 16, 8 * 16)", "8 * 16, kCells * 16)"),
    "stage empty one warp early": Mutant("bulk_copies.cuh", "empty(stage), releases)", "empty(stage), releases - 1)"),
    "stretch begins before the map": Mutant("bulk_copies.cuh", "begin = start > 0 ? start : 0", "begin = start"),
    "stretch ends behind the map": Mutant(
        "bulk_copies.cuh", "start + kCells < key_cells ? start + kCells : key_cells", "start + kCells"
    ),
    "pieces across a gap": Mutant("bulk_copies.cuh", "needed & ~(follows & needed << 1)", "needed & ~(needed << 1)"),
    "wrong lane two rows down": Mutant("match_wgmma.cuh", "(g + 2) % 8 * 4 + next_t", "(g + 2) % 8 * 4 + t"),
    "cells of the next run not sent": Mutant("match_wgmma.cuh", "return is_first_pair ?", "return false ?"),
    "pair of the wrong lane": Mutant("match_wgmma.cuh", "lane + i)", "lane)"),
    "coarse ties dropped by warpgroups": Mutant("match_wgmma.cuh", ">= (h == 0 ?", "> (h == 0 ?"),
    "bests of a warp read without barrier": Mutant("match_mma.cuh", "warp_barrier();\n    keep_runs", "keep_runs"),
    "two runs in one place": Mutant(
        "match_wgmma.cuh", "(h == 0 ? place_0 : place_1) + before", "(h == 0 ? place_0 : place_1)"
    ),
    "places of the other query": Mutant(
        "match_wgmma.cuh", "(h == 0 ? place_0 : place_1)", "(h == 1 ? place_0 : place_1)"
    ),
    "every run in one place": Mutant("match_mma.cuh", "place++", "place"),
    "no run but the first two": Mutant("match_mma.cuh", "run < 4; run++, first", "run < 2; run++, first"),
    "key of the next item": Mutant("match_wgmma.cuh", "key < kStretch &&", "key <= kStretch &&"),
    "wrong lane for the row below": Mutant("match_mma.cuh", "v.number(0, n), 4)", "v.number(0, n), 3)"),
    "wrong lane for the corner": Mutant("match_mma.cuh", "i % 2), 5)", "i % 2), 4)"),
    "key of the next warp": Mutant("match_mma.cuh", "key >= kWarpKeys ||", "key > kWarpKeys ||"),
    "copy beyond the map": Mutant("match_mma.cuh", "key_cell < static_cast<int>(p.key.cell_count());", "true;"),
    "copy before the map": Mutant("match_mma.cuh", "in_map = key_cell >= 0 &&", "in_map ="),
    "last step left out": Mutant(
        "match_mma.cuh", "last_step = range.last + kHalo;", "last_step = range.last + kHalo - 1;"
    ),
    "diagonals above the first row left out": Mutant("search.cuh", "width + stretch <= 0", "width < 0"),
    "list one too long": Mutant("search.cuh", "if (place < length)", "if (place <= length)"),
    "last rows not searched in full": Mutant("rescore.cuh", "p.key.rows() * p.key.width", "p.key.rows()"),
    "halo of a query too narrow": Mutant("plan.cuh", "| (column >= 2 ? bits.own[i - 2] : 0)", ""),
    "groups overlap by too little": Mutant("plan.cuh", "in_group < kHalo)", "in_group < kHalo - 1)"),
    "pieces beyond the last channel": Mutant(
        "prepare.cuh", "if (is_there && first + i < channels) {", "if (is_there) {"
    ),
    "cells of channels last maps not apart": Mutant(
        "prepare.cuh", "features + cell * channels + first", "features + cell + first"
    ),
    "keys read in the query's layout": Mutant(
        "prepare.cuh", "work.key, work.key_is_channels_last", "work.key, work.query_is_channels_last"
    ),
    "map of all samples taken for one of the batch": Mutant(
        "prepare.cuh", "(is_shared ? 0 : sample * count)", "sample * count"
    ),
    "ranking of a query without a key forgotten": Mutant("prepare.cuh", "p.ranking[query] = -infinity();", ";"),
    # what is computed
    "ranking is the score": Mutant(
        "rescore.cuh", "p.ranking[query] = choice.score;", "p.ranking[query] = p.score[query];"
    ),
    "key mask dropped": Mutant("prepare.cuh", "p.key_mask == nullptr ||", "true ||"),
    "query mask dropped": Mutant("prepare.cuh", "p.query_mask == nullptr ||", "true ||"),
    "key factor forgotten": Mutant("match_mma.cuh", "n + 2)) * factor)", "n + 2)) * (factor * 0.0f + 1.0f))"),
    "no margin for rounding": Mutant("search.cuh", "own = best - margin", "own = best"),
    "full lists taken for complete": Mutant(
        "rescore.cuh", "listed <= length && is_bounded ? listed : 0", "listed <= length ? listed : length"
    ),
    "coarse ties dropped": Mutant("match_mma.cuh", "if (score >= least)", "if (score > least)"),
    "highest index on ties": Mutant("rescore.cuh", "other_patch < patch)", "other_patch > patch)"),
}


def cases() -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None, str]]:
    """query, key, their masks, precision: few, but of all kinds that the mutants are about."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    def mask(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator) < 0.6

    def cells(*shape: int) -> torch.Tensor:
        return randn(*shape).to(memory_format=torch.channels_last)

    yield randn(2, 8, 9, 30), randn(1, 8, 7, 29).expand(2, -1, -1, -1), mask(2, 7, 28), mask(2, 5, 27), "exact"
    yield randn(1, 70, 12, 16), randn(1, 70, 6, 23), mask(1, 10, 14), None, "exact"
    # Few keys, closer to each other than half precision tells.
    key_mask = torch.zeros(1, 7, 19, dtype=torch.bool)
    key_mask[:, ::3, ::3] = True
    near = randn(1, 1, 3, 3).repeat(1, 1, 3, 7) + 3e-4 * randn(1, 1, 9, 21)
    yield randn(1, 1, 9, 14), near, None, key_mask, "exact"
    # More such keys than a list holds, the best of them last.
    near = randn(1, 3, 1, 1) + 1e-4 * randn(1, 3, 22, 26)
    query = randn(1, 3, 6, 5)
    near[:, :, -3:, -3:] += 1e-3 * query[:, :, :3, :3]
    yield query, near, None, None, "exact"
    # Equal keys, and last as many chunks of channels as there are stages.
    for precision in ("exact", "fast"):
        yield randn(1, 8, 6, 7), randn(1, 8, 3, 3).repeat(1, 1, 4, 9), None, None, precision
    yield randn(1, 256, 5, 6), cells(1, 256, 6, 5), None, None, "exact"
    yield cells(1, 12, 5, 6), cells(1, 12, 4, 5), None, None, "exact"


def run_cases(emulation, kernels) -> None:
    for number, (query, key, query_mask, key_mask, precision) in enumerate(cases()):
        results = []
        for schedule in emulation.SCHEDULES[1 : 3 if number < 2 else 2]:
            grid = {"blocks": 2, "modelled_blocks": 1 + number % 2 * 131, "precision": precision}
            grid["wants_ranking"] = number < 2
            results.append(kernels.match(query, key, query_mask, key_mask, schedule=schedule, **grid))
            match = Match(results[-1]["index"], results[-1]["score"])
            assert_match_close(match, query, key, query_mask=query_mask, key_mask=key_mask)
            in_full = (query.shape[2] - 2) * (query.shape[3] - 2)
            assert int(results[-1]["tally"][1]) == (in_full if number == 3 else 0), "searched in full needlessly"
            if number < 2:
                norm = query.square().sum(1).unfold(1, 3, 1).unfold(2, 3, 1).sum((3, 4)).sqrt()
                torch.testing.assert_close(results[-1]["ranking"], match.score * norm)
            if precision == "fast" or number == 4:
                columns = key.shape[3] - 2
                assert bool((match.index // columns < 3).all() and (match.index % columns < 3).all()), "not the lowest"


@pytest.fixture(scope="module")
def libraries(builder) -> Iterator[dict[str, Future]]:
    """Every mutant, and under "none" the kernels as they are; compiled two at a time while tests run."""

    def build(mutant: Mutant | None):
        if mutant is None:
            return builder.build("match_kernels.cpp", flags=["-Og"])
        return builder.build_mutant("match_kernels.cpp", *mutant, flags=["-Og"])

    with ThreadPoolExecutor(max_workers=2) as executor:
        yield {name: executor.submit(build, mutant) for name, mutant in {"none": None, **MUTANTS}.items()}
        executor.shutdown(cancel_futures=True)


@pytest.mark.parametrize("search", ["mma", "wgmma"])
def test_unchanged_kernels_pass(libraries, emulation, search):
    run_cases(emulation, emulation.MatchKernels(libraries["none"].result(), search))


# Results are right, but cost more.
COSTLY_MUTANTS = {
    "blocks at work together on one tile": Mutant(
        "search.cuh",
        "tile = static_cast<int>(number % tiles), diagonal = static_cast<int>(number / tiles)",
        "tile = static_cast<int>(number / diagonals), diagonal = static_cast<int>(number % diagonals)",
    ),
}


@pytest.mark.parametrize("name", COSTLY_MUTANTS)
def test_costly_mutant_is_counted(builder, emulation, name):
    library = builder.build_mutant("match_kernels.cpp", *COSTLY_MUTANTS[name], flags=["-Og"])
    for search in ("mma", "wgmma"):
        kernels = emulation.MatchKernels(library, search)
        run_cases(emulation, kernels)
        assert emulation.times_raised(kernels) > emulation.MOST_RAISED[kernels.search]


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_fails(libraries, emulation, name):
    library = libraries[name].result()  # a mutant that does not compile is an error of this test
    search = "wgmma" if MUTANTS[name].file in ("match_wgmma.cuh", "bulk_copies.cuh") else "mma"
    with pytest.raises(AssertionError) as raised:
        run_cases(emulation, emulation.MatchKernels(library, search))
    print(f"{name}: {raised.value}")
