"""The networks of the service: on each device that is asked for."""

from __future__ import annotations

import torch

import inpaint
from inpaint.device import choose_device
from inpaint.inpainter import Inpainter


def load_all(weights: str, device: str, *, precision: str = "auto", max_memory: float | None = None) -> list[Inpainter]:
    """One Inpainter for each device: "auto" and "cuda" mean every GPU. Arguments and errors as for ``inpaint.load``."""
    chosen = choose_device(device)
    several = chosen.type == "cuda" and chosen.index is None
    names = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if several else [str(chosen)]
    return [inpaint.load(weights, device=name, precision=precision, max_memory=max_memory) for name in names]
