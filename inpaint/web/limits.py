"""What the service accepts from a visitor."""

from __future__ import annotations

from dataclasses import dataclass

from inpaint.errors import InpaintError


@dataclass(frozen=True)
class Limits:
    """The same for the API and the page.

    upload: bytes of a request, all its files together. megapixels: of a photograph or mask, checked before any pixel is
    decoded. waiting: tasks that wait for a device; further ones are refused. timeout: seconds from a task's arrival to
    its result, and as many again for each of upload and download.

    Raises:
        InpaintError: a limit out of range.
    """

    upload: int = 100 * 2**20
    megapixels: float = 50.0
    waiting: int = 8
    timeout: float = 120.0

    def __post_init__(self) -> None:
        if self.upload < 1 or self.waiting < 0 or not self.megapixels > 0 or not 0 < self.timeout < 1e6:
            raise InpaintError(
                "limits: expected an upload of 1 byte or more, more than 0 megapixels, a queue of 0 or more and a "
                f"timeout between 0 and 1,000,000 seconds, got {self}; change what is out of range"
            )
