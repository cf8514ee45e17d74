from __future__ import annotations

import pytest
import torch

import patchswap
from patchswap import ops

features = torch.zeros(2, 3, 8, 9)
grid = torch.ones(2, 6, 7, dtype=torch.bool)
index = torch.zeros(2, 6, 7, dtype=torch.int64)
hole = torch.zeros(2, 8, 9, dtype=torch.bool)

# name: arguments of torch.ops.patchswap.<operator>, words that the error must hold
MATCH = {
    "rank": (
        (features[0], features, None, None, 3, 1, "exact", "auto"),
        "query must have shape (B, C, H, W); got (3, 8, 9)",
    ),
    "dtype": (
        (features.int(), features, None, None, 3, 1, "exact", "auto"),
        "query must be float32, float64, bfloat16 or float16; got int32",
    ),
    "two dtypes": (
        (features, features.half(), None, None, 3, 1, "exact", "auto"),
        "must have the same dtype; got float32 and float16",
    ),
    "batch": (
        (features, features[:1], None, None, 3, 1, "exact", "auto"),
        "must agree in batch and channels; got (2, 3, 8, 9) and (1, 3",
    ),
    "channels": ((features, features[:, :1], None, None, 3, 1, "exact", "auto"), "must agree in batch and channels"),
    "patch_size": (
        (features, features, None, None, 8, 1, "exact", "auto"),
        "match: patch_size must be from 1 to 7; got 8",
    ),
    "topk 0": ((features, features, None, None, 3, 0, "exact", "auto"), "topk must be from 1 to 8; got 0"),
    "topk 9": ((features, features, None, None, 3, 9, "exact", "auto"), "topk must be from 1 to 8; got 9"),
    "mask dtype": (
        (features, features, grid.int(), None, 3, 1, "exact", "auto"),
        "query_mask must be bool; got int32; compare it first",
    ),
    "mask shape": (
        (features, features, None, hole, 3, 1, "exact", "auto"),
        "key_mask must have the shape of key's patch grid (2, 6, 7)",
    ),
    "mask batch": (
        (features, features, grid[:1], None, 3, 1, "exact", "auto"),
        "patch grid (2, 6, 7) at patch_size 3; got (1, 6, 7)",
    ),
    "precision": (
        (features, features, None, None, 3, 1, "half", "auto"),
        'precision must be "exact" or "fast"; got "half"',
    ),
    "method": ((features, features, None, None, 3, 1, "exact", "best"), 'method must be "auto", "dense" or "pruned"'),
    "metric": (
        (features, features, None, None, 3, 1, "exact", "auto", "l1"),
        'metric must be "ncc", "l2" or "dot"; got "l1"',
    ),
    "weight dtype": (
        (features, features, None, None, 3, 1, "exact", "auto", "l2", grid.double()),
        "key_weight must be float32 where key is float32; got float64",
    ),
    "weight shape": (
        (features, features, None, None, 3, 1, "exact", "auto", "l2", grid[:1].float()),
        "key_weight must have the shape of key's patch grid (2, 6, 7) at patch_size 3; got (1, 6, 7)",
    ),
}
COHERE = {
    "rank": (
        (index, features[0], features, None, None, 0.1, 6, 3),
        "query must have shape (B, C, H, W); got (3, 8, 9)",
    ),
    "dtype": (
        (index, features, features.int(), None, None, 0.1, 6, 3),
        "key must be float32, float64, bfloat16 or float16; got int32",
    ),
    "two dtypes": (
        (index, features, features.half(), None, None, 0.1, 6, 3),
        "query and key must have the same dtype; got float32 and float16",
    ),
    "batch": (
        (index, features, features[:1], None, None, 0.1, 6, 3),
        "cohere: query and key must agree in batch and channels; got (2, 3, 8, 9) and (1, 3",
    ),
    "patch_size": ((index, features, features, None, None, 0.1, 6, 0), "cohere: patch_size must be from 1 to 7; got 0"),
    "negative weight": (
        (index, features, features, None, None, -0.25, 6, 3),
        "weight must be a finite number, 0 or more; got -0.25",
    ),
    "weight": (
        (index, features, features, None, None, float("inf"), 6, 3),
        "weight must be a finite number, 0 or more; got inf",
    ),
    "no weight": (
        (index, features, features, None, None, float("nan"), 6, 3),
        "weight must be a finite number, 0 or more; got nan",
    ),
    "sweeps": ((index, features, features, None, None, 0.1, -1, 3), "sweeps must not be negative; got -1"),
    "metric": (
        (index, features, features, None, None, 0.1, 6, 3, "l1"),
        'cohere: metric must be "ncc", "l2" or "dot"; got "l1"',
    ),
    "index dtype": ((index.int(), features, features, None, None, 0.1, 6, 3), "cohere: index must be int64; got int32"),
    "index shape": (
        (index, features, features, None, None, 0.1, 6, 1),
        "index must have the shape of query's patch grid (2, 8, 9) at patch_size 1, or with k from 1 to 8 ranks after "
        "the batch; got (2, 6, 7)",
    ),
    "index rank": ((index[0], features, features, None, None, 0.1, 6, 3), "ranks after the batch; got (6, 7)"),
    "ranks": (
        (index[:, None].expand(-1, 9, -1, -1), features, features, None, None, 0.1, 6, 3),
        "ranks after the batch; got (2, 9, 6, 7)",
    ),
    "no ranks": ((index[:, None][:, :0], features, features, None, None, 0.1, 6, 3), "got (2, 0, 6, 7)"),
    "mask dtype": (
        (index, features, features, grid.int(), None, 0.1, 6, 3),
        "cohere: query_mask must be bool; got int32; compare it first",
    ),
    "mask shape": (
        (index, features, features, None, hole, 0.1, 6, 3),
        "cohere: key_mask must have the shape of key's patch grid (2, 6, 7)",
    ),
    "index high": (
        (index + 42, features, features, None, None, 0.1, 6, 3),
        "cohere: index must be from -1 to 41, the last key patch; got 42 to 42",
    ),
    "index low": ((index - 2, features, features, None, None, 0.1, 6, 3), "index must be from -1 to 41"),
}
FOLD = {
    "rank": ((index, features[0], None, 8, 9, 3), "key must have shape (B, C, H, W); got (3, 8, 9)"),
    "patch_size": ((index, features, None, 8, 9, 8), "fold: patch_size must be from 1 to 7; got 8"),
    "index dtype": ((index.int(), features, None, 8, 9, 3), "index must be int64; got int32"),
    "index shape": (
        (index, features, None, 9, 9, 3),
        "index must have shape (2, 7, 7), the patch grid of a (9, 9) output",
    ),
    "ranks": (
        (index[:, None].expand(-1, 9, -1, -1), features, None, 8, 9, 3),
        "or with k from 1 to 8 ranks after the batch; got (2, 9, 6, 7)",
    ),
    "no ranks": ((index[:, None][:, :0], features, None, 8, 9, 3), "ranks after the batch; got (2, 0, 6, 7)"),
    "negative": ((index, features, None, -1, 9, 3), "output_size must not be negative; got (-1, 9)"),
    "base shape": ((index, features, features[:, :2], 8, 9, 3), "base must have shape (2, 3, 8, 9)"),
    "base dtype": ((index, features, features.half(), 8, 9, 3), "base and key must have the same dtype"),
    "index high": (
        (index + 42, features, None, 8, 9, 3),
        "index must be from -1 to 41, the last key patch; got 42 to 42",
    ),
    "index low": ((index - 2, features, None, 8, 9, 3), "index must be from -1 to 41"),
    "weights dtype": (
        (index, features, None, 8, 9, 3, grid.double()),
        "fold: weights must be float32 where key is float32; got float64",
    ),
    "weights of float64 keys": (
        (index, features.double(), None, 8, 9, 3, grid.float()),
        "fold: weights must be float64 where key is float64; got float32",
    ),
    "weights shape": (
        (index, features, None, 8, 9, 3, grid.float()[:, 1:]),
        "fold: weights must have the shape of index (2, 6, 7), one for each query; got (2, 5, 7)",
    ),
    "weights rank": ((index, features, None, 8, 9, 3, grid.float()[:, None]), "one for each query; got (2, 1, 6, 7)"),
}
FOLD_BACKWARD = {
    "rank": ((features[0], index, 8, 9, 3), "grad_output must have shape (B, C, H, W)"),
    "index shape": ((features, index[:1], 8, 9, 3), "index must have shape (2, 6, 7)"),
    "negative": ((features, index, -8, 9, 3), "the size of key must not be negative; got (-8, 9)"),
    "index high": ((features, index + 42, 8, 9, 3), "index must be from -1 to 41"),
    "weights dtype": (
        (features, index, 8, 9, 3, grid),
        "fold_backward: weights must be float32 where grad_output is float32; got bool",
    ),
    "weights shape": ((features, index, 8, 9, 3, grid.float()[:1]), "one for each query; got (1, 6, 7)"),
}
FOLD_WEIGHTS_BACKWARD = {
    "rank": ((features[0], index, features, features, grid.float(), 3), "grad_output must have shape (B, C, H, W)"),
    "index shape": ((features, index[:1], features, features, grid.float(), 3), "index must have shape (2, 6, 7)"),
    "patch_size": ((features, index, features, features, grid.float(), 0), "patch_size must be from 1 to 7; got 0"),
    "key": (
        (features, index, features[:, :2], features, grid.float(), 3),
        "key and grad_output must agree in batch and channels; got (2, 2, 8, 9) and (2, 3, 8, 9)",
    ),
    "key dtype": (
        (features, index, features.half(), features, grid.float(), 3),
        "key and grad_output must have the same dtype; got float16 and float32",
    ),
    "output": (
        (features, index, features, features[..., :8], grid.float(), 3),
        "output must have the shape of grad_output (2, 3, 8, 9); got (2, 3, 8, 8)",
    ),
    "weights dtype": (
        (features, index, features, features, grid.double(), 3),
        "fold_weights_backward: weights must be float32 where grad_output is float32; got float64",
    ),
    "weights shape": ((features, index, features, features, grid.float()[0], 3), "one for each query; got (6, 7)"),
    "index high": (
        (features, index + 42, features, features, grid.float(), 3),
        "index must be from -1 to 41",
    ),
}
SIMILARITY = {
    "rank": ((features, features[0], index, 3), "similarity: key must have shape (B, C, H, W); got (3, 8, 9)"),
    "integers": (
        (features.int(), features, index, 3),
        "query must be float32, float64, bfloat16 or float16; got int32",
    ),
    "two dtypes": (
        (features, features.half(), index, 3),
        "query and key must have the same dtype; got float32 and float16",
    ),
    "batch": (
        (features, features[:1], index, 3),
        "similarity: query and key must agree in batch and channels; got (2, 3, 8, 9) and (1, 3",
    ),
    "patch_size": ((features, features, index, 8), "similarity: patch_size must be from 1 to 7; got 8"),
    "padding": ((features, features, index, 3, 3), "similarity: padding must be from 0 to 2 at patch_size 3; got 3"),
    "padded index": (
        (features, features, index, 3, 1),
        "similarity: index must have the shape of query's patch grid (2, 8, 9) at patch_size 3",
    ),
    "index dtype": ((features, features, index.int(), 3), "similarity: index must be int64; got int32"),
    "index shape": (
        (features, features, index, 2),
        "similarity: index must have the shape of query's patch grid (2, 7, 8) at patch_size 2, or with k from 1 to 8 "
        "ranks after the batch; got (2, 6, 7)",
    ),
    "ranks": ((features, features, index[:, None].expand(-1, 9, -1, -1), 3), "ranks after the batch; got (2, 9, 6, 7)"),
    "index high": (
        (features, features, index + 42, 3),
        "similarity: index must be from -1 to 41, the last key patch; got 42 to 42",
    ),
    "index low": ((features, features, index - 2, 3), "index must be from -1 to 41"),
}
SIMILARITY_BACKWARD = {
    "grad dtype": (
        (grid.double(), features, features, index, grid.float(), 3),
        "grad_score must be float32 where query is float32; got float64",
    ),
    "score dtype": (
        (grid.double(), features.double(), features.double(), index, grid.float(), 3),
        "score must be float64 where query is float64; got float32",
    ),
    "grad shape": (
        (grid.float()[:1], features, features, index, grid.float(), 3),
        "grad_score must have the shape of index (2, 6, 7); got (1, 6, 7)",
    ),
    "score shape": (
        (grid.float(), features, features, index, grid.float()[:, None], 3),
        "score must have the shape of index (2, 6, 7); got (2, 1, 6, 7)",
    ),
    "index high": ((grid.float(), features, features, index + 42, grid.float(), 3), "index must be from -1 to 41"),
}
kernel, skip = torch.zeros(4, 3, 3, 3), torch.zeros(2, 2, 8, 9)
CONVOLVE = {
    "rank": (
        (features[0], kernel, None, None, 1, False, False, 0.0),
        "features must have shape (B, C, H, W); got (3, 8, 9)",
    ),
    "dtype": ((features.half(), kernel, None, None, 1, False, False, 0.0), "features must be float32; got float16"),
    "weight dtype": (
        (features, kernel.double(), None, None, 1, False, False, 0.0),
        "weight must be float32; got float64",
    ),
    "weight shape": (
        (features, kernel[..., :1], None, None, 1, False, False, 0.0),
        "weight must have shape (O, 3, 3, 3), the channels of features and skip; got (4, 3, 3, 1)",
    ),
    "skip channels": ((features, kernel, None, skip, 1, False, False, 0.0), "weight must have shape (O, 5, 3, 3)"),
    "skip size": (
        (features, kernel, None, skip, 1, True, False, 0.0),
        "skip must have shape (2, C, 16, 18), the size of the result; got (2, 2, 8, 9)",
    ),
    "dilation": (
        (features, kernel, None, None, 2, True, False, 0.0),
        "dilation must be from 1 to 1024, and 1 where the map is doubled; got 2",
    ),
    "bias": (
        (features, kernel, kernel[0, 0, 0], None, 1, False, False, 0.0),
        "bias must have shape (4), the first of weight; got (3)",
    ),
}
FILL_SMOOTHLY = {
    "rank": ((features[0], hole), "image must have shape (B, C, H, W); got (3, 8, 9)"),
    "integers": ((features.int(), hole), "image must be float32, float64, bfloat16 or float16; got int32; convert it"),
    "dtype": ((features.half(), hole), "image must be float32; got float16"),
    "hole dtype": ((features, hole.float()), "hole must be bool with True = hole; got float32"),
    "hole rank": ((features, hole[:, None]), "hole must have shape (2, 8, 9), one value for each pixel; got (2, 1, 8"),
    "hole batch": ((features, hole[:1]), "hole must have shape (2, 8, 9), one value for each pixel; got (1, 8, 9)"),
    "hole size": ((features, hole[..., :8]), "hole must have shape (2, 8, 9), one value for each pixel; got (2, 8, 8)"),
}
PLAIN = ("exact", "auto", "ncc", None)
MATCH_PART = {
    "rank": ((features[0], features, None, None, 3, 1, *PLAIN, 8), "query must have shape (B, C, H, W); got (3, 8, 9)"),
    "height": (
        (features, features, None, None, 3, 1, *PLAIN, 7),
        "whole_height must be at least the rows of key, 8; got 7",
    ),
}
OPERATORS = {
    "match": MATCH,
    "match_part": MATCH_PART,
    "cohere": COHERE,
    "fold": FOLD,
    "fold_backward": FOLD_BACKWARD,
    "fold_weights_backward": FOLD_WEIGHTS_BACKWARD,
    "similarity": SIMILARITY,
    "similarity_query_backward": SIMILARITY_BACKWARD,
    "similarity_key_backward": SIMILARITY_BACKWARD,
    "convolve": CONVOLVE,
    "fill_smoothly": FILL_SMOOTHLY,
}
CASES = [
    pytest.param(operator, *case, id=f"{operator}: {name}")
    for operator, cases in OPERATORS.items()
    for name, case in cases.items()
]


