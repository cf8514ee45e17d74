"""PatchGAN discriminators (Isola et al. 2017): one verdict for each overlapping patch of the picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """Judges pictures, given a condition at the picture's size or at a quarter of it.

    Image2Feature's judge sees pairs (incomplete image and hole, completion): ``image_channels`` = 3 + 4 and no
    ``condition``. Feature2Image's judge sees (picture | feature map): ``image_channels`` = 3 and ``condition`` = 256.
    ``spectral``: spectral normalisation (Miyato et al. 2018), which keeps it from outrunning the generator.
    """

    def __init__(self, image_channels: int, condition: int = 0, width: int = 48, *, spectral: bool = True) -> None:
        super().__init__()
        self.to_half = nn.Conv2d(image_channels, width, 4, stride=2, padding=1)
        self.to_quarter = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)
        self.condition = nn.Conv2d(condition, width, 1) if condition else None
        joined = 2 * width + (width if condition else 0)
        self.to_eighth = nn.Conv2d(joined, 4 * width, 4, stride=2, padding=1)
        self.verdict = nn.Conv2d(4 * width, 1, 3, padding=1)
        if spectral:
            for layer in self.children():
                spectral_norm(layer)

    def forward(self, image: Tensor, condition: Tensor | None = None) -> Tensor:
        """(B, image_channels, H, W), (B, condition, H/4, W/4) -> (B, 1, H/8, W/8): positive means taken for real."""
        x = F.leaky_relu(self.to_half(image * 2 - 1), 0.2)
        x = F.leaky_relu(self.to_quarter(x), 0.2)
        if self.condition is not None:
            if condition is None:
                raise ValueError("PatchDiscriminator: expected the feature map it is conditioned on, got none; pass it")
            x = torch.cat((x, F.leaky_relu(self.condition(condition), 0.2)), dim=1)
        x = F.leaky_relu(self.to_eighth(x), 0.2)
        return self.verdict(x).float()
