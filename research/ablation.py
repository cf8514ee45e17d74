"""What each choice of the pipeline is worth: the same photographs and holes with one thing changed at a time.

    python research/ablation.py PHOTOGRAPHS MASKS --out DIR --lpips-weights lpips_alex.safetensors
    python research/ablation.py PHOTOGRAPHS MASKS --out DIR --seconds 5 --json results.json

Every variant is the pipeline itself with another recipe (inpaint.recipe), other networks, scales or precision. Variants
and kinds of holes that DIR already holds for the same weights, photographs and masks are not measured again. With
--seconds N, the first N photographs of the first kind are timed afterwards, in turns; without it, the column stays
empty, because a long run is rarely alone on its machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import machine
import tables
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import inpaint
import patchswap
from inpaint import weights
from inpaint.cells import CELL, PATCH
from inpaint.evaluation.protocol import evaluate, pair_samples
from inpaint.finish import KeepColours, Step, Unfinished, level_at_rim, restore_detail, whole_cells
from inpaint.holes import read_hole
from inpaint.matching import Copies, MatchCoherently, WeighByScore, mean_of_copies
from inpaint.networks import VGG19
from inpaint.photo import read
from inpaint.recipe import WIDE, Recipe, default_recipe
from inpaint.scene import Scene
from patchswap import Match

MEASURED = tuple(tables.ABLATION_MEASURES)


@dataclass(frozen=True)
class Variant:
    """One change from the default.

    change: what it is, for the table. recipe: makes the variant's recipe out of the default one. networks: makes its
    networks out of the given ones. scales: short sides in pixels instead of the automatic choice. precision: as for
    Inpainter.
    """

    change: str
    recipe: Callable[[Recipe], Recipe] = lambda recipe: recipe
    networks: Callable[[weights.Networks], weights.Networks] | None = None
    scales: tuple[int, ...] | None = None
    precision: str = "auto"

    def method(self, networks: weights.Networks, device: str = "cpu") -> Callable[[Tensor, Tensor], Tensor]:
        """A method for ``inpaint.evaluation``: (3, H, W) and (H, W) -> (3, H, W)."""
        inpainter = inpaint.Inpainter(
            self.networks(networks) if self.networks else networks,
            device,
            recipe=lambda depth: self.recipe(default_recipe(depth)),
            precision=self.precision,
        )
        return lambda image, hole: inpainter(image, hole, self.scales)


def changed(**fields: Any) -> Callable[[Recipe], Recipe]:
    """The recipe with other fields."""
    return lambda recipe: dataclasses.replace(recipe, **fields)


def instead_of(step: Step, *others: Step) -> Callable[[Recipe], Recipe]:
    """The recipe with other finishing steps in the place of one, or none."""
    return lambda recipe: _with_steps(recipe, lambda each: others if each is step else (each,))


def colours_kept(*others: Step) -> Callable[[Recipe], Recipe]:
    """The recipe with these steps in the place of KeepColours."""
    return lambda recipe: _with_steps(recipe, lambda each: others if isinstance(each, KeepColours) else (each,))


def _with_steps(recipe: Recipe, change: Callable[[Step], tuple[Step, ...]]) -> Recipe:
    return dataclasses.replace(recipe, finish=tuple(step for each in recipe.finish for step in change(each)))


def compared_by(change: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Recipe], Recipe]:
    """The recipe that compares patches of changed features; what is copied are the features themselves."""

    def with_changed_features(recipe: Recipe) -> Recipe:
        def match(query: Tensor, key: Tensor, scene: Scene, coarser: Copies | None) -> Match:
            query, key = (change(features, scene.unknown_cells) for features in (query, key))
            return recipe.match(query, key, scene, coarser)

        return dataclasses.replace(recipe, match=match)

    return with_changed_features


def weight_of(recipe: Recipe) -> float:
    """The weight of neighbours that agree."""
    assert isinstance(recipe.match, MatchCoherently)
    return recipe.match.weight


def cohere(match: Tensor, query: Tensor, key: Tensor, scene: Scene) -> Match:
    """The coherent choice, with the default's weight, from other candidates."""
    return patchswap.cohere(
        match, query, key, weight=weight_of(WIDE), query_mask=match_mask(match), key_mask=scene.keys
    )


