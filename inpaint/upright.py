"""Whether a photograph lies on its side in its file."""

from __future__ import annotations

import io
import os
from typing import Any

from PIL import ExifTags, Image, UnidentifiedImageError


def note_about_turning(source: Any, name: str) -> tuple[str, ...]:
    """A note about a photograph that is turned upright, since a mask may have been drawn on it as it lies in the file.

    Args:
        source: path, bytes, ``io.BytesIO`` or PIL image; nothing is known of others.
        name: what the note calls it.
    """
    if isinstance(source, io.BytesIO):
        source = source.getvalue()
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    try:
        if isinstance(source, Image.Image):
            orientation = source.getexif().get(ExifTags.Base.Orientation, 1)
        elif isinstance(source, str | os.PathLike | io.BytesIO):
            with Image.open(source) as image:
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        else:
            return ()
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, TypeError, KeyError):  # of damaged metadata
        return ()
    if orientation not in range(2, 9):
        return ()
    return (f"{name} is turned upright (EXIF {orientation}); a mask has to be upright as well",)
