"""bench_web.py: its requests, its percentile and what it makes of the measurements."""

from __future__ import annotations

import io
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra web")
sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

import bench_web


def test_the_form_holds_a_photograph_and_its_mask(client, red):
    files = bench_web.files()
    with Image.open(io.BytesIO(files["photo"])) as photo, Image.open(io.BytesIO(files["mask"])) as mask:
        assert photo.size == mask.size == bench_web.SIZE[::-1] and photo.format == "JPEG"
    headers = {"Content-Type": "multipart/form-data; boundary=limit"}
    answer = client.post("/fill", content=bench_web.form(files, "limit"), headers=headers)
    assert answer.status_code == 200 and red.jobs[0].hole.sum() == 40_000


def test_the_percentile():
    values = [float(value) for value in range(100, 0, -1)]
    assert bench_web.percentile(values, 0.95) == 95 and bench_web.percentile(values, 1.0) == 100
    assert bench_web.percentile([3.0], 0.95) == 3 and bench_web.percentile([1.0, 2.0], 0.95) == 2


class Answers:
    """A service that gives these answers in turn, and the last one from then on."""

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        self._answers = list(answers)
        self._lock = threading.Lock()

    def ask(self, body: bytes, boundary: str) -> tuple[int, bytes]:
        with self._lock:
            return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def test_each_visitor_asks_until_the_time_is_over():
    times, took = bench_web.load(Answers((200, b"x")), b"", "", 4, 0)
    assert len(times) == 4 and took >= max(times)
    assert len(bench_web.load(Answers((200, b"x")), b"", "", 2, 0.05)[0]) > 2


@pytest.mark.parametrize("answer", [(503, b"full"), (200, b"another")])
def test_an_answer_that_is_wrong_ends_the_measurement(answer):
    with pytest.raises(RuntimeError, match=rf"got status {answer[0]}"):
        bench_web.load(Answers((200, b"x"), answer), b"", "", 1, 5)


def test_the_summary():
    row = bench_web.summary(4, [1.0] * 19 + [3.0], 10.0, 50 * 2**20, 0.01)
    assert row == {
        "visitors": 4,
        "answers": 20,
        "photographs_per_minute": 120.0,
        "median_s": 1.0,
        "p95_s": 1.0,
        "slowest_s": 3.0,
        "memory_mib": 50,
        "others_percent": 1.0,
    }
    assert "4       20     120.0" in bench_web.table([row])
