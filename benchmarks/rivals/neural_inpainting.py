"""Neural inpainting: Yang et al., "High-Resolution Image Inpainting using Multi-Scale Neural Patch Synthesis"
(CVPR 2017, arXiv 1611.09969).

The hole's pixels are the variables of an optimisation, from coarse to fine. Three terms: the content, a prediction at
the coarsest scale and the enlarged last result after it; the texture, the squared distance of every 3x3 patch of VGG-19
features that touches the hole to its nearest known patch; and the total variation.

Two forms. "paper": content in pixels, texture on relu3_1 and relu4_1, nearest patches looked up again as the picture
changes. "fast", after the authors' published faster variant: content on relu4_2, texture on relu4_1, every second
patch in both directions, nearest patches looked up once per scale.

Nothing is computed twice or for nothing: the features of the known patches are computed once per scale; VGG-19 runs up
to the deepest layer that a term needs, on the part of the picture that these cells see; there are gradients for the
hole's pixels only; and patches are not unfolded, as the sum of squared distances of overlapping patches to their
targets is, cell by cell, that to the targets' mean plus a constant.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from shrink import shrink
from torch import Tensor

import patchswap
from inpaint.errors import InpaintError
from inpaint.mask import feature_hole
from inpaint.networks import VGG19, Image2Feature
from inpaint.networks.layout import on_device
from inpaint.pyramid import enlarge
from rivals.rival import inverse_norms, patch_view

Prediction = Callable[[Tensor, Tensor], Tensor]  # (3, H, W) in [0, 1], (H, W) bool -> completed (3, H, W)
Matcher = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # query, key, their patch masks -> index, as patchswap's

PATCH_SIZE = 3
_STRIDES = {"relu3_1": 4, "relu4_1": 8, "relu4_2": 8}  # pixels a cell
_SEEN = 48  # pixels beyond the hole that the cells of all terms see: two cells of 8 and relu4_1's 30, rounded up
_FILTERS = 4096  # keys convolved at a time: the fastest of the benchmark's settings on a CPU


@dataclass(frozen=True)
class Form:
    """What is minimised. Weights are for pixels in [0, 1], activations of mean 1, and means over what each term covers.

    content: weight of the mean squared difference to the prediction; in ``content_layer``'s features, or in pixels.
    texture: weight of the mean squared difference of patches to their nearest ones, summed over ``layers``.
    smoothness: weight of the total variation, the mean squared difference of neighbouring pixels.
    stride: cells between one patch and the next, in queries and keys alike.
    search_every: iterations between searches for the nearest patches; None = once per scale.
    """

    layers: tuple[str, ...]
    content: float
    texture: float
    smoothness: float
    content_layer: str | None = None
    stride: int = 1
    search_every: int | None = None


# Of several weights those with the lowest LPIPS on photographs that training holds out.
FORMS = {
    "paper": Form(("relu3_1", "relu4_1"), content=1.0, texture=1.0, smoothness=1.0, search_every=10),
    "fast": Form(("relu4_1",), content=0.03, texture=1.0, smoothness=1.0, content_layer="relu4_2", stride=2),
}


@dataclass(frozen=True)
class ScaleRun:
    """One scale: (height, width) in pixels, its completion (3, height, width), and what happened.

    objective: its value at each evaluation of the optimiser, the line search's included. seconds: wall time.
    """

    size: tuple[int, int]
    image: Tensor
    objective: list[float]
    seconds: float


class NeuralInpainting:
    """Fills holes by optimisation; a method of ``inpaint.evaluation``.

    Args:
        vgg: VGG-19 up to relu4_2, with activations of mean 1 (``deep_vgg.load_deep_vgg``).
        predict: the content at the coarsest scale: an Image2Feature, or any Prediction.
        form: "paper" or "fast", or a Form.
        matcher: "patchswap", or "convolution" for the form of CNNMRF (Li & Wand 2016), on which the authors' program
            builds. Both take the key of the highest normalised cross-correlation for the nearest one, as it does.
        iterations: of L-BFGS at each scale.
        history: updates that L-BFGS remembers.
        coarsest: the short side in pixels below which there is no coarser scale.
        line_search: strong Wolfe conditions, with which the objective never rises; None takes every step whole.
        bfloat16: convolutions in bfloat16, where the processor has it.
        device: where it runs.
    """

    def __init__(
        self,
        vgg: VGG19,
        predict: Prediction | Image2Feature,
        *,
        form: Literal["paper", "fast"] | Form = "fast",
        matcher: Literal["patchswap", "convolution"] | Matcher = "patchswap",
        iterations: int = 100,
        history: int = 25,
        coarsest: int = 128,
        line_search: Literal["strong_wolfe"] | None = "strong_wolfe",
        bfloat16: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.vgg = on_device(vgg, self.device)
        self.predict = _prediction_of(predict, self.device)
        self.form = form if isinstance(form, Form) else FORMS[form]
        self.match = matcher if callable(matcher) else MATCHERS[matcher]
        self.iterations, self.history, self.coarsest = iterations, history, coarsest
        self.line_search, self.bfloat16 = line_search, bfloat16

    def __call__(self, image: Tensor, hole: Tensor) -> Tensor:
        """Fills (3, H, W) float in [0, 1] where (H, W) bool is True; known pixels come back as they are."""
        return self.run(image, hole)[-1].image

    def run(
        self, image: Tensor, hole: Tensor, on_evaluation: Callable[[tuple[int, int], float], None] | None = None
    ) -> list[ScaleRun]:
        """Every scale, coarse to fine; the last one's image is the result, of the size and device of ``image``.

        Args:
            image: (3, H, W) float in [0, 1]; what it holds inside the hole does not matter.
            hole: (H, W) bool, True = hole.
            on_evaluation: called with the scale's (height, width) and the objective after each evaluation.

        Raises:
            InpaintError: shapes or values other than these, no hole, no known pixel, or no whole known patch.
        """
        _check(image, hole)
        photograph = torch.where(hole, 0.5, image).to(self.device)[None]
        holes = hole.to(self.device)[None]
        runs: list[ScaleRun] = []
        for size in self.sizes(image.shape[1], image.shape[2]):
            start = time.perf_counter()
            known, missing = shrink(photograph, holes, size)
            if runs:
                content = enlarge(runs[-1].image.to(self.device)[None], size)
            else:
                content = self.predict(known[0], missing[0]).to(known)[None]
            content = torch.where(missing[:, None], content, known)
            objective: list[float] = []

            def note(value: float, size: tuple[int, int] = size, objective: list[float] = objective) -> None:
                objective.append(value)
                if on_evaluation:
                    on_evaluation(size, value)

            filled = self._optimise(content, missing, note)
            runs.append(ScaleRun(size, filled[0], objective, time.perf_counter() - start))
        last = runs[-1]
        result = torch.where(hole, last.image.to(image), image)
        return [*runs[:-1], ScaleRun(last.size, result, last.objective, last.seconds)]

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """(height, width) of each scale, coarse to fine: halved while the short side stays at least ``coarsest``."""
        halvings = max(0, int(math.log2(min(height, width) / self.coarsest))) if self.coarsest else 0
        return [(round(height / 2**n), round(width / 2**n)) for n in range(halvings, -1, -1)]

    def _optimise(self, content: Tensor, hole: Tensor, note: Callable[[float], None]) -> Tensor:
        """One scale: (1, 3, H, W) with the content in the hole, (1, H, W) bool -> the same with the hole optimised."""
        rows, columns = _window(hole[0], 8 * self.form.stride)
        part, missing = content[..., rows, columns], hole[..., rows, columns]
        problem = _Problem(self, content, hole, part, missing)
        pixels = part[missing.unsqueeze(1).expand_as(part)].clone().requires_grad_(True)
        every = self.form.search_every or max(1, self.iterations)
        optimiser = torch.optim.LBFGS(
            [pixels],
            max_iter=every,
            max_eval=every * 2,
            history_size=self.history,
            tolerance_grad=0,
            tolerance_change=0,
            line_search_fn=self.line_search,
        )

        def evaluate() -> Tensor:
            optimiser.zero_grad()
            with torch.enable_grad():
                objective = problem.objective(pixels)
            objective.backward()
            note(objective.item())
            return objective

        for done in range(0, self.iterations, every):
            optimiser.param_groups[0]["max_iter"] = min(every, self.iterations - done)
            problem.search(pixels.detach())
            optimiser.step(evaluate)
        filled = content.clone()
        filled[..., rows, columns] = problem.paint(pixels.detach()).clamp(0, 1)
        return torch.where(hole[:, None], filled, content)


class _Problem:
    """The objective of one scale, as a function of the hole's pixels."""

    def __init__(self, owner: NeuralInpainting, content: Tensor, hole: Tensor, part: Tensor, missing: Tensor) -> None:
        self.owner, self.form = owner, owner.form
        self.part, self.missing = part, missing.unsqueeze(1).expand_as(part)
        self.content = part[self.missing]
        layers = self.form.layers
        self.wanted = layers if self.form.content_layer is None else (*layers, self.form.content_layer)
        self.textures = {}
        with torch.no_grad():
            known = self.features(content, layers)  # of the whole picture, where the keys are
            for layer in layers:
                stride = _STRIDES[layer]
                self.textures[layer] = _Texture(
                    owner.match,
                    known[layer],
                    feature_hole(hole, stride),
                    feature_hole(missing, stride),
                    self.form.stride,
                )
            if self.form.content_layer:
                layer = self.form.content_layer
                self.content_hole = feature_hole(missing, _STRIDES[layer]).unsqueeze(1)
                self.content_features = self.features(part, (layer,))[layer]

    def features(self, picture: Tensor, layers: tuple[str, ...]) -> dict[str, Tensor]:
        with torch.autocast(picture.device.type, torch.bfloat16, enabled=self.owner.bfloat16):
            features = self.owner.vgg(picture, layers)
        return {layer: cells.float() for layer, cells in features.items()}

    def paint(self, pixels: Tensor) -> Tensor:
        """The window with the hole's pixels in it, (1, 3, H, W)."""
        return self.part.masked_scatter(self.missing, pixels)

    @torch.no_grad()
    def search(self, pixels: Tensor) -> None:
        """Looks up the nearest known patch of every patch that touches the hole."""
        features = self.features(self.paint(pixels), self.form.layers)
        for layer, texture in self.textures.items():
            texture.search(features[layer])

    def objective(self, pixels: Tensor) -> Tensor:
        picture = self.paint(pixels)
        features = self.features(picture, self.wanted)
        if self.form.content_layer:
            difference = (features[self.form.content_layer] - self.content_features).square() * self.content_hole
            content = difference.sum() / (self.content_hole.sum() * difference.shape[1])
        else:
            content = (pixels - self.content).square().mean()
        texture = torch.stack([texture.distance(features[layer]) for layer, texture in self.textures.items()]).sum()
        variation = _total_variation(picture, self.missing) / pixels.numel()
        return self.form.content * content + self.form.texture * texture + self.form.smoothness * variation


