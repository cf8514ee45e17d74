"""Image2Feature: the coarse completion of the hole (Song et al. 2017, section 3.1), a fully convolutional network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inpaint.networks.convolution import convolve
from inpaint.networks.registry import register
from patchswap.ops import fill_smoothly


@dataclass(frozen=True)
class Image2FeatureConfig:
    """Widths of Image2Feature.

    ``widths``: channels at 1/2, 1/4 and 1/8 of the resolution. ``dilations``: one residual block each, at 1/8.
    """

    widths: tuple[int, int, int] = (32, 96, 192)
    dilations: tuple[int, ...] = (1, 2, 4, 8, 1, 2, 4, 8, 1)


@register("image2feature", "dilated", Image2FeatureConfig)
class Image2Feature(nn.Module):
    """Paints a coarse completion at the coarsest scale.

    The paper turns this completion into features with VGG-19; here VGG-19 stays a network of its own, so this module
    returns the image. It starts from a smooth interpolation of the rim and paints what is to be added to it, which at
    the start of training is nothing: that interpolation is nearer to the truth than the mean colour, the usual start.
    Three strided convolutions, residual blocks with growing dilation that carry the surroundings into the middle of the
    hole, and two upsampling steps with skips that keep the rim continuous. The last step to full resolution is a
    sub-pixel convolution: a coarse fill has no detail that would pay for full-size layers. On the CPU the layers after
    the residual blocks run where the holes are.
    """

    stride = 8  # sides are padded to a multiple of this inside forward

    def __init__(self, config: Image2FeatureConfig | None = None) -> None:
        super().__init__()
        self.config = config or Image2FeatureConfig()
        half, quarter, eighth = self.config.widths
        self.to_half = nn.Conv2d(4, half, 4, stride=2, padding=1)
        self.to_quarter = nn.Conv2d(half, quarter, 4, stride=2, padding=1)
        self.to_eighth = nn.Conv2d(quarter, eighth, 4, stride=2, padding=1)
        self.context = nn.ModuleList(_DilatedBlock(eighth, dilation) for dilation in self.config.dilations)
        self.up_quarter = nn.Conv2d(eighth + quarter, quarter, 3, padding=1)
        self.up_half = nn.Conv2d(quarter + half, max(half, 48), 3, padding=1)
        self.to_rgb = nn.Conv2d(max(half, 48), 12, 3, padding=1)
        for parameter in self.to_rgb.parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        """Completes ``image``.

        Args:
            image: RGB in [0, 1], (B, 3, H, W); its pixels inside the hole are not looked at.
            hole: bool (B, H, W), True = hole.

        Returns:
            (B, 3, H, W): known pixels of ``image``, the network's painting in the hole. In evaluation mode it is
            clipped to [0, 1]; in training it is not, as a clipped pixel has no gradient that would bring it back.
        """
        height, width = image.shape[-2:]
        mask = hole.unsqueeze(1)
        smooth = fill_smoothly(image, hole)
        x = torch.cat((smooth * 2 - 1, mask.to(image.dtype)), dim=1)
        x = F.pad(x, (0, -width % self.stride, 0, -height % self.stride), mode="replicate")
        half = F.leaky_relu(self.to_half(x), 0.1)
        quarter = F.leaky_relu(self.to_quarter(half), 0.1)
        x = F.leaky_relu(self.to_eighth(quarter), 0.1)
        for block in self.context:
            x = block(x)
        # Where the holes are is read on the CPU only: a GPU, which is fast on whole maps, would have to be waited for.
        # An exported graph does not read it either.
        is_read = hole.device.type == "cpu" and not self.training and not torch.compiler.is_exporting()
        parts = _around(hole, self.stride) if is_read else None
        if parts:
            x, quarter, half = (parts.cut(each, cell) for each, cell in ((x, 1), (quarter, 2), (half, 4)))
        x = convolve(x, self.up_quarter, doubled=True, skip=quarter, slope=0.1)
        x = convolve(x, self.up_half, doubled=True, skip=half, slope=0.1)
        added = F.pixel_shuffle(convolve(x, self.to_rgb, slope=1), 2).to(image.dtype)
        painted = parts.add(added, smooth, self.stride) if parts else smooth + added[..., :height, :width]
        return torch.where(mask, painted if self.training else painted.clamp(0, 1), image)


class _Parts(NamedTuple):
    """A part of every sample, all of one size, in cells at 1/8."""

    tops: list[int]
    lefts: list[int]
    height: int
    width: int

    def cut(self, x: Tensor, cell: int) -> Tensor:
        """The parts of (B, C, H, W), where a cell has ``cell`` pixels a side."""
        height, width = cell * self.height, cell * self.width
        corners = zip(x, self.tops, self.lefts, strict=True)
        parts = [one[:, cell * top :, cell * left :][:, :height, :width] for one, top, left in corners]
        return torch.stack(parts).contiguous(memory_format=torch.channels_last)

    def add(self, parts: Tensor, x: Tensor, cell: int) -> Tensor:
        """(B, C, H, W) plus the parts in their places; what reaches beyond it is left out."""
        result = x.clone()
        for number, (part, top, left) in enumerate(zip(parts, self.tops, self.lefts, strict=True)):
            place = result[number, :, cell * top :, cell * left :][:, : part.shape[1], : part.shape[2]]
            place += part[:, : place.shape[1], : place.shape[2]]
        return result


def _around(hole: Tensor, cell: int) -> _Parts:
    """The cells that the holes (B, H, W) touch and one more around them, which the last layers see."""
    cells = F.max_pool2d(hole.unsqueeze(1).float(), cell, ceil_mode=True)[:, 0] > 0
    spans = []
    for axis in (2, 1):
        touched = cells.any(axis).int()
        count = touched.shape[1]
        first = (touched.argmax(1) - 1).clamp(min=0)
        stop = (count - touched.flip(1).argmax(1) + 1).clamp(max=count)
        length = int((stop - first).max())
        spans.append((first.clamp(max=count - length).tolist(), length))
    (tops, height), (lefts, width) = spans
    return _Parts(tops, lefts, height, width)


class _DilatedBlock(nn.Module):
    """x + gain * convolution(activation(x)); a small gain at the start keeps deep stacks without norms stable."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilated = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.gain = nn.Parameter(torch.full((1, width, 1, 1), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * convolve(F.leaky_relu(x, 0.1), self.dilated, slope=1)