@pytest.mark.parametrize(("operator", "arguments", "words"), CASES)
def test_operator_and_reference_and_fake_use_the_same_words(operator, arguments, words):
    with pytest.raises((RuntimeError, ValueError, TypeError)) as from_operator:
        getattr(torch.ops.patchswap, operator)(*arguments)
    assert words in str(from_operator.value)
    with pytest.raises((ValueError, TypeError)) as from_reference:
        getattr(ops.reference, operator)(*arguments)
    assert str(from_reference.value) in str(from_operator.value)
    if "index must be from" not in words:  # a fake tensor has no values
        fake = [value.to("meta") if isinstance(value, torch.Tensor) else value for value in arguments]
        with pytest.raises((RuntimeError, ValueError, TypeError)) as from_fake:
            getattr(torch.ops.patchswap, operator)(*fake)
        assert words in str(from_fake.value)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("name", ["query", "key"])
def test_non_finite_features(value, name):
    given = {"query": torch.randn(1, 3, 6, 6), "key": torch.randn(1, 3, 6, 6)}
    given[name][0, 1, 2, 3] = value
    with pytest.raises((RuntimeError, ValueError), match=f"{name} must be finite; it holds NaN or Inf"):
        patchswap.match(**given)
    with pytest.raises(ValueError, match=f"{name} must be finite; it holds NaN or Inf"):
        ops.reference.match(*given.values(), None, None, 3, 1)