class _Texture:
    """Distance of the patches that touch the hole to their nearest known ones, in one layer.

    Args:
        match: finds them.
        key: features of the whole picture, (1, C, H, W).
        key_hole: (1, H, W) bool.
        query_hole: (1, h, w) bool, of the window that is optimised.
        stride: cells between one patch and the next.
    """

    def __init__(self, match: Matcher, key: Tensor, key_hole: Tensor, query_hole: Tensor, stride: int) -> None:
        self.match, self.key = match, key
        self.query_mask = _touching(query_hole) & _every(query_hole, stride)
        self.key_mask = ~_touching(key_hole) & _every(key_hole, stride)
        if not self.key_mask.any():
            raise InpaintError(
                "neural inpainting: expected a known patch of 3x3 cells beside the hole, there is none; "
                "use a larger picture or a smaller hole"
            )
        covered = F.conv_transpose2d(self.query_mask[:, None].float(), key.new_ones(1, 1, PATCH_SIZE, PATCH_SIZE))
        self.count = covered  # of patches over each cell, (1, 1, h, w)
        squares = key.square().sum(1, keepdim=True)
        self.energy = F.avg_pool2d(squares, PATCH_SIZE, stride=1, divisor_override=1).flatten()  # of each key patch
        self.numbers = int(self.query_mask.sum()) * PATCH_SIZE**2 * key.shape[1]

    def search(self, query: Tensor) -> None:
        index = self.match(query, self.key, self.query_mask, self.key_mask)
        size = (query.shape[2], query.shape[3])
        self.target = patchswap.fold(index, self.key, output_size=size)
        spread = self.energy[index[self.query_mask]].sum() - (self.count * self.target.square()).sum()
        self.spread = spread.clamp(min=0)  # of the patches that cover a cell around their mean: the constant part

    def distance(self, features: Tensor) -> Tensor:
        """Mean squared difference, over patches, cells and channels."""
        return ((self.count * (features - self.target).square()).sum() + self.spread) / self.numbers


