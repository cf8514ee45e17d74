"""No matrix of queries x keys: peak memory stays near the size of the features."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import patchswap
from patchswap import ops

SIDE, CHANNELS = 128, 16  # queries x keys scores would be 1 GiB, the features are 1 MiB

# Prints the peak of the process's memory during one call, in KiB above what it held before.
PROGRAM = """
import sys, torch
from patchswap import ops

def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

height, width, channels, share, topk, method = [kind(text) for kind, text in zip(
    (int, int, int, float, int, str), sys.argv[1:])]
torch.manual_seed(0)
torch.set_num_threads(2)
features = torch.einsum("cr,rhw->chw", torch.randn(channels, 4), torch.randn(4, height, width))[None].relu_()
mask = torch.rand(1, height - 2, width - 2) < share
small = features[..., :16, :16].contiguous()
ops.match(small, small, None, None, 3, topk, method=method)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak counts from here
before = status("VmRSS")
ops.match(features, features, mask, None, 3, topk, method=method)
print(status("VmHWM") - before)
"""


def peak_kib(*arguments: object) -> int:
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


linux_cpu = [
    pytest.mark.skipif(ops.extension is None, reason="the extension is not built"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]


@pytest.mark.parametrize("method", ["dense", "pruned"])
class TestCpuPeak:
    pytestmark = linux_cpu

    def test_many_queries(self, method):
        outputs = 2 * SIDE * SIDE * 12
        assert peak_kib(SIDE, SIDE, CHANNELS, 1.0, 2, method) * 1024 < (24 << 20) + outputs

    def test_large_map(self, method):
        """Features of 100 MiB: neither map is packed whole."""
        height, width, channels = 320, 320, 256
        outputs = height * width * 12
        assert peak_kib(height, width, channels, 0.001, 1, method) * 1024 < (64 << 20) + outputs


FOLD = """
import torch
from patchswap import ops

def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

torch.set_num_threads(2)
features = torch.randn(1, 256, 200, 200).to(memory_format=torch.channels_last)
index = torch.full((1, 198, 198), -1)
index[:, 60:140, 60:140] = 7
ops.fold(index[:, :14, :14], features[:, :8, :16, :16], features[:, :8, :16, :16], 16, 16, 3)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak counts from here
before = status("VmRSS")
ops.fold(index, features, features, 200, 200, 3)
print(status("VmHWM") - before)
"""


class TestFoldPeak:
    pytestmark = linux_cpu

    def test_channels_last_maps_are_not_copied(self):
        """Neither key nor base, of 39 MiB each: nothing of that size but the result."""
        command = [sys.executable, "-c", FOLD]
        peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert peak < (39 + 12) << 10


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["auto", "direct"])
def test_gpu_peak_of_one_map_in_channels_last(method):
    """One tensor as query and key is packed once: direct matching copies it once before, the search reads it there."""
    features = torch.randn(1, 256, 64, 64, device="cuda")
    peaks = []
    for given in (features, features.to(memory_format=torch.channels_last)):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        patchswap.match(given, given, method=method)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    copies = 1 if patchswap.explain(features, features, method=method).kernel == "direct" else 0
    assert peaks[1] - peaks[0] < (copies + 0.1) * features.nbytes


@pytest.mark.gpu
def test_gpu_peak_of_fold_in_channels_last():
    features = torch.randn(1, 256, 64, 64, device="cuda").to(memory_format=torch.channels_last)
    index = torch.zeros(1, 62, 62, dtype=torch.int64, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    patchswap.fold(index, features, output_size=(64, 64), base=features)
    assert torch.cuda.max_memory_allocated() - before < 1.1 * features.nbytes


@pytest.mark.gpu
@pytest.mark.parametrize(("topk", "side", "mebibytes"), [(2, SIDE, 80), (8, SIDE, 89), (2, 4 * SIDE, 98)])
def test_gpu_peak(topk, side, mebibytes):
    """Direct matching: at most 77 MiB of products, candidates of one tile, and a few numbers for each cell."""
    features = torch.randn(1, CHANNELS, side, side, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    patchswap.match(features, features, topk=topk)
    assert torch.cuda.max_memory_allocated() - before < mebibytes << 20


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
