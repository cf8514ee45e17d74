"""Builds kernels against the emulated device, and lends them guarded memory; see emulator.h."""

from __future__ import annotations

import ctypes
import itertools
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
COMPILER = os.environ.get("CXX", "g++").split()
# No sum is contracted and nothing undefined passes: it becomes a trap, which the emulator reports.
FLAGS = ["-std=c++20", "-fPIC", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE", "-ffp-contract=off"]
TRAPS = ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
FORWARD, REVERSE, RANDOM = range(3)


class Schedule(ctypes.Structure):
    """In which order fibres are resumed, and how many blocks are under way at the same time."""

    _fields_ = [("order", ctypes.c_int32), ("resident_blocks", ctypes.c_int32), ("seed", ctypes.c_uint64)]

    def __repr__(self) -> str:
        return f"{('forward', 'reverse', 'random')[self.order]}-{self.resident_blocks}-{self.seed}"


SCHEDULES = [Schedule(FORWARD, 2, 0), Schedule(REVERSE, 1, 0), Schedule(RANDOM, 3, 1)]


class EmulationError(AssertionError):
    """A kernel did what CUDA forbids."""


class Memory:
    """Tensors that end, or begin, at an inaccessible page, filled with garbage where nothing is given."""

    def __init__(self, library: ctypes.CDLL, guard_begin: bool = False) -> None:
        self.library = library
        self.guard_begin = guard_begin
        self.addresses: list[int] = []

    def empty(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        count = 1
        for size in shape:
            count *= size
        if count == 0:
            return torch.empty(tuple(shape), dtype=dtype)
        size = count * dtype.itemsize
        address = self.library.guarded_allocate(size, self.guard_begin, name.encode())
        if not address:
            raise MemoryError(f"no memory for {name}")
        self.addresses.append(address)
        return torch.frombuffer((ctypes.c_byte * size).from_address(address), dtype=dtype).view(tuple(shape))

    def filled(self, name: str, shape: Sequence[int], dtype: torch.dtype, value: float) -> Tensor:
        return self.empty(name, shape, dtype).fill_(value)

    def read_only(self, name: str, values: Tensor) -> Tensor:
        """A copy of `values` that kernels must not write to."""
        result = self.empty(name, values.shape, values.dtype).copy_(values)
        if values.numel():
            assert self.library.guarded_protect(ctypes.c_void_p(result.data_ptr())) == 0
        return result

    def release(self) -> None:
        """Frees all tensors, and fails if something was written next to one."""
        intact = [self.library.guarded_free(ctypes.c_void_p(address)) == 0 for address in self.addresses]
        self.addresses.clear()
        assert all(intact), "bytes next to a buffer were written to"


def load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.guarded_allocate.restype = ctypes.c_void_p
    library.guarded_allocate.argtypes = [ctypes.c_size_t, ctypes.c_bool, ctypes.c_char_p]
    return library


_numbers = itertools.count()


@dataclass(frozen=True)
class Builder:
    """Compiles a driver of kernels together with the emulator, into the folder of this test run."""

    folder: Path
    emulator: Path

    def build(self, driver: str, sources: Path = SOURCES, flags: Sequence[str] = ("-O1", *TRAPS)) -> ctypes.CDLL:
        """`sources` holds cuda/ and metric.h, and may be a changed copy."""
        path = self.folder / f"{Path(driver).stem}-{next(_numbers)}.so"
        command = [*COMPILER, *FLAGS, *flags, f"-I{sources}", f"-I{HERE}", "-shared"]
        command += [str(HERE / driver), str(self.emulator), "-o", str(path)]
        compiler = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        assert compiler.returncode == 0, compiler.stderr
        return load(path)

    def build_mutant(self, driver: str, file: str, text: str, replacement: str, flags: Sequence[str]) -> ctypes.CDLL:
        """With `text`, which must occur once in this file of csrc/cuda, replaced; one variant only, to compile fast."""
        sources = Path(tempfile.mkdtemp(dir=self.folder))
        shutil.copytree(SOURCES / "cuda", sources / "cuda")
        shutil.copy(SOURCES / "metric.h", sources)
        changed = sources / "cuda" / file
        original = changed.read_text()
        assert original.count(text) == 1, f"{file} does not have {text!r} once; update the mutant"
        changed.write_text(original.replace(text, replacement))
        return self.build(driver, sources, [*flags, "-DPATCHSWAP_ONE_VARIANT", "-Wno-error"])

    def build_with_portable_fibres(self, driver: str) -> ctypes.CDLL:
        emulator = compile_emulator(self.folder / "portable.so", "-O0", "-DPATCHSWAP_UCONTEXT")
        return Builder(self.folder, emulator).build(driver, flags=["-O0"])


def compile_emulator(path: Path, *flags: str) -> Path:
    files = [str(HERE / name) for name in ("emulator.cpp", "copies.cpp", "products.cpp", "buffers.cpp")]
    command = [*COMPILER, *FLAGS, *flags, f"-I{HERE}", "-shared", *files, "-o", str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    if not shutil.which(COMPILER[0]) or not SOURCES.is_dir():
        pytest.skip("needs a C++ compiler and the source tree")
    folder = tmp_path_factory.mktemp("emulation")
    return Builder(folder, compile_emulator(folder / "emulator.so", "-O2"))


class PackedMap(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("cells", "exact", "square", "error")],
        *[(name, ctypes.c_int64) for name in ("height", "width", "units", "cell_pitch")],
    ]


PER_KEY = ["key_factor", "key_shift", "worst_error", "keys_from_first"]
PER_QUERY = ["query_norm", "query_margin", "query_scaled", "threshold"]
PER_QUERY += ["list_count", "list_place", "list_user", "list_users", "list", "best"]


class Problem(ctypes.Structure):
    _fields_ = [
        *[(name, PackedMap) for name in ("query", "key")],
        *[(name, ctypes.c_int64) for name in ("batch", "channels")],
        *[(name, ctypes.c_void_p) for name in ("query_mask", "key_mask", *PER_KEY, *PER_QUERY)],
        ("list_capacity", ctypes.c_int64),
        *[(name, ctypes.c_void_p) for name in ("plan", "slots")],
        ("group_pitch", ctypes.c_int64),
        *[(name, ctypes.c_void_p) for name in ("index", "score", "ranking", "tally")],
    ]


class Maps(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("query", "key", "query_arrivals", "key_arrivals", "workspace")],
        *[(name, ctypes.c_int32) for name in ("match_blocks", "key_stride", "dtype", "one_map")],
        *[(name, ctypes.c_int32) for name in ("query_is_channels_last", "key_is_channels_last")],
        *[(name, ctypes.c_int32) for name in ("query_is_shared", "key_is_shared")],
    ]


DTYPES = [torch.float32, torch.float16, torch.bfloat16]
UNIT = 8  # channels in a unit of packing
LIST_LENGTH = 32  # short, so that tests see it overflow


class MatchKernels:
    """prepare, match and rescore one after the other, as csrc/cuda runs them, on guarded copies of the arguments.

    Maps are contiguous or channels last.

    search: "mma" or "wgmma".
    """

    def __init__(self, library: ctypes.CDLL, search: str = "mma") -> None:
        self.library = library
        self.search = search
        for name in ("run_prepare", "run_search", "run_rescore"):
            getattr(library, name).restype = ctypes.c_char_p
        for name in ("group_pitch", "workspace_words"):
            getattr(library, name).restype = ctypes.c_int64
            getattr(library, name).argtypes = [ctypes.c_int64] * (2 if name == "group_pitch" else 3)
        assert library.problem_size() == ctypes.sizeof(Problem)
        assert library.maps_size() == ctypes.sizeof(Maps)

    def match(
        self,
        query: Tensor,
        key: Tensor,
        query_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        *,
        schedule: Schedule,
        blocks: int = 2,
        modelled_blocks: int = 132,
        precision: str = "exact",
        wants_ranking: bool = False,
    ) -> dict[str, Tensor]:
        """What the kernels leave behind, by the names of struct Problem, and what run_search counts.

        Raises EmulationError. blocks: of the match kernel. modelled_blocks: for which prepare plans; fewer make deeper
        bands.
        """
        memory = Memory(self.library, guard_begin=schedule.order == REVERSE)
        try:
            options = (schedule, blocks, modelled_blocks, precision, wants_ranking)
            tensors = self._run(memory, query, key, query_mask, key_mask, *options)
            result = {name: tensor.clone() for name, tensor in tensors.items() if tensor is not None}
        finally:
            memory.release()
        return result

    def _run(
        self, memory, query, key, query_mask, key_mask, schedule, blocks, modelled_blocks, precision, wants_ranking
    ):
        one_map = query is key
        batch, channels = query.shape[:2]
        units = -(-channels // self.library.channels_in_chunk()) * self.library.channels_in_chunk() // UNIT
        tensors: dict[str, Tensor | None] = {}
        views = []
        for side, features in (("query", query), ("key", key)):
            height, width = features.shape[2:]
            cells, pitch = height * width, -(-height * width // UNIT) * UNIT
            if side == "query" or not one_map:
                shapes = {
                    "cells": ((batch, units, pitch, UNIT), torch.float16),
                    "exact": ((batch, cells, units * UNIT), torch.float32),
                    "square": ((batch, cells), torch.float32),
                    "error": ((batch, cells), torch.float32),
                }
                packed = [memory.empty(f"{side}.{name}", *shape) for name, shape in shapes.items()]
            tensors |= {f"{side}_{name}": tensor for name, tensor in zip(shapes, packed, strict=True)}
            views.append(PackedMap(*map(pointer, packed), height, width, units, pitch))

        key_cells, rows, columns = key.shape[2] * key.shape[3], query.shape[2] - 2, query.shape[3] - 2
        queries, pitch = rows * columns, self.library.group_pitch(rows, query.shape[3])
        tensors |= {
            "query_mask": None if query_mask is None else memory.read_only("query_mask", query_mask),
            "key_mask": None if key_mask is None else memory.read_only("key_mask", key_mask),
            "key_factor": memory.empty("key_factor", (batch, key_cells), torch.float32),
            "key_shift": memory.empty("key_shift", (batch,), torch.int32),
            "worst_error": memory.filled("worst_error", (batch,), torch.int32, 0),
            "keys_from_first": memory.filled("keys_from_first", (batch,), torch.int32, 0),
            "query_norm": memory.empty("query_norm", (batch, queries), torch.float32),
            "query_margin": memory.empty("query_margin", (batch, queries), torch.float32),
            "query_scaled": memory.empty("query_scaled", (batch, queries), torch.float32),
            "threshold": memory.empty("threshold", (batch, queries), torch.int32),
            "list_count": memory.empty("list_count", (batch, queries), torch.int32),
            "list_place": memory.empty("list_place", (batch, queries), torch.int32),
            "list_user": memory.empty("list_user", (batch * queries,), torch.int32),
            "list_users": memory.filled("list_users", (1,), torch.int32, 0),
            "list": memory.empty("list", (batch * queries * LIST_LENGTH,), torch.int64),
            "best": memory.empty("best", (batch, queries), torch.int64) if precision == "fast" else None,
            "plan": memory.empty("plan", (batch, 2), torch.int32),
            "slots": memory.empty("slots", (batch, pitch, self.library.slots_in_group(), 4), torch.int32),
            "index": memory.empty("index", (batch, rows, columns), torch.int64),
            "score": memory.empty("score", (batch, rows, columns), torch.float32),
            "ranking": memory.empty("ranking", (batch, rows, columns), torch.float32) if wants_ranking else None,
            "tally": memory.empty("tally", (2,), torch.int64),
        }
        names = [name for name, _ in Problem._fields_ if name in tensors]
        problem = Problem(
            *views,
            batch,
            channels,
            list_capacity=batch * queries * LIST_LENGTH,
            group_pitch=pitch,
            **{name: pointer(tensors[name]) for name in names},
        )

        key_rows = key.shape[2] - 2
        is_shared = [is_one_sample(features) for features in (query, key)]
        if not one_map:
            query, key = (each[:1] if same else each for each, same in zip((query, key), is_shared, strict=True))
        last = torch.channels_last
        is_last = [each.is_contiguous(memory_format=last) and not each.is_contiguous() for each in (query, key)]
        given = memory.read_only("query", query.permute(0, 2, 3, 1) if is_last[0] else query)
        given_key = None if one_map else memory.read_only("key", key.permute(0, 2, 3, 1) if is_last[1] else key)
        key_arrivals = None if one_map else memory.filled("key_arrivals", (batch, key_rows), torch.int32, 0)
        words = self.library.workspace_words(batch, rows, query.shape[3])
        maps = Maps(
            pointer(given),
            pointer(given_key),
            pointer(memory.filled("query_arrivals", (batch, rows), torch.int32, 0)),
            pointer(key_arrivals),
            pointer(memory.empty("workspace", (words,), torch.int32)),
            modelled_blocks,
            self.library.key_stride(self.search == "wgmma"),
            DTYPES.index(query.dtype),
            one_map,
            *is_last,
            *is_shared,
        )
        order = ctypes.byref(schedule)
        expect_success("prepare", self.library.run_prepare(order, ctypes.byref(problem), ctypes.byref(maps)))
        tensors |= {name: torch.zeros(1, dtype=torch.int64) for name in ("raised", "reserved")}
        counts = [ctypes.c_void_p(tensors[name].data_ptr()) for name in ("raised", "reserved")]
        message = self.library.run_search(order, blocks, ctypes.byref(problem), self.search == "wgmma", *counts)
        expect_success(f"match_{self.search}", message)
        expect_success("rescore", self.library.run_rescore(order, ctypes.byref(problem)))
        return tensors


MOST_RAISED = {"mma": 12, "wgmma": 5}  # times that a threshold may be raised in the case below


def times_raised(kernels: MatchKernels) -> float:
    """How often a query's threshold is raised where eight blocks are at work on four tiles of nine diagonals."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 8, height, 60, generator=generator) for height in (10, 24))
    result = kernels.match(query, key, schedule=Schedule(FORWARD, 8, 0), blocks=8)
    assert result["plan"].tolist() == [[8, 1]]  # groups and depth
    return int(result["raised"]) / result["index"].numel()


def is_one_sample(features: Tensor) -> bool:
    """Whether all samples are the same memory, which csrc/cuda reads once."""
    return features.shape[0] > 1 and features.stride(0) == 0


def pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def expect_success(kernel: str, message: bytes | None) -> None:
    if message is not None:
        raise EmulationError(f"{kernel}: {message.decode()}")


@pytest.fixture(scope="session")
def emulation() -> ModuleType:
    """This file's names, which test files cannot import."""
    return sys.modules[__name__]
