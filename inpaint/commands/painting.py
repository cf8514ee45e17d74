"""What the commands that paint into a photograph share, from the options to the report."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from inpaint.commands.common import DEVICE, FILE, Progress, in_order
from inpaint.errors import InpaintError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inpaint.inpainter import Inpainter

output_option = click.option(
    "-o",
    "--output",
    type=FILE,
    required=True,
    help="Result: .png, .jpg, .webp, .tif, .avif, .jp2, .heic, .bmp or .gif.",
)


def painting_options(photograph: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """With ``output_option``, the fields of ``Painting``; the photograph is the argument of that name."""
    options = [
        click.option("--weights", default="default", show_default=True, help="Name of a set of weights, or a file."),
        click.option("--device", type=DEVICE, default="auto", show_default=True, help="Where to compute."),
        click.option(
            "--precision",
            type=click.Choice(["auto", "float32", "bfloat16"]),
            default="auto",
            show_default=True,
            help="What the networks multiply in; auto: bfloat16 on CPUs with AMX.",
        ),
        click.option(
            "--max-megapixels", type=click.FloatRange(min=0), default=100, show_default=True, help="Largest input."
        ),
        click.option("--overwrite", is_flag=True, help=f"Allow OUTPUT to be {photograph} itself."),
        click.option("--quiet", is_flag=True, help="Say nothing but errors."),
        click.option("--json", "as_json", is_flag=True, help="Print sizes, times and more as one JSON object."),
    ]
    return in_order(options)


@dataclass
class Painting:
    """One run of such a command: its shared options, its progress, and the steps that are the same in all of them."""

    output: Path
    weights: str
    device: str
    precision: str
    max_megapixels: float
    overwrite: bool
    quiet: bool
    as_json: bool
    progress: Progress = field(init=False)
    start: float = field(init=False, default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.progress = Progress(self.quiet)

    def refuse_overwriting(self, photograph: Path, other: Path, called: str) -> None:
        """InpaintError where the output is the photograph, unless that is allowed, or the ``other`` input."""

        def is_output(path: Path) -> bool:
            return path.exists() and self.output.exists() and self.output.samefile(path)

        if is_output(other):
            raise InpaintError(f"{self.output} is the {called} itself; choose another name for the output")
        if is_output(photograph) and not self.overwrite:
            raise InpaintError(
                f"{self.output} is the input photograph itself; choose another name, or allow it with --overwrite"
            )

    def load(self, size: tuple[int, int], max_memory: float | None = None) -> Inpainter:
        """The networks; ``max_memory`` in bytes, as for ``inpaint.load``."""
        import inpaint

        with self.progress.stage("load", size):
            return inpaint.load(self.weights, device=self.device, precision=self.precision, max_memory=max_memory)

    def finish(self, report: dict[str, Any]) -> None:
        """Says that all is done, and prints the report where it was asked for."""
        seconds = time.perf_counter() - self.start
        self.progress.say(f"{self.output}: done in {seconds:.2f} s")
        if self.as_json:
            click.echo(json.dumps({**report, "stages": self.progress.stages, "seconds": seconds}))
