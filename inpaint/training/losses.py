"""Losses of Song et al. 2017, sections 3.1 and 3.3."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def hole_weights(hole: Tensor, band: float) -> Tensor:
    """Weight of each feature cell in Image2Feature's perceptual loss: (B, H, W) bool cells -> (B, 1, H, W) float.

    Known cells weigh nothing, hole cells one, and hole cells that touch a known one ``1 + band`` more.
    """
    inside = hole.unsqueeze(1).float()
    known_near = F.max_pool2d(1 - inside, 3, stride=1, padding=1)
    return inside * (1 + band * known_near)


def weighted_l1(prediction: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Mean absolute difference, (B, C, H, W) each, weighted by (B, 1, H, W); zero where nothing weighs."""
    total = weights.sum() * prediction.shape[1]
    return ((prediction - truth).abs() * weights).sum() / total.clamp(min=1e-6)


def relative_l2(prediction: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Squared difference relative to the truth's energy in the same cell, averaged with the given weights.

    Dividing by the energy keeps the few cells with huge activations from deciding everything; plain L2 diverged.

    Args:
        prediction, truth: features (B, C, H, W).
        weights: (B, 1, H, W).
    """
    energy = truth.square().mean(dim=1, keepdim=True)
    error = (prediction - truth).square().mean(dim=1, keepdim=True) / (energy + 0.1)
    return (error * weights).sum() / weights.sum().clamp(min=1e-6)


def judge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's hinge loss on its verdicts for real and painted pictures."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def painter_loss(fake: Tensor) -> Tensor:
    """The generator's side of the hinge loss: verdicts on painted pictures should be high."""
    return -fake.mean()


def around_hole(hole: Tensor, window: int) -> list[tuple[slice, slice]]:
    """A square of ``window`` pixels around each hole's centre, aligned to 8 pixels: one (rows, columns) per sample.

    The features of a hole depend on the pixels near it only, so the loss need not see the whole picture.
    """
    size = hole.shape[-1]
    squares = []
    for mask in hole:
        corners = []
        for axis in (1, 0):
            occupied = mask.any(dim=axis).nonzero()
            middle = (int(occupied[0]) + int(occupied[-1]) + 1) // 2 if len(occupied) else size // 2
            corners.append(min(max(0, middle - window // 2), mask.shape[1 - axis] - window) // 8 * 8)
        squares.append((slice(corners[0], corners[0] + window), slice(corners[1], corners[1] + window)))
    return squares


def cut(pictures: Tensor, squares: list[tuple[slice, slice]]) -> Tensor:
    """Cuts one square out of each sample: (B, ..., H, W) -> (B, ..., window, window)."""
    return torch.stack(
        [picture[..., rows, columns] for picture, (rows, columns) in zip(pictures, squares, strict=True)]
    )
