"""Style-swap (Chen & Schmidt 2016, arXiv 1612.04337, section 3): `patchswap.swap` in another project.

    python examples/style_swap.py content.jpg style.jpg -o painted.png

Every 3x3 patch of the content's features is replaced by the most similar one of the style's, and the result is decoded.
`inpaint stylize` does the same with more care for colour, tone and memory.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import patchswap
from inpaint import weights
from inpaint.photo import read, save_picture, to_pil

NETWORKS = weights.load()  # VGG-19 up to relu3_1, and a network that turns such features back into a picture


@torch.inference_mode()
def style_swap(content: Tensor, style: Tensor) -> Tensor:
    """Content (B, 3, H, W) painted with the patches of style (B, 3, H', W'), RGB in [0, 1]: (B, 3, H, W)."""
    swapped = patchswap.swap(NETWORKS.vgg.relu3_1(content), NETWORKS.vgg.relu3_1(style))
    return NETWORKS.feature2image(swapped)[..., : content.shape[2], : content.shape[3]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("content", type=Path)
    parser.add_argument("style", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    content, style = (read(path).colours()[None] for path in (arguments.content, arguments.style))
    save_picture(arguments.output, to_pil(style_swap(content, style)[0]))


if __name__ == "__main__":
    main()