def test_non_finite_key_that_begins_where_query_does():
    key = torch.randn(1, 3, 12, 12)
    key[0, 1, 11, 11] = torch.nan
    with pytest.raises((RuntimeError, ValueError), match="key must be finite; it holds NaN or Inf"):
        patchswap.match(key[..., :6, :6], key)


def test_nan_has_no_sign_in_messages():
    negative, grid = -torch.tensor(torch.nan), torch.ones(2, 6, 7)
    for operator, arguments in (
        ("cohere", (index, features, features, None, None, float(negative), 6, 3)),
        ("match", (features, features, None, None, 3, 1, "exact", "auto", "ncc", grid * negative)),
        ("fold", (index, features, None, 8, 9, 3, grid * negative)),
    ):
        with pytest.raises((RuntimeError, ValueError), match="; got nan"):  # of the library or the definition
            getattr(torch.ops.patchswap, operator)(*arguments)


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "uint32", "uint64", "complex64", "complex128"])
def test_names_of_dtypes(dtype):
    with pytest.raises((RuntimeError, TypeError), match=f"; got {dtype};"):
        torch.ops.patchswap.match(torch.zeros(1, 3, 6, 6, dtype=getattr(torch, dtype)), features, None, None, 3, 1)


def test_convolve_names_the_same_of_two_faults():
    given = (torch.randn(1, 4, 8, 8), torch.randn(4, 4, 3, 3).double(), None, None, 0, False, False, 1.0)
    for operators in (torch.ops.patchswap, ops.reference):
        with pytest.raises((RuntimeError, TypeError), match="weight must be float32; got float64"):
            operators.convolve(*given)


