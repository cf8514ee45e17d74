"""The score of chosen pairs of patches, with a gradient."""

from __future__ import annotations

from torch import Tensor

from patchswap import contract, ops
from patchswap.matching import Match, check_size, index_of, prepare, settings_of


def similarity(
    query: Tensor,
    key: Tensor,
    index: Tensor | Match,
    patch_size: int | None = None,
    *,
    padding: int | None = None,
    padding_mode: str | None = None,
) -> Tensor:
    """The normalised cross-correlation of query patches with their chosen keys: the score of `match`, with a gradient.

    For patches q and k it is <q, k> / (|q| |k|). It equals this plain torch code, shown for one key a query::

        queries, keys = F.unfold(query, 3), F.unfold(key, 3)                  # (B, C * 9, N) and (B, C * 9, M)
        chosen = keys.gather(2, index.flatten(1)[:, None].expand(-1, keys.shape[1], -1))
        score = F.cosine_similarity(queries, chosen, dim=1).view(index.shape)

    without unfolding, and so does its gradient. Differentiable with respect to query and key, not through the choice.
    Gradients of higher order raise a RuntimeError. Deterministic, gradients included. Where a patch has norm 0, score
    and gradient are 0. Under autocast it runs in float32, and query and key may have two dtypes.

    Args:
        query: (B, C, H, W) features: float32, float64, bfloat16 or float16, of any strides.
        key: (B, C, H', W') or (1, C, H', W') features, same dtype and device; H' and W' may differ from H and W.
        index: the Match, or (B, h, w) or (B, k, h, w) int64 positions in the key's patch grid, k from 1 to 8; -1 = no
            key.
        patch_size, padding, padding_mode: as for `match`; by default those of the Match,
            or 3, 0 and "zeros".

    Returns:
        The shape of index, float32, or float64 for float64 features: in [-1, 1] up to rounding, -inf without a key.

    Raises:
        ValueError, TypeError: shapes, dtypes or ranges outside the above. An index beyond the last key patch raises on
            the CPU; the CUDA kernel, which never waits for the device, takes it as -1. Features are not checked: a
            patch with NaN or Inf has score NaN.
    """
    patch_size, padding, padding_mode = settings_of("similarity", index, patch_size, padding, padding_mode)
    check_size("similarity", index, key)
    positions = index_of(index)
    outside = 0 if padding_mode == "zeros" else padding  # zeros are the operator's, which keeps the maps without them
    query, key, _, _ = prepare("similarity", query, key, None, None, patch_size, outside, padding_mode)
    contract.check_similarity("similarity", query, key, positions, patch_size, padding - outside)
    return ops.similarity(query, key, positions, patch_size, padding - outside)
