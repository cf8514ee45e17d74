"""The command ``inpaint``. Everything heavy is imported inside the command that needs it, so that --help is instant."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from inpaint.errors import InpaintError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from inpaint.networks import Image2Feature
    from inpaint.pipeline import Result
    from inpaint.training.config import Stage

FILE = click.Path(path_type=Path)
DEVICE = click.Choice(["auto", "cpu", "cuda"])


class _OneLineErrors(click.Group):
    """Prints problems that the user can mend as one line, ``inpaint: ...``, and ends with exit code 1."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except InpaintError as error:
            problem = str(error)
        except BrokenPipeError:
            raise  # whoever reads our output has gone; click ends quietly
        except OSError as error:
            problem = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        click.echo(f"inpaint: {' '.join(problem.split())}", err=True)
        context.exit(1)


class _ScalesType(click.ParamType):
    """Short-side lengths in pixels, coarse to fine: "256,512"."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            scales = [int(length) for length in value.split(",")]
        except ValueError:
            self.fail(f"expected lengths in pixels such as 256,512, got {value!r}", param, context)
        if min(scales) < 1 or scales != sorted(set(scales)):
            self.fail(f"expected growing lengths in pixels such as 256,512, got {value!r}", param, context)
        return scales


@dataclass
class _Progress:
    """Prints a line on stderr as each stage ends and remembers it."""

    quiet: bool
    stages: list[dict[str, Any]] = field(default_factory=list)

    def say(self, text: str) -> None:
        if not self.quiet:
            click.echo(text, err=True)

    def ended(self, name: str, size: tuple[int, int], seconds: float) -> None:
        self.stages.append({"name": name, "size": list(size), "seconds": seconds})
        self.say(f"  {name:<10} {_by(size):>11} {seconds:8.2f} s")

    @contextmanager
    def stage(self, name: str, size: tuple[int, int]) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.ended(name, size, time.perf_counter() - start)


_output_option = click.option("-o", "--output", type=FILE, required=True, help="Result: .png, .jpg, .webp or .tif.")


def _painting_options(photograph: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What the commands that paint into a photograph, the argument of that name, share."""
    options = [
        click.option("--weights", default="default", show_default=True, help="Name of a set of weights, or a file."),
        click.option("--device", type=DEVICE, default="auto", show_default=True, help="Where to compute."),
        click.option(
            "--precision",
            type=click.Choice(["auto", "float32", "bfloat16"]),
            default="auto",
            show_default=True,
            help="What the networks multiply in; auto: bfloat16 on CPUs that have it.",
        ),
        click.option(
            "--max-megapixels", type=click.FloatRange(min=0), default=100, show_default=True, help="Largest input."
        ),
        click.option("--overwrite", is_flag=True, help=f"Allow OUTPUT to be {photograph} itself."),
        click.option("--quiet", is_flag=True, help="Say nothing but errors."),
        click.option("--json", "as_json", is_flag=True, help="Print sizes, times and more as one JSON object."),
    ]
    return _in_order(options)


