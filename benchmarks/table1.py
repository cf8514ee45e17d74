"""Table 1 of the paper in form: neural inpainting and ours on the same photographs and centre holes.

    python benchmarks/table1.py PHOTOGRAPHS MASKS --out table1

`make table1 PHOTOS=folder` does it with what it needs. A few photographs of each method are timed first, while nothing
else runs; then all are filled and measured. Writes table1.md, table1.json and report/report.html. What --out holds is
kept, photograph by photograph, so that a run that was stopped goes on where it was.

PHOTOGRAPHS and MASKS are those of `inpaint evaluate`; the photographs are square, and are shrunk to --size with their
masks (center_*.png). --also adds further methods: telea, ns, biharmonic, mean-colour, or NAME=FOLDER with results of
another program at that size.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import machine
import numpy as np
import tables
import torch
from PIL import Image
from rivals.deep_vgg import find_deep_vgg, load_deep_vgg
from rivals.neural_inpainting import FORMS, MATCHERS, NeuralInpainting
from torch import Tensor
from tqdm import tqdm

import inpaint
from inpaint import weights
from inpaint.errors import InpaintError
from inpaint.evaluation.comparison import compare
from inpaint.evaluation.methods import BASELINES, Method
from inpaint.evaluation.metrics import find_lpips_weights
from inpaint.evaluation.protocol import evaluate, pair_samples
from inpaint.holes import read_hole
from inpaint.photo import read as read_photo
from inpaint.photo import save_picture, to_pil
from inpaint.pyramid import resize

KIND = "center"
COMPARED = ("neural-inpainting", "ours")
LABELS = {
    "neural-inpainting": "neural inpainting",
    "ours": "ours",
    "telea": "OpenCV Telea",
    "ns": "OpenCV Navier-Stokes",
    "biharmonic": "scikit-image biharmonic",
    "mean-colour": "mean colour",
}


def biharmonic() -> Method:
    """Chui & Mhaskar's biharmonic equation (2010), by scikit-image."""
    try:
        from skimage.restoration import inpaint_biharmonic
    except ImportError as error:
        raise InpaintError(
            "biharmonic: expected scikit-image, it is not installed; pip install scikit-image"
        ) from error

    def fill(image: Tensor, hole: Tensor) -> Tensor:
        filled = inpaint_biharmonic(image.permute(1, 2, 0).double().numpy(), hole.numpy(), channel_axis=-1)
        return torch.from_numpy(np.ascontiguousarray(filled)).permute(2, 0, 1).to(image).clamp(0, 1)

    return fill


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row: how its method is made, and the settings that its pictures depend on; ``folder`` = made elsewhere."""

    name: str
    label: str
    settings: dict[str, Any]
    make: Callable[[], Method] | None = None
    folder: Path | None = None


def entries(arguments: argparse.Namespace) -> list[Entry]:
    """The methods asked for. InpaintError for one that does not exist or lacks its files."""

    def neural_inpainting() -> Method:
        return NeuralInpainting(
            load_deep_vgg(arguments.vgg),
            weights.load(arguments.weights).image2feature,
            form=arguments.form,
            matcher=arguments.matcher,
            iterations=arguments.iterations,
            bfloat16=arguments.bfloat16,
        )

    def ours() -> Method:
        return inpaint.load(arguments.weights, device="cpu")

    used = {"weights_sha256": weights.sha256(weights.resolve(arguments.weights))}
    neural_settings = {name: getattr(arguments, name) for name in ("form", "iterations", "bfloat16")}
    neural_settings |= {"weights": dataclasses.asdict(FORMS[arguments.form]), **used}
    makers: dict[str, tuple[Callable[[], Method], dict[str, Any]]] = {
        "neural-inpainting": (neural_inpainting, neural_settings),
        "ours": (ours, used),
        "biharmonic": (biharmonic, {}),
        **{name: (make, {}) for name, make in BASELINES.items()},
    }
    found = []
    for name in [*arguments.methods, *arguments.also]:
        if "=" in name:
            label, _, folder = name.partition("=")
            found.append(Entry(label, label, {}, folder=Path(folder)))
        elif name in makers:
            make, settings = makers[name]
            label = LABELS[name] + (f", {arguments.form} form" if name == "neural-inpainting" else "")
            found.append(Entry(name, label, settings, make))
        else:
            raise InpaintError(f"expected methods out of {', '.join(makers)} or NAME=FOLDER, got {name!r}; rename it")
    if any(entry.name == "neural-inpainting" for entry in found):
        find_deep_vgg(arguments.vgg)
    if arguments.lpips_weights is not None:
        find_lpips_weights(arguments.lpips_weights)
    return found


def prepare(photographs: Path, masks: Path, out: Path, size: int, limit: int | None) -> list[tuple[str, Path, Path]]:
    """Photographs and masks at ``size``, written under ``out``: (name, photograph, mask) each.

    A pixel is hole if any of its pixels was.
    """
    (out / "photographs").mkdir(parents=True, exist_ok=True)
    (out / "masks" / KIND).mkdir(parents=True, exist_ok=True)
    found = []
    for sample in pair_samples(photographs, masks, (KIND,), limit)[0]:
        picture = out / "photographs" / f"{sample.name}.png"
        hole_file = out / "masks" / KIND / f"{sample.name}.png"
        if not (picture.is_file() and hole_file.is_file()):
            image = read_photo(sample.image).colours()
            height, width = image.shape[-2:]
            if height != width or height < size:
                raise InpaintError(
                    f"expected square photographs of at least {size} pixels a side, {sample.image} has "
                    f"{width}x{height}; crop it or pass a smaller --size"
                )
            hole = torch.from_numpy(read_hole(sample.mask, size=(height, width)))
            smaller = torch.nn.functional.adaptive_max_pool2d(hole[None].float(), size)[0] > 0
            save_picture(picture, to_pil(resize(image[None], (size, size))[0].clamp(0, 1)))
            save_picture(hole_file, Image.fromarray(smaller.numpy()).convert("L"))
        found.append((sample.name, picture, hole_file))
    return found


def read(picture: Path, hole_file: Path) -> tuple[Tensor, Tensor]:
    """A photograph with a black hole, and the hole."""
    image = read_photo(picture).colours()
    hole = torch.from_numpy(read_hole(hole_file, size=(image.shape[1], image.shape[2])))
    return image.masked_fill(hole, 0), hole


def fill_all(entry: Entry, samples: Sequence[tuple[str, Path, Path]], folder: Path) -> None:
    """Writes ``folder``/NAME.png for every photograph that is not there yet."""
    assert entry.make is not None
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "settings.json"
    if note.is_file() and json.loads(note.read_text()) != json.loads(json.dumps(entry.settings)):
        raise InpaintError(
            f"{folder}: expected pictures made with the same settings, they were made with others; remove the folder"
        )
    write_text(note, json.dumps(entry.settings, indent=1) + "\n")
    missing = [sample for sample in samples if not (folder / f"{sample[0]}.png").is_file()]
    if not missing:
        return
    method = entry.make()
    for name, picture, hole_file in tqdm(missing, desc=entry.name, unit="photo"):
        save_picture(folder / f"{name}.png", to_pil(method(*read(picture, hole_file)).clamp(0, 1)))


def measure(out: Path, filled: Path, folder: Path, photographs: int, lpips_weights: Path | None) -> dict[str, Any]:
    """The means of the pictures in ``filled``, measured unless ``folder`` holds an evaluation younger than they are."""
    summary = folder / "summary.json"
    if summary.is_file():
        found = json.loads(summary.read_text())
        newest = max(file.stat().st_mtime for file in filled.glob("**/*.*") if file.suffix != ".json")
        is_complete = lpips_weights is None or found["lpips_weights"] is not None
        is_of_these = found["images"] == photographs and found["method"] == str(filled)
        if is_complete and is_of_these and summary.stat().st_mtime > newest:
            return found["kinds"][KIND]
    evaluation = evaluate(
        out / "photographs",
        out / "masks",
        method=filled,
        out_dir=folder,
        kinds=(KIND,),
        lpips_weights=lpips_weights,
    )
    return evaluation.summary["kinds"][KIND]


def take_times(entry: Entry, samples: Sequence[tuple[str, Path, Path]]) -> list[float]:
    """Seconds of each photograph, after one warm-up call; loading networks and pictures is not part of them."""
    assert entry.make is not None
    method = entry.make()
    pictures = [read(*sample[1:]) for sample in samples]
    method(*pictures[0])
    seconds = []
    for picture in tqdm(pictures, desc=f"timing {entry.name}", unit="photo"):
        start = time.perf_counter()
        method(*picture)
        seconds.append(time.perf_counter() - start)
    return seconds


def take_all_times(
    methods: Sequence[Entry], samples: Sequence[tuple[str, Path, Path]], file: Path
) -> dict[str, dict[str, Any]]:
    """Of each method: seconds, settings and machine. Those that ``file`` holds for the same settings are kept."""
    times: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else {}
    for entry in methods:
        settings = json.loads(json.dumps(entry.settings))
        if entry.name in times and times[entry.name]["settings"] != settings:
            del times[entry.name]
        if entry.make and samples and entry.name not in times:
            seconds = take_times(entry, samples)
            facts = machine.describe("cpu", command())
            times[entry.name] = {"seconds": seconds, "settings": settings, "machine": facts}
            write_text(file, json.dumps(times, indent=1) + "\n")
    return times


def write_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text)
    os.replace(temporary, path)


def command() -> str:
    """The command line, with folders and files by their last name only."""
    return " ".join(["python benchmarks/table1.py", *(Path(part).name for part in sys.argv[1:])])


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("photographs", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=256, help="side in pixels at which all methods work")
    parser.add_argument("--methods", nargs="*", default=list(COMPARED), help="of the paper's table")
    parser.add_argument("--also", nargs="*", default=[], help="further methods, or NAME=FOLDER")
    parser.add_argument("--weights", default="default", help="ours: a name or a file")
    parser.add_argument("--vgg", type=Path, help="VGG-19 up to relu4_2; INPAINT_VGG19 names it otherwise")
    parser.add_argument("--form", choices=FORMS, default="fast", help="of neural inpainting")
    parser.add_argument("--matcher", choices=MATCHERS, default="patchswap", help="of neural inpainting")
    parser.add_argument("--iterations", type=int, default=100, help="of neural inpainting, at each scale")
    parser.add_argument("--bfloat16", action="store_true", help="neural inpainting's convolutions")
    parser.add_argument("--limit", type=int, help="use the first so many photographs only")
    parser.add_argument("--time", type=int, default=3, metavar="N", help="photographs of each method to time")
    parser.add_argument("--lpips-weights", type=Path, help="LPIPS (AlexNet); without them LPIPS is left out")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args(arguments)


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    try:
        print(run(arguments))
    except InpaintError as error:
        sys.exit(f"error: {error}")


def run(arguments: argparse.Namespace) -> str:
    """Everything; what to print at the end."""
    out: Path = arguments.out
    methods = entries(arguments)
    samples = prepare(arguments.photographs, arguments.masks, out, arguments.size, arguments.limit)
    times = take_all_times(methods, samples[: arguments.time], out / "times.json")

    rows, folders = [], {}
    for entry in methods:
        filled = entry.folder or out / "filled" / entry.name
        if entry.make:
            fill_all(entry, samples, filled)
        folders[entry.label] = out / "evaluations" / entry.name
        found = measure(out, filled, folders[entry.label], len(samples), arguments.lpips_weights)
        timed = times.get(entry.name)
        rows.append(
            {
                "method": entry.name,
                "label": entry.label,
                "settings": entry.settings,
                "images": found["images"],
                **{name: found[name] for name in ("hole_l1", "l1", "ssim", "lpips")},
                "seconds": statistics.median(timed["seconds"]) if timed else None,
                "timed_photographs": len(timed["seconds"]) if timed else 0,
                "timed_on": timed["machine"] if timed else None,
            }
        )
    if len(folders) > 1:
        ours_first = sorted(folders, key=lambda label: label != LABELS["ours"])  # the first is compared with the others
        compare({label: folders[label] for label in ours_first}, out / "report")
    write_text(out / "table1.md", tables.table1(rows))
    results = {"machine": machine.describe("cpu", command()), "size": arguments.size, "kind": KIND, "results": rows}
    write_text(out / "table1.json", json.dumps(results, indent=1) + "\n")
    return tables.table1(rows)


if __name__ == "__main__":
    main()
