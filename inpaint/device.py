"""The device that networks run on, from the name a user gives it."""

from __future__ import annotations

import torch

from inpaint.errors import InpaintError


def choose_device(name: torch.device | str = "auto") -> torch.device:
    """The device called ``name``: "cpu", "cuda", "cuda:N", "mps", or "auto".

    "auto" is "cuda" where there is an NVIDIA GPU, else "cpu". "mps", an Apple GPU, runs the networks; patchswap's
    operators run on the CPU then.

    Raises:
        InpaintError: another name, or a GPU that is not there.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if found else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise InpaintError(f"device: expected auto, cpu, cuda or mps, got {str(name)!r}; choose one of these")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InpaintError("device: expected an Apple GPU and torch with MPS, found none; use --device cpu")
    if device.type == "cuda" and not found:
        raise InpaintError("device: expected an NVIDIA GPU and torch with CUDA, found none; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= found:
        raise InpaintError(f"device: expected a GPU out of cuda:0 to cuda:{found - 1}, got {str(name)!r}; choose one")
    return device
