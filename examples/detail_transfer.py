"""Detail from a sharp reference: `patchswap.match` and `patchswap.fold` in another project.

    python examples/detail_transfer.py blurred.jpg reference.jpg --blur 2 -o sharper.png

The reference shows the same things sharply. It is blurred as the picture is, so that features of the two compare; each
patch of the picture finds the most similar one there, and gets the detail that the blur took from it. After
reference-based super-resolution by swapped features (Zhang et al. 2019, arXiv 1903.00834, section 3.1). Patches are
matched at every pixel, so the time grows with the product of both areas; large pictures go in parts.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import patchswap
from inpaint import weights
from inpaint.photo import read, save_picture, to_pil

LAYER = "relu1_2"  # the deepest of VGG-19 that has a cell for each pixel: detail lands where it belongs
VGG = weights.load().vgg


def blurred(picture: Tensor, sigma: float) -> Tensor:
    """(B, 3, H, W) under a Gaussian of this standard deviation in pixels."""
    radius = math.ceil(3 * sigma)
    taps = torch.exp(-torch.arange(-radius, radius + 1.0).square() / (2 * sigma**2))
    taps = (taps / taps.sum()).expand(3, 1, 1, -1)
    padded = F.pad(picture, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, taps, groups=3), taps.transpose(2, 3), groups=3)


@torch.inference_mode()
def transfer_detail(picture: Tensor, reference: Tensor, sigma: float) -> Tensor:
    """The blurred picture (1, 3, H, W) with the reference's (1, 3, H', W') detail, RGB in [0, 1]: (1, 3, H, W).

    Args:
        picture: blurred by about a Gaussian of ``sigma``.
        reference: sharp; it may have another size.
        sigma: pixels.
    """
    smooth = blurred(reference, sigma)
    query, key = (VGG(each, (LAYER,))[LAYER] for each in (picture, smooth))
    found = patchswap.match(query, key)
    detail = patchswap.fold(found.index, reference - smooth, output_size=(picture.shape[2], picture.shape[3]))
    return (picture + detail).clamp(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--blur", type=float, default=2.0, metavar="SIGMA", help="the picture's, in pixels")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    if not arguments.blur > 0:
        parser.error(f"--blur: expected pixels above 0, got {arguments.blur}; 1 to 3 are usual")
    picture, reference = (read(path).colours()[None] for path in (arguments.picture, arguments.reference))
    save_picture(arguments.output, to_pil(transfer_detail(picture, reference, arguments.blur)[0]))


if __name__ == "__main__":
    main()
