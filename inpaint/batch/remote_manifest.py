"""The manifest of results that lie behind a URL, where nothing can be added to a file."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inpaint.batch.folder import Folder, LocalFolder
from inpaint.batch.manifest import NAME, Entry, Manifest

SECONDS = 60.0  # between two copies


@contextmanager
def manifest_of(folder: Folder) -> Iterator[Manifest]:
    """The manifest of a folder, open for a run.

    Of a folder behind a URL it is a copy on this machine, which is copied back every minute and at the end. A run that
    is killed fills again what came after the last copy. Nothing keeps a second run out there.

    Raises:
        InpaintError: as for ``Manifest``.
        OSError: it cannot be copied.
    """
    if isinstance(folder, LocalFolder):
        with Manifest(folder.path / NAME) as manifest:
            yield manifest
        return
    with tempfile.TemporaryDirectory(prefix="inpaint-") as here:
        path = Path(here) / NAME
        if folder.size(NAME) is not None:
            path.write_bytes(folder.read(NAME))
        manifest = _Copied(path, folder)
        with manifest:
            try:
                yield manifest
            finally:
                manifest.copy()


class _Copied(Manifest):
    def __init__(self, path: Path, folder: Folder) -> None:
        super().__init__(path)
        self._folder = folder
        self._copied_at = time.monotonic()

    def add(self, entry: Entry) -> None:
        super().add(entry)
        if time.monotonic() - self._copied_at > SECONDS:
            self.copy()

    def copy(self) -> None:
        self._folder.write(NAME, self.path.read_bytes())
        self._copied_at = time.monotonic()
