"""The emulator itself: every name of device.cuh does what it says, and every kind of fault is found."""

from __future__ import annotations

import ctypes
import re

import numpy as np
import pytest
import torch

THREADS = 64


class Toy(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("input", "output", "left", "right", "sums", "words")],
        ("count", ctypes.c_int64),
    ]


@pytest.fixture(scope="module")
def library(builder):
    loaded = builder.build("toy_kernels.cpp")
    loaded.run_toy.restype = ctypes.c_char_p
    return loaded


@pytest.fixture
def memory(library, emulation, request):
    guard_begin = "before_begin" in request.node.name  # the other end has the inaccessible page otherwise
    lent = emulation.Memory(library, guard_begin)
    yield lent
    lent.release()


@pytest.fixture(params=["forward", "reverse", "random 1", "random 2", "random 3"])
def schedule(request, emulation):
    order, _, seed = request.param.partition(" ")
    return emulation.Schedule(("forward", "reverse", "random").index(order), 1 + len(seed) * 2, int(seed or 0))


def run(library, schedule, name, blocks=1, threads=THREADS, shared_bytes=4096, count=0, **tensors):
    addresses = {key: tensor.data_ptr() for key, tensor in tensors.items()}
    message = library.run_toy(
        name.encode(),
        ctypes.byref(schedule),
        blocks,
        threads,
        shared_bytes,
        ctypes.byref(Toy(count=count, **addresses)),
    )
    return None if message is None else message.decode()


def numbers(memory, count=THREADS):
    return memory.read_only("input", torch.randint(0, 1000, (count,), dtype=torch.int32))


def zeros(memory, *shape, dtype=torch.int32):
    return memory.filled("output", shape, dtype, 0)


def test_indices(library, schedule, memory):
    output = zeros(memory, 3 * THREADS)
    assert run(library, schedule, "indices", blocks=3, output=output) is None
    assert torch.equal(output, torch.arange(3 * THREADS, dtype=torch.int32) * 10 + 3)


def test_block_barrier(library, schedule, memory):
    values, output = numbers(memory), zeros(memory, THREADS)
    assert run(library, schedule, "mirror", input=values, output=output) is None
    assert torch.equal(output, values.flip(0) + 3)


def test_named_barriers(library, schedule, memory):
    values, output = numbers(memory, 32), zeros(memory, 32)
    assert run(library, schedule, "named_barriers", input=values, output=output) is None
    assert torch.equal(output, values.flip(0) * 4 + 6)


def test_shuffles_and_votes(library, schedule, memory):
    values, output = numbers(memory), zeros(memory, THREADS, 8)
    assert run(library, schedule, "within_warps", input=values, output=output) is None
    lane = torch.arange(32)
    for warp in range(2):
        value = values[warp * 32 : warp * 32 + 32]
        votes = sum(1 << i for i in range(32) if int(value[i]) % 3 == 0)
        expected = [
            value[5].expand(32),
            value[(lane + 1) % 32],
            value[31 - lane],
            value[torch.where(lane + 4 < 32, lane + 4, lane)],
            value[lane ^ 16],
            value[lane ^ 1],
            (value == values[7]).any().expand(32),
            torch.tensor(votes - (votes >> 31 << 32)).expand(32),
        ]
        for column, column_expected in enumerate(expected):
            assert torch.equal(output[warp * 32 : warp * 32 + 32, column], column_expected.int())


def test_warp_barrier(library, schedule, memory):
    values, output = numbers(memory), zeros(memory, THREADS)
    assert run(library, schedule, "warp_barriers", input=values, output=output) is None
    assert torch.equal(output, values[torch.arange(THREADS) ^ 7 ^ 9] + 1)


def test_last_block_sees_what_all_wrote(library, schedule, memory):
    values, output = numbers(memory), zeros(memory, 1 + 5 * THREADS)
    words = zeros(memory, THREADS, dtype=torch.int64)
    assert run(library, schedule, "last_block", blocks=5, input=values, output=output, words=words) is None
    assert torch.equal(words, values.long() * 5 + 10)


def test_atomics(library, schedule, memory):
    values = numbers(memory)
    output = memory.empty("output", (2,), torch.int32)
    output[:] = torch.tensor([-5, 0])
    words = zeros(memory, 2, dtype=torch.int64)
    assert run(library, schedule, "atomics", blocks=4, input=values, output=output, words=words) is None
    assert output.tolist() == [values.max(), values.sum() * 4]
    best = int(values.max())
    assert words.tolist() == [best << 32 | int((values == best).nonzero().max()), -4 * int(values.sum())]


