// Small kernels for test_emulator.py: one for each name of device.cuh, and one for each kind of fault.

#include <cstdint>
#include <cstring>
#include <map>
#include <string>

#include "cuda/hopper.cuh"

namespace {

using namespace patchswap;

// What a toy works on; a toy uses what it needs.
struct Toy {
  const int* input;
  int* output;
  const Half* left;
  const Half* right;
  float* sums;
  uint64_t* words;
  int64_t count;
};

constexpr int kThreads = 64;

// ---- what works

PATCHSWAP_KERNEL(kThreads) indices(const Toy toy) {
  const int thread = block_index() * kThreads + thread_index();
  toy.output[thread] = thread * 10 + block_count();
}

// Each thread reads what its mirror image wrote; twice, so that the second write must wait for the first read.
PATCHSWAP_KERNEL(kThreads) mirror(const Toy toy) {
  const Shared<int> numbers = shared_memory<int>(0, kThreads);
  const int thread = thread_index();
  int value = toy.input[thread];
  for (int turn = 0; turn < 3; turn++) {
    numbers.store(thread, value);
    block_barrier();
    value = numbers.load(kThreads - 1 - thread) + 1;
    block_barrier();
  }
  toy.output[thread] = value;
}

// Two warps hand a row of words to each other by named barriers, in turns.
PATCHSWAP_KERNEL(kThreads) named_barriers(const Toy toy) {
  const Shared<int> numbers = shared_memory<int>(0, kWarp);
  const int lane = thread_index() % kWarp;
  if (thread_index() < kWarp) {
    for (int turn = 0; turn < 4; turn++) {
      numbers.store(lane, toy.input[lane] + turn);
      named_barrier(1, kThreads);
      named_barrier(2, kThreads);
    }
  } else {
    int sum = 0;
    for (int turn = 0; turn < 4; turn++) {
      named_barrier(1, kThreads);
      sum += numbers.load(kWarp - 1 - lane);
      named_barrier(2, kThreads);
    }
    toy.output[lane] = sum;
  }
}

PATCHSWAP_KERNEL(kThreads) within_warps(const Toy toy) {
  const int thread = thread_index(), lane = thread % kWarp, value = toy.input[thread];
  int* output = toy.output + thread * 8;
  output[0] = shuffle(value, 5);
  output[1] = shuffle(value, lane + 1);
  output[2] = static_cast<int>(shuffle(static_cast<float>(value), 31 - lane));
  output[3] = static_cast<int>(shuffle_down(static_cast<float>(value), 4));
  output[4] = static_cast<int>(shuffle_xor(static_cast<float>(value), 16));
  output[5] = shuffle_xor(value, 1);
  output[6] = any_lane(value == toy.input[7]);
  output[7] = static_cast<int>(ballot(value % 3 == 0));
}

// Lanes of one warp pass words through shared memory with warp barriers only.
PATCHSWAP_KERNEL(kThreads) warp_barriers(const Toy toy) {
  const Shared<int> numbers = shared_memory<int>(0, kThreads);
  const int thread = thread_index();
  numbers.store(thread, toy.input[thread]);
  warp_barrier();
  const int value = numbers.load(thread ^ 7);
  warp_barrier();
  numbers.store(thread, value + 1);
  warp_barrier();
  toy.output[thread] = numbers.load(thread ^ 9);
}

// The last block to come adds up what all have written: an atomic counter, fences and fresh loads.
PATCHSWAP_KERNEL(kThreads) last_block(const Toy toy) {
  const Shared<int> is_last = shared_memory<int>(0, 1);
  const int thread = thread_index();
  int* counter = toy.output;
  toy.output[1 + block_index() * kThreads + thread] = toy.input[thread] + block_index();
  device_fence();
  block_barrier();
  if (thread == 0) is_last.store(0, atomic_add(counter, 1) == block_count() - 1);
  block_barrier();
  if (is_last.load(0) == 0) return;
  int64_t sum = 0;
  for (int block = 0; block < block_count(); block++) sum += load_fresh(toy.output + 1 + block * kThreads + thread);
  toy.words[thread] = static_cast<uint64_t>(sum);
}

PATCHSWAP_KERNEL(kThreads) atomics(const Toy toy) {
  const int thread = thread_index(), value = toy.input[thread];
  atomic_max(toy.output, value);
  atomic_add(toy.output + 1, value);
  atomic_max(toy.words, static_cast<uint64_t>(static_cast<uint32_t>(value)) << 32 | static_cast<uint32_t>(thread));
  atomic_add(reinterpret_cast<int64_t*>(toy.words + 1), -int64_t{value});
}

// A pipeline of two stages; words beyond `count` are zeros.
PATCHSWAP_KERNEL(kThreads) copies(const Toy toy) {
  constexpr int kStages = 2;
  const Shared<Words> stages = shared_memory<Words>(0, kStages * kThreads);
  const Shared<int> numbers = shared_memory<int>(0, kStages * kThreads * 4);
  const int thread = thread_index(), rounds = 5;
  const auto fetch = [&](int round) {
    const int place = round * kThreads + thread;
    const bool present = place * 4 < toy.count;
    copy_async(stages, round % kStages * kThreads + thread, toy.input + (present ? place * 4 : 0), present);
  };
  fetch(0);
  copy_commit();
  uint32_t sum = 0;
  for (int round = 0; round < rounds; round++) {
    if (round + 1 < rounds) fetch(round + 1);
    copy_commit();
    copy_wait<1>();
    block_barrier();
    for (int i = 0; i < 4; i++) {
      sum = sum * 3 + static_cast<uint32_t>(numbers.load((round % kStages * kThreads + kThreads - 1 - thread) * 4 + i));
    }
    block_barrier();
  }
  toy.output[thread] = static_cast<int>(sum);
}

// sums (16 x 8) += left (16 x 16) * right (16 x 8), all row by row, by the first warp.
PATCHSWAP_KERNEL(kThreads) product(const Toy toy) {
  if (thread_index() >= kWarp) return;
  const int group = thread_index() / 4, pair = thread_index() % 4 * 2;
  const auto two = [](Half low, Half high) { return static_cast<uint32_t>(high.bits) << 16 | low.bits; };
  uint32_t a[4], b[2];
  for (int i = 0; i < 4; i++) {
    const Half* place = toy.left + (group + i % 2 * 8) * 16 + pair + i / 2 * 8;
    a[i] = two(place[0], place[1]);
  }
  for (int i = 0; i < 2; i++) {
    const Half* place = toy.right + (pair + i * 8) * 8 + group;
    b[i] = two(place[0], place[8]);
  }
  float d[4];
  for (int i = 0; i < 4; i++) d[i] = toy.sums[(group + i / 2 * 8) * 8 + pair + i % 2];
  matrix_multiply_add(d, a, b);
  for (int i = 0; i < 4; i++) toy.sums[(group + i / 2 * 8) * 8 + pair + i % 2] = d[i];
}

PATCHSWAP_KERNEL(kThreads) words_and_halves(const Toy toy) {
  const Shared<Words> words = shared_memory<Words>(16, kThreads);
  const Shared<Half> halves = shared_memory<Half>(16, kThreads * 8);
  const int thread = thread_index();
  for (int i = 0; i < 8; i++) halves.store(thread * 8 + i, toy.left[i * kThreads + thread]);
  warp_barrier();
  const Words four = words.load(thread ^ 1);
  const Words same = halves.load_words((thread ^ 1) * 8);
  for (int i = 0; i < 4; i++) toy.output[thread * 4 + i] = static_cast<int>(four.word[i] & same.word[i]);
  warp_barrier();
  halves.store_words(thread * 8, four);
}

// ---- faults

PATCHSWAP_KERNEL(kThreads) race_read_after_write(const Toy toy) {
  const Shared<int> numbers = shared_memory<int>(0, kThreads);
  numbers.store(thread_index(), toy.input[thread_index()]);
  warp_barrier();
  toy.output[thread_index()] = numbers.load(kThreads - 1 - thread_index());
}
PATCHSWAP_KERNEL(kThreads) race_within_warp(const Toy toy) {
  const Shared<int> numbers = shared_memory<int>(0, kThreads);
  numbers.store(thread_index(), 1);
  toy.output[thread_index()] = numbers.load(thread_index() ^ 1);
}
PATCHSWAP_KERNEL(kThreads) race_write_after_read(const Toy toy) {
  const Shared<int> numbers = shared_memory<int>(0, kThreads);
  numbers.store(thread_index(), toy.input[thread_index()]);
  block_barrier();
  toy.output[thread_index()] = numbers.load(kThreads - 1 - thread_index());
  numbers.store(thread_index(), 0);
}
PATCHSWAP_KERNEL(kThreads) race_write_after_write(const Toy toy) {
  shared_memory<int>(0, kThreads).store(thread_index() / 2, toy.input[0]);
}
PATCHSWAP_KERNEL(kThreads) race_past_named_barrier(const Toy toy) {
  const Shared<int> numbers = shared_memory<int>(0, 1);
  if (thread_index() == 0) numbers.store(0, 1);
  named_barrier(1 + thread_index() / kWarp, kWarp);  // each warp passes a barrier, but not the same one
  if (thread_index() == kWarp) toy.output[0] = numbers.load(0);
}
PATCHSWAP_KERNEL(kThreads) shared_beyond_end(const Toy toy) {
  const Shared<int> numbers = shared_memory<int>(0, kThreads);
  numbers.store(thread_index() + static_cast<int>(toy.count), 1);
}
PATCHSWAP_KERNEL(kThreads) shared_before_begin(const Toy toy) {
  toy.output[0] = shared_memory<int>(64, kThreads).load(-1);
}
PATCHSWAP_KERNEL(kThreads) shared_too_large(const Toy toy) {
  shared_memory<Words>(0, static_cast<int>(toy.count)).store_words(0, Words{});
}
PATCHSWAP_KERNEL(kThreads) shared_misaligned(const Toy) { shared_memory<int>(0, kThreads).store_words(1, Words{}); }
PATCHSWAP_KERNEL(kThreads) shared_uninitialised(const Toy toy) {
  const Shared<int> numbers = shared_memory<int>(0, kThreads);
  if (thread_index() != 40) numbers.store(thread_index(), 1);
  block_barrier();
  toy.output[thread_index()] = numbers.load(thread_index() ^ 1);
}
PATCHSWAP_KERNEL(kThreads) global_beyond_end(const Toy toy) { toy.output[toy.count + thread_index()] = 1; }
PATCHSWAP_KERNEL(kThreads) global_beyond_end_read(const Toy toy) {
  toy.output[thread_index()] = toy.input[toy.count + thread_index()];
}
PATCHSWAP_KERNEL(kThreads) global_before_begin(const Toy toy) {
  toy.output[thread_index()] = toy.input[thread_index() - 1];
}
PATCHSWAP_KERNEL(kThreads) global_write_to_input(const Toy toy) { const_cast<int*>(toy.input)[thread_index()] = 1; }
PATCHSWAP_KERNEL(kThreads) global_misaligned(const Toy toy) {
  toy.output[0] = static_cast<int>(reinterpret_cast<const Words*>(toy.input + 1)->word[0]);
}
PATCHSWAP_KERNEL(kThreads) undefined_shift(const Toy toy) { toy.output[0] = 1 << toy.count; }
PATCHSWAP_KERNEL(kThreads) divergent_collective(const Toy toy) {
  if (thread_index() % 2 == 0) {
    toy.output[thread_index()] = shuffle(1, 0);
  } else {
    toy.output[thread_index()] = shuffle(2, 0);
  }
}
PATCHSWAP_KERNEL(kThreads) divergent_exit(const Toy toy) {
  if (thread_index() == 3) return;
  toy.output[thread_index()] = any_lane(true);
}
PATCHSWAP_KERNEL(kThreads) divergent_block_barrier(const Toy) {
  if (thread_index() < kWarp) {
    block_barrier();
  } else {
    block_barrier();
  }
}
PATCHSWAP_KERNEL(kThreads) divergent_barrier_and_collective(const Toy toy) {
  if (thread_index() == 3) block_barrier();
  toy.output[thread_index()] = any_lane(true);
}
PATCHSWAP_KERNEL(kThreads) deadlock(const Toy) {
  if (thread_index() < kWarp) {
    named_barrier(1, kThreads);
  } else {
    named_barrier(2, kThreads);
  }
}
PATCHSWAP_KERNEL(kThreads) endless_loop(const Toy toy) {
  while (load_fresh(toy.input) != -1) {
  }
}
PATCHSWAP_KERNEL(kThreads) copy_without_wait(const Toy toy) {
  const Shared<Words> words = shared_memory<Words>(0, kThreads);
  copy_async(words, thread_index(), toy.input + thread_index() * 4, true);
  copy_commit();
  block_barrier();
  toy.output[thread_index()] = static_cast<int>(words.load(thread_index()).word[0]);
}
PATCHSWAP_KERNEL(kThreads) copy_wait_too_weak(const Toy toy) {
  const Shared<Words> words = shared_memory<Words>(0, kThreads);
  copy_async(words, thread_index(), toy.input + thread_index() * 4, true);
  copy_commit();
  copy_wait<1>();
  block_barrier();
  toy.output[thread_index()] = static_cast<int>(words.load(thread_index()).word[0]);
}
PATCHSWAP_KERNEL(kThreads) copy_without_barrier(const Toy toy) {
  const Shared<Words> words = shared_memory<Words>(0, kThreads);
  copy_async(words, thread_index(), toy.input + thread_index() * 4, true);
  copy_commit();
  copy_wait<0>();
  toy.output[thread_index()] = static_cast<int>(words.load(thread_index() ^ 1).word[0]);
}
PATCHSWAP_KERNEL(kThreads) copy_over_unread(const Toy toy) {
  const Shared<Words> words = shared_memory<Words>(0, kThreads);
  words.store(thread_index(), Words{});
  block_barrier();
  toy.output[thread_index()] = static_cast<int>(words.load(thread_index() ^ 1).word[0]);
  copy_async(words, thread_index(), toy.input + thread_index() * 4, true);
}
PATCHSWAP_KERNEL(kThreads) copy_beyond_end(const Toy toy) {
  const Shared<Words> words = shared_memory<Words>(0, kThreads);
  copy_async(words, thread_index(), toy.input + toy.count, true);
  copy_commit();
  copy_wait<0>();
}
PATCHSWAP_KERNEL(kThreads) stack_overflow(const Toy toy) {
  volatile char large[1 << 20];
  for (int i = (1 << 20) - 1; i >= 0; i -= 256) large[i] = 1;
  toy.output[0] = large[0];
}

// ---- Hopper: what works

constexpr int kStages = 2, kStageWords = 16;

// The last warp brings in stages of words by bulk copies, the others add them up.
PATCHSWAP_KERNEL(kWarpgroup) bulk_copies(const Toy toy) {
  const Shared<Words> stages = shared_memory<Words>(0, kStages * kStageWords);
  const Shared<int> numbers = shared_memory<int>(0, kStages * kStageWords * 4);
  const Shared<uint64_t> full = shared_memory<uint64_t>(kStages * kStageWords * 16, kStages);
  const Shared<uint64_t> empty = shared_memory<uint64_t>(kStages * kStageWords * 16 + kStages * 8, kStages);
  const int thread = thread_index(), readers = kWarpgroup - kWarp, rounds = static_cast<int>(toy.count);
  if (thread == 0) {
    for (int stage = 0; stage < kStages; stage++) {
      start_copy_barrier(full, stage, 1);
      start_copy_barrier(empty, stage, readers / kWarp);
    }
    fence_for_started_barriers();
  }
  block_barrier();
  if (thread >= readers) {
    give_up_registers<24>();
    if (thread > readers) return;
    for (int round = 0; round < rounds; round++) {
      const int stage = round % kStages;
      wait_at_copy_barrier(empty, stage, (round / kStages + 1) % 2);
      arrive_and_announce(full, stage, kStageWords * 16);
      for (int part = 0; part < 2; part++) {
        bulk_copy_async(stages, stage * kStageWords + part * kStageWords / 2,
                        toy.input + (round * 2 + part) * kStageWords * 2, kStageWords * 8, full, stage);
      }
    }
    return;
  }
  take_registers<240>();
  int sum = 0;
  for (int round = 0; round < rounds; round++) {
    const int stage = round % kStages;
    wait_at_copy_barrier(full, stage, round / kStages % 2);
    sum += numbers.load(stage * kStageWords * 4 + thread % (kStageWords * 4));
    warp_barrier();
    if (thread % kWarp == 0) arrive_at_copy_barrier(empty, stage);
  }
  toy.output[thread] = sum;
}

constexpr int kTerms = 32, kRows = 64, kColumns = 128;

// Which mistake a product has; the order of the Python test.
enum Mistake { kNone, kNoFenceForProxy, kNoFenceOfProducts, kNoWait, kOverwritten };

// sums (64 x 128) = left (64 x 32) * right (128 x 32) transposed, both row by row.
void product_of_warpgroup(const Toy& toy, Mistake mistake) {
  const Shared<Words> words = shared_memory<Words>(0, (kRows + kColumns) * kTerms / 8);
  const int thread = thread_index();
  const auto four = [](const Half* halves) {
    Words result;
    std::memcpy(&result, halves, sizeof result);
    return result;
  };
  // Eight terms of all rows lie one behind the other, then the next eight terms.
  for (int piece = 0; piece < kTerms / 8; piece++) {
    for (int row = thread; row < kRows + kColumns; row += kWarpgroup) {
      const Half* source = row < kRows ? toy.left + row * kTerms : toy.right + (row - kRows) * kTerms;
      const int place = row < kRows ? piece * kRows + row : kTerms / 8 * kRows + piece * kColumns + row - kRows;
      words.store(place, four(source + piece * 8));
    }
  }
  if (mistake != kNoFenceForProxy) fence_for_async_proxy();
  block_barrier();
  const uint64_t left = matrix_descriptor(words.address(0), kRows * 16, 128);
  const uint64_t right = matrix_descriptor(words.address(kTerms / 8 * kRows), kColumns * 16, 128);
  float d[64];
  if (mistake != kNoFenceOfProducts) fence_products();
  for (int step = 0; step < kTerms / 16; step++) {
    const uint32_t to_step = static_cast<uint32_t>(step) * 2 * 16;
    multiply_add_async(d, moved(left, to_step * kRows), moved(right, to_step * kColumns), step > 0);
  }
  commit_products();
  if (mistake == kOverwritten) words.store(0, Words{});
  if (mistake != kNoWait) wait_for_products(d);
  for (int i = 0; i < 64; i++) {
    const int row = thread / kWarp * 16 + thread % kWarp / 4 + i / 2 % 2 * 8;
    toy.sums[row * kColumns + i / 4 * 8 + thread % 4 * 2 + i % 2] = d[i];
  }
  wait_for_products<0>();
}
PATCHSWAP_KERNEL(kWarpgroup) warpgroup_product(const Toy toy) { product_of_warpgroup(toy, kNone); }

// ---- Hopper: faults

PATCHSWAP_KERNEL(kWarpgroup) product_without_proxy_fence(const Toy toy) { product_of_warpgroup(toy, kNoFenceForProxy); }
PATCHSWAP_KERNEL(kWarpgroup) product_without_fence(const Toy toy) { product_of_warpgroup(toy, kNoFenceOfProducts); }
PATCHSWAP_KERNEL(kWarpgroup) product_without_wait(const Toy toy) { product_of_warpgroup(toy, kNoWait); }
PATCHSWAP_KERNEL(kWarpgroup) product_overwritten(const Toy toy) { product_of_warpgroup(toy, kOverwritten); }

// One barrier at byte 256, and eight words that are copied to the begin of shared memory.
struct OneBulkCopy {
  Shared<Words> words = shared_memory<Words>(0, 16);
  Shared<uint64_t> barrier = shared_memory<uint64_t>(256, 1);

