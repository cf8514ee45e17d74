"""``inpaint fill``: fills the holes that are marked in photographs."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click

from inpaint.commands.common import FILE, Grouped, by, memory_errors, option
from inpaint.commands.filling import FILLING, feather_option, max_memory_option, page_option, scales_option
from inpaint.commands.marks import Marks, mark_options, refuse_lost_mask
from inpaint.commands.painting import OUTPUT, Painting, painting_options
from inpaint.commands.places import STANDARD, Place, places, refuse_overwriting, refuse_terminal
from inpaint.errors import InpaintError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    from inpaint.inpainter import Inpainter
    from inpaint.photo import Photo
    from inpaint.work import Filled, Job


@click.command(cls=Grouped)
@click.argument("arguments", nargs=-1, required=True, type=FILE, metavar="IMAGE... [MASK]")
@mark_options()
@page_option(FILLING)
@feather_option()
@option(
    "--variants",
    type=click.IntRange(min=1, max=99),
    metavar="K",
    default=1,
    show_default=True,
    heading=FILLING,
    help="Make K different fills, and number the outputs.",
)
@scales_option("IMAGE")
@option(
    "-o",
    "--output",
    type=FILE,
    heading=OUTPUT,
    help="Result: a file, a folder that exists, or - for standard output. [IMAGE_filled, next to IMAGE]",
)
@option(
    "--explain",
    type=FILE,
    metavar="FILE",
    heading=OUTPUT,
    help="Write a picture of what was copied and where to; for several results a folder that exists.",
)
@option(
    "--save-stages",
    type=FILE,
    metavar="DIR",
    heading=OUTPUT,
    help="Write the mask and each step's picture to this folder.",
)
@painting_options("IMAGE")
@max_memory_option()
def fill(
    arguments: tuple[Path, ...],
    page: int,
    feather: int,
    variants: int,
    scales: list[int] | None,
    output: Path | None,
    explain: Path | None,
    save_stages: Path | None,
    max_memory: float | None,
    **options: Any,
) -> None:
    """Fill the hole that MASK marks in IMAGE.

    MASK has the size of IMAGE as displayed; white is the hole. It can be a picture, or outlines in the JSON of COCO or
    labelme. With --mask, --box, --mask-colour, --mask-from-alpha or --mask-from-nan every argument is a photograph.

    Pixels outside the hole keep their exact values, and so do transparency, colour profile and EXIF. A JPEG from a JPEG
    changes in the blocks that the hole touches; other lossy files are encoded anew. The name of the output ends in
    .png, .jpg, .webp, .tif, .avif, .jp2, .heic, .bmp or .gif. An existing output is replaced, once the result is
    complete. All input is checked before the first photograph is filled.

    Each hole, or group of near ones, is filled in a window of its own. --save-stages writes mask.png and, for each
    window, coarse.png and what came of each scale: what the translation made of the swapped features (after_swap), the
    result, and the match field: the hue is the direction to where a patch was copied from, the saturation the distance.

    \b
    Examples:
      inpaint fill photo.jpg mask.png
      inpaint fill photo.png mask.png -o filled.png --invert-mask --dilate 4
      inpaint fill photo.jpg --box 900,400,200,120 --exclude person.png --variants 3
      inpaint fill scans/*.tif --mask dust.png -o cleaned/
      cat photo.png | inpaint fill - mask.png > filled.png
    """
    from inpaint.photo import check_output

    marks, painting = Marks.of(options), Painting(**options)
    photographs = marks.photographs(arguments)
    found = places(photographs, variants=variants, output=output, explain=explain, save_stages=save_stages)
    _check_places(found, photographs, marks, painting)

    def prepare(photograph: Path) -> Job:
        return marks.prepare(
            photograph, page=page, scales=scales, feather=feather, max_megapixels=painting.max_megapixels
        )

    job = _check_all(photographs, found, prepare)
    inpainter: Inpainter | None = None
    for place in found:
        if place.variant in (None, 1):
            job = job if len(photographs) == 1 else prepare(place.photograph)
            losses = check_output(_target(place.output), cast("Photo", job.picture))
            job = replace(job, notes=(*job.notes, *losses))
            _announce(place, job, painting)
        with memory_errors(job.picture.size):
            inpainter = inpainter or painting.load(job.picture.size, max_memory and 2**30 * max_memory)
        _fill(place, replace(job, variant=(place.variant or 1) - 1), inpainter, painting, marks)


def _check_places(found: list[Place], photographs: list[Path], marks: Marks, painting: Painting) -> None:
    from inpaint.photo import check_output

    for place in found:
        if place.output == STANDARD:
            refuse_terminal()
            if painting.as_json:
                raise click.UsageError("--json and -o - both write to standard output: give a file with -o.")
        for path in (place.output, place.explanation):
            if path is not None and path != STANDARD:
                is_result = path is place.output
                refuse_overwriting(
                    path, photographs, marks.files(photographs), allowed=painting.overwrite and is_result
                )
                check_output(path)
    inputs = [*photographs, *(path for path, _ in marks.files(photographs))]
    outputs = [path for place in found for path in (place.output, place.explanation) if path is not None]
    for folder in dict.fromkeys(place.stages for place in found if place.stages is not None):
        _refuse_files_of_stages(folder, [path for path in (*inputs, *outputs) if path != STANDARD])


def _refuse_files_of_stages(folder: Path, others: list[Path]) -> None:
    """InpaintError where the picture of a stage, in its folder, could replace one of the other files."""
    from inpaint.stage_pictures import is_file_of_stage

    there = [path for path in folder.glob("*") if is_file_of_stage(path.name) and path.exists()]
    for other in others:
        is_there = other.exists() and any(map(other.samefile, there))
        if is_there or (is_file_of_stage(other.name) and other.resolve().parent == folder.resolve()):
            raise InpaintError(
                f"{other} has the name of a stage's picture in {folder}; choose another folder for --save-stages"
            )


def _check_all(photographs: list[Path], found: list[Place], prepare: Callable[[Path], Job]) -> Job:
    """Checks all photographs, then makes the folders of the stages. Returns the job of the last photograph."""
    from inpaint.photo import check_folder, check_output

    first = None
    for photograph in photographs:
        job = prepare(photograph)
        for place in found:
            if place.photograph == photograph:
                check_output(_target(place.output), cast("Photo", job.picture))
        first = first or job
    if first is not None and len(photographs) > 1:
        refuse_lost_mask(photographs[-1], job, first)
    for place in found:
        if place.stages is not None:
            place.stages.mkdir(parents=True, exist_ok=True)
            check_folder(place.stages)
    return job


def _target(output: Path) -> Path | BinaryIO:
    return sys.stdout.buffer if output == STANDARD else output


def _announce(place: Place, job: Job, painting: Painting) -> None:
    name = "standard input" if place.photograph == STANDARD else place.photograph
    painting.progress.say(f"{name}: {by(job.picture.size)}, hole {job.hole.mean():.1%}")
    for note in job.notes:
        painting.progress.say(f"note: {note}")


def _fill(place: Place, job: Job, inpainter: Inpainter, painting: Painting, marks: Marks) -> None:
    """Fills one photograph, writes all that was asked for, and reports."""
    from inpaint.explanation import explain
    from inpaint.photo import save, save_picture, to_pil

    progress = painting.progress
    keep = place.stages is not None or place.explanation is not None
    with memory_errors(job.picture.size):
        filled = inpainter.fill(
            job, keep=keep, on_stage=lambda stage: progress.ended(stage.name, stage.size, stage.seconds)
        )
    with progress.stage("save", job.picture.size):
        if place.stages is not None:
            _save_stages(place.stages, filled, job.hole)
        if place.explanation is not None:
            save_picture(place.explanation, to_pil(explain(job, filled)))
        save(_target(place.output), filled.picture)
    for note in filled.notes[len(job.notes) :]:
        progress.say(f"note: {note}")
    mask = marks.mask_of(place.photograph)
    painting.finish(
        place.output,
        {
            "image": str(place.photograph),
            "mask": mask and str(mask),
            "output": str(place.output),
            "variant": place.variant,
            "size": list(job.picture.size),
            "hole_share": float(job.hole.mean()),
            "notes": list(filled.notes),
            "windows": [
                {"crop": list(window.crop), "scales": [list(level.size) for level in window.levels]}
                for window in filled.windows
            ],
        },
    )


def _save_stages(folder: Path, filled: Filled, hole: np.ndarray) -> None:
    from PIL import Image

    from inpaint.photo import save_picture
    from inpaint.stage_pictures import draw_stages

    for name, picture in (("mask", Image.fromarray(hole)), *draw_stages(filled)):
        save_picture(folder / f"{name}.png", picture)
