// match on the CPU: packing, work sharing and the final scores. The identity that makes it fast is told in walk.h.
//
// Sample after sample: find the columns that queries and keys occupy, cut them into tiles, pack the cell rows that are
// needed, then let the threads take diagonals (tile of the query, tile of the key, y - v) from a common counter. Each
// thread keeps its own best keys; they are merged in a total order, so the result does not depend on who did what.
//
// Memory beyond the arguments: the packed cells of both maps (as large as the maps in float32, plus the overlap of the
// tiles), and for each thread p + 1 blocks of at most 60 x 272 numbers and one score and index per query and rank.

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "../dtype.h"
#include "../ops.h"
#include "grain.h"
#include "walk.h"

namespace patchswap {
namespace {

// Multiples of every kernel's Rows and kColumns; blocks of 60 x 272 numbers stay in a core's L2 cache.
constexpr int64_t kMostQueryCells = 60;
constexpr int64_t kMostKeyCells = 256;
constexpr int64_t kAlignment = 64;

// Uninitialised, aligned memory.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(static_cast<T*>(::operator new(sizeof(T) * std::max<int64_t>(count, 1), std::align_val_t(kAlignment)))) {}
  T* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* data) const { ::operator delete(data, std::align_val_t(kAlignment)); }
  };
  std::unique_ptr<T, Free> data_;
};

// The walk compiled for one instruction set, and the panel widths that it wants.
template <class Sum>
struct Kernel {
  int rows, columns;
  void (*diagonal)(int64_t patch_size, const SampleMatch<Sum>&, int64_t query_tile, int64_t key_tile,
                   int64_t difference, const WalkBuffers<Sum>&, Best<Sum>&);
};

template <class Walk, class Sum>
PATCHSWAP_INLINE void walk(int64_t patch_size, const SampleMatch<Sum>& match, int64_t query_tile, int64_t key_tile,
                           int64_t difference, const WalkBuffers<Sum>& buffers, Best<Sum>& best) {
  if (patch_size == 1) {
    Walk::template diagonal<1>(match, query_tile, key_tile, difference, buffers, best);
  } else if (patch_size == 3) {
    Walk::template diagonal<3>(match, query_tile, key_tile, difference, buffers, best);
  } else {
    Walk::template diagonal<5>(match, query_tile, key_tile, difference, buffers, best);
  }
}

// Register blocks: results fill most of the registers, and Rows divides kMostQueryCells.
#if defined(__x86_64__)
template <class Sum>
__attribute__((target("avx512f,avx512vl,avx512dq,fma"))) void walk_avx512(
    int64_t patch_size, const SampleMatch<Sum>& match, int64_t query_tile, int64_t key_tile, int64_t difference,
    const WalkBuffers<Sum>& buffers, Best<Sum>& best) {
  walk<Walk<Sum, 64, 12, 2>>(patch_size, match, query_tile, key_tile, difference, buffers, best);
}

template <class Sum>
__attribute__((target("avx2,fma"))) void walk_avx2(int64_t patch_size, const SampleMatch<Sum>& match,
                                                   int64_t query_tile, int64_t key_tile, int64_t difference,
                                                   const WalkBuffers<Sum>& buffers, Best<Sum>& best) {
  walk<Walk<Sum, 32, 6, 2>>(patch_size, match, query_tile, key_tile, difference, buffers, best);
}
#endif

template <class Sum>
void walk_generic(int64_t patch_size, const SampleMatch<Sum>& match, int64_t query_tile, int64_t key_tile,
                  int64_t difference, const WalkBuffers<Sum>& buffers, Best<Sum>& best) {
  walk<Walk<Sum, 16, 6, 2>>(patch_size, match, query_tile, key_tile, difference, buffers, best);
}

enum class InstructionSet { kGeneric, kAvx2, kAvx512 };

// The best that this machine has, at most what the environment variable PATCHSWAP_CPU_KERNEL names: by it tests reach
// every kernel.
InstructionSet find_instruction_set() {
  [[maybe_unused]] const char* variable = std::getenv("PATCHSWAP_CPU_KERNEL");
  [[maybe_unused]] const std::string_view limit = variable ? variable : "";
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx512 =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx512 && limit != "avx2" && limit != "generic") return InstructionSet::kAvx512;
  if (avx2 && limit != "generic") return InstructionSet::kAvx2;
