"""What can be evaluated by name: the networks of this project, and weight-free methods to compare with.

A method is any callable that takes an image (3, H, W), float in [0, 1], and a hole (H, W), bool, True = hole, and
returns the completed image, (3, H, W) float. What it returns outside the hole does not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from inpaint.errors import InpaintError
from inpaint.photo import read, to_pil

Method = Callable[[Tensor, Tensor], Tensor]

OPENCV_RADIUS = 5  # pixels; how far from a hole pixel cv2.inpaint looks for known ones


def named_method(name: str, device: str = "auto") -> Method:
    """The method of that name: ``mean-colour``, ``telea``, ``ns``, ``default``, or a path to weights of this project.

    ``device`` is auto, cpu or cuda and matters to the networks only. Raises InpaintError if OpenCV is needed and not
    installed, and what ``inpaint.load`` raises for weights that are missing or wrong.
    """
    if name in BASELINES:
        return BASELINES[name]()
    import inpaint  # not at the top: the metrics and baselines need no network

    return inpaint.load(name, device=device)


def mean_colour(image: Tensor, hole: Tensor) -> Tensor:
    """The hole filled with the mean colour of the known pixels, rounded down to 8 bits per channel."""
    colour = (255 * image[:, ~hole].double()).mean(dim=1).floor() / 255
    return torch.where(hole, colour.to(image.dtype).view(3, 1, 1), image)


def telea() -> Method:
    """Telea's fast marching method (2004), by OpenCV, with a radius of 5 pixels."""
    cv2 = _opencv("telea")
    return lambda image, hole: _opencv_inpaint(cv2, cv2.INPAINT_TELEA, image, hole)


def navier_stokes() -> Method:
    """The method after Navier and Stokes of Bertalmio et al. (2001), by OpenCV, with a radius of 5 pixels."""
    cv2 = _opencv("ns")
    return lambda image, hole: _opencv_inpaint(cv2, cv2.INPAINT_NS, image, hole)


BASELINES: dict[str, Callable[[], Method]] = {"mean-colour": lambda: mean_colour, "telea": telea, "ns": navier_stokes}


def _opencv(method: str) -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise InpaintError(
            f"expected OpenCV for the method {method}, it is not installed; pip install opencv-python-headless"
        ) from error
    return cv2


def _opencv_inpaint(cv2: ModuleType, flag: int, image: Tensor, hole: Tensor) -> Tensor:
    pixels = np.array(to_pil(image))  # both methods treat the three channels alike, so RGB order is fine
    mask = hole.cpu().numpy().astype(np.uint8)
    return read(cv2.inpaint(pixels, mask, OPENCV_RADIUS, flag)).colours()