def match_by_convolution(query: Tensor, key: Tensor, query_mask: Tensor, key_mask: Tensor) -> Tensor:
    """What patchswap.match(query, key, ...).index is for one sample, with the keys as filters of a convolution."""
    usable = key_mask[0].nonzero()
    view, scale = patch_view(key), inverse_norms(key)
    rows, columns = (query_mask[0].any(axis).nonzero() for axis in (1, 0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    window = query[:, :, top : bottom + PATCH_SIZE - 1, left : right + PATCH_SIZE - 1]
    best = query.new_full((bottom - top, right - left), -torch.inf)
    chosen = torch.zeros_like(best, dtype=torch.int64)
    for start in range(0, len(usable), _FILTERS):
        rows, columns = usable[start : start + _FILTERS].T
        filters = (view[rows, columns] * scale[rows, columns, None, None]).unflatten(2, (PATCH_SIZE, -1))
        score, index = F.conv2d(window, filters.permute(0, 3, 1, 2).contiguous())[0].max(0)
        chosen = torch.where(score > best, index + start, chosen)
        best = torch.maximum(score, best)
    found = usable[chosen, 0] * key_mask.shape[2] + usable[chosen, 1]
    everywhere = query_mask.new_full(query_mask.shape, -1, dtype=torch.int64)
    everywhere[:, top:bottom, left:right] = found
    return everywhere.masked_fill(~query_mask, -1)


def _match_by_patchswap(query: Tensor, key: Tensor, query_mask: Tensor, key_mask: Tensor) -> Tensor:
    return patchswap.match(query, key, query_mask=query_mask, key_mask=key_mask).index


MATCHERS: dict[str, Matcher] = {"patchswap": _match_by_patchswap, "convolution": match_by_convolution}


def _prediction_of(predict: Prediction | Image2Feature, device: torch.device) -> Prediction:
    if not isinstance(predict, Image2Feature):
        return predict
    network = on_device(predict, device).eval()

    def painted(image: Tensor, hole: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(image[None], hole[None])[0]

    return lambda image, hole: painted(image, hole).clone()  # outside inference mode, so that autograd may keep it


def _touching(hole: Tensor) -> Tensor:
    """Patches with at least one hole cell: (1, H, W) bool -> (1, H-2, W-2) bool."""
    return F.max_pool2d(hole[:, None].float(), PATCH_SIZE, stride=1)[:, 0] > 0


def _every(hole: Tensor, stride: int) -> Tensor:
    """Every ``stride``-th patch in both directions, on the patch grid of ``hole``."""
    rows, columns = hole.shape[1] - PATCH_SIZE + 1, hole.shape[2] - PATCH_SIZE + 1
    grid = torch.zeros(1, rows, columns, dtype=torch.bool, device=hole.device)
    grid[:, ::stride, ::stride] = True
    return grid


def _total_variation(picture: Tensor, missing: Tensor) -> Tensor:
    """Squared differences of neighbours of which at least one is in the hole."""
    down = (picture[..., 1:, :] - picture[..., :-1, :]).square() * (missing[..., 1:, :] | missing[..., :-1, :])
    right = (picture[..., 1:] - picture[..., :-1]).square() * (missing[..., 1:] | missing[..., :-1])
    return down.sum() + right.sum()


def _window(hole: Tensor, multiple: int) -> tuple[slice, slice]:
    """Rows and columns that the terms' cells see, in steps of ``multiple`` pixels, so that patches stay in place."""
    spans = []
    for axis in (1, 0):
        occupied = hole.any(dim=axis).nonzero()
        first, last = int(occupied[0]) // multiple * multiple, -(-(int(occupied[-1]) + 1) // multiple) * multiple
        spans.append(slice(max(0, first - _SEEN), min(hole.shape[1 - axis], last + _SEEN)))
    return spans[0], spans[1]


def _check(image: Tensor, hole: Tensor) -> None:
    if image.dim() != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise InpaintError(
            f"neural inpainting: expected a float picture (3, H, W) in [0, 1], got {image.dtype} {tuple(image.shape)}"
        )
    if hole.dtype != torch.bool or hole.shape != image.shape[1:] or hole.all() or not hole.any():
        raise InpaintError(
            f"neural inpainting: expected a bool hole {tuple(image.shape[1:])} with hole and known pixels, got "
            f"{hole.dtype} {tuple(hole.shape)} with {100 * hole.float().mean():.0f} % hole"
        )
