"""What the commands that paint into a photograph share, from the options to the report."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from inpaint.commands.common import DEVICE, Number, Progress, in_order, option

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inpaint.inpainter import Inpainter

OUTPUT, WORK = "Output", "How the work is done"


def max_megapixels_option(
    heading: str, *, default: float = 100, what: str = "input"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``what``: it is the limit of, in the help."""
    return option(
        "--max-megapixels",
        type=Number(min=0, min_open=True),
        metavar="N",
        default=default,
        show_default=True,
        help=f"Largest {what}.",
        heading=heading,
    )


WEIGHTS = option(
    "--weights", default="default", show_default=True, help="Name of a set of weights, or a file.", heading=WORK
)
PRECISION = option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="What the networks multiply in; auto: bfloat16 on CPUs with AMX.",
    heading=WORK,
)
THREADS = option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Threads of the CPU. [as many as affinity and quota allow]",
    heading=WORK,
)


def painting_options(photograph: str | None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The fields of ``Painting``; the photograph is the argument of that name. None: it is never overwritten."""
    overwrite = option("--overwrite", is_flag=True, help=f"Allow the output to be {photograph} itself.", heading=OUTPUT)
    options = [
        *([overwrite] if photograph else []),
        option("--quiet", is_flag=True, help="Say nothing but errors.", heading=OUTPUT),
        option("--json", "as_json", is_flag=True, help="Print what was done as a JSON object.", heading=OUTPUT),
        WEIGHTS,
        option("--device", type=DEVICE, default="auto", show_default=True, help="Where to compute.", heading=WORK),
        PRECISION,
        THREADS,
        max_megapixels_option(WORK),
    ]
    return in_order(options)


@dataclass
class Painting:
    """One run of such a command: its shared options, its progress, and the steps that are the same in all of them."""

    weights: str
    device: str
    precision: str
    threads: int | None
    max_megapixels: float
    quiet: bool
    as_json: bool
    overwrite: bool = False
    progress: Progress = field(init=False)
    start: float = field(init=False, default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.progress = Progress(self.quiet)

    def load(self, size: tuple[int, int], max_memory: float | None = None) -> Inpainter:
        """The networks, loaded as a stage; ``max_memory`` in bytes, as for ``inpaint.load``."""
        with self.progress.stage("load", size):
            return self.networks(max_memory)

    def networks(self, max_memory: float | None = None) -> Inpainter:
        import inpaint
        from inpaint.threads import set_threads

        set_threads(self.threads)
        return inpaint.load(self.weights, device=self.device, precision=self.precision, max_memory=max_memory)

    def finish(self, output: Path, report: dict[str, Any]) -> None:
        """Says that all is done, prints the report where it was asked for, and starts anew."""
        seconds = time.perf_counter() - self.start
        self.progress.say(f"{output}: done in {seconds:.2f} s")
        if self.as_json:
            click.echo(json.dumps({**report, "stages": self.progress.stages, "seconds": seconds}))
        self.start, self.progress.stages = time.perf_counter(), []
