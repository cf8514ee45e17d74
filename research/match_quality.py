"""How good the chosen patches are: where the truth's own best match lies, and how much of its score they reach.

    python research/match_quality.py PHOTOGRAPHS MASKS --out benchmarks/results/match-quality-512-cpu.json

At every scale each 3x3 patch that touches the hole has a key that the pipeline chose from what the coarser scale had
put there. With the features of the truth in the hole, another key would have been chosen: the best. Measured are how
often the two are the same or close to each other, and the score (normalised cross-correlation, NCC) that the truth's
patch has with the chosen key, on a scale from a random key (0) to the best (1): the reach. The same is done for keys
chosen from a fill of smooth colours (Telea's, and at the coarsest scale the one that Image2Feature starts from), and
for random keys.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import machine
import tables
import torch
from torch import Tensor
from tqdm import tqdm

import inpaint
import patchswap
from inpaint import weights
from inpaint.evaluation.methods import named_method
from inpaint.evaluation.protocol import pair_samples
from inpaint.holes import read_hole
from inpaint.photo import read
from inpaint.pyramid import halve
from inpaint.tensor_photo import TensorPhoto
from inpaint.window import Level
from inpaint.work import prepare
from patchswap.ops import fill_smoothly

NEAR = (4, 8, 16)  # cells; a cell is 4 pixels of its scale
ORDER = ("pipeline", "smooth fill", "Telea", "random key")


def main() -> None:
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    inpainter = inpaint.load(arguments.weights, device=arguments.device)
    samples, _ = pair_samples(arguments.images, arguments.masks, arguments.kinds, arguments.limit)
    measured: dict[tuple[str, int, str], list[dict[str, float]]] = defaultdict(list)
    for sample in tqdm(samples, unit="photo"):
        truth = read(sample.image).colours()
        hole = torch.from_numpy(read_hole(sample.mask, size=(truth.shape[1], truth.shape[2])))
        for (size, source), row in measure(inpainter, truth, hole).items():
            measured[sample.kind, size, source].append(row)
    results = []
    for (kind, size, source), rows in sorted(measured.items(), key=lambda item: place(item[0])):
        means = {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}
        results.append({"kind": kind, "short_side": size, "source": source, "images": len(rows), **means})
    content = {
        "machine": machine.describe(arguments.device, machine.command_line("research/match_quality.py")),
        "weights_sha256": weights.sha256(weights.resolve(arguments.weights)),
        "results": results,
    }
    if arguments.out:
        temporary = arguments.out.with_name(arguments.out.name + ".part")
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(temporary, arguments.out)
    print(tables.match_quality(results))


@torch.inference_mode()
def measure(inpainter: inpaint.Inpainter, truth: Tensor, hole: Tensor) -> dict[tuple[int, str], dict[str, float]]:
    """{(short side of the scale, where the keys come from): what was measured} of one photograph."""
    filled = inpainter.fill(prepare(TensorPhoto(truth), hole), keep=True)
    nothing = torch.zeros_like(hole)[None, None]
    true, known = ([each] for each in ((truth[None], nothing), (truth[None], hole[None, None])))
    found: dict[tuple[int, str], list[Compared]] = defaultdict(list)
    for window in filled.kept:
        for scale in window.scales:
            level = scale.level
            while len(true) <= level.halvings:
                true.append(halve(*true[-1]))
                known.append(halve(*known[-1]))
            if not level.queries.any():
                continue
            place = (..., level.part.rows, level.part.columns)
            photograph, unknown = (part[place] for part in known[level.halvings])
            sources = {"Telea": named_method("telea")(photograph[0], unknown[0, 0])[None]}
            if scale is window.scales[0]:
                sources["smooth fill"] = fill_smoothly(photograph, unknown[:, 0])
            features = features_of(inpainter, true[level.halvings][0][place])
            best = chosen_keys(features, level)
            queries, keys = (torch.from_numpy(mask).to(best.device) for mask in (level.queries, level.keys))
            chosen = {"pipeline": scale.match_index.to(best.device)[queries]}
            for name, picture in sources.items():
                completed = features_of(inpainter, torch.where(unknown, picture, photograph))
                chosen[name] = chosen_keys(completed, level)[queries]
            usable = keys.flatten().nonzero()[:, 0]
            drawn = torch.randint(len(usable), chosen["pipeline"].shape, generator=torch.Generator().manual_seed(0))
            chosen["random key"] = usable[drawn.to(usable.device)]
            for name, rows in compare(features, best, chosen).items():
                found[min(level.size), name].append(rows)
    whole = {key: Compared(*map(torch.cat, zip(*of_windows, strict=True))) for key, of_windows in found.items()}
    return {(size, name): summary(rows, whole[size, "random key"]) for (size, name), rows in whole.items()}


def features_of(inpainter: inpaint.Inpainter, picture: Tensor) -> Tensor:
    return inpainter.networks.vgg.relu3_1(picture.to(inpainter.device))


def chosen_keys(features: Tensor, level: Level) -> Tensor:
    """(rows, columns) of the patch grid: the key that patch-swap chooses, -1 where nothing is matched."""
    queries, keys = (torch.from_numpy(mask)[None].to(features.device) for mask in (level.queries, level.keys))
    return patchswap.match(features, features, query_mask=queries, key_mask=keys).index[0]


class Compared(NamedTuple):
    """Chosen keys beside the best, (queries,) each: cells between the two, the chosen one's score, the best one's."""

    distance: Tensor
    score: Tensor
    best_score: Tensor


def compare(features: Tensor, best: Tensor, chosen: dict[str, Tensor]) -> dict[str, Compared]:
    """Chosen keys against the best.

    Args:
        features: (1, C, H, W) of the truth.
        best: (H - 2, W - 2) int64, -1 where nothing is matched; otherwise the key of the highest score.
        chosen: by name, (queries,) int64: keys in the order of the queries, row by row.
    """
    columns = best.shape[1]
    queries, keys = (best >= 0).flatten().nonzero()[:, 0], best[best >= 0]
    highest = scores(features, queries, keys)
    rows = {}
    for name, found in chosen.items():
        down, right = found // columns - keys // columns, found % columns - keys % columns
        rows[name] = Compared(torch.hypot(down.float(), right.float()), scores(features, queries, found), highest)
    return rows


def summary(rows: Compared, random: Compared) -> dict[str, float]:
    """Means over all queries; ``random`` has random keys for the same ones."""
    score, best, lowest = rows.score.mean(), rows.best_score.mean(), random.score.mean()
    return {
        "same": 100 * (rows.distance == 0).float().mean().item(),
        **{f"within_{cells}": 100 * (rows.distance <= cells).float().mean().item() for cells in NEAR},
        "score": score.item(),
        "best_score": best.item(),
        "reach": ((score - lowest) / (best - lowest)).item(),
    }


def scores(features: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """Normalised cross-correlation of 3x3 patches, given by their rows on the patch grid: (queries,) float."""
    columns = features.shape[3] - 2
    product, query_norm, key_norm = (torch.zeros(len(queries), device=features.device) for _ in range(3))
    for row in range(3):
        for column in range(3):
            query = features[0, :, queries // columns + row, queries % columns + column]
            key = features[0, :, keys // columns + row, keys % columns + column]
            product += (query * key).sum(0)
            query_norm += query.square().sum(0)
            key_norm += key.square().sum(0)
    return product / (query_norm * key_norm).sqrt().clamp(min=1e-12)


def place(key: tuple[str, int, str]) -> tuple[str, int, int]:
    kind, size, source = key
    return kind, size, ORDER.index(source)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="folder of photographs")
    parser.add_argument("masks", type=Path, help="folder of masks, named as `inpaint evaluate` wants them")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=["center"])
    parser.add_argument("--weights", default="default", help="a name or a file")
    parser.add_argument("--limit", type=int, help="use the first so many photographs only")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
