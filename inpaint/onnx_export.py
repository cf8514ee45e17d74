"""The networks as ONNX models, for programs without torch: open batch, height and width, plain ONNX operators.

Three models make one scale of the method; between the second and the third the features are swapped:

* image2feature: image (B, 3, H, W) float32 RGB in [0, 1], hole (B, H, W) bool, True = hole -> completed (B, 3, H, W)
* vgg19_relu3_1: image (B, 3, H, W) in [0, 1] -> features (B, 256, ceil(H/4), ceil(W/4))
* feature2image: features (B, 256, h, w) -> picture (B, 3, 4h, 4w) in [0, 1]
"""

from __future__ import annotations

import logging
import os
import secrets
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxscript import opset18 as op
from torch import Tensor, nn

from inpaint.errors import InpaintError
from inpaint.networks.vgg import RELU3_1_CHANNELS
from inpaint.weights import Networks
from patchswap import reference
from patchswap.version import __version__

OPSET = 18
LEVELS = 14  # halvings of the image in fill_smoothly: sides of up to 2**14 pixels
TOLERANCE = 1e-3  # largest difference to torch, relative to the largest value
_TRACED, _TRIED = (2, 40, 56), ((1, 37, 51), (2, 16, 83))  # batch, height and width in pixels


@dataclass(frozen=True)
class Part:
    """A network with its inputs for (batch, height, width), the open dimensions of these, and its output."""

    name: str
    network: nn.Module
    inputs: dict[str, dict[int, str]]
    output: str
    shape: tuple[str | int, ...]

    def example(self, batch: int, height: int, width: int) -> dict[str, Tensor]:
        """Inputs of that size in pixels, always the same."""
        draws = torch.Generator().manual_seed(height)
        if "features" in self.inputs:
            return {"features": torch.rand(batch, RELU3_1_CHANNELS, -(-height // 4), -(-width // 4), generator=draws)}
        given = {"image": torch.rand(batch, 3, height, width, generator=draws)}
        if "hole" in self.inputs:
            given["hole"] = torch.zeros(batch, height, width, dtype=torch.bool)
            given["hole"][:, height // 4 : height // 2, width // 3 : width // 2] = True
        return given


class _Features(nn.Module):
    """VGG-19 up to relu3_1 as a network of one output."""

    def __init__(self, vgg: nn.Module) -> None:
        super().__init__()
        self.vgg = vgg

    def forward(self, image: Tensor) -> Tensor:
        return self.vgg(image)["relu3_1"]


def export(networks: Networks, folder: Path, facts: Mapping[str, str]) -> list[Path]:
    """Writes the three models into a folder, all of them or none.

    Each is checked first by onnx, and run in ONNX Runtime at sizes other than those it was traced with.

    Args:
        networks: float32, on the CPU.
        folder: one that exists.
        facts: kept in each model's metadata, with its name and our version, such as where the weights come from.

    Returns:
        The files.

    Raises:
        InpaintError: a network that torch cannot export with open sizes, or whose model gives something else.
        OSError: the files cannot be written.
    """
    contents = {}
    for part in parts(networks):
        model = model_of(part)
        onnx.helper.set_model_props(model, {**facts, "network": part.name, "inpaint": __version__})
        _check(part, model)
        contents[folder / f"{part.name}.onnx"] = model.SerializeToString()
    write(contents)
    return list(contents)


def parts(networks: Networks) -> list[Part]:
    image = {0: "batch", 2: "height", 3: "width"}
    hole = {0: "batch", 1: "height", 2: "width"}
    cells = ("batch", RELU3_1_CHANNELS, "ceil(height/4)", "ceil(width/4)")
    whole, enlarged = ("batch", 3, "height", "width"), ("batch", 3, "4*height", "4*width")
    return [
        Part("image2feature", networks.image2feature, {"image": image, "hole": hole}, "completed", whole),
        Part("vgg19_relu3_1", _Features(networks.vgg), {"image": image}, "features", cells),
        Part("feature2image", networks.feature2image, {"features": image}, "picture", enlarged),
    ]


def model_of(part: Part) -> onnx.ModelProto:
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                part.network.eval(),
                kwargs=part.example(*_TRACED),
                input_names=list(part.inputs),
                output_names=[part.output],
                dynamic_shapes=part.inputs,
                opset_version=OPSET,
                custom_translation_table={torch.ops.patchswap.fill_smoothly.default: _fill_smoothly},
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise InpaintError(
            f"{part.name}: expected a network that torch.onnx.export takes with open sizes, got one that it refuses "
            f"({error.__cause__ or error}); keep sizes and values of tensors out of its Python code"
        ) from error
    assert program is not None
    model = program.model_proto
    del model.graph.value_info[:]  # the sizes of results inside, as formulas
    shape = model.graph.output[0].type.tensor_type.shape
    for dimension, length in zip(shape.dim, part.shape, strict=True):
        if isinstance(length, str):
            dimension.dim_param = length
    return model


def _check(part: Part, model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for size in _TRIED:
        given = part.example(*size)
        with torch.no_grad():
            expected = part.network(**given).numpy()
        found: Any = session.run(None, {name: value.numpy() for name, value in given.items()})[0]
        if found.shape != expected.shape or np.abs(found - expected).max() > TOLERANCE * np.abs(expected).max():
            raise InpaintError(
                f"{part.name}: expected ONNX Runtime to give what torch gives for {size[1]}x{size[2]} pixels, got "
                "something else; keep sizes and values of tensors out of the network's Python code"
            )


def write(contents: Mapping[Path, bytes]) -> None:
    """Writes files under temporary names and renames all of them at the end."""
    temporary = {path: path.with_name(f".{path.name}-{secrets.token_hex(4)}.tmp") for path in contents}
    try:
        for path, content in contents.items():
            temporary[path].write_bytes(content)
        for path, written in temporary.items():
            os.replace(written, path)
    finally:
        for written in temporary.values():
            written.unlink(missing_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of packages that are not needed here, and of dimensions that share a name, as ours do."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _fill_smoothly(image: Any, hole: Any) -> Any:
    """``patchswap.ops.fill_smoothly`` in ONNX operators; names are those of ``patchswap.reference.smooth_fill``.

    The number of levels is fixed, as a graph of open sizes cannot count them: those beyond one cell change nothing.
    """
    missing = op.Unsqueeze(hole, _integers([1]))
    levels = [(op.Where(missing, _number(0), image), op.Cast(op.Not(missing), to=onnx.TensorProto.FLOAT))]
    for _ in range(LEVELS):
        total, weight = (_halved(part) for part in levels[-1])
        known = op.Min(op.Mul(weight, _number(2)), _number(1))
        levels.append((op.Div(op.Mul(total, known), _not_zero(weight)), known))
    total, weight = levels[-1]
    filled = op.Div(total, _not_zero(weight))
    for total, weight in levels[-2::-1]:
        lacking = op.Sub(_number(1), weight)
        size = op.Concat(op.Shape(filled, end=2), op.Shape(total, start=2), axis=0)
        above = op.Resize(filled, None, None, size, mode="linear", coordinate_transformation_mode="half_pixel")
        filled = op.Add(total, op.Mul(lacking, above))
        for _ in range(reference.SMOOTHINGS):
            wider = op.Pad(filled, _integers([0, 0, 1, 1, 0, 0, 1, 1]), mode="edge")
            around = op.AveragePool(wider, kernel_shape=[3, 3])
            filled = op.Add(total, op.Mul(lacking, around))
    return op.Where(missing, filled, image)


def _halved(x: Any) -> Any:
    """Means of 2x2 cells; of those that there are where a side is odd, which repeating its last cell gives as well."""
    odd = op.Mod(op.Shape(x, start=2), _integers([2]))
    whole = op.Pad(x, op.Concat(_integers([0] * 6), odd, axis=0), mode="edge")
    return op.AveragePool(whole, kernel_shape=[2, 2], strides=[2, 2])


def _not_zero(weight: Any) -> Any:
    return op.Max(weight, _number(reference.SMALLEST_WEIGHT))


def _number(value: float) -> Any:
    return op.Constant(value_float=float(value))


def _integers(values: list[int]) -> Any:
    return op.Constant(value_ints=values)
