"""How far a completed image is from the truth: L1, PSNR, SSIM and LPIPS, over the whole image or over the hole alone.

Every function takes float images of shape (3, H, W) or (B, 3, H, W) in [0, 1], so the data range is 1 throughout, and
returns one value per image: shape () or (B,). A hole is bool, True = hole, of shape (H, W) or (B, H, W).
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inpaint.errors import InpaintError
from inpaint.tensor_file import read_tensors
from inpaint.weights import sha256

SSIM_RADIUS = 5
SSIM_SIGMA = 1.5

LPIPS_FILE = "lpips_alex.safetensors"
LPIPS_VARIABLE = "INPAINT_LPIPS_WEIGHTS"
LPIPS_SHA256 = "21124b747f9468237a186c7532a3cdeb1c35062d81e3b449d213d7b2dd97b1aa"


def l1(image: Tensor, truth: Tensor, hole: Tensor | None = None) -> Tensor:
    """Mean absolute difference over the three channels, in percent of the full range.

    With ``hole`` only its pixels count, and an empty hole gives NaN. Raises ValueError for shapes that do not fit.
    """
    _check(image, truth, hole)
    return 100 * _mean((image.double() - truth.double()).abs(), hole)


def psnr(image: Tensor, truth: Tensor, hole: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB, 10 log10(1 / mean squared difference); infinite where nothing differs.

    With ``hole`` only its pixels count, and an empty hole gives NaN. Raises ValueError for shapes that do not fit.
    """
    _check(image, truth, hole)
    return -10 * torch.log10(_mean((image.double() - truth.double()).square(), hole))


def ssim(image: Tensor, truth: Tensor, hole: Tensor | None = None) -> Tensor:
    """Structural similarity (Wang et al. 2004), per RGB channel and averaged: 1 for equal images.

    11-tap Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03, data range 1, population covariance. Over the whole
    image: the mean of the SSIM map over windows that lie inside the image, as in the paper and scikit-image. With
    ``hole``: the mean of the map over the hole's pixels, the image mirrored at its border so that a hole may touch it;
    an empty hole gives NaN. Raises ValueError for shapes that do not fit and for sides shorter than the window.
    """
    _check(image, truth, hole)
    window = 2 * SSIM_RADIUS + 1
    if min(image.shape[-2:]) < window:
        raise ValueError(
            f"ssim: expected images of at least {window}x{window} pixels, got {image.shape[-2]}x{image.shape[-1]}; "
            "use l1 or psnr for smaller ones"
        )
    first, second = image.double(), truth.double()
    if hole is not None:
        first, second = _mirror(first), _mirror(second)
    mean_first, mean_second = _gaussian(first), _gaussian(second)
    product = mean_first * mean_second
    squares = mean_first.square() + mean_second.square()
    variances = _gaussian(first.square() + second.square()) - squares
    covariance = _gaussian(first * second) - product
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))
    return _mean(similarity, hole)


