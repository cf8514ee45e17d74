"""No CUDA kernel spills registers, on any architecture that setup.py builds for."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks" / "development"))

import kernel_resources  # noqa: E402

NVCC = kernel_resources.find_nvcc()

REPORT = """\
ptxas info    : 28 bytes gmem
ptxas info    : Compiling entry function '_ZN9patchswap4foldEv' for 'sm_80'
ptxas info    : Function properties for _ZN9patchswap4foldEv
    128 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 128 bytes cumulative stack size, 1024+16 bytes smem
ptxas info    : Compiling entry function '_Z6searchi' for 'sm_90a'
ptxas info    : Function properties for _Z6helperv
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Function properties for _Z6searchi
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 168 registers, used 0 barriers
"""


def test_reads_the_report() -> None:
    (fold, search), complaints = kernel_resources.parse(REPORT)
    assert (fold.architecture, fold.registers, fold.shared, fold.stack) == ("80", 64, 1040, 128)
    assert fold.spill_stores == fold.spill_loads == 0
    assert (search.architecture, search.registers, search.shared) == ("90a", 168, 0)
    assert (search.spill_stores, search.spill_loads) == (8, 12)
    assert complaints == []


def test_finds_serialised_wgmma() -> None:
    line = "ptxas info : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to ..."
    assert kernel_resources.parse(REPORT + line)[1] == [line]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("void patchswap::run<patchswap::Fold<3, float> >(patchswap::Fold<3, float>, long)", "Fold<3, float>"),
        ("patchswap::prepare(patchswap::Problem)", "prepare"),
        ("void patchswap::(anonymous namespace)::search<(int)3, c10::Half>(int)", "search<3, Half>"),
    ],
)
def test_short_names(name: str, short: str) -> None:
    assert kernel_resources.short_name(name) == short


def test_table() -> None:
    kernels, _ = kernel_resources.parse(REPORT)
    lines = kernel_resources.render(kernels).splitlines()
    assert lines[0] == "| kernel | variants | sm_80 | sm_90a |"
    assert lines[2].endswith("| - | 168, 16 B stack, **20 B spilled** |")


@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
def test_no_kernel_spills() -> None:
    assert NVCC is not None
    wanted = kernel_resources.architectures(NVCC)
    kernels, complaints = kernel_resources.measure(NVCC, Path(torch.__file__).parent, wanted, os.cpu_count() or 1)
    assert {kernel.architecture for kernel in kernels} == set(wanted)
    spilling = [kernel for kernel in kernels if kernel.spill_stores or kernel.spill_loads]
    assert not spilling and not complaints
