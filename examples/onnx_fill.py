"""One scale of the method (Song et al. 2017, arXiv 1711.08590) in ONNX Runtime and numpy, without torch or patchswap.

inpaint export --format onnx -o models
python examples/onnx_fill.py photo.png mask.png models filled.png
"""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image


def run(model: Path, **inputs: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, inputs)[0]


def swap(features: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """(C, h, w), (h, w) -> (C, h, w): 3x3 patches that touch the hole become the most similar ones outside it."""
    patches = sliding_window_view(features, (3, 3), axis=(1, 2)).transpose(1, 2, 0, 3, 4)
    touches = sliding_window_view(hole, (3, 3)).any(axis=(2, 3))
    keys, queries = patches[~touches], patches[touches].reshape(touches.sum(), -1)
    directions = keys.reshape(len(keys), -1)
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    total, count = np.zeros_like(features), np.zeros(hole.shape, np.float32)
    for (row, column), best in zip(np.argwhere(touches), (queries @ directions.T).argmax(axis=1), strict=True):
        total[:, row : row + 3, column : column + 3] += keys[best]
        count[row : row + 3, column : column + 3] += 1
    return np.where(hole, total / np.maximum(count, 1), features)  # overlapping patches are averaged


def fill(image: np.ndarray, hole: np.ndarray, models: Path) -> np.ndarray:
    """(3, H, W) float32 RGB in [0, 1] and (H, W) bool, True = hole -> (3, H, W)."""
    height, width = hole.shape
    completed = run(models / "image2feature.onnx", image=image[None], hole=hole[None])
    features = run(models / "vgg19_relu3_1.onnx", image=completed)[0]
    cells = np.pad(hole, ((0, -height % 4), (0, -width % 4))).reshape(-(-height // 4), 4, -1, 4).any(axis=(1, 3))
    picture = run(models / "feature2image.onnx", features=swap(features, cells)[None])[0, :, :height, :width]
    return np.where(hole, picture, image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("photo", "mask", "models", "output"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    photo, mask = Image.open(given.photo).convert("RGB"), Image.open(given.mask).convert("L")
    filled = fill(np.float32(photo).transpose(2, 0, 1) / 255, np.asarray(mask) > 127, given.models)
    Image.fromarray((filled.transpose(1, 2, 0) * 255).round().astype(np.uint8)).save(given.output)


if __name__ == "__main__":
    main()
