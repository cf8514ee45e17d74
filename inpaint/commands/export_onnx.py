"""``inpaint export``: writes the networks for programs without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from inpaint.commands.common import FILE, extra

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["onnx"]),
    default="onnx",
    show_default=True,
    help="What the networks become.",
)
@click.option("-o", "--output", type=FILE, required=True, help="Folder for the models; it is made where it is missing.")
@click.option("--weights", default="default", show_default=True, help="Name of a set of weights, or a file.")
@click.option("--vgg", type=FILE, help="VGG-19 the networks were trained with. [the package's own]")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
def export(file_format: str, output: Path, weights: str, vgg: Path | None, quiet: bool) -> None:
    """Write Image2Feature, VGG-19 and Feature2Image as models for other programs.

    --output receives image2feature.onnx, vgg19_relu3_1.onnx and feature2image.onnx, with open batch, height and width.
    Their metadata names the weights and their SHA-256. examples/onnx_fill.py runs them without torch.

    Checkpoints of a training are joined by `inpaint train export`.

    \b
    Example:
      inpaint export --format onnx -o models
    """
    from inpaint import weights as weights_on_disk
    from inpaint.photo import check_folder

    with extra("onnx"):
        from inpaint import onnx_export
    networks = weights_on_disk.load(weights, vgg)
    output.mkdir(parents=True, exist_ok=True)
    check_folder(output)
    paths = onnx_export.export(networks, output, weights_on_disk.facts(weights, vgg))
    for path in () if quiet else paths:
        click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB", err=True)