def test_asynchronous_copies(library, schedule, memory):
    count = 1111
    values, output = numbers(memory, count // 4 * 4), zeros(memory, THREADS)
    count = len(values)
    assert run(library, schedule, "copies", count=count, input=values, output=output) is None
    padded = torch.zeros(5 * THREADS * 4, dtype=torch.int64)
    padded[:count] = values
    expected = torch.zeros(THREADS, dtype=torch.int64)
    for one_round in padded.view(5, THREADS, 4).flip(1):
        for i in range(4):
            expected = expected * 3 + one_round[:, i]
    assert torch.equal(output.long(), (expected + 2**31) % 2**32 - 2**31)


@pytest.mark.parametrize("scale", [1.0, 300.0, 1e-6])
def test_matrix_product(library, schedule, memory, scale):
    left = memory.read_only("left", (torch.randn(16, 16) * scale).half())
    right = memory.read_only("right", torch.randn(16, 8).half())
    given = torch.randn(16, 8) * scale
    sums = memory.empty("sums", (16, 8), torch.float32).copy_(given)
    assert run(library, schedule, "product", left=left, right=right, sums=sums) is None
    exact = given.double() + left.double() @ right.double()
    # Each of the two steps cuts nine terms off at 2^-24 of the largest, and the sum at 2^-23.
    size = given.abs().double() + left.double().abs() @ right.double().abs()
    assert bool(((sums - exact).abs() <= 2 * 11 * 2.0**-24 * size).all())
    assert not torch.equal(sums.double(), exact)


@pytest.mark.parametrize("sign", [1, -1])
def test_matrix_product_cuts_off_and_does_not_round(library, schedule, memory, sign):
    """1 + 2^-24 * (1 + 1/2 + 1/4): 25 bits are kept of the terms, which is the 1 only, and 24 of the sum."""
    left, right = torch.zeros(16, 16), torch.zeros(16, 8)
    left[:, :4] = sign * torch.tensor([1.0, 2.0**-12, 2.0**-13, 2.0**-14])
    right[:4] = torch.tensor([1.0, 2.0**-12, 2.0**-12, 2.0**-12])[:, None]
    left[::2, 4], right[4] = sign * 2.0**-12, 2.0**-12  # in even rows once more 2^-24, so that the sum has 2^-23
    sums = memory.filled("sums", (16, 8), torch.float32, 0)
    tensors = {"left": memory.read_only("left", left.half()), "right": memory.read_only("right", right.half())}
    assert run(library, schedule, "product", sums=sums, **tensors) is None
    assert bool((sums[::2] == sign * (1 + 2.0**-23)).all()) and bool((sums[1::2] == sign).all())


def test_matrix_product_of_values_that_are_not_finite(library, schedule, memory):
    left, right = torch.ones(16, 16), torch.ones(16, 8)
    left[3, 4], right[2, 5] = torch.inf, torch.nan
    sums = memory.filled("sums", (16, 8), torch.float32, 0)
    tensors = {"left": memory.read_only("left", left.half()), "right": memory.read_only("right", right.half())}
    assert run(library, schedule, "product", sums=sums, **tensors) is None
    assert torch.equal(sums.isnan(), torch.arange(8).eq(5).expand(16, 8))
    assert torch.equal(sums.isposinf(), torch.arange(16).eq(3)[:, None] & torch.arange(8).ne(5))
    assert bool((sums[:3, :5] == 16).all())


def test_words_and_halves(library, schedule, memory):
    halves = torch.randint(0, 1 << 15, (8, THREADS), dtype=torch.int16)
    output = zeros(memory, THREADS, 4)
    left = memory.read_only("left", halves)
    assert run(library, schedule, "words_and_halves", shared_bytes=16 + THREADS * 16, left=left, output=output) is None
    assert torch.equal(output, halves[:, torch.arange(THREADS) ^ 1].T.contiguous().view(torch.int32))


@pytest.mark.parametrize("rounds", [1, 2, 5, 8])
def test_bulk_copies(library, schedule, memory, rounds):
    values, output = numbers(memory, rounds * 64), zeros(memory, 96)
    message = run(library, schedule, "bulk_copies", threads=128, count=rounds, input=values, output=output)
    assert message is None
    assert torch.equal(output, values.view(rounds, 64).sum(0, dtype=torch.int32)[torch.arange(96) % 64])


WARPGROUP = {"threads": 128, "shared_bytes": (64 + 128) * 64}


def operands(memory):
    left, right = torch.randn(64, 32).half(), torch.randn(128, 32).half()
    sums = memory.empty("sums", (64, 128), torch.float32)
    return {"left": memory.read_only("left", left), "right": memory.read_only("right", right), "sums": sums}


def test_product_of_a_warpgroup(library, schedule, memory):
    tensors = operands(memory)
    assert run(library, schedule, "warpgroup_product", **WARPGROUP, **tensors) is None
    expected = tensors["left"].double() @ tensors["right"].double().T
    torch.testing.assert_close(tensors["sums"].double(), expected, rtol=0, atol=1e-5)


PRODUCT_FAULTS = {
    "product_without_proxy_fence": r"no fence makes byte \d+ of shared memory, which thread \d+ wrote, visible",
    "product_without_fence": r"no fence between an access to the registers of a product and this product",
    "product_overwritten": r"write of byte 0 of shared memory while a matrix product of warp \d reads it",
}


@pytest.mark.parametrize("name", PRODUCT_FAULTS)
def test_fault_in_a_product_is_found(library, schedule, memory, name):
    message = run(library, schedule, name, **WARPGROUP, **operands(memory))
    assert message is not None and re.search(PRODUCT_FAULTS[name], message), message


def test_product_that_is_not_waited_for_is_not_there(library, emulation):
    memory = emulation.Memory(library)
    tensors = operands(memory)
    schedule = emulation.Schedule(emulation.REVERSE, 1, 0)
    assert run(library, schedule, "product_without_wait", **WARPGROUP, **tensors) is None
    assert bool(tensors["sums"].isnan().all())
    memory.release()


def test_half_precision(library):
    halves = np.arange(1 << 16, dtype=np.uint16)
    values = np.empty(1 << 16, dtype=np.float32)
    library.floats_of(halves.ctypes.data_as(ctypes.c_void_p), values.ctypes.data_as(ctypes.c_void_p), 1 << 16)
    np.testing.assert_array_equal(values, halves.view(np.float16).astype(np.float32))

    random = np.random.default_rng(0)
    given = random.integers(0, 1 << 32, 1 << 20, dtype=np.uint32).view(np.float32)
    middles = (values[:0x7BFF] + values[1:0x7C00]) / 2  # halfway between neighbours: to the even one
    given = np.concatenate([given, values, middles, -middles, np.nextafter(middles, np.float32(np.inf))])
    given = np.concatenate([given, np.array([65519.996, 65520, 65536, 1e30, 2**-25, 2**-25.001], np.float32)])
    result = np.empty(len(given), dtype=np.uint16)
    library.halves_of(given.ctypes.data_as(ctypes.c_void_p), result.ctypes.data_as(ctypes.c_void_p), len(given))
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(result.view(np.float16), given.astype(np.float16))


UNFINISHED = r"that a bulk copy wrote|bulk copy that writes it is under way|nothing has written"
FAULTS = {
    "race_read_after_write": r"race: read of byte \d+ of shared memory that thread \d+ wrote",
    "race_within_warp": r"race: read|which nothing has written",
    "race_write_after_read": r"race: (write of byte \d+ of shared memory that thread \d+ read|read of)",
    "race_write_after_write": r"race: write of byte \d+ of shared memory that thread \d+ wrote",
    "race_past_named_barrier": r"race: read of byte 0 of shared memory that thread 0 wrote|which nothing has written",
    "shared_beyond_end": r"index 64 is outside the 64 elements",
    "shared_before_begin": r"index -1 is outside the 64 elements",
    "shared_too_large": r"bytes 0 to 4112 are outside the block's 4096 bytes",
    "shared_misaligned": r"byte 4 of shared memory is not a multiple of 16",
    "shared_uninitialised": r"thread 41 at .*: read of byte 160 of shared memory, which nothing has written",
    "global_beyond_end": r"access out of bounds: byte \d+ of the 256 bytes of output",
    "global_beyond_end_read": r"access out of bounds: byte \d+ of the 1024 bytes of input",
    "global_before_begin": r"thread 0: access out of bounds: byte -4 of the 1024 bytes of input",
    "global_write_to_input": r"access out of bounds: byte \d+ of the 1024 bytes of input",
    "global_misaligned": r"undefined behaviour of C\+\+ \(misaligned",
    "undefined_shift": r"undefined behaviour of C\+\+",
    "divergent_collective": r"lanes of one warp have diverged: this one is at shuffle, others are at shuffle",
    "divergent_exit": r"has ended while other lanes of its warp wait at any_lane|lane 3 of this warp has ended",
    "divergent_block_barrier": r"threads of one block are at different block barriers",
    "divergent_barrier_and_collective": r"no thread can go on: .*thread.* wait at block_barrier",
    "deadlock": r"no thread can go on: block 0 threads 0 to 31 wait at named_barrier .* threads 32 to 63",
    "endless_loop": r"a loop around load_fresh does not end",
    "copy_without_wait": r"read of byte \d+ of shared memory while the asynchronous copy of thread \d+ .* under way",
    "copy_wait_too_weak": r"read of byte \d+ of shared memory while the asynchronous copy of thread \d+ .* under way",
    "copy_without_barrier": r"race: read|under way|which nothing has written",
    "copy_over_unread": r"race: (write of byte \d+ of shared memory that thread|read)|read .* under way",
    "copy_beyond_end": r"access out of bounds: byte \d+ of the 1024 bytes of input",
    "bulk_copy_without_wait": UNFINISHED,
    "bulk_copy_waits_for_wrong_phase": UNFINISHED + "|no thread can go on",
    "bulk_copy_one_lane_waits": UNFINISHED,
    "bulk_copy_more_announced": r"no thread can go on: .* wait at a copy barrier",
    "bulk_copy_beyond_target": r"index 16 is outside the 16 elements",
    "bulk_copy_barrier_not_started": r"no copy barrier was started at byte 256",
    "bulk_copy_barrier_not_fenced": r"a bulk copy to a copy barrier that was started without a fence",
    "bulk_copy_over_unread": r"race: write of byte \d+ of shared memory that thread|a bulk copy|race: read",
    "bulk_copy_beyond_source": r"thread 0: access out of bounds: byte 1024 of the 1024 bytes of input",
    "too_many_arrivals": r"more arrivals than the 3 of this copy barrier",
    "stack_overflow": r"guard page of a fibre's stack",
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found(library, schedule, memory, name):
    counts = {"shared_beyond_end": 1, "shared_too_large": 257, "global_beyond_end": 4, "undefined_shift": 32}
    counts |= {"global_beyond_end_read": 256 - 40, "copy_beyond_end": 256, "bulk_copy_beyond_source": 256 - 28}
    values, output = numbers(memory, 256), memory.empty("output", (THREADS,), torch.int32)
    output.zero_()
    message = run(library, schedule, name, count=counts.get(name, 0), input=values, output=output)
    assert message is not None, "nothing was reported"
    assert re.search(FAULTS[name], message), message
    assert run(library, schedule, "indices", output=output) is None  # the next launch is not affected


def test_write_next_to_a_buffer_is_found(library, emulation):
    memory = emulation.Memory(library)
    output = memory.empty("output", (THREADS + 1,), torch.int32)
    output.zero_()
    schedule = emulation.Schedule(emulation.FORWARD, 1, 0)
    assert run(library, schedule, "global_beyond_end", count=3, output=output) is None
    with pytest.raises(AssertionError, match="next to a buffer"):
        memory.release()


def test_fresh_memory_is_no_number(library, emulation):
    memory = emulation.Memory(library)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert bool(memory.empty("output", (99,), dtype).isnan().all())
    for dtype in (torch.int32, torch.int64):
        assert bool((memory.empty("output", (99,), dtype) > 1 << 30).all())
    memory.release()


def test_launch_that_is_no_launch(library, emulation):
    schedule = emulation.Schedule(emulation.FORWARD, 1, 0)
    assert "at least one block" in run(library, schedule, "indices", blocks=0)


def test_portable_fibres(builder, emulation):
    """The same with ucontext, which other processors than x86-64 get."""
    library = builder.build_with_portable_fibres("toy_kernels.cpp")
    library.run_toy.restype = ctypes.c_char_p
    memory = emulation.Memory(library)
    for order in (emulation.FORWARD, emulation.REVERSE, emulation.RANDOM):
        schedule = emulation.Schedule(order, 2, 5)
        values, output = numbers(memory), zeros(memory, THREADS)
        assert run(library, schedule, "mirror", blocks=1, input=values, output=output) is None
        assert torch.equal(output, values.flip(0) + 3)
        message = run(library, schedule, "global_beyond_end", count=4, input=values, output=output)
        assert message is not None and "access out of bounds" in message
        message = run(library, schedule, "deadlock", output=output)
        assert message is not None and "no thread can go on" in message
    memory.release()
