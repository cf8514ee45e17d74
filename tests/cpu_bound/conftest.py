"""Compiles bound.cpp with the CPU search's headers, changed or not, and calls it."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parents[1] / "csrc"
TORCH = Path(torch.__file__).parent
COMPILER = os.environ.get("CXX", "g++").split()
FLAGS = [
    "-std=c++20",
    "-fPIC",
    "-shared",
    "-Wno-attributes",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
    f"-I{TORCH}/include",
]
LIBRARIES = [f"-L{TORCH}/lib", "-ltorch", "-ltorch_cpu"]


class Input(ctypes.Structure):
    _fields_ = [
        ("query", ctypes.c_void_p),
        ("key", ctypes.c_void_p),
        *[(name, ctypes.c_int64) for name in ("channels", "query_height", "query_width", "key_height", "key_width")],
        ("patch_size", ctypes.c_int64),
        ("kernel", ctypes.c_int64),
        ("axis", ctypes.c_void_p),
        *[(name, ctypes.c_int64) for name in ("leading", "axes")],
        *[(name, ctypes.c_double) for name in ("query_step", "key_step", "leading_balance", "trailing_balance")],
        ("exact_coordinates", ctypes.c_bool),
    ]


class Output(ctypes.Structure):
    _fields_ = [
        ("pairs", ctypes.c_int64),
        *[(name, ctypes.c_int64) for name in ("above_walk", "above_refined", "off_coarse", "off_score", "wrong_cells")],
        ("refused", ctypes.c_bool),
    ]

    def faults(self) -> dict[str, int]:
        return {name: getattr(self, name) for name, _ in self._fields_[1:-1] if getattr(self, name)}


@dataclass
class Scheme:
    """Axes (axes, C), of which the first `leading` lead, and what a test may choose besides; see bound.cpp."""

    axis: Tensor
    leading: int
    query_step: float = 1.0
    key_step: float = 1.0
    leading_balance: float = 1.0
    trailing_balance: float = 1.0
    exact_coordinates: bool = False


class Bound:
    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.check_bound.restype = ctypes.c_bool

    def check(
        self, query: Tensor, key: Tensor, patch_size: int = 3, scheme: Scheme | None = None, kernel: int = 0
    ) -> Output | None:
        """query (C, H, W), key (C, H', W'): what is wrong in all pairs; None without the kernel."""
        query, key = query.float().contiguous(), key.float().contiguous()
        given = Input(query.data_ptr(), key.data_ptr(), *query.shape, *key.shape[1:], patch_size, kernel)
        if scheme is not None:
            axis = scheme.axis.float().contiguous()
            given.axis, given.axes, given.leading = axis.data_ptr(), len(axis), scheme.leading
            for name in ("query_step", "key_step", "leading_balance", "trailing_balance", "exact_coordinates"):
                setattr(given, name, getattr(scheme, name))
        output = Output()
        found = self.library.check_bound(ctypes.byref(given), ctypes.byref(output))
        return output if found else None


@dataclass(frozen=True)
class Builder:
    folder: Path

    def build(self, sources: Path = SOURCES, flags: Sequence[str] = ("-O1",)) -> Bound:
        path = Path(tempfile.mkdtemp(dir=self.folder)) / "bound.so"
        files = [str(HERE / "bound.cpp"), str(SOURCES / "cpu" / "instruction_set.cpp"), "-o", str(path)]
        command = [*COMPILER, *FLAGS, *flags, f"-I{sources}", *files, *LIBRARIES]
        compiler = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        assert compiler.returncode == 0, compiler.stderr
        return Bound(path)

    def build_mutant(self, file: str, text: str, replacement: str) -> Bound:
        """With `text`, which must occur once in this file of csrc/cpu, replaced."""
        sources = Path(tempfile.mkdtemp(dir=self.folder))
        shutil.copytree(SOURCES, sources, dirs_exist_ok=True)
        changed = sources / "cpu" / file
        original = changed.read_text()
        assert original.count(text) == 1, f"{file} does not have {text!r} once; update the mutant"
        changed.write_text(original.replace(text, replacement))
        return self.build(sources)


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    if not shutil.which(COMPILER[0]) or not SOURCES.is_dir():
        pytest.skip("needs a C++ compiler and the source tree")
    return Builder(tmp_path_factory.mktemp("bound"))


@pytest.fixture(scope="session")
def bound() -> ModuleType:
    """This file's names, which test files cannot import."""
    return sys.modules[__name__]
