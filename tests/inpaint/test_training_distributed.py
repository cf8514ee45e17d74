"""Two processes that train together, as torchrun starts them, against one that trains alone."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import inpaint
from inpaint.errors import InpaintError
from inpaint.tensor_file import read_tensors
from inpaint.training import distributed
from inpaint.training.checkpoint import CHECKPOINT
from inpaint.training.config import TrainingConfig
from inpaint.training.trainer import DEFAULT_VGG, Trainer, train

CONFIG = TrainingConfig(
    image_size=32,
    batch=4,
    steps=8,
    warmup=1,
    adversarial_start=1,
    perceptual_layers=("relu2_1", "relu3_1"),
    discriminator_width=8,
    network={"widths": (8, 12), "upper": (8, 8)},
    bfloat16=False,
    workers=0,
    log_every=1,
    checkpoint_every=100,
)

# Both start from the checkpoint in the folder; process 1 alone is told to stop.
PROGRAM = """
import json, os, signal, sys, torch
from pathlib import Path
from inpaint.training import distributed
from inpaint.training.config import from_dict
from inpaint.training.trainer import train

torch.set_num_threads(1)
data, out, config = sys.argv[1:]

def stop_process_1(step, losses):
    if step == 5 and distributed.rank() == 1:
        os.kill(os.getpid(), signal.SIGTERM)

train("feature2image", data, Path(out), from_dict(json.loads(config)), device="cpu", quiet=True, on_step=stop_process_1)
os._exit(0)  # at the interpreter's own end threads of torch's process group abort now and then
"""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    for number in range(9):
        low = generator.integers(0, 255, (6, 7, 3), dtype=np.uint8)
        Image.fromarray(low).resize((50, 44), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    (folder / "broken.jpg").write_bytes(b"not a picture")
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stop_after(last: int) -> Callable[[int, dict[str, float]], None]:
    def stop(step: int, losses: dict[str, float]) -> None:
        if step == last:
            os.kill(os.getpid(), signal.SIGTERM)

    return stop


def update(before: Path, after: Path, role: str) -> torch.Tensor:
    """What has been added to the weights between two checkpoints, and the buffers of the spectral norms."""
    (first, _), (second, _) = read_tensors(before), read_tensors(after)
    return torch.cat([(second[name] - first[name]).flatten() for name in sorted(first) if name.startswith(role + ".")])


def test_two_processes_take_the_steps_of_one(photographs: Path, tmp_path: Path) -> None:
    start = train("feature2image", photographs, tmp_path / "start", CONFIG, quiet=True, on_step=stop_after(2))
    alone, together = (tmp_path / name / CHECKPOINT for name in ("alone", "together"))
    for path in (alone, together):
        path.parent.mkdir()
        path.write_bytes(start.read_bytes())
    train("feature2image", photographs, alone.parent, CONFIG, quiet=True, on_step=stop_after(5))

    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}", program]
    settings = json.dumps(dataclasses.asdict(CONFIG))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(inpaint.__file__).parents[1])}
    done = subprocess.run(
        [*command, photographs, together.parent, settings], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stderr[:3000]

    assert read_tensors(together)[1]["step"] == read_tensors(alone)[1]["step"] == "5"
    for role in ("generator", "discriminator", "averaged"):
        expected, found = update(start, alone, role), update(start, together, role)
        assert (found - expected).norm() < 1e-3 * expected.norm(), role
    logs = [(path.parent / "log.jsonl").read_text().splitlines() for path in (alone, together)]
    for one, other in zip(*(map(json.loads, lines) for lines in logs), strict=True):
        assert one["step"] == other["step"] and one["unreadable"] == other["unreadable"]
        for name in ("relu2_1", "relu3_1", "pixel", "adversarial", "judge"):
            assert one[name] == pytest.approx(other[name], abs=2e-4), name


def test_a_batch_that_cannot_be_divided_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(CONFIG, accumulate=3)
    with pytest.raises(InpaintError, match="divided into 1 processes x 3 parts, got 4"):
        Trainer("feature2image", config, DEFAULT_VGG, torch.device("cpu"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InpaintError, match="divided into 2 processes x 3 parts, got 4"):
        Trainer("feature2image", config, DEFAULT_VGG, torch.device("cpu"))


def test_each_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert distributed.own_device("auto") == torch.device("cuda")
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert distributed.rank() == 3 and distributed.own_device("auto") == torch.device("cuda", 1)
    assert distributed.own_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InpaintError, match="got number 3 with 2; give --nproc-per-node 2"):
        distributed.own_device("cuda")
