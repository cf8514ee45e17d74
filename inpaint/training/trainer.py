"""The training loop: both networks, adversarially, resumable at any step, on the CPU, a GPU or many."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from inpaint import weights
from inpaint.errors import InpaintError
from inpaint.networks.layout import move
from inpaint.networks.registry import ROLES, Role
from inpaint.networks.vgg import load_vgg19
from inpaint.photo import write_file
from inpaint.tensor_file import under, write_tensors
from inpaint.training import distributed
from inpaint.training.checkpoint import CHECKPOINT, read_checkpoint
from inpaint.training.config import TrainingConfig
from inpaint.training.data import Batch, Photographs, batches
from inpaint.training.journal import Journal
from inpaint.training.objectives import Objective, build_objective
from inpaint.training.sources import find_photographs
from inpaint.training.stop import stop_signal

Player = Literal["generator", "discriminator"]
PLAYERS: tuple[Player, ...] = ("generator", "discriminator")
DEFAULT_VGG = weights.FOLDER / weights.VGG_FILE
_MOST_BAD_STEPS = 20  # consecutive steps with a loss that is not finite before the run is given up


class Trainer:
    """State of one run: networks, their optimisers, the running average of the generator, and the step."""

    def __init__(self, stage: Role, config: TrainingConfig, vgg: Path, device: torch.device) -> None:
        _check_parts(config)
        torch.manual_seed(config.seed)
        self.stage, self.config, self.device = stage, config, device
        self.vgg = move(load_vgg19(vgg, _deepest(config)), device)
        self.vgg_sha256 = weights.sha256(vgg)
        self.objective: Objective = build_objective(stage, config, self.vgg)
        self.networks: dict[Player, nn.Module] = {player: getattr(self.objective, player) for player in PLAYERS}
        for network in self.networks.values():
            move(network, device)
        self.averaged = self._current()
        self.optimisers = {
            player: torch.optim.Adam(network.parameters(), betas=(config.beta1, 0.999))
            for player, network in self.networks.items()
        }
        if config.compile:  # not VGG-19: torch 2.13 compiles the gradient of its padding with wrong strides
            for network in self.networks.values():
                network.compile()
        self._losses: dict[Player, distributed.Loss] = {
            "generator": distributed.Loss(self.networks["generator"], self._generator_losses),
            "discriminator": distributed.Loss(self.networks["discriminator"], self._discriminator_losses),
        }
        self.step = 0
        self._bad_steps = dict.fromkeys(PLAYERS, 0)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One update of the generator and, once it is heard, of the discriminator; the losses by name.

        ``batch`` is this process's part; the update is that of the whole batch, however it is divided.
        """
        config = self.config
        batch = batch.to(self.device)
        adversarial = config.adversarial > 0 and self.step >= config.adversarial_start
        rates = {"generator": config.learning_rate, "discriminator": config.learning_rate_discriminator}
        for player, optimiser in self.optimisers.items():
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = rates[player] * self._schedule()

        totals = self._totals(batch)
        parts = batch.split(config.accumulate)
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            self.networks["discriminator"].requires_grad_(False)
            losses, painted = self._backward("generator", last, part, totals, adversarial)
            if adversarial:
                self.networks["discriminator"].requires_grad_(True)
                losses |= self._backward("discriminator", last, part, painted)[0]
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0) + loss.detach() / len(parts)
        found = distributed.mean(torch.stack(list(sums.values()))).tolist()
        values = dict(zip(sums, found, strict=True))
        self._update("generator", sum(value for name, value in values.items() if name != "judge"))
        if adversarial:
            self._update("discriminator", values["judge"])

        self.step += 1
        self._average()
        return values

    def _totals(self, batch: Batch) -> dict[str, Tensor]:
        """Sums of the losses' weights, the mean of all parts that the step's batch is divided into."""
        per_term = self.objective.weights(batch)
        sums = distributed.mean(torch.stack([weight.sum() for weight in per_term.values()]))
        return dict(zip(per_term, sums / self.config.accumulate, strict=True))

    def _generator_losses(
        self, batch: Batch, totals: dict[str, Tensor], adversarial: bool
    ) -> tuple[dict[str, Tensor], Tensor]:
        painted = self.objective.paint(batch)
        losses = self.objective.generator_losses(batch, painted, totals, adversarial=adversarial)
        return losses, painted.detach()

    def _discriminator_losses(self, batch: Batch, painted: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        return {"judge": self.objective.discriminator_loss(batch, painted)}, painted

    def _backward(self, player: Player, last: bool, *arguments: Any) -> tuple[dict[str, Tensor], Tensor]:
        """Adds the gradients of one part's losses; with the last part they become the mean over the processes."""
        loss = self._losses[player]
        with nullcontext() if last else loss.alone():
            with self._autocast():
                losses, painted = loss(*arguments)
            total = sum(losses.values(), torch.zeros((), device=self.device))
            (total / self.config.accumulate).backward()
        return losses, painted

    def _update(self, player: Player, loss: float) -> None:
        norm = nn.utils.clip_grad_norm_(self.networks[player].parameters(), 5.0)
        if math.isfinite(loss) and torch.isfinite(norm):
            self._bad_steps[player] = 0
            self.optimisers[player].step()
            return
        self._bad_steps[player] += 1
        if self._bad_steps[player] > _MOST_BAD_STEPS:
            raise InpaintError(
                f"step {self.step}: expected a finite loss, got {loss} with a gradient of {float(norm)} more than "
                f"{_MOST_BAD_STEPS} times on end; lower the learning rate and resume from the last checkpoint"
            )

    def _average(self) -> None:
        decay = min(self.config.average, (1 + self.step) / (10 + self.step))
        current = self.networks["generator"].state_dict()
        torch._foreach_lerp_([self.averaged[name] for name in current], list(current.values()), 1 - decay)

    @contextmanager
    def averaged_weights(self) -> Iterator[nn.Module]:
        """The generator with the running average of its weights, in evaluation mode, without gradients."""
        generator = self.networks["generator"]
        current = self._current()
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
        for player, network in self.networks.items():
            tensors.update({f"{player}.{name}": value for name, value in network.state_dict().items()})
            for index, slots in self.optimisers[player].state_dict()["state"].items():
                tensors.update({f"adam.{player}.{index}.{slot}": value for slot, value in slots.items()})
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
            for player, network in self.networks.items():
                network.load_state_dict(under(tensors, f"{player}."))
                state: dict[int, dict[str, Tensor]] = {}
                for name, value in under(tensors, f"adam.{player}.").items():
                    index, slot = name.split(".")
                    state.setdefault(int(index), {})[slot] = value
                groups = self.optimisers[player].state_dict()["param_groups"]
                self.optimisers[player].load_state_dict({"state": state, "param_groups": groups})
        except RuntimeError as error:
            raise InpaintError(
                f"{path}: expected a checkpoint of the same network sizes, they differ; "
                "use the config it was trained with or start in another folder"
            ) from error
        self.averaged = {name: value.to(self.device) for name, value in under(tensors, "averaged.").items()}
        self.step = int(metadata["step"])

    def begin_from(self, networks: weights.Networks) -> None:
        """Takes over the generator of exported weights; the discriminator and the optimisers begin anew."""
        trained = getattr(networks, self.stage)
        try:
            self.networks["generator"].load_state_dict(trained.state_dict())
        except RuntimeError as error:
            raise InpaintError(
                f"{self.config.init}: expected weights of the network in the config, got {trained.config}; "
                "set its architecture and sizes in the config"
            ) from error
        self.averaged = self._current()

    def _current(self) -> dict[str, Tensor]:
        """A copy of the generator's weights."""
        return {name: value.detach().clone() for name, value in self.networks["generator"].state_dict().items()}

    def _schedule(self) -> float:
        warm = min(1.0, (self.step + 1) / max(1, self.config.warmup))
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self.config.steps)))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.bfloat16)


