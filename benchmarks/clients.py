"""What other projects do with patches: five uses, in plain torch as their papers define them, and with patchswap.

A use makes its inputs from photographs, and has two forms of the same computation. A form takes the inputs and gives a
list of tensors: results and, where a network would learn, gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import patchswap
from inpaint.networks.vgg import VGG19, load_vgg19
from inpaint.photo import read
from inpaint.weights import FOLDER, VGG_FILE

PHOTOGRAPHS = Path(__file__).parent.parent / "examples" / "photos"
LAYERS = ("relu3_1", "relu2_1", "relu1_1")  # a cell for 4x4 pixels, for 2x2, and for one
QUERIES_AT_ONCE = 2048  # of plain forms that work in blocks

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Use:
    """A use and its forms.

    source: where the computation is defined. inputs: of pictures with so many pixels a side, on the CPU. floor: where a
    use is a step of training, the same step around an operation that only allocates its results and gradients.
    """

    source: str
    inputs: Callable[[int], Inputs]
    plain: Callable[[Inputs], list[Tensor]]
    ours: Callable[[Inputs], list[Tensor]]
    floor: Callable[[Inputs], list[Tensor]] | None = None


def picture(name: str, side: int) -> Tensor:
    """(1, 3, side, side) in [0, 1]."""
    with Image.open(PHOTOGRAPHS / name) as file:
        return read(file.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)).colours()[None]


def vgg() -> VGG19:
    return load_vgg19(FOLDER / VGG_FILE)


def patches_of(features: Tensor, size: int = 3, padding: int = 0) -> Tensor:
    """(B, C * size * size, N)."""
    return F.unfold(features, size, padding=padding)


# Style-swap


@torch.inference_mode()
def style_inputs(side: int) -> Inputs:
    network = vgg()
    return {
        "content": network.relu3_1(picture("astronaut.jpg", side)).contiguous(),
        "style": network.relu3_1(picture("china.jpg", side)).contiguous(),
    }


def style_swap_plain(inputs: Inputs) -> list[Tensor]:
    """Three convolutions: scores, the one-hot arg-max pasted with the patches, and the count of overlaps."""
    content, style = inputs["content"], inputs["style"]
    filters = patches_of(style)[0].T.reshape(-1, style.shape[1], 3, 3)
    norms = filters.flatten(1).norm(dim=1).clamp(min=1e-8)
    best = F.conv2d(content, filters / norms[:, None, None, None]).argmax(1, keepdim=True)
    chosen = torch.zeros(1, len(filters), *best.shape[2:], device=content.device).scatter_(1, best, 1)
    total = F.conv_transpose2d(chosen, filters)
    count = F.conv_transpose2d(torch.ones_like(chosen[:, :1]), torch.ones_like(filters[:1, :1]))
    return [total / count]


def style_swap_ours(inputs: Inputs) -> list[Tensor]:
    return [patchswap.swap(inputs["content"], inputs["style"])]


# Reference super-resolution


@torch.inference_mode()
def reference_inputs(side: int) -> Inputs:
    """The query is blurred by a factor of four, as is the reference that it is compared with; the values are sharp."""
    network, sharp = vgg(), picture("astronaut.jpg", side)
    reference = sharp.flip(3)
    blurred, blurred_reference = (
        F.interpolate(F.avg_pool2d(each, 4), scale_factor=4, mode="bicubic") for each in (sharp, reference)
    )
    levels = network(reference, LAYERS)
    features = {"query": network.relu3_1(blurred), "key": network.relu3_1(blurred_reference), **levels}
    return {name: each.contiguous() for name, each in features.items()}


def reference_step(inputs: Inputs, transfer: Callable[..., tuple[list[Tensor], Tensor]]) -> list[Tensor]:
    """A step of training: transferred textures times the score, and gradients with respect to all features."""
    given = {name: each.detach().requires_grad_() for name, each in inputs.items()}
    textures, score = transfer(given["query"], given["key"], [given[name] for name in LAYERS])
    weighted = [
        texture * F.interpolate(score, scale_factor=texture.shape[2] // score.shape[2], mode="bicubic")
        for texture in textures
    ]
    loss = torch.stack([texture.square().mean() for texture in weighted]).sum()
    return [*(texture.detach() for texture in textures), *torch.autograd.grad(loss, list(given.values()))]


def transfer_plain(query: Tensor, key: Tensor, levels: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    queries, keys = (F.normalize(patches_of(each, padding=1), dim=1) for each in (query, key))
    score, index = torch.bmm(keys.mT, queries).max(1)
    textures = []
    for number, level in enumerate(levels):
        ratio = 1 << number
        patches = F.unfold(level, 3 * ratio, padding=ratio, stride=ratio)
        chosen = patches.gather(2, index[:, None].expand(-1, patches.shape[1], -1))
        size = (ratio * query.shape[2], ratio * query.shape[3])
        textures.append(F.fold(chosen, size, 3 * ratio, padding=ratio, stride=ratio) / 9)
    return textures, score.view(-1, 1, *query.shape[2:])


def transfer_ours(query: Tensor, key: Tensor, levels: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    textures, match = patchswap.swap(query, key, values=levels, padding=1, divisor=9, return_match=True)
    return list(textures), patchswap.similarity(query, key, match)[:, None]


class Blank(torch.autograd.Function):
    """A result of the given shape and gradients of the shapes of the arguments, made of zeros."""

    @staticmethod
    def forward(ctx: Any, shape: tuple[int, ...], *arguments: Tensor) -> Tensor:
        ctx.save_for_backward(*arguments)
        return arguments[0].new_zeros(shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(torch.zeros_like(each) for each in ctx.saved_tensors)


def transfer_nothing(query: Tensor, key: Tensor, levels: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    score_shape = (query.shape[0], 1, *query.shape[2:])
    return [Blank.apply(level.shape, level) for level in levels], Blank.apply(score_shape, query, key)


# Hard contextual attention


@torch.inference_mode()
def attention_inputs(side: int) -> Inputs:
    """Features with a centred hole of seven sixteenths of the side, which their halves are matched around."""
    features = vgg()(picture("astronaut.jpg", side), LAYERS)["relu2_1"].contiguous()
    hole = torch.zeros(1, side // 4, side // 4, dtype=torch.bool)
    border = 9 * side // 128
    hole[:, border:-border, border:-border] = True
    return {"features": features, "key_mask": ~patchswap.masks_from_hole(hole, padding=1)[0]}


def attention_plain(inputs: Inputs) -> list[Tensor]:
    """Keys of half the size as filters of a convolution; the best one's 4x4 patch is pasted, two cells apart."""
    features, key_mask = inputs["features"], inputs["key_mask"]
    half = features[..., ::2, ::2]
    filters = patches_of(half, padding=1)[0].T.reshape(-1, half.shape[1], 3, 3)
    norms = filters.flatten(1).norm(dim=1).clamp(min=1e-4)
    scores = F.conv2d(half, filters / norms[:, None, None, None], padding=1)
    best = scores.masked_fill(~key_mask.flatten()[None, :, None, None], -torch.inf).argmax(1, keepdim=True)
    chosen = torch.zeros_like(scores).scatter_(1, best, 1)
    pasted = F.unfold(features, 4, padding=1, stride=2)[0].T.reshape(-1, features.shape[1], 4, 4)
    return [F.conv_transpose2d(chosen, pasted, stride=2, padding=1) / 4]