#endif
  return InstructionSet::kGeneric;
}

InstructionSet instruction_set() {
  static const InstructionSet found = find_instruction_set();
  return found;
}

template <class Sum>
Kernel<Sum> choose_kernel() {
#if defined(__x86_64__)
  if (instruction_set() == InstructionSet::kAvx512) return {12, 128 / int(sizeof(Sum)), &walk_avx512<Sum>};
  if (instruction_set() == InstructionSet::kAvx2) return {6, 64 / int(sizeof(Sum)), &walk_avx2<Sum>};
#endif
  return {6, 32 / int(sizeof(Sum)), &walk_generic<Sum>};
}

int64_t divide_up(int64_t number, int64_t by) { return (number + by - 1) / by; }

// A (C, H, W) map with the patches that take part, before packing.
template <class Element>
struct Map {
  const char* name;
  const Element* features;
  const bool* mask;  // [rows][columns] or null for all
  int64_t channels, height, width, rows, columns, patch_size;

  bool takes_part(int64_t row, int64_t column) const { return !mask || mask[row * columns + column]; }
};

// 1 / norm of every patch, 0 where the norm counts as zero. Throws where a norm is not finite.
template <class Sum, class Element>
std::vector<Sum> inverse_norms(const Map<Element>& map) {
  std::vector<double> squares(map.height * map.width);
  std::vector<Sum> result(map.rows * map.columns);
  std::atomic<bool> finite = true;
  torch::stable::parallel_for(0, map.height, grain_size(map.width * map.channels), [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; y++) {
      double* square = &squares[y * map.width];
      for (int64_t channel = 0; channel < map.channels; channel++) {
        const Element* cells = map.features + (channel * map.height + y) * map.width;
        for (int64_t x = 0; x < map.width; x++) {
          const double value = static_cast<double>(static_cast<Sum>(cells[x]));
          square[x] += value * value;
        }
      }
      for (int64_t x = 0; x < map.width; x++) {
        if (!std::isfinite(square[x])) finite = false;
      }
    }
  });
  torch::stable::parallel_for(
      0, map.rows, grain_size(map.columns * map.patch_size * map.patch_size), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
          for (int64_t column = 0; column < map.columns; column++) {
            double square = 0;
            for (int64_t dy = 0; dy < map.patch_size; dy++) {
              for (int64_t dx = 0; dx < map.patch_size; dx++) square += squares[(row + dy) * map.width + column + dx];
            }
            if (!(square <= std::numeric_limits<Sum>::max())) finite = false;
            const bool is_zero = square < std::numeric_limits<Sum>::min();
            result[row * map.columns + column] = is_zero ? Sum(0) : static_cast<Sum>(1 / std::sqrt(square));
          }
        }
      });
  if (!finite) {
    std::ostringstream text;
    text << "patchswap.match: " << map.name
         << " must be finite; it holds NaN or Inf (or values whose squared "
            "patch norm overflows)";
    throw std::runtime_error(text.str());
  }
  return result;
}

// A packed map and the memory it points to.
template <class Sum>
struct Packing {
  PackedMap<Sum> map;
  std::unique_ptr<bool[]> row_is_used;
  std::unique_ptr<Buffer<Sum>> cells;
};