def train(
    stage: Role,
    data: Path | str,
    out: Path,
    config: TrainingConfig,
    *,
    vgg: Path = DEFAULT_VGG,
    resume: Path | str = "auto",
    device: str = "auto",
    quiet: bool = False,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> Path:
    """Trains one network and returns the path of its last checkpoint.

    Called by every process that torchrun has started, it trains on all of them; the first one writes the files.

    Args:
        stage: "image2feature" or "feature2image".
        data: folder tree of photographs or of tar shards, or shards, as ``find_photographs`` takes it.
        out: receives checkpoint.safetensors, config.json, log.jsonl, pictures/ and tensorboard/. All processes read a
            checkpoint from it, so that machines of one run must share it.
        config: see TrainingConfig.
        vgg: weights of VGG-19, as ``load_vgg19`` reads them; the package's own reaches up to relu3_1.
        resume: "auto" goes on from ``out``'s checkpoint if there is one, "none" refuses to overwrite one, or a path.
        device: as ``choose_device`` takes it; "cuda" is a GPU of its own for each process of a machine.
        quiet: no progress bar.
        on_step: called with (step, losses) after each step.

    Raises:
        InpaintError: no such device, no photographs, a checkpoint or ``config.init`` that does not fit, or a loss that
            stays infinite.
    """
    if stage not in ROLES:
        raise InpaintError(f"expected a stage out of {', '.join(ROLES)}, got {stage!r}; choose one of these")
    chosen = distributed.own_device(device)
    photographs = find_photographs(data)

    def work() -> None:
        trainer = Trainer(stage, config, vgg, chosen)
        if not _resume(trainer, out, resume) and config.init:
            trainer.begin_from(weights.load(config.init, vgg))
        share = (distributed.rank(), distributed.world())
        training = Photographs(photographs, config, share=share)
        if distributed.rank() > 0:
            _run(trainer, training, on_step)
        else:
            validation = Photographs(photographs, config, validation=True)[0]
            _write_config(out, stage, config)
            with Journal(out, stage, trainer.step, config.steps, config.batch, quiet=quiet) as journal:
                _run(trainer, training, on_step, out / CHECKPOINT, journal, validation)

    with distributed.joined(chosen):
        work()  # the trainer, which refers to the other processes, is gone before they are left
        distributed.wait()  # no process leaves, and ends the run, before the checkpoint is written
    return out / CHECKPOINT


def _run(
    trainer: Trainer,
    photographs: Photographs,
    on_step: Callable[[int, dict[str, float]], None] | None,
    checkpoint: Path | None = None,
    journal: Journal | None = None,
    validation: Batch | None = None,
) -> None:
    """The loop; every process takes part in it, the one with a checkpoint, a journal and held-out pictures writes."""
    config = trainer.config
    start, first = time.monotonic(), trainer.step
    unreadable: set[str] = set()

    def draw() -> None:
        if journal and validation:
            with trainer.averaged_weights():
                rows = trainer.objective.pictures(validation.to(trainer.device))
            journal.pictures(trainer.step, rows)

    with stop_signal() as stopped:
        for batch in batches(photographs, trainer.step, pin_memory=trainer.device.type == "cuda"):
            losses = trainer.train_step(batch)
            unreadable.update(batch.unreadable)
            if on_step:
                on_step(trainer.step, losses)
            if journal:
                journal.step(losses)
            if trainer.step % config.log_every == 0:
                unreadable = distributed.union(unreadable)
                rate = (trainer.step - first) * config.batch / (time.monotonic() - start)
                if journal:
                    journal.numbers(trainer.step, {"images_per_second": rate, "unreadable": len(unreadable), **losses})
            if trainer.step % config.picture_every == 0:
                draw()
            stop = distributed.any_of(stopped(), trainer.device)
            if checkpoint and (stop or trainer.step % config.checkpoint_every == 0):
                trainer.save(checkpoint)
            if stop:
                break
    unreadable = distributed.union(unreadable)
    if checkpoint:
        trainer.save(checkpoint)
    if trainer.step > first:
        draw()
    if journal:
        journal.unreadable(unreadable)


def _resume(trainer: Trainer, out: Path, resume: Path | str) -> bool:
    """Whether there was a checkpoint to go on from."""
    checkpoint = out / CHECKPOINT
    if resume == "none" and checkpoint.exists():
        raise InpaintError(f"{checkpoint}: a run is already there; resume it or choose another folder")
    resumed = resume not in ("auto", "none") or (resume == "auto" and checkpoint.exists())
    if resumed:
        trainer.load(checkpoint if resume == "auto" else Path(resume))
    steps = distributed.union({str(trainer.step)})
    if len(steps) > 1:
        raise InpaintError(
            f"{checkpoint}: expected the same checkpoint in all processes, they are at the steps "
            f"{', '.join(sorted(steps))}; let --out be a folder that all machines share"
        )
    return resumed


def _write_config(out: Path, stage: Role, config: TrainingConfig) -> None:
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"stage": stage, **dataclasses.asdict(config)}, indent=1) + "\n"
    write_file(out / "config.json", text.encode())


def _check_parts(config: TrainingConfig) -> None:
    parts = distributed.world() * config.accumulate
    if config.accumulate < 1 or config.batch % parts:
        raise InpaintError(
            f"expected a batch that can be divided into {distributed.world()} processes x {config.accumulate} parts, "
            f"got {config.batch}; change batch or accumulate"
        )


def _deepest(config: TrainingConfig) -> str:
    """The deepest VGG layer the run needs: patches are matched on relu3_1, losses may look deeper."""
    return max((*config.perceptual_layers, "relu3_1")).replace("relu", "conv")
