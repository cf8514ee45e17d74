"""explain and PATCHSWAP_LOG tell what runs; what they tell is what ran."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch

import patchswap
from patchswap import contract, ops

built = pytest.mark.skipif(ops.extension is None, reason="the extension is not built")


def features(channels=64, side=85, device="cpu", dtype=torch.float32):
    return torch.zeros(1, channels, side, side, device=device, dtype=dtype)


@built
def test_the_size_decides_on_the_cpu():
    small, large = (patchswap.explain(given, given) for given in (features(side=20), features(side=128, channels=128)))
    assert (small.kernel, large.kernel) == ("dense", "pruned" if small.instructions != "generic" else large.kernel)
    assert "324 queries x 324 keys x 64 channels" in small.reason
    assert large.device == "cpu" and large.instructions == patchswap.build_info()["cpu_kernel"]
    assert str(small) == f"dense on cpu ({small.instructions}): {small.reason}"


@built
def test_other_reasons_on_the_cpu():
    given = features(side=20)
    assert patchswap.explain(given.double(), given.double()).reason.endswith("float64")
    for method in contract.METHODS["CPU"]:
        explanation = patchswap.explain(given, given, method=method)
        assert (explanation.kernel, explanation.reason) == (method, "the method asked for")
    with pytest.raises(RuntimeError, match='method "pruned" needs float32'):
        patchswap.explain(given.double(), given.double(), method="pruned")
    with pytest.raises(RuntimeError, match='method "mma" is not there on cpu'):
        patchswap.explain(given, given, method="mma")
    with pytest.raises(ValueError, match="topk must be from 1 to 8"):
        patchswap.explain(given, given, topk=9)


@built
def test_samples_whose_masks_differ():
    given = features(side=128, channels=128).expand(2, -1, -1, -1)
    mask = torch.ones(2, 126, 126, dtype=torch.bool)
    mask[1, 1:] = False
    explanation = patchswap.explain(given, given, query_mask=mask)
    assert explanation.kernel == "dense, pruned"
    assert re.search(r"sample 0: pruned: 15876 queries .*; sample 1: dense: 126 queries", explanation.reason)


def test_an_empty_batch_and_autocast():
    assert patchswap.explain(features()[:0], features()[:0]).kernel in ("none", "reference")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert patchswap.explain(features(side=9), features(side=9).bfloat16()).kernel in ("dense", "reference")


PROGRAM = """
import sys, torch, patchswap
features = torch.rand(2, 64, 20, 20)
patchswap.match(features, features, method=sys.argv[1])
patchswap.swap(features, features)
print(patchswap.explain(features, features).reason)
"""


@pytest.mark.parametrize(("variable", "is_wanted"), [("1", True), ("0", False), ("", False), (None, False)])
@pytest.mark.parametrize("without_library", [False, pytest.param(True, id="reference")])
def test_log(variable, is_wanted, without_library):
    """A line for each sample; plain torch code has one for the batch."""
    environment = {name: value for name, value in os.environ.items() if name != "PATCHSWAP_LOG"}
    environment |= {} if variable is None else {"PATCHSWAP_LOG": variable}
    environment |= {"PATCHSWAP_NO_LIBRARY": "1"} if without_library else {}
    command = [sys.executable, "-c", PROGRAM, "pruned"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = [line for line in result.stderr.splitlines() if line.startswith("patchswap.match: ")]
    reason = result.stdout.strip()
    if without_library or ops.extension is None:
        expected = [f"patchswap.match: reference on cpu: {reason}"] * 2
    else:
        expected = ["patchswap.match: pruned on cpu: the method asked for"] * 2
        expected += [f"patchswap.match: dense on cpu: {reason}"] * 2
    assert lines == (expected if is_wanted else [])


@pytest.mark.gpu
def test_on_a_gpu():
    given = features(side=20, device="cuda")
    assert patchswap.explain(given, given).kernel in contract.METHODS["CUDA"]
    for arguments, words in (({"topk": 2}, "topk is 2"), ({"patch_size": 5}, "patch_size is 5")):
        explanation = patchswap.explain(given, given, **arguments)
        assert explanation.kernel == "direct" and words in explanation.reason
    assert patchswap.explain(given, given, method="direct").reason == "the method asked for"
    assert patchswap.explain(given, given).instructions is None
