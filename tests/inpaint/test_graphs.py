"""Replayed CUDA graphs give what the pipeline gives, and are recorded once for a geometry."""

from __future__ import annotations

import pickle

import pytest
import torch

from inpaint import weights
from inpaint.graphs import Graphs
from inpaint.inpainter import Inpainter
from inpaint.mask import center
from inpaint.pipeline import Pipeline


@pytest.mark.gpu
def test_replayed_windows_are_filled_as_others() -> None:
    networks = weights.load("default")
    eager, replaying = Inpainter(networks, "cuda"), Inpainter(networks, "cuda", graphs=True)
    generator = torch.Generator().manual_seed(0)
    for side in (40, 40, 12, 40):  # one scale or several, known and unknown to the graphs
        image, hole = torch.rand(3, 256, 256, generator=generator), center(256, 256, 3 * side)
        expected, got = eager(image, hole), replaying(image, hole)
        assert torch.equal(got[:, ~hole], image[:, ~hole])
        assert (got - expected).abs().mean() < 1e-3
    assert replaying._graphs is not None and len(replaying._graphs._recorded) == 2


def test_without_a_gpu_nothing_is_recorded() -> None:
    assert Inpainter(weights.load("default"), graphs=True)._graphs is None


def test_a_pickled_copy_begins_without_recorded_graphs() -> None:
    graphs = Graphs(Pipeline(weights.load("default"), torch.device("cpu"), torch.float32))
    assert isinstance(pickle.loads(pickle.dumps(graphs)), Graphs)
