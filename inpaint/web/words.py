"""Messages of the core in a visitor's words: it names options of the command, a visitor has fields of a form."""

from __future__ import annotations

import re

_LIMIT = re.compile(r"if you trust the file, raise the limit with --max-megapixels \d+")
_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)")


def for_visitors(error: Exception) -> str:
    """One line: what was expected, what came, what to do. ``--resize-mask`` becomes ``resize_mask``."""
    text = _LIMIT.sub("give a smaller one", " ".join(str(error).split()))
    return _OPTION.sub(lambda option: option[1].replace("-", "_"), text)
