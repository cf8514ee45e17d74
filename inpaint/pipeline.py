"""Infer, match, translate, scale after scale: the only place that knows the order of the steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import patchswap
from inpaint import weights
from inpaint.errors import InpaintError
from inpaint.image import Photo, replace_hole, to_tensor
from inpaint.mask import feature_hole
from inpaint.networks.layout import multiply_in, on_device
from inpaint.scales import enlarge, low_frequencies, scale_sizes, shrink, window_around
from inpaint.symmetry import complete_symmetrically
from patchswap.ops import fill_smoothly
from patchswap.swap import masks_from_hole

Picture = TypeVar("Picture", Image.Image, Tensor)

_CONTEXT = 128  # pixels around the hole's bounding box in which keys are looked for, at least


@dataclass(frozen=True)
class StageTime:
    """One step that has ended: infer, vgg, match, translate or blend; (height, width) of its scale; seconds."""

    name: str
    size: tuple[int, int]
    seconds: float


@dataclass(frozen=True)
class ScaleResult:
    """What came of one scale. ``size`` is (height, width) in pixels, pictures are (3, height, width) in [0, 1].

    decoded: Feature2Image's picture of the swapped features, before blending; outside the window that was worked on,
        the scale's own picture. result: after blending. match_index: int64 on the patch grid of the whole scale, the
        row-major index of the chosen key in that same grid, -1 where nothing was matched.
    """

    size: tuple[int, int]
    decoded: Tensor
    result: Tensor
    match_index: Tensor


@dataclass(frozen=True)
class Result:
    """image: the filled photograph (3, H, W), known pixels bit for bit. coarse: Image2Feature's completion."""

    image: Tensor
    coarse: Tensor
    scales: list[ScaleResult] = field(default_factory=list)
    times: list[StageTime] = field(default_factory=list)