// Cut the columns that take part into tiles of at most `most_cells` cells and pack the cell rows that patches need.
template <class Sum, class Element>
Packing<Sum> pack(const Map<Element>& map, int64_t panel_width, int64_t most_cells) {
  Packing<Sum> packing;
  PackedMap<Sum>& packed = packing.map;
  int64_t first = map.columns, end = 0;
  for (int64_t row = 0; row < map.rows; row++) {
    for (int64_t column = 0; column < map.columns; column++) {
      if (!map.takes_part(row, column)) continue;
      first = std::min(first, column);
      end = std::max(end, column + 1);
    }
  }
  packed.rows = map.rows;
  packed.columns = map.columns;
  packed.cell_rows = map.height;
  packed.channels = map.channels;
  packed.panel_width = panel_width;
  if (first >= end) return packing;  // nothing takes part: no tiles
  const int64_t overlap = map.patch_size - 1;
  packed.first_column = first;
  packed.tiles = divide_up(end - first, most_cells - overlap);
  packed.tile_columns = divide_up(end - first, packed.tiles);
  packed.padded_width = divide_up(packed.tile_columns + overlap, panel_width) * panel_width;

  packing.row_is_used = std::make_unique<bool[]>(packed.tiles * map.rows);
  for (int64_t tile = 0; tile < packed.tiles; tile++) {
    const int64_t tile_first = first + tile * packed.tile_columns;
    const int64_t tile_end = std::min(tile_first + packed.tile_columns, map.columns);
    for (int64_t row = 0; row < map.rows; row++) {
      bool& used = packing.row_is_used[tile * map.rows + row];
      for (int64_t column = tile_first; column < tile_end && !used; column++) used = map.takes_part(row, column);
    }
  }
  packed.row_is_used = packing.row_is_used.get();

  packing.cells = std::make_unique<Buffer<Sum>>(packed.tiles * map.height * packed.padded_width * map.channels);
  Sum* cells = packing.cells->get();
  packed.cells = cells;
  const int64_t grain = grain_size(packed.padded_width * map.channels);
  torch::stable::parallel_for(0, packed.tiles * map.height, grain, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; item++) {
      const int64_t tile = item / map.height, y = item % map.height;
      bool needed = false;
      for (int64_t row = std::max<int64_t>(0, y - overlap); row <= y && row < map.rows; row++) {
        needed = needed || packed.row_is_used[tile * map.rows + row];
      }
      if (!needed) continue;
      const int64_t tile_first = first + tile * packed.tile_columns;
      const int64_t width = std::min(packed.padded_width, map.width - tile_first);
      Sum* to = cells + item * packed.padded_width * map.channels;
      for (int64_t channel = 0; channel < map.channels; channel++) {
        const Element* from = map.features + (channel * map.height + y) * map.width + tile_first;
        for (int64_t panel = 0; panel < packed.padded_width; panel += panel_width) {
          Sum* panel_cells = to + panel * map.channels + channel * panel_width;
          const int64_t present = std::clamp<int64_t>(width - panel, 0, panel_width);
          for (int64_t i = 0; i < present; i++) panel_cells[i] = static_cast<Sum>(from[panel + i]);
          for (int64_t i = present; i < panel_width; i++) panel_cells[i] = 0;
        }
      }
    }
  });
  return packing;
}

// For each key of each tile 1 / norm and 0, or 0 and -inf where it must not be chosen.
template <class Sum, class Element>
void fill_key_scale(const Map<Element>& map, const PackedMap<Sum>& packed, const std::vector<Sum>& inverse_norm,
                    Sum* scale, Sum* bias) {
  for (int64_t tile = 0; tile < packed.tiles; tile++) {
    for (int64_t row = 0; row < packed.rows; row++) {
      for (int64_t i = 0; i < packed.padded_width; i++, scale++, bias++) {
        const int64_t column = packed.first_column + tile * packed.tile_columns + i;
        const bool valid = i < packed.tile_columns && column < packed.columns && map.takes_part(row, column);
        *scale = valid ? inverse_norm[row * packed.columns + column] : Sum(0);
        *bias = valid ? Sum(0) : -std::numeric_limits<Sum>::infinity();
      }
    }
  }
}

