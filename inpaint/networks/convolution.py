"""3x3 convolutions as the networks need them: of maps made twice as large, beside others, with a leaky ReLU."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchswap import ops

# Doubled by repeating cells, a row of the result sees two rows of the original: an even one the row before, weighed by
# the kernel's first row, and its own, by the sum of the other two; an odd one its own and the next. So do columns.
_ROWS_SEEN = (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1)))  # even or odd, row of the original, row of the kernel

# Of 4x4 cells. With fewer it takes longer to transform the kernels than is saved.
_FEWEST_TILES = 64


def convolve(
    x: Tensor,
    convolution: nn.Conv2d,
    *,
    slope: float,
    doubled: bool = False,
    skip: Tensor | None = None,
    replicate: bool = False,
) -> Tensor:
    """``leaky_relu(convolution(torch.cat((x, skip), dim=1)), slope)``, up to rounding.

    In float32 on the CPU, in inference mode, by patchswap's minimal filtering, which multiplies a quarter as often.

    Args:
        x: (B, C, H, W).
        convolution: 3x3, of C channels and those of ``skip``, of any dilation; its padding is not looked at.
        slope: of the leaky ReLU: 0 is a ReLU, 1 is nothing.
        doubled: x is first made twice as large by repeating its cells. Not dilated, nor with ``replicate``.
        skip: (B, C', H', W'); none by default. With ``doubled`` only.
        replicate: beyond the border the outermost cells are repeated; zeros by default.

    Returns:
        (B, O, H', W'), where H' is H, or 2 H if ``doubled``.
    """
    if (skip is not None and not doubled) or (doubled and replicate):
        raise ValueError("convolve: expected skip with doubled only, and doubled without replicate; change the call")
    weight, bias, dilation = convolution.weight, convolution.bias, convolution.dilation[0]
    if _is_filtered(x, weight, dilation, 2 if doubled else 1):
        return ops.convolve(x, weight, bias, skip, dilation=dilation, doubled=doubled, replicate=replicate, slope=slope)
    if doubled:
        y = _convolve_doubled(x, convolution, skip)
    elif replicate:
        y = F.conv2d(_with_border(x, dilation), weight, bias, dilation=dilation)
    else:
        y = F.conv2d(x, weight, bias, padding=dilation, dilation=dilation)
    return y if slope == 1 else F.leaky_relu(y, slope, inplace=True)


def _is_filtered(x: Tensor, weight: Tensor, dilation: int, scale: int) -> bool:
    """Whether the convolution goes to patchswap's operator, which has no gradient.

    In inference mode only: a step of training does not mix the roundings of both.
    """
    height, width = scale * x.shape[2], scale * x.shape[3]
    tiles = dilation**2 * math.ceil(height / (4 * dilation)) * math.ceil(width / (4 * dilation))
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and torch.is_inference_mode_enabled()
        and ops.extension is not None
        and x.shape[0] * tiles >= _FEWEST_TILES
        and height * width >= 8 * tiles  # at least half of their cells lie in the map
    )


def _with_border(x: Tensor, width: int) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):  # which would pad in float32, and copy there and back for it
        return F.pad(x, [width] * 4, mode="replicate")


def _convolve_doubled(x: Tensor, convolution: nn.Conv2d, skip: Tensor | None) -> Tensor:
    """The doubled map holds nothing new, so four 2x2 convolutions of x, one for each place in a cell, give the same
    with 4/9 of the multiplications and without copies. On a GPU, where launches cost more than both, it is made; so it
    is in an exported graph, which other programs run.
    """
    if x.device.type != "cpu" or torch.compiler.is_exporting():
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = x if skip is None else torch.cat((x, skip), dim=1)
        return F.conv2d(x, convolution.weight, convolution.bias, padding=1)
    batch, channels, height, width = x.shape
    of_x, of_skip = convolution.weight.split([channels, convolution.in_channels - channels], dim=1)
    seen = of_x.new_tensor(_ROWS_SEEN)
    with torch.autocast(x.device.type, enabled=False):  # kernels are summed as they are, and rounded afterwards
        kernels = torch.einsum("aus,bvt,oist->aboiuv", seen, seen, of_x).flatten(0, 2)
    kernels = kernels.contiguous(memory_format=torch.channels_last)
    bias = None if convolution.bias is None else convolution.bias.repeat(4)
    phases = F.conv2d(x, kernels, bias, padding=1).unflatten(1, (2, 2, convolution.out_channels))
    if skip is None:
        shape = (batch, convolution.out_channels, 2 * height, 2 * width)
        result = torch.empty(shape, dtype=phases.dtype, device=x.device, memory_format=torch.channels_last)
    else:
        result = F.conv2d(skip, of_skip, padding=1)
    for row in (0, 1):
        for column in (0, 1):
            phase = phases[:, row, column, :, row : row + height, column : column + width]
            place = result[:, :, row::2, column::2]
            place.copy_(phase) if skip is None else place.add_(phase)
    return result
