"""Whether method="auto" of patchswap.match takes the faster search: over channels, sizes of patches and maps, and k.

    python benchmarks/development/bench_choice.py --out benchmarks/results/choice-cpu.json

One thread matches a map with another of its size, without masks, by "dense", "pruned" and "auto" in turn. The least
processor time of some rounds is kept. The ratio is the time of "auto" over the lower of the other two.

Maps, 16 to 128 cells wide: "photo" is made of the layers of VGG-19 for two photographs of cases.py, pooled to the size
of the map: relu1_2 for 64 channels, relu2_2 for 128, relu3_1 for 256. More channels are the first ones of relu3_1's 3x3
neighbourhoods and relu2_1, 2,432 in all. "spectrum" is spectrum-64/0.3 of cases.py, "random" are independent normal
numbers. Then maps of 4,096 cells in rows of other lengths. --longest leaves out what takes longer by "dense".
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import machine
import torch
import torch.nn.functional as F
from bench_match import write
from cases import photograph, spectrum_features
from torch import Tensor

import patchswap
from inpaint.networks.vgg import load_vgg19
from inpaint.weights import FOLDER, VGG_FILE

CHANNELS = (64, 128, 256, 512, 768, 1024, 2432)
SIDES = (16, 32, 64, 128)
NARROW = ((1, 4096), (4, 1024), (16, 256), (256, 16), (1024, 4), (4096, 1))  # rows and columns
METHODS = ("dense", "pruned", "auto")
LAYERS = ("relu1_2", "relu2_1", "relu2_2", "relu3_1")
SHORT = 0.01  # seconds of a call
MULTIPLICATIONS_PER_SECOND = 4e10  # of a slow core: for the estimate behind --longest alone


class Setting(NamedTuple):
    kind: str
    channels: int
    patch_size: int
    height: int
    width: int
    topk: int

    @property
    def multiplications(self) -> float:
        return float(self.height * self.width) ** 2 * self.channels


def settings(kinds: list[str]) -> Iterator[Setting]:
    for kind in kinds:
        for channels in CHANNELS:
            for patch_size in (1, 3):
                for topk in (1, 8):
                    for side in SIDES:
                        yield Setting(kind, channels, patch_size, side, side, topk)
                    for height, width in NARROW if channels == 256 else ():
                        yield Setting(kind, channels, patch_size, height, width, topk)


def photo_layers() -> dict[str, Tensor]:
    """Layers of two photographs, (2, C, H, W)."""
    pixels = torch.from_numpy(photograph(1024)[:512]).permute(2, 0, 1).float() / 255
    pair = torch.stack(pixels.split(512, dim=2)[:2])
    return load_vgg19(FOLDER / VGG_FILE)(pair, LAYERS)


def maps(setting: Setting, layers: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Query and key, (1, C, H, W)."""
    kind, channels, _, height, width, _ = setting
    side = round((height * width) ** 0.5)
    if kind == "random":
        pair = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(side))
    elif kind == "spectrum":
        both = spectrum_features(2 * side, 64, 0.3, channels)
        pair = torch.cat([both[..., :side, :side], both[..., side:, side:]])
    else:
        pooled = {name: F.adaptive_max_pool2d(layer, side) for name, layer in layers.items()}
        if channels in (64, 128, 256):
            pair = pooled[{64: "relu1_2", 128: "relu2_2", 256: "relu3_1"}[channels]]
        else:
            around = F.unfold(F.pad(pooled["relu3_1"], (1,) * 4, mode="replicate"), 3).unflatten(2, (side, side))
            pair = torch.cat([around, pooled["relu2_1"]], dim=1)[:, :channels]
    query, key = pair.reshape(2, 1, channels, height, width).contiguous()
    return query, key


def seconds(query: Tensor, key: Tensor, setting: Setting, method: str) -> float:
    """Processor time of a call: of a short one the mean of many, after one that warms the caches."""

    def timed(calls: int) -> float:
        start = time.process_time()
        for _ in range(calls):
            patchswap.match(query, key, patch_size=setting.patch_size, topk=setting.topk, method=method)
        return (time.process_time() - start) / calls

    first = timed(1)
    return first if first > SHORT else timed(1 + int(SHORT / first))


def measure(setting: Setting, layers: dict[str, Tensor], rounds: int) -> dict[str, Any]:
    query, key = maps(setting, layers)
    times: dict[str, list[float]] = {method: [] for method in METHODS}
    for turn in range(rounds):
        for method in METHODS:
            times[method].append(seconds(query, key, setting, method))
        if turn and sum(map(sum, times.values())) > 4:
            break
    least = {method: min(values) for method, values in times.items()}
    chosen = "pruned" if abs(least["auto"] - least["pruned"]) < abs(least["auto"] - least["dense"]) else "dense"
    ratio = least["auto"] / min(least["dense"], least["pruned"])
    rounded = {method: float(f"{value:.4g}") for method, value in least.items()}
    return {**setting._asdict(), "seconds": rounded, "nearer": chosen, "ratio": round(ratio, 3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", default=["photo", "spectrum", "random"])
    parser.add_argument("--longest", type=float, default=20, help="estimated seconds of a dense search")
    parser.add_argument("--rounds", type=int, default=5, help="at most, of each setting")
    parser.add_argument("--only", default="", help="JSON file of an earlier run: the settings above 1.15 there")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen = list(settings(arguments.kinds))
    if arguments.only:
        rows = json.loads(Path(arguments.only).read_text())["rows"]
        chosen = [Setting(*(row[name] for name in Setting._fields)) for row in rows if row["ratio"] > 1.15]
    rows: list[dict[str, Any]] = []
    command = machine.command_line("benchmarks/development/bench_choice.py")
    with torch.inference_mode():
        layers = photo_layers()
        for setting in chosen:
            if setting.multiplications / MULTIPLICATIONS_PER_SECOND > arguments.longest:
                continue
            rows.append(measure(setting, layers, arguments.rounds))
            print(*setting, rows[-1]["seconds"], rows[-1]["nearer"], rows[-1]["ratio"], flush=True)
            if arguments.out:
                write(
                    arguments.out,
                    {"machine": machine.describe("cpu", command), "threads": 1, "rows": rows},
                )
    print(f"largest ratio {max(row['ratio'] for row in rows):.3f} of {len(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
