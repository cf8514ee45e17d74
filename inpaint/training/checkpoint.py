"""Checkpoints of a training run: reading them, and what is exported from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from inpaint.errors import InpaintError
from inpaint.networks.registry import Role
from inpaint.tensor_file import read_tensors, under
from inpaint.training.config import TrainingConfig, from_dict

CHECKPOINT = "checkpoint.safetensors"


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a checkpoint written by Trainer.save."""
    tensors, metadata = read_tensors(path)
    if not {"stage", "step", "config", "vgg_sha256"} <= metadata.keys():
        raise InpaintError(f"{path}: expected a training checkpoint, got another safetensors file; pass {CHECKPOINT}")
    return tensors, metadata


class Averaged(NamedTuple):
    """The averaged generator of a checkpoint, and how it was trained."""

    stage: Role
    config: TrainingConfig
    step: int
    vgg_sha256: str
    weights: dict[str, Tensor]


def averaged_generator(path: Path) -> Averaged:
    """Reads what is exported from a checkpoint."""
    tensors, metadata = read_checkpoint(path)
    stage: Any = metadata["stage"]
    config = from_dict(json.loads(metadata["config"]))
    return Averaged(stage, config, int(metadata["step"]), metadata["vgg_sha256"], under(tensors, "averaged."))
