"""Infer, match, translate, scale after scale: the only place that knows the order of the steps.

Everything here runs on the device and never waits for it: what it needs to know of the holes was found before, on the
CPU (inpaint.window).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from inpaint import weights
from inpaint.finish import Unfinished
from inpaint.grain import enlarge_with_grain
from inpaint.matching import Copies
from inpaint.pyramid import enlarge, halve
from inpaint.recipe import Recipe
from inpaint.scene import Scene, cut
from inpaint.stages import Stages
from inpaint.symmetry import complete_symmetrically
from patchswap import Match


@dataclass(frozen=True)
class ScaleResult:
    """What came of one scale, of windows of equal shape.

    scene: the scale. part: (B, 3, h, w) in [0, 1], the photograph, and in the hole the result of the coarser scale.
    decoded: Feature2Image's picture of the swapped features. result: after finishing. copies: what every query took.
    """

    scene: Scene
    part: Tensor
    decoded: Tensor
    result: Tensor
    copies: Copies


@dataclass(frozen=True)
class Filling:
    """Filled windows of equal shape.

    colours: (B, 3, h, w) in [0, 1], the photograph's own scale, near the hole: from the last scene's ``near`` cells on.
    coarse: (B, 3, h', w'), Image2Feature's completion of the coarsest parts. scales: coarse to fine, where they are
    kept.
    """

    colours: Tensor
    coarse: Tensor
    scales: list[ScaleResult] = field(default_factory=list)


class Pipeline:
    """The networks on a device, and the order in which they work.

    Args:
        networks: on their device.
        device: that one.
        dtype: what the networks multiply in, float32 or bfloat16. Matching is in float32 in any case.
    """

    def __init__(self, networks: weights.Networks, device: torch.device, dtype: torch.dtype) -> None:
        self.networks = networks
        self.device = device
        self.dtype = dtype

    def multiplying(self) -> torch.autocast:
        """A context in which the networks multiply in the chosen precision, whatever the caller's autocast is."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    @torch.inference_mode()
    def fill(
        self,
        crops: Tensor,
        unknown: Tensor,
        scenes: Sequence[Scene],
        recipe: Recipe,
        stages: Stages,
        *,
        keep: bool = False,
    ) -> Filling:
        """Fills the holes of windows of equal shape.

        Args:
            crops: (B, 3, H, W) float32 in [0, 1], finite in the holes too, where the values have no influence.
            unknown: (B, 1, H, W) bool, True = hole.
            scenes: coarse to fine.
            recipe: how.
            stages: told of every step.
            keep: keep the pictures of every scale.
        """
        with torch.autocast(self.device.type, enabled=False):
            pictures, coarser_unknown = [crops], unknown
            while len(pictures) <= scenes[0].halvings:
                picture, coarser_unknown = halve(pictures[-1], coarser_unknown)
                pictures.append(picture)
            current = coarse = self._infer(scenes[0].cut(pictures[-1]), scenes[0], recipe, stages)
            scales: list[ScaleResult] = []
            copies: Copies | None = None
            for scene in scenes:
                photograph = scene.cut(pictures[scene.halvings])
                if copies:
                    current = _carried_over(current, copies.scene, scene)
                part = torch.where(scene.unknown, current, photograph)
                if recipe.swap:
                    step = self._refine(part, scene, copies, recipe, stages)
                else:
                    step = _unswapped(part, scene, recipe)
                current, copies = step.result, step.copies
                scales = [*scales, step] if keep else [step]
            place = scene.near_pixels
            colours = current[..., place.rows, place.columns]
            if scene.halvings:
                fine = scene.cut(crops, 1 << scene.halvings)
                with stages.measure("enlarge", (fine.shape[2], fine.shape[3])):
                    colours = enlarge_with_grain(current, step.copies.match.index, scene, fine)
        return Filling(colours, coarse, scales if keep else [])

    def _infer(self, part: Tensor, scene: Scene, recipe: Recipe, stages: Stages) -> Tensor:
        """Image2Feature's completion of parts of the coarsest scale."""
        network, unknown = self.networks.image2feature, scene.unknown[:, 0]
        with stages.measure("infer", scene.size), self.multiplying():
            return complete_symmetrically(network, part, unknown, recipe.views)

    def _refine(
        self, part: Tensor, scene: Scene, coarser: Copies | None, recipe: Recipe, stages: Stages
    ) -> ScaleResult:
        """One scale: features, swap, translation and finishing of parts whose holes hold the coarser result."""
        with stages.measure("vgg", scene.size), self.multiplying():
            features = self.networks.vgg.relu3_1(part).float()
        with stages.measure("match", scene.size):
            swapped = features
            for _ in range(1 + recipe.rematches if scene.halvings else 1):
                match = recipe.match(swapped, features, scene, coarser)
                copies = Copies(scene, match, recipe.vote)
                swapped = _swap(features, copies)
        with stages.measure("translate", scene.size), self.multiplying():
            decoded = self.networks.feature2image(swapped)[..., : scene.size[0], : scene.size[1]]
        with stages.measure("blend", scene.size):
            painted, work = decoded, Unfinished(part, copies)
            for step in recipe.finish:
                painted = step(painted, work)
            result = torch.where(scene.own, painted.clamp(0, 1), part)
        return ScaleResult(scene, part, decoded, result, copies)


def _unswapped(part: Tensor, scene: Scene, recipe: Recipe) -> ScaleResult:
    index = torch.full_like(scene.queries, -1, dtype=torch.int64)
    nothing = Match(index, torch.full_like(scene.queries, -torch.inf, dtype=torch.float32))
    return ScaleResult(scene, part, part, part, Copies(scene, nothing, recipe.vote))


def _swap(features: Tensor, copies: Copies) -> Tensor:
    """Features whose cells to be filled are made of the copies."""
    scene = copies.scene
    if not scene.is_matched:
        return features
    place = (..., scene.near.rows, scene.near.columns)
    swapped = features.clone()  # keeps the layout, channels last, as the decoder wants it
    copied = copies.fold(features, features[place])
    swapped[place] = torch.where(scene.own_cells[place], copied, features[place])
    return swapped


def _carried_over(current: Tensor, coarser: Scene, scene: Scene) -> Tensor:
    """The result of the coarser scale at the finer one's size, where its parts are."""
    steps = coarser.halvings - scene.halvings
    corners = [
        ((top >> steps) - coarse_top, (left >> steps) - coarse_left)
        for (top, left), (coarse_top, coarse_left) in zip(scene.corners, coarser.corners, strict=True)
    ]
    down, right = (corner % (1 << steps) for corner in scene.corners[0])  # the same for all windows of a shape
    height, width = scene.size
    seen = (-(-(down + height) >> steps), -(-(right + width) >> steps))
    enlarged = enlarge(cut(current, corners, 1, seen), factor=1 << steps)
    return enlarged[..., down : down + height, right : right + width]
