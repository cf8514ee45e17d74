"""What the operators accept: one check per operator, for the public functions, the fake kernels and the reference.

csrc/ops.cpp repeats these checks in the same words for callers that come straight from the dispatcher.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_PATCH_SIZE = 7
MAX_TOPK = 8
MAX_DILATION = 1024
PRECISIONS = ("exact", "fast")
METRICS = ("ncc", "l2", "dot")
PADDING_MODES = ("zeros", "reflect", "replicate")
# Every method of match but "auto", and where it is there: the one list of them in Python, as kMethods is in csrc/ops.h.
METHODS = {"CPU": ("dense", "pruned"), "CUDA": ("direct", "mma", "wgmma")}
FEATURE_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def patch_grid(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns of the grid of patches that lie wholly inside a feature map; (0, 0) where none fits."""
    rows, columns = height - patch_size + 1, width - patch_size + 1
    return (rows, columns) if rows > 0 and columns > 0 else (0, 0)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 features, float32 for every other dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def max_weight(index: Tensor, patch_size: int) -> float:
    """The largest weight of `fold`: those of all copies that may lie on a cell have a finite sum in float32."""
    return 1e37 if rank_count(index) * patch_size**2 <= 25 else 1e35


def rank_count(index: Tensor) -> int:
    """How many keys each query has in an index that has been checked."""
    return index.shape[1] if index.dim() == 4 else 1


def check_features(operator: str, name: str, features: Tensor) -> None:
    """Raise unless `features` is a (B, C, H, W) tensor of a supported dtype."""
    if features.dim() != 4:
        raise ValueError(f"patchswap.{operator}: {name} must have shape (B, C, H, W); got {_shape(features)}")
    if features.dtype not in FEATURE_DTYPES:
        raise TypeError(
            f"patchswap.{operator}: {name} must be float32, float64, bfloat16 or float16; got {_dtype(features)}; "
            f"convert it first, for example with {name}.float()"
        )


def check_float(operator: str, name: str, tensor: Tensor) -> None:
    """Raise unless the tensor is float32, the one dtype that some operators take."""
    if tensor.dtype != torch.float32:
        raise TypeError(f"patchswap.{operator}: {name} must be float32; got {_dtype(tensor)}")


