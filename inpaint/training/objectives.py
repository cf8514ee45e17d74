"""What each of the two networks is trained to do: its forward pass and its losses."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

import patchswap
from inpaint.errors import InpaintError
from inpaint.mask import feature_hole
from inpaint.networks import VGG19, Feature2Image, Image2Feature, PatchDiscriminator
from inpaint.networks.feature2image import Feature2ImageConfig
from inpaint.networks.image2feature import Image2FeatureConfig
from inpaint.networks.smooth_fill import fill_smoothly
from inpaint.training.config import Stage, TrainingConfig
from inpaint.training.data import Batch
from inpaint.training.losses import around_hole, cut, hole_weights, judge_loss, painter_loss, relative_l2, weighted_l1


class Objective(ABC):
    """A generator, its discriminator, and the losses that train them."""

    generator: nn.Module
    discriminator: nn.Module

    @abstractmethod
    def paint(self, batch: Batch) -> Tensor:
        """The generator's picture, (B, 3, S, S) in [0, 1]; keeps what the losses need of this batch."""

    @abstractmethod
    def generator_losses(self, batch: Batch, painted: Tensor, *, adversarial: bool) -> dict[str, Tensor]:
        """Weighted terms whose sum is minimised."""

    @abstractmethod
    def discriminator_loss(self, batch: Batch, painted: Tensor) -> Tensor:
        """What the discriminator minimises; ``painted`` carries no gradient."""

    def pictures(self, batch: Batch) -> list[Tensor]:
        """Rows of pictures (B, 3, S, S) to look at while training: input, painted, truth."""
        return [fill_smoothly(batch.image, batch.hole), self.paint(batch), batch.image]


class Image2FeatureObjective(Objective):
    """Perceptual L1 in the hole of the feature map + PatchGAN on (incomplete image, completion) pairs (section 3.1)."""

    def __init__(self, config: TrainingConfig, vgg: VGG19) -> None:
        self.config = config
        self.vgg = vgg
        self.generator = Image2Feature(Image2FeatureConfig(**config.network))
        self.discriminator = PatchDiscriminator(7, width=config.discriminator_width)

    def paint(self, batch: Batch) -> Tensor:
        return self.generator(batch.image, batch.hole)

    def generator_losses(self, batch: Batch, painted: Tensor, *, adversarial: bool) -> dict[str, Tensor]:
        config = self.config
        truth, hole = batch.image, batch.hole
        losses = {"pixel": config.pixel * weighted_l1(painted, truth, hole.unsqueeze(1).float())}
        if adversarial:
            losses["adversarial"] = config.adversarial * painter_loss(self._judge(batch, painted))
        if 0 < config.window < config.image_size:
            squares = around_hole(hole, config.window)
            painted, truth, hole = cut(painted, squares), cut(truth, squares), cut(hole, squares)
        layers = config.perceptual_layers
        with torch.no_grad():
            wanted = self.vgg(truth, layers)
        for layer, seen in self.vgg(painted, layers).items():
            weights = hole_weights(feature_hole(hole, stride=2 ** (int(layer[4]) - 1)), config.band)
            losses[layer] = config.perceptual / len(layers) * weighted_l1(seen.float(), wanted[layer].float(), weights)
        return losses

    def discriminator_loss(self, batch: Batch, painted: Tensor) -> Tensor:
        return judge_loss(self._judge(batch, batch.image), self._judge(batch, painted))

    def _judge(self, batch: Batch, picture: Tensor) -> Tensor:
        incomplete = fill_smoothly(batch.image, batch.hole)
        return self.discriminator(torch.cat((picture, incomplete, batch.hole.unsqueeze(1).to(picture.dtype)), dim=1))


class Feature2ImageObjective(Objective):
    """Decoding of the truth's own features after patch-swap: perceptual L2 + PatchGAN on features (section 3.3).

    The swapped ground truth, not the swapped prediction, because the prediction's features leave the decoder
    under-fitted and its pictures noisy (section 3.3). Swapped texture is not the truth's pixel by pixel, and asking for
    that would teach blur: pixels are compared outside the hole only, and shallow layers weigh the hole by
    ``shallow_in_hole``.
    """

    def __init__(self, config: TrainingConfig, vgg: VGG19, painter: Image2Feature | None = None) -> None:
        if config.predicted_share > 0 and painter is None:
            raise InpaintError(
                "feature2image: expected a trained Image2Feature for predicted_share > 0, got none; "
                "pass its checkpoint or set predicted_share to 0"
            )
        self.config = config
        self.vgg = vgg
        self.painter = painter
        self.generator = Feature2Image(Feature2ImageConfig(**config.network))
        self.discriminator = PatchDiscriminator(3, self.generator.config.features, config.discriminator_width)

    def paint(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            self._truth = self.vgg(batch.image, tuple({"relu3_1", *self.config.perceptual_layers}))
            features = self._truth["relu3_1"]
            # A low-discrepancy sequence in the step: no random state to carry through a resumed run.
            if self.painter is not None and batch.step * 0.6180339887 % 1 < self.config.predicted_share:
                features = self.vgg(self.painter(batch.image, batch.hole))["relu3_1"]
            self._features = patchswap.swap(features.float(), hole=feature_hole(batch.hole))
        return self.generator(self._features)

    def generator_losses(self, batch: Batch, painted: Tensor, *, adversarial: bool) -> dict[str, Tensor]:
        config = self.config
        layers = config.perceptual_layers
        losses = {}
        for layer, seen in self.vgg(painted, layers).items():
            in_hole = config.shallow_in_hole if layer < "relu3_1" else 1.0
            hole = feature_hole(batch.hole, stride=2 ** (int(layer[4]) - 1)).unsqueeze(1)
            weights = torch.where(hole, in_hole, 1.0)
            losses[layer] = (
                config.perceptual / len(layers) * relative_l2(seen.float(), self._truth[layer].float(), weights)
            )
        if config.pixel:
            known = (~batch.hole).unsqueeze(1).float()
            losses["pixel"] = config.pixel * weighted_l1(painted.float(), batch.image, known)
        if adversarial:
            losses["adversarial"] = config.adversarial * painter_loss(self.discriminator(painted, self._features))
        return losses

    def discriminator_loss(self, batch: Batch, painted: Tensor) -> Tensor:
        return judge_loss(self.discriminator(batch.image, self._features), self.discriminator(painted, self._features))


def build_objective(
    stage: Stage, config: TrainingConfig, vgg: VGG19, painter: Image2Feature | None = None
) -> Objective:
    """The objective of ``stage``, with untrained networks."""
    if stage == "image2feature":
        return Image2FeatureObjective(config, vgg)
    return Feature2ImageObjective(config, vgg, painter)
