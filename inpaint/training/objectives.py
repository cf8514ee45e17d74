"""What each of the two networks is trained to do: its forward pass and its losses."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

import patchswap
from inpaint.mask import feature_hole
from inpaint.networks import VGG19, PatchDiscriminator, registry
from inpaint.networks.vgg import RELU3_1_CHANNELS
from inpaint.training.config import TrainingConfig
from inpaint.training.data import Batch
from inpaint.training.losses import (
    around_hole,
    cut,
    detail,
    hole_weights,
    judge_loss,
    painter_loss,
    relative_l2,
    weighted_l1,
)
from patchswap.ops import fill_smoothly


class Objective(ABC):
    """A generator, its discriminator, and the losses that train them."""

    config: TrainingConfig
    generator: nn.Module
    discriminator: nn.Module

    @abstractmethod
    def paint(self, batch: Batch) -> Tensor:
        """The generator's picture, (B, 3, S, S) in [0, 1]; keeps what the losses need of this batch."""

    @abstractmethod
    def weights(self, batch: Batch) -> dict[str, Tensor]:
        """How much each pixel or cell counts in the terms other than the adversarial one, (B, 1, H, W) each.

        They follow from the holes alone.
        """

    @abstractmethod
    def generator_losses(
        self, batch: Batch, painted: Tensor, totals: dict[str, Tensor], *, adversarial: bool
    ) -> dict[str, Tensor]:
        """Terms, times their factors, whose sum is minimised; ``totals``: the sums of ``weights`` (``weighted_l1``)."""

    @abstractmethod
    def judge(self, batch: Batch, picture: Tensor) -> Tensor:
        """The discriminator's verdicts on ``picture``, (B, 3, S, S); ``paint`` has seen the batch before."""

    def shown(self, picture: Tensor) -> Tensor:
        """What the discriminator sees of a picture."""
        return detail(picture) if self.config.judge_detail else picture

    def painter_loss(self, batch: Batch, painted: Tensor) -> Tensor:
        """The adversarial term of ``generator_losses``."""
        return self.config.adversarial * painter_loss(self.judge(batch, painted))

    def discriminator_loss(self, batch: Batch, painted: Tensor) -> Tensor:
        """What the discriminator minimises; ``painted`` carries no gradient."""
        return judge_loss(self.judge(batch, batch.image), self.judge(batch, painted))

    def pictures(self, batch: Batch) -> list[Tensor]:
        """Rows of pictures (B, 3, S, S) to look at while training: input, painted, truth."""
        return [fill_smoothly(batch.image, batch.hole), self.paint(batch), batch.image]


class Image2FeatureObjective(Objective):
    """Perceptual L1 in the hole of the feature map + PatchGAN on (incomplete image, completion) pairs (section 3.1)."""

    def __init__(self, config: TrainingConfig, vgg: VGG19) -> None:
        self.config = config
        self.vgg = vgg
        self.generator = registry.build("image2feature", config.architecture, config.network)
        self.discriminator = PatchDiscriminator(7, width=config.discriminator_width, spectral=config.spectral_norm)

    def paint(self, batch: Batch) -> Tensor:
        return self.generator(batch.image, batch.hole)

    def weights(self, batch: Batch) -> dict[str, Tensor]:
        weights = {"pixel": batch.hole.unsqueeze(1).float()}
        (hole,) = self._around_hole(batch, batch.hole.unsqueeze(1))
        for layer in self.config.perceptual_layers:
            weights[layer] = hole_weights(feature_hole(hole[:, 0], stride=_stride(layer)), self.config.band)
        return weights

    def generator_losses(
        self, batch: Batch, painted: Tensor, totals: dict[str, Tensor], *, adversarial: bool
    ) -> dict[str, Tensor]:
        config, weights, layers = self.config, self.weights(batch), self.config.perceptual_layers
        losses = {"pixel": config.pixel * weighted_l1(painted, batch.image, weights["pixel"], totals["pixel"])}
        if adversarial:
            losses["adversarial"] = self.painter_loss(batch, painted)
        painted, truth = self._around_hole(batch, painted, batch.image)
        with torch.no_grad():
            wanted = self.vgg(truth, layers)
        for layer, seen in self.vgg(painted, layers).items():
            term = weighted_l1(seen.float(), wanted[layer].float(), weights[layer], totals[layer])
            losses[layer] = config.perceptual / len(layers) * term
        return losses

    def _around_hole(self, batch: Batch, *pictures: Tensor) -> list[Tensor]:
        """What VGG-19 looks at: a window around each hole, or all."""
        if not 0 < self.config.window < self.config.image_size:
            return list(pictures)
        square = around_hole(batch.hole, self.config.window)
        return [cut(picture, square) for picture in pictures]

    def judge(self, batch: Batch, picture: Tensor) -> Tensor:
        incomplete = fill_smoothly(batch.image, batch.hole)
        return self.discriminator(
            torch.cat((self.shown(picture), incomplete, batch.hole.unsqueeze(1).to(picture.dtype)), dim=1)
        )