def test_public_functions_raise_python_errors():
    with pytest.raises(ValueError, match=r"agree in batch and channels; got \(1, 3, 8, 9\) and \(2, 3, 8, 9\)"):
        patchswap.match(features[:1], features)
    with pytest.raises(TypeError, match="same dtype"):
        patchswap.match(features, features.half())
    with pytest.raises(ValueError, match='precision must be "exact" or "fast"; got "half"'):
        patchswap.match(features, features, precision="half")
    with pytest.raises(ValueError, match="weight must be a finite number, 0 or more; got -1"):
        patchswap.cohere(index, features, features, weight=-1)
    with pytest.raises(ValueError, match="index must have shape"):
        patchswap.fold(index, features, output_size=(9, 9))
    with pytest.raises(ValueError, match="query_mask must have the shape of index"):
        patchswap.fold(index, features, output_size=(8, 9), query_mask=grid[:1])
    with pytest.raises(TypeError, match="query_mask must be bool"):
        patchswap.fold(index, features, output_size=(8, 9), query_mask=grid.int())


def test_swap():
    with pytest.raises(ValueError, match=r"give key or hole, as in swap\(content, style\) or swap\(features, hole"):
        patchswap.swap(features)
    with pytest.raises(TypeError, match="hole must be bool with True = hole; got torch.float32; compare it first"):
        patchswap.swap(features, hole=hole.float())
    with pytest.raises(ValueError, match="key_margin must not be negative; got -1"):
        patchswap.swap(features, hole=hole, key_margin=-1)
    with pytest.raises(ValueError, match="key_margin goes with hole"):
        patchswap.swap(features, features, key_margin=1)
    with pytest.raises(ValueError, match=r"query must have shape \(B, C, H, W\); got \(3, 8, 9\)"):
        patchswap.swap(features[0], hole=hole)
    with pytest.raises(ValueError, match="coherence must be a finite number, 0 or more; got nan"):
        patchswap.swap(features, hole=hole, coherence=float("nan"))
    with pytest.raises(ValueError, match="sweeps must not be negative; got -2"):
        patchswap.swap(features, features, sweeps=-2)
    with pytest.raises(ValueError, match="swap: patch_size must be from 1 to 7"):
        patchswap.swap(features, hole=hole, patch_size=8)


