"""What each choice of training is worth: Feature2Image trained on from the same weights, with one thing changed each.

    python research/training_choices.py --data photographs --out runs --lpips-weights lpips_alex.safetensors \\
        --json benchmarks/results/training-choices-cpu.json

All rows begin from the same weights with a new discriminator and see the same crops and holes in the same order, so
they differ in nothing but the choice. They are measured as the pipeline with that Feature2Image, on photographs that
are held out of the training: the middle square of 256 with a centre hole. Runs and measurements that --out holds are
not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parent))

import held_out
import machine
import torch
from ablation import MEASURED, paired, write
from torch import Tensor, nn
from tqdm import tqdm

import inpaint
from inpaint import weights
from inpaint.evaluation.metrics import LPIPS, l1, ssim
from inpaint.mask import center
from inpaint.networks import Feature2Image
from inpaint.networks.layout import on_device
from inpaint.photo import read, to_pil
from inpaint.tensor_file import read_tensors, under
from inpaint.training.checkpoint import averaged_generator
from inpaint.training.config import load_config
from inpaint.training.trainer import train

# name: (what is changed, fields of TrainingConfig)
CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    "hinge": ("hinge loss, spectral norms", {}),
    "no-spectral-norm": ("no spectral norms", {"spectral_norm": False}),
    "detail": ("the discriminator sees detail (`judge_detail`)", {"judge_detail": True}),
    "no-adversary": ("no adversarial loss", {"adversarial": 0.0}),
    "detail-unbound": (
        "detail, no spectral norms, rate 2e-4",
        {"judge_detail": True, "spectral_norm": False, "learning_rate_discriminator": 2e-4},
    ),
}
# Many steps on small crops rather than few on large ones, which show things as large as those that the default weights
# were trained on; and a discriminator, new as it is, that learns fast.
SHORT_RUN = {
    "image_size": 96,
    "zoom": (1.67, 3.0),
    "learning_rate": 1e-4,
    "learning_rate_discriminator": 1e-3,
    "warmup": 30,
    "adversarial_start": 0,
    "log_every": 10,
}


def main() -> None:
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    networks = weights.load(arguments.init)
    config = load_config("compact", "feature2image", init=arguments.init, steps=arguments.steps, workers=0)
    config = dataclasses.replace(config, **SHORT_RUN, bfloat16=arguments.bfloat16)
    decoders = {("start", "averaged"): networks.feature2image}
    for name in arguments.choices:
        changed = dataclasses.replace(config, **CHOICES[name][1])
        checkpoint = train("feature2image", arguments.data, arguments.out / name, changed)
        if averaged_generator(checkpoint).step < arguments.steps:
            sys.exit("stopped; the same command goes on")
        for kind in ("averaged", "generator") if name in arguments.last else ("averaged",):
            decoders[name, kind] = decoder(checkpoint, kind, networks.feature2image)
    squares = held_out.squares(arguments.data, arguments.photographs)
    measured = measure(networks, decoders, squares, LPIPS(arguments.lpips_weights), arguments.out)
    content = {
        "machine": machine.describe("cpu", machine.command_line("research/training_choices.py")),
        "weights_sha256": weights.sha256(weights.resolve(arguments.init)),
        "photographs": len(squares),
        "config": dataclasses.asdict(config),
        "results": summarise(measured),
        "judge_loss": {name: judge_loss(arguments.out / name) for name in arguments.choices},
    }
    write(arguments.json or arguments.out / "training-choices.json", content)


def decoder(checkpoint: Path, kind: str, like: Feature2Image) -> Feature2Image:
    """Feature2Image of a checkpoint: its running average ("averaged"), or the weights themselves ("generator")."""
    network = Feature2Image(like.config)
    network.load_state_dict(under(read_tensors(checkpoint)[0], f"{kind}."))
    return network.eval().requires_grad_(False)


def measure(
    networks: weights.Networks,
    decoders: dict[tuple[str, str], Feature2Image],
    squares: list[Tensor],
    perceptual: Callable[[Tensor, Tensor], Tensor],
    out: Path,
) -> dict[tuple[str, str], list[dict[str, float]]]:
    """For each decoder what was measured of each square, composited and rounded to 8 bits; kept in ``out``."""
    hole = center(held_out.SIDE, held_out.SIDE, held_out.HOLE)
    remembering = Remembering(on_device(networks.image2feature, "cpu"))  # one for all: nothing is left to be moved
    measured = {}
    for name, network in decoders.items():
        path = out / f"{'-'.join(name)}.json"
        measured[name] = json.loads(path.read_text())["measured"] if path.exists() else []
        if len(measured[name]) == len(squares):
            continue
        inpainter = inpaint.Inpainter(networks._replace(image2feature=remembering, feature2image=network))
        measured[name] = []
        for truth in tqdm(squares, desc=" ".join(name), unit="photo"):
            result = read(to_pil(inpainter(truth, hole))).colours()
            found = {
                "hole_l1": l1(result, truth, hole),
                "ssim": ssim(result, truth),
                "lpips": perceptual(result, truth),
            }
            measured[name].append({key: float(value) for key, value in found.items()})
        write(path, {"measured": measured[name]})
    return measured


class Remembering(nn.Module):
    """A network that works on each batch of pictures only once: the rows differ in what comes after it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.answers: dict[bytes, Tensor] = {}

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        seen = image.numpy().tobytes()
        if seen not in self.answers:
            self.answers[seen] = self.network(image, hole)
        return self.answers[seen]


def summarise(measured: dict[tuple[str, str], list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Means, and mean differences with their standard errors: from the start, and from the same weights of "hinge"."""
    results = []
    for (name, kind), rows in measured.items():
        change = CHOICES[name][0] if name in CHOICES else "the weights it began from"
        result: dict[str, Any] = {"choice": name, "change": change, "weights": kind}
        result |= {key: statistics.fmean(row[key] for row in rows) for key in MEASURED}
        for base in (("start", "averaged"), ("hinge", kind)):
            if base in measured and name not in ("start", base[0]):
                result[base[0]] = {key: paired(measured[base], rows, key) for key in MEASURED}
        results.append(result)
    return results


def judge_loss(run: Path) -> float | None:
    """Mean loss of the discriminator over the second half of a run; 2 is what one that cannot tell has."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    found = [line["judge"] for line in lines[len(lines) // 2 :] if "judge" in line]
    return statistics.fmean(found) if found else None


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="photographs, as `inpaint train` takes them")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--lpips-weights", type=Path, help="weight file of LPIPS")
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES))
    parser.add_argument("--init", default="default", help="weights to begin from: a name or a file")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--photographs", type=int, default=held_out.COUNT, help="held-out photographs to measure on")
    parser.add_argument(
        "--last", nargs="+", choices=CHOICES, default=[], help="measure the last weights beside their running average"
    )
    parser.add_argument("--bfloat16", action="store_true", help="train in bfloat16, where the CPU multiplies it")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--json", type=Path, help="results, instead of a file in --out")
    return parser.parse_args()


if __name__ == "__main__":
    main()
