"""Which holes are filled together. What these tests hold does not depend on how much context a window has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label

from inpaint import clusters
from inpaint.clusters import Cluster, find_clusters, window_side
from inpaint.depth import DEEPEST

KINDS = ["thin", "medium", "thick", "specks", "frame", "scratch", "rectangles", "one known pixel"]


def owned(cluster: Cluster, hole: np.ndarray) -> np.ndarray:
    return cluster.own(hole, 0, 0)


def box_around(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 600), st.integers(1, 600), st.integers(0, 2**31), st.sampled_from(KINDS))
def test_every_hole_pixel_belongs_to_one_cluster(make_hole, height: int, width: int, seed: int, kind: str) -> None:
    hole = make_hole(kind, height, width, seed)
    found = find_clusters(hole)
    owners = sum(owned(cluster, hole).astype(int) for cluster in found)
    assert np.array_equal(owners, hole.astype(int))
    for cluster in found:
        assert cluster.box == box_around(owned(cluster, hole))
        top, left, bottom, right = cluster.box
        inside = hole[top:bottom, left:right]
        assert np.array_equal(cluster.own(inside, top, left), owned(cluster, hole)[top:bottom, left:right])
        assert cluster.depth > 0 and cluster.is_wide == (cluster.depth > DEEPEST)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 900), st.integers(1, 900), st.integers(0, 2**31), st.sampled_from(KINDS))
def test_joining_only_makes_it_cheaper(make_hole, height: int, width: int, seed: int, kind: str) -> None:
    """From the parts that hang together and their cuts on; and no two of what is left would be cheaper as one."""
    hole = make_hole(kind, height, width, seed)
    labels = clusters._connected(clusters.pooled(hole, clusters._BLOCK))
    blocks = clusters._Blocks(hole, clusters._BLOCK, labels > 0)
    of_block = labels[labels > 0]
    connected = [blocks.group(np.flatnonzero(of_block == number)) for number in range(1, labels.max() + 1)]
    cut = [part for group in connected for part in clusters._cut(blocks, group)]
    joined = clusters._joined(blocks, cut)

    def cost(group: clusters._Group) -> float:
        return float(blocks.cost(group.box, group.queries, group.depth > DEEPEST))

    def total(groups: list[clusters._Group]) -> float:
        return sum(map(cost, groups))

    assert total(joined) <= total(cut) * (1 + 1e-12)
    members = np.sort(np.concatenate([group.members for group in joined]))
    assert np.array_equal(members, np.arange(len(blocks.place)))
    for group in joined:
        again = blocks.group(group.members)
        assert np.array_equal(group.box, again.box) and group.queries == again.queries
    for number, one in enumerate(joined):
        for other in joined[:number]:
            both = blocks.group(np.sort(np.concatenate([one.members, other.members])))
            both = both._replace(depth=max(one.depth, other.depth))
            assert cost(both) >= (cost(one) + cost(other)) * (1 - 1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**31), st.floats(0, 0.6))
def test_parts_that_hang_together_are_found(height: int, width: int, seed: int, share: float) -> None:
    occupied = np.random.default_rng(seed).random((height, width)) < share
    ours, theirs = clusters._connected(occupied), label(occupied, connectivity=2)
    pairs = set(zip(ours.ravel().tolist(), theirs.ravel().tolist(), strict=True))
    assert (
        len(pairs)
        == len({one for one, _ in pairs})
        == len({other for _, other in pairs})
        == theirs.max() + (not occupied.all())
    )


def test_no_hole_has_no_cluster() -> None:
    assert find_clusters(np.zeros((70, 90), bool)) == []


def test_holes_far_apart_are_filled_apart_and_near_ones_together() -> None:
    hole = np.zeros((1200, 1200), bool)
    hole[100:110, 100:110] = hole[1100:1110, 1100:1110] = True
    hole[100:110, 116:126] = True
    first, second = find_clusters(hole)
    assert first.box == (100, 100, 110, 126) and second.box == (1100, 1100, 1110, 1110)


def test_a_long_scratch_is_cut() -> None:
    """Across the picture, so that a window around all of it would be all of the picture."""
    hole = np.zeros((3000, 3000), bool)
    places = np.arange(3000)
    hole[places, places] = hole[places[:-1], places[1:]] = True
    found = find_clusters(hole)
    areas = [(bottom - top) * (right - left) for top, left, bottom, right in (cluster.box for cluster in found)]
    assert len(found) > 3 and max(areas) < hole.size / 16
    assert not any(cluster.is_wide for cluster in found)


def test_a_wide_hole_is_not_cut() -> None:
    hole = np.zeros((2000, 2000), bool)
    hole[300:500, 100:1900] = True
    (cluster,) = find_clusters(hole)
    assert cluster.box == (300, 100, 500, 1900) and cluster.is_wide


def test_dense_dust_does_not_end_in_one_giant_window() -> None:
    hole = np.zeros((2400, 3200), bool)
    for row, column in np.random.default_rng(0).integers(0, hole.shape, (6000, 2)):
        hole[row : row + 5, column : column + 5] = True
    found = find_clusters(hole)
    assert np.array_equal(sum(owned(cluster, hole).astype(int) for cluster in found), hole.astype(int))
    boxes = np.array([cluster.box for cluster in found])
    height, width = (boxes[:, 2:] - boxes[:, :2]).T
    assert (height * width).max() < hole.size / 4
    longest = np.maximum(height, width)
    sides = [window_side(extent, longest, False).astype(float) for extent in (height, width)]
    assert (sides[0] * sides[1]).sum() < 8 * hole.size  # of all windows together


def test_many_parts_are_found_on_larger_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    hole = np.zeros((800, 800), bool)
    hole[8::100, 8::100] = True
    monkeypatch.setattr(clusters, "_MOST", 9)
    found = find_clusters(hole)
    assert len(found) <= 9 and {cluster.side for cluster in found} > {clusters._BLOCK} or len(found) == 1
    assert np.array_equal(sum(owned(cluster, hole).astype(int) for cluster in found), hole.astype(int))
    assert all(cluster.side > clusters._BLOCK for cluster in found)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 3000), st.booleans())
def test_a_window_has_room_for_keys_on_both_sides(extent: int, more: int, is_wide: bool) -> None:
    side = int(window_side(extent, extent + more, is_wide))
    assert side >= extent + (2 * extent if is_wide else 0)
    assert side >= extent + 16 and side % 4 == 0
    assert side <= int(window_side(extent + 1, extent + 1 + more, is_wide))
