"""Feature2Image: from a feature map to the picture it belongs to (Song et al. 2017, section 3.3), a U-Net."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inpaint.networks.convolution import convolve
from inpaint.networks.registry import register

# Of the finest layer that are computed at once: less memory, and kinder to the CPU's cache.
_STRIP_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}


@dataclass(frozen=True)
class Feature2ImageConfig:
    """Widths of Feature2Image.

    ``widths``: channels at 1, 1/2, 1/4, ... of the feature map's resolution, one convolution block each; every level
    but the deepest is a skip. ``upper``: channels of the two blocks that lead from the feature map's resolution to the
    picture's, four times as large. The paper's seven convolution and eight up-convolution blocks with six skips are
    seven ``widths`` (six up-convolutions back, two more up).
    """

    features: int = 256
    widths: tuple[int, ...] = (128, 192, 256, 256)
    upper: tuple[int, int] = (64, 32)


@register("feature2image", "u-net", Feature2ImageConfig)
class Feature2Image(nn.Module):
    """Decodes relu3_1 features into an RGB picture four times as large."""

    def __init__(self, config: Feature2ImageConfig | None = None) -> None:
        super().__init__()
        self.config = config or Feature2ImageConfig()
        widths = self.config.widths
        self.stride = 2 ** (len(widths) - 1)  # cells of the feature map along a side of the deepest layer's cells
        self.down = nn.ModuleList([nn.Conv2d(self.config.features, widths[0], 3, padding=1)])
        self.down.extend(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in zip(widths, widths[1:], strict=False)
        )
        deepest_first = list(zip(widths[::-1], widths[-2::-1], strict=False))
        self.up = nn.ModuleList(nn.Conv2d(deep + skip, skip, 3, padding=1) for deep, skip in deepest_first)
        first, second = self.config.upper
        self.to_half = nn.Conv2d(widths[0], first, 3, padding=1)
        self.to_full = nn.Conv2d(first, second, 3, padding=1)
        self.to_rgb = nn.Conv2d(second, 3, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) features of any size, not negative -> (B, 3, 4H, 4W) RGB.

        In evaluation mode RGB is clipped to [0, 1]. In training it is not: a clipped or squashed pixel has no gradient
        that would bring it back.
        """
        height, width = features.shape[-2:]
        x = torch.log1p(features)  # activations have heavy tails, which unsettle a network without normalisation
        x = F.pad(x, (0, -width % self.stride, 0, -height % self.stride), mode="replicate")
        x = convolve(x, self.down[0], slope=0.2)  # type: ignore[arg-type]  # ModuleList of Conv2d
        skips: list[Tensor] = []
        for convolution in self.down[1:]:
            skips.append(x)
            x = F.leaky_relu(convolution(x), 0.2, inplace=True)
        for convolution in self.up:
            x = convolve(x, convolution, doubled=True, skip=skips.pop(), slope=0.2)  # type: ignore[arg-type]
        x = x[..., :height, :width]  # the finest layers run on the real size only
        if torch.compiler.is_exporting():  # the number of strips would bind the graph to one size
            strips = [self._paint(x, 0, height)]
        else:
            # Of what to_full makes of a row of cells.
            row_bytes = 4 * len(x) * 4 * self.to_full.out_channels * 4 * width
            rows = max(1, _STRIP_BYTES.get(x.device.type, 256 << 20) // row_bytes)
            strips = [self._paint(x, start, min(start + rows, height)) for start in range(0, height, rows)]
        picture = (strips[0] if len(strips) == 1 else torch.cat(strips, dim=2)).float() + 0.5
        return (picture if self.training else picture.clamp(0, 1)).to(features.dtype)

    def _paint(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The finest layers, of the rows of cells from ``start`` to ``stop``: (B, 3, 4 * rows, 4 * W)."""
        above = min(start, 1)  # one more row of cells is seen
        x = x[:, :, start - above : stop + 1]
        x = convolve(x, self.to_half, doubled=True, slope=0.2)
        x = convolve(x, self.to_full, doubled=True, slope=0.2)
        return convolve(x, self.to_rgb, slope=1)[:, :, 4 * above : 4 * (above + stop - start)]
