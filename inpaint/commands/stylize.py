"""``inpaint stylize``: paints a photograph in the manner of another picture."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from inpaint.commands.common import FILE, Number, by, memory_errors
from inpaint.commands.painting import Painting, painting_options
from inpaint.commands.places import refuse_overwriting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@click.command()
@click.argument("content", type=FILE)
@click.argument("style", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="Result: .png, .jpg, .webp, .tif or another.")
@click.option(
    "--strength",
    type=Number(0, 1),
    default=1.0,
    show_default=True,
    help="How much of the style: 0 is CONTENT itself.",
)
@click.option(
    "--scale",
    type=Number(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Size of the style's texture: how large STYLE is taken.",
)
@click.option("--keep-colours", "--keep-colors", is_flag=True, help="Only brightness from the style, not colour.")
@click.option(
    "--tone",
    type=Number(0),
    default=0.35,
    show_default=True,
    help="How much brightness counts when patches are matched.",
)
@click.option(
    "--coherence",
    type=Number(0),
    default=0.2,
    show_default=True,
    help="How much neighbouring patches keep together: larger pieces of STYLE, fewer details of CONTENT.",
)
@click.option(
    "--largest-style",
    type=click.IntRange(min=9),
    default=1024,
    show_default=True,
    help="Longest side of STYLE in pixels at scale 1.",
)
@painting_options("CONTENT")
def stylize(
    content: Path,
    style: Path,
    output: Path,
    strength: float,
    scale: float,
    keep_colours: bool,
    tone: float,
    coherence: float,
    largest_style: int,
    **shared: Any,
) -> None:
    """Paint CONTENT in the manner of STYLE.

    STYLE is shrunk to the longest side of CONTENT, at most --largest-style, and then taken --scale times as large.
    Grey photographs become coloured unless --keep-colours is given. Transparency, colour profile and EXIF stay.

    \b
    Examples:
      inpaint stylize photo.jpg painting.jpg -o painted.png
      inpaint stylize photo.jpg painting.jpg -o painted.png --strength 0.6 --scale 1.5 --keep-colours
    """
    painting = Painting(**shared)
    progress, limit = painting.progress, painting.max_megapixels
    refuse_overwriting(output, [content], [(style, "style picture")], allowed=painting.overwrite)

    from inpaint.photo import check_output, read, save
    from inpaint.style_transfer import check, flattened, in_colour, painted, style_size
    from inpaint.style_transfer import stylize as paint

    check(strength=strength, scale=scale, tone=tone, coherence=coherence, largest_style=largest_style)
    check_output(output)
    photo = read(content, max_megapixels=limit)
    if strength > 0 and not keep_colours:
        photo = in_colour(photo)
    losses = check_output(output, photo)
    texture = read(style, max_megapixels=limit)
    taken = style_size(texture.size, photo.size, scale, largest_style)
    for note in (*photo.notes, *texture.notes, *losses):
        progress.say(f"note: {note}")
    progress.say(f"{content}: {by(photo.size)}, {style}: {by(texture.size)} taken at {by(taken)}")

    with memory_errors(photo.size, "use a smaller picture, --largest-style or --scale, or --device cpu"):
        inpainter = painting.load(photo.size)
        with progress.stage("stylize", photo.size), _bar(painting.quiet) as on_progress:
            result = paint(
                photo.colours(),
                flattened(texture),
                strength=strength,
                scale=scale,
                keep_colours=keep_colours,
                tone=tone,
                coherence=coherence,
                largest_style=largest_style,
                inpainter=inpainter,
                on_progress=on_progress,
            )
    with progress.stage("save", photo.size):
        save(output, painted(photo, result) if strength > 0 else photo)
    painting.finish(
        output,
        {
            "content": str(content),
            "style": str(style),
            "output": str(output),
            "size": list(photo.size),
            "style_size": list(taken),
        },
    )


@contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, which appears with the first step; none where nobody watches."""
    with click.progressbar(length=1, file=sys.stderr, hidden=quiet or not sys.stderr.isatty()) as bar:

        def on_progress(done: int, steps: int) -> None:
            bar.length = steps
            bar.update(done - bar.pos)

        yield on_progress
