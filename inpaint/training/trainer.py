"""The training loop: both networks, adversarially, resumable at any step, on the CPU or a GPU."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from inpaint.errors import InpaintError
from inpaint.image import to_pil
from inpaint.networks import Image2Feature
from inpaint.networks.layout import on_device
from inpaint.networks.vgg import load_vgg19
from inpaint.tensor_file import read_tensors, under, write_tensors
from inpaint.training.config import STAGES, Stage, TrainingConfig, from_dict
from inpaint.training.data import Batch, Photographs, batches
from inpaint.training.objectives import Objective, build_objective
from inpaint.weights import FOLDER, VGG_FILE, sha256

CHECKPOINT = "checkpoint.safetensors"
DEFAULT_VGG = FOLDER / VGG_FILE
_MOST_BAD_STEPS = 20  # consecutive steps with a loss that is not finite before the run is given up


class Trainer:
    """State of one run: networks, their optimisers, the running average of the generator, and the step."""

    def __init__(
        self,
        stage: Stage,
        config: TrainingConfig,
        vgg: Path,
        device: torch.device,
        painter: Image2Feature | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.stage, self.config, self.device = stage, config, device
        self.vgg = on_device(load_vgg19(vgg, _deepest(config)), device)
        self.vgg_sha256 = sha256(vgg)
        if painter is not None:
            painter = on_device(painter, device).eval().requires_grad_(False)
        self.objective: Objective = build_objective(stage, config, self.vgg, painter)
        for network in (self.objective.generator, self.objective.discriminator):
            on_device(network, device)
        self.averaged: dict[str, Tensor] = {
            name: value.detach().clone() for name, value in self.objective.generator.state_dict().items()
        }
        betas = (config.beta1, 0.999)
        self.optimisers = {
            "generator": torch.optim.Adam(self.objective.generator.parameters(), betas=betas),
            "discriminator": torch.optim.Adam(self.objective.discriminator.parameters(), betas=betas),
        }
        self.step = 0
        self._bad_steps = {"generator": 0, "discriminator": 0}

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One update of the generator and, once it is heard, of the discriminator; the losses by name."""
        config = self.config
        batch = Batch(batch.image.to(self.device), batch.hole.to(self.device), batch.step)
        adversarial = config.adversarial > 0 and self.step >= config.adversarial_start
        for name, rate in (
            ("generator", config.learning_rate),
            ("discriminator", config.learning_rate_discriminator),
        ):
            for group in self.optimisers[name].param_groups:
                group["lr"] = rate * self._schedule()

        self.objective.discriminator.requires_grad_(False)
        with self._autocast():
            painted = self.objective.paint(batch)
            losses = self.objective.generator_losses(batch, painted, adversarial=adversarial)
        self._update("generator", sum(losses.values(), torch.zeros((), device=self.device)))
        if adversarial:
            self.objective.discriminator.requires_grad_(True)
            with self._autocast():
                losses["judge"] = self.objective.discriminator_loss(batch, painted.detach())
            self._update("discriminator", losses["judge"])

        self.step += 1
        decay = min(config.average, (1 + self.step) / (10 + self.step))
        for name, value in self.objective.generator.state_dict().items():
            self.averaged[name].lerp_(value, 1 - decay)
        return {name: float(value.detach()) for name, value in losses.items()}

    @contextmanager
    def averaged_weights(self) -> Iterator[nn.Module]:
        """The generator with the running average of its weights, in evaluation mode, without gradients."""
        generator = self.objective.generator
        current = {name: value.clone() for name, value in generator.state_dict().items()}
        generator.load_state_dict(self.averaged)
        try:
            with torch.no_grad(), self._autocast():
                yield generator.eval()
        finally:
            generator.load_state_dict(current)
            generator.train()

    def save(self, path: Path) -> None:
        """Writes everything needed to go on, as one safetensors file, under a temporary name first."""
        tensors = {f"averaged.{name}": value for name, value in self.averaged.items()}
        for role in ("generator", "discriminator"):
            network: nn.Module = getattr(self.objective, role)
            tensors.update({f"{role}.{name}": value for name, value in network.state_dict().items()})
            for index, slots in self.optimisers[role].state_dict()["state"].items():
                tensors.update({f"adam.{role}.{index}.{slot}": value for slot, value in slots.items()})
        metadata = {
            "stage": self.stage,
            "step": str(self.step),
            "config": json.dumps(dataclasses.asdict(self.config)),
            "vgg_sha256": self.vgg_sha256,
        }
        write_tensors(path, tensors, metadata)

    def load(self, path: Path) -> None:
        """Goes on from a checkpoint of the same stage and network sizes."""
        tensors, metadata = read_checkpoint(path)
        if metadata["stage"] != self.stage:
            raise InpaintError(f"{path}: expected a checkpoint of {self.stage}, got one of {metadata['stage']}")
        try:
            for role in ("generator", "discriminator"):
                getattr(self.objective, role).load_state_dict(under(tensors, f"{role}."))
                state: dict[int, dict[str, Tensor]] = {}
                for name, value in under(tensors, f"adam.{role}.").items():
                    index, slot = name.split(".")
                    state.setdefault(int(index), {})[slot] = value
                groups = self.optimisers[role].state_dict()["param_groups"]
                self.optimisers[role].load_state_dict({"state": state, "param_groups": groups})
        except RuntimeError as error:
            raise InpaintError(
                f"{path}: expected a checkpoint of the same network sizes, they differ; "
                "use the config it was trained with or start in another folder"
            ) from error
        self.averaged = {name: value.to(self.device) for name, value in under(tensors, "averaged.").items()}
        self.step = int(metadata["step"])

    def _update(self, role: str, loss: Tensor) -> None:
        optimiser = self.optimisers[role]
        optimiser.zero_grad(set_to_none=True)
        if not torch.isfinite(loss):
            self._bad_steps[role] += 1
            if self._bad_steps[role] > _MOST_BAD_STEPS:
                raise InpaintError(
                    f"step {self.step}: expected a finite loss, got {float(loss.detach())} more than {_MOST_BAD_STEPS} "
                    "times on end; "
                    "lower the learning rate and resume from the last checkpoint"
                )
            return
        self._bad_steps[role] = 0
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], 5.0)
        optimiser.step()

    def _schedule(self) -> float:
        warm = min(1.0, (self.step + 1) / max(1, self.config.warmup))
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self.config.steps)))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.bfloat16)