def test_swap_names_what_the_caller_gave():
    as_in = r"a mask goes with hole=, as in swap\(features, hole=mask\)"
    with pytest.raises(ValueError, match=rf"key must have shape \(B, C, H, W\).*got \(2, 8, 9\) of bool; {as_in}"):
        patchswap.swap(features, hole)
    with pytest.raises(ValueError, match=as_in):
        patchswap.swap(features, hole[:, None])
    with pytest.raises(TypeError, match="swap: query and key must have the same dtype; got float32 and float16"):
        patchswap.swap(features, features.half())
    with pytest.raises(TypeError, match="swap: key must be float32.*got int32; convert it first"):
        patchswap.swap(features, features.int())
    words = r"swap: query and key must agree in batch and channels; got \(2, 3, 8, 9\) and \(2, 1, 8, 9\)"
    with pytest.raises(ValueError, match=words):
        patchswap.swap(features, features[:, :1])
    with pytest.raises(ValueError, match=r"got \(2, 16, 18\); a mask of pixels is brought to cells with max-pooling"):
        patchswap.swap(features, hole=hole.repeat(1, 2, 2))
    with pytest.raises(ValueError, match=r"hole must have shape \(H, W\), \(B, H, W\) or \(B, 1, H, W\); got \(2, 3,"):
        patchswap.swap(features, hole=hole[:, None].expand(-1, 3, -1, -1))
    with pytest.raises(
        ValueError, match=r"hole must have shape \(2, 8, 9\), \(2, 1, 8, 9\) or \(8, 9\).*got \(3, 8, 9\)"
    ):
        patchswap.swap(features, hole=hole[:1].expand(3, -1, -1))
    with pytest.raises(ValueError, match=r"with a hole, key must have the height and width of query, \(8, 9\); got"):
        patchswap.swap(features, features[..., :8], hole=hole)


