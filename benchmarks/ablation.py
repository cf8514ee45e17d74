"""What each choice of the pipeline is worth: the same photographs and holes with one thing changed at a time.

    python benchmarks/ablation.py PHOTOGRAPHS MASKS --out DIR --lpips-weights lpips_alex.safetensors
    python benchmarks/ablation.py PHOTOGRAPHS MASKS --out DIR --seconds 5 --json results.json

Every variant is the pipeline itself: it is built with other options, or one function that it calls is replaced while it
runs. Variants and kinds of holes that DIR already holds for the same weights, photographs and masks are not measured
again. With --seconds N, the first N photographs of the first kind are timed afterwards, in turns; without it, the
column stays empty, because a long run is rarely alone on its machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))

import machine
import tables
import torch
import torch.nn.functional as F
from torch import Tensor

import patchswap
from inpaint import pipeline, weights
from inpaint.evaluation.protocol import evaluate, pair_samples
from inpaint.holes import read_hole
from inpaint.networks import VGG19
from inpaint.photo import read
from inpaint.pipeline import Inpainter

MEASURED = tuple(tables.ABLATION_MEASURES)


@dataclass(frozen=True)
class Variant:
    """One change from the default.

    change: what it is, for the table. options: keyword arguments of Inpainter. scales: short sides in pixels instead
    of the automatic choice. matched: makes what is matched out of (features, feature hole); what is copied stays the
    features. detail, rim: instead of ``pipeline._lost_detail`` and ``pipeline._off_at_rim``. networks: puts other
    networks in the pipeline's place.
    """

    change: str
    options: Mapping[str, Any] = field(default_factory=dict)
    scales: tuple[int, ...] | None = None
    matched: Callable[[Tensor, Tensor], Tensor] | None = None
    detail: Callable[[Tensor, Tensor], Tensor] | None = None
    rim: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    networks: Callable[[Inpainter], None] | None = None

    def method(self, networks: weights.Networks, device: str = "cpu") -> Callable[[Tensor, Tensor], Tensor]:
        """A method for ``inpaint.evaluation``: (3, H, W) and (H, W) -> (3, H, W)."""
        inpainter = Inpainter(networks, device, **self.options)
        if self.networks:
            self.networks(inpainter)

        def fill(image: Tensor, hole: Tensor) -> Tensor:
            with self.in_force():
                return inpainter.run(image, hole, scales=self.scales).image

        return fill

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """The functions that the pipeline calls are this variant's."""
        with ExitStack() as changes:
            if self.matched:
                swap = partial(swap_matched_in, self.matched, pipeline._swap)
                changes.enter_context(mock.patch.object(pipeline, "_swap", swap))
            if self.detail:
                changes.enter_context(mock.patch.object(pipeline, "_lost_detail", self.detail))
            if self.rim:
                changes.enter_context(mock.patch.object(pipeline, "_off_at_rim", self.rim))
            yield


def swap_matched_in(
    matched: Callable[[Tensor, Tensor], Tensor],
    swap: Callable[..., Any],
    features: Tensor,
    *,
    hole: Tensor,
    **options: Any,
) -> tuple[Tensor, patchswap.Match]:
    """patchswap.swap, or the pipeline's, of ``features`` with the choice made in other ones."""
    _, match = swap(matched(features, hole), hole=hole, **options)
    size = (features.shape[2], features.shape[3])
    copied = patchswap.fold(match.index, features, output_size=size, base=features)
    return torch.where(hole[:, None], copied, features), match


def centred(features: Tensor, hole: Tensor) -> Tensor:
    """Without each channel's mean over the known cells: the score becomes a correlation in the statistical sense."""
    return features - known_mean(features, hole)


def unit_deviation(features: Tensor, hole: Tensor) -> Tensor:
    """Each channel divided by its standard deviation over the known cells."""
    variance = known_mean(centred(features, hole).square(), hole)
    return features / (variance.sqrt() + 0.05)  # channels that hardly ever fire are not to be blown up


def logarithms(features: Tensor, hole: Tensor) -> Tensor:
    """log(1 + activation), which is what Feature2Image sees."""
    return torch.log1p(features)


def known_mean(features: Tensor, hole: Tensor) -> Tensor:
    known = (~hole)[:, None].to(features.dtype)
    return (features * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True)


lost_detail = pipeline._lost_detail


def partial_detail(strength: float, residual: Tensor, index: Tensor) -> Tensor:
    return strength * lost_detail(residual, index)


def agreed_detail(residual: Tensor, index: Tensor) -> Tensor:
    """Damped where the copies that overlap in a cell disagree: times |mean|^2 / mean of |copy|^2, at most 1."""
    share = energy_of_mean(residual, index)
    return lost_detail(residual, index) * share


def lively_detail(residual: Tensor, index: Tensor) -> Tensor:
    """What averaging took away is given back: as strong as the copies are, not as their mean is."""
    share = energy_of_mean(residual, index).clamp(min=1 / 9)
    return lost_detail(residual, index) / share.sqrt()


def energy_of_mean(residual: Tensor, index: Tensor) -> Tensor:
    """(B, 1, H, W): |mean of the overlapping copies|^2 / mean of |copy|^2 in each cell of 4x4 pixels."""
    height, width = residual.shape[-2:]
    cells = F.pixel_unshuffle(F.pad(residual, (0, -width % 4, 0, -height % 4)), 4)
    size = (cells.shape[2], cells.shape[3])
    mean = patchswap.fold(index, cells, output_size=size)
    energy = patchswap.fold(index, cells.square().sum(1, keepdim=True), output_size=size)
    share = (mean.square().sum(1, keepdim=True) / energy.clamp(min=1e-8)).clamp(0, 1)
    return F.interpolate(share, scale_factor=4)[..., :height, :width]


