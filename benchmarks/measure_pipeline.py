"""Measures jobs that bench_pipeline.py sends, as measure.py does for bench_match.py: one way to fill a picture, end to
end, in a process of its own.

A job: {"form", "size", "device", "seconds", "vgg"}: form is one of FORMS, size as in cases.py, vgg the file of VGG-19
up to relu4_2 that neural inpainting needs (null: what the environment names). Pictures are those of cases.photograph.
"""

from __future__ import annotations

import importlib
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))

import machine
import torch
from cases import make_hole, photograph
from measure import MOST_ROUNDS, answer_jobs, free_memory, peak_memory, reset_peak
from torch import Tensor

import inpaint
import patchswap
from inpaint import weights
from inpaint.evaluation.methods import BASELINES
from inpaint.networks.layout import multiply_in
from inpaint.tensor_photo import TensorPhoto
from inpaint.work import prepare

FEWEST_RUNS = 3
SINGLE_RUN = 10.0  # seconds from which on one run has to do

# A picture (3, H, W) in [0, 1] and its hole (H, W) -> the filled picture, and what else is to be told of the run.
Fill = Callable[[Tensor, Tensor], tuple[Tensor, dict[str, Any]]]


@dataclass(frozen=True)
class Form:
    """A way to fill pictures. group: "ours", "neural" or "weight-free". make: of a device and a VGG-19 file."""

    name: str
    label: str
    group: str
    make: Callable[[str, str | None], Fill]
    devices: tuple[str, ...] = ("cpu", "cuda")


def ours(device: str, vgg: str | None, precision: str, filtered: bool = True) -> Fill:
    """``filtered``: as it is; else torch computes all convolutions, as it does neural inpainting's."""
    inpainter = inpaint.load(device=device, precision=precision)
    multiplies_in = dtype_name(precision, device)

    def fill(image: Tensor, hole: Tensor) -> tuple[Tensor, dict[str, Any]]:
        with nullcontext() if filtered else convolving_by_torch():
            filled = inpainter.fill(prepare(TensorPhoto(image), hole))
        scales: dict[str, dict[str, float]] = {}
        for step in filled.times:
            stages = scales.setdefault("x".join(map(str, step.size)), {})
            stages[step.name] = stages.get(step.name, 0.0) + step.seconds
        return filled.picture.tensor, {"multiplies_in": multiplies_in, "scales": scales}

    return fill


def convolving_by_torch() -> AbstractContextManager[Any]:
    """The networks find no compiled library, and convolve by torch; patchswap's operators are the compiled ones."""
    return mock.patch.object(patchswap.ops, "extension", None)


def neural(device: str, vgg: str | None, form: str, matcher: str) -> Fill:
    from rivals.deep_vgg import load_deep_vgg
    from rivals.neural_inpainting import NeuralInpainting

    # By torch's own convolutions, which are faster in bfloat16 wherever a CPU has instructions for it.
    is_fast = device == "cpu" and torch.cpu._is_avx512_bf16_supported()
    multiplies_in = "bfloat16" if is_fast else "float32"
    method = NeuralInpainting(
        load_deep_vgg(vgg),
        weights.load().image2feature,
        form=form,  # type: ignore[arg-type]
        matcher=matcher,  # type: ignore[arg-type]
        bfloat16=multiplies_in == "bfloat16",
        device=device,
    )

    def fill(image: Tensor, hole: Tensor) -> tuple[Tensor, dict[str, Any]]:
        runs = method.run(image, hole)
        scales = {"x".join(map(str, run.size)): {"optimise": run.seconds} for run in runs}
        evaluations = sum(len(run.objective) for run in runs)
        return runs[-1].image, {"multiplies_in": multiplies_in, "evaluations": evaluations, "scales": scales}

    return fill


def weight_free(device: str, vgg: str | None, name: str) -> Fill:
    if name == "biharmonic":
        from table1 import biharmonic

        method = biharmonic()
    else:
        method = BASELINES[name]()
    package = importlib.import_module("skimage" if name == "biharmonic" else "cv2")
    return lambda image, hole: (method(image, hole), {"package": f"{package.__name__} {package.__version__}"})