  explicit OneBulkCopy(const Toy& toy, bool starts = true, bool fences = true, int announced = 128, int copied = 128) {
    if (thread_index() == 0) {
      if (starts) start_copy_barrier(barrier, 0, 1);
      if (fences) fence_for_started_barriers();
    }
    block_barrier();
    if (thread_index() == 0) {
      arrive_and_announce(barrier, 0, announced);
      bulk_copy_async(words, 0, toy.input, copied, barrier, 0);
    }
  }
};
PATCHSWAP_KERNEL(kThreads) bulk_copy_without_wait(const Toy toy) {
  const OneBulkCopy copy(toy);
  toy.output[thread_index()] = static_cast<int>(copy.words.load(thread_index() % 8).word[0]);
  wait_at_copy_barrier(copy.barrier, 0, 0);
}
PATCHSWAP_KERNEL(kThreads) bulk_copy_waits_for_wrong_phase(const Toy toy) {
  const OneBulkCopy copy(toy);
  wait_at_copy_barrier(copy.barrier, 0, 1);
  toy.output[thread_index()] = static_cast<int>(copy.words.load(thread_index() % 8).word[0]);
  wait_at_copy_barrier(copy.barrier, 0, 0);
}
PATCHSWAP_KERNEL(kThreads) bulk_copy_one_lane_waits(const Toy toy) {
  const OneBulkCopy copy(toy);
  if (thread_index() == 0) wait_at_copy_barrier(copy.barrier, 0, 0);
  toy.output[thread_index()] = static_cast<int>(copy.words.load(thread_index() % 8).word[0]);
}
PATCHSWAP_KERNEL(kThreads) bulk_copy_more_announced(const Toy toy) {
  const OneBulkCopy copy(toy, true, true, 144);
  wait_at_copy_barrier(copy.barrier, 0, 0);
}
PATCHSWAP_KERNEL(kThreads) bulk_copy_beyond_target(const Toy toy) { OneBulkCopy(toy, true, true, 272, 272); }
PATCHSWAP_KERNEL(kThreads) bulk_copy_barrier_not_started(const Toy toy) { OneBulkCopy(toy, false); }
PATCHSWAP_KERNEL(kThreads) bulk_copy_barrier_not_fenced(const Toy toy) { OneBulkCopy(toy, true, false); }
PATCHSWAP_KERNEL(kThreads) bulk_copy_over_unread(const Toy toy) {
  const OneBulkCopy copy(toy);
  wait_at_copy_barrier(copy.barrier, 0, 0);
  toy.output[thread_index()] = static_cast<int>(copy.words.load(thread_index() % 8).word[0]);
  if (thread_index() == 0) {
    arrive_and_announce(copy.barrier, 0, 128);
    bulk_copy_async(copy.words, 0, toy.input, 128, copy.barrier, 0);
  }
  wait_at_copy_barrier(copy.barrier, 0, 1);
}
PATCHSWAP_KERNEL(kThreads) bulk_copy_beyond_source(const Toy toy) {
  Toy moved_toy = toy;
  moved_toy.input += toy.count;
  const OneBulkCopy copy(moved_toy);
  wait_at_copy_barrier(copy.barrier, 0, 0);
}
PATCHSWAP_KERNEL(kThreads) too_many_arrivals(const Toy) {
  const Shared<uint64_t> barrier = shared_memory<uint64_t>(256, 1);
  if (thread_index() == 0) start_copy_barrier(barrier, 0, 3);
  if (thread_index() == 0) fence_for_started_barriers();
  block_barrier();
  if (thread_index() < 2) arrive_and_announce(barrier, 0, 16);
  block_barrier();
  if (thread_index() < 2) arrive_at_copy_barrier(barrier, 0);
}

#define PATCHSWAP_TOY(name) {#name, name}
const std::map<std::string, void (*)(const Toy)> kToys = {
    PATCHSWAP_TOY(indices),
    PATCHSWAP_TOY(mirror),
    PATCHSWAP_TOY(named_barriers),
    PATCHSWAP_TOY(within_warps),
    PATCHSWAP_TOY(warp_barriers),
    PATCHSWAP_TOY(last_block),
    PATCHSWAP_TOY(atomics),
    PATCHSWAP_TOY(copies),
    PATCHSWAP_TOY(product),
    PATCHSWAP_TOY(words_and_halves),
    PATCHSWAP_TOY(race_read_after_write),
    PATCHSWAP_TOY(race_within_warp),
    PATCHSWAP_TOY(race_write_after_read),
    PATCHSWAP_TOY(race_write_after_write),
    PATCHSWAP_TOY(race_past_named_barrier),
    PATCHSWAP_TOY(shared_beyond_end),
    PATCHSWAP_TOY(shared_before_begin),
    PATCHSWAP_TOY(shared_too_large),
    PATCHSWAP_TOY(shared_misaligned),
    PATCHSWAP_TOY(shared_uninitialised),
    PATCHSWAP_TOY(global_beyond_end),
    PATCHSWAP_TOY(global_beyond_end_read),
    PATCHSWAP_TOY(global_before_begin),
    PATCHSWAP_TOY(global_write_to_input),
    PATCHSWAP_TOY(global_misaligned),
    PATCHSWAP_TOY(undefined_shift),
    PATCHSWAP_TOY(divergent_collective),
    PATCHSWAP_TOY(divergent_exit),
    PATCHSWAP_TOY(divergent_block_barrier),
    PATCHSWAP_TOY(divergent_barrier_and_collective),
    PATCHSWAP_TOY(deadlock),
    PATCHSWAP_TOY(endless_loop),
    PATCHSWAP_TOY(copy_without_wait),
    PATCHSWAP_TOY(copy_wait_too_weak),
    PATCHSWAP_TOY(copy_without_barrier),
    PATCHSWAP_TOY(copy_over_unread),
    PATCHSWAP_TOY(copy_beyond_end),
    PATCHSWAP_TOY(stack_overflow),
    PATCHSWAP_TOY(bulk_copies),
    PATCHSWAP_TOY(warpgroup_product),
    PATCHSWAP_TOY(product_without_proxy_fence),
    PATCHSWAP_TOY(product_without_fence),
    PATCHSWAP_TOY(product_without_wait),
    PATCHSWAP_TOY(product_overwritten),
    PATCHSWAP_TOY(bulk_copy_without_wait),
    PATCHSWAP_TOY(bulk_copy_waits_for_wrong_phase),
    PATCHSWAP_TOY(bulk_copy_one_lane_waits),
    PATCHSWAP_TOY(bulk_copy_more_announced),
    PATCHSWAP_TOY(bulk_copy_beyond_target),
    PATCHSWAP_TOY(bulk_copy_barrier_not_started),
    PATCHSWAP_TOY(bulk_copy_barrier_not_fenced),
    PATCHSWAP_TOY(bulk_copy_over_unread),
    PATCHSWAP_TOY(bulk_copy_beyond_source),
    PATCHSWAP_TOY(too_many_arrivals),
};

}  // namespace

// Null, or what went wrong; the text lives until the next call.
extern "C" const char* run_toy(const char* name, const emulation::Schedule* schedule, int blocks, int threads,
                               int shared_bytes, const Toy* toy) {
  return emulation::message_of(
      [&] { emulation::emulate(*schedule, blocks, threads, shared_bytes, [&] { kToys.at(name)(*toy); }); });
}

extern "C" void halves_of(const float* values, uint16_t* halves, int64_t count) {
  for (int64_t i = 0; i < count; i++) halves[i] = to_half(values[i]).bits;
}
extern "C" void floats_of(const uint16_t* halves, float* values, int64_t count) {
  for (int64_t i = 0; i < count; i++) values[i] = to_float(Half{halves[i]});
}
