"""Trains the rival Context Encoder (rivals/context_encoder.py) on a folder of photographs.

    python benchmarks/train_context_encoder.py --data photographs --out runs/context_encoder

The data are those of `inpaint train`: the same loader, crops, flips and held-out photographs, at 128x128; the hole is
always the centre. Stops after --steps updates or on Ctrl-C or SIGTERM, saving either way, and goes on from there.
Writes checkpoint.safetensors (networks, optimisers; about 0.9 GB), log.jsonl and pictures/ of held-out photographs.

The loop of `inpaint train` does not fit: it averages weights, which batch normalisation's counters forbid, and knows
PatchGAN judges only.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from rivals.context_encoder import (
    ADVERSARIAL,
    RECONSTRUCTION,
    SIDE,
    ContextEncoder,
    Judge,
    adversarial_losses,
    middle_of,
    reconstruction_loss,
    with_hole,
)
from torch import Tensor, nn

from inpaint.errors import InpaintError
from inpaint.networks.layout import on_device
from inpaint.tensor_file import read_tensors, under, write_tensors
from inpaint.training.checkpoint import CHECKPOINT
from inpaint.training.config import TrainingConfig
from inpaint.training.data import Photographs, batches
from inpaint.training.journal import Journal
from inpaint.training.stop import stop_signal

ROLES = ("generator", "judge")


class Training:
    """Networks, optimisers, the step, and the processor seconds spent so far."""

    def __init__(self, generator: ContextEncoder, judge: Judge, config: TrainingConfig) -> None:
        self.config = config
        self.networks: dict[str, nn.Module] = {
            "generator": on_device(generator, "cpu"),
            "judge": on_device(judge, "cpu"),
        }
        self.rates = {"generator": config.learning_rate, "judge": config.learning_rate_discriminator}
        self.optimisers = {
            role: torch.optim.Adam(network.parameters(), betas=(config.beta1, 0.999), fused=True)
            for role, network in self.networks.items()
        }
        self.step = 0
        self.seconds = 0.0

    def train_step(self, image: Tensor) -> dict[str, float]:
        """One update of each network on (B, 3, S, S) in [0, 1]; the losses by name."""
        generator, judge = self.networks["generator"], self.networks["judge"]
        picture = (image * 2 - 1).contiguous(memory_format=torch.channels_last)
        truth = middle_of(picture)
        decay = 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self.config.steps)))
        for role, optimiser in self.optimisers.items():
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = self.rates[role] * decay
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bfloat16):
            painted = generator(with_hole(picture))
            judged, fooled = adversarial_losses(judge(truth), judge(painted))
            reconstruction = reconstruction_loss(painted, truth)
        judged.backward(inputs=list(judge.parameters()), retain_graph=True)
        total = RECONSTRUCTION * reconstruction + ADVERSARIAL * fooled
        total.backward(inputs=list(generator.parameters()))
        for optimiser in self.optimisers.values():
            optimiser.step()
        self.step += 1
        losses = {"reconstruction": reconstruction.item(), "fooled": fooled.item(), "judged": judged.item()}
        if not all(map(math.isfinite, losses.values())):
            raise InpaintError(f"step {self.step}: expected finite losses, got {losses}; lower --rate and start again")
        return losses

    @torch.no_grad()
    def pictures(self, image: Tensor) -> list[Tensor]:
        """Input, completion and truth of held-out photographs, rows of (B, 3, S, S) in [0, 1]."""
        seen = with_hole(image * 2 - 1)
        generator = self.networks["generator"].eval()
        filled = image.clone()
        middle_of(filled).copy_(generator(seen) / 2 + 0.5)
        generator.train()
        return [seen / 2 + 0.5, filled, image]

    def save(self, path: Path) -> None:
        """Everything needed to go on, as one safetensors file."""
        tensors = {}
        for role, network in self.networks.items():
            tensors.update({f"{role}.{name}": value for name, value in network.state_dict().items()})
            for index, slots in self.optimisers[role].state_dict()["state"].items():
                tensors.update({f"adam.{role}.{index}.{slot}": value for slot, value in slots.items()})
        write_tensors(path, tensors, {"step": str(self.step), "seconds": str(self.seconds)})

    def load(self, path: Path) -> None:
        """Goes on from a checkpoint."""
        tensors, metadata = read_tensors(path)
        for role, network in self.networks.items():
            network.load_state_dict(under(tensors, f"{role}."))
            parameters = list(network.parameters())
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in under(tensors, f"adam.{role}.").items():
                number, slot = name.split(".")
                index = int(number)
                if value.dim():  # the fused Adam goes through memory and needs the layout of the parameter
                    value = torch.empty_like(parameters[index]).copy_(value)
                state.setdefault(index, {})[slot] = value
            groups = self.optimisers[role].state_dict()["param_groups"]
            self.optimisers[role].load_state_dict({"state": state, "param_groups": groups})
        self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])


def train(training: Training, data: Path, out: Path, *, save_every: float, quiet: bool = False) -> Path:
    """Trains until ``config.steps`` or a signal; returns the checkpoint's path. ``save_every``: seconds."""
    config = training.config
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / CHECKPOINT
    if checkpoint.exists():
        training.load(checkpoint)
    held_out = Photographs(data, config, validation=True)[0].image[:8]
    photographs = Photographs(data, config)
    saved, spent = time.monotonic(), time.process_time()
    with (
        stop_signal() as stopped,
        Journal(out, "context encoder", training.step, config.steps, config.batch, quiet=quiet) as journal,
    ):
        for batch in batches(photographs, training.step):
            losses = training.train_step(batch.image)
            training.seconds += time.process_time() - spent
            spent = time.process_time()
            journal.step(losses)
            if training.step % config.log_every == 0:
                journal.numbers(training.step, {"processor_seconds": training.seconds, **losses})
            if stopped():
                break
            if time.monotonic() - saved > save_every:
                training.save(checkpoint)
                journal.pictures(training.step, training.pictures(held_out))
                saved = time.monotonic()
        training.save(checkpoint)
        journal.pictures(training.step, training.pictures(held_out))
    return checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="photographs, as for inpaint train")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, default=2_000, help="updates in all; the rate falls to zero over them")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3, help="Adam's, for the generator; the judge's is a tenth")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--float32", action="store_true", help="no bfloat16")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = TrainingConfig(
        image_size=SIDE,
        batch=arguments.batch,
        steps=arguments.steps,
        learning_rate=arguments.rate,
        learning_rate_discriminator=arguments.rate / 10,
        beta1=0.5,
        bfloat16=not arguments.float32,
        log_every=10,
    )
    try:
        training = Training(ContextEncoder(), Judge(), config)
        path = train(training, arguments.data, arguments.out, save_every=300)
    except InpaintError as error:
        sys.exit(f"error: {error}")
    print(json.dumps({"checkpoint": str(path), "steps": training.step, "processor_seconds": round(training.seconds)}))


if __name__ == "__main__":
    main()
