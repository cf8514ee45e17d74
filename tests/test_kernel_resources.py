"""No CUDA kernel spills registers, on any architecture, and a step of the search for Hopper is short."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks" / "development"))

import kernel_resources  # noqa: E402

NVCC = kernel_resources.find_nvcc()
CUOBJDUMP = kernel_resources.find_cuobjdump()

# Instructions of a warp, a few more than nvcc 13.0 makes of them, as others may differ a little. A lane has 64 pairs.
MOST_OF_A_CHUNK = 26
MOST_OF_A_LOOPED_CHUNK = 56
MOST_OF_SUMS = 175
MOST_OF_A_SCORE = 740

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


SASS = """\
\t\tFunction : _Z6searchi
        /*0000*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;              /* 0x0000000000007b1d */
                                                                             /* 0x000fec0000010000 */
        /*0010*/                   HGMMA.64x128x16.F32 R88, gdesc[UR32], R88 ;
        /*0020*/                   HGMMA.64x128x16.F32 R88, gdesc[UR32], R88, gsb0 ;
        /*0030*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;
        /*0040*/               @P0 BRA 0x10 ;
        /*0050*/                   HGMMA.64x128x16.F32 R88, gdesc[UR32], R88, gsb0 ;
        /*0060*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;
        /*0070*/                   HGMMA.64x128x16.F32 R88, gdesc[UR32], R88, gsb0 ;
        /*0080*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;
        /*0090*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*00a0*/                   FADD R1, R2, R3 ;
        /*00b0*/                   BAR.SYNC.DEFER_BLOCKING R17, 0x80 ;
        /*00c0*/                   FADD R1, R2, R3 ;
        /*00d0*/              @!P1 SHFL.IDX PT, R1, R2, R3, 0x1f ;
        /*00e0*/                   FMUL R1, R2, R3 ;
        /*00f0*/                   VOTE.ANY P0, P0 ;
        /*0100*/                   EXIT ;
"""


def test_counts_instructions_of_a_step() -> None:
    (code,) = kernel_resources.read_instructions(SASS).values()
    assert [instruction.address for instruction in code] == list(range(0, 0x110, 0x10))
    assert kernel_resources.measure_step(code) == kernel_resources.Step(chunk=2, looped_chunk=4, sums=2, score=4)


@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
@pytest.mark.skipif(CUOBJDUMP is None, reason="needs cuobjdump: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
def test_a_step_of_the_search_for_hopper_is_short() -> None:
    assert NVCC is not None and CUOBJDUMP is not None
    step = kernel_resources.step_of_wgmma(NVCC, CUOBJDUMP, Path(torch.__file__).parent)
    assert 0 < step.chunk <= MOST_OF_A_CHUNK
    assert 0 < step.looped_chunk <= MOST_OF_A_LOOPED_CHUNK
    assert 128 < step.sums <= MOST_OF_SUMS
    assert 400 < step.score <= MOST_OF_A_SCORE


@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
def test_no_kernel_spills() -> None:
    assert NVCC is not None
    # The oldest with a search on tensor cores, and Hopper; benchmarks/development/kernel_resources.py takes all.
    wanted = [number for number in kernel_resources.architectures(NVCC) if number in ("80", "90a")]
    kernels, complaints = kernel_resources.measure(NVCC, Path(torch.__file__).parent, wanted, os.cpu_count() or 1)
    assert {kernel.architecture for kernel in kernels} == set(wanted)
    spilling = [kernel for kernel in kernels if kernel.spill_stores or kernel.spill_loads]
    assert not spilling and not complaints