def check_like(operator: str, name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise unless the two feature maps share dtype and device."""
    if tensor.dtype != other.dtype:
        raise TypeError(
            f"patchswap.{operator}: {name} and {other_name} must have the same dtype; "
            f"got {_dtype(tensor)} and {_dtype(other)}"
        )
    check_device(operator, name, tensor, other_name, other)


def check_device(operator: str, name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise unless the two tensors are on the same device."""
    if tensor.device != other.device:
        raise ValueError(
            f"patchswap.{operator}: {name} and {other_name} must be on the same device; "
            f"got {tensor.device} and {other.device}"
        )


def check_whole(operator: str, name: str, value: int) -> None:
    """Raise where a number that counts something is a float."""
    if isinstance(value, float):
        raise TypeError(f"patchswap.{operator}: {name} must be a whole number; got {value}")


def check_patch_size(operator: str, patch_size: int) -> None:
    """Raise unless the patch size is one that kernels exist for."""
    check_whole(operator, "patch_size", patch_size)
    if not 1 <= patch_size <= MAX_PATCH_SIZE:
        raise ValueError(f"patchswap.{operator}: patch_size must be from 1 to {MAX_PATCH_SIZE}; got {patch_size}")


def check_padding(operator: str, padding: int, padding_mode: str, patch_size: int, maps: dict[str, Tensor]) -> None:
    """Raise unless every (B, C, H, W) map, given by its name, can be padded like this."""
    check_whole(operator, "padding", padding)
    if not 0 <= padding < patch_size:
        raise ValueError(
            f"patchswap.{operator}: padding must be from 0 to {patch_size - 1} at patch_size {patch_size}; "
            f"got {padding}"
        )
    if padding_mode not in PADDING_MODES:
        raise ValueError(f'patchswap.{operator}: padding_mode must be {_names(PADDING_MODES)}; got "{padding_mode}"')
    fewest = {"zeros": 0, "reflect": padding + 1, "replicate": 1}[padding_mode] if padding > 0 else 0
    for name, features in maps.items():
        if fewest > 0 and min(features.shape[2], features.shape[3]) < fewest:
            raise ValueError(
                f'patchswap.{operator}: padding {padding} with padding_mode "{padding_mode}" needs at least {fewest} '
                f"cells a side; got {name} of {_shape(features)}"
            )


def check_same_batch_and_channels(
    operator: str, query: Tensor, key: Tensor, names: tuple[str, str], hint: str = ""
) -> None:
    """Raise unless both maps have the same B and C; their heights and widths may differ."""
    if query.shape[0] != key.shape[0] or query.shape[1] != key.shape[1]:
        raise ValueError(
            f"patchswap.{operator}: {names[0]} and {names[1]} must agree in batch and channels; "
            f"got {_shape(query)} and {_shape(key)}{hint}"
        )


def check_patch_mask(operator: str, name: str, mask: Tensor, features_name: str, features: Tensor, size: int) -> None:
    """Raise unless `mask` is a bool tensor on the patch grid of `features`."""
    if mask.dtype != torch.bool:
        raise TypeError(
            f"patchswap.{operator}: {name} must be bool; got {_dtype(mask)}; compare it first, as in mask > 0"
        )
    rows, columns = patch_grid(features.shape[2], features.shape[3], size)
    if mask.dim() != 3 or mask.shape[0] != features.shape[0] or mask.shape[1] != rows or mask.shape[2] != columns:
        raise ValueError(
            f"patchswap.{operator}: {name} must have the shape of {features_name}'s patch grid "
            f"({features.shape[0]}, {rows}, {columns}) at patch_size {size}; got {_shape(mask)}"
        )
    check_device(operator, name, mask, features_name, features)


def check_match(
    query: Tensor,
    key: Tensor,
    query_mask: Tensor | None,
    key_mask: Tensor | None,
    patch_size: int,
    topk: int,
    precision: str,
    method: str,
    metric: str,
    key_weight: Tensor | None,
) -> None:
    """Raise ValueError or TypeError where the arguments of `match` break its contract."""
    check_features("match", "query", query)
    check_features("match", "key", key)
    check_like("match", "query", query, "key", key)
    check_same_batch_and_channels("match", query, key, ("query", "key"))
    check_patch_size("match", patch_size)
    check_whole("match", "topk", topk)
    if not 1 <= topk <= MAX_TOPK:
        raise ValueError(f"patchswap.match: topk must be from 1 to {MAX_TOPK}; got {topk}")
    if precision not in PRECISIONS:
        raise ValueError(f'patchswap.match: precision must be "exact" or "fast"; got "{precision}"')
    if method != "auto" and not any(method in names for names in METHODS.values()):
        listed = ", ".join(f"{_names(names)} ({device})" for device, names in METHODS.items())
        raise ValueError(f'patchswap.match: method must be "auto", {listed}; got "{method}"')
    check_metric("match", metric)
    if query_mask is not None:
        check_patch_mask("match", "query_mask", query_mask, "query", query, patch_size)
    if key_mask is not None:
        check_patch_mask("match", "key_mask", key_mask, "key", key, patch_size)
    if key_weight is not None:
        _check_key_weight(key_weight, key, patch_size)


def check_whole_height(key: Tensor, whole_height: int) -> None:
    """Raise unless key can be a part of a map of this height."""
    if whole_height < key.shape[2]:
        raise ValueError(
            f"patchswap.match_part: whole_height must be at least the rows of key, {key.shape[2]}; got {whole_height}"
        )


def check_metric(operator: str, metric: str) -> None:
    """Raise unless the metric is known."""
    if metric not in METRICS:
        raise ValueError(f'patchswap.{operator}: metric must be {_names(METRICS)}; got "{metric}"')


def _check_key_weight(weight: Tensor, key: Tensor, patch_size: int) -> None:
    dtype = str(accumulation_dtype(key.dtype)).removeprefix("torch.")
    if _dtype(weight) != dtype:
        raise TypeError(f"patchswap.match: key_weight must be {dtype} where key is {_dtype(key)}; got {_dtype(weight)}")
    rows, columns = patch_grid(key.shape[2], key.shape[3], patch_size)
    if weight.dim() != 3 or weight.shape[0] != key.shape[0] or weight.shape[1] != rows or weight.shape[2] != columns:
        raise ValueError(
            f"patchswap.match: key_weight must have the shape of key's patch grid ({key.shape[0]}, {rows}, {columns}) "
            f"at patch_size {patch_size}; got {_shape(weight)}"
        )
    check_device("match", "key_weight", weight, "key", key)


def check_cohere(
    index: Tensor,
    query: Tensor,
    key: Tensor,
    query_mask: Tensor | None,
    key_mask: Tensor | None,
    weight: float,
    sweeps: int,
    patch_size: int,
    metric: str,
) -> None:
    """Raise ValueError or TypeError where the arguments of `cohere` break its contract."""
    check_features("cohere", "query", query)
    check_features("cohere", "key", key)
    check_like("cohere", "query", query, "key", key)
    check_same_batch_and_channels("cohere", query, key, ("query", "key"))
    check_patch_size("cohere", patch_size)
    check_coherence("cohere", "weight", weight, sweeps)
    check_metric("cohere", metric)
    _check_query_index("cohere", index, query, patch_size)
    if query_mask is not None:
        check_patch_mask("cohere", "query_mask", query_mask, "query", query, patch_size)
    if key_mask is not None:
        check_patch_mask("cohere", "key_mask", key_mask, "key", key, patch_size)


def check_coherence(operator: str, name: str, weight: float, sweeps: int) -> None:
    """Raise unless the weight of agreement and the number of sweeps are possible."""
    if not 0 <= weight < math.inf:
        raise ValueError(f"patchswap.{operator}: {name} must be a finite number, 0 or more; got {weight:g}")
    check_whole(operator, "sweeps", sweeps)
    if sweeps < 0:
        raise ValueError(f"patchswap.{operator}: sweeps must not be negative; got {sweeps}")


def check_fold(
    index: Tensor,
    key: Tensor,
    base: Tensor | None,
    height: int,
    width: int,
    patch_size: int,
    weights: Tensor | None,
) -> None:
    """Raise ValueError or TypeError where the arguments of `fold` break its contract."""
    check_features("fold", "key", key)
    check_patch_size("fold", patch_size)
    if height < 0 or width < 0:
        raise ValueError(f"patchswap.fold: output_size must not be negative; got ({height}, {width})")
    _check_index("fold", index, key, height, width, patch_size)
    if base is not None:
        check_base("fold", base, key, height, width)
    if weights is not None:
        _check_weights("fold", weights, index, "key", key)


def check_base(operator: str, base: Tensor, key: Tensor, height: int, width: int) -> None:
    """Raise unless base can lie under what is copied from key into a map of this size."""
    check_features(operator, "base", base)
    check_like(operator, "base", base, "key", key)
    if tuple(base.shape) != (key.shape[0], key.shape[1], height, width):
        raise ValueError(
            f"patchswap.{operator}: base must have shape ({key.shape[0]}, {key.shape[1]}, {height}, {width}), "
            f"the batch and channels of key and output_size; got {_shape(base)}"
        )


def check_fold_backward(
    grad_output: Tensor, index: Tensor, key_height: int, key_width: int, patch_size: int, weights: Tensor | None
) -> None:
    """Raise ValueError or TypeError where the arguments of `fold_backward` break its contract."""
    check_features("fold_backward", "grad_output", grad_output)
    check_patch_size("fold_backward", patch_size)
    if key_height < 0 or key_width < 0:
        raise ValueError(
            f"patchswap.fold_backward: the size of key must not be negative; got ({key_height}, {key_width})"
        )
    _check_index("fold_backward", index, grad_output, grad_output.shape[2], grad_output.shape[3], patch_size)
    if weights is not None:
        _check_weights("fold_backward", weights, index, "grad_output", grad_output)


def check_fold_weights_backward(
    grad_output: Tensor, index: Tensor, key: Tensor, output: Tensor, weights: Tensor, patch_size: int
) -> None:
    """Raise ValueError or TypeError where the arguments of `fold_weights_backward` break its contract."""
    operator = "fold_weights_backward"
    check_features(operator, "grad_output", grad_output)
    check_patch_size(operator, patch_size)
    _check_index(operator, index, grad_output, grad_output.shape[2], grad_output.shape[3], patch_size)
    check_features(operator, "key", key)
    check_like(operator, "key", key, "grad_output", grad_output)
    check_same_batch_and_channels(operator, key, grad_output, ("key", "grad_output"))
    check_features(operator, "output", output)
    check_like(operator, "output", output, "grad_output", grad_output)
    if tuple(output.shape) != tuple(grad_output.shape):
        raise ValueError(
            f"patchswap.{operator}: output must have the shape of grad_output {_shape(grad_output)}; "
            f"got {_shape(output)}"
        )
    _check_weights(operator, weights, index, "grad_output", grad_output)


def check_similarity(operator: str, query: Tensor, key: Tensor, index: Tensor, patch_size: int, padding: int) -> None:
    """Raise ValueError or TypeError where the arguments of `similarity` break its contract."""
    check_features(operator, "query", query)
    check_features(operator, "key", key)
    check_like(operator, "query", query, "key", key)
    check_same_batch_and_channels(operator, query, key, ("query", "key"))
    check_patch_size(operator, patch_size)
    check_padding(operator, padding, "zeros", patch_size, {})
    _check_query_index(operator, index, query, patch_size, padding)


def check_similarity_backward(
    operator: str,
    grad_score: Tensor,
    query: Tensor,
    key: Tensor,
    index: Tensor,
    score: Tensor,
    patch_size: int,
    padding: int,
) -> None:
    """Raise ValueError or TypeError where the arguments of a gradient of `similarity` break its contract."""
    check_similarity(operator, query, key, index, patch_size, padding)
    dtype = str(accumulation_dtype(query.dtype)).removeprefix("torch.")
    for name, tensor in (("grad_score", grad_score), ("score", score)):
        if _dtype(tensor) != dtype:
            raise TypeError(
                f"patchswap.{operator}: {name} must be {dtype} where query is {_dtype(query)}; got {_dtype(tensor)}"
            )
        if tuple(tensor.shape) != tuple(index.shape):
            raise ValueError(
                f"patchswap.{operator}: {name} must have the shape of index {_shape(index)}; got {_shape(tensor)}"
            )
        check_device(operator, name, tensor, "query", query)


def check_convolve(
    features: Tensor, weight: Tensor, bias: Tensor | None, skip: Tensor | None, dilation: int, doubled: bool
) -> tuple[int, int]:
    """Raise ValueError or TypeError where the arguments of `convolve` break its contract; height and width of it."""
    if features.dim() != 4:
        raise ValueError(f"patchswap.convolve: features must have shape (B, C, H, W); got {_shape(features)}")
    named = {"features": features, "skip": skip, "weight": weight, "bias": bias}
    for name, tensor in named.items():
        if tensor is not None:
            check_float("convolve", name, tensor)
            check_device("convolve", name, tensor, "features", features)
    if not 1 <= dilation <= MAX_DILATION or (dilation > 1 and doubled):
        raise ValueError(
            f"patchswap.convolve: dilation must be from 1 to {MAX_DILATION}, and 1 where the map is doubled; "
            f"got {dilation}"
        )
    batch, channels, height, width = features.shape
    if doubled:
        height, width = 2 * height, 2 * width
    if skip is not None:
        if skip.dim() != 4 or skip.shape[0] != batch or tuple(skip.shape[2:]) != (height, width):
            raise ValueError(
                f"patchswap.convolve: skip must have shape ({batch}, C, {height}, {width}), the size of the result; "
                f"got {_shape(skip)}"
            )
        channels += skip.shape[1]
    if weight.dim() != 4 or tuple(weight.shape[1:]) != (channels, 3, 3):
        raise ValueError(
            f"patchswap.convolve: weight must have shape (O, {channels}, 3, 3), the channels of features and skip; "
            f"got {_shape(weight)}"
        )
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise ValueError(
            f"patchswap.convolve: bias must have shape ({weight.shape[0]}), the first of weight; got {_shape(bias)}"
        )
    return height, width


def check_fill_smoothly(image: Tensor, hole: Tensor) -> None:
    """Raise ValueError or TypeError where the arguments of `fill_smoothly` break its contract, but for its dtype."""
    check_features("fill_smoothly", "image", image)
    if hole.dtype != torch.bool:
        raise TypeError(f"patchswap.fill_smoothly: hole must be bool with True = hole; got {_dtype(hole)}")
    batch, _, height, width = image.shape
    if tuple(hole.shape) != (batch, height, width):
        raise ValueError(
            f"patchswap.fill_smoothly: hole must have shape ({batch}, {height}, {width}), one value for each pixel; "
            f"got {_shape(hole)}"
        )
    check_device("fill_smoothly", "hole", hole, "image", image)


def _check_index(operator: str, index: Tensor, like: Tensor, height: int, width: int, patch_size: int) -> None:
    if index.dtype != torch.int64:
        raise TypeError(f"patchswap.{operator}: index must be int64; got {_dtype(index)}")
    rows, columns = patch_grid(height, width, patch_size)
    if not _is_on_grid(index, like.shape[0], (rows, columns)):
        raise ValueError(
            f"patchswap.{operator}: index must have shape ({like.shape[0]}, {rows}, {columns}), the patch grid of a "
            f"({height}, {width}) output at patch_size {patch_size}, or with k from 1 to {MAX_TOPK} ranks after the "
            f"batch; got {_shape(index)}"
        )
    check_device(operator, "index", index, "key" if operator == "fold" else "grad_output", like)


def _check_query_index(operator: str, index: Tensor, query: Tensor, patch_size: int, padding: int = 0) -> None:
    if index.dtype != torch.int64:
        raise TypeError(f"patchswap.{operator}: index must be int64; got {_dtype(index)}")
    grid = patch_grid(query.shape[2] + 2 * padding, query.shape[3] + 2 * padding, patch_size)
    if not _is_on_grid(index, query.shape[0], grid):
        raise ValueError(
            f"patchswap.{operator}: index must have the shape of query's patch grid ({query.shape[0]}, {grid[0]}, "
            f"{grid[1]}) at patch_size {patch_size}, or with k from 1 to {MAX_TOPK} ranks after the batch; "
            f"got {_shape(index)}"
        )
    check_device(operator, "index", index, "query", query)


def _is_on_grid(index: Tensor, batch: int, grid: tuple[int, int]) -> bool:
    """Whether it is (batch, *grid), or has 1 to MAX_TOPK ranks after the batch."""
    if index.dim() not in (3, 4) or not 1 <= rank_count(index) <= MAX_TOPK:
        return False
    return index.shape[0] == batch and tuple(index.shape[-2:]) == grid


def _check_weights(operator: str, weights: Tensor, index: Tensor, features_name: str, features: Tensor) -> None:
    """Of an index that has been checked."""
    dtype = accumulation_dtype(features.dtype)
    if weights.dtype != dtype:
        raise TypeError(
            f"patchswap.{operator}: weights must be {str(dtype).removeprefix('torch.')} where {features_name} is "
            f"{_dtype(features)}; got {_dtype(weights)}"
        )
    if tuple(weights.shape) != tuple(index.shape):
        raise ValueError(
            f"patchswap.{operator}: weights must have the shape of index {_shape(index)}, one for each query; "
            f"got {_shape(weights)}"
        )
    check_device(operator, "weights", weights, features_name, features)


def _names(names: tuple[str, ...]) -> str:
    quoted = [f'"{name}"' for name in names]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]])


def _shape(tensor: Tensor) -> str:
    return "(" + ", ".join(str(size) for size in tensor.shape) + ")"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