class Feature2ImageObjective(Objective):
    """Decoding of the truth's own features after patch-swap: perceptual L2 + PatchGAN on features (section 3.3).

    The swapped ground truth, not the swapped prediction, because the prediction's features leave the decoder
    under-fitted and its pictures noisy (section 3.3). Swapped texture is not the truth's pixel by pixel, and asking for
    that would teach blur: pixels are compared outside the hole only, and shallow layers weigh the hole by
    ``shallow_in_hole``.
    """

    def __init__(self, config: TrainingConfig, vgg: VGG19) -> None:
        self.config = config
        self.vgg = vgg
        self.generator = registry.build("feature2image", config.architecture, config.network)
        self.discriminator = PatchDiscriminator(
            3, RELU3_1_CHANNELS, config.discriminator_width, spectral=config.spectral_norm
        )

    def paint(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            self._truth = self.vgg(batch.image, tuple({"relu3_1", *self.config.perceptual_layers}))
            features = self._truth["relu3_1"].float()
            hole = feature_hole(batch.hole)
            self._features = patchswap.swap(features, hole=hole, coherence=self.config.coherence)
        return self.generator(self._features)

    def weights(self, batch: Batch) -> dict[str, Tensor]:
        weights = {"pixel": (~batch.hole).unsqueeze(1).float()}
        for layer in self.config.perceptual_layers:
            in_hole = self.config.shallow_in_hole if layer < "relu3_1" else 1.0
            hole = feature_hole(batch.hole, stride=_stride(layer)).unsqueeze(1)
            weights[layer] = torch.where(hole, in_hole, 1.0)
        return weights

    def generator_losses(
        self, batch: Batch, painted: Tensor, totals: dict[str, Tensor], *, adversarial: bool
    ) -> dict[str, Tensor]:
        config, weights, layers = self.config, self.weights(batch), self.config.perceptual_layers
        losses = {}
        for layer, seen in self.vgg(painted, layers).items():
            term = relative_l2(seen.float(), self._truth[layer].float(), weights[layer], totals[layer])
            losses[layer] = config.perceptual / len(layers) * term
        if config.pixel:
            term = weighted_l1(painted.float(), batch.image, weights["pixel"], totals["pixel"])
            losses["pixel"] = config.pixel * term
        if adversarial:
            losses["adversarial"] = self.painter_loss(batch, painted)
        return losses

    def judge(self, batch: Batch, picture: Tensor) -> Tensor:
        return self.discriminator(self.shown(picture), self._features)


def _stride(layer: str) -> int:
    """Pixels between the cells of a VGG-19 layer."""
    return 2 ** (int(layer[4]) - 1)


_OBJECTIVES: dict[registry.Role, type[Image2FeatureObjective] | type[Feature2ImageObjective]] = {
    "image2feature": Image2FeatureObjective,
    "feature2image": Feature2ImageObjective,
}


def build_objective(stage: registry.Role, config: TrainingConfig, vgg: VGG19) -> Objective:
    """The objective of ``stage``, with untrained networks. InpaintError for an unknown architecture or size."""
    return _OBJECTIVES[stage](config, vgg)
