"""VGG-19 (Simonyan & Zisserman 2014) up to relu4_2, as the feature space in which patches are matched."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inpaint.errors import InpaintError
from inpaint.networks.convolution import convolve
from inpaint.tensor_file import read_tensors

# name: (input channels, output channels, max-pool before it)
_LAYERS: dict[str, tuple[int, int, bool]] = {
    "conv1_1": (3, 64, False),
    "conv1_2": (64, 64, False),
    "conv2_1": (64, 128, True),
    "conv2_2": (128, 128, False),
    "conv3_1": (128, 256, True),
    "conv3_2": (256, 256, False),
    "conv3_3": (256, 256, False),
    "conv3_4": (256, 256, False),
    "conv4_1": (256, 512, True),
    "conv4_2": (512, 512, False),
}
_BLOCKS = (("conv1_1", "conv1_2"), ("conv2_1", "conv2_2"), ("conv3_1",))  # up to relu3_1, a max-pool between them
RELU3_1_CHANNELS = _LAYERS["conv3_1"][1]
# Position of each convolution in torchvision's vgg19().features.
_TORCHVISION = dict(zip(_LAYERS, (0, 2, 5, 7, 10, 12, 14, 16, 19, 21), strict=True))


class VGG19(nn.Module):
    """Convolution layers of VGG-19 up to ``last``; frozen.

    Input: RGB in [0, 1], (B, 3, H, W). ``forward`` returns the activations of the asked-for layers by name, each after
    its ReLU; relu3_1 has 256 channels at 1/4 of the resolution. Borders repeat the outermost cell, which distorts the
    features along them least (docs/method.md), and pooling rounds sizes up, so that every pixel belongs to a cell.

    Args:
        last: the deepest layer built, "conv1_1" .. "conv4_2".
    """

    def __init__(self, last: str = "conv3_1") -> None:
        super().__init__()
        if last not in _LAYERS:
            raise ValueError(f"VGG19: expected a layer out of {', '.join(_LAYERS)}, got {last!r}; choose one of these")
        self.preproc = nn.Conv2d(3, 3, 1)
        names = list(_LAYERS)
        self.layers = nn.ModuleDict({name: nn.Conv2d(*_LAYERS[name][:2], 3) for name in names[: names.index(last) + 1]})
        self.requires_grad_(False)
        self.eval()

    def forward(self, image: Tensor, wanted: tuple[str, ...] = ("relu3_1",)) -> dict[str, Tensor]:
        """(B, 3, H, W) in [0, 1] -> {"relu3_1": (B, 256, ceil(H/4), ceil(W/4)), ...} for the layers in ``wanted``."""
        deepest = max(wanted, key=lambda name: name[4:])
        features: dict[str, Tensor] = {}
        x = self.preproc(image)
        for name, convolution in self.layers.items():
            if _LAYERS[name][2]:
                x = F.max_pool2d(x, 2, ceil_mode=True)
            x = convolve(x, convolution, replicate=True, slope=0)  # type: ignore[arg-type]  # ModuleDict of Conv2d
            relu = name.replace("conv", "relu")
            if relu in wanted:
                features[relu] = x
            if relu == deepest:
                break
        if len(features) != len(wanted):
            missing = ", ".join(sorted(set(wanted) - set(features)))
            raise ValueError(
                f"VGG19: expected layers up to {list(self.layers)[-1]}, got {missing}; build a deeper VGG19"
            )
        return features

    def relu3_1(self, image: Tensor, strip_bytes: int | None = None) -> Tensor:
        """relu3_1 of (B, 3, H, W), computed strip by strip: less memory, and faster where a strip stays in the cache.

        Args:
            strip_bytes: size of what the convolutions make of one strip of rows; 16 MB on the CPU and 256 MB elsewhere
                by default. The features are those of ``forward``, up to rounding, whatever it is.
        """
        strip_bytes = strip_bytes or (16 << 20 if image.device.type == "cpu" else 256 << 20)
        x = self.preproc(image)
        for names in _BLOCKS:
            row_bytes = 4 * x.shape[0] * _LAYERS[names[0]][1] * x.shape[3]
            rows = max(2, strip_bytes // row_bytes // 2 * 2)  # even, for the pooling
            starts = range(0, x.shape[2], rows)
            strips = [self._strip(x, names, start, min(start + rows, x.shape[2])) for start in starts]
            x = strips[0] if len(strips) == 1 else torch.cat(strips, dim=2)
        return x

    def _strip(self, x: Tensor, names: tuple[str, ...], start: int, stop: int) -> Tensor:
        """What a block makes of its input's rows from ``start`` to ``stop``, pooled if another block follows."""
        above = min(start, len(names))  # rows beyond the strip that are still looked at
        x = x[:, :, start - above : stop + len(names)]
        for name in names:
            x = convolve(x, self.layers[name], replicate=True, slope=0)  # type: ignore[arg-type]
        x = x[:, :, above : above + stop - start]  # what was seen beyond the strip's border is not in it
        return x if names == _BLOCKS[-1] else F.max_pool2d(x, 2, ceil_mode=True)

    def train(self, mode: bool = True) -> VGG19:
        """Stays in evaluation mode: the features are a fixed yardstick."""
        return super().train(False)


def load_vgg19(path: Path, last: str = "conv3_1") -> VGG19:
    """Reads VGG-19 weights.

    ``path`` is a safetensors file with ``convN_M.weight`` / ``.bias`` and a 1x1 ``preproc`` layer (RGB in [0, 1] to
    what conv1_1 expects), or torchvision's ``vgg19`` state dictionary (``features.N.weight``; .pth or .safetensors).

    Raises:
        InpaintError: the file is missing, unreadable, or lacks a layer.
    """
    state = _read_state(path)
    if any(key.startswith("features.") for key in state):
        state = _from_torchvision(state)
    vgg = VGG19(last)  # what it draws at random is overwritten, but a training's first weights are drawn after it
    own = vgg.state_dict()
    wanted = {name: name.removeprefix("layers.") for name in own}
    missing = [key for key in wanted.values() if key not in state]
    if missing:
        raise InpaintError(
            f"{path}: expected VGG-19 weights up to {last}, {missing[0]} is missing; "
            "give torchvision's vgg19 file or the one that comes with this package"
        )
    for name, key in wanted.items():
        if own[name].shape != state[key].shape:
            raise InpaintError(
                f"{path}: expected {key} of shape {tuple(own[name].shape)}, got {tuple(state[key].shape)}; "
                "give the weights of VGG-19"
            )
    # Assigned: copied into what the caller's default dtype and device made, they would take these on.
    vgg.load_state_dict({name: state[key].float() for name, key in wanted.items()}, assign=True)
    return vgg


def _read_state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InpaintError(
            f"{path}: expected VGG-19 weights as safetensors or a torch state dictionary, could not read it "
            f"({type(error).__name__}); check the path or get the file again"
        ) from error


def _from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    deviation = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float32, device="cpu")
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float32, device="cpu")
    converted = {"preproc.weight": torch.diag(1 / deviation)[:, :, None, None], "preproc.bias": -mean / deviation}
    for name, position in _TORCHVISION.items():
        for kind in ("weight", "bias"):
            if f"features.{position}.{kind}" in state:
                converted[f"{name}.{kind}"] = state[f"features.{position}.{kind}"]
    return converted
