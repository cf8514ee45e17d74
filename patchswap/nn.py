"""Patch-swap as a module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from patchswap.swap import swap


class PatchSwap(nn.Module):
    """`patchswap.swap` as a module: settings are given once, tensors at each call. It has no parameters.

    `PatchSwap(patch_size=5)(content, style)` is `swap(content, style, patch_size=5)`.

    Args:
        patch_size, padding, padding_mode, key_margin, metric, coherence, sweeps, divisor: as for `swap`.
    """

    def __init__(
        self,
        patch_size: int = 3,
        *,
        padding: int = 0,
        padding_mode: str = "zeros",
        key_margin: int = 0,
        metric: str = "ncc",
        coherence: float = 0.0,
        sweeps: int = 6,
        divisor: float | Literal["covered"] = "covered",
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "patch_size": patch_size,
            "padding": padding,
            "padding_mode": padding_mode,
            "key_margin": key_margin,
            "metric": metric,
            "coherence": coherence,
            "sweeps": sweeps,
            "divisor": divisor,
        }

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        *,
        values: Tensor | Sequence[Tensor] | None = None,
        hole: Tensor | None = None,
        key_weight: Tensor | None = None,
        return_match: bool = False,
    ) -> Any:
        """What `swap` returns for these arguments."""
        function: Any = swap  # its overloads know one kind of values at a time
        given = {"values": values, "hole": hole, "key_weight": key_weight, "return_match": return_match}
        return function(query, key, **given, **self.settings)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
