"""From two training checkpoints to one file of weights with a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from inpaint import weights
from inpaint.errors import InpaintError
from inpaint.networks import registry
from inpaint.training.checkpoint import averaged_generator


def export(checkpoints: Mapping[registry.Role, Path], output: Path, *, vgg: Path, notes: str = "") -> str:
    """Writes the averaged weights of both networks to ``output`` and returns the model card in it (Markdown).

    Args:
        checkpoints: one of each stage.
        output: the file of weights.
        vgg: the VGG-19 file both were trained with; the pipeline insists on the same one.
        notes: further lines for the card: what they were trained on, licences, measurements.

    Raises:
        InpaintError: a checkpoint is missing, damaged, of the other stage, or saw another VGG-19.
    """
    card = ["# Image2Feature and Feature2Image"]
    networks: dict[registry.Role, nn.Module] = {}
    seen = weights.sha256(vgg)
    for stage in registry.ROLES:
        path = checkpoints[stage]
        checkpoint = averaged_generator(path)
        if checkpoint.stage != stage:
            raise InpaintError(f"{path}: expected a checkpoint of {stage}, got one of {checkpoint.stage}; swap the two")
        if checkpoint.vgg_sha256 != seen:
            raise InpaintError(
                f"{path}: expected to be exported with the VGG-19 it was trained with (SHA-256 "
                f"{checkpoint.vgg_sha256[:12]}...), got {vgg.name} ({seen[:12]}...); pass that file"
            )
        config = checkpoint.config
        networks[stage] = registry.build(stage, config.architecture, config.network)
        networks[stage].load_state_dict(checkpoint.weights)
        begun = f"begun from {Path(config.init).name}, " if config.init else ""
        card.append(
            f"- {stage}: {begun}{checkpoint.step} steps of {config.batch} crops of {config.image_size} px, "
            f"seed {config.seed}, losses perceptual {config.perceptual:g} ({', '.join(config.perceptual_layers)}), "
            f"adversarial {config.adversarial:g} from step {config.adversarial_start}, pixel {config.pixel:g}; "
            f"network {config.architecture or registry.DEFAULTS[stage]} {json.dumps(config.network)}"
        )
    text = "\n".join([*card, *([notes.strip()] if notes.strip() else [])]) + "\n"
    weights.export(output, networks, vgg_sha256=seen, card=text)
    return text
