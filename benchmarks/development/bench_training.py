"""Throughput of training: crops per second and peak memory of each stage, and where the time of a step goes.

    python benchmarks/development/bench_training.py --data photographs --out results.json

Real steps of the real trainer are watched: a stopwatch changes hands whenever a network, the patch-swap, the loader or
the optimiser begins to work, forwards and, by hooks on the gradients, backwards. So the shares add up to the whole
step; a part's losses count as the part. Prints a table and writes everything as JSON.

Without --data, noise is trained on, which takes as long to compute but not as long to decode.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import machine
import numpy as np
import torch
from measure import peak_memory, reset_peak
from PIL import Image
from torch import Tensor, nn

import patchswap
from inpaint.networks.registry import ROLES, Role
from inpaint.training import distributed
from inpaint.training.config import TrainingConfig, load_config
from inpaint.training.data import Batch, Photographs, batches
from inpaint.training.trainer import DEFAULT_VGG, Trainer

PARTS = ("data", "vgg", "swap", "generator", "discriminator", "optimiser", "rest")


class Stopwatch:
    """Gives every moment to exactly one part: the one that was named last."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._part, self._since = "rest", time.perf_counter()

    def turn(self, part: str) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.seconds[self._part] += now - self._since
        self._part, self._since = part, now

    def around(self, part: str, function: Callable[..., Any], then: str = "rest") -> Callable[..., Any]:
        """``function`` as a part, and what follows it as another."""

        def run(*arguments: Any, **options: Any) -> Any:
            self.turn(part)
            result = function(*arguments, **options)
            self.turn(then)
            return result

        return run

    def watch(self, part: str, network: nn.Module) -> None:
        """The network's forward pass, and its backward pass from the moment its result has its gradient."""

        def after(_: nn.Module, inputs: Any, result: Tensor | dict[str, Tensor]) -> None:
            for tensor in result.values() if isinstance(result, dict) else (result,):
                if tensor.requires_grad:
                    tensor.register_hook(lambda gradient: self.turn(part))
            self.turn("rest")

        network.register_forward_pre_hook(lambda _, inputs: self.turn(part))
        network.register_forward_hook(after)


def main() -> None:
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows = []
    with photographs(arguments.data) as data:
        for stage in arguments.stages:
            changes = {"batch": arguments.batch, "workers": arguments.workers}
            # The discriminator is heard from the first step on, as it is for most of a run.
            config = dataclasses.replace(load_config(arguments.config, stage, **changes), adversarial_start=0)
            rows.append(measure(stage, config, data, arguments))
            print(as_text(rows[-1]), flush=True)
    if arguments.out:
        command = machine.command_line("benchmarks/development/bench_training.py")
        content = {"machine": machine.describe(arguments.device, command), "results": rows}
        temporary = arguments.out.with_name(arguments.out.name + ".part")
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.replace(arguments.out)


def measure(stage: Role, config: TrainingConfig, data: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Whole steps without the watch for the throughput, then watched ones for the shares."""
    device = torch.device(arguments.device)
    before = reset_peak(arguments.device)
    trainer = Trainer(stage, config, DEFAULT_VGG, device)
    config = dataclasses.replace(config, steps=10**9)
    loader = batches(Photographs(data, config), pin_memory=device.type == "cuda")
    for _ in range(arguments.warmup):
        trainer.train_step(next(loader))
    times = [step_time(trainer, loader, device) for _ in range(arguments.steps)]
    memory = peak_memory(arguments.device) - before
    seconds = watched_steps(trainer, loader, arguments.steps)
    step = statistics.median(times)
    total = sum(seconds.values())
    return {
        "stage": stage,
        "config": arguments.config,
        "image_size": config.image_size,
        "batch": config.batch,
        "workers": config.workers,
        "bfloat16": config.bfloat16,
        "steps": arguments.steps,
        "images_per_second": round(config.batch / step, 3),
        "median_ms": round(1e3 * step, 2),
        "fastest_ms": round(1e3 * min(times), 2),
        "slowest_ms": round(1e3 * max(times), 2),
        "watched_mean_ms": round(1e3 * total / arguments.steps, 2),
        "peak_memory_mib": round(memory / 2**20, 1),
        "share": {part: round(seconds[part] / total, 4) for part in PARTS},
    }


def step_time(trainer: Trainer, loader: Iterator[Batch], device: torch.device) -> float:
    """Seconds of one step, the wait for its data included. It ends with the losses on the host."""
    start = time.perf_counter()
    trainer.train_step(next(loader))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def watched_steps(trainer: Trainer, loader: Iterator[Batch], steps: int) -> dict[str, float]:
    """Seconds of each part over ``steps`` steps."""
    watch = Stopwatch(trainer.device)
    watch.watch("vgg", trainer.vgg)
    for player, network in trainer.networks.items():
        watch.watch(player, network)
    load = watch.around("data", lambda: next(loader))
    with (
        mock.patch.object(patchswap, "swap", watch.around("swap", patchswap.swap)),
        # Once the losses are known, all that is left of a step is to change weights.
        mock.patch.object(distributed, "mean", watch.around("rest", distributed.mean, then="optimiser")),
    ):
        trainer.train_step(load())  # the first one with hooks
        watch.turn("rest")
        watch.seconds = dict.fromkeys(PARTS, 0.0)
        for _ in range(steps):
            trainer.train_step(load())
        watch.turn("rest")
    return watch.seconds


@contextmanager
def photographs(folder: Path | None) -> Iterator[Path]:
    """``folder``, or one with noise for the time of the measurement."""
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        generator = np.random.default_rng(0)
        for number in range(20):
            low = Image.fromarray(generator.integers(0, 255, (48, 64, 3), dtype=np.uint8))
            low.resize((768, 576), Image.Resampling.BICUBIC).save(Path(temporary) / f"{number}.jpg", quality=90)
        yield Path(temporary)


def as_text(row: dict[str, Any]) -> str:
    """One stage as a table of Markdown."""
    head = f"{row['stage']}, {row['batch']} x {row['image_size']} px: {row['images_per_second']} images/s, "
    head += f"{row['median_ms']} ms a step, {row['peak_memory_mib']} MiB"
    names, shares = " | ".join(PARTS), " | ".join(f"{100 * row['share'][part]:.1f} %" for part in PARTS)
    return f"\n{head}\n\n| {names} |\n|{'---|' * len(PARTS)}\n| {shares} |"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of photographs (default: noise)")
    parser.add_argument("--config", default="compact", help="compact, paper-256, paper-512 or a file")
    parser.add_argument("--stages", nargs="+", choices=ROLES, default=ROLES)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, help="instead of the config's")
    parser.add_argument("--workers", type=int, help="instead of the config's")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--warmup", type=int, default=3, help="steps that are not counted")
    parser.add_argument("--steps", type=int, default=20, help="steps that are counted, and as many with the stopwatch")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
