"""Where networks live, how their weights lie in memory, and what they multiply in."""

from __future__ import annotations

import copy
from itertools import chain
from typing import TypeVar

import torch
from torch import nn

from inpaint.errors import InpaintError

Network = TypeVar("Network", bound=nn.Module)


def on_device(network: Network, device: torch.device | str) -> Network:
    """``network`` on ``device``, channels last: the layout convolutions are fastest in on the CPU and on GPUs.

    The caller's network stays as it is: it is returned itself where all of it lies so already, else a copy.
    """
    device = torch.empty(0, device=device).device  # "cuda" is a device with a number
    tensors = chain(network.parameters(), network.buffers())
    if all(tensor.device == device and _is_channels_last(tensor) for tensor in tensors):
        return network
    return move(copy.deepcopy(network), device)


def move(network: Network, device: torch.device | str) -> Network:
    """Moves ``network`` itself to ``device``, channels last, and returns it."""
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _is_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.dim() != 4 or tensor.is_contiguous(memory_format=torch.channels_last)


def multiply_in(precision: str, device: torch.device) -> torch.dtype:
    """The dtype that convolutions multiply in.

    Args:
        precision: "float32", "bfloat16", or "auto": bfloat16 on CPUs with matrix instructions for it (AMX), float32
            elsewhere, where ``patchswap.ops.convolve`` is faster.

    Raises:
        InpaintError: another name.
    """
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if precision == "auto":
        return torch.bfloat16 if device.type == "cpu" and torch.cpu._is_amx_tile_supported() else torch.float32
    if precision not in names:
        raise InpaintError(f"precision: expected auto, float32 or bfloat16, got {precision!r}; choose one of these")
    return names[precision]
