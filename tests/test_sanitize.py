"""What compute-sanitizer is given to watch calls every operator, and is right on a CPU."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks" / "development"))

import sanitize  # noqa: E402


def test_every_operator_is_called() -> None:
    sanitize.call_all("cpu")


def test_an_operator_that_is_not_called_is_found() -> None:
    with (
        mock.patch.object(sanitize, "search"),
        mock.patch.object(sanitize, "match_in_tiles"),
        mock.patch.object(sanitize, "convolve"),
        mock.patch.object(sanitize, "fold_with_gradients"),
        pytest.raises(RuntimeError, match=r"^not called: .*convolve.*match"),
    ):
        sanitize.call_all("cpu")
