"""The evaluation protocol: stored photographs, stored masks, composited 8-bit results, means per kind of hole.

For every photograph and kind of hole the method sees the photograph with the hole set to black, so that the truth
cannot leak. The result is pasted into the photograph's hole, rounded to 8 bits as a saved file would be, and measured
against the photograph. A mean is over photographs: each counts the same whatever the area of its hole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from inpaint import weights
from inpaint.errors import InpaintError
from inpaint.evaluation import report
from inpaint.evaluation.evaluation_page import caption, evaluation_page
from inpaint.evaluation.fid import ENOUGH_IMAGES, FID
from inpaint.evaluation.measurement import QUANTITIES, Measurement, bins_of_hole_share, means
from inpaint.evaluation.methods import BASELINES, Method, named_method
from inpaint.evaluation.metrics import LPIPS, l1, psnr, ssim
from inpaint.evaluation.pictures import ContactSheets, draw_strip, webp
from inpaint.evaluation.progress import progress_bar
from inpaint.evaluation.uncertainty import LEVEL, RESAMPLES
from inpaint.holes import read_hole
from inpaint.photo import check_folder, read, save_picture, to_pil

KINDS = ("center", "thick", "medium", "thin")

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")

DISTRIBUTIONS = (
    "patchswap",
    "torch",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "opencv-python",
    "torch-fidelity",
)

COLUMNS = ("hole_l1", "l1", "ssim", "lpips", "psnr", "seconds", "fid")  # of the table

CONVENTIONS = {
    "results": "the method's hole pasted into the photograph, rounded to 8 bits per channel",
    "mean": "over photographs, each counting the same",
    "l1": "mean absolute difference over RGB, percent of the full range; hole_l1 over the hole's pixels only",
    "psnr": "dB, data range 1 for values in [0, 1]; hole_psnr over the hole's pixels only",
    "ssim": "RGB, 11-tap Gaussian, sigma 1.5, data range 1, population covariance, windows inside the image; "
    "hole_ssim is the mean of the map over the hole's pixels",
    "lpips": "version 0.1, AlexNet, whole image",
    "seconds": "wall time of one call per photograph after one warm-up call",
    "intervals": f"{LEVEL:.0%} percentile bootstrap over photographs, {RESAMPLES} draws, seed 0",
    "hole_shares": "photographs of all kinds together, by the share of the image that is hole",
}


@dataclass(frozen=True)
class Sample:
    """One photograph with one mask. ``name`` is the photograph's file name without its extension."""

    kind: str
    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Evaluation:
    """All measurements and what ``summary.json`` holds: means with intervals, and how they came about."""

    measurements: list[Measurement]
    summary: dict[str, Any]

    @property
    def table(self) -> str:
        """The means as a Markdown table, one row per kind of hole."""
        groups = self.summary["kinds"]
        columns = report.measured(COLUMNS, groups.values())
        headings = ["holes", "images", *(QUANTITIES[name].heading for name in columns)]
        rows = [[kind, str(means["images"]), *report.mean_cells(means, columns)] for kind, means in groups.items()]
        return report.markdown_table(headings, rows)


