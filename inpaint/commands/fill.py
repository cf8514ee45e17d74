"""``inpaint fill``: fills the hole that a mask marks in a photograph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from inpaint.commands.common import FILE, Scales, by, memory_errors
from inpaint.commands.painting import Painting, output_option, painting_options

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from inpaint.work import Filled


@click.command()
@click.argument("image", type=FILE)
@click.argument("mask", type=FILE)
@output_option
@click.option("--page", type=click.IntRange(min=1), default=1, show_default=True, help="Page of a TIFF.")
@click.option("--invert-mask", is_flag=True, help="Black marks the hole instead of white.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.5,
    show_default=True,
    help="A mask pixel is hole where its brightness is above this share of white.",
)
@click.option(
    "--dilate", type=click.IntRange(min=0), default=0, show_default=True, help="Grow the hole by this many pixels."
)
@click.option(
    "--scales",
    type=Scales(),
    help="Short sides in pixels, coarse to fine: IMAGE's own, halved some times. [automatic]",
)
@click.option(
    "--max-memory",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GIB",
    help="Memory for a window's work; fine scales of large holes that need more are left out. [half of what is free]",
)
@click.option("--save-stages", type=FILE, metavar="DIR", help="Write the mask and each step's picture to this folder.")
@painting_options("IMAGE")
def fill(
    image: Path,
    mask: Path,
    page: int,
    invert_mask: bool,
    threshold: float,
    dilate: int,
    scales: list[int] | None,
    max_memory: float | None,
    save_stages: Path | None,
    **shared: Any,
) -> None:
    """Fill the hole that MASK marks in IMAGE.

    MASK has the size of IMAGE as displayed; white is the hole. Pixels outside the hole keep their exact values, and so
    do transparency, colour profile and EXIF. A JPEG from a JPEG changes in the 8x8 blocks that the hole touches; other
    lossy files are encoded anew. An existing OUTPUT is replaced, once the result is complete.

    Each hole, or group of near ones, is filled in a window of its own. --save-stages writes mask.png and, for each
    window, coarse.png and what came of each scale: what the translation made of the swapped features (after_swap), the
    result, and the match field: the hue is the direction to where a patch was copied from, the saturation the distance.

    \b
    Examples:
      inpaint fill photo.jpg mask.png -o filled.png
      inpaint fill photo.png mask.png -o filled.png --invert-mask --dilate 4
      inpaint fill photo.png mask.png -o filled.png --scales 256,512 --save-stages steps
    """
    painting = Painting(**shared)
    progress = painting.progress
    painting.refuse_overwriting(image, mask, "mask")

    from inpaint.photo import check_folder, check_output, read, save
    from inpaint.work import prepare

    check_output(painting.output)
    photo = read(image, max_megapixels=painting.max_megapixels, page=page)
    losses = check_output(painting.output, photo)
    job = prepare(
        photo,
        mask,
        scales=scales,
        threshold=threshold,
        invert=invert_mask,
        dilate=dilate,
        max_megapixels=painting.max_megapixels,
    )
    share = float(job.hole.mean())
    progress.say(f"{image}: {by(photo.size)}, hole {share:.1%}")
    for note in (*job.notes, *losses):
        progress.say(f"note: {note}")
    if save_stages is not None:
        save_stages.mkdir(parents=True, exist_ok=True)
        check_folder(save_stages)

    with memory_errors(photo.size):
        filled = painting.load(photo.size, max_memory and 2**30 * max_memory).fill(
            job,
            keep=save_stages is not None,
            on_stage=lambda stage: progress.ended(stage.name, stage.size, stage.seconds),
        )
    with progress.stage("save", photo.size):
        if save_stages is not None:
            _save_stages(save_stages, filled, job.hole)
        save(painting.output, filled.picture)
    painting.finish(
        {
            "image": str(image),
            "mask": str(mask),
            "output": str(painting.output),
            "size": list(photo.size),
            "hole_share": share,
            "notes": [*job.notes, *losses],
            "windows": [
                {"crop": list(window.crop), "scales": [list(level.size) for level in window.levels]}
                for window in filled.windows
            ],
        }
    )


def _save_stages(folder: Path, filled: Filled, hole: np.ndarray) -> None:
    from PIL import Image

    from inpaint.match_field import draw_match_field
    from inpaint.photo import save_picture, to_pil

    pictures = {"mask": Image.fromarray(hole)}
    for number, kept in enumerate(filled.kept, start=1):
        of_window = f"window{number}_" if len(filled.kept) > 1 else ""
        pictures[f"{of_window}coarse"] = to_pil(kept.coarse)
        for scale_number, scale in enumerate(kept.scales, start=1):
            name = f"{of_window}scale{scale_number}_{by(scale.level.part.size)}"
            pictures[f"{name}_after_swap"] = to_pil(scale.decoded)
            pictures[f"{name}_result"] = to_pil(scale.result)
            pictures[f"{name}_match_field"] = to_pil(draw_match_field(scale.match_index, scale.result))
    for name, picture in pictures.items():
        save_picture(folder / f"{name}.png", picture)
