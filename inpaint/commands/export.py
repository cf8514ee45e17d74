"""``inpaint train export``: joins the trained networks into one file of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from inpaint.commands.common import FILE, extra, read_text
from inpaint.errors import InpaintError

if TYPE_CHECKING:
    from pathlib import Path

    from inpaint.networks.registry import Role


@click.command()
@click.option("--image2feature", type=FILE, required=True, help="Its checkpoint.")
@click.option("--feature2image", type=FILE, required=True, help="Its checkpoint.")
@click.option("-o", "--output", type=FILE, required=True, help="The file of weights, .safetensors.")
@click.option("--vgg", type=FILE, help="VGG-19 the networks were trained with. [the package's own]")
@click.option("--notes", type=FILE, help="Text for the model card in the file: data, licences, measurements.")
def export(image2feature: Path, feature2image: Path, output: Path, vgg: Path | None, notes: Path | None) -> None:
    """Join the checkpoints of both networks into one file for `inpaint fill --weights`.

    \b
    Example:
      inpaint train export --image2feature runs/i2f/checkpoint.safetensors \\
          --feature2image runs/f2i/checkpoint.safetensors -o mine.safetensors --notes card.md
    """
    from inpaint.photo import check_folder

    if output.suffix != ".safetensors":
        raise InpaintError(f"cannot write {output}: expected a name ending in .safetensors")
    check_folder(output.absolute().parent)
    text = read_text(notes) if notes is not None else ""

    with extra("train"):
        from inpaint.training import trainer
        from inpaint.training.export import export as write_weights

    checkpoints: dict[Role, Path] = {"image2feature": image2feature, "feature2image": feature2image}
    click.echo(write_weights(checkpoints, output, vgg=vgg or trainer.DEFAULT_VGG, notes=text), nl=False)
