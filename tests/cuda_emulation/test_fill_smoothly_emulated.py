"""fill_smoothly, kernel by kernel as on the GPU, on the emulated device, against the reference."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import pytest
import torch

from patchswap import reference


class Picture(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("image", "result", "hole")],
        *[(name, ctypes.c_int64 * 4) for name in ("image_strides", "result_strides")],
        *[(name, ctypes.c_int64) for name in ("batch", "channels")],
    ]


class FillKernels:
    """What csrc/cuda/fill_smoothly.cu launches, on guarded copies of the arguments; raises EmulationError."""

    def __init__(self, emulation, library: ctypes.CDLL) -> None:
        self.emulation = emulation
        self.library = library
        library.run_fill_smoothly.restype = ctypes.c_char_p
        library.workspace_numbers.restype = ctypes.c_int64
        assert library.picture_size() == ctypes.sizeof(Picture)

    def fill_smoothly(self, image, hole, schedule):
        """The image's layout is kept: channels first or last."""
        emulation = self.emulation
        memory = emulation.Memory(self.library, guard_begin=schedule.order == emulation.REVERSE)
        last = image.is_contiguous(memory_format=torch.channels_last)
        stored = image.permute(0, 2, 3, 1) if last else image
        back = (0, 3, 1, 2) if last else (0, 1, 2, 3)
        try:
            given = memory.read_only("image", stored).permute(back)
            result = memory.empty("result", stored.shape, torch.float32).copy_(stored).permute(back)
            kept_hole = memory.read_only("hole", hole)
            picture = Picture(
                *map(emulation.pointer, (given, result, kept_hole)),
                *((ctypes.c_int64 * 4)(*tensor.stride()) for tensor in (given, result)),
                *image.shape[:2],
            )
            size = image.shape[2:]
            numbers = self.library.workspace_numbers(ctypes.byref(picture), *size)
            workspace = memory.empty("workspace", (numbers,), torch.float32)
            message = self.library.run_fill_smoothly(
                ctypes.byref(schedule), ctypes.byref(picture), *size, ctypes.c_void_p(workspace.data_ptr())
            )
            emulation.expect_success("fill_smoothly", message)
            return result.clone()
        finally:
            memory.release()


@pytest.fixture(scope="module")
def kernels(builder, emulation):
    return FillKernels(emulation, builder.build("fill_smoothly_kernels.cpp"))


