"""No matrix of queries x keys: peak memory stays near the size of the features."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import patchswap
from patchswap import ops

SIDE, CHANNELS = 128, 16  # queries x keys scores would be 1 GiB, the features are 1 MiB

PROGRAM = f"""
import resource, torch, patchswap
torch.set_num_threads(2)
features = torch.randn(1, {CHANNELS}, {SIDE}, {SIDE})
patchswap.match(features[..., :16, :16], features[..., :16, :16], topk=2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
patchswap.match(features, features, topk=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(ops.extension is None, reason="the extension is not built")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in KiB on Linux")
def test_cpu_peak():
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 24 * 1024  # KiB


@pytest.mark.gpu
def test_gpu_peak():
    features = torch.randn(1, CHANNELS, SIDE, SIDE, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    patchswap.match(features, features, topk=2)
    assert torch.cuda.max_memory_allocated() - before < 48 << 20


def test_reference_is_chunked(monkeypatch):
    """The largest tensor that the reference makes is a chunk of scores or the unfolded keys, not queries x keys."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.untyped_storage().nbytes())
            return result

    monkeypatch.setattr(ops.reference, "SCORES_PER_CHUNK", 1 << 13)
    features = torch.randn(1, 2, 26, 26)
    with Watch():
        ops.reference.match(features, features, None, None, 3, 1)
    unfolded = 24 * 24 * 2 * 9 * 4
    assert largest <= max(unfolded, 8 << 13) < 24**4 * 4
