from __future__ import annotations

import io
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra web")

from fastapi.testclient import TestClient

from inpaint.photo import Patch
from inpaint.stages import StageTime
from inpaint.web.api import make_api
from inpaint.web.filler import Filler
from inpaint.web.limits import Limits
from inpaint.window import find_windows
from inpaint.work import Filled


class Patient:
    """Fills holes with red, after two stages, each of which begins when it may. Remembers what it did."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.jobs: list = []
        self.begun = threading.Semaphore(0)  # released when a fill begins
        self.may = threading.Semaphore(0)  # acquired by each stage
        self.stages = 0
        self.filling = self.most = 0

    def go(self, stages: int = 1_000) -> None:
        self.may.release(stages)

    def fill(self, job, *, keep=False, on_stage=None):
        self.jobs.append(job)
        self.filling += 1
        self.most = max(self.most, self.filling)
        self.begun.release()
        try:
            for name in ("infer", "match"):
                assert self.may.acquire(timeout=20)
                self.stages += 1
                on_stage(StageTime(name, job.picture.size, 0.1))
        finally:
            self.filling -= 1
        red = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, *job.hole.shape)
        picture = job.picture.filled([Patch(slice(None), slice(None), red, job.hole)])
        return Filled(picture, job.notes, find_windows(job.hole))


@pytest.fixture
def patient() -> Iterator[Patient]:
    inpainter = Patient()
    yield inpainter
    inpainter.go()


@pytest.fixture
def red(patient: Patient) -> Patient:
    """One that does not wait."""
    patient.go(100_000)
    return patient


@pytest.fixture
def filler(red: Patient) -> Iterator[Filler]:
    with Filler([red]) as filler:
        yield filler


@pytest.fixture
def client(filler: Filler) -> Iterator[TestClient]:
    with TestClient(make_api(filler, Limits()), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def hole() -> np.ndarray:
    hole = np.zeros((32, 40), bool)
    hole[8:24, 10:30] = True
    return hole


def encoded(array: np.ndarray, file_format: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, file_format, **options)
    return stream.getvalue()


@pytest.fixture(scope="session")
def photo(pixels: np.ndarray) -> bytes:
    return encoded(pixels)


@pytest.fixture(scope="session")
def mask(hole: np.ndarray) -> bytes:
    return encoded(hole)


@pytest.fixture
def files(photo: bytes, mask: bytes) -> dict[str, tuple[str, bytes]]:
    return {"photo": ("photo.png", photo), "mask": ("mask.png", mask)}
