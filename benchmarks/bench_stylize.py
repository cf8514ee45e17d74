"""Style transfer: Feature2Image against descent on the pixels (style-swap's optimisation form), in one run.

    python benchmarks/bench_stylize.py --out benchmarks/results/style-cpu.json
    python benchmarks/bench_stylize.py --quality

Both decode the same swapped features of the same pictures, each in a process of its own, with networks in the same
precision. Times cover everything from two pictures in memory to the painted one, the same VGG-19 and patchswap.match
included. Ours is measured before and after the optimisation, and its time is the median of all runs; the
optimisation's is that of its match (the median of three) and, for each of its steps, the median of all steps, so that
what disturbs the machine for a moment counts on neither side. The objective is that of the optimisation, in float32;
ours does not minimise it.

--quality measures instead what `coherence` and `tone` do, on four photographs in four styles: the distance of the
results' relu1_1, relu2_1 and relu3_1 Gram matrices to the style's (relative, mean of the layers; Gatys et al. 2016),
the correlation of their brightness with the content's, and the distance of their colours to the style's (sliced
Wasserstein, in percent of the full range).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import machine
import torch
from bench_match import write
from measure import peak_memory, reset_peak
from PIL import Image
from rivals import style_optimisation
from torch import Tensor

import inpaint
import patchswap
from inpaint.photo import read
from inpaint.style_transfer import DEFAULT_COHERENCE, DEFAULT_TONE, Comparison, find_features, luminance

EXAMPLES = Path(__file__).parent.parent / "examples"
CONTENTS = ("astronaut.jpg", "chelsea.png", "china.jpg", "coffee.png")
STYLES = ("starry_night.jpg", "mosaic.jpg", "engraving.jpg", "dots.jpg")
SIDES = (256, 512)
STEPS = 100  # what Chen & Schmidt count for this form [recalled]
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--quality", action="store_true", help="measure what coherence and tone do instead of times")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the optimisation")
    parser.add_argument("--job", nargs=2, metavar=("FORM", "SIDE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        form, side = arguments.job[0], int(arguments.job[1])
        print(json.dumps(time_ours(side) if form == "ours" else time_optimisation(side, arguments.steps)))
        return
    if arguments.quality:
        measure_quality()
        return
    content: dict[str, Any] = {
        "machine": machine.describe("cpu", machine.command_line("benchmarks/bench_stylize.py")),
        "results": [],
    }
    for side in SIDES:
        before, optimisation, after = (
            in_own_process(form, side, arguments.steps) for form in ("ours", "optimisation", "ours")
        )
        for row in compared(side, before, optimisation, after):
            content["results"].append(row)
            print(row, flush=True)
    if arguments.out:
        write(arguments.out, content)


def compared(
    side: int, before: dict[str, Any], optimisation: dict[str, Any], after: dict[str, Any]
) -> list[dict[str, Any]]:
    """The rows of both forms, of what the three processes measured."""
    times = before["times"] + after["times"]
    seconds = statistics.median(times)
    step, match = statistics.median(optimisation["step_times"]), statistics.median(optimisation["match_times"])
    steps = len(optimisation["step_times"])
    whole = match + step * steps
    reached = [number for number, value in enumerate(optimisation["objectives"], 1) if value <= before["objective"]]
    return [
        {
            "size": side,
            "form": "ours",
            "seconds": round(seconds, 3),
            "fastest": round(min(times), 3),
            "slowest": round(max(times), 3),
            "runs": len(times),
            "peak_memory_mib": before["peak_memory_mib"],
            "objective": before["objective"],
        },
        {
            "size": side,
            "form": "optimisation",
            "seconds": round(whole, 3),
            "steps": steps,
            "seconds_a_step": round(step, 4),
            "slowest_step": round(max(optimisation["step_times"]), 4),
            "peak_memory_mib": optimisation["peak_memory_mib"],
            "objective": optimisation["objective"],
            "seconds_to_our_objective": round(match + step * reached[0], 3) if reached else None,
            "times_ours": round(whole / seconds, 1),
        },
    ]


def in_own_process(form: str, side: int, steps: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--job", form, str(side), "--steps", str(steps)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def pictures(side: int) -> tuple[Tensor, Tensor]:
    """Content and style, (3, side, side)."""
    opened = (Image.open(EXAMPLES / "photos" / CONTENTS[0]), Image.open(EXAMPLES / "styles" / STYLES[0]))
    content, style = (image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS) for image in opened)
    return read(content).colours(), read(style).colours()


def time_ours(side: int) -> dict[str, Any]:
    inpainter = inpaint.load(device="cpu")
    content, style = pictures(side)
    inpaint.stylize(content[:, :64, :64], style[:, :64, :64], inpainter=inpainter)  # code is loaded
    before = reset_peak("cpu")
    painted = inpaint.stylize(content, style, inpainter=inpainter)
    memory = peak_memory("cpu") - before
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        inpaint.stylize(content, style, inpainter=inpainter)
        times.append(time.perf_counter() - start)
    with torch.no_grad():
        target = swapped(content, style, inpainter)
        objective = style_optimisation.objective(painted.unsqueeze(0), target, inpainter.networks.vgg).item()
    return {
        "times": times,
        "peak_memory_mib": round(memory / 2**20),
        "objective": round(objective, 4),
    }


def time_optimisation(side: int, steps: int) -> dict[str, Any]:
    inpainter = inpaint.load(device="cpu")
    content, style = pictures(side)
    small = content[None, :, :64, :64]
    with torch.no_grad():
        target = swapped(small[0], small[0], inpainter)
    vgg, dtype = inpainter.networks.vgg, inpainter.pipeline.dtype
    list(style_optimisation.optimise(small, target, vgg, steps=2, dtype=dtype))  # code is loaded
    before = reset_peak("cpu")
    match_times, step_times, objectives = [], [], []
    for _ in range(3):
        start = time.perf_counter()
        with torch.no_grad():
            target = swapped(content, style, inpainter)
        match_times.append(time.perf_counter() - start)
    last = 0.0
    for step in style_optimisation.optimise(content.unsqueeze(0), target, vgg, steps=steps, dtype=dtype):
        step_times.append(step.seconds - last)
        last = step.seconds
        objectives.append(step.objective)
    memory = peak_memory("cpu") - before
    with torch.no_grad():
        objective = style_optimisation.objective(step.picture, target, vgg).item()
    return {
        "match_times": match_times,
        "step_times": step_times,
        "objectives": objectives,
        "peak_memory_mib": round(memory / 2**20),
        "objective": round(objective, 4),
    }


def swapped(content: Tensor, style: Tensor, inpainter: inpaint.Inpainter) -> Tensor:
    """The features that inpaint.stylize decodes: (1, 256, H/4, W/4)."""
    pictures = content.unsqueeze(0), style.unsqueeze(0)
    features, copied = (find_features(picture, inpainter) for picture in pictures)
    comparison = Comparison((pictures[0], features), (pictures[1], copied), DEFAULT_TONE)
    index = torch.cat(list(comparison.match()), dim=1)
    index = torch.cat(list(comparison.cohere(index, DEFAULT_COHERENCE)), dim=1)
    return patchswap.fold(index, copied, output_size=(features.shape[2], features.shape[3]))


def measure_quality() -> None:
    inpainter = inpaint.load(device="cpu")
    print(f"{'coherence':>10} {'tone':>6} {'Gram':>8} {'brightness':>11} {'colours':>8}")
    settings = [(coherence, DEFAULT_TONE) for coherence in (0.0, 0.05, 0.1, 0.2, 0.4)]
    settings += [(DEFAULT_COHERENCE, tone) for tone in (0.0, 0.15, 0.5, 1.0)]
    for coherence, tone in settings:
        rows = []
        for content_name in CONTENTS:
            content = read(EXAMPLES / "photos" / content_name).colours()
            for style_name in STYLES:
                style = read(EXAMPLES / "styles" / style_name).colours()
                painted = inpaint.stylize(content, style, tone=tone, coherence=coherence, inpainter=inpainter)
                rows.append(compare(painted, content, style, inpainter))
        gram, brightness, colours = torch.tensor(rows).mean(0).tolist()
        print(f"{coherence:10.2f} {tone:6.2f} {gram:8.3f} {brightness:11.3f} {100 * colours:7.2f} %", flush=True)


@torch.inference_mode()
def compare(
    painted: Tensor, content: Tensor, style: Tensor, inpainter: inpaint.Inpainter
) -> tuple[float, float, float]:
    """Relative distance of Gram matrices, correlation of brightness in 16x16 pixels, distance of colours."""
    layers = ("relu1_1", "relu2_1", "relu3_1")
    features = [inpainter.networks.vgg(picture.unsqueeze(0), layers) for picture in (painted, style)]
    found, wanted = ([gram(of_picture[layer]) for layer in layers] for of_picture in features)
    distances = [((a - b).norm() / b.norm()).item() for a, b in zip(found, wanted, strict=True)]
    blocks = [torch.nn.functional.avg_pool2d(luminance(p.unsqueeze(0)), 16).flatten() for p in (painted, content)]
    directions = torch.nn.functional.normalize(torch.randn(64, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    levels = torch.linspace(0, 1, 257)
    quantiles = [(directions @ picture.flatten(1)).quantile(levels, dim=1) for picture in (painted, style)]
    colours = (quantiles[0] - quantiles[1]).abs().mean().item()
    return statistics.mean(distances), torch.corrcoef(torch.stack(blocks))[0, 1].item(), colours


def gram(features: Tensor) -> Tensor:
    cells = features[0].flatten(1)
    return cells @ cells.T / cells.shape[1]


if __name__ == "__main__":
    main()
