"""``inpaint mask``: shows what ``inpaint fill`` would fill."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from inpaint.commands.common import FILE, Grouped, Progress, by, option
from inpaint.commands.filling import page_option
from inpaint.commands.marks import Marks, mark_options
from inpaint.commands.painting import OUTPUT, max_megapixels_option
from inpaint.commands.places import STANDARD, default_path, refuse_overwriting
from inpaint.errors import InpaintError

if TYPE_CHECKING:
    from pathlib import Path

    from inpaint.work import Job


@click.command(cls=Grouped)
@click.argument("arguments", nargs=-1, required=True, type=FILE, metavar="IMAGE [MASK]")
@mark_options()
@page_option(OUTPUT)
@option(
    "-o",
    "--output",
    type=FILE,
    heading=OUTPUT,
    help="The picture: a file, or a folder that exists. [IMAGE_mask.png, next to IMAGE]",
)
@option("--save-mask", type=FILE, heading=OUTPUT, help="Write the hole itself, white on black, to this file.")
@option("--quiet", is_flag=True, heading=OUTPUT, help="Say nothing but errors.")
@option("--json", "as_json", is_flag=True, heading=OUTPUT, help="Print size, share and more as one JSON object.")
@max_megapixels_option(OUTPUT)
def mask(
    arguments: tuple[Path, ...],
    page: int,
    output: Path | None,
    save_mask: Path | None,
    quiet: bool,
    as_json: bool,
    max_megapixels: float,
    **options: Any,
) -> None:
    """Show what would be filled, without filling it.

    The options are those of inpaint fill. The picture is the photograph with the hole in magenta; what --source and
    --exclude keep from being copied is dark. The share of the hole is printed, with all notes.

    \b
    Examples:
      inpaint mask photo.jpg mask.png
      inpaint mask photo.jpg --mask-colour red --dilate 4 --save-mask mask.png
    """
    marks = Marks.of(options)
    photographs = marks.photographs(arguments)
    if len(photographs) > 1:
        raise click.UsageError(
            f"Expected one photograph, got {len(photographs)}: where an option marks the hole, give a mask with --mask."
        )
    (photograph,) = photographs

    from inpaint.overlay import draw_overlay
    from inpaint.photo import check_output, save_picture, to_pil
    from inpaint.window import find_windows

    default = default_path(photograph, "mask", ".png")
    target = default if output is None else output / default.name if output.is_dir() else output
    for path in (target, save_mask):
        if path == STANDARD:
            raise InpaintError("the picture of a mask is not written to standard output; give a file with -o")
        if path is not None:
            refuse_overwriting(path, photographs, marks.files(photographs), allowed=False)
            check_output(path)
    if save_mask is not None and save_mask.resolve() == target.resolve():
        raise InpaintError(f"{target} would be written twice; choose another name for one of them")
    job = marks.prepare(photograph, page=page, max_megapixels=max_megapixels)
    save_picture(target, to_pil(draw_overlay(job)))
    if save_mask is not None:
        from PIL import Image

        save_picture(save_mask, Image.fromarray(job.hole))
    progress = Progress(quiet)
    windows = len(find_windows(job.hole))
    _say(progress, photograph, job, windows)
    progress.say(f"{target}: done")
    if as_json:
        report = {
            "image": str(photograph),
            "output": str(target),
            "size": list(job.picture.size),
            "hole_share": float(job.hole.mean()),
            "hole_pixels": int(job.hole.sum()),
            "windows": windows,
            "notes": list(job.notes),
        }
        click.echo(json.dumps(report))


def _say(progress: Progress, photograph: Path, job: Job, windows: int) -> None:
    name = "standard input" if photograph == STANDARD else photograph
    in_windows = f"{windows} window{'s' if windows > 1 else ''}"
    progress.say(f"{name}: {by(job.picture.size)}, hole {job.hole.mean():.1%}, in {in_windows}")
    for note in job.notes:
        progress.say(f"note: {note}")