def test_values_that_do_not_fit():
    words = r"must have the height and width of the key that was matched, \(8, 9\).*the same multiple of both"
    for size in ((16, 19), (16, 27), (4, 9), (8, 18), (0, 0)):
        values = torch.zeros(2, 1, *size)
        with pytest.raises(ValueError, match=rf"swap: values\[1\] {words}.*got \({size[0]}, {size[1]}\)"):
            patchswap.swap(features, features, values=(features, values))
        with pytest.raises(ValueError, match=f"swap: values {words}"):
            patchswap.swap(features, features, values=values)
    with pytest.raises(ValueError, match=r"swap: values must have the batch of query, 2, or 1; got \(3, 3, 8, 9\)"):
        patchswap.swap(features, features, values=features[:1].expand(3, -1, -1, -1))
    with pytest.raises(TypeError, match=r"swap: values\[0\] must be float32"):
        patchswap.swap(features, features, values=[features.int()])
    with pytest.raises(TypeError, match=r"swap: values\[1\] must be a tensor; got NoneType"):
        patchswap.swap(features, features, values=[features, None])


def test_padding():
    with pytest.raises(ValueError, match="match: padding must be from 0 to 2 at patch_size 3; got 3"):
        patchswap.match(features, features, padding=3)
    with pytest.raises(ValueError, match="swap: padding must be from 0 to 2 at patch_size 3; got -1"):
        patchswap.swap(features, features, padding=-1)
    with pytest.raises(TypeError, match="fold: padding must be a whole number; got 1.0"):
        patchswap.fold(index, features, padding=1.0)
    words = 'padding_mode must be "zeros", "reflect" or "replicate"; got "circular"'
    with pytest.raises(ValueError, match=f"swap: {words}"):
        patchswap.swap(features, features, padding=1, padding_mode="circular")
    with pytest.raises(ValueError, match=f"masks_from_hole: {words}"):
        patchswap.masks_from_hole(hole, padding=1, padding_mode="circular")
    words = r'padding 2 with padding_mode "reflect" needs at least 3 cells a side; got key of \(2, 3, 2, 9\)'
    for function in (patchswap.match, patchswap.swap, patchswap.explain):
        with pytest.raises(ValueError, match=words):
            function(features, features[:, :, :2], padding=2, padding_mode="reflect")
    words = r'fold: padding 2 with padding_mode "reflect" needs at least 3 cells a side; got key of \(2, 3, 2, 9\)'
    with pytest.raises(ValueError, match=words):
        patchswap.fold(index, torch.rand(2, 3, 4, 18), key_size=(2, 9), padding=2, padding_mode="reflect")
    with pytest.raises(ValueError, match=r"needs at least 1 cells a side; got query of \(2, 3, 0, 9\)"):
        patchswap.match(features[:, :, :0], features, padding=1, padding_mode="replicate")


