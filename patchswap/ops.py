"""The operators torch.ops.patchswap.* and everything torch knows about them; SCHEMAS lists them.

The compiled library (library.py) defines the operators and their CPU and CUDA kernels. Without it they are defined
here, with the same schemas. In both cases the plain torch reference serves every device that has no kernel of its own.
Apple's GPUs ("mps") have no float64, which it uses; tensors there are copied to the CPU, and the results back.

* Gradients: `fold` is linear in key and base and has gradients of every order in these. Its gradient with respect to
  weights is an operator, `fold_weights_backward`, which has none itself and says so where one is asked of it. `match`,
  `match_part` and `cohere` have none: an index is a choice and a score is reported for inspection, so all outputs are
  marked non-differentiable. `similarity` gives this score a gradient with respect to query and key, of the first order.
  `convolve` is for inference, and says so where a gradient is asked of it. So does the operator `fill_smoothly`; the
  function of that name takes the reference there.
* Autocast: `match`, `cohere` and `similarity` run in float32, so that what they choose does not depend on autocast's
  dtype; `fold` keeps key's dtype. The function `patchswap.fold` brings weights of half precision to float32 there.
* vmap: the mapped dimension joins the batch, in one call. `convolve` with a weight or bias of its own for each is
  called for one after the other. `match_part` has none. torch.func.grad and jacrev fail: torch.library gives operators
  no gradient there.
* torch.export and torch.compile(dynamic=True) leave B, H and W open, above the patch size.
* Threads: calls from several threads share nothing. After a call, a child made by fork must not call, unless the parent
  calls with torch.set_num_threads(1): OpenMP's threads do not survive a fork. This holds for torch's own operators too.
  Start processes with "spawn", as torch.utils.data.DataLoader does with multiprocessing_context="spawn".
* Sizes: CPU kernels count in 64 bits. CUDA kernels take fewer than 2^30 cells in one channel of one sample.
* torch.set_flush_denormal holds for the calling thread alone. Patches with a norm below 1e-15 may then score 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from patchswap import contract, library, reference

SCHEMAS = {
    "match": "(Tensor query, Tensor key, Tensor? query_mask, Tensor? key_mask, int patch_size, int topk, "
    'str precision="exact", str method="auto", str metric="ncc", Tensor? key_weight=None) -> '
    "(Tensor index, Tensor score, Tensor tally)",
    "match_part": "(Tensor query, Tensor key, Tensor? query_mask, Tensor? key_mask, int patch_size, int topk, "
    "str precision, str method, str metric, Tensor? key_weight, int whole_height) -> "
    "(Tensor index, Tensor score, Tensor ranking)",
    "explain": "(Tensor query, Tensor key, Tensor? query_mask, Tensor? key_mask, int patch_size, int topk, "
    'str precision="exact", str method="auto", str metric="ncc", Tensor? key_weight=None) -> str',
    "cohere": "(Tensor index, Tensor query, Tensor key, Tensor? query_mask, Tensor? key_mask, float weight, "
    'int sweeps, int patch_size, str metric="ncc") -> (Tensor index, Tensor score)',
    "fold": "(Tensor index, Tensor key, Tensor? base, SymInt height, SymInt width, int patch_size, "
    "Tensor? weights=None) -> Tensor",
    "fold_backward": "(Tensor grad_output, Tensor index, SymInt key_height, SymInt key_width, int patch_size, "
    "Tensor? weights=None) -> Tensor",
    "fold_weights_backward": "(Tensor grad_output, Tensor index, Tensor key, Tensor output, Tensor weights, "
    "int patch_size) -> Tensor",
    "similarity": "(Tensor query, Tensor key, Tensor index, int patch_size, int padding=0) -> Tensor",
    "similarity_query_backward": "(Tensor grad_score, Tensor query, Tensor key, Tensor index, Tensor score, "
    "int patch_size, int padding=0) -> Tensor",
    "similarity_key_backward": "(Tensor grad_score, Tensor query, Tensor key, Tensor index, Tensor score, "
    "int patch_size, int padding=0) -> Tensor",
    "convolve": "(Tensor features, Tensor weight, Tensor? bias, Tensor? skip, int dilation, bool doubled, "
    "bool replicate, float slope) -> Tensor",
    "fill_smoothly": "(Tensor image, Tensor hole) -> Tensor",
}


AUTOCAST_DEVICES = ("cpu", "cuda")

extension: library.Extension | None = None
extension_error: library.LibraryError | None = None
try:
    extension = library.load()
except library.LibraryError as error:
    extension_error = error


def _on_the_cpu(name: str) -> Callable[..., Any]:
    """The operator of that name for tensors of another device."""

    def run(*arguments: Any) -> Any:
        device = next(each.device for each in arguments if isinstance(each, Tensor))
        operator = getattr(torch.ops.patchswap, name)
        results = operator(*[each.cpu() if isinstance(each, Tensor) else each for each in arguments])
        return pytree.tree_map_only(Tensor, lambda result: result.to(device), results)

    return run


_library = torch.library.Library("patchswap", "FRAGMENT")
for _name, _schema in SCHEMAS.items():
    if extension is None:
        _library.define(_name + _schema)
    _library.impl(_name, getattr(reference, _name), "CompositeExplicitAutograd")
    _library.impl(_name, _on_the_cpu(_name), "MPS")


def match(
    query: Tensor,
    key: Tensor,
    query_mask: Tensor | None,
    key_mask: Tensor | None,
    patch_size: int,
    topk: int,
    precision: str = "exact",
    method: str = "auto",
    metric: str = "ncc",
    key_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """torch.ops.patchswap.match: index int64 and score, both (B, topk, H-p+1, W-p+1), and tally int64 (2,).

    tally says how the choice was made: key patches scored in full precision after a coarse score had let them through,
    and queries for which the coarse scores could not decide, which were searched in full. It is the one result that is
    not deterministic, for tests and benchmarks.
    """
    return torch.ops.patchswap.match(
        query, key, query_mask, key_mask, patch_size, topk, precision, method, metric, key_weight
    )


def match_part(
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
    whole_height: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """torch.ops.patchswap.match_part: match for a key that is some rows of a map of whole_height rows.

    index int64, score and ranking, all (B, topk, H-p+1, W-p+1). ranking is what keys are ordered by: the best results
    of all parts by ranking, then lowest index, are those of match with the whole map.
    """
    return torch.ops.patchswap.match_part(
        query, key, query_mask, key_mask, patch_size, topk, precision, method, metric, key_weight, whole_height
    )


def explain(
    query: Tensor,
    key: Tensor,
    query_mask: Tensor | None,
    key_mask: Tensor | None,
    patch_size: int,
    topk: int,
    precision: str = "exact",
    method: str = "auto",
    metric: str = "ncc",
    key_weight: Tensor | None = None,
) -> str:
    """torch.ops.patchswap.explain: what match runs for these arguments, as lines that patchswap.explain reads."""
    return torch.ops.patchswap.explain(
        query, key, query_mask, key_mask, patch_size, topk, precision, method, metric, key_weight
    )


def cohere(
    index: Tensor,
    query: Tensor,
    key: Tensor,
    query_mask: Tensor | None,
    key_mask: Tensor | None,
    weight: float,
    sweeps: int,
    patch_size: int,
    metric: str = "ncc",
) -> tuple[Tensor, Tensor]:
    """torch.ops.patchswap.cohere: index int64 and score, both (B, H-p+1, W-p+1); patchswap.cohere says which."""
    return torch.ops.patchswap.cohere(index, query, key, query_mask, key_mask, weight, sweeps, patch_size, metric)


def fold(
    index: Tensor,
    key: Tensor,
    base: Tensor | None,
    height: int,
    width: int,
    patch_size: int,
    weights: Tensor | None = None,
) -> Tensor:
    """torch.ops.patchswap.fold: (B, C, height, width) in the dtype of key."""
    return torch.ops.patchswap.fold(index, key, base, height, width, patch_size, weights)


def fold_backward(
    grad_output: Tensor,
    index: Tensor,
    key_height: int,
    key_width: int,
    patch_size: int,
    weights: Tensor | None = None,
) -> Tensor:
    """torch.ops.patchswap.fold_backward: (B, C, key_height, key_width) in the dtype of grad_output."""
    return torch.ops.patchswap.fold_backward(grad_output, index, key_height, key_width, patch_size, weights)


def fold_weights_backward(
    grad_output: Tensor, index: Tensor, key: Tensor, output: Tensor, weights: Tensor, patch_size: int
) -> Tensor:
    """torch.ops.patchswap.fold_weights_backward: shape and dtype of weights."""
    return torch.ops.patchswap.fold_weights_backward(grad_output, index, key, output, weights, patch_size)


def similarity(query: Tensor, key: Tensor, index: Tensor, patch_size: int, padding: int = 0) -> Tensor:
    """torch.ops.patchswap.similarity: the score of every pair in the shape of index; see patchswap.similarity."""
    return torch.ops.patchswap.similarity(query, key, index, patch_size, padding)


def similarity_query_backward(
    grad_score: Tensor, query: Tensor, key: Tensor, index: Tensor, score: Tensor, patch_size: int, padding: int = 0
) -> Tensor:
    """torch.ops.patchswap.similarity_query_backward: shape and dtype of query."""
    return torch.ops.patchswap.similarity_query_backward(grad_score, query, key, index, score, patch_size, padding)


def similarity_key_backward(
    grad_score: Tensor, query: Tensor, key: Tensor, index: Tensor, score: Tensor, patch_size: int, padding: int = 0
) -> Tensor:
    """torch.ops.patchswap.similarity_key_backward: shape and dtype of key."""
    return torch.ops.patchswap.similarity_key_backward(grad_score, query, key, index, score, patch_size, padding)


def convolve(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    skip: Tensor | None = None,
    *,
    dilation: int = 1,
    doubled: bool = False,
    replicate: bool = False,
    slope: float = 1.0,
) -> Tensor:
    """torch.ops.patchswap.convolve: a 3x3 convolution by minimal filtering on the CPU; see csrc/ops.h.

    ``leaky_relu(conv2d(pad(cat((x, skip), dim=1)), weight, bias, dilation=dilation), slope)``, where x is
    features, enlarged twice by repeating its cells if ``doubled``, and pad adds as many cells on each side as the
    kernel reaches beyond the border, zeros or the outermost (``replicate``).
    float32: (B, C, H, W) -> (B, O, H', W'), channels last in memory.
    """
    return torch.ops.patchswap.convolve(features, weight, bias, skip, dilation, doubled, replicate, slope)


def fill_smoothly(image: Tensor, hole: Tensor) -> Tensor:
    """Fills the hole smoothly from its rim by pull-push; known pixels stay bit for bit.

    Pull: known pixels are averaged level by level, each level half the last. Push: what a level lacks comes from the
    level above, smoothed a little. What ``image`` holds inside the hole, NaN included, does not matter.
    Source: Gortler et al., The Lumigraph, 1996, section 3.4.2; the formulas stand in csrc/ops.h.

    One operator, torch.ops.patchswap.fill_smoothly, in float32; plain torch where ``image`` has another dtype or needs
    a gradient.

    Args:
        image: (B, C, H, W) float32, float64, bfloat16 or float16, values of any range.
        hole: (B, H, W) bool, True = hole. A sample without a known pixel becomes 0.

    Returns:
        (B, C, H, W) in the range of the known pixels up to rounding; dtype of image, and its layout in memory.

    Raises:
        ValueError, TypeError, RuntimeError: a shape, a dtype or a device does not fit.
    """
    if image.dtype != torch.float32 or (image.requires_grad and torch.is_grad_enabled()):
        return reference.smooth_fill(image, hole)
    return torch.ops.patchswap.fill_smoothly(image, hole)


@torch.library.register_fake("patchswap::match")
def _match_fake(
    query: Tensor,
    key: Tensor,
    query_mask: Tensor | None,
    key_mask: Tensor | None,
    patch_size: int,
    topk: int,
    precision: str = "exact",
    method: str = "auto",
    metric: str = "ncc",
    key_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    contract.check_match(query, key, query_mask, key_mask, patch_size, topk, precision, method, metric, key_weight)
    shape = (query.shape[0], topk, *contract.patch_grid(query.shape[2], query.shape[3], patch_size))
    return (
        query.new_empty(shape, dtype=torch.int64),
        query.new_empty(shape, dtype=contract.accumulation_dtype(query.dtype)),
        query.new_empty(2, dtype=torch.int64),
    )


@torch.library.register_fake("patchswap::match_part")
def _match_part_fake(
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
    whole_height: int,
) -> tuple[Tensor, Tensor, Tensor]:
    contract.check_whole_height(key, whole_height)
    index, score, _ = _match_fake(
        query, key, query_mask, key_mask, patch_size, topk, precision, method, metric, key_weight
    )
    return index, score, torch.empty_like(score)


@torch.library.register_fake("patchswap::cohere")
def _cohere_fake(
    index: Tensor,
    query: Tensor,
    key: Tensor,
    query_mask: Tensor | None,
    key_mask: Tensor | None,
    weight: float,
    sweeps: int,
    patch_size: int,
    metric: str = "ncc",
) -> tuple[Tensor, Tensor]:
    contract.check_cohere(index, query, key, query_mask, key_mask, weight, sweeps, patch_size, metric)
    shape = (query.shape[0], *contract.patch_grid(query.shape[2], query.shape[3], patch_size))
    return (
        query.new_empty(shape, dtype=torch.int64),
        query.new_empty(shape, dtype=contract.accumulation_dtype(query.dtype)),
    )


@torch.library.register_fake("patchswap::fold")
def _fold_fake(
    index: Tensor,
    key: Tensor,
    base: Tensor | None,
    height: int,
    width: int,
    patch_size: int,
    weights: Tensor | None = None,
) -> Tensor:
    contract.check_fold(index, key, base, height, width, patch_size, weights)
    return key.new_empty(key.shape[0], key.shape[1], height, width)


@torch.library.register_fake("patchswap::fold_backward")
def _fold_backward_fake(
    grad_output: Tensor,
    index: Tensor,
    key_height: int,
    key_width: int,
    patch_size: int,
    weights: Tensor | None = None,
) -> Tensor:
    contract.check_fold_backward(grad_output, index, key_height, key_width, patch_size, weights)
    return grad_output.new_empty(grad_output.shape[0], grad_output.shape[1], key_height, key_width)


@torch.library.register_fake("patchswap::fold_weights_backward")
def _fold_weights_backward_fake(
    grad_output: Tensor, index: Tensor, key: Tensor, output: Tensor, weights: Tensor, patch_size: int
) -> Tensor:
    contract.check_fold_weights_backward(grad_output, index, key, output, weights, patch_size)
    return weights.new_empty(weights.shape)


@torch.library.register_fake("patchswap::similarity")
def _similarity_fake(query: Tensor, key: Tensor, index: Tensor, patch_size: int, padding: int = 0) -> Tensor:
    contract.check_similarity("similarity", query, key, index, patch_size, padding)
    return query.new_empty(index.shape, dtype=contract.accumulation_dtype(query.dtype))


@torch.library.register_fake("patchswap::similarity_query_backward")
def _similarity_query_backward_fake(
    grad_score: Tensor, query: Tensor, key: Tensor, index: Tensor, score: Tensor, patch_size: int, padding: int = 0
) -> Tensor:
    operator = "similarity_query_backward"
    contract.check_similarity_backward(operator, grad_score, query, key, index, score, patch_size, padding)
    return query.new_empty(query.shape)


@torch.library.register_fake("patchswap::similarity_key_backward")
def _similarity_key_backward_fake(
    grad_score: Tensor, query: Tensor, key: Tensor, index: Tensor, score: Tensor, patch_size: int, padding: int = 0
) -> Tensor:
    operator = "similarity_key_backward"
    contract.check_similarity_backward(operator, grad_score, query, key, index, score, patch_size, padding)
    return key.new_empty(key.shape)


@torch.library.register_fake("patchswap::convolve")
def _convolve_fake(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    skip: Tensor | None,
    dilation: int,
    doubled: bool,
    replicate: bool,
    slope: float,
) -> Tensor:
    height, width = contract.check_convolve(features, weight, bias, skip, dilation, doubled)
    return features.new_empty(features.shape[0], height, width, weight.shape[0]).permute(0, 3, 1, 2)


@torch.library.register_fake("patchswap::fill_smoothly")
def _fill_smoothly_fake(image: Tensor, hole: Tensor) -> Tensor:
    contract.check_fill_smoothly(image, hole)
    contract.check_float("fill_smoothly", "image", image)
    return torch.empty_like(image)


def _choice_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output)


def _choice_gradient(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
    return (None,) * 11  # as many as match_part takes; the others take fewer


def _fold_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    index, key, base, height, width, patch_size, weights = inputs
    needed = weights is not None and ctx.needs_input_grad[6]  # which ends before arguments that are left out
    copies = (key, output) if needed else (None, None)
    ctx.save_for_backward(index, weights, *copies)
    ctx.key_size = key.shape[2:]
    ctx.size = height, width
    ctx.patch_size = patch_size


def _fold_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    index, weights, key, output = ctx.saved_tensors
    grad_key = grad_base = grad_weights = None
    if ctx.needs_input_grad[1]:
        grad_key = fold_backward(grad, index, ctx.key_size[0], ctx.key_size[1], ctx.patch_size, weights)
    if ctx.needs_input_grad[2]:
        matched = index if weights is None else reference.counted(index, weights, ctx.patch_size)
        covered = reference.cover_count(matched, ctx.size[0], ctx.size[1], ctx.patch_size)[:, None] > 0
        grad_base = grad.masked_fill(covered, 0)
    if output is not None:
        grad_weights = fold_weights_backward(grad, index, key, output, weights, ctx.patch_size)
    return None, grad_key, grad_base, None, None, None, grad_weights


def _fold_backward_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad_output, index, key_height, key_width, patch_size, weights = inputs
    needed = weights is not None and ctx.needs_input_grad[5]
    ctx.save_for_backward(index, weights, grad_output if needed else None)
    ctx.size = grad_output.shape[2:]
    ctx.patch_size = patch_size


def _fold_backward_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # fold_backward is the transpose of fold (without base), <fold_backward(g), k> = <g, fold(k)>. So its own gradient
    # is fold again, and with respect to weights that of fold where it gets g.
    index, weights, grad_output = ctx.saved_tensors
    folded = fold(index, grad, None, ctx.size[0], ctx.size[1], ctx.patch_size, weights)
    grad_weights = None
    if grad_output is not None:
        grad_weights = fold_weights_backward(grad_output, index, grad, folded, weights, ctx.patch_size)
    return folded, None, None, None, None, grad_weights


def _similarity_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    query, key, index, patch_size, padding = inputs
    ctx.save_for_backward(query, key, index, output)
    ctx.patch = patch_size, padding


def _similarity_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    given = (grad, *ctx.saved_tensors, *ctx.patch)
    grad_query = similarity_query_backward(*given) if ctx.needs_input_grad[0] else None
    grad_key = similarity_key_backward(*given) if ctx.needs_input_grad[1] else None
    return grad_query, grad_key, None, None, None


def _keep_nothing(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    pass


def _convolve_gradient(ctx: Any, grad: Tensor) -> None:
    raise RuntimeError("patchswap.convolve: has no gradient; to train, call torch.nn.functional.conv2d instead")


def _fold_weights_backward_gradient(ctx: Any, grad: Tensor) -> None:
    raise RuntimeError(
        "patchswap.fold: the gradient with respect to weights has no gradient itself; take weights.detach() where "
        "gradients of higher order are needed"
    )


def _similarity_backward_gradient(ctx: Any, grad: Tensor) -> None:
    raise RuntimeError(
        "patchswap.similarity: its gradient has no gradient itself; where gradients of higher order are needed, unfold "
        "both maps and call torch.nn.functional.cosine_similarity"
    )


def _fill_smoothly_gradient(ctx: Any, grad: Tensor) -> None:
    raise RuntimeError(
        "patchswap.fill_smoothly: the operator has no gradient; call patchswap.ops.fill_smoothly, which gives one"
    )


torch.library.register_autograd("patchswap::convolve", _convolve_gradient, setup_context=_keep_nothing)
torch.library.register_autograd("patchswap::fill_smoothly", _fill_smoothly_gradient, setup_context=_keep_nothing)
for _name in ("match", "match_part", "cohere"):
    torch.library.register_autograd(f"patchswap::{_name}", _choice_gradient, setup_context=_choice_setup)
torch.library.register_autograd("patchswap::fold", _fold_gradient, setup_context=_fold_setup)
torch.library.register_autograd("patchswap::fold_backward", _fold_backward_gradient, setup_context=_fold_backward_setup)
torch.library.register_autograd(
    "patchswap::fold_weights_backward", _fold_weights_backward_gradient, setup_context=_keep_nothing
)
torch.library.register_autograd("patchswap::similarity", _similarity_gradient, setup_context=_similarity_setup)
for _name in ("similarity_query_backward", "similarity_key_backward"):
    torch.library.register_autograd(f"patchswap::{_name}", _similarity_backward_gradient, setup_context=_keep_nothing)
for _device in AUTOCAST_DEVICES:
    torch.library.register_autocast("patchswap::match", _device, torch.float32)
    torch.library.register_autocast("patchswap::match_part", _device, torch.float32)
    torch.library.register_autocast("patchswap::cohere", _device, torch.float32)
    torch.library.register_autocast("patchswap::similarity", _device, torch.float32)


def _stacked(tensor: Tensor | None, dimension: int | None, count: int) -> Tensor | None:
    """The mapped dimension joined with the batch, which is first; what is not mapped is repeated, without a copy."""
    if tensor is None:
        return None
    mapped = tensor.expand(count, *tensor.shape) if dimension is None else tensor.movedim(dimension, 0)
    return mapped.reshape(count * mapped.shape[1], *mapped.shape[2:])


def _vmap_rule(name: str) -> Callable[..., Any]:
    """Of an operator whose tensors all have a batch: one call, whose results are taken apart again."""

    def rule(info: Any, dimensions: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        operator, count = getattr(torch.ops.patchswap, name), info.batch_size

        def apart(result: Tensor) -> Tensor:
            return result.unflatten(0, (count, result.shape[0] // count))

        pairs = zip(arguments, dimensions, strict=True)
        results = operator(*[_stacked(value, at, count) if isinstance(value, Tensor) else value for value, at in pairs])
        if isinstance(results, Tensor):
            return apart(results), 0
        tally = results[2:]  # of match; it counts for all together
        return (*map(apart, results[:2]), *tally), (0, 0, *[None for _ in tally])

    return rule


def _convolve_vmap(info: Any, dimensions: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
    features, weight, bias, skip, *others = arguments
    if dimensions[1] is None and dimensions[2] is None:
        maps = [
            _stacked(tensor, at, info.batch_size) for tensor, at in ((features, dimensions[0]), (skip, dimensions[3]))
        ]
        result = torch.ops.patchswap.convolve(maps[0], weight, bias, maps[1], *others)
        return result.unflatten(0, (info.batch_size, result.shape[0] // info.batch_size)), 0
    pairs = list(zip(arguments, dimensions, strict=True))
    results = [
        torch.ops.patchswap.convolve(*[value if at is None else value.select(at, i) for value, at in pairs])
        for i in range(info.batch_size)
    ]
    return torch.stack(results), 0


for _name in (
    "match",
    "cohere",
    "fold",
    "fold_backward",
    "fold_weights_backward",
    "similarity",
    "similarity_query_backward",
    "similarity_key_backward",
    "fill_smoothly",
):
    torch.library.register_vmap(f"patchswap::{_name}", _vmap_rule(_name))
torch.library.register_vmap("patchswap::convolve", _convolve_vmap)