template <class Sum, class Element>
void match_sample(const Map<Element>& query_map, const Map<Element>& key_map, int64_t topk, int64_t* index,
                  Sum* score) {
  const int64_t queries = query_map.rows * query_map.columns, patch_size = query_map.patch_size;
  const std::vector<Sum> query_inverse_norm = inverse_norms<Sum>(query_map);
  const std::vector<Sum> key_inverse_norm = inverse_norms<Sum>(key_map);
  const Kernel<Sum> kernel = choose_kernel<Sum>();
  const Packing<Sum> query = pack<Sum>(query_map, kernel.rows, kMostQueryCells);
  if (query.map.tiles == 0) return;
  const Packing<Sum> key = pack<Sum>(key_map, kernel.columns, kMostKeyCells);
  if (key.map.tiles == 0) return;

  const Buffer<Sum> key_scale(key.map.tiles * key.map.rows * key.map.padded_width);
  const Buffer<Sum> key_bias(key.map.tiles * key.map.rows * key.map.padded_width);
  fill_key_scale(key_map, key.map, key_inverse_norm, key_scale.get(), key_bias.get());
  std::unique_ptr<bool[]> all_queries;
  if (!query_map.mask) {
    all_queries = std::make_unique<bool[]>(queries);
    std::fill_n(all_queries.get(), queries, true);
  }
  const SampleMatch<Sum> match{query.map, key.map, query_map.mask ? query_map.mask : all_queries.get(), key_scale.get(),
                               key_bias.get()};

  std::vector<Sum> best_score(queries * topk, -std::numeric_limits<Sum>::infinity());
  std::vector<int64_t> best_index(queries * topk, -1);
  Best<Sum> merged{topk, best_score.data(), best_index.data()};
  std::mutex merging;
  std::atomic<int64_t> next = 0;
  const int64_t differences = query.map.rows + key.map.rows - 1;
  const int64_t items = query.map.tiles * key.map.tiles * differences;
  const int64_t row_pairs = query.map.tiles * query.map.rows * key.map.tiles * key.map.rows;
  const int64_t operations = row_pairs * query.map.padded_width * key.map.padded_width * query.map.channels;
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), operations / kOperationsWorthAThread + 1);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    // One pass of this body per thread; each takes diagonals until none is left.
    if (begin == end) return;
    const int64_t stride = key.map.padded_width + 16;
    const int64_t block = query.map.padded_width * stride;
    const Buffer<Sum> numbers(block * (patch_size + 1) + stride);
    std::fill_n(numbers.get(), block * (patch_size + 1) + stride, Sum(0));
    const WalkBuffers<Sum> buffers{stride, numbers.get(), numbers.get() + block,
                                   numbers.get() + block * (patch_size + 1)};
    std::vector<Sum> own_score(queries * topk, -std::numeric_limits<Sum>::infinity());
    std::vector<int64_t> own_index(queries * topk, -1);
    Best<Sum> own{topk, own_score.data(), own_index.data()};
    for (int64_t item = next++; item < items; item = next++) {
      const int64_t tile_pair = item / differences, difference = item % differences - (key.map.rows - 1);
      kernel.diagonal(patch_size, match, tile_pair / key.map.tiles, tile_pair % key.map.tiles, difference, buffers,
                      own);
    }
    const std::lock_guard<std::mutex> lock(merging);
    for (int64_t i = 0; i < queries * topk; i++) {
      if (own_index[i] >= 0) merged.offer(i / topk, own_score[i], own_index[i]);
    }
  });

  for (int64_t query_patch = 0; query_patch < queries; query_patch++) {
    for (int64_t rank = 0; rank < topk; rank++) {
      const int64_t chosen = best_index[query_patch * topk + rank];
      if (chosen < 0) continue;
      index[rank * queries + query_patch] = chosen;
      score[rank * queries + query_patch] = best_score[query_patch * topk + rank] * query_inverse_norm[query_patch];
    }
  }
}

}  // namespace

void match_cpu(const MatchCall& call) {
  with_element_type(call.query.scalar_type(), [&](auto element) {
    using Element = decltype(element);
    using Sum = Accumulate<Element>;
    const int64_t queries = call.query_rows * call.query_columns, keys = call.key_rows * call.key_columns;
    for (int64_t sample = 0; sample < call.batch; sample++) {
      const Map<Element> query{
          .name = "query",
          .features =
              call.query.const_data_ptr<Element>() + sample * call.channels * call.query_height * call.query_width,
          .mask = call.query_mask ? call.query_mask->const_data_ptr<bool>() + sample * queries : nullptr,
          .channels = call.channels,
          .height = call.query_height,
          .width = call.query_width,
          .rows = call.query_rows,
          .columns = call.query_columns,
          .patch_size = call.patch_size};
      const Map<Element> key{
          .name = "key",
          .features = call.key.const_data_ptr<Element>() + sample * call.channels * call.key_height * call.key_width,
          .mask = call.key_mask ? call.key_mask->const_data_ptr<bool>() + sample * keys : nullptr,
          .channels = call.channels,
          .height = call.key_height,
          .width = call.key_width,
          .rows = call.key_rows,
          .columns = call.key_columns,
          .patch_size = call.patch_size};
      match_sample<Sum>(query, key, call.topk, call.index.mutable_data_ptr<int64_t>() + sample * call.topk * queries,
                        call.score.mutable_data_ptr<Sum>() + sample * call.topk * queries);
    }
  });
}

const char* cpu_kernel_name() {
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return "avx512";
    case InstructionSet::kAvx2:
      return "avx2";
    default:
      return "generic";
  }
}

}  // namespace patchswap