def test_divisor():
    for divisor in (0, -9, torch.nan, torch.inf, "mean", None):
        with pytest.raises(ValueError, match='fold: divisor must be "covered" or a positive number; got '):
            patchswap.fold(index, features, divisor=divisor)


def test_numbers_that_count_are_whole():
    with pytest.raises(TypeError, match="swap: patch_size must be a whole number; got 3.0"):
        patchswap.swap(features, hole=hole, patch_size=3.0)
    with pytest.raises(TypeError, match="swap: key_margin must be a whole number; got 2.5"):
        patchswap.swap(features, hole=hole, key_margin=2.5)
    with pytest.raises(TypeError, match="swap: sweeps must be a whole number; got 2.0"):
        patchswap.swap(features, hole=hole, sweeps=2.0)
    with pytest.raises(TypeError, match="match: topk must be a whole number; got 1.0"):
        patchswap.match(features, features, topk=1.0)
    for function in (patchswap.match, patchswap.explain):
        with pytest.raises(TypeError, match="match: patch_size must be a whole number; got 3.0"):
            function(features, features, patch_size=3.0)
    with pytest.raises(TypeError, match="fold: patch_size must be a whole number; got 3.0"):
        patchswap.fold(index, features, patch_size=3.0)


def test_fold_of_values_on_another_grid():
    """Row-major positions mean other cells there, all of which may exist."""
    match = patchswap.match(features, features)
    values = torch.zeros(2, 3, 16, 19)
    words = r"key must have the height and width of the key that was matched, \(8, 9\), whose patches index counts"
    with pytest.raises(ValueError, match=rf"fold: {words}, or the same multiple of both.*got \(16, 19\)"):
        patchswap.fold(match, values)
    with pytest.raises(ValueError, match=f"fold: {words}"):
        patchswap.fold(match.index, values, key_size=(8, 9))
    with pytest.raises(ValueError, match=rf"cohere: {words}; got \(16, 19\)"):
        patchswap.cohere(match, features, values, weight=0.1)
    with pytest.raises(ValueError, match=rf"similarity: {words}; got \(16, 19\)"):
        patchswap.similarity(features, values, match)
    with pytest.raises(ValueError, match=f"fold: {words}"):
        patchswap.fold(patchswap.cohere(match, features, features, weight=0.1), values)
    with pytest.raises(ValueError, match=words):
        patchswap.fold(patchswap.match(features, features, topk=2), values)
    with pytest.raises(ValueError, match=r"key_size must be that of the match, \(8, 9\); got \(9, 8\)"):
        patchswap.fold(match, features, key_size=(9, 8))
    with pytest.raises(ValueError, match=r"output_size must be a multiple of 2.*got \(16, 19\)"):
        patchswap.fold(match, torch.zeros(2, 3, 16, 18), output_size=(16, 19))
    with pytest.raises(ValueError, match=r"index must have shape \(B, h, w\) or \(B, k, h, w\); got \(6,\)"):
        patchswap.fold(index[0, :, 0], features)
    match = patchswap.match(features, features, padding=1)
    words = r"must have 9 rows and 9 columns, the patch grid of a \(9, 9\) output at patch_size 3 and padding 1; got"
    with pytest.raises(ValueError, match=words):
        patchswap.fold(match, features, output_size=(9, 9))