def make_case(kind, shape, layout=torch.contiguous_format):
    """An image with NaN in its hole, and the hole."""
    batch, _, height, width = shape
    if kind == "square":
        hole = torch.zeros(batch, height, width, dtype=torch.bool)
        for sample in range(batch):
            hole[sample, height // 4 + sample : -(-3 * height // 4), width // 3 : width - sample] = True
    else:
        share = {"scattered": 0.6, "nearly all": 0.99, "all": 2.0, "none": -1.0}[kind]
        hole = torch.rand(batch, height, width) < share
    image = torch.randn(shape)
    image[image.abs() < 0.1] = -0.0  # of which a sum with 0 would not keep the sign
    image.masked_fill_(hole[:, None], torch.nan)
    return image.contiguous(memory_format=layout), hole


def assert_filled(filled, image, hole):
    expected = reference.smooth_fill(image.double(), hole)
    torch.testing.assert_close(filled.double(), expected, rtol=0, atol=4e-6)
    kept, given = (torch.where(hole[:, None], 0, each).view(torch.int32) for each in (filled, image))
    assert torch.equal(kept, given)


SMALL = [(1, 1), (1, 2), (5, 1), (3, 3), (16, 16), (23, 41), (64, 64)]
LARGE = [(65, 66), (96, 130), (3, 3100), (6200, 1)]  # of which some levels are pulled and pushed tile by tile
KINDS = ["square", "scattered", "nearly all", "all", "none"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SMALL, ids=str)
def test_in_shared_memory(kernels, emulation, size, kind):
    image, hole = make_case(kind, (2, 3, *size))
    results = [kernels.fill_smoothly(image, hole, schedule) for schedule in emulation.SCHEDULES]
    assert_filled(results[0], image, hole)
    assert all(torch.equal(result, results[0]) for result in results[1:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", LARGE, ids=str)
def test_tile_by_tile(kernels, emulation, size, kind):
    image, hole = make_case(kind, (1, 2, *size), torch.channels_last if kind == "square" else torch.contiguous_format)
    results = [kernels.fill_smoothly(image, hole, schedule) for schedule in emulation.SCHEDULES]
    assert_filled(results[0], image, hole)
    assert all(torch.equal(result, results[0]) for result in results[1:])


@pytest.mark.parametrize("kind", ["square", "nearly all"])
def test_more_levels_than_a_launch_pulls(kernels, emulation, kind):
    """Of one row some 3000 cells, and the levels above, fit into shared memory: seven levels lie below them."""
    image, hole = make_case(kind, (1, 1, 1, 200000))
    assert_filled(kernels.fill_smoothly(image, hole, emulation.SCHEDULES[0]), image, hole)


def test_batch_in_tiles(kernels, emulation):
    image, hole = make_case("square", (3, 2, 70, 81), torch.channels_last)
    for schedule in emulation.SCHEDULES:
        assert_filled(kernels.fill_smoothly(image, hole, schedule), image, hole)


# ---- faults that these tests must find


class Mutant(NamedTuple):
    text: str  # must occur once in fill_smoothly.cuh
    replacement: str


MUTANTS = {
    "levels pulled without barrier": Mutant("block_barrier();  // the level is there", ""),
    "levels above without barrier": Mutant("block_barrier();  // level n is there", ""),
    "passes without barrier": Mutant("block_barrier();  // the pass is done", ""),
    "votes without barrier": Mutant("block_barrier();  // all have voted", ""),
    "smoothed before it is interpolated": Mutant("block_barrier();  // interpolated", ""),
    "smoothed again too early": Mutant("block_barrier();  // smoothed once", ""),
    "weights kept of the first sample only": Mutant(
        "if (plane % picture.channels == 0) level", "if (plane == 0) level"
    ),
    "weight of another sample": Mutant("weight[sample * cells() + place]", "weight[place]"),
    "hole of another sample": Mutant("picture.hole[sample * cells() + place]", "picture.hole[place]"),
    "hole taken for known": Mutant("if (picture.hole[sample * cells() + place]) return {0, 0};", ""),
    "known pixels are written": Mutant("} else if (known.weight < 1) {", "} else {"),
    "last row missing": Mutant("smaller(2 * y + down, below.height - 1)", "2 * y + down"),
    "last column missing": Mutant("smaller(2 * x + right, below.width - 1)", "2 * x + right"),
    "last row missing at the top": Mutant("smaller(i / width * 2 + down, below_height - 1)", "i / width * 2 + down"),
    "half is not as good as all": Mutant("mean < 0.5f ? 2 * mean : 1", "mean"),
    "odd sizes taken for even": Mutant("size % 2 == 0 ? 0.0f :", "true ? 0.0f :"),
    "left neighbour forgotten": Mutant("is_before && i > 0 ? i / 2 - 1 : i / 2", "i / 2"),
    "beyond the last row": Mutant("smaller(row.first + 1, last_row)", "row.first + 1"),
    "beyond the last column": Mutant("smaller(column.first + 1, last_column)", "column.first + 1"),
    "border not repeated": Mutant("return place < 0 ? 0 :", "return place < 0 ? 1 :"),
    "rim of one cell": Mutant("for_cells(2, ", "for_cells(1, "),
    "one pass of smoothing": Mutant("pass < 3", "pass < 2"),
    "tiles of one row": Mutant("top = tile / along * kPushTile", "top = tile * kPushTile"),
    "vote of the first warp": Mutant("warp < kPushThreads / kWarp; warp++", "warp < 1; warp++"),
    "channel of another sample": Mutant("filled + plane * above.cells()", "filled"),
    "one level too few": Mutant("n = levels_above - 1; n >= 0", "n = levels_above - 2; n >= 0"),
}


def run_cases(kernels, emulation) -> None:
    torch.manual_seed(0)
    for kind, shape in (("square", (2, 2, 37, 70)), ("scattered", (2, 1, 69, 71)), ("nearly all", (1, 2, 9, 6))):
        image, hole = make_case(kind, shape)
        for schedule in emulation.SCHEDULES:
            assert_filled(kernels.fill_smoothly(image, hole, schedule), image, hole)
    image, hole = make_case("scattered", (1, 1, 3, 7000))  # two levels are pulled
    assert_filled(kernels.fill_smoothly(image, hole, emulation.SCHEDULES[1]), image, hole)
    image, hole = make_case("none", (1, 1, 80, 90))
    hole[:, 30:, 40:] = True
    assert_filled(kernels.fill_smoothly(image, hole, emulation.SCHEDULES[2]), image, hole)


def test_unchanged_kernels_pass(kernels, emulation):
    run_cases(kernels, emulation)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_fails(builder, emulation, name):
    flags = ["-O0", *emulation.TRAPS]
    library = builder.build_mutant("fill_smoothly_kernels.cpp", "fill_smoothly.cuh", *MUTANTS[name], flags)
    with pytest.raises(AssertionError) as raised:
        run_cases(FillKernels(emulation, library), emulation)
    print(f"{name}: {raised.value}")
