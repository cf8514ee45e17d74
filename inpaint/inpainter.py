"""The Inpainter: networks on a device, and everything that fills pictures with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inpaint import memory, weights
from inpaint.device import choose_device
from inpaint.errors import InpaintError
from inpaint.feather import feathered
from inpaint.graphs import Graphs
from inpaint.networks.layout import multiply_in, on_device
from inpaint.photo import Patch, as_given
from inpaint.pipeline import Filling, Pipeline
from inpaint.recipe import Recipe, RecipeRule, default_recipe
from inpaint.scene import Scene, make_scenes
from inpaint.stages import Stages, StageTime
from inpaint.tensor_photo import pictures_of
from inpaint.window import Window, find_windows
from inpaint.work import Batch, Filled, Job, KeptScale, KeptWindow, batches, prepare


class Inpainter:
    """Fills holes by feature image translation over scales (Song et al. 2017, sections 3 and 3.4).

    It can be shared by threads and pickled. The networks that it is given stay where they are: it takes copies where
    they lie elsewhere or in another layout.

    Args:
        networks: Image2Feature, Feature2Image and VGG-19, as ``inpaint.weights.load`` returns them.
        device: where they run.
        recipe: how windows are filled, or a function that chooses it by the depth of their holes in pixels.
        precision: what the networks multiply in: "float32", "bfloat16", or "auto", which is bfloat16 on CPUs that have
            matrix instructions for it (AMX). Matching is in float32 in any case.
        max_memory: bytes that a window may take, by default half of what is free. Of a hole that is too large for it,
            fine scales are left out: the photograph's finest detail is then carried into the hole by the match of the
            finest scale that fits.
        graphs: on a GPU, replay CUDA graphs for windows of a geometry that was seen before (``inpaint.graphs``).
    """

    def __init__(
        self,
        networks: weights.Networks,
        device: torch.device | str = "cpu",
        *,
        recipe: Recipe | RecipeRule = default_recipe,
        precision: str = "auto",
        max_memory: float | None = None,
        graphs: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.recipe = recipe
        self.max_memory = max_memory
        self.networks = networks._replace(
            image2feature=on_device(networks.image2feature, self.device),
            feature2image=on_device(networks.feature2image, self.device),
            vgg=on_device(networks.vgg, self.device),
        )
        self.pipeline = Pipeline(self.networks, self.device, multiply_in(precision, self.device))
        self._graphs = Graphs(self.pipeline) if graphs and self.device.type == "cuda" else None

    def __call__(self, image: Any, mask: Any, scales: Sequence[int] | None = None) -> Any:
        """Fills the holes of a picture and returns a picture of the same type, size and values outside the holes.

        Args:
            image: PIL image; numpy array (H, W), (H, W, 3) or (H, W, 4) of uint8, uint16 or floats in [0, 1]; or float
                tensor (3, H, W) or (B, 3, H, W) in [0, 1] on any device. A path gives a PIL image back.
            mask: white or True = hole: path, PIL image, array or tensor of the same size; one of
                ``inpaint.mask_sources``; or a list of these. For a batch of tensors also (B, H, W) or (B, 1, H, W).
            scales: short sides in pixels, coarse to fine: the picture's own, halved some times. Chosen from the holes
                by default.

        Returns:
            The filled picture. An empty mask gives an equal picture back.

        Raises:
            InpaintError: sizes differ, the hole covers everything, values outside [0, 1], or unfit scales.
        """
        if not isinstance(image, Tensor):
            job = prepare(image, mask, scales=scales, may_be_empty=True)
            return as_given(self.fill(job).picture, image)
        pictures = pictures_of(image)
        masks = _mask_of_each(mask, len(pictures))
        jobs = [
            prepare(picture, of_it, scales=scales, may_be_empty=True)
            for picture, of_it in zip(pictures, masks, strict=True)
        ]
        filled = [each.picture.tensor for each in self.fill_all(jobs)]
        if image.dim() == 3:
            return filled[0]
        return torch.stack(filled) if filled else image.detach().clone()

    def fill(self, job: Job, *, keep: bool = False, on_stage: Callable[[StageTime], None] | None = None) -> Filled:
        """Fills one picture. Arguments as for ``fill_all``."""
        return self.fill_all([job], keep=keep, on_stage=on_stage)[0]

    def fill_all(
        self, jobs: Sequence[Job], *, keep: bool = False, on_stage: Callable[[StageTime], None] | None = None
    ) -> list[Filled]:
        """Fills pictures; windows of equal shape, of whichever picture, run as one batch.

        Args:
            jobs: from ``inpaint.work.prepare``.
            keep: keep what every step made.
            on_stage: called with every step that has ended.
        """
        largest_part = memory.largest_part(self.device, self.max_memory)
        windows = [
            find_windows(job.hole, scales=job.scales, largest_part=largest_part, barred=job.barred, variant=job.variant)
            for job in jobs
        ]
        stages = Stages(self.device, on_stage)
        patches: list[list[Patch]] = [[] for _ in jobs]
        kept: list[list[KeptWindow]] = [[] for _ in jobs]
        for batch in batches(windows, largest_part, self._rule):
            for number, (patch, steps) in zip(batch.jobs, self._fill_batch(batch, jobs, stages, keep), strict=True):
                patches[number].append(patch)
                kept[number].extend(steps)
        return [
            Filled(
                job.picture.filled(patches[number]),
                (*job.notes, *self._notes(job, windows[number])),
                windows[number],
                stages.times,
                kept[number],
            )
            for number, job in enumerate(jobs)
        ]

    def _notes(self, job: Job, windows: Sequence[Window]) -> tuple[str, ...]:
        """Notes on a choice of sources that has no effect."""
        chosen = job.variant > 0 or job.barred is not None
        if not chosen or not windows or any(self._rule(window.depth).swap for window in windows):
            return ()
        return ("the holes are too small to be filled with copies: a choice of sources and variants changes nothing",)

    def _rule(self, depth: int) -> Recipe:
        return self.recipe if isinstance(self.recipe, Recipe) else self.recipe(depth)

    def _fill_batch(
        self, batch: Batch, jobs: Sequence[Job], stages: Stages, keep: bool
    ) -> list[tuple[Patch, list[KeptWindow]]]:
        parts = [_crop(jobs[number], window) for window, number in zip(batch.windows, batch.jobs, strict=True)]
        crops = torch.stack([part.to(self.device, non_blocking=True) for part in parts])
        unknown = torch.from_numpy(np.stack([window.unknown for window in batch.windows])).unsqueeze(1).to(self.device)
        scenes = make_scenes(batch.windows, self.device)
        if self._graphs is not None and not keep:
            with stages.measure("replay", scenes[-1].size):
                filling = self._graphs.fill(crops, unknown, scenes, batch.recipe)
        else:
            filling = self.pipeline.fill(crops, unknown, scenes, batch.recipe, stages, keep=keep)
        colours = filling.colours.cpu()
        stages.read()
        patches = [_patch(window, scenes[-1], one) for window, one in zip(batch.windows, colours, strict=True)]
        return [
            (feathered(patch, jobs[job]), _kept(filling, number, window) if keep else [])
            for number, (patch, window, job) in enumerate(zip(patches, batch.windows, batch.jobs, strict=True))
        ]


def load(
    name_or_path: str = "default",
    device: str = "auto",
    *,
    vgg: Path | None = None,
    precision: str = "auto",
    recipe: Recipe | RecipeRule = default_recipe,
    max_memory: float | None = None,
) -> Inpainter:
    """An Inpainter with weights of that name or from that file.

    Args:
        name_or_path: "default", which comes with the package, or a file made by ``inpaint train export``.
        device: "auto" takes a CUDA device if there is one, else the CPU.
        vgg: the VGG-19 file that weights of your own were trained with; the package's by default.
        precision, recipe, max_memory: as for ``Inpainter``.

    Raises:
        InpaintError: weights missing or damaged, trained with another VGG-19, a device that is not there, or an unknown
            precision.
    """
    chosen = choose_device(device)
    return Inpainter(weights.load(name_or_path, vgg), chosen, recipe=recipe, precision=precision, max_memory=max_memory)


def _crop(job: Job, window: Window) -> Tensor:
    """The window's part of the picture, (3, h, w), with nothing of what its holes held."""
    colours = job.picture.colours(window.crop.rows, window.crop.columns)
    return colours.masked_fill(torch.from_numpy(window.unknown).to(colours.device), 0.5)