class LPIPS(nn.Module):
    """Learned perceptual distance, version 0.1 with AlexNet (Zhang et al. 2018): 0 for equal images, lower is better.

    ``weights`` is a safetensors file with ``features.N.weight``, ``features.N.bias`` (torchvision's AlexNet) and
    ``linN.weight`` (the heads). Without it the environment variable INPAINT_LPIPS_WEIGHTS and then the user's cache
    are looked at; a file from the cache must have the known checksum. Raises InpaintError if there is no such file, if
    its checksum is wrong or if it holds something else. ``path`` and ``sha256`` tell which file was read,
    ``known`` whether it is the published one.
    """

    # Index of each convolution in AlexNet's `features`, its stride and padding; a 3x3 max-pool of stride 2 precedes
    # the second and the third.
    CONVOLUTIONS = ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1))
    SHAPES = ((64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3))
    SMALLEST_SIDE = 31  # below it the second max-pool has no window left

    def __init__(self, weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        self.path = find_lpips_weights(weights)
        self.sha256 = sha256(self.path)
        self.known = self.sha256 == LPIPS_SHA256
        # A file that the user names is taken as it is; one that just lies in the cache may be a broken download.
        if self.path == lpips_cache_path() and not self.known:
            raise InpaintError(
                f"expected {self.path} to have the sha256 {LPIPS_SHA256}, got {self.sha256}; replace the file, "
                f"or name it by {LPIPS_VARIABLE} from another folder to use it as it is"
            )
        for name, tensor in _read_lpips_weights(self.path).items():
            self.register_buffer(name.replace(".", "_"), tensor)
        # The published scaling of [-1, 1] by shift and scale, restated for images in [0, 1].
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        self.register_buffer("mean", ((shift + 1) / 2).view(3, 1, 1))
        self.register_buffer("deviation", (scale / 2).view(3, 1, 1))

    @torch.inference_mode()
    def forward(self, image: Tensor, truth: Tensor) -> Tensor:
        """Distance per image, float32. Raises ValueError for shapes that do not fit or sides under 31 pixels."""
        _check(image, truth, None)
        if min(image.shape[-2:]) < self.SMALLEST_SIDE:
            side = self.SMALLEST_SIDE
            raise ValueError(
                f"LPIPS: expected images of at least {side}x{side} pixels, got {image.shape[-2]}x{image.shape[-1]}; "
                "use l1, psnr or ssim for smaller ones"
            )
        batch = image.shape[:-3]
        first = self._features(image.reshape(-1, *image.shape[-3:]))
        second = self._features(truth.reshape(-1, *truth.shape[-3:]))
        distance = torch.zeros(math.prod(batch), device=image.device)
        for layer, (a, b) in enumerate(zip(first, second, strict=True)):
            difference = (_unit_length(a) - _unit_length(b)).square()
            distance += F.conv2d(difference, self.get_buffer(f"lin{layer}_weight")).mean(dim=(1, 2, 3))
        return distance.reshape(batch)

    def _features(self, images: Tensor) -> list[Tensor]:
        activation = (images.float() - self.get_buffer("mean")) / self.get_buffer("deviation")
        outputs = []
        for layer, (index, stride, padding) in enumerate(self.CONVOLUTIONS):
            if layer in (1, 2):
                activation = F.max_pool2d(activation, kernel_size=3, stride=2)
            weight, bias = self.get_buffer(f"features_{index}_weight"), self.get_buffer(f"features_{index}_bias")
            activation = F.relu(F.conv2d(activation, weight, bias, stride=stride, padding=padding))
            outputs.append(activation)
        return outputs


def lpips_cache_path() -> Path:
    """Where the weights of LPIPS are looked for when neither a path nor the environment variable names them."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "inpaint" / LPIPS_FILE


def find_lpips_weights(weights: str | os.PathLike[str] | None = None) -> Path:
    """The weight file of LPIPS: ``weights``, else the environment variable, else the cache. InpaintError if missing."""
    named = os.fspath(weights) if weights is not None else os.environ.get(LPIPS_VARIABLE)
    path = Path(named) if named else lpips_cache_path()
    if not path.is_file():
        raise InpaintError(
            f"expected the weights of LPIPS (AlexNet), found no file {path}; put {LPIPS_FILE} (sha256 {LPIPS_SHA256}) "
            f"at {lpips_cache_path()}, or name it by the environment variable {LPIPS_VARIABLE} or the weights "
            "argument; L1, PSNR and SSIM work without it"
        )
    return path


def _read_lpips_weights(path: Path) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, ((index, _, _), shape) in enumerate(zip(LPIPS.CONVOLUTIONS, LPIPS.SHAPES, strict=True)):
        shapes[f"features.{index}.weight"] = shape
        shapes[f"features.{index}.bias"] = shape[:1]
        shapes[f"lin{layer}.weight"] = (1, shape[0], 1, 1)
    tensors, _ = read_tensors(path)
    for name, expected in shapes.items():
        got = tuple(tensors[name].shape) if name in tensors else "no such tensor"
        if got != expected:
            raise InpaintError(
                f"expected {name} of shape {expected} in {path}, got {got}; use the weights of LPIPS v0.1 for AlexNet"
            )
    return {name: tensors[name].float() for name in shapes}


def _unit_length(features: Tensor) -> Tensor:
    """Each cell's channel vector scaled to length 1, with the published guard against zero."""
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def _mean(values: Tensor, hole: Tensor | None) -> Tensor:
    """Mean of (..., 3, H, W) over channels and pixels, or over channels and the hole's pixels."""
    if hole is None:
        return values.mean(dim=(-3, -2, -1))
    inside = hole.to(values.device)
    total = torch.where(inside, values.mean(dim=-3), 0).sum(dim=(-2, -1))
    return total / inside.sum(dim=(-2, -1))


def _gaussian(values: Tensor) -> Tensor:
    """Separable Gaussian window without padding: (..., H, W) -> (..., H-10, W-10).

    A weighted sum of shifted views: several times faster than torch's convolution of a single channel on a CPU.
    """
    taps = [math.exp(-(offset**2) / (2 * SSIM_SIGMA**2)) for offset in range(-SSIM_RADIUS, SSIM_RADIUS + 1)]
    weights = [tap / sum(taps) for tap in taps]
    for dimension in (-2, -1):
        size = values.shape[dimension] - 2 * SSIM_RADIUS
        blurred = torch.zeros_like(values.narrow(dimension, 0, size))
        for start, weight in enumerate(weights):
            blurred.add_(values.narrow(dimension, start, size), alpha=weight)
        values = blurred
    return values


def _mirror(values: Tensor) -> Tensor:
    """The window's radius added on every side by mirroring, the border pixel repeated."""
    for dimension in (-2, -1):
        size = values.shape[dimension]
        order = torch.arange(-SSIM_RADIUS, size + SSIM_RADIUS, device=values.device)
        order = torch.where(order < 0, -1 - order, order)
        order = torch.where(order >= size, 2 * size - 1 - order, order)
        values = values.index_select(dimension, order)
    return values


def _check(image: Tensor, truth: Tensor, hole: Tensor | None) -> None:
    if image.ndim not in (3, 4) or image.shape[-3] != 3 or not image.is_floating_point():
        raise ValueError(
            f"image: expected a float tensor (3, H, W) or (B, 3, H, W) in [0, 1], got {image.dtype} of shape "
            f"{tuple(image.shape)}; read it with inpaint.photo.read(...).colours()"
        )
    if truth.shape != image.shape or not truth.is_floating_point():
        raise ValueError(
            f"truth: expected a float tensor of the image's shape {tuple(image.shape)}, got {truth.dtype} of shape "
            f"{tuple(truth.shape)}; compare images of the same size"
        )
    if hole is None:
        return
    whole_batch = image.shape[-2:]
    per_image = (*image.shape[:-3], *whole_batch)
    if hole.dtype != torch.bool or tuple(hole.shape) not in (tuple(whole_batch), per_image):
        raise ValueError(
            f"hole: expected a bool tensor of shape {tuple(whole_batch)}, or one such mask per image, got {hole.dtype} "
            f"of shape {tuple(hole.shape)}; True marks the hole"
        )
