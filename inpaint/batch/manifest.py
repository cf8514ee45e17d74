"""What was done before: a file of JSON lines, to which one line is added for each photograph.

    {"photograph": "a/1.jpg", "key": "9f...", "output": "a/1_filled.jpg", "bytes": 5120, "notes": []}
    {"photograph": "a/2.jpg", "key": "03...", "error": "cannot read a/2.jpg: ..."}

The last line on a photograph counts. A line is written after the result, so that whatever it names is whole. A run
that is killed between the two fills that photograph once more. A line that is cut off, as a full disk or a crash leaves
it, counts for nothing.
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from inpaint.codec import reason
from inpaint.errors import InpaintError

NAME = "manifest.jsonl"


@dataclass(frozen=True)
class Entry:
    """What became of a photograph.

    photograph, output: names, as in ``inpaint.batch.pairs``. key: of photograph, mask and options
    (``inpaint.batch.task.key``). bytes: length of the result's file. error: why there is none. notes: remarks for the
    user. seconds: that it took.
    """

    photograph: str
    key: str
    output: str | None = None
    bytes: int | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    seconds: float | None = None

    def names(self, key: str, size: int | None) -> bool:
        """Whether it names a result with this key whose file has so many bytes."""
        return self.output is not None and (self.key, self.bytes) == (key, size)

    @classmethod
    def parse(cls, line: str) -> Entry:
        """Of a line. Raises ValueError or TypeError for anything else."""
        return cls(**json.loads(line))

    def line(self) -> str:
        """One line of JSON, with its end; what is None is left out."""
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None}) + "\n"


def parse(content: bytes) -> dict[str, Entry]:
    """The last entry of each photograph in a file's content. What is no entry is passed over."""
    entries = {}
    for line in content.splitlines():
        with suppress(ValueError, TypeError):
            entry = Entry.parse(line.decode())
            entries[entry.photograph] = entry
    return entries


class Manifest:
    """The manifest of a folder of results, open for one run at a time. Threads can share it.

    Args:
        path: of the file, which need not exist. Its folder has to.

    Raises:
        InpaintError: it cannot be written, or another run has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 closed by close()
        except OSError as error:
            raise InpaintError(f"cannot write {path}: {reason(error)}; choose another folder") from error
        if not _is_ours(self._file):
            self._file.close()
            raise InpaintError(f"{path} is in use by another run; wait for it, or choose another folder")
        self._file.seek(0)
        content = self._file.read()
        self._entries = parse(content)
        self._length = len(content)
        self._is_cut_off = bool(content) and not content.endswith(b"\n")

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def entry(self, photograph: str) -> Entry | None:
        """The last entry on a photograph; None where there is none."""
        with self._lock:
            return self._entries.get(photograph)

    def is_done(self, photograph: str, key: str, output: Path) -> bool:
        """Whether the photograph was filled with this key, and the result is there at its full length."""
        entry = self.entry(photograph)
        try:
            return entry is not None and entry.names(key, output.stat().st_size)
        except OSError:
            return False

    def add(self, entry: Entry) -> None:
        """Adds a line, which is with the system when this returns.

        Raises:
            OSError: the disk is full, for instance. The file is then as it was.
        """
        line = entry.line().encode()
        with self._lock:
            content = b"\n" + line if self._is_cut_off else line
            try:
                written = self._file.write(content)
                if written != len(content):
                    raise OSError(28, os.strerror(28), str(self.path))
            except OSError:
                with suppress(OSError):
                    self._file.truncate(self._length)
                raise
            self._length += len(content)
            self._is_cut_off = False
            self._entries[entry.photograph] = entry


def _is_ours(file: Any) -> bool:
    """Whether no other process has locked the file; it is locked from now on, until it is closed."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
