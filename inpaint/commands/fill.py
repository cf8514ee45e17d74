"""``inpaint fill``: fills the hole that a mask marks in a photograph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from inpaint.commands.common import FILE, Progress, Scales, by, memory_errors
from inpaint.commands.painting import Painting, output_option, painting_options
from inpaint.errors import InpaintError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from inpaint.image import Photo
    from inpaint.pipeline import Result

LARGE_HOLE_SHARE = 0.6  # above it the mask is probably inverted, and the result is poor in any case


@click.command()
@click.argument("image", type=FILE)
@click.argument("mask", type=FILE)
@output_option
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
@click.option("--scales", type=Scales(), help="Short sides in pixels, coarse to fine, such as 256,512. [automatic]")
@click.option("--save-stages", type=FILE, metavar="DIR", help="Write the mask and each step's picture to this folder.")
@painting_options("IMAGE")
def fill(
    image: Path,
    mask: Path,
    invert_mask: bool,
    threshold: float,
    dilate: int,
    scales: list[int] | None,
    save_stages: Path | None,
    **shared: Any,
) -> None:
    """Fill the hole that MASK marks in IMAGE.

    MASK has the size of IMAGE as displayed; white is the hole. Pixels outside the hole keep their exact values in PNG,
    WebP and TIFF (JPEG re-encodes the picture at quality 95), and so do transparency, colour profile and EXIF. An
    existing OUTPUT is replaced, once the result is complete.

    --save-stages writes mask.png, coarse.png and for each scale what the translation made of the swapped features
    (after_swap), the result, and the match field: the hue is the direction to where a patch was copied from, the
    saturation the distance.

    \b
    Examples:
      inpaint fill photo.jpg mask.png -o filled.png
      inpaint fill photo.png mask.png -o filled.png --invert-mask --dilate 4
      inpaint fill photo.png mask.png -o filled.png --scales 256,512 --save-stages steps
    """
    painting = Painting(**shared)
    progress, limit = painting.progress, painting.max_megapixels
    painting.refuse_overwriting(image, mask, "mask")

    from inpaint.image import check_folder, check_output, read_image, read_mask, to_tensor

    check_output(painting.output)
    photo = read_image(image, max_megapixels=limit)
    check_output(painting.output, photo)
    hole = read_mask(
        mask, threshold=threshold, invert=invert_mask, dilate=dilate, expected_size=photo.size, max_megapixels=limit
    )
    share = hole.float().mean().item()
    for note in photo.notes:
        progress.say(f"note: {note}")
    progress.say(f"{image}: {by(photo.size)}, hole {share:.1%}")
    _check_hole(hole, share, mask, invert_mask, progress)
    _warn_of_transparent_hole(photo, hole, progress)
    if save_stages is not None:
        save_stages.mkdir(parents=True, exist_ok=True)
        check_folder(save_stages)

    with memory_errors(photo.size):
        result = painting.load(photo.size).run(
            to_tensor(photo.image),
            hole,
            scales=scales,
            on_stage=lambda stage: progress.ended(stage.name, stage.size, stage.seconds),
        )
    with progress.stage("save", photo.size):
        if save_stages is not None:
            _save_stages(save_stages, result, hole)
        painting.save(photo, result.image, hole)
    painting.finish(
        {
            "image": str(image),
            "mask": str(mask),
            "output": str(painting.output),
            "size": list(photo.size),
            "hole_share": share,
            "scales": [list(scale.size) for scale in result.scales],
        }
    )


def _check_hole(hole: torch.Tensor, share: float, mask: Path, inverted: bool, progress: Progress) -> None:
    hole_colour, known_colour = ("black", "white") if inverted else ("white", "black")
    polarity = "leave out --invert-mask" if inverted else "use --invert-mask"
    if not hole.any():
        raise InpaintError(
            f"{mask} marks no hole (0 % of the image): expected {hole_colour} where the hole is, and every pixel reads "
            f"as {known_colour}; draw the hole in {hole_colour}, change --threshold, or {polarity} if {known_colour} "
            "marks the hole"
        )
    if hole.all():
        raise InpaintError(
            f"{mask} marks the whole image as hole (100 %): expected some {known_colour} pixels to copy from; "
            f"{polarity} if {hole_colour} marks what to keep, change --threshold, or mark a smaller hole"
        )
    if share > LARGE_HOLE_SHARE:
        progress.say(f"warning: the hole is {share:.0%} of the image; {polarity} if {hole_colour} marks what to keep")


def _warn_of_transparent_hole(photo: Photo, hole: torch.Tensor, progress: Progress) -> None:
    import numpy as np

    if photo.has_alpha and np.asarray(photo.image.getchannel("A"))[hole.numpy()].mean() < 128:
        progress.say("warning: the photograph is transparent in the hole and stays so; flatten it to see the filling")


def _save_stages(folder: Path, result: Result, hole: torch.Tensor) -> None:
    from inpaint.image import save_picture, to_pil
    from inpaint.match_field import draw_match_field

    pictures = {"mask": hole.float().expand(3, -1, -1), "coarse": result.coarse}
    for number, scale in enumerate(result.scales, start=1):
        name = f"scale{number}_{by(scale.size)}"
        pictures[f"{name}_after_swap"] = scale.decoded
        pictures[f"{name}_result"] = scale.result
        pictures[f"{name}_match_field"] = draw_match_field(scale.match_index, scale.result)
    for name, picture in pictures.items():
        save_picture(folder / f"{name}.png", to_pil(picture))
