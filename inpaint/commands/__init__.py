"""The command ``inpaint``: one module a command, which imports torch and whatever is heavy when the command runs."""

from __future__ import annotations

import warnings

import click

from inpaint.commands import batch, compare, evaluate, export_onnx, fill, info, mask, stylize, train, web
from inpaint.commands.common import OneLineErrors


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="patchswap", prog_name="inpaint")
def main() -> None:
    """Fill holes in photographs: infer a coarse completion, match it to the known part of the
    picture patch by patch, translate the matched features back to pixels.

    \b
    Example:
      inpaint fill photo.jpg mask.png -o filled.png      (white in mask.png = hole)

    Exit codes: 0 done, 1 a problem named in one line, 2 wrong use of the command line.
    """
    warnings.filterwarnings("ignore", module="PIL")  # of damaged metadata, which notes name


for _command in (
    fill.fill,
    batch.batch,
    web.web,
    mask.mask,
    stylize.stylize,
    train.train,
    evaluate.evaluate,
    compare.compare,
    export_onnx.export,
    info.info,
):
    main.add_command(_command)