def match_mask(index: Tensor) -> Tensor:
    """The queries that have a key: of (B, k, h, w) or (B, h, w)."""
    return (index if index.dim() == 3 else index[:, 0]) >= 0


def with_second_best(query: Tensor, key: Tensor, scene: Scene, coarser: Copies | None) -> Match:
    """Offsets of the four best keys are candidates, not those of the best alone."""
    match = patchswap.match(query, key, query_mask=scene.queries, key_mask=scene.keys, topk=4)
    return cohere(match.index, query, key, scene)


def without_coarser_offsets(query: Tensor, key: Tensor, scene: Scene, coarser: Copies | None) -> Match:
    """Only the most similar key is a candidate at first, not the one at the coarser scale's offset."""
    return WIDE.match(query, key, scene, None)


def with_known_offsets(query: Tensor, key: Tensor, scene: Scene, coarser: Copies | None) -> Match:
    """Known patches near the rim are matched too, with keys that lie further off; their offsets may grow inwards."""
    match = patchswap.match(query, key, query_mask=scene.queries, key_mask=scene.keys)
    near = grown(scene.queries, 3) & ~scene.queries & scene.keys
    known = patchswap.match(query, key, query_mask=near, key_mask=scene.keys & ~grown(near, PATCH))
    coherent = cohere(torch.where(scene.queries, match.index, known.index), query, key, scene)
    return Match(coherent.index.masked_fill(~scene.queries, -1), coherent.score.masked_fill(~scene.queries, -torch.inf))


def grown(patches: Tensor, by: int) -> Tensor:
    """Patches at most so many steps from those of (B, h, w) bool."""
    return F.max_pool2d(patches.unsqueeze(1).float(), 2 * by + 1, stride=1, padding=by)[:, 0] > 0


def spread_over_keys(query: Tensor, key: Tensor, scene: Scene, coarser: Copies | None) -> Match:
    """Keys that more than four queries take are left to those that have none nearly as good: completeness."""
    match = patchswap.match(query, key, query_mask=scene.queries, key_mask=scene.keys)
    taken = match.index.clamp(min=0).flatten(1)
    often = torch.zeros(scene.keys.shape).flatten(1).scatter_add_(1, taken, scene.queries.flatten(1).float()) > 4
    rarer = patchswap.match(query, key, query_mask=scene.queries, key_mask=scene.keys & ~often.view_as(scene.keys))
    gives_way = often.gather(1, taken).view_as(scene.queries) & (rarer.score > match.score - 0.03)
    return cohere(torch.where(gives_way & scene.queries, rarer.index, match.index), query, key, scene)


def centred(features: Tensor, unknown: Tensor) -> Tensor:
    """Without each channel's mean over the known cells: the score becomes a correlation in the statistical sense."""
    return features - known_mean(features, unknown)


def unit_deviation(features: Tensor, unknown: Tensor) -> Tensor:
    """Each channel divided by its standard deviation over the known cells."""
    variance = known_mean(centred(features, unknown).square(), unknown)
    return features / (variance.sqrt() + 0.05)  # channels that hardly ever fire are not to be blown up


def logarithms(features: Tensor, unknown: Tensor) -> Tensor:
    """log(1 + activation), which is what Feature2Image sees."""
    return torch.log1p(features)


def known_mean(features: Tensor, unknown: Tensor) -> Tensor:
    """(B, C, h, w) and (B, 1, h, w) bool -> (B, C, 1, 1)."""
    known = (~unknown).to(features.dtype)
    return (features * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True)


def partial_detail(strength: float, painted: Tensor, work: Unfinished) -> Tensor:
    """That share of the detail."""
    return torch.lerp(painted, restore_detail(painted, work), strength)


def agreed_detail(painted: Tensor, work: Unfinished) -> Tensor:
    """Damped where the copies that overlap in a cell disagree: times |mean|^2 / mean of |copy|^2, at most 1."""
    return painted + (restore_detail(painted, work) - painted) * energy_of_mean(painted, work)


