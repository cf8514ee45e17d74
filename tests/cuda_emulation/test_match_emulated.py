"""The tensor-core match, kernel by kernel as on the GPU, on the emulated device, against the float64 reference."""

from __future__ import annotations

import pytest
import torch

from patchswap.matching import Match
from patchswap.testing import assert_match_close


@pytest.fixture(scope="module")
def library(builder):
    return builder.build("match_kernels.cpp")


@pytest.fixture(scope="module", params=["mma", "wgmma"])
def kernels(library, emulation, request):
    return emulation.MatchKernels(library, request.param)


@pytest.fixture(scope="module")
def prepare(library, emulation):
    """For tests of what prepare does, which is the same for all searches."""
    return emulation.MatchKernels(library, "mma").match


@pytest.fixture
def check(kernels, emulation):
    """Runs a case in several schedules, grids and plans: same result each time, and a right one."""

    def run(query, key, query_mask=None, key_mask=None, compare=True, **options):
        results = []
        for schedule, blocks, modelled_blocks in zip(emulation.SCHEDULES, (5, 2, 1), (132, 1, 3), strict=True):
            options |= {"schedule": schedule, "blocks": blocks, "modelled_blocks": modelled_blocks}
            results.append(kernels.match(query, key, query_mask, key_mask, **options))
        for result in results[1:]:
            for name in ("index", "score"):
                torch.testing.assert_close(result[name], results[0][name], rtol=0, atol=0, equal_nan=True)
        if compare and options.get("precision") != "fast":
            match = Match(results[0]["index"], results[0]["score"])
            assert_match_close(match, query, key, query_mask=query_mask, key_mask=key_mask)
        return results[-1]

    return run


