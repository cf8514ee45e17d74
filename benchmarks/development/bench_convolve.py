"""The convolutions of the networks: patchswap's minimal filtering against torch's, layer by layer.

    python benchmarks/development/bench_convolve.py --out benchmarks/results/convolve-cpu.json

The layers are those of VGG-19 and Feature2Image, at the sizes they have for a picture of 512x512 or a part of it, in
float32, inference, inputs random and channels last, bias and leaky ReLU included. Doubled maps are enlarged as the
networks do it with torch, by four 2x2 convolutions. The two take turns, round after round; times are medians. Errors
are the largest from float64, over the largest value.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import machine
import torch
from bench_match import write
from measure_pipeline import convolving_by_torch
from torch import Tensor, nn

from inpaint.networks import convolution
from patchswap import reference

# channels, those of the skip, output channels, height and width of the result, is it a doubled map
LAYERS = {
    "VGG-19 conv1_1": (3, 0, 64, 256, False),
    "VGG-19 conv1_2": (64, 0, 64, 256, False),
    "VGG-19 conv2_2": (128, 0, 128, 128, False),
    "VGG-19 conv3_1": (128, 0, 256, 128, False),
    "Feature2Image down, first": (256, 0, 128, 128, False),
    "Feature2Image up, last": (192, 128, 128, 128, True),
    "Feature2Image to_full": (64, 0, 32, 512, True),
    "Feature2Image to_rgb": (32, 0, 3, 512, False),
}
SLOPE = 0.2


def make_layer(name: str) -> tuple[Tensor, nn.Conv2d, Tensor | None]:
    """What goes into a layer, the layer, and its skip."""
    channels, skipped, outputs, side, doubled = LAYERS[name]
    generator = torch.Generator().manual_seed(0)
    shape = (1, channels, side // 2, side // 2) if doubled else (1, channels, side, side)
    x, skip = torch.rand(shape, generator=generator), torch.rand((1, skipped, side, side), generator=generator)
    last = torch.channels_last
    layer = nn.Conv2d(channels + skipped, outputs, 3, padding=1).to(memory_format=last)  # type: ignore[call-overload]
    return x.contiguous(memory_format=last), layer, skip.contiguous(memory_format=last) if skipped else None


def measure(name: str, rounds: int) -> dict[str, Any]:
    x, layer, skip = make_layer(name)
    doubled = LAYERS[name][-1]

    def ours() -> Tensor:
        return convolution.convolve(x, layer, doubled=doubled, skip=skip, slope=SLOPE)

    def by_torch() -> Tensor:
        with convolving_by_torch():
            return ours()

    inputs = (each if each is None else each.double() for each in (x, layer.weight, layer.bias, skip))
    exact = reference.convolution(*inputs, 1, doubled, False, SLOPE)
    ways: dict[str, Callable[[], Tensor]] = {"ours": ours, "torch": by_torch}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            if turn > 0:
                times[way].append(time.perf_counter() - start)
    channels, skipped, outputs, side, _ = LAYERS[name]
    row: dict[str, Any] = {"layer": name, "channels": channels + skipped, "outputs": outputs, "side": side}
    for way, run in ways.items():
        median = statistics.median(times[way])
        row[f"{way}_ms"] = round(1e3 * median, 3)
        row[f"{way}_error"] = float(f"{(run() - exact).abs().max() / exact.abs().max():.2g}")
    return row | {"times_ours": round(row["torch_ms"] / row["ours_ms"], 3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    results = []
    with torch.inference_mode():
        for name in LAYERS:
            results.append(measure(name, arguments.rounds))
            print(results[-1], flush=True)
    if arguments.out:
        described = machine.describe("cpu", machine.command_line("benchmarks/development/bench_convolve.py"))
        write(arguments.out, {"machine": described, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
