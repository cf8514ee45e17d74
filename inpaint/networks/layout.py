"""Where networks live and how their weights lie in memory."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def on_device(network: Network, device: torch.device | str) -> Network:
    """Moves ``network`` to ``device``, channels last: the layout convolutions are fastest in on the CPU and on GPUs."""
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
