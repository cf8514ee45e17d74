"""Context Encoder: Pathak et al., "Context Encoders: Feature Learning by Inpainting" (CVPR 2016, arXiv 1604.07379).

The network for centre holes: 128x128 pixels in, the 64x64 in the middle out. Sizes, losses and rates are those of
section 4 and of the authors' published training script. The outer 4 pixels of what it paints overlap the known
surroundings and weigh ten times in the loss, so the hole that it can fill is 56 of 128: 7/16 of the side, as in 112 of
256 and 224 of 512.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from shrink import shrink
from torch import Tensor, nn

from inpaint.errors import InpaintError
from inpaint.networks.layout import on_device
from inpaint.pyramid import enlarge
from inpaint.tensor_file import read_tensors, under

SIDE = 128  # of the picture that the network sees, in pixels
PAINTED = 64  # side of the square in the middle that it paints
OVERLAP = 4  # pixels on each side of that square which it also sees
BOTTLENECK = 4000

RECONSTRUCTION, ADVERSARIAL = 0.999, 0.001
OVERLAP_WEIGHT = 10.0

_FILL = (117 / 255, 104 / 255, 123 / 255)  # RGB in the hole of the input: the authors' mean of ImageNet


class ContextEncoder(nn.Module):
    """Encoder to 4000 numbers and decoder back to pixels.

    Args:
        widths: channels at 1/2, 1/4, ... of the side down to 4x4 cells: one fewer gives a network for half the side.
        bottleneck: numbers between encoder and decoder.
    """

    def __init__(self, widths: tuple[int, ...] = (64, 64, 128, 256, 512), bottleneck: int = BOTTLENECK) -> None:
        super().__init__()
        down: list[nn.Module] = [_down(3, widths[0]), _leaky()]
        for before, width in zip(widths, widths[1:], strict=False):
            down += [_down(before, width), nn.BatchNorm2d(width), _leaky()]
        self.encoder = nn.Sequential(*down)
        cells = (widths[-1], 4, 4)
        # 4x4 convolutions on 4x4 cells, as published, are products with one matrix, and run faster as such.
        self.bottleneck = nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(cells), bottleneck, bias=False), nn.BatchNorm1d(bottleneck), _leaky()
        )
        up: list[nn.Module] = [nn.Linear(bottleneck, math.prod(cells), bias=False), nn.Unflatten(1, cells)]
        for before, width in zip(widths[:0:-1], widths[-2:0:-1], strict=False):
            up += [nn.BatchNorm2d(before), nn.ReLU(inplace=True), _up(before, width)]
        up += [nn.BatchNorm2d(widths[1]), nn.ReLU(inplace=True), _up(widths[1], 3), nn.Tanh()]
        self.decoder = nn.Sequential(*up)
        self.apply(_start)

    def forward(self, image: Tensor) -> Tensor:
        """Paints the middle: what ``with_hole`` made, (B, 3, S, S), -> (B, 3, S/2, S/2), both in [-1, 1]."""
        return self.decoder(self.bottleneck(self.encoder(image)))


class Judge(nn.Module):
    """The discriminator: tells painted middles from real ones, (B, 3, 64, 64) in [-1, 1] -> (B,) logits."""

    def __init__(self, widths: tuple[int, ...] = (64, 128, 256, 512)) -> None:
        super().__init__()
        layers: list[nn.Module] = [_down(3, widths[0]), _leaky()]
        for before, width in zip(widths, widths[1:], strict=False):
            layers += [_down(before, width), nn.BatchNorm2d(width), _leaky()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, bias=False))
        self.apply(_start)

    def forward(self, middle: Tensor) -> Tensor:
        return self.layers(middle).flatten()


def with_hole(image: Tensor) -> Tensor:
    """What the network sees of (B, 3, S, S) in [-1, 1]: all but the middle half less the overlap."""
    side = image.shape[-1]
    first, last = side // 4 + OVERLAP, side - side // 4 - OVERLAP
    seen = image.clone()
    seen[..., first:last, first:last] = image.new_tensor(_FILL).view(3, 1, 1) * 2 - 1
    return seen


def middle_of(image: Tensor) -> Tensor:
    """The middle half of (..., S, S) on each side, which is what the network paints."""
    side = image.shape[-1]
    return image[..., side // 4 : side - side // 4, side // 4 : side - side // 4]


def reconstruction_loss(painted: Tensor, truth: Tensor) -> Tensor:
    """Mean squared difference of (B, 3, S, S) in [-1, 1], the outermost 4 pixels weighing ten times."""
    weights = torch.full(painted.shape[-2:], OVERLAP_WEIGHT, device=painted.device)
    weights[OVERLAP:-OVERLAP, OVERLAP:-OVERLAP] = 1
    return (weights * (painted.float() - truth).square()).mean()


def adversarial_losses(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropies from the judge's logits on real and painted middles: the judge's, and the painter's."""
    real, fake = real.float(), fake.float()
    judged = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
    judged = judged + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    return judged, F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))


