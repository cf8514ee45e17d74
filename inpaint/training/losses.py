"""Losses of Song et al. 2017, sections 3.1 and 3.3."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from inpaint.pyramid import low_frequencies


def hole_weights(hole: Tensor, band: float) -> Tensor:
    """Weight of each feature cell in Image2Feature's perceptual loss: (B, H, W) bool cells -> (B, 1, H, W) float.

    Known cells weigh nothing, hole cells one, and hole cells that touch a known one ``1 + band`` more.
    """
    inside = hole.unsqueeze(1).float()
    known_near = F.max_pool2d(1 - inside, 3, stride=1, padding=1)
    return inside * (1 + band * known_near)


def weighted_l1(prediction: Tensor, truth: Tensor, weights: Tensor, total: Tensor | None = None) -> Tensor:
    """Mean absolute difference, (B, C, H, W) each, weighted by (B, 1, H, W); zero where nothing weighs.

    ``total`` stands in for the sum of the weights where the pictures are one part of a batch: the mean of the parts'
    losses, each with the mean of the parts' totals, is then the loss of the batch.
    """
    total = (weights.sum() if total is None else total) * prediction.shape[1]
    return ((prediction - truth).abs() * weights).sum() / total.clamp(min=1e-6)


def relative_l2(prediction: Tensor, truth: Tensor, weights: Tensor, total: Tensor | None = None) -> Tensor:
    """Squared difference relative to the truth's energy in the same cell, averaged with the given weights.

    Dividing by the energy keeps the few cells with huge activations from deciding everything; plain L2 diverged.

    Args:
        prediction, truth: features (B, C, H, W).
        weights: (B, 1, H, W).
        total: as for ``weighted_l1``.
    """
    energy = truth.square().mean(dim=1, keepdim=True)
    error = (prediction - truth).square().mean(dim=1, keepdim=True) / (energy + 0.1)
    total = weights.sum() if total is None else total
    return (error * weights).sum() / total.clamp(min=1e-6)


def judge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's hinge loss on its verdicts for real and painted pictures."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def painter_loss(fake: Tensor) -> Tensor:
    """The generator's side of it: verdicts on painted pictures should be high."""
    return -fake.mean()


def detail(picture: Tensor) -> Tensor:
    """What is lost by shrinking (B, 3, H, W) to a quarter, four times as strong, around 0.5.

    Painted and real texture differ in this. The low frequencies, which are most of a picture, are the same in both.
    """
    return 0.5 + 4 * (picture - low_frequencies(picture, 4))


def around_hole(hole: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """A square of ``window`` pixels around each hole's centre, aligned to 8 pixels: its rows and columns, (B, window).

    The features of a hole depend on the pixels near it only, so the loss need not see the whole picture.
    """
    reach = torch.arange(window, device=hole.device)
    starts = []
    for length, occupied in ((hole.shape[1], hole.any(dim=2)), (hole.shape[2], hole.any(dim=1))):
        first, last = occupied.int().argmax(1), length - 1 - occupied.flip(1).int().argmax(1)
        middle = torch.where(occupied.any(1), (first + last + 1) // 2, length // 2)
        starts.append((middle - window // 2).clamp(0, length - window) // 8 * 8)
    rows, columns = (start.unsqueeze(1) + reach for start in starts)
    return rows, columns


def cut(pictures: Tensor, square: tuple[Tensor, Tensor]) -> Tensor:
    """Cuts one square out of each sample: (B, C, H, W) -> (B, C, window, window)."""
    rows, columns = square
    channels, width = pictures.shape[1], pictures.shape[3]
    strips = pictures.gather(2, rows[:, None, :, None].expand(-1, channels, -1, width))
    return strips.gather(3, columns[:, None, None, :].expand(-1, channels, rows.shape[1], -1))
