"""CUDA graphs: the work on windows of one geometry, recorded once and replayed without launching its kernels singly."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inpaint.pipeline import Filling, Pipeline
from inpaint.recipe import Recipe
from inpaint.scene import Scene
from inpaint.stages import Stages

_KEPT = 8  # graphs, each with the memory that its work takes
_TENSORS = ("unknown", "own", "unknown_cells", "own_cells", "queries", "keys")  # of a scene


@dataclass(frozen=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    filling: Filling


class Graphs:
    """Fills windows by replaying what the pipeline did for others of the same geometry.

    The geometry is what is not read from tensors: shapes, corners of parts, the cells near the holes, and the recipe.
    Recording takes as long as filling twice; it pays where many windows have one geometry, as in a video, or in
    photographs of one size with one mask. The graphs used last are kept. Calls from several threads take turns.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._recorded: OrderedDict[tuple[object, ...], _Recorded] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Graphs], tuple[Pipeline]]:
        return Graphs, (self._pipeline,)  # a copy records anew

    def fill(self, crops: Tensor, unknown: Tensor, scenes: Sequence[Scene], recipe: Recipe) -> Filling:
        """``Pipeline.fill`` with the same arguments, without the scales' results."""
        inputs = [crops, unknown, *(getattr(scene, name) for scene in scenes for name in _TENSORS)]
        key = (crops.shape, recipe, *map(_geometry, scenes))
        with self._lock, torch.inference_mode():
            if key not in self._recorded:
                self._recorded[key] = self._record(inputs, scenes, recipe)
                while len(self._recorded) > _KEPT:
                    self._recorded.popitem(last=False)
            self._recorded.move_to_end(key)
            recorded = self._recorded[key]
            for place, given in zip(recorded.inputs, inputs, strict=True):
                place.copy_(given, non_blocking=True)
            recorded.graph.replay()
            return Filling(recorded.filling.colours.clone(), recorded.filling.coarse.clone())

    def _record(self, inputs: list[Tensor], scenes: Sequence[Scene], recipe: Recipe) -> _Recorded:
        places = [given.clone() for given in inputs]
        of_scenes = iter(places[2:])
        fixed = [_with_tensors(scene, [next(of_scenes) for _ in _TENSORS]) for scene in scenes]
        unmeasured = Stages(torch.device("cpu"))  # events of a graph cannot be read

        def work() -> Filling:
            return self._pipeline.fill(places[0], places[1], fixed, recipe, unmeasured)

        side = torch.cuda.Stream(self._pipeline.device)
        side.wait_stream(torch.cuda.current_stream(self._pipeline.device))
        with torch.cuda.stream(side):  # libraries allocate their workspaces and choose their kernels before recording
            work()
        torch.cuda.current_stream(self._pipeline.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            filling = work()
        return _Recorded(graph, places, filling)


def _with_tensors(scene: Scene, tensors: list[Tensor]) -> Scene:
    changes: dict[str, Any] = dict(zip(_TENSORS, tensors, strict=True))
    return dataclasses.replace(scene, **changes)


def _geometry(scene: Scene) -> tuple[object, ...]:
    return scene.halvings, scene.size, scene.corners, scene.near, scene.is_matched
