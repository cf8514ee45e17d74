"""What bench_match.py knows of a way to match patches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from cases import PATCH_SIZE, Case
from torch import Tensor


class Rival(ABC):
    """One way to find, for each query patch of a case, the most similar key patch.

    Attributes:
        name: how it is asked for, and its name in the results.
        label: what it is, for tables and plots.
        group: "ours", "rival", or "limit" for a part of the work that no form of its kind can do without.
        dtype: of its multiplications; its speed is compared with the GEMM peak of this dtype.
        exact: whether its choice must be the arg-max up to rounding in float32.
        devices: where it exists.
    """

    name: str
    label: str
    group = "rival"
    dtype = torch.float32
    exact = True
    devices: tuple[str, ...] = ("cpu", "cuda")

    def unavailable(self, device: str) -> str | None:
        """Why it cannot run here, or None."""
        return None

    def settings(self, device: str) -> list[dict[str, Any]]:
        """What prepare may be called with; bench_match.py tries all of them and measures the fastest."""
        return [{}]

    def memory(self, case: Case, **settings: Any) -> float:
        """About how many bytes a run takes beyond features and masks; asked before anything runs."""
        return 0.0

    def operations(self, case: Case) -> float | None:
        """Floating-point operations that the form needs, overlaps of tiles aside; None where the features decide."""
        return case.direct_operations

    def traffic(self, case: Case) -> float | None:
        """Bytes of patches and scores that a run writes to memory and reads back, None where that says nothing."""
        return None

    @abstractmethod
    def prepare(self, case: Case, **settings: Any) -> Callable[[], Tensor | None]:
        """A function that does the whole work from features and masks, and is timed.

        It returns the chosen keys, int64: one for each query in row-major order, or the patch grid of all queries. None
        where it chooses nothing.
        """

    def notes(self) -> dict[str, int]:
        """What the last run said of itself."""
        return {}


def patch_view(features: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """All patches of (1, C, H, W) features: (H-2, W-2, 3, 3 * C), a view on a channels-last copy of them.

    The unfold that costs least: a patch is three runs of 3 * C neighbouring numbers, and nothing is copied until
    patches are selected, as in patch_view(features)[mask].
    """
    cells = features[0].permute(1, 2, 0).to(dtype or features.dtype).contiguous()
    height, width, channels = cells.shape
    size = (height - PATCH_SIZE + 1, width - PATCH_SIZE + 1, PATCH_SIZE, PATCH_SIZE * channels)
    return cells.as_strided(size, (width * channels, channels, width * channels, 1))


def inverse_norms(features: Tensor) -> Tensor:
    """1 / norm of every patch, (H-2, W-2) float32."""
    squares = features.float().square().sum(1, keepdim=True)
    return torch.nn.functional.avg_pool2d(squares, PATCH_SIZE, stride=1, divisor_override=1)[0, 0].clamp(1e-16).rsqrt()
