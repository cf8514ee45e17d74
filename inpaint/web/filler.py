"""The queue in front of the networks: one task at a time on each device, a bounded number that wait.

A task does all of its work in its turn: it reads the photograph, fills it and writes the file. So only one photograph
for each device is decoded at any time, however many visitors there are. A task that waits holds no more than its
uploaded files.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from inpaint.errors import InpaintError
from inpaint.web.metrics import Metrics

if TYPE_CHECKING:
    from inpaint.inpainter import Inpainter
    from inpaint.work import Filled, Job

Result = TypeVar("Result")
_TIMEOUTS = (TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError)  # one class from Python 3.11 on
_log = logging.getLogger("inpaint.web")


class Stopped(Exception):  # noqa: N818, an outcome and not always an error
    """A task has no result. ``str(error)`` tells a visitor why, and what to do."""

    outcome = "failed"


class Busy(Stopped):
    """The queue is full. ``retry_after``: seconds after which there may be a place."""

    outcome = "busy"

    def __init__(self, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(f"expected a free place in the queue, got a full one; try again in {retry_after} s")


class TimedOut(Stopped):
    """The time limit has passed."""

    outcome = "timed_out"

    def __init__(self, timeout: float) -> None:
        super().__init__(
            f"expected a result within {timeout:g} s, got none; try again later, or with a smaller photograph or hole"
        )


class Cancelled(Stopped):
    """It was cancelled."""

    outcome = "cancelled"

    def __init__(self) -> None:
        super().__init__("the work was cancelled; start it again if you still want it")


class Turn:
    """What a task gets when it has a device: the networks, for itself alone until it returns."""

    def __init__(self, inpainter: Inpainter, check: Callable[[], None]) -> None:
        self.inpainter = inpainter
        self.check = check  # raises Cancelled or TimedOut where there is nobody to work for; for tasks of many steps

    def fill(self, job: Job, *, keep: bool = False) -> Filled:
        """As ``Inpainter.fill``; a cancelled task ends with the stage that it is in, on a GPU with the window.

        Raises:
            Cancelled, TimedOut: nobody waits for the result.
            InpaintError: not enough memory.
        """
        self.check()
        try:
            return self.inpainter.fill(job, keep=keep, on_stage=lambda _: self.check())
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
                raise
            height, width = job.picture.size
            raise InpaintError(
                f"not enough memory for {width}x{height} pixels: expected a picture that fits; give a smaller one"
            ) from error


Task = Callable[[Turn], Result]


class Ticket(Generic[Result]):
    """A task that was taken into the queue."""

    def __init__(self, filler: Filler, task: Task[Result], timeout: float) -> None:
        self.task = task
        self.future: Future[Result] = Future()
        self.arrived = time.monotonic()
        self._filler = filler
        self._timeout = timeout
        self._is_cancelled = False

    @property
    def seconds_left(self) -> float:
        """Until the time limit; 0 when it has passed."""
        return max(0.0, self.arrived + self._timeout - time.monotonic())

    def cancel(self) -> None:
        """Gives up the place in the queue, or ends the work with the stage that it is in. Harmless when it is done."""
        self._is_cancelled = True
        self._filler.remove(self, Cancelled())

    def check(self) -> None:
        """Raises Cancelled or TimedOut where there is nobody to work for."""
        if self._is_cancelled:
            raise Cancelled
        if not self.seconds_left:
            raise TimedOut(self._timeout)

    def result(self) -> Result:
        """Waits for the result.

        Raises:
            Cancelled: by another thread.
            TimedOut: the time limit has passed.
            Exception: what the task raised, for instance InpaintError.
        """
        try:
            return self.future.result(self.seconds_left)
        except _TIMEOUTS:
            return self._late()

    async def wait(self) -> Result:
        """As ``result``, without blocking the event loop. A coroutine that is cancelled cancels the task, too."""
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self.future), self.seconds_left)
        except _TIMEOUTS:
            return self._late()
        except asyncio.CancelledError:
            self.cancel()
            raise

    def _late(self) -> Result:
        if self.future.done() and not self.future.cancelled():
            return self.future.result()
        late = TimedOut(self._timeout)
        self._filler.remove(self, late)
        raise late


class Filler:
    """A queue with one worker for each device.

    Args:
        inpainters: one for each device.
        waiting: tasks that may wait; further ones are refused.
        timeout: seconds from a task's arrival to its result.
    """

    def __init__(self, inpainters: Sequence[Inpainter], *, waiting: int = 8, timeout: float = 120.0) -> None:
        self.waiting = waiting
        self.timeout = timeout
        self._changed = threading.Condition()
        self._queue: deque[Ticket[Any]] = deque()
        self._working = 0
        self._ended = 0
        self._seconds = 0.0  # of all tasks that have ended
        self._is_closed = False
        self.metrics = Metrics(lambda: len(self._queue), lambda: self._working)
        self._workers = [
            threading.Thread(target=self._work, args=(inpainter,), name=f"filler-{number}", daemon=True)
            for number, inpainter in enumerate(inpainters)
        ]
        for worker in self._workers:
            worker.start()

    @property
    def devices(self) -> int:
        return len(self._workers)

    @property
    def is_alive(self) -> bool:
        return not self._is_closed and all(worker.is_alive() for worker in self._workers)

    def submit(self, task: Task[Result]) -> Ticket[Result]:
        """Takes a task into the queue. It is called by a worker, with its turn.

        Raises:
            Busy: no place is free.
        """
        ticket = Ticket(self, task, self.timeout)
        with self._changed:
            if self._is_closed or self._working + len(self._queue) >= self.devices + self.waiting:
                self.count("busy")
                raise Busy(self.retry_after())
            self._queue.append(ticket)
            self._changed.notify()
        return ticket

    def fill(self, job: Job, *, keep: bool = False) -> Filled:
        """Fills a picture that is prepared, and waits for it. A task that reads the picture in its turn takes less
        memory; see ``submit``."""
        return self.submit(lambda turn: turn.fill(job, keep=keep)).result()

    def remove(self, ticket: Ticket[Any], reason: Stopped) -> None:
        """Takes a ticket out of the queue, if it waits there; that is then its result."""
        with self._changed:
            if ticket not in self._queue:
                return
            self._queue.remove(ticket)
        self._end(ticket, error=reason)

    def retry_after(self) -> int:
        """Whole seconds until a place may be free, from what tasks have taken so far."""
        mean = self._seconds / self._ended if self._ended else 1.0
        return max(1, math.ceil(mean / max(1, self.devices)))

    def count(self, outcome: str) -> None:
        """Counts the outcome of a task (inpaint.web.metrics.OUTCOMES)."""
        self.metrics.tasks.labels(outcome).inc()

    def close(self) -> None:
        """Cancels all tasks and waits for the workers to end."""
        with self._changed:
            self._is_closed = True
            waiting = list(self._queue)
            self._changed.notify_all()
        for ticket in waiting:
            ticket.cancel()
        for worker in self._workers:
            worker.join()

    def __enter__(self) -> Filler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self, inpainter: Inpainter) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._is_closed:
                    self._changed.wait()
                if self._is_closed:
                    return
                ticket = self._queue.popleft()
                self._working += 1
            begin = time.monotonic()
            self.metrics.waited.observe(begin - ticket.arrived)
            result, error = self._outcome(ticket, inpainter)
            seconds = time.monotonic() - begin
            self.metrics.seconds.observe(seconds)
            with self._changed:  # before the result is given: who has it may come back at once
                self._working -= 1
                self._ended += 1
                self._seconds += seconds
            self._end(ticket, result, error)
            del ticket, result, error  # which may be large

    def _outcome(self, ticket: Ticket[Any], inpainter: Inpainter) -> tuple[Any, Exception | None]:
        """What the task returns, or why it does not."""

        def check() -> None:
            if self._is_closed:
                raise Cancelled
            ticket.check()

        try:
            check()
            result = ticket.task(Turn(inpainter, check))
            check()
        except Exception as error:
            return None, _stopped(check) or error
        return result, None

    def _end(self, ticket: Ticket[Any], result: Any = None, error: Exception | None = None) -> None:
        ticket.task = _ended  # which holds the visitor's files
        if error is None:
            outcome = "done"
        elif isinstance(error, Stopped):
            outcome = error.outcome
        elif isinstance(error, InpaintError):
            outcome = "refused"
        else:
            outcome = "failed"
            _log.error("a task failed", exc_info=error)
        self.count(outcome)
        if not ticket.future.set_running_or_notify_cancel():
            return  # the coroutine that waited was cancelled
        if error is None:
            ticket.future.set_result(result)
        else:
            ticket.future.set_exception(error)


def _stopped(check: Callable[[], None]) -> Stopped | None:
    """Why there is nobody to work for. Their files are closed then, which may be what another error comes from."""
    try:
        check()
    except Stopped as stopped:
        return stopped
    return None


def _ended(turn: Turn) -> Any:
    raise AssertionError("a task runs once")