def evaluate(
    images_dir: str | os.PathLike[str],
    masks_dir: str | os.PathLike[str],
    *,
    method: Method | str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    kinds: Sequence[str] = KINDS,
    lpips_weights: str | os.PathLike[str] | None = None,
    fid_weights: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Complete every photograph under every kind of mask, measure, and write what came out.

    Args:
        images_dir: photographs, at least 31 pixels on each side.
        masks_dir: masks, white = hole: ``<kind>_<number>.png`` for the photograph whose name starts with that number,
            or ``<kind>/<name of the photograph>.png``. Photographs without a mask of a kind are left out and counted.
        method: a callable (see :mod:`inpaint.evaluation.methods`), a name for :func:`named_method`, or a folder with
            the results of another program, named like the masks (with one kind, also just like the photographs).
        out_dir: made if missing. Receives ``report.html``, ``summary.json``, ``per_image.csv``, ``table.md``,
            ``results/<kind>/<name>.png``, ``strips/<kind>/<name>.webp`` and ``sheets/<kind>_<number>.png``.
        kinds: kinds of holes, in the order of the table.
        lpips_weights: weight file of LPIPS. Without it, and without one in the environment or the cache, LPIPS is left
            out and a line says so.
        fid_weights: weight file of FID's Inception network, see :class:`inpaint.evaluation.fid.FID`; without it FID is
            left out.
        limit: use the first so many photographs only.
        progress: show a progress bar on standard error (needs tqdm). The table goes to standard output.

    Raises:
        InpaintError: before any work, if a folder or file is missing or unreadable, nothing pairs, sizes differ, a hole
            is empty or covers everything; later, if the method returns something other than a finite image of the
            right shape.
    """
    out = Path(out_dir)
    samples, unpaired = pair_samples(images_dir, masks_dir, kinds, limit)
    for sample in samples:
        _load(sample)
    complete, method_facts = _completer(method, samples)
    perceptual = _load_lpips(lpips_weights)
    inception = None if fid_weights is None else _InceptionFeatures(FID(fid_weights))
    for folder in (out, out / "sheets", *(out / part / kind for part in ("results", "strips") for kind in kinds)):
        make_folder(folder)

    name = method_facts["method"]
    sheets = {kind: ContactSheets(out / "sheets", kind, f"{name}, {kind}") for kind in kinds}
    measurements = []
    with progress_bar(len(samples), "evaluate", progress) as advance:
        for sample in samples:
            truth, hole = _load(sample)
            completion, seconds = complete(sample, truth.masked_fill(hole, 0), hole)
            picture = to_pil(torch.where(hole, completion, truth))
            result = read(picture).colours()
            measurement = _measure(sample, result, truth, hole, perceptual, seconds)
            measurements.append(measurement)
            if inception is not None:
                inception.add(sample, result, truth)
            save_picture(out / "results" / sample.kind / f"{sample.name}.png", picture)
            strip = draw_strip(to_pil(truth), Image.fromarray(hole.numpy()).convert("L"), picture)
            report.write_bytes(out / "strips" / sample.kind / f"{sample.name}.webp", webp(strip))
            sheets[sample.kind].add(caption(measurement), strip)
            advance()
    for sheet in sheets.values():
        sheet.close()

    by_kind = {kind: [row for row in measurements if row.kind == kind] for kind in kinds}
    summary = {
        **method_facts,
        "date": now(),
        "command": shlex.join(sys.argv),
        "images_dir": str(images_dir),
        "masks_dir": str(masks_dir),
        "images": len({sample.image for sample in samples}),
        "kinds": {kind: {**means(rows), "without_mask": unpaired[kind]} for kind, rows in by_kind.items()},
        "hole_shares": {
            f"{start}-{end} %": {"from": start / 100, "to": end / 100, **means(rows)}
            for (start, end), rows in bins_of_hole_share(measurements).items()
        },
        "notes": [],
        "lpips_weights": _weights_facts(perceptual),
        "fid_weights": None if inception is None else _weights_facts(inception.fid),
        "conventions": CONVENTIONS,
        "versions": versions(),
        "machine": machine(),
    }
    if inception is not None:
        for kind, distance in inception.distances().items():
            summary["kinds"][kind]["fid"] = distance
        summary["notes"] += _notes_on_fid(summary["kinds"])
    evaluation = Evaluation(measurements, summary)
    report.write_csv(out / "per_image.csv", [dataclasses.asdict(row) for row in measurements])
    report.write_json(out / "summary.json", summary)
    report.write_text(out / "table.md", evaluation.table)
    report.write_text(out / "report.html", evaluation_page(summary, measurements, out / "strips"))
    for note in summary["notes"]:
        print(note, file=sys.stderr)
    print(f"{name} on {summary['images']} photographs\n\n{evaluation.table}\n{out / 'report.html'}")
    return evaluation


def pair_samples(
    images_dir: str | os.PathLike[str],
    masks_dir: str | os.PathLike[str],
    kinds: Sequence[str] = KINDS,
    limit: int | None = None,
) -> tuple[list[Sample], dict[str, int]]:
    """Photographs with their masks, kind by kind in order of name, and per kind how many had no mask.

    See :func:`evaluate` for the names. Raises InpaintError if a folder is missing, holds no photograph or two of the
    same name, or if a kind has no mask at all.
    """
    images = _photographs(Path(images_dir))
    masks = Path(masks_dir)
    if not masks.is_dir():
        raise InpaintError(f"expected a folder of masks, there is none at {masks}; give an existing folder")
    if limit is not None and limit < 1:
        raise InpaintError(f"expected a limit of at least 1 photograph, got {limit}; leave it out to use all")
    if not kinds or len(set(kinds)) < len(kinds):
        raise InpaintError(f"expected different kinds of masks, got {', '.join(kinds) or 'none'}; name each once")
    for kind in kinds:
        if not re.fullmatch(r"[\w-]+", kind):
            raise InpaintError(
                f"expected a kind of letters, digits, _ and -, got {kind!r}; it becomes part of file names"
            )
    images = images[:limit]
    samples, unpaired = [], {}
    for kind in kinds:
        found = _named_like_masks(masks, kind, images)
        if not found:
            example = _names_of_mask(kind, images[0].stem)
            raise InpaintError(
                f"expected masks of the kind {kind} for the {len(images)} photographs of {images_dir}, none in {masks} "
                f"pairs with one; name them like {' or '.join(example)}"
            )
        samples += [Sample(kind, image.stem, image, mask) for image, mask in found.items()]
        unpaired[kind] = len(images) - len(found)
    return samples, unpaired


def _photographs(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InpaintError(f"expected a folder of photographs, there is none at {folder}; give an existing folder")
    found = _pictures(folder)
    if not found:
        raise InpaintError(f"expected photographs in {folder}, it holds none; accepted are {', '.join(EXTENSIONS)}")
    name, count = Counter(path.stem for path in found).most_common(1)[0]
    if count > 1:
        raise InpaintError(f"expected photographs of different names in {folder}, {name} is there twice; rename one")
    return found


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS and path.is_file())


def _names_of_mask(kind: str, name: str) -> list[str]:
    """Where, under a folder of masks, the mask of a photograph may lie; extensions left open, the first one wins."""
    number = re.match(r"\d+", name)
    return [f"{kind}/{name}.png"] + ([f"{kind}_{number.group()}.png"] if number else [])


def _named_like_masks(folder: Path, kind: str, images: Sequence[Path]) -> dict[Path, Path]:
    """For each photograph that has one, the picture in ``folder`` that is its mask (or result) of this kind."""
    there = {
        path.relative_to(folder).with_suffix(".png").as_posix(): path
        for place in (folder, folder / kind)
        if place.is_dir()
        for path in _pictures(place)
    }
    candidates = {image: _names_of_mask(kind, image.stem) for image in images}
    return {
        image: next(there[name] for name in names if name in there)
        for image, names in candidates.items()
        if any(name in there for name in names)
    }


def _load(sample: Sample) -> tuple[Tensor, Tensor]:
    """The photograph, (3, H, W) with 8-bit values, and its hole, (H, W) bool."""
    truth = read(to_pil(read(sample.image).colours())).colours()
    height, width = truth.shape[-2:]
    hole = torch.from_numpy(read_hole(sample.mask, size=(height, width)))
    if min(height, width) < LPIPS.SMALLEST_SIDE:
        side = LPIPS.SMALLEST_SIDE
        raise InpaintError(
            f"expected photographs of at least {side}x{side} pixels, {sample.image} has {width}x{height}; leave it out"
        )
    if hole.all() or not hole.any():
        raise InpaintError(
            f"expected a mask with hole (white) and known pixels, {sample.mask} is all "
            f"{'hole' if hole.all() else 'known'}; replace it"
        )
    return truth, hole


Completer = Callable[[Sample, Tensor, Tensor], tuple[Tensor, "float | None"]]


def _completer(method: Method | str | os.PathLike[str], samples: Sequence[Sample]) -> tuple[Completer, dict[str, Any]]:
    """How to get a sample's completion with the seconds it took, and what the summary says about the method."""
    if callable(method):
        name = getattr(method, "__name__", type(method).__name__)
        return _timed(method, name), {"method": name}
    name = os.fspath(method)
    if name not in BASELINES and Path(name).is_dir():
        return _reader(Path(name), samples), {"method": name}
    facts = {"method": name}
    if name not in BASELINES:
        facts["method_sha256"] = weights.sha256(weights.resolve(name))
    return _timed(named_method(name), name), facts


def _timed(method: Method, name: str) -> Completer:
    warm = False

    def complete(sample: Sample, image: Tensor, hole: Tensor) -> tuple[Tensor, float | None]:
        nonlocal warm
        if not warm:
            method(image, hole)
            warm = True
        start = time.perf_counter()
        completion = method(image, hole).cpu()  # the copy also waits for a GPU to finish
        seconds = time.perf_counter() - start
        if completion.shape != image.shape or not torch.isfinite(completion).all():
            raise InpaintError(
                f"expected a finite image of shape {tuple(image.shape)} from the method {name} for {sample.image} with "
                f"{sample.mask}, got shape {tuple(completion.shape)} or values that are not numbers; mend the method"
            )
        return completion.to(image.dtype), seconds

    return complete


def _reader(folder: Path, samples: Sequence[Sample]) -> Completer:
    """Completions read from a folder of results; every one must be there before the first is measured."""
    results: dict[tuple[str, str], Path] = {}
    for kind in dict.fromkeys(sample.kind for sample in samples):
        images = [sample.image for sample in samples if sample.kind == kind]
        found = _named_like_masks(folder, kind, images)
        results |= {(kind, image.stem): path for image, path in found.items()}
    if len({sample.kind for sample in samples}) == 1:
        plain = {path.stem: path for path in _pictures(folder)}
        for sample in samples:
            if sample.name in plain:
                results.setdefault((sample.kind, sample.name), plain[sample.name])
    missing = [sample for sample in samples if (sample.kind, sample.name) not in results]
    if missing:
        wanted = " or ".join(_names_of_mask(missing[0].kind, missing[0].name))
        raise InpaintError(
            f"expected a result for each of the {len(samples)} pairs of photograph and mask in {folder}, "
            f"{len(missing)} are missing; name them like {wanted}"
        )

    def complete(sample: Sample, image: Tensor, hole: Tensor) -> tuple[Tensor, float | None]:
        path = results[sample.kind, sample.name]
        completion = read(path).colours()
        if completion.shape != image.shape:
            raise InpaintError(
                f"expected a result of {image.shape[2]}x{image.shape[1]} pixels for {sample.image}, {path} has "
                f"{completion.shape[2]}x{completion.shape[1]}; give results of the photograph's size"
            )
        return completion, None

    return complete


def _load_lpips(path: str | os.PathLike[str] | None) -> LPIPS | None:
    try:
        return LPIPS(path)
    except InpaintError as error:
        if path is not None:
            raise
        print(f"LPIPS is left out: {error}", file=sys.stderr)
        return None


def _measure(
    sample: Sample, result: Tensor, truth: Tensor, hole: Tensor, perceptual: LPIPS | None, seconds: float | None
) -> Measurement:
    return Measurement(
        kind=sample.kind,
        name=sample.name,
        hole_share=hole.double().mean().item(),
        hole_l1=l1(result, truth, hole).item(),
        l1=l1(result, truth).item(),
        hole_psnr=psnr(result, truth, hole).item(),
        psnr=psnr(result, truth).item(),
        hole_ssim=ssim(result, truth, hole).item(),
        ssim=ssim(result, truth).item(),
        lpips=None if perceptual is None else perceptual(result, truth).item(),
        seconds=seconds,
        photograph_sha256=_digest((255 * truth).round().to(torch.uint8)),
        mask_sha256=_digest(hole),
    )


def _digest(pixels: Tensor) -> str:
    """SHA-256 of 8-bit values with their shape."""
    values = pixels.contiguous().numpy()
    return hashlib.sha256(f"{values.shape} ".encode() + values.tobytes()).hexdigest()


class _InceptionFeatures:
    """Features for FID of results and truths, gathered photograph by photograph."""

    def __init__(self, fid: FID) -> None:
        self.fid = fid
        self._truths: dict[Path, Tensor] = {}  # a photograph has one for all its masks
        self._pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def add(self, sample: Sample, result: Tensor, truth: Tensor) -> None:
        if sample.image not in self._truths:
            self._truths[sample.image] = self.fid.features(truth)
        pair = self.fid.features(result), self._truths[sample.image]
        self._pairs.setdefault(sample.kind, []).append(pair)

    def distances(self) -> dict[str, float | None]:
        """FID per kind of hole; None for a single photograph, which has no covariance."""
        return {
            kind: self.fid.distance(*zip(*pairs, strict=True)) if len(pairs) > 1 else None
            for kind, pairs in self._pairs.items()
        }


def _notes_on_fid(kinds: dict[str, dict[str, Any]]) -> list[str]:
    return [
        f"FID of {kind} is over {found['images']} photographs only: below {ENOUGH_IMAGES} it is too large, by more the "
        "fewer there are, and can only be compared with that of other methods on the very same photographs."
        for kind, found in kinds.items()
        if found["images"] < ENOUGH_IMAGES
    ]


def _weights_facts(metric: LPIPS | FID | None) -> dict[str, Any] | None:
    if metric is None:
        return None
    return {"file": str(metric.path), "sha256": metric.sha256, "known": metric.known}


def now() -> str:
    """Date and time in UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Of Python and of what took part in measuring."""
    found = {"python": platform.python_version()}
    for distribution in DISTRIBUTIONS:
        try:
            found[distribution] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What it was measured on."""
    return {
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "processors": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def make_folder(folder: Path) -> None:
    """Make a folder for files to come. Raises InpaintError if that or writing there is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InpaintError(f"cannot make the folder {folder}: {error.strerror}; choose another place") from error
    check_folder(folder)
