"""patch-swap against the two forms people use today, on VGG-19 features of a photograph, side by side in one run.

    make bench

Sizes are image/hole in pixels; the features have 1/4 of that (relu3_1, 256 channels). All forms fill the same hole with
the same patches; each benchmark checks that before it is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import patchswap
from inpaint.mask import center, feature_hole
from inpaint.networks.vgg import load_vgg19
from inpaint.weights import FOLDER, VGG_FILE

PHOTOGRAPH = Path(__file__).parent.parent / "examples" / "photos" / "astronaut.jpg"


def convolution_form(features: Tensor, hole: Tensor) -> Tensor:
    """Style-swap (Chen & Schmidt 2016): keys as convolution filters, arg-max, one-hot transposed convolution."""
    patches = F.unfold(features, 3)[0].T.reshape(-1, features.shape[1], 3, 3)
    queries = F.unfold(hole[:, None].float(), 3)[0].amax(0) > 0
    keys = patches[~queries]
    grid = (features.shape[2] - 2, features.shape[3] - 2)
    norms = keys.flatten(1).norm(dim=1).clamp(min=1e-8)
    scores = F.conv2d(features, keys / norms[:, None, None, None])
    best = scores.argmax(1).flatten()
    chosen = torch.zeros(len(keys), queries.numel())
    chosen[best[queries], queries.nonzero()[:, 0]] = 1
    total = F.conv_transpose2d(chosen.view(1, -1, *grid), keys)
    count = F.conv_transpose2d(queries.view(1, 1, *grid).float(), torch.ones(1, 1, 3, 3))
    return torch.where(hole[:, None], total / count.clamp(min=1), features)


def matrix_form(features: Tensor, hole: Tensor) -> Tensor:
    """unfold, one matrix product of all queries with all keys, arg-max, fold."""
    patches = F.unfold(features, 3)[0]
    queries = F.unfold(hole[:, None].float(), 3)[0].amax(0) > 0
    keys = patches[:, ~queries]
    best = (patches[:, queries].T @ F.normalize(keys, dim=0)).argmax(1)
    filled = torch.zeros_like(patches)
    filled[:, queries] = keys[:, best]
    size = (features.shape[2], features.shape[3])
    total = F.fold(filled[None], size, 3)
    count = F.fold(queries.expand_as(filled)[None].float(), size, 3)
    return torch.where(hole[:, None], total / count.clamp(min=1), features)


def ours(features: Tensor, hole: Tensor) -> Tensor:
    return patchswap.swap(features, hole=hole)


@pytest.fixture(scope="module", params=[(256, 112), (512, 224)], ids=lambda sizes: f"{sizes[0]}/{sizes[1]}")
def case(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    side, hole_side = request.param
    with Image.open(PHOTOGRAPH) as file:
        pixels = np.array(file.convert("RGB").resize((side, side), Image.Resampling.LANCZOS))
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        features = load_vgg19(FOLDER / VGG_FILE)(image)["relu3_1"].contiguous()
    return features, feature_hole(center(side, side, hole_side)[None])


@pytest.mark.parametrize("form", [ours, matrix_form, convolution_form], ids=lambda form: form.__name__)
def test_swap(benchmark, case: tuple[Tensor, Tensor], form: Callable[[Tensor, Tensor], Tensor]) -> None:
    features, hole = case
    with torch.inference_mode():
        expected, result = matrix_form(features, hole), form(features, hole)
        differing = ((result - expected).abs().amax(1) > 1e-3).sum() / hole.sum()
        assert differing < 0.01  # near-ties may be decided by rounding
        benchmark.group = f"swap {features.shape[2]}x{features.shape[3]}x{features.shape[1]}"
        benchmark.extra_info.update(patchswap.build_info(), threads=torch.get_num_threads())
        benchmark.pedantic(form, args=(features, hole), rounds=5, warmup_rounds=1)
