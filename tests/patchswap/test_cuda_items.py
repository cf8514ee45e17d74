"""How the searches on CUDA number their work: pairs of a query tile and a diagonal, compiled for the host."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parents[1] / "csrc"
EMULATION = HERE.parent / "cuda_emulation"
COMPILER = os.environ.get("CXX", "g++").split()
STRETCH = 128


@pytest.fixture(scope="module")
def find(tmp_path_factory):
    if not shutil.which(COMPILER[0]) or not SOURCES.is_dir():
        pytest.skip("needs a C++ compiler and the source tree")
    path = tmp_path_factory.mktemp("search_items") / "search_items.so"
    flags = ["-std=c++20", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-fsanitize=undefined"]
    flags += ["-fno-sanitize-recover=undefined", f"-I{SOURCES}", f"-I{EMULATION}"]
    subprocess.run([*COMPILER, *flags, str(HERE / "search_items.cpp"), "-o", str(path)], check=True)
    function = ctypes.CDLL(str(path)).find
    function.restype = ctypes.c_bool
    function.argtypes = [
        ctypes.c_int64,
        ctypes.c_int32,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int32,
        ctypes.c_void_p,
    ]

    def item(number: int, groups: int, height: int, width: int) -> tuple[int, int] | None:
        found = (ctypes.c_int64 * 2)()
        return tuple(found) if function(number, groups, height, width, STRETCH, found) else None

    return item


@pytest.mark.parametrize(("groups", "height", "width"), [(2, 5, 7), (3, 40, 33), (600_000, 6_002, 6_000)])
def test_every_item_is_one_pair(find, groups, height, width):
    """The last of them are 300,000 tiles with 281,250 diagonals each: 8e10 items, where 32 bits count to 2e9."""
    tiles, diagonals = (groups + 1) // 2, -(-(height - 2) * width // STRETCH)
    count = tiles * diagonals
    steps = max(1, count // 1000)
    for number in sorted({*range(0, count, steps), *range(min(count, 1000)), count - 1}):
        assert find(number, groups, height, width) == (number % tiles, number // tiles * STRETCH)
    assert find(count, groups, height, width) is None
