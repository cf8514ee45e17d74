"""How good the chosen patches are: where the truth's own best match lies, and how much of its score they reach.

    python benchmarks/match_quality.py PHOTOGRAPHS MASKS --out benchmarks/results/match-quality-512-cpu.json

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

sys.path.insert(0, str(Path(__file__).parent))

import machine
import tables
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import inpaint
import patchswap
from inpaint import weights
from inpaint.evaluation.methods import named_method
from inpaint.evaluation.protocol import pair_samples
from inpaint.holes import read_hole
from inpaint.mask import feature_hole
from inpaint.photo import read
from inpaint.pipeline import Inpainter
from inpaint.scales import resize, shrink
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
        "machine": machine.describe(arguments.device, machine.command_line("benchmarks/match_quality.py")),
        "weights_sha256": weights.sha256(weights.resolve(arguments.weights)),
        "results": results,
    }
    if arguments.out:
        temporary = arguments.out.with_name(arguments.out.name + ".part")
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(temporary, arguments.out)
    print(tables.match_quality(results))


@torch.inference_mode()
def measure(inpainter: Inpainter, truth: Tensor, hole: Tensor) -> dict[tuple[int, str], dict[str, float]]:
    """{(short side of the scale, where the keys come from): what was measured} of one photograph."""
    result = inpainter.run(truth, hole)
    measured: dict[tuple[int, str], dict[str, float]] = {}
    for number, scale in enumerate(result.scales):
        photograph, missing = shrink(truth[None], hole[None], scale.size)
        true = resize(truth[None], scale.size)  # without the hole's weights, which shrink() needs to hide the truth
        sources = {"Telea": named_method("telea")(photograph[0], missing[0])[None]}
        if number == 0:
            sources["smooth fill"] = fill_smoothly(photograph, missing)
        cells = feature_hole(missing).to(inpainter.device)
        features = inpainter.vgg.relu3_1(true.to(inpainter.device))
        best = chosen_keys(features, cells)
        queries = best >= 0
        chosen = {"pipeline": scale.match_index.to(best.device)[queries]}
        for name, picture in sources.items():
            filled = torch.where(missing[:, None], picture, photograph).to(inpainter.device)
            chosen[name] = chosen_keys(inpainter.vgg.relu3_1(filled), cells)[queries]
        keys = (~touching(cells)).flatten().nonzero()[:, 0]
        drawn = torch.randint(len(keys), chosen["pipeline"].shape, generator=torch.Generator().manual_seed(0))
        chosen["random key"] = keys[drawn.to(keys.device)]
        rows = compare(features, best, chosen)
        measured |= {(min(scale.size), name): row for name, row in rows.items()}
    return measured


def chosen_keys(features: Tensor, cells: Tensor) -> Tensor:
    """(rows, columns) of the patch grid: the key that patch-swap chooses, -1 where nothing is matched."""
    return patchswap.swap(features, hole=cells, return_match=True)[1].index[0]


def touching(cells: Tensor) -> Tensor:
    """Patches with a hole cell: (B, H, W) bool -> (B, H - 2, W - 2) bool."""
    return F.max_pool2d(cells[:, None].float(), 3, stride=1)[:, 0] > 0


def compare(features: Tensor, best: Tensor, chosen: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Chosen keys against the best.

    Args:
        features: (1, C, H, W) of the truth.
        best: (H - 2, W - 2) int64, -1 where nothing is matched; otherwise the key of the highest score.
        chosen: by name, (queries,) int64: keys in the order of the queries, row by row. "random key" must be there.
    """
    columns = best.shape[1]
    queries, keys = (best >= 0).flatten().nonzero()[:, 0], best[best >= 0]
    highest = scores(features, queries, keys)
    random = scores(features, queries, chosen["random key"]).mean()
    rows = {}
    for name, found in chosen.items():
        down, right = found // columns - keys // columns, found % columns - keys % columns
        distance = torch.hypot(down.float(), right.float())
        score = scores(features, queries, found).mean()
        rows[name] = {
            "same": 100 * (found == keys).float().mean().item(),
            **{f"within_{cells}": 100 * (distance <= cells).float().mean().item() for cells in NEAR},
            "score": score.item(),
            "best_score": highest.mean().item(),
            "reach": ((score - random) / (highest.mean() - random)).item(),
        }
    return rows


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