def _patch(window: Window, scene: Scene, colours: Tensor) -> Patch:
    """What goes into the picture of colours (3, h, w) of the cells near the hole."""
    level = window.levels[-1]
    box = scene.near_pixels.moved(level.part.top, level.part.left).scaled(1 << level.halvings)
    box = box.moved(-window.crop.top, -window.crop.left).within(window.own.shape)
    height, width = box.size
    place = box.moved(window.crop.top, window.crop.left)
    return Patch(place.rows, place.columns, colours[:, :height, :width], window.own[box.rows, box.columns])


def _kept(filling: Filling, number: int, window: Window) -> list[KeptWindow]:
    scales = []
    for level, step in zip(window.levels, filling.scales, strict=True):
        tensors = (step.part, step.decoded, step.result, step.copies.match.index)
        scales.append(KeptScale(level, *(each[number].cpu().clone() for each in tensors)))
    return [KeptWindow(window, filling.coarse[number].cpu().clone(), scales)]


def _mask_of_each(mask: Any, count: int) -> list[Any]:
    """One mask for each of so many pictures."""
    if not isinstance(mask, Tensor) or mask.dim() < 3 or mask.shape[0] == 1 and mask.dim() == 3:
        return [mask] * count
    if mask.dim() == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.dim() != 3 or mask.shape[0] not in (1, count):
        raise InpaintError(
            f"mask: expected (H, W), (1, H, W), ({count}, H, W) or ({count}, 1, H, W), got {tuple(mask.shape)}; "
            "give one value per pixel and one mask, or one per picture"
        )
    return list(mask.expand(count, -1, -1))
