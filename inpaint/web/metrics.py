"""What the service counts and measures, in the form that Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

OUTCOMES = ("done", "refused", "busy", "timed_out", "cancelled", "failed")
_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)


class Metrics:
    """Counts of tasks by their outcome, their seconds, and the state of the queue.

    Args:
        waiting, working: give the number of tasks that wait and that have a device now.
    """

    def __init__(self, waiting: Callable[[], float], working: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.tasks = Counter(
            "inpaint_tasks",
            "Tasks by outcome: done; refused, because of their input; busy, the queue was full; timed_out; cancelled; "
            "failed, by an error of the server.",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in OUTCOMES:
            self.tasks.labels(outcome)
        self.seconds = Histogram(
            "inpaint_task_seconds", "Seconds on the device.", registry=self.registry, buckets=_SECONDS
        )
        self.waited = Histogram(
            "inpaint_wait_seconds", "Seconds in the queue before the device.", registry=self.registry, buckets=_SECONDS
        )
        for name, text, value in (
            ("inpaint_waiting_tasks", "Tasks that wait for a device.", waiting),
            ("inpaint_working_tasks", "Tasks that have a device.", working),
        ):
            Gauge(name, text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)
