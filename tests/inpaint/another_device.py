"""Fills a picture on a device that is neither CPU nor CUDA, and prints what came of it as JSON; test_device.py runs it.

It stands in for an Apple GPU, which no test machine has: torch's PrivateUse1 backend, whose tensors lie in the CPU's
memory but belong to another device for all code above. As on MPS, float64 is refused. patchswap's operators run by
their kernels for MPS.
"""

from __future__ import annotations

import inspect
import json
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import patchswap
from inpaint import weights
from inpaint.inpainter import Inpainter
from inpaint.pipeline import Pipeline
from inpaint.recipe import WIDE

NAME = "elsewhere"
DEVICE = f"{NAME}:0"
called: set[str] = set()


class Backend:
    """What torch asks of a device's module."""

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16]


class Elsewhere(Tensor):
    """A tensor on that device; ``raw`` is its content."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> Elsewhere:
        if raw.dtype == torch.float64:
            raise TypeError("Cannot convert a tensor to float64 dtype: this device has none")
        layout = {"strides": raw.stride(), "storage_offset": raw.storage_offset(), "dtype": raw.dtype}
        result = torch.Tensor._make_wrapper_subclass(cls, raw.size(), device=DEVICE, **layout)
        result.raw = raw
        return result

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        return dispatch(function, arguments, options or {})


class Everywhere(TorchDispatchMode):
    """Sees what no tensor of the device takes part in: making one, and copying one there."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        return dispatch(function, arguments, options or {})


def dispatch(function: Any, arguments: Any, options: dict[str, Any]) -> Any:
    is_there = any(isinstance(each, Elsewhere) for each in pytree.tree_leaves((arguments, options)))
    if is_there and function.namespace == "patchswap":
        called.add(str(function))
        with Everywhere():
            return function._op_dk(torch._C.DispatchKey.MPS, *arguments, **options)
    if options.get("device") is not None:
        is_there = torch.device(options["device"]).type == NAME
        options = {**options, "device": "cpu"}
    wrapped: dict[int, Elsewhere] = {}

    def unwrap(value: Any) -> Any:
        if isinstance(value, Elsewhere):
            wrapped[id(value.raw)] = value
            return value.raw
        return value

    given, named = pytree.tree_map(unwrap, (arguments, options))
    results = function(*given, **named)
    if not is_there:
        return results
    called.add(str(function))

    def wrap(result: Tensor) -> Tensor:
        return wrapped[id(result)] if id(result) in wrapped else Elsewhere(result)

    return pytree.tree_map_only(Tensor, wrap, results)


def main() -> None:
    _setup_privateuseone_for_python_backend(NAME, Backend())
    generator = np.random.default_rng(0)
    coarse = torch.from_numpy(generator.random((1, 3, 9, 12), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=(128, 161), mode="bicubic").clamp(0, 1)
    image = smooth[0].permute(1, 2, 0).numpy()
    hole = np.zeros(image.shape[:2], bool)
    hole[40:90, 50:110] = True
    hole[5:12, 130:150] = True

    networks = weights.load()
    options: dict[str, Any] = {"recipe": WIDE, "precision": "float32", "max_memory": 2**33}
    expected = Inpainter(networks, "cpu", **options)(image, hole, scales=[64, 128])
    with Everywhere(), torch.no_grad():
        there = Inpainter(networks, DEVICE, **options)
        # Tensors of a class of one's own have no views in inference mode.
        there.pipeline.fill = partial(inspect.unwrap(Pipeline.fill), there.pipeline)  # type: ignore[method-assign]
        places = {str(each.device) for network in networks[:3] for each in network.parameters()}
        own = {str(each.device) for network in there.networks[:3] for each in network.parameters()}
        filled = there(image, hole, scales=[64, 128])
        of_tensor = there(torch.from_numpy(image).permute(2, 0, 1).to(DEVICE), hole, scales=[64, 128])
        tensor_device = str(of_tensor.device)
        of_tensor = of_tensor.cpu().permute(1, 2, 0).numpy()

        # What the pipeline does not call.
        features = torch.rand(1, 4, 9, 8).to(DEVICE)
        match = patchswap.match(features, features.flip(2), topk=2)
        similarity = patchswap.similarity(features, features.flip(2), match)
        devices = {str(each.device) for each in (match.index, match.score, similarity)}
        is_score = bool((similarity.cpu() - match.score.cpu()).abs().max() < 1e-5)
    difference = np.abs(filled - expected)
    print(
        json.dumps(
            {
                "known pixels are kept": bool(np.array_equal(filled[~hole], image[~hole])),
                "hole is filled": bool(np.abs(filled - image)[hole].mean() > 0.005),
                "largest difference": float(difference.max()),
                "mean difference": float(difference[hole].mean()),
                "tensor gives the same": bool(np.array_equal(of_tensor, filled)),
                "devices": sorted({*own, tensor_device, *devices}),
                "devices of the caller's networks": sorted(places),
                "similarity is the score": is_score,
                "called": sorted(called),
            }
        )
    )


if __name__ == "__main__":
    main()