def patch_mask(kind, batch, height, width):
    grid = (batch, height - 2, width - 2)
    mask = torch.zeros(grid, dtype=torch.bool)
    if kind == "all":
        return None
    if kind == "hole":
        mask[:, grid[1] // 4 : grid[1] * 3 // 4 + 1, grid[2] // 3 : grid[2] * 2 // 3 + 1] = True
    if kind == "ring":
        return ~patch_mask("hole", batch, height, width)
    if kind == "scattered":
        mask = torch.rand(grid) < 0.05
    if kind == "half":
        mask = torch.rand(grid) < 0.5
    if kind == "one":
        mask[-1, grid[1] // 2, -1] = True
    return mask


SHAPES = [  # samples, channels, query size, key size
    (1, 1, (3, 3), (3, 3)),
    (1, 3, (3, 3), (5, 7)),
    (2, 8, (5, 4), (3, 3)),
    (1, 33, (9, 11), (8, 13)),
    (3, 64, (4, 17), (7, 5)),
    (1, 3, (12, 50), (6, 33)),
    (2, 8, (40, 6), (5, 40)),
    (1, 100, (7, 8), (13, 10)),
    (1, 256, (5, 6), (9, 17)),  # as many chunks of channels as a search on Hopper has stages
]
MASKS = [("all", "all"), ("hole", "ring"), ("scattered", "half"), ("one", "scattered"), ("half", "one")]


@pytest.mark.parametrize("masks", MASKS, ids="-".join)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_and_masks(check, shape, masks):
    batch, channels, query_size, key_size = shape
    query, key = torch.randn(batch, channels, *query_size), torch.randn(batch, channels, *key_size)
    check(query, key, patch_mask(masks[0], batch, *query_size), patch_mask(masks[1], batch, *key_size))


@pytest.mark.parametrize("masks", [("none", "all"), ("all", "none"), ("none", "none")], ids="-".join)
def test_nothing_to_match(check, masks):
    query, key = torch.randn(2, 3, 5, 6), torch.randn(2, 3, 6, 5)
    result = check(query, key, patch_mask(masks[0], 2, 5, 6), patch_mask(masks[1], 2, 6, 5))
    assert bool((result["index"] == -1).all()) and result["tally"].tolist() == [0, 0]


def test_masks_differ_between_samples(check):
    query, key = torch.randn(3, 8, 7, 9), torch.randn(3, 8, 7, 9)
    query_mask, key_mask = torch.rand(3, 5, 7) < 0.4, torch.rand(3, 5, 7) < 0.4
    query_mask[1], key_mask[2] = False, False
    check(query, key, query_mask, key_mask)


RANGES = [(torch.float16, scale) for scale in (1.0, 1e4, 1e-3)]
RANGES += [(dtype, scale) for dtype in (torch.float32, torch.bfloat16) for scale in (1.0, 1e4, 1e-3, 1e-17, 1e15)]


@pytest.mark.parametrize(("dtype", "scale"), RANGES, ids=str)
def test_dtypes_and_value_ranges(check, dtype, scale):
    query, key = ((torch.randn(1, 8, 7, size) * scale).to(dtype) for size in (9, 12))
    result = check(query, key, None, patch_mask("half", 1, 7, 12))
    assert result["tally"][1] == 0, "half precision should have decided"


def test_squares_below_the_smallest_float_are_zero_patches(check):
    query, key = torch.randn(1, 3, 5, 6), torch.randn(1, 3, 6, 7)
    mask = patch_mask("half", 1, 6, 7)
    for scaled_query, scaled_key in ((query * 1e-21, key), (query, key * 1e-21)):
        result = check(scaled_query, scaled_key, None, mask, compare=False)
        assert bool((result["score"] == 0).all())
        assert bool((result["index"] == int(mask.flatten().int().argmax())).all())


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_negative_zero_ties_with_zero(check, precision):
    """The score of a zero patch is 0, whichever sign its product has."""
    query, key = torch.ones(1, 8, 5, 6), torch.full((1, 8, 12, 9), 1e-21)
    key[:, :, :6] *= -1
    result = check(query, key, compare=False, precision=precision)
    assert not bool(result["index"].any()) and not bool(result["score"].any())


@pytest.mark.parametrize("channels", [1, 33])
def test_values_of_very_different_size(check, channels):
    query, key = (torch.randn(1, channels, 8, w) * torch.exp(6 * torch.randn(1, 1, 8, w)) for w in (9, 11))
    check(query, key, patch_mask("half", 1, 8, 9), None)


@pytest.mark.parametrize(("noise", "channels"), [(1e-4, 1), (3e-4, 1), (1e-3, 3)])
def test_keys_closer_than_half_precision(check, noise, channels):
    """Coarse scores order these wrongly, so the margin of the search has to keep them all."""
    query = torch.randn(1, channels, 9, 14)
    key = torch.randn(1, channels, 3, 3).repeat(1, 1, 3, 5) + noise * torch.randn(1, channels, 9, 15)
    key_mask = torch.zeros(1, 7, 13, dtype=torch.bool)
    key_mask[:, ::3, ::3] = True
    result = check(query, key, None, key_mask)
    assert result["tally"][0] > 0


def test_too_many_close_keys_are_searched_in_full(check):
    query = torch.randn(1, 3, 6, 8)
    key = torch.randn(1, 3, 1, 1) + 1e-4 * torch.randn(1, 3, 25, 26)
    result = check(query, key)
    assert result["tally"][1] == 4 * 6


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_planted_matches_are_found(check, precision):
    key = torch.randn(2, 33, 10, 12)
    query = torch.randn(2, 33, 8, 9)
    query[:, :, 1:6, 2:8] = key[:, :, 4:9, 5:11]
    result = check(query, key, precision=precision)
    rows, columns = torch.meshgrid(torch.arange(3), torch.arange(4), indexing="ij")
    expected = (rows + 4) * 10 + columns + 5
    assert torch.equal(result["index"][:, 1:4, 2:6], expected.expand(2, 3, 4))
    assert bool((result["score"][:, 1:4, 2:6] > 1 - 1e-5).all())


@pytest.mark.parametrize("period", [(3, 3), (2, 5), (4, 1)])
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_ties_go_to_the_lowest_index(check, period, precision):
    key = torch.randn(1, 8, *period).repeat(1, 1, 4, 15)[:, :, :9, :15]
    query = torch.randn(1, 8, 6, 7)
    query_mask = patch_mask("half", 1, 6, 7)
    index = check(query, key, query_mask, precision=precision)["index"][query_mask]
    assert bool((index // 13 < period[0]).all()) and bool((index % 13 < period[1]).all())


def test_ties_skip_masked_keys(check):
    key = torch.randn(1, 8, 3, 3).repeat(1, 1, 3, 5)
    key_mask = torch.ones(1, 7, 13, dtype=torch.bool)
    key_mask[:, :4, :6] = False
    index = check(torch.randn(1, 8, 6, 7), key, None, key_mask)["index"]
    row, column = index // 13, index % 13
    assert bool(key_mask[0, row, column].all())
    for offset in (3, 39):  # the same patch one period to the left or up is masked, or does not exist
        earlier = index - offset
        exists = (column >= 3) if offset == 3 else (row >= 3)
        assert not bool(key_mask.flatten()[earlier.clamp(min=0)][exists].any())


def test_constant_maps(check):
    result = check(torch.full((1, 8, 5, 6), 1.7), torch.full((1, 8, 6, 9), -0.3))
    assert bool((result["index"] == 0).all())
    torch.testing.assert_close(result["score"], torch.full((1, 3, 4), -1.0))


def test_zero_patches(check):
    query, key = torch.randn(1, 8, 7, 8), torch.randn(1, 8, 7, 8)
    query[:, :, :4, :4] = 0
    key[:, :, 3:, 3:] = 0
    key_mask = patch_mask("ring", 1, 7, 8)
    key_mask[:, 0] = False
    result = check(query, key, None, key_mask)
    lowest = int(key_mask.flatten().int().argmax())
    assert bool((result["index"][0, :2, :2] == lowest).all()) and bool((result["score"][0, :2, :2] == 0).all())


def test_a_zero_key_is_better_than_a_negative_score(check):
    key = -torch.rand(1, 4, 6, 8) - 0.1
    key[:, :, 2:5, 4:7] = 0
    result = check(torch.rand(1, 4, 5, 5) + 0.1, key)
    assert bool((result["index"] == 2 * 6 + 4).all()) and bool((result["score"] == 0).all())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e25])
def test_patches_that_are_not_finite_take_no_part(check, kernels, emulation, value):
    query, key = torch.randn(1, 3, 6, 6), torch.randn(1, 3, 6, 6)
    clean_query, clean_key = query.clone(), key.clone()
    query[0, 0, 0, 0], key[0, 0, 5, 5] = value, value
    result = kernels.match(query, key, schedule=emulation.SCHEDULES[2])
    assert int(result["index"][0, 0, 0]) == -1 and bool(result["score"][0, 0, 0].isnan())
    query_mask, key_mask = torch.ones(1, 4, 4, dtype=torch.bool), torch.ones(1, 4, 4, dtype=torch.bool)
    query_mask[0, 0, 0], key_mask[0, 3, 3] = False, False
    expected = check(clean_query, clean_key, query_mask, key_mask)
    assert torch.equal(result["index"], expected["index"])
    torch.testing.assert_close(result["score"][query_mask], expected["score"][query_mask])


@pytest.mark.parametrize("masks", [("all", "all"), ("hole", "ring"), ("scattered", "half")], ids="-".join)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_query_and_key_are_one_map(check, masks, dtype):
    features = torch.randn(2, 33, 9, 12).relu().to(dtype)
    check(features, features, *(patch_mask(kind, 2, 9, 12) for kind in masks))


@pytest.mark.parametrize("noise", [0, 3e-4, 1])
def test_parts_of_the_key_together_are_the_whole(kernels, emulation, noise):
    """The highest ranking of two parts, the first of equals, with its score: bit for bit those of one search."""
    query = torch.randn(2, 9, 7, 10)
    key = torch.randn(2, 9, 3, 4).repeat(1, 1, 4, 3) + noise * torch.randn(2, 9, 12, 12)
    query_mask, key_mask = patch_mask("half", 2, 7, 10), patch_mask("ring", 2, 12, 12)
    options = {"schedule": emulation.SCHEDULES[1], "wants_ranking": True}
    whole = kernels.match(query, key, query_mask, key_mask, **options)
    parts = []
    for first, end in ((0, 3), (3, 10)):
        part = kernels.match(query, key[:, :, first : end + 2], query_mask, key_mask[:, first:end], **options)
        parts.append((torch.where(part["index"] >= 0, part["index"] + first * 10, -1), part["score"], part["ranking"]))
    index, score, ranking = (torch.stack(tensors) for tensors in zip(*parts, strict=True))
    best = ranking.argmax(0, keepdim=True)
    for name, tensor in (("index", index), ("score", score), ("ranking", ranking)):
        assert torch.equal(tensor.gather(0, best)[0], whole[name]), name
    norm = query.square().sum(1).unfold(1, 3, 1).unfold(2, 3, 1).sum((3, 4)).sqrt()
    torch.testing.assert_close(whole["ranking"], whole["score"] * norm)


@pytest.mark.parametrize("is_key", [False, True])
def test_one_map_for_all_samples_is_read_in_place(kernels, emulation, is_key):
    maps = [torch.randn(3, 9, 6, 11), torch.randn(3, 9, 8, 7)]
    maps[is_key] = maps[is_key][:1].expand(3, -1, -1, -1)
    masks = [patch_mask("half", 3, *features.shape[2:]) for features in maps]
    for schedule in emulation.SCHEDULES:
        shared = kernels.match(*maps, *masks, schedule=schedule)
        copied = kernels.match(*(features.contiguous() for features in maps), *masks, schedule=schedule)
        for name in ("index", "score"):
            assert torch.equal(shared[name], copied[name])


@pytest.mark.parametrize("masks", MASKS, ids="-".join)
def test_fast_is_right_up_to_half_precision(check, masks):
    query, key = torch.randn(2, 33, 8, 10), torch.randn(2, 33, 9, 12)
    query_mask, key_mask = patch_mask(masks[0], 2, 8, 10), patch_mask(masks[1], 2, 9, 12)
    result = check(query, key, query_mask, key_mask, precision="fast")
    match = Match(result["index"], result["score"])
    assert_match_close(match, query, key, query_mask=query_mask, key_mask=key_mask, tolerance=2e-3)


def test_blocks_at_work_together_seldom_raise_thresholds(kernels, emulation):
    """On a GPU each raise waits for memory."""
    assert emulation.times_raised(kernels) <= emulation.MOST_RAISED[kernels.search]


# ---- what prepare hands to the others


@pytest.mark.parametrize("modelled_blocks", [1, 8, 132])
@pytest.mark.parametrize("kind", ["all", "hole", "scattered", "half", "one", "none"])
@pytest.mark.parametrize("size", [(3, 3), (9, 20), (40, 7), (70, 5), (5, 150)], ids=str)
def test_plan_has_every_query_once(prepare, emulation, size, kind, modelled_blocks):
    height, width = size
    query, mask = torch.randn(1, 1, *size), patch_mask(kind, 1, *size)
    schedule = emulation.SCHEDULES[modelled_blocks % 3]
    result = prepare(query, torch.randn(1, 1, 3, 3), mask, schedule=schedule, modelled_blocks=modelled_blocks)
    groups, depth = result["plan"][0].tolist()
    wanted = torch.ones(height - 2, width - 2, dtype=torch.bool) if mask is None else mask[0]
    planned = torch.zeros(height - 2, width - 2, dtype=torch.int32)
    for group in result["slots"][0, :groups].tolist():
        for place, (cell, patch, rows, _) in enumerate(group):
            assert cell >= 0 and (rows == 0 or cell + (depth + 1) * width < height * width)
            row, column = divmod(cell, width)
            if rows == 0:
                continue
            assert patch == row * (width - 2) + column
            assert [group[place + i][0] for i in (1, 2)] == [cell + 1, cell + 2]
            for below in range(32):
                if rows >> below & 1:
                    assert below < depth
                    planned[row + below, column] += 1
    assert torch.equal(planned, wanted.int())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_packing(prepare, emulation, dtype):
    query, key = (torch.randn(2, 11, 5, 37) * 30).to(dtype), (torch.randn(2, 11, 6, 7) * 0.01).to(dtype)
    key_mask = torch.rand(2, 4, 5) < 0.5
    result = prepare(query, key, None, key_mask, schedule=emulation.SCHEDULES[2])
    for side, features in (("query", query), ("key", key)):
        batch, channels, height, width = features.shape
        padded = torch.zeros(batch, 32, height * width)
        padded[:, :channels] = features.float().flatten(2)
        assert torch.equal(result[f"{side}_exact"], padded.transpose(1, 2))
        if side == "key":
            scale = 2.0 ** result["key_shift"].double()[:, None, None]
            expected = torch.zeros(batch, 32, -(-height * width // 8) * 8, dtype=torch.float64)
            expected[:, :, : height * width] = padded.double() * scale
            cells = result["key_cells"].transpose(2, 3).flatten(1, 2)
            assert torch.equal(cells, expected.half()) and bool((cells.abs().amax((1, 2)) >= 64).all())
    norms = key.double().square().sum(1).unfold(1, 3, 1).unfold(2, 3, 1).sum((3, 4)).sqrt()
    factors = result["key_factor"].view(2, 6, 7)
    is_key = torch.zeros(2, 6, 7, dtype=torch.bool)
    is_key[:, :4, :5] = key_mask
    assert torch.equal(~factors.isnan(), is_key)
    torch.testing.assert_close(factors[is_key], (1 / norms[key_mask]).float())


CHANNELS_LAST = [(torch.float32, 4), (torch.float32, 44), (torch.float16, 8), (torch.bfloat16, 40)]


@pytest.mark.parametrize(("dtype", "channels"), CHANNELS_LAST, ids=str)
def test_channels_last_is_packed_the_same_bit_for_bit(prepare, emulation, dtype, channels):
    query, key = torch.randn(2, channels, 4, 37).to(dtype), torch.randn(2, channels, 5, 7).to(dtype)
    names = ["query_norm", "key_factor", "index", "score"]
    names += [f"{side}_{name}" for side in ("query", "key") for name in ("exact", "square")]
    cells = [each.to(memory_format=torch.channels_last) for each in (query, key)]
    expected = prepare(query, key, schedule=emulation.SCHEDULES[0])
    for i, maps in enumerate((cells, (query, cells[1]), (cells[0], key))):
        found = prepare(*maps, schedule=emulation.SCHEDULES[i])
        for name in names:
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0, equal_nan=True)


def test_one_map_in_channels_last(check):
    features = torch.randn(2, 24, 7, 11).to(memory_format=torch.channels_last)
    check(features, features, patch_mask("hole", 2, 7, 11), patch_mask("ring", 2, 7, 11))