class Inpainter:
    """Fills holes by feature image translation over scales (Song et al. 2017, sections 3 and 3.4).

    Args:
        networks: Image2Feature, Feature2Image and VGG-19, as ``inpaint.weights.load`` returns them.
        device: where they run.
        key_margin: cells that keys keep away from the hole, because relu3_1 sees that far into it.
        carry: shrinking factor below which frequencies are taken from the coarser scale rather than from the decoder,
            which keeps colours consistent across the rim; 0 takes all from the decoder. By default 8 where the hole is
            wide enough for more than one scale, else 4 (docs/quality.md).
        detail: add to the hole what the decoder lost of the patches that were copied into it, and what is then still
            off along the rim (see _lost_detail and _off_at_rim).
        symmetric: average Image2Feature over mirrored and turned pictures, where the hole is wide enough for more than
            one scale (see inpaint.symmetry).
        precision: what the networks multiply in: "float32", "bfloat16", or "auto", which is bfloat16 on CPUs that have
            instructions for it. Matching is in float32 in any case.
        largest_window: megapixels. A scale whose window around the hole is larger is left out, as are those after it,
            and the last result is enlarged into the hole instead.
    """

    def __init__(
        self,
        networks: weights.Networks,
        device: torch.device | str = "cpu",
        *,
        key_margin: int = 0,
        carry: int | None = None,
        detail: bool = True,
        symmetric: bool = True,
        precision: str = "auto",
        largest_window: float = 8.0,
    ) -> None:
        self.device = torch.device(device)
        self.card = networks.card
        self.key_margin = key_margin
        self.carry = carry
        self.detail = detail
        self.largest_window = largest_window
        self.symmetric = symmetric
        self._dtype = multiply_in(precision, self.device)
        self.image2feature = on_device(networks.image2feature, self.device)
        self.feature2image = on_device(networks.feature2image, self.device)
        self.vgg = on_device(networks.vgg, self.device)

    def __call__(
        self, image: Picture, mask: Image.Image | Tensor, scales: Sequence[int] | None = None, seed: int = 0
    ) -> Picture:
        """Fills the hole of a picture and returns a picture of the same type and size.

        Args:
            image: PIL image (RGB, RGBA, L or LA), or float tensor (3, H, W) or (B, 3, H, W) in [0, 1].
            mask: white (at least half) or True = hole. PIL image of the same size, or tensor (H, W), (1, H, W), or with
                a batch (B, H, W) or (B, 1, H, W).
            scales: short sides in pixels, coarse to fine; chosen from the hole and the size by default.
            seed: kept for samplers to come; today's pipeline draws nothing at random and the same input gives the same
                output.

        Returns:
            The filled picture. Pixels outside the hole are those of ``image``, bit for bit. An empty hole returns an
            equal picture.

        Raises:
            InpaintError: sizes differ, a hole covers everything, values outside [0, 1], or unfit scales.
        """
        if isinstance(image, Image.Image):
            hole = _hole_of(mask, 1)[0]
            if (got := (hole.shape[1], hole.shape[0])) != image.size:
                raise InpaintError(f"mask: expected the image's size {image.size}, got {got}; resize one of them")
            result = self.run(to_tensor(image), hole, scales=scales).image
            return replace_hole(Photo(image), result, hole)
        batch = image.unsqueeze(0) if image.dim() == 3 else image
        holes = _hole_of(mask, len(batch))
        filled = torch.stack(
            [self.run(one, hole, scales=scales).image for one, hole in zip(batch, holes, strict=True)]
        ).to(image)
        return filled[0] if image.dim() == 3 else filled

    @torch.inference_mode()
    def run(
        self,
        image: Tensor,
        hole: Tensor,
        *,
        scales: Sequence[int] | None = None,
        on_stage: Callable[[StageTime], None] | None = None,
    ) -> Result:
        """Fills one picture and keeps what each step made.

        Args:
            image: (3, H, W) float32 in [0, 1]; what it holds inside the hole does not matter.
            hole: (H, W) bool, True = hole.
            scales: short sides in pixels, coarse to fine.
            on_stage: called as each step ends.

        Raises:
            InpaintError: as for calling the object.
        """
        _check(image, hole)
        full = (hole.shape[0], hole.shape[1])
        if not hole.any():
            return Result(image, image)
        sizes = scale_sizes(hole, scales, context=_CONTEXT, largest_window=self.largest_window * 1e6)
        clock = _Clock(self.device, on_stage)
        photograph, holes = image.to(self.device).unsqueeze(0), hole.to(self.device).unsqueeze(0)
        photograph = torch.where(holes.unsqueeze(1), 0.5, photograph)  # nothing below can depend on what the hole held

        results: list[ScaleResult] = []
        picture, missing = shrink(photograph, holes, sizes[0])
        rows, columns = window_around(missing[0], _CONTEXT)
        with clock.measure("infer", sizes[0]), self.multiplying():
            coarse = picture.clone()
            part, gap = picture[..., rows, columns], missing[..., rows, columns]
            if self.symmetric and len(sizes) > 1:
                coarse[..., rows, columns] = complete_symmetrically(self.image2feature, part, gap)
            else:
                coarse[..., rows, columns] = self.image2feature(part, gap)
        current = coarse
        for size in sizes:
            picture, missing = shrink(photograph, holes, size)
            rows, columns = window_around(missing[0], _CONTEXT)
            if (rows.stop - rows.start) * (columns.stop - columns.start) > self.largest_window * 1e6:
                break
            filled = torch.where(missing.unsqueeze(1), enlarge(current, size), picture)
            carry = self.carry if self.carry is not None else (8 if len(sizes) > 1 else 4)
            current, step = self._refine(filled, missing, (rows, columns), carry, clock)
            results.append(step)
        final = torch.where(holes.unsqueeze(1), enlarge(current, full), photograph)[0].to(image.device)
        final = torch.where(hole, final, image)
        return Result(final, coarse[0].to(image.device), results, clock.times)

    def multiplying(self) -> torch.autocast:
        """A context in which the networks multiply in the precision that was asked for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._dtype == torch.bfloat16)

    def _refine(
        self, filled: Tensor, hole: Tensor, window: tuple[slice, slice], carry: int, clock: _Clock
    ) -> tuple[Tensor, ScaleResult]:
        """One scale: features, swap, translation and blending of a picture whose hole holds the coarser result."""
        size = (filled.shape[2], filled.shape[3])
        rows, columns = window
        part, missing = filled[..., rows, columns], hole[..., rows, columns]
        with clock.measure("vgg", size), self.multiplying():
            features = self.vgg.relu3_1(part).float()
        with clock.measure("match", size):
            cells = feature_hole(missing)
            swapped, match = _swap(features, hole=cells, key_margin=self.key_margin)
        with clock.measure("translate", size), self.multiplying():
            decoded = self.feature2image(swapped)[..., : part.shape[2], : part.shape[3]]
        with clock.measure("blend", size):
            painted = decoded
            if self.detail:
                painted = painted + _lost_detail(part - painted, match.index)
                painted = painted + _off_at_rim(part - painted, match.index, cells)
            if carry:
                painted = painted + low_frequencies(part - painted, carry)
            painted = painted.clamp(0, 1)
            result = filled.clone()
            result[..., rows, columns] = torch.where(missing.unsqueeze(1), painted, part)
        shown = filled.clone()
        shown[..., rows, columns] = decoded
        index = _on_whole_grid(match.index[0], size, (rows.start // 4, columns.start // 4))
        return result, ScaleResult(size, shown[0].cpu(), result[0].cpu(), index.cpu())


def _swap(features: Tensor, *, hole: Tensor, key_margin: int) -> tuple[Tensor, patchswap.Match]:
    """``patchswap.swap``, of one sample and with its match, that folds the hole's surroundings and not the whole map.

    The features keep their layout in memory, channels last, as the decoder wants them.
    """
    queries, keys = masks_from_hole(hole, 3, key_margin)
    match = patchswap.match(features, features, query_mask=queries, key_mask=keys)
    rows, columns = _covered(match.index)
    old = features[..., rows, columns]
    new = _fold_covered(match.index, features, base=old)
    swapped = features.clone()
    swapped[..., rows, columns] = torch.where(hole[:, None, rows, columns], new, old)
    return swapped, match


def _lost_detail(residual: Tensor, index: Tensor) -> Tensor:
    """What the decoder lost of each matched patch, put where the patch was copied to; 0 elsewhere.

    Photograph minus decoded picture, (1, 3, H, W), is the decoder's error, known outside the hole. The same match field
    that copied the features copies the 12x12 pixels of error that belong to a 3x3 patch of cells.
    """
    height, width = residual.shape[-2:]
    whole_cells = F.pad(residual, (0, -width % 4, 0, -height % 4))
    rows, columns = _covered(index)
    copied = F.pixel_shuffle(_fold_covered(index, F.pixel_unshuffle(whole_cells, 4)), 4)
    detail = torch.zeros_like(whole_cells)
    detail[..., 4 * rows.start : 4 * rows.stop, 4 * columns.start : 4 * columns.stop] = copied
    return detail[..., :height, :width]


def _off_at_rim(residual: Tensor, index: Tensor, hole: Tensor) -> Tensor:
    """What a picture is off by along the rim, spread smoothly into the hole (a membrane); 0 elsewhere.

    Patches that straddle the rim were copied onto known cells too. There the residual, photograph minus picture, says
    how well the copies fit their new place; the hole behind is taken to be off by the same.

    Args:
        residual: (1, 3, H, W), known outside the hole.
        index: (1, h-2, w-2), the match.
        hole: (1, h, w) bool, cells.
    """
    rows, columns = _covered(index)
    off = torch.zeros_like(residual)
    if rows.start == rows.stop:
        return off
    matched = (index[:, rows.start : rows.stop - 2, columns.start : columns.stop - 2] >= 0).float()
    covered = F.max_pool2d(F.pad(matched[:, None], (2, 2, 2, 2)), 3, stride=1) > 0
    rim = (covered & ~hole[:, None, rows, columns]).float()
    place = (..., slice(4 * rows.start, 4 * rows.stop), slice(4 * columns.start, 4 * columns.stop))
    near = residual[place]
    known = F.interpolate(rim, scale_factor=4)[:, 0, : near.shape[2], : near.shape[3]] > 0
    off[place] = fill_smoothly(near, ~known)
    return off


def _covered(index: Tensor) -> tuple[slice, slice]:
    """Rows and columns of the cells that matched 3x3 patches (1, h-2, w-2) cover."""
    spans = []
    for axis in (1, 0):
        matched = (index[0] >= 0).any(dim=axis).nonzero()
        spans.append(slice(int(matched[0]), int(matched[-1]) + 3) if len(matched) else slice(0, 0))
    return spans[0], spans[1]


def _fold_covered(index: Tensor, key: Tensor, base: Tensor | None = None) -> Tensor:
    """``patchswap.fold``, but only of the cells that ``_covered`` names."""
    rows, columns = _covered(index)
    size = (rows.stop - rows.start, columns.stop - columns.start)
    patches = index[:, rows.start : max(0, rows.stop - 2), columns.start : max(0, columns.stop - 2)]
    return patchswap.fold(patches, key, output_size=size, base=base)


class _Clock:
    """Times steps, waiting for the device, and tells who asked."""

    def __init__(self, device: torch.device, on_stage: Callable[[StageTime], None] | None) -> None:
        self.times: list[StageTime] = []
        self._device = device
        self._on_stage = on_stage

    @contextmanager
    def measure(self, name: str, size: tuple[int, int]) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.times.append(StageTime(name, size, time.perf_counter() - start))
        if self._on_stage:
            self._on_stage(self.times[-1])


def load(
    name_or_path: str = "default", device: str = "auto", *, vgg: Path | None = None, precision: str = "auto"
) -> Inpainter:
    """An Inpainter with the weights of that name, or of that file.

    Args:
        name_or_path: "default", or the path of a safetensors file made by ``inpaint train export``.
        device: "auto" takes a CUDA device if there is one, else the CPU.
        vgg: the VGG-19 file that weights of your own were trained with; the package's by default.
        precision: "auto", "float32" or "bfloat16", as for ``Inpainter``.

    Raises:
        InpaintError: weights missing or damaged, trained with another VGG-19, a device that is not there, or an unknown
            precision.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InpaintError(f"device: expected auto, cpu or cuda, got {device!r}; choose one of these") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InpaintError("device: expected an NVIDIA GPU and torch with CUDA, found none; use --device cpu")
    return Inpainter(weights.load(name_or_path, vgg), chosen, precision=precision)


