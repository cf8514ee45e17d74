"""Files of a visitor: what is in them, and what messages call them."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import PureWindowsPath

LONGEST_NAME = 100  # characters


@dataclass(frozen=True)
class Upload:
    """A file that a visitor sent. No file of the server can be named by it."""

    name: str
    content: bytes = field(repr=False)

    @classmethod
    def of(cls, name: str | None, content: bytes, otherwise: str) -> Upload:
        """With the last part of ``name``, as far as it can be printed; ``otherwise`` where nothing of it can."""
        base = PureWindowsPath(name or "").name  # which knows both kinds of slashes
        printable = "".join(character for character in base if character.isprintable())
        return cls(printable[-LONGEST_NAME:] or otherwise, content)

    def opened(self) -> io.BytesIO:
        """A new stream at its beginning, with the name that messages use."""
        stream = io.BytesIO(self.content)
        stream.name = self.name
        return stream
