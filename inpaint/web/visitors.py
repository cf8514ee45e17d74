"""Visitors of the page: each has one task in the queue, and can cancel it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inpaint.web.filler import Filler, Result, Task, Ticket


class Visitors:
    """Their tasks.

    Args:
        filler: the queue.
    """

    def __init__(self, filler: Filler) -> None:
        self._filler = filler
        self._tickets: dict[str, Ticket[Any]] = {}

    def result(self, visitor: str, task: Task[Result]) -> Result:
        """Takes a task into the queue in place of the visitor's last one, and waits for it.

        Raises:
            Stopped: it was refused, cancelled or too slow.
            Exception: what the task raised.
        """
        self.cancel(visitor)
        ticket = self._filler.submit(task)
        self._tickets[visitor] = ticket
        try:
            return ticket.result()
        finally:
            if self._tickets.get(visitor) is ticket:
                del self._tickets[visitor]

    def cancel(self, visitor: str) -> None:
        """Cancels the visitor's task. Harmless where there is none."""
        ticket = self._tickets.pop(visitor, None)
        if ticket is not None:
            ticket.cancel()