def train(
    stage: Stage,
    data: Path,
    out: Path,
    config: TrainingConfig,
    *,
    vgg: Path = DEFAULT_VGG,
    painter: Image2Feature | None = None,
    resume: Path | str = "auto",
    device: str = "auto",
    quiet: bool = False,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> Path:
    """Trains one network and returns the path of its last checkpoint.

    Args:
        stage: "image2feature" or "feature2image".
        data: folder tree of photographs.
        out: receives checkpoint.safetensors, config.json, log.jsonl and pictures/.
        config: see TrainingConfig.
        vgg: weights of VGG-19, as ``load_vgg19`` reads them; the package's own reaches up to relu3_1.
        painter: a trained Image2Feature; needed for ``config.predicted_share`` > 0.
        resume: "auto" goes on from ``out``'s checkpoint if there is one, "none" refuses to overwrite one, or a path.
        device: "auto", "cpu", "cuda", ...
        quiet: no progress bar.
        on_step: called with (step, losses) after each step.

    Raises:
        InpaintError: no photographs, a checkpoint that does not fit, a loss that stays infinite.
    """
    if stage not in STAGES:
        raise InpaintError(f"expected a stage out of {', '.join(STAGES)}, got {stage!r}; choose one of these")
    chosen = torch.device(
        "cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device
    )
    trainer = Trainer(stage, config, vgg, chosen, painter)
    validation = Photographs(data, config, validation=True)[0]
    checkpoint = out / CHECKPOINT
    if resume == "none" and checkpoint.exists():
        raise InpaintError(f"{checkpoint}: a run is already there; resume it or choose another folder")
    if resume not in ("auto", "none"):
        trainer.load(Path(resume))
    elif resume == "auto" and checkpoint.exists():
        trainer.load(checkpoint)
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    settings = out / "config.json.part"
    settings.write_text(json.dumps({"stage": stage, **dataclasses.asdict(config)}, indent=1) + "\n")
    os.replace(settings, out / "config.json")

    start = time.monotonic()
    first = trainer.step
    progress = tqdm(total=config.steps, initial=first, desc=stage, unit="step", disable=quiet, mininterval=2)
    with _stop_signal() as stopped, open(out / "log.jsonl", "a", encoding="utf-8") as log, progress:
        for batch in batches(data, config, trainer.step):
            losses = trainer.train_step(batch)
            progress.update()
            if on_step:
                on_step(trainer.step, losses)
            if trainer.step % config.log_every == 0:
                rate = (trainer.step - first) * config.batch / (time.monotonic() - start)
                entry = {"step": trainer.step, "images_per_second": round(rate, 3), **losses}
                log.write(json.dumps({key: round(value, 5) for key, value in entry.items()}) + "\n")
                log.flush()
                progress.set_postfix({name: f"{value:.3f}" for name, value in losses.items()})
            if trainer.step % config.picture_every == 0:
                draw_validation(trainer, validation, out / "pictures" / f"{trainer.step:07d}.jpg")
            if trainer.step % config.checkpoint_every == 0 or stopped():
                trainer.save(checkpoint)
            if stopped():
                break
    trainer.save(checkpoint)
    if trainer.step > first:
        draw_validation(trainer, validation, out / "pictures" / f"{trainer.step:07d}.jpg")
    return checkpoint


def _deepest(config: TrainingConfig) -> str:
    """The deepest VGG layer the run needs: patches are matched on relu3_1, losses may look deeper."""
    return max((*config.perceptual_layers, "relu3_1")).replace("relu", "conv")


def draw_validation(trainer: Trainer, batch: Batch, path: Path) -> None:
    """Writes the averaged generator's work on held-out photographs: a row each of input, painted and truth."""
    batch = Batch(batch.image.to(trainer.device), batch.hole.to(trainer.device), batch.step)
    with trainer.averaged_weights():
        rows = trainer.objective.pictures(batch)
    sheet = torch.cat([torch.cat(list(row.float().cpu()), dim=2) for row in rows], dim=1)
    temporary = path.with_suffix(".part.jpg")
    to_pil(sheet.clamp(0, 1)).save(temporary, quality=90)
    os.replace(temporary, path)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a checkpoint written by Trainer.save."""
    tensors, metadata = read_tensors(path)
    if not {"stage", "step", "config", "vgg_sha256"} <= metadata.keys():
        raise InpaintError(f"{path}: expected a training checkpoint, got another safetensors file; pass {CHECKPOINT}")
    return tensors, metadata


class Averaged(NamedTuple):
    """The averaged generator of a checkpoint, and how it was trained."""

    stage: Stage
    config: TrainingConfig
    step: int
    vgg_sha256: str
    weights: dict[str, Tensor]


def averaged_generator(path: Path) -> Averaged:
    """Reads what is exported from a checkpoint."""
    tensors, metadata = read_checkpoint(path)
    stage: Any = metadata["stage"]
    config = from_dict(json.loads(metadata["config"]))
    return Averaged(stage, config, int(metadata["step"]), metadata["vgg_sha256"], under(tensors, "averaged."))


@contextmanager
def _stop_signal() -> Iterator[Callable[[], bool]]:
    """Turns SIGTERM and SIGINT into a question the loop can ask, so that it saves before it ends."""
    received: list[int] = []
    try:
        previous = {
            number: signal.signal(number, lambda received_number, frame: received.append(received_number))
            for number in (signal.SIGTERM, signal.SIGINT)
        }
    except ValueError:  # not the main thread: the caller owns the signals
        previous = {}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
