"""What the result of a photograph is called where no name is given."""

from __future__ import annotations

from pathlib import PurePosixPath


def result_name(photograph: str, does: str, extension: str | None = None) -> str:
    """A file's name with what was done to it added; of the same format where it can be written, else PNG."""
    from inpaint.photo import FORMAT_OF_EXTENSION  # and torch with it, for which usage errors should not wait

    name = PurePosixPath(photograph)
    own = name.suffix if name.suffix.lower() in FORMAT_OF_EXTENSION else ".png"
    return f"{name.stem}_{does}{extension or own}"