def test_a_match_made_with_other_settings():
    match = patchswap.match(features, features, padding=1)
    functions = (
        patchswap.fold,
        lambda match, key, **others: patchswap.cohere(match, features, key, weight=0, **others),
        lambda match, key, **others: patchswap.similarity(features, key, match, **others),
    )
    for function in functions:
        with pytest.raises(ValueError, match="patch_size must be that of the match, 3; got 5"):
            function(match, features, patch_size=5)
        with pytest.raises(ValueError, match="padding must be that of the match, 1; got 0"):
            function(match, features, padding=0)
        with pytest.raises(ValueError, match="padding_mode must be that of the match, zeros; got reflect"):
            function(match, features, padding_mode="reflect")
    with pytest.raises(ValueError, match=r"offsets needs the key's grid; give it, as in Match\(index, score, Grid"):
        patchswap.Match(*match).offsets()


@pytest.mark.gpu
def test_non_finite_features_on_the_gpu():
    query, key = torch.randn(1, 3, 6, 6), torch.randn(1, 3, 6, 6)
    query[0, 0, 0, 0] = key[0, 0, 5, 5] = torch.nan
    match = patchswap.match(query.cuda(), key.cuda())
    assert int(match.index[0, 0, 0]) == -1 and bool(match.score[0, 0, 0].isnan())
    assert bool((match.index.flatten()[1:] >= 0).all()) and not bool((match.index == 15).any())


@pytest.mark.skipif(ops.extension is None, reason="the reference has one method")
def test_method_of_another_device():
    with pytest.raises(RuntimeError, match='method "mma" is not there on cpu; use "auto"'):
        patchswap.match(features, features, method="mma")
