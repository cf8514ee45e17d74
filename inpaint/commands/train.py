"""``inpaint train``: trains the networks, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from inpaint.commands.common import DEVICE, FILE, extra, in_order
from inpaint.commands.export import export

if TYPE_CHECKING:
    from pathlib import Path

    from inpaint.networks.registry import Role


@click.group()
def train() -> None:
    """Train the two networks on photographs, then export them as one file of weights.

    \b
    Example:
      inpaint train image2feature --data photos --out runs/i2f
      inpaint train feature2image --data photos --out runs/f2i
      inpaint train export --image2feature runs/i2f/checkpoint.safetensors \\
          --feature2image runs/f2i/checkpoint.safetensors -o mine.safetensors
      inpaint fill photo.jpg mask.png -o filled.png --weights mine.safetensors

    \b
    On several GPUs, each working on its part of every batch:
      torchrun --nproc-per-node 4 -m inpaint train feature2image --data photos --out runs/f2i
    """


def _training_options(command: Any) -> Any:
    """What both stages of training accept."""
    options = [
        click.option(
            "--data", type=FILE, required=True, help="Folder of photographs or .tar shards, or 'train-{000..127}.tar'."
        ),
        click.option("--out", type=FILE, required=True, help="Folder for checkpoint, log and validation pictures."),
        click.option(
            "--config",
            default="compact",
            show_default=True,
            help="compact, paper-256, paper-512, or a .toml or .json file of settings.",
        ),
        click.option("--architecture", help="Of the network, a name in inpaint.networks.registry. [the config's]"),
        click.option("--init", help="Weights to begin from: default, or a file of `inpaint train export`. [untrained]"),
        click.option("--steps", type=click.IntRange(min=1), help="Instead of the config's."),
        click.option("--batch", type=click.IntRange(min=1), help="Crops an update, instead of the config's."),
        click.option("--workers", type=click.IntRange(min=0), help="Processes that load, instead of the config's."),
        click.option("--seed", type=int, help="Instead of the config's."),
        click.option(
            "--resume",
            default="auto",
            show_default=True,
            help="auto: go on from the checkpoint in --out if there is one; none: refuse if there is one; or a file.",
        ),
        click.option("--vgg", type=FILE, help="VGG-19 to train with, such as torchvision's. [the package's own]"),
        click.option("--device", type=DEVICE, default="auto", show_default=True, help="Where to compute."),
        click.option(
            "--threads", type=click.IntRange(min=1), help="Threads of the CPU. [as many as affinity and quota allow]"
        ),
        click.option("--quiet", is_flag=True, help="No progress bar."),
    ]
    return in_order(options)(command)


@train.command("image2feature")
@_training_options
def train_image2feature(**options: Any) -> None:
    """Train Image2Feature, which paints the coarse completion.

    \b
    Example:
      inpaint train image2feature --data photos --out runs/i2f --steps 20000
    """
    _train("image2feature", **options)


@train.command("feature2image")
@_training_options
def train_feature2image(**options: Any) -> None:
    """Train Feature2Image, which turns swapped features into the picture.

    \b
    Example:
      inpaint train feature2image --data photos --out runs/f2i --config paper-256 --device cuda
    """
    _train("feature2image", **options)


def _train(
    stage: Role,
    *,
    data: Path,
    out: Path,
    config: str,
    architecture: str | None,
    init: str | None,
    steps: int | None,
    batch: int | None,
    workers: int | None,
    seed: int | None,
    resume: str,
    vgg: Path | None,
    device: str,
    threads: int | None,
    quiet: bool,
) -> None:
    from inpaint.threads import set_threads
    from inpaint.training.config import load_config

    with extra("train"):
        from inpaint.training import distributed, trainer

    settings = load_config(
        config, stage, architecture=architecture, init=init, steps=steps, batch=batch, workers=workers, seed=seed
    )
    set_threads(threads)
    checkpoint = trainer.train(
        stage,
        data,
        out,
        settings,
        vgg=vgg or trainer.DEFAULT_VGG,
        resume=resume,
        device=device,
        quiet=quiet,
    )
    if distributed.rank() == 0:
        click.echo(str(checkpoint))


train.add_command(export)