class ContextEncoderFill:
    """The trained network as a method of ``inpaint.evaluation``: pictures of any size with a hole in the middle.

    A square photograph is shrunk to 128x128, where the network paints, and the painted middle is enlarged back. So at
    256 its pixels are twice as large as the photograph's, at 512 four times: the published network is made for 128.

    Args:
        checkpoint: written by train_context_encoder.py.
        device: where it runs.

    Raises:
        InpaintError: the checkpoint is missing or of another kind.
    """

    def __init__(self, checkpoint: Path, device: torch.device | str = "cpu") -> None:
        weights = under(read_tensors(checkpoint)[0], "generator.")
        network = ContextEncoder()
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise InpaintError(
                f"{checkpoint}: expected a Context Encoder, got other layers; give the checkpoint.safetensors of "
                "train_context_encoder.py"
            ) from error
        self.network = on_device(network, device).eval().requires_grad_(False)
        self.device = device

    @torch.inference_mode()
    def at_128(self, image: Tensor, hole: Tensor) -> Tensor:
        """The completed picture at 128x128: (3, S, S) in [0, 1], (S, S) bool -> (3, 128, 128) in [0, 1]."""
        _check(image, hole)
        picture, missing = shrink(image.to(self.device)[None], hole.to(self.device)[None], (SIDE, SIDE))
        painted = picture.clone()
        middle_of(painted).copy_(self.network(with_hole(picture * 2 - 1)) / 2 + 0.5)
        return torch.where(missing[:, None], painted, picture)[0].clamp(0, 1).cpu()

    def __call__(self, image: Tensor, hole: Tensor) -> Tensor:
        """Fills (3, S, S) in [0, 1], S >= 128, whose hole (S, S) bool lies within the middle 7/16 of each side."""
        size = (image.shape[1], image.shape[2])
        painted = enlarge(self.at_128(image, hole)[None], size)[0].to(image)
        return torch.where(hole, painted, image)


def _check(image: Tensor, hole: Tensor) -> None:
    height, width = image.shape[-2:]
    if height != width or height < SIDE:
        raise InpaintError(
            f"Context Encoder: expected a square picture of at least {SIDE} pixels a side, got {width}x{height}; "
            "crop it to a square"
        )
    rim = height * (SIDE // 4 + OVERLAP) // SIDE
    inside = hole[rim : height - rim, rim : height - rim].sum()
    if inside != hole.sum():
        raise InpaintError(
            f"Context Encoder: expected a hole within the middle {height - 2 * rim}x{height - 2 * rim} pixels, got one "
            "that reaches beyond; use centre holes of 7/16 of the side"
        )


def _down(before: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(before, width, 4, stride=2, padding=1, bias=False)


def _up(before: int, width: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(before, width, 4, stride=2, padding=1, bias=width == 3)


def _leaky() -> nn.LeakyReLU:
    return nn.LeakyReLU(0.2, inplace=True)


def _start(module: nn.Module) -> None:
    """The authors' initial weights."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1, 0.02)
        nn.init.zeros_(module.bias)