FORMS = {
    form.name: form
    for form in (
        Form("ours", "patchswap", "ours", partial(ours, precision="auto")),
        Form("ours-float32", "patchswap, float32", "ours", partial(ours, precision="float32")),
        Form(
            "ours-direct",
            "patchswap, float32, convolutions by torch",
            "ours",
            partial(ours, precision="float32", filtered=False),
            ("cpu",),
        ),
        Form("telea", "OpenCV Telea", "weight-free", partial(weight_free, name="telea"), ("cpu",)),
        Form("ns", "OpenCV Navier-Stokes", "weight-free", partial(weight_free, name="ns"), ("cpu",)),
        Form("biharmonic", "scikit-image biharmonic", "weight-free", partial(weight_free, name="biharmonic"), ("cpu",)),
        *(
            Form(
                f"neural-{form}-{matcher}",
                f"neural inpainting, {form} form, matching by {matcher}",
                "neural",
                partial(neural, form=form, matcher=matcher),
            )
            for form in ("fast", "paper")
            for matcher in ("patchswap", "convolution")
        ),
    )
}


def main() -> None:
    answer_jobs(measure)


def measure(job: dict[str, Any]) -> dict[str, Any]:
    device = job["device"]
    if device == "cpu":  # an allocation fails before the system has none left for others
        limit = int(0.8 * free_memory(device))
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    fill = FORMS[job["form"]].make(device, job["vgg"])
    image, hole = picture(job["size"], device)
    fill(*tiny(image))  # code is loaded before time and memory are counted
    reset_peak(device)
    times: list[float] = []
    notes: list[dict[str, Any]] = []
    before = machine_seconds()
    while not times or (times[0] < SINGLE_RUN and len(times) < MOST_ROUNDS and wanted(times, job["seconds"])):
        start = time.perf_counter()
        filled, note = fill(image, hole)
        synchronise(device)
        times.append(time.perf_counter() - start)
        notes.append(note)
        if len(times) == 1:
            memory = peak_memory(device)
            check(filled, image)
    wall, others = (after - start for after, start in zip(machine_seconds(), before, strict=True))
    if len(times) > FEWEST_RUNS:  # the first run of a size asks the system for memory
        del times[0], notes[0]
    return {
        "times": times,
        "peak_memory": memory,
        "others": others / wall / (os.cpu_count() or 1),
        **notes[0],
        "scales": {
            size: {stage: statistics.median(note["scales"][size][stage] for note in notes) for stage in stages}
            for size, stages in notes[0].get("scales", {}).items()
        },
    }


def machine_seconds() -> tuple[float, float]:
    """Time that has passed, and processor time that programs other than this one have used, since some moment."""
    own = os.times()
    return time.perf_counter(), machine.processor_seconds() - own.user - own.system


def wanted(times: list[float], seconds: float) -> bool:
    """Whether the time that is meant for it allows another run, or there are too few yet."""
    return len(times) <= FEWEST_RUNS or sum(times) + times[-1] < seconds


def picture(size: str, device: str) -> tuple[Tensor, Tensor]:
    """(3, H, W) float32 in [0, 1] and (H, W) bool."""
    hole = make_hole(size)
    pixels = torch.from_numpy(photograph(hole.shape[0])).permute(2, 0, 1).float() / 255
    return pixels.to(device), hole.to(device)


def tiny(image: Tensor) -> tuple[Tensor, Tensor]:
    """A corner of the picture with a small hole."""
    hole = torch.zeros(96, 96, dtype=torch.bool, device=image.device)
    hole[40:56, 40:56] = True
    return image[:, :96, :96], hole


def dtype_name(precision: str, device: str) -> str:
    return str(multiply_in(precision, torch.device(device))).removeprefix("torch.")


def check(filled: Tensor, image: Tensor) -> None:
    if filled.shape != image.shape or not bool(torch.isfinite(filled).all()):
        raise ValueError(f"expected a finite picture {tuple(image.shape)}, got {tuple(filled.shape)} or other values")


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
