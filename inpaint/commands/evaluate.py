"""``inpaint evaluate``: fills photographs under masks and measures the results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from inpaint.commands.common import FILE

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("images", type=FILE)
@click.argument("masks", type=FILE)
@click.option("--out", type=FILE, required=True, help="Folder for the numbers, results and contact sheets.")
@click.option(
    "--method",
    default="default",
    show_default=True,
    help="Weights of this project (name or file), mean-colour, telea, ns, or a folder of finished results.",
)
@click.option("--kinds", default="center,thick,medium,thin", show_default=True, help="Kinds of masks.")
@click.option("--lpips-weights", type=FILE, help="Weights of LPIPS (AlexNet); without them LPIPS is left out.")
@click.option("--fid-weights", type=FILE, help="Weights of FID's Inception network (torch-fidelity); without, no FID.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many photographs.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the CPU. [as many as affinity and quota allow]")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def evaluate(
    images: Path,
    masks: Path,
    out: Path,
    method: str,
    kinds: str,
    lpips_weights: Path | None,
    fid_weights: Path | None,
    limit: int | None,
    threads: int | None,
    quiet: bool,
) -> None:
    """Fill every photograph of IMAGES under its masks in MASKS and measure L1, PSNR, SSIM and LPIPS.

    --out receives report.html, which needs no other file, the numbers as JSON and CSV, and the results. Every mean has
    a 95 % bootstrap interval. `inpaint compare` puts several such folders side by side.

    The mask of 0001_dog.jpg and kind center is MASKS/center_0001.png or MASKS/center/0001_dog.png; white = hole.

    \b
    Example:
      inpaint evaluate photos masks --out report --kinds center,thin
      inpaint evaluate photos masks --out report_telea --method telea
    """
    from inpaint.evaluation import protocol
    from inpaint.threads import set_threads

    set_threads(threads)
    protocol.evaluate(
        images,
        masks,
        kinds=[kind.strip() for kind in kinds.split(",")],
        method=method,
        out_dir=out,
        lpips_weights=lpips_weights,
        fid_weights=fid_weights,
        limit=limit,
        progress=not quiet,
    )
