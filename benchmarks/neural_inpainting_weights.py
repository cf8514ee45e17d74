"""How the weights of neural inpainting's terms were chosen: each setting on the same photographs, with what came out.

    python benchmarks/neural_inpainting_weights.py --data photographs --form fast --content 0.03 0.3 --smoothness 1 10

The photographs are those that `inpaint train` holds out, 256x256 with the centre hole of 112; the weight of the texture
is 1. One line each setting: hole L1 in percent, LPIPS, and the sharpness, the mean gradient within the hole as a share
of the true photograph's there; the first line is the content prediction that every setting starts from.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from rivals.deep_vgg import load_deep_vgg
from rivals.neural_inpainting import FORMS, NeuralInpainting
from torch import Tensor
from tqdm import tqdm

from inpaint import mask, weights
from inpaint.evaluation.metrics import LPIPS, l1
from inpaint.training.config import TrainingConfig
from inpaint.training.data import Photographs

SIZE, HOLE = 256, 112


def sharpness(image: Tensor, truth: Tensor, hole: Tensor) -> float:
    """Mean absolute difference of neighbours within the hole, relative to the truth's."""

    def gradient(picture: Tensor) -> Tensor:
        down = (picture[:, 1:] - picture[:, :-1]).abs()[:, hole[1:] & hole[:-1]]
        right = (picture[..., 1:] - picture[..., :-1]).abs()[:, hole[:, 1:] & hole[:, :-1]]
        return down.mean() + right.mean()

    return float(gradient(image) / gradient(truth))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="photographs, as for inpaint train")
    parser.add_argument("--photographs", type=int, default=4, help="how many of those held out")
    parser.add_argument("--form", choices=FORMS, default="fast")
    parser.add_argument("--content", type=float, nargs="+", required=True)
    parser.add_argument("--smoothness", type=float, nargs="+", required=True)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--vgg", type=Path, help="VGG-19 up to relu4_2; INPAINT_VGG19 names it otherwise")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    config = TrainingConfig(image_size=SIZE, zoom=(1.0, 1.0), batch=arguments.photographs)
    truths = list(Photographs(arguments.data, config, validation=True)[0].image)
    hole = mask.center(SIZE, SIZE, HOLE)
    vgg, painter, perceptual = load_deep_vgg(arguments.vgg), weights.load().image2feature, LPIPS()

    def report(name: str, results: list[Tensor]) -> None:
        measured = [
            (float(l1(result, truth, hole)), float(perceptual(result, truth)), sharpness(result, truth, hole))
            for result, truth in zip(results, truths, strict=True)
        ]
        means = [sum(column) / len(column) for column in zip(*measured, strict=True)]
        tqdm.write(f"{name:32} L1 {means[0]:5.2f} %  LPIPS {means[1]:.4f}  sharpness {means[2]:.2f}", file=sys.stdout)

    settings = list(itertools.product(arguments.content, arguments.smoothness))
    with tqdm(total=len(settings) * len(truths), unit="photo") as bar:
        for number, (content, smoothness) in enumerate(settings):
            form = dataclasses.replace(FORMS[arguments.form], content=content, texture=1.0, smoothness=smoothness)
            method = NeuralInpainting(
                vgg, painter, form=form, iterations=arguments.iterations, bfloat16=arguments.bfloat16
            )
            if number == 0:
                unchanged = NeuralInpainting(vgg, painter, form=form, iterations=0)
                report("content prediction, enlarged", [unchanged(truth, hole) for truth in truths])
            results = []
            for truth in truths:
                results.append(method(truth, hole))
                bar.update()
            report(f"content {content:g} smoothness {smoothness:g}", results)


if __name__ == "__main__":
    main()