def lively_detail(painted: Tensor, work: Unfinished) -> Tensor:
    """What averaging took away is given back: as strong as the copies are, not as their mean is."""
    share = energy_of_mean(painted, work).clamp(min=1 / 9)
    return painted + (restore_detail(painted, work) - painted) / share.sqrt()


def energy_of_mean(painted: Tensor, work: Unfinished) -> Tensor:
    """(B, 1, h, w): |mean of the copies that overlap in each cell|^2 / mean of |copy|^2."""
    errors = F.pixel_unshuffle(whole_cells(work.part - painted), CELL)
    if not work.copies.scene.is_matched:
        return torch.ones_like(painted[:, :1])
    size, index = (errors.shape[2], errors.shape[3]), work.copies.match.index
    mean = patchswap.fold(index, errors, output_size=size)
    energy = patchswap.fold(index, errors.square().sum(1, keepdim=True), output_size=size)
    share = (mean.square().sum(1, keepdim=True) / energy.clamp(min=1e-8)).clamp(0, 1)
    return F.interpolate(share, scale_factor=CELL)[..., : painted.shape[2], : painted.shape[3]]


def single_detail(painted: Tensor, work: Unfinished) -> Tensor:
    """Each cell's error from the middle of one patch, the one centred on it, instead of a mean over nine."""
    if not work.copies.scene.is_matched:
        return painted
    errors = F.pixel_unshuffle(whole_cells(work.part - painted), CELL)
    rows, columns = errors.shape[2:]
    index = work.copies.match.index
    middle = (index // (columns - 2) + 1) * columns + index % (columns - 2) + 1
    middle = torch.where(index < 0, -1, middle)
    copied = patchswap.fold(F.pad(middle, (1, 1, 1, 1), value=-1), errors, output_size=(rows, columns), patch_size=1)
    return painted + F.pixel_shuffle(copied, CELL)[..., : painted.shape[2], : painted.shape[3]]


def copied_pixels(painted: Tensor, work: Unfinished) -> Tensor:
    """The photograph's own pixels, copied by the match, and the part itself where nothing was matched."""
    if not work.copies.scene.is_matched:
        return work.part
    cells = F.pixel_unshuffle(whole_cells(work.part), CELL)
    copied = patchswap.fold(work.copies.match.index, cells, output_size=(cells.shape[2], cells.shape[3]), base=cells)
    return F.pixel_shuffle(copied, CELL)[..., : painted.shape[2], : painted.shape[3]]


class FinerToo(nn.Module):
    """VGG-19's relu3_1 with the four cells of relu2_1 that lie in each of its own as further channels."""

    def __init__(self, vgg: VGG19) -> None:
        super().__init__()
        self.vgg = vgg

    def relu3_1(self, image: Tensor) -> Tensor:
        features = self.vgg(image, ("relu2_1", "relu3_1"))
        coarse, fine = features["relu3_1"], features["relu2_1"]
        cells = F.pixel_unshuffle(F.pad(fine, (0, fine.shape[3] % 2, 0, fine.shape[2] % 2), mode="replicate"), 2)
        return torch.cat((coarse, cells * (coarse.norm() / cells.norm())), dim=1)  # both weigh the same


class SeesRelu3Alone(nn.Module):
    """Feature2Image, shown the first 256 channels of what FinerToo gives: relu3_1."""

    def __init__(self, feature2image: nn.Module) -> None:
        super().__init__()
        self.feature2image = feature2image

    def forward(self, features: Tensor) -> Tensor:
        return self.feature2image(features[:, :256])


def with_finer_features(networks: weights.Networks) -> weights.Networks:
    """Patches are matched, and copied, with relu2_1 beside relu3_1."""
    return networks._replace(
        vgg=FinerToo(networks.vgg),  # type: ignore[arg-type]
        feature2image=SeesRelu3Alone(networks.feature2image),
    )


VARIANTS = {
    "default": Variant("the default"),
    "keep-colours-0": Variant("all frequencies from the decoder (no `KeepColours`)", colours_kept()),
    **{
        f"keep-colours-{factor}": Variant(f"`KeepColours({factor})`", colours_kept(KeepColours(factor)))
        for factor in (2, 4, 8)
    },
    "detail-0": Variant("no `restore_detail`", instead_of(restore_detail)),
    "detail-0.5": Variant("half of the detail", instead_of(restore_detail, partial(partial_detail, 0.5))),
    "detail-0.75": Variant("three quarters of the detail", instead_of(restore_detail, partial(partial_detail, 0.75))),
    "detail-agreed": Variant("detail damped where copies disagree", instead_of(restore_detail, agreed_detail)),
    "detail-lively": Variant("detail as strong as the copies are", instead_of(restore_detail, lively_detail)),
    "detail-single": Variant(
        "detail from one patch, not from the mean of nine", instead_of(restore_detail, single_detail)
    ),
    "pixels": Variant("the pixels themselves copied, not decoded", instead_of(restore_detail, copied_pixels)),
    "rim-as-copied": Variant("no `level_at_rim`", instead_of(level_at_rim)),
    **{
        f"coherence-{weight:g}": Variant(f"coherence {weight:g}", changed(match=MatchCoherently(weight)))
        for weight in (0, 0.05, 0.1, 0.2, 0.4)
    },
    "match-second-best": Variant("the four best keys as candidates", changed(match=with_second_best)),
    "match-alone": Variant("no candidates from the coarser scale", changed(match=without_coarser_offsets)),
    "match-known": Variant("offsets of known patches as candidates", changed(match=with_known_offsets)),
    "match-spread": Variant("keys of more than four queries masked", changed(match=spread_over_keys)),
    "vote-mean": Variant("the plain mean of copies", changed(vote=mean_of_copies)),
    **{
        f"vote-{temperature:g}": Variant(
            f"weights of copies: temperature {temperature:g}", changed(vote=WeighByScore(temperature))
        )
        for temperature in (0.06, 0.1, 0.2, 0.4)
    },
    **{f"rematches-{times}": Variant(f"`rematches={times}`", changed(rematches=times)) for times in (0, 1, 2)},
    "match-centred": Variant("match without each channel's mean", compared_by(centred)),
    "match-deviation": Variant("match with channels of deviation 1", compared_by(unit_deviation)),
    "match-finer": Variant("match relu2_1 as well as relu3_1", networks=with_finer_features),
    "match-logarithms": Variant("match logarithms of the activations", compared_by(logarithms)),
    **{f"views-{views}": Variant(f"`views={views}`", changed(views=views)) for views in (1, 2, 4, 8)},
    "float32": Variant("networks in float32 (`precision`)", precision="float32"),
    "scales-512": Variant("one scale: 512", scales=(512,)),
    "scales-256-512": Variant("scales 256, 512 (the paper's)", scales=(256, 512)),
    "scales-64-512": Variant("scales 64, 128, 256, 512", scales=(64, 128, 256, 512)),
}


def main() -> None:
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    networks = weights.load(arguments.weights)
    for name in arguments.variants:
        for kind in arguments.kinds:
            measure(name, kind, networks, arguments)
    if arguments.seconds:
        write(arguments.out / "seconds.json", time_variants(networks, arguments))
    content = collect(arguments)
    for path in (arguments.out / "ablation.json", arguments.json):
        if path:
            write(path, content)
    print(tables.ablation(content["results"]))


def measure(name: str, kind: str, networks: weights.Networks, arguments: argparse.Namespace) -> None:
    """Measures one variant on one kind of hole, unless that was done before."""
    folder = arguments.out / name / kind
    path = folder / "row.json"
    asked = {
        "variant": name,
        "change": VARIANTS[name].change,
        "kind": kind,
        "weights_sha256": weights.sha256(weights.resolve(arguments.weights)),
        "photographs": [
            sample.name for sample in pair_samples(arguments.images, arguments.masks, [kind], arguments.limit)[0]
        ],
    }
    if path.exists() and asked.items() <= json.loads(path.read_text()).items():
        return
    method = VARIANTS[name].method(networks, arguments.device)
    method.__name__ = name
    evaluation = evaluate(
        arguments.images,
        arguments.masks,
        method=method,
        out_dir=folder,
        kinds=[kind],
        lpips_weights=arguments.lpips_weights,
        limit=arguments.limit,
    )
    rows = [{key: getattr(row, key) for key in MEASURED} for row in evaluation.measurements]
    means = {key: None if rows[0][key] is None else statistics.fmean(row[key] for row in rows) for key in MEASURED}
    write(path, {**asked, "means": means, "measured": rows})


def time_variants(networks: weights.Networks, arguments: argparse.Namespace) -> dict[str, float]:
    """Median seconds of a call for each variant, which take turns so that a slow moment meets all of them alike."""
    samples, _ = pair_samples(arguments.images, arguments.masks, arguments.kinds[:1], arguments.seconds)
    pairs = []
    for sample in samples:
        image = read(sample.image).colours()
        hole = torch.from_numpy(read_hole(sample.mask, size=(image.shape[1], image.shape[2])))
        pairs.append((image.masked_fill(hole, 0), hole))
    methods = {name: VARIANTS[name].method(networks, arguments.device) for name in arguments.variants}
    times: dict[str, list[float]] = {name: [] for name in methods}
    for method in methods.values():
        method(*pairs[0])
    for image, hole in pairs:
        for name, method in methods.items():
            start = time.perf_counter()
            method(image, hole).cpu()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def collect(arguments: argparse.Namespace) -> dict[str, Any]:
    """All rows that the folder holds for the kinds that are asked for, each with its difference from the default."""
    seconds_file = arguments.out / "seconds.json"
    seconds = json.loads(seconds_file.read_text()) if seconds_file.exists() else {}
    found = {}
    for name in VARIANTS:
        for kind in arguments.kinds:
            path = arguments.out / name / kind / "row.json"
            if path.exists():
                found[name, kind] = json.loads(path.read_text())
    results = []
    for (name, kind), row in found.items():
        result = {key: row[key] for key in ("variant", "change", "kind", "weights_sha256")}
        result |= {"images": len(row["photographs"]), **row["means"]}
        base = found.get(("default", kind))
        if base and name != "default" and base["photographs"] == row["photographs"]:
            result["difference"] = {key: paired(base["measured"], row["measured"], key) for key in MEASURED}
        if name in seconds and kind == arguments.kinds[0]:
            result["seconds"] = seconds[name]
        results.append(result)
    command = machine.command_line("research/ablation.py")
    return {"machine": machine.describe(arguments.device, command), "results": results}


def paired(base: list[dict[str, float]], rows: list[dict[str, float]], key: str) -> dict[str, float] | None:
    """Mean difference from the default over photographs, and the standard error of that mean."""
    if base[0][key] is None or rows[0][key] is None or len(rows) < 2:
        return None
    differences = [row[key] - other[key] for row, other in zip(rows, base, strict=True)]
    return {"mean": statistics.fmean(differences), "error": statistics.stdev(differences) / len(differences) ** 0.5}


def write(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)


def names_of(known: Mapping[str, Any]) -> Callable[[str], list[str]]:
    """A parser of a comma-separated list of known names."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"expected names of {', '.join(known)}, got {', '.join(unknown)}")
        return names

    return parse


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="folder of photographs")
    parser.add_argument("masks", type=Path, help="folder of masks, named as `inpaint evaluate` wants them")
    parser.add_argument("--out", type=Path, required=True, help="folder for rows and pictures")
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=["center", "thick"])
    parser.add_argument("--variants", type=names_of(VARIANTS), default=list(VARIANTS), help="default: all")
    parser.add_argument("--weights", default="default", help="a name or a file")
    parser.add_argument("--lpips-weights", type=Path, help="weight file of LPIPS")
    parser.add_argument("--limit", type=int, help="use the first so many photographs only")
    parser.add_argument("--seconds", type=int, metavar="N", help="time N photographs afterwards")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--json", type=Path, help="another copy of the results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