def _in_order(options: list[Callable[..., Any]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """One decorator for all of these options, which --help lists in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="patchswap", prog_name="inpaint")
def main() -> None:
    """Fill holes in photographs: infer a coarse completion, match it to the known part of the
    picture patch by patch, translate the matched features back to pixels.

    \b
    Example:
      inpaint fill photo.jpg mask.png -o filled.png      (white in mask.png = hole)

    Exit codes: 0 done, 1 a problem named in one line, 2 wrong use of the command line.
    """


@main.command()
@click.argument("image", type=FILE)
@click.argument("mask", type=FILE)
@_output_option
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
    "--scales", type=_ScalesType(), help="Short sides in pixels, coarse to fine, such as 256,512. [automatic]"
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of whatever is random.")
@click.option("--save-stages", type=FILE, metavar="DIR", help="Write the mask and each step's picture to this folder.")
@_painting_options("IMAGE")
def fill(
    image: Path,
    mask: Path,
    output: Path,
    invert_mask: bool,
    threshold: float,
    dilate: int,
    scales: list[int] | None,
    weights: str,
    device: str,
    precision: str,
    seed: int,
    save_stages: Path | None,
    max_megapixels: float,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
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
    start = time.perf_counter()
    progress = _Progress(quiet)
    _refuse_overwriting(output, image, mask, overwrite)

    from inpaint.holes import check_hole, check_transparency, read_hole, refuse_empty
    from inpaint.photo import Patch, check_folder, check_output, read, save

    check_output(output)
    photo = read(image, max_megapixels=max_megapixels)
    check_output(output, photo)
    hole = read_hole(
        mask,
        size=photo.size,
        threshold=threshold,
        invert=invert_mask,
        dilate=dilate,
        max_megapixels=max_megapixels,
    )
    share = float(hole.mean())
    for note in photo.notes:
        progress.say(f"note: {note}")
    progress.say(f"{image}: {_by(photo.size)}, hole {share:.1%}")
    refuse_empty(hole, name=str(mask), inverted=invert_mask)
    for note in (*check_hole(hole, name=str(mask), inverted=invert_mask), *check_transparency(photo, hole)):
        progress.say(f"warning: {note}")
    if save_stages is not None:
        save_stages.mkdir(parents=True, exist_ok=True)
        check_folder(save_stages)

    import torch

    import inpaint

    with progress.stage("load", photo.size), _memory_errors(photo.size):
        inpainter = inpaint.load(weights, device=device, precision=precision)
    torch.manual_seed(seed)
    with _memory_errors(photo.size):
        result = inpainter.run(
            photo.colours(),
            torch.from_numpy(hole),
            scales=scales,
            on_stage=lambda stage: progress.ended(stage.name, stage.size, stage.seconds),
        )
    with progress.stage("save", photo.size):
        if save_stages is not None:
            _save_stages(save_stages, result, torch.from_numpy(hole))
        save(output, photo.filled([Patch(slice(None), slice(None), result.image, hole)]))
    seconds = time.perf_counter() - start
    progress.say(f"{output}: done in {seconds:.2f} s")
    if as_json:
        report = {
            "image": str(image),
            "mask": str(mask),
            "output": str(output),
            "size": list(photo.size),
            "hole_share": share,
            "scales": [list(scale.size) for scale in result.scales],
            "stages": progress.stages,
            "seconds": seconds,
        }
        click.echo(json.dumps(report))


@main.command()
@click.argument("content", type=FILE)
@click.argument("style", type=FILE)
@_output_option
@click.option(
    "--strength",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="How much of the style: 0 is CONTENT itself.",
)
@click.option(
    "--scale",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Size of the style's texture: how large STYLE is taken.",
)
@click.option("--keep-colours", "--keep-colors", is_flag=True, help="Only brightness from the style, not colour.")
@click.option(
    "--tone",
    type=click.FloatRange(0),
    default=0.35,
    show_default=True,
    help="How much brightness counts when patches are matched.",
)
@click.option(
    "--largest-style",
    type=click.IntRange(min=9),
    default=1024,
    show_default=True,
    help="Longest side of STYLE in pixels at scale 1.",
)
@_painting_options("CONTENT")
def stylize(
    content: Path,
    style: Path,
    output: Path,
    strength: float,
    scale: float,
    keep_colours: bool,
    tone: float,
    largest_style: int,
    weights: str,
    device: str,
    precision: str,
    max_megapixels: float,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Paint CONTENT in the manner of STYLE.

    STYLE is shrunk to the longest side of CONTENT, at most --largest-style, and then taken --scale times as large.
    Grey photographs become coloured unless --keep-colours is given. Transparency, colour profile and EXIF stay.

    \b
    Examples:
      inpaint stylize photo.jpg painting.jpg -o painted.png
      inpaint stylize photo.jpg painting.jpg -o painted.png --strength 0.6 --scale 1.5 --keep-colours
    """
    start = time.perf_counter()
    progress = _Progress(quiet)
    _refuse_overwriting(output, content, style, overwrite, other="style picture")

    import inpaint
    from inpaint.photo import check_output, read, save
    from inpaint.style_transfer import check, flattened, in_colour, painted, style_size
    from inpaint.style_transfer import stylize as paint

    check(strength=strength, scale=scale, tone=tone, largest_style=largest_style)
    check_output(output)
    photo = read(content, max_megapixels=max_megapixels)
    if strength > 0 and not keep_colours:
        photo = in_colour(photo)
    check_output(output, photo)
    texture = read(style, max_megapixels=max_megapixels)
    taken = style_size(texture.size, photo.size, scale, largest_style)
    for note in (*photo.notes, *texture.notes):
        progress.say(f"note: {note}")
    progress.say(f"{content}: {_by(photo.size)}, {style}: {_by(texture.size)} taken at {_by(taken)}")

    with _memory_errors(photo.size, "use a smaller picture, --largest-style or --scale, or --device cpu"):
        with progress.stage("load", photo.size):
            inpainter = inpaint.load(weights, device=device, precision=precision)
        with progress.stage("stylize", photo.size), _bar(quiet) as on_progress:
            result = paint(
                photo.colours(),
                flattened(texture),
                strength=strength,
                scale=scale,
                keep_colours=keep_colours,
                tone=tone,
                largest_style=largest_style,
                inpainter=inpainter,
                on_progress=on_progress,
            )
    with progress.stage("save", photo.size):
        save(output, painted(photo, result) if strength > 0 else photo)
    seconds = time.perf_counter() - start
    progress.say(f"{output}: done in {seconds:.2f} s")
    if as_json:
        report = {
            "content": str(content),
            "style": str(style),
            "output": str(output),
            "size": list(photo.size),
            "style_size": list(taken),
            "stages": progress.stages,
            "seconds": seconds,
        }
        click.echo(json.dumps(report))


@contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, which appears with the first step; none where nobody watches."""
    with click.progressbar(length=1, file=sys.stderr, hidden=quiet or not sys.stderr.isatty()) as bar:

        def on_progress(done: int, steps: int) -> None:
            bar.length = steps
            bar.update(done - bar.pos)

        yield on_progress


def _refuse_overwriting(output: Path, image: Path, mask: Path, overwrite: bool, other: str = "mask") -> None:
    def is_output(path: Path) -> bool:
        return path.exists() and output.exists() and output.samefile(path)

    if is_output(mask):
        raise InpaintError(f"{output} is the {other} itself; choose another name for the output")
    if is_output(image) and not overwrite:
        raise InpaintError(
            f"{output} is the input photograph itself; choose another name, or allow it with --overwrite"
        )


@contextmanager
def _memory_errors(
    size: tuple[int, int], remedy: str = "use smaller --scales, --device cpu, or a smaller picture"
) -> Iterator[None]:
    """torch reports exhausted memory as a RuntimeError, on a GPU as a subclass of it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
            raise
        raise InpaintError(f"not enough memory for {_by(size)} pixels: {remedy}") from error


def _save_stages(folder: Path, result: Result, hole: torch.Tensor) -> None:
    from inpaint.match_field import draw_match_field
    from inpaint.photo import save_picture, to_pil

    pictures = {"mask": hole.float().expand(3, -1, -1), "coarse": result.coarse}
    for number, scale in enumerate(result.scales, start=1):
        name = f"scale{number}_{_by(scale.size)}"
        pictures[f"{name}_after_swap"] = scale.decoded
        pictures[f"{name}_result"] = scale.result
        pictures[f"{name}_match_field"] = draw_match_field(scale.match_index, scale.result)
    for name, picture in pictures.items():
        save_picture(folder / f"{name}.png", to_pil(picture))


def _by(size: tuple[int, int]) -> str:
    """(height, width) as people write it: width x height."""
    return f"{size[1]}x{size[0]}"


@main.group()
def train() -> None:
    """Train the two networks on photographs, then export them as one file of weights.

    \b
    Example:
      inpaint train image2feature --data photos --out runs/i2f
      inpaint train feature2image --data photos --out runs/f2i
      inpaint train export --image2feature runs/i2f/checkpoint.safetensors \\
          --feature2image runs/f2i/checkpoint.safetensors -o mine.safetensors
      inpaint fill photo.jpg mask.png -o filled.png --weights mine.safetensors

    \b
    On several GPUs, each working on its part of every batch:
      torchrun --nproc-per-node 4 -m inpaint train feature2image --data photos --out runs/f2i
    """


def _training_options(command: Any) -> Any:
    """What both stages of training accept."""
    options = [
        click.option(
            "--data", type=FILE, required=True, help="Folder of photographs or .tar shards, or 'train-{000..127}.tar'."
        ),
        click.option("--out", type=FILE, required=True, help="Folder for checkpoint, log and validation pictures."),
        click.option(
            "--config",
            default="compact",
            show_default=True,
            help="compact, paper-256, paper-512, or a .toml or .json file of settings.",
        ),
        click.option("--init", help="Weights to begin from: default, or a file of `inpaint train export`. [untrained]"),
        click.option("--steps", type=click.IntRange(min=1), help="Instead of the config's."),
        click.option("--batch", type=click.IntRange(min=1), help="Crops an update, instead of the config's."),
        click.option("--workers", type=click.IntRange(min=0), help="Processes that load, instead of the config's."),
        click.option("--seed", type=int, help="Instead of the config's."),
        click.option(
            "--resume",
            default="auto",
            show_default=True,
            help="auto: go on from the checkpoint in --out if there is one; none: refuse if there is one; or a file.",
        ),
        click.option("--vgg", type=FILE, help="VGG-19 to train with, such as torchvision's. [the package's own]"),
        click.option("--device", type=DEVICE, default="auto", show_default=True, help="Where to compute."),
        click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [torch's default]"),
        click.option("--quiet", is_flag=True, help="No progress bar."),
    ]
    return _in_order(options)(command)


@train.command("image2feature")
@_training_options
def train_image2feature(**options: Any) -> None:
    """Train Image2Feature, which paints the coarse completion.

    \b
    Example:
      inpaint train image2feature --data photos --out runs/i2f --steps 20000
    """
    _train("image2feature", painter=None, **options)


@train.command("feature2image")
@_training_options
@click.option(
    "--image2feature",
    "painter",
    type=FILE,
    help="Checkpoint of image2feature; needed where the config's predicted_share is above 0.",
)
def train_feature2image(painter: Path | None, **options: Any) -> None:
    """Train Feature2Image, which turns swapped features into the picture.

    \b
    Example:
      inpaint train feature2image --data photos --out runs/f2i --config paper-256 --device cuda
    """
    _train("feature2image", painter=painter, **options)


def _train(
    stage: Stage,
    *,
    painter: Path | None,
    data: Path,
    out: Path,
    config: str,
    init: str | None,
    steps: int | None,
    batch: int | None,
    workers: int | None,
    seed: int | None,
    resume: str,
    vgg: Path | None,
    device: str,
    threads: int | None,
    quiet: bool,
) -> None:
    import torch

    from inpaint.training.config import load_config

    with _extra("train"):
        from inpaint.training import distributed, trainer

    settings = load_config(config, stage, init=init, steps=steps, batch=batch, workers=workers, seed=seed)
    if device == "cuda" and not torch.cuda.is_available():
        raise InpaintError("device: expected an NVIDIA GPU and torch with CUDA, found none; use --device cpu")
    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = trainer.train(
        stage,
        data,
        out,
        settings,
        vgg=vgg or trainer.DEFAULT_VGG,
        painter=_trained_image2feature(painter) if painter is not None else None,
        resume=resume,
        device=device,
        quiet=quiet,
    )
    if distributed.rank() == 0:
        click.echo(str(checkpoint))


def _trained_image2feature(checkpoint: Path) -> Image2Feature:
    from inpaint.networks.image2feature import Image2Feature, Image2FeatureConfig
    from inpaint.training.checkpoint import averaged_generator

    trained = averaged_generator(checkpoint)
    if trained.stage != "image2feature":
        raise InpaintError(f"{checkpoint}: expected a checkpoint of image2feature, got one of {trained.stage}")
    network = Image2Feature(Image2FeatureConfig(**trained.config.network))
    network.load_state_dict(trained.weights)
    return network


@train.command()
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

    with _extra("train"):
        from inpaint.training import trainer
        from inpaint.training.export import export as write_weights

    text = notes.read_text(encoding="utf-8") if notes is not None else ""
    click.echo(
        write_weights(image2feature, feature2image, output, vgg=vgg or trainer.DEFAULT_VGG, notes=text), nl=False
    )


@main.command()
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
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [torch's default]")
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
    import torch

    from inpaint.evaluation import protocol

    if threads is not None:
        torch.set_num_threads(threads)
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


@main.command()
@click.argument("reports", nargs=-1, required=True, metavar="[NAME=]REPORT...")
@click.option("--out", type=FILE, required=True, help="Folder for the comparison.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the bootstrap.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def compare(reports: tuple[str, ...], out: Path, seed: int, quiet: bool) -> None:
    """Compare evaluations of the same photographs and masks: the first method with each of the others.

    REPORT is a folder that `inpaint evaluate` wrote; its method is called NAME, or as the folder. --out receives
    report.html, which needs no other file, comparison.json and table.md: means with 95 % bootstrap intervals, the mean
    difference of every quantity, how often the first method is better, and the exact sign test of that.

    \b
    Example:
      inpaint evaluate photos masks --out report
      inpaint evaluate photos masks --out report_telea --method telea
      inpaint compare ours=report telea=report_telea --out comparison
    """
    from inpaint.evaluation import comparison

    folders: dict[str, Path] = {}
    for report in reports:
        name, _, folder = report.partition("=")
        if not folder or Path(report).is_dir():
            name, folder = Path(report).resolve().name, report
        path = Path(folder)
        if not name or name in folders:
            raise InpaintError(f"expected a name of its own for each report, got {name!r} again; write NAME={path}")
        folders[name] = path
    click.echo(comparison.compare(folders, out, seed=seed, progress=not quiet).table, nl=False)
    click.echo(f"\n{out / 'report.html'}")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def info(as_json: bool) -> None:
    """Show versions, how the operator was built, devices, and the weights that are there.

    \b
    Example:
      inpaint info --json > for_the_bug_report.json
    """
    import platform
    from importlib import metadata

    import torch

    import patchswap

    report = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": metadata.version("numpy"),
        "pillow": metadata.version("pillow"),
        "patchswap": patchswap.build_info(),
        "devices": [f"cpu ({torch.get_num_threads()} threads)"]
        + [f"cuda:{number} ({torch.cuda.get_device_name(number)})" for number in range(torch.cuda.device_count())],
        "weights": _weights_present(),
    }
    if as_json:
        click.echo(json.dumps(report, default=str))
    else:
        for line in _outline(report):
            click.echo(line)


def _weights_present() -> list[dict[str, Any]]:
    from inpaint import weights
    from inpaint.tensor_file import read_tensors

    present = []
    for name, path in {**weights.named(), "VGG-19": weights.FOLDER / weights.VGG_FILE}.items():
        entry: dict[str, Any] = {"name": name, "file": str(path)}
        try:
            weights.check(path)
            entry |= {"bytes": path.stat().st_size, "sha256": weights.sha256(path)}
            card = read_tensors(path)[1].get("card", "")
            entry["card"] = [line for line in card.splitlines() if line.strip()]
        except InpaintError as error:
            entry["problem"] = str(error)
        present.append(entry)
    return present


def _outline(value: Any, indent: str = "") -> Iterator[str]:
    """Nested dicts and lists as indented lines."""
    for key, item in value.items():
        if isinstance(item, dict):
            yield f"{indent}{key}"
            yield from _outline(item, indent + "  ")
        elif isinstance(item, list):
            yield f"{indent}{key}"
            for entry in item:
                yield from _outline(entry, indent + "  ") if isinstance(entry, dict) else [f"{indent}  {entry}"]
        else:
            yield f"{indent}{key:<18} {item}"


@contextmanager
def _extra(name: str) -> Iterator[None]:
    """Says which optional part of the package brings a missing module."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InpaintError(
            f'this needs {error.name}, which is not installed; pip install "patchswap[{name}]"'
        ) from error