def _check(image: Tensor, hole: Tensor) -> None:
    if image.dim() != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise InpaintError(
            f"image: expected a float tensor (3, H, W) with values in [0, 1], got {image.dtype} {tuple(image.shape)}; "
            "convert it first"
        )
    if hole.dtype != torch.bool or hole.shape != image.shape[1:]:
        raise InpaintError(
            f"hole: expected a bool tensor of shape {tuple(image.shape[1:])}, True = hole, got {hole.dtype} "
            f"{tuple(hole.shape)}; give one value per pixel"
        )
    if hole.numel() == 0:
        raise InpaintError("image: expected at least one pixel, got none; check how it was read")
    if hole.all():
        raise InpaintError(
            "mask: expected some known pixels, the hole covers 100 % of the picture; "
            "check that white marks the hole (use --invert-mask if black does)"
        )
    known = image[:, ~hole]
    if not bool(((known >= 0) & (known <= 1)).all()):
        raise InpaintError(
            f"image: expected known pixels in [0, 1], got values from {known.min():.3g} to {known.max():.3g}; "
            "divide 8-bit values by 255"
        )


def _hole_of(mask: Image.Image | Tensor, count: int) -> Tensor:
    """(B, H, W) bool from what the caller gave as a mask."""
    if isinstance(mask, Image.Image):
        return torch.from_numpy(np.array(mask.convert("L")) >= 128).unsqueeze(0).expand(count, -1, -1)
    hole = mask if mask.dtype == torch.bool else mask >= 0.5
    if hole.dim() == 4 and hole.shape[1] == 1:
        hole = hole[:, 0]
    if hole.dim() == 2:
        hole = hole.unsqueeze(0)
    if hole.dim() != 3 or hole.shape[0] not in (1, count):
        raise InpaintError(
            f"mask: expected (H, W), (1, H, W), ({count}, H, W) or ({count}, 1, H, W), got {tuple(mask.shape)}; "
            "give one value per pixel and one mask, or one per picture"
        )
    return hole.expand(count, -1, -1)


def _on_whole_grid(index: Tensor, size: tuple[int, int], offset: tuple[int, int]) -> Tensor:
    """Indices on the patch grid of a window, as indices on the patch grid of the whole scale."""
    rows, columns = (max(0, -(-length // 4) - 2) for length in size)
    whole = index.new_full((rows, columns), -1)
    if index.numel():
        width = index.shape[1]
        moved = (index // width + offset[0]) * columns + index % width + offset[1]
        whole[offset[0] : offset[0] + index.shape[0], offset[1] : offset[1] + width] = torch.where(index < 0, -1, moved)
    return whole
