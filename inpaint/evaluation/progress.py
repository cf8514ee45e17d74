"""The progress bar of long evaluations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from inpaint.errors import InpaintError


@contextmanager
def progress_bar(total: int, description: str, shown: bool) -> Iterator[Callable[[], object]]:
    """Yields what advances the bar by one photograph; nothing is drawn unless ``shown``. InpaintError without tqdm."""
    if not shown:
        yield lambda: None
        return
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise InpaintError("expected tqdm for the progress bar, it is not installed; pip install tqdm") from error
    with tqdm(total=total, unit="photo", desc=description) as bar:
        yield bar.update
