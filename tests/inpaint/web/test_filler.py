from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra web")

from inpaint.errors import InpaintError
from inpaint.web.filler import Busy, Cancelled, Filler, TimedOut, Turn
from inpaint.work import prepare


@pytest.fixture
def job(pixels, hole):
    return prepare(pixels, hole)


def outcomes(filler: Filler) -> dict[str, float]:
    """The counts that are not 0."""
    samples = [sample for family in filler.metrics.registry.collect() for sample in family.samples]
    counts = {each.labels["outcome"]: each.value for each in samples if each.name == "inpaint_tasks_total"}
    return {outcome: count for outcome, count in counts.items() if count}


def wait_until(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_fill_is_that_of_the_inpainter(inpainter, job):
    with Filler([inpainter]) as filler:
        filled = filler.fill(job, keep=True)
    assert np.array_equal(filled.picture.samples, inpainter.fill(job).picture.samples)
    assert filled.kept and outcomes(filler) == {"done": 1}


def test_a_full_queue_refuses(patient, job):
    with Filler([patient], waiting=2) as filler:
        tickets = [filler.submit(lambda turn: turn.fill(job)) for _ in range(3)]
        with pytest.raises(Busy, match=r"expected a free place in the queue, got a full one; try again in 1 s") as busy:
            filler.submit(lambda turn: turn.fill(job))
        assert busy.value.retry_after == 1
        patient.go()
        assert [ticket.result().picture.size for ticket in tickets] == [(32, 40)] * 3
        filler.fill(job)
        assert outcomes(filler) == {"done": 4, "busy": 1}


def test_no_queue_still_takes_a_task_for_each_device(patient, job):
    with Filler([patient, patient], waiting=0) as filler:
        tickets = [filler.submit(lambda turn: turn.fill(job)) for _ in range(2)]
        with pytest.raises(Busy):
            filler.submit(lambda turn: turn.fill(job))
        patient.go()
        assert all(ticket.result() for ticket in tickets)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_device_works_on_one_task_at_a_time(devices, patient, job):
    with Filler([patient] * devices, waiting=8) as filler:
        tickets = [filler.submit(lambda turn: turn.fill(job)) for _ in range(6)]
        for _ in range(devices):
            assert patient.begun.acquire(timeout=20)
        assert not patient.begun.acquire(timeout=0.1)
        patient.go()
        assert all(ticket.result() for ticket in tickets)
    assert patient.most == devices


def test_cancelling_what_waits_frees_its_place_and_never_starts_it(patient, job):
    with Filler([patient], waiting=1) as filler:
        first = filler.submit(lambda turn: turn.fill(job))
        waits = filler.submit(lambda turn: pytest.fail("it was started"))
        waits.cancel()
        with pytest.raises(Cancelled):
            waits.result()
        last = filler.submit(lambda turn: turn.fill(job))
        patient.go()
        assert first.result() and last.result()
        assert outcomes(filler) == {"done": 2, "cancelled": 1}


def test_cancelling_what_works_ends_it_with_its_stage(patient, job):
    with Filler([patient]) as filler:
        ticket = filler.submit(lambda turn: turn.fill(job))
        assert patient.begun.acquire(timeout=20)
        ticket.cancel()
        patient.go()
        with pytest.raises(Cancelled):
            ticket.result()
        assert patient.stages == 1
        assert filler.fill(job)  # the worker goes on
        ticket.cancel()  # harmless
        assert outcomes(filler) == {"done": 1, "cancelled": 1}


def test_what_a_cancelled_task_raises_is_not_a_failure(filler):
    started, cancelled = threading.Event(), threading.Event()

    def task(turn: Turn) -> None:
        started.set()
        assert cancelled.wait(20)
        raise ValueError("I/O operation on closed file")

    ticket = filler.submit(task)
    assert started.wait(20)
    ticket.cancel()
    cancelled.set()
    with pytest.raises(Cancelled):
        ticket.result()
    assert outcomes(filler) == {"cancelled": 1}


def test_the_time_limit_ends_what_works_and_what_waits(patient, job):
    with Filler([patient], timeout=0.3) as filler:
        tickets = [filler.submit(lambda turn: turn.fill(job)) for _ in range(2)]
        for ticket in tickets:
            with pytest.raises(TimedOut, match=r"expected a result within 0.3 s, got none; try again later"):
                ticket.result()
        patient.go()
        wait_until(lambda: outcomes(filler) == {"timed_out": 2})
        assert len(patient.jobs) == 1 and patient.stages == 1


def test_a_result_that_comes_too_late_is_dropped(filler):
    filler.timeout = 0.1
    ticket = filler.submit(lambda turn: time.sleep(0.3))
    wait_until(lambda: outcomes(filler) == {"timed_out": 1})
    with pytest.raises(TimedOut):
        ticket.result()


def test_waiting_in_an_event_loop(patient, job):
    async def run() -> None:
        done = filler.submit(lambda turn: turn.fill(job))
        dropped = asyncio.ensure_future(filler.submit(lambda turn: turn.fill(job)).wait())
        await asyncio.sleep(0.05)
        dropped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dropped
        patient.go()
        assert (await done.wait()).picture.size == (32, 40)
        filler.timeout = 0.05
        with pytest.raises(TimedOut):
            await filler.submit(lambda turn: time.sleep(0.2)).wait()
        with pytest.raises(InpaintError, match="unfit"):
            filler.timeout = 20
            await filler.submit(refuse).wait()

    def refuse(turn: Turn) -> None:
        raise InpaintError("unfit")

    with Filler([patient]) as filler:
        asyncio.run(run())
        wait_until(lambda: outcomes(filler) == {"done": 1, "cancelled": 1, "timed_out": 1, "refused": 1})


def test_errors_of_a_task_reach_who_waits_and_the_worker_goes_on(filler, job, caplog):
    def fail(turn: Turn) -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        filler.submit(fail).result()
    assert filler.fill(job) and filler.is_alive
    assert outcomes(filler) == {"done": 1, "failed": 1}
    assert "a bug" in caplog.text


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_exhausted_memory_is_said_in_words(error, filler, red, job, monkeypatch):
    def fill(*arguments, **options):
        raise error

    monkeypatch.setattr(red, "fill", fill)
    with pytest.raises(InpaintError, match=r"not enough memory for 40x32 pixels: expected .*; give a smaller one"):
        filler.fill(job)


def test_closing_cancels_everything(patient, job):
    filler = Filler([patient])
    tickets = [filler.submit(lambda turn: turn.fill(job)) for _ in range(3)]
    assert patient.begun.acquire(timeout=20)
    closing = threading.Thread(target=filler.close)
    closing.start()
    wait_until(lambda: not filler.is_alive)
    patient.go()
    closing.join(20)
    for ticket in tickets:
        with pytest.raises(Cancelled):
            ticket.result()
    with pytest.raises(Busy):
        filler.submit(lambda turn: None)
    assert patient.stages == 1


def test_neither_uploads_nor_results_stay_in_memory(filler):
    class Large:
        pass

    def submitted() -> tuple[weakref.ref, weakref.ref]:
        upload = Large()
        result = filler.submit(lambda turn: (upload, Large())).result()[1]
        return weakref.ref(upload), weakref.ref(result)

    references = submitted()
    gc.collect()
    wait_until(lambda: [reference() for reference in references] == [None, None])


def test_the_state_of_the_queue_is_measured(patient, job):
    with Filler([patient]) as filler:
        tickets = [filler.submit(lambda turn: turn.fill(job)) for _ in range(3)]
        assert patient.begun.acquire(timeout=20)
        text = filler.metrics.text().decode()
        assert "inpaint_waiting_tasks 2.0" in text and "inpaint_working_tasks 1.0" in text
        patient.go()
        assert all(ticket.result() for ticket in tickets)
    text = filler.metrics.text().decode()
    assert "inpaint_task_seconds_count 3.0" in text and "inpaint_wait_seconds_count 3.0" in text
    assert "inpaint_waiting_tasks 0.0" in text and "inpaint_working_tasks 0.0" in text