def attention_ours(inputs: Inputs) -> list[Tensor]:
    features = inputs["features"]
    half, around = features[..., ::2, ::2], F.pad(features, [1] * 4)
    index = patchswap.match(half, half, padding=1, key_mask=inputs["key_mask"]).index
    grid = (around.shape[2] // 2, around.shape[3] // 2)
    return [patchswap.fold(index, around, patch_size=2, key_size=grid, divisor=4)[..., 1:-1, 1:-1]]


# GPNN


def gpnn_inputs(side: int) -> Inputs:
    """A picture at half the side, and what it becomes when it is shrunk and enlarged again."""
    sharp = picture("astronaut.jpg", side // 2)
    guess = F.interpolate(F.avg_pool2d(sharp, 2), scale_factor=2, mode="bicubic").clamp(0, 1)
    return {"guess": guess, "picture": sharp}


def gpnn_plain(inputs: Inputs) -> list[Tensor]:
    """The nearest 7x7 patch by the Euclidean distance, in blocks of queries; overlaps are averaged."""
    queries, patches = (patches_of(inputs[name], 7)[0].T for name in ("guess", "picture"))
    squares = patches.square().sum(1)
    best = [(squares - 2 * block @ patches.T).argmin(1) for block in queries.split(QUERIES_AT_ONCE)]
    chosen = patches[torch.cat(best)].T[None]
    size = inputs["guess"].shape[2:]
    return [F.fold(chosen, size, 7) / F.fold(torch.ones_like(chosen), size, 7)]


def gpnn_ours(inputs: Inputs) -> list[Tensor]:
    return [patchswap.swap(inputs["guess"], inputs["picture"], patch_size=7, metric="l2")]


# Nearest-neighbour style loss


def loss_step(inputs: Inputs, loss: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """The loss and its gradient with respect to the content's features."""
    content = inputs["content"].detach().requires_grad_()
    value = loss(content, inputs["style"])
    return [value.detach()[None], *torch.autograd.grad(value, content)]


def nearest_plain(content: Tensor, style: Tensor) -> Tensor:
    """The mean cosine distance of each feature to its nearest one, found in blocks without a gradient."""
    queries, keys = content[0].flatten(1).T, style[0].flatten(1).T
    with torch.no_grad():
        units = F.normalize(keys, dim=1)
        best = torch.cat([(block @ units.T).argmax(1) for block in queries.split(QUERIES_AT_ONCE)])
    return 1 - F.cosine_similarity(queries, keys[best], dim=1).mean()


def nearest_ours(content: Tensor, style: Tensor) -> Tensor:
    match = patchswap.match(content, style, patch_size=1)
    return 1 - patchswap.similarity(content, style, match).mean()


USES = {
    "style-swap": Use("Chen and Schmidt, arXiv 1612.04337", style_inputs, style_swap_plain, style_swap_ours),
    "reference-super-resolution": Use(
        "Yang et al., arXiv 2006.04139",
        reference_inputs,
        lambda inputs: reference_step(inputs, transfer_plain),
        lambda inputs: reference_step(inputs, transfer_ours),
        lambda inputs: reference_step(inputs, transfer_nothing),
    ),
    "contextual-attention": Use("Yu et al., arXiv 1801.07892", attention_inputs, attention_plain, attention_ours),
    "gpnn-step": Use("Granot et al., arXiv 2103.15545", gpnn_inputs, gpnn_plain, gpnn_ours),
    "nearest-neighbour-loss": Use(
        "Zhang et al., arXiv 2206.06360",
        style_inputs,
        lambda inputs: loss_step(inputs, nearest_plain),
        lambda inputs: loss_step(inputs, nearest_ours),
    ),
}