def single_detail(residual: Tensor, index: Tensor) -> Tensor:
    """Each cell's error from the middle of one patch, the one centred on it, instead of a mean over nine."""
    height, width = residual.shape[-2:]
    cells = F.pixel_unshuffle(F.pad(residual, (0, -width % 4, 0, -height % 4)), 4)
    rows, columns = cells.shape[2:]
    centre = (index // (columns - 2) + 1) * columns + index % (columns - 2) + 1
    centre = torch.where(index < 0, -1, centre)
    copied = patchswap.fold(F.pad(centre, (1, 1, 1, 1), value=-1), cells, output_size=(rows, columns), patch_size=1)
    return F.pixel_shuffle(copied, 4)[..., :height, :width]


def nothing_off(residual: Tensor, index: Tensor, hole: Tensor) -> Tensor:
    return torch.zeros_like(residual)


def copied_pixels(photograph: Tensor, index: Tensor) -> Tensor:
    """The pixels themselves carried by the match field, and the photograph where nothing was matched."""
    height, width = photograph.shape[-2:]
    cells = F.pixel_unshuffle(F.pad(photograph, (0, -width % 4, 0, -height % 4), mode="replicate"), 4)
    copied = patchswap.fold(index, cells, output_size=(cells.shape[2], cells.shape[3]), base=cells)
    return F.pixel_shuffle(copied, 4)[..., :height, :width]


def without_decoder(inpainter: Inpainter) -> None:
    """Feature2Image paints nothing, so that all of the picture is "detail"."""
    inpainter.feature2image = lambda features: features.new_zeros(
        (len(features), 3, 4 * features.shape[2], 4 * features.shape[3])
    )


def averaged_over_mirror_image(inpainter: Inpainter) -> None:
    """Image2Feature's mean of the completions of the picture and of its mirror image."""
    network = inpainter.image2feature

    def infer(image: Tensor, hole: Tensor) -> Tensor:
        return (network(image, hole) + network(image.flip(-1), hole.flip(-1)).flip(-1)) / 2

    inpainter.image2feature = infer


class FinerToo:
    """VGG-19's relu3_1 with the four cells of relu2_1 that lie in each of its own as further channels."""

    def __init__(self, vgg: VGG19) -> None:
        self.vgg = vgg

    def relu3_1(self, image: Tensor) -> Tensor:
        features = self.vgg(image, ("relu2_1", "relu3_1"))
        coarse, fine = features["relu3_1"], features["relu2_1"]
        cells = F.pixel_unshuffle(F.pad(fine, (0, fine.shape[3] % 2, 0, fine.shape[2] % 2), mode="replicate"), 2)
        return torch.cat((coarse, cells * (coarse.norm() / cells.norm())), dim=1)  # both weigh the same


def matching_finer_too(inpainter: Inpainter) -> None:
    """Patches are matched, and so carried, with relu2_1 beside relu3_1; Feature2Image sees relu3_1 as ever."""
    network = inpainter.feature2image
    inpainter.vgg = FinerToo(inpainter.vgg)
    inpainter.feature2image = lambda features: network(features[:, :256])


VARIANTS = {
    "default": Variant("the default"),
    "carry-0": Variant("all frequencies from the decoder (`carry=0`)", {"carry": 0}),
    "carry-2": Variant("`carry=2`", {"carry": 2}),
    "carry-4": Variant("`carry=4`", {"carry": 4}),
    "carry-8": Variant("`carry=8`", {"carry": 8}),
    "detail-0": Variant("the decoder's picture alone (`detail=False`)", {"detail": False}),
    "detail-0.5": Variant("half of the detail", detail=partial(partial_detail, 0.5)),
    "detail-0.75": Variant("three quarters of the detail", detail=partial(partial_detail, 0.75)),
    "detail-agreed": Variant("detail damped where copies disagree", detail=agreed_detail),
    "detail-lively": Variant("detail as strong as the copies are", detail=lively_detail),
    "detail-single": Variant("detail from one patch, not from the mean of nine", detail=single_detail),
    "pixels": Variant(
        "the pixels themselves carried, without a decoder", detail=copied_pixels, networks=without_decoder
    ),
    "rim-as-copied": Variant("what is off along the rim not spread into the hole", rim=nothing_off),
    "key-margin-1": Variant("`key_margin=1`", {"key_margin": 1}),
    "key-margin-2": Variant("`key_margin=2`", {"key_margin": 2}),
    "key-margin-4": Variant("`key_margin=4`", {"key_margin": 4}),
    "match-centred": Variant("match without each channel's mean", matched=centred),
    "match-deviation": Variant("match with channels of deviation 1", matched=unit_deviation),
    "match-finer": Variant("match relu2_1 as well as relu3_1", networks=matching_finer_too),
    "match-logarithms": Variant("match logarithms of the activations", matched=logarithms),
    "asymmetric": Variant("Image2Feature not averaged (`symmetric=False`)", {"symmetric": False}),
    "mirrored": Variant(
        "Image2Feature averaged over the mirror image only", {"symmetric": False}, networks=averaged_over_mirror_image
    ),
    "float32": Variant("networks in float32 (`precision`)", {"precision": "float32"}),
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
    command = machine.command_line("benchmarks/ablation.py")
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
