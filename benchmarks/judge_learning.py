"""How soon a new discriminator tells decoded pictures from real ones, when the decoder stays as it is.

    python benchmarks/judge_learning.py --data photographs --out benchmarks/results/judge-learning-cpu.json

Feature2Image of the default weights decodes the same batches for every kind of discriminator, which sees each batch
once. A loss of 2 is that of one that cannot tell.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import machine
import torch
from ablation import write
from torch import Tensor, nn
from tqdm import tqdm
from training_choices import SHORT_RUN

import patchswap
from inpaint import weights
from inpaint.mask import feature_hole
from inpaint.networks import PatchDiscriminator
from inpaint.training.config import load_config
from inpaint.training.data import Photographs, batches
from inpaint.training.losses import detail, judge_loss
from inpaint.training.trainer import DEFAULT_VGG, Trainer

PARTS = 5  # of the run, for each of which the mean loss is told
RATES = (2e-4, 1e-3)  # that of the configs, and that of training_choices.py

Example = tuple[Tensor, Tensor, Tensor]  # real pictures, decoded ones, and the features they were decoded from


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="photographs, as `inpaint train` takes them")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--steps", type=int, default=150)
    arguments = parser.parse_args()
    examples = decode(arguments.data, arguments.steps)
    results = []
    for sees in ("the picture", "its detail"):
        for spectral in (True, False):
            for rate in RATES:
                losses = learn(examples, sees_detail=sees == "its detail", spectral=spectral, rate=rate)
                ends = [len(losses) * part // PARTS for part in range(PARTS + 1)]
                means = [statistics.fmean(losses[first:last]) for first, last in zip(ends, ends[1:], strict=False)]
                results.append(
                    {"sees": sees, "spectral_norm": spectral, "rate": rate, "steps": ends[1:], "loss": means}
                )
                print(results[-1], flush=True)
    description = machine.describe("cpu", machine.command_line("benchmarks/judge_learning.py"))
    write(arguments.out, {"machine": description, "results": results})


@torch.no_grad()
def decode(data: Path, steps: int) -> list[Example]:
    config = load_config("compact", "feature2image", steps=steps, workers=0)
    config = dataclasses.replace(config, **SHORT_RUN, bfloat16=False)
    trainer = Trainer("feature2image", config, DEFAULT_VGG, torch.device("cpu"))
    trainer.begin_from(weights.load())
    examples = []
    for batch in tqdm(batches(Photographs(data, config)), total=steps, desc="decode"):
        features = patchswap.swap(trainer.vgg.relu3_1(batch.image), hole=feature_hole(batch.hole))
        examples.append((batch.image, trainer.networks["generator"](features), features))
    return examples


def learn(examples: list[Example], *, sees_detail: bool, spectral: bool, rate: float) -> list[float]:
    """The loss at each step."""
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(3, examples[0][2].shape[1], spectral=spectral)
    optimiser = torch.optim.Adam(discriminator.parameters(), rate, (0.5, 0.999))
    losses = []
    for real, decoded, features in tqdm(examples, desc="learn"):
        shown = [detail(picture) if sees_detail else picture for picture in (real, decoded)]
        loss = judge_loss(*(discriminator(picture, features) for picture in shown))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(discriminator.parameters(), 5.0)
        optimiser.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    main()
