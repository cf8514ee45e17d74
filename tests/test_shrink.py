"""The masked shrink that rivals begin from: nothing comes out of a hole."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inpaint.mask import center

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from shrink import shrink  # noqa: E402


@settings(max_examples=30, deadline=None)
@given(
    st.integers(8, 60), st.integers(8, 60), st.floats(0.2, 1.0), st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1)
)
def test_shrinking_never_looks_into_the_hole(
    height: int, width: int, factor: float, seed: int, one: float, other: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 3, height, width, generator=generator)
    hole = torch.rand(1, height, width, generator=generator) < 0.2
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    results = [shrink(torch.where(hole[:, None], held, image), hole, size) for held in (one, other)]
    assert torch.equal(results[0][1], results[1][1])
    known = ~results[0][1].unsqueeze(1).expand(-1, 3, -1, -1)
    assert torch.equal(results[0][0][known], results[1][0][known])
    assert results[0][0].min() >= 0 and results[0][0].max() <= 1


def test_a_flat_picture_stays_flat_beside_the_hole() -> None:
    image, hole = torch.full((1, 3, 40, 40), 0.7), center(40, 40, 14)[None]
    image[hole.unsqueeze(1).expand_as(image)] = 0
    shrunk, smaller = shrink(image, hole, (20, 20))
    assert torch.allclose(shrunk[~smaller.unsqueeze(1).expand_as(shrunk)], torch.tensor(0.7))
