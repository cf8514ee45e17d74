// Tiles packed as coarse cells, with the bounds of their patches.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>
#include <vector>

#include "bound.h"
#include "candidates.h"
#include "pack.h"
#include "pruned_kernel.h"

namespace patchswap {

// Tiles [first, end) of a map as coarse cells.
struct CoarseChunk {
  std::vector<Tile> contents;
  std::vector<CoarseTile> tiles;
};

// Makes the cells of one map coarse. Keeps its memory from chunk to chunk.
template <class Element>
class CoarsePacker {
 public:
  CoarsePacker(const Map<Element>& map, const std::vector<Outline>& tiles, const CoarseScheme& scheme,
               const PrunedKernel& kernel, double step, bool is_query)
      : map_(map), tiles_(tiles), scheme_(scheme), kernel_(kernel), step_(step), is_query_(is_query) {
    panel_ = is_query ? kernel.query_panel() : kernel.key_panel();
    padded_axes_ = round_up(scheme.basis.axes, kernel.query_panel());
    axes_.resize(padded_axes_ * map.channels);
    for (int64_t axis = 0; axis < scheme.basis.axes; axis++) {
      for (int64_t channel = 0; channel < map.channels; channel++) {
        axes_[(axis / kernel.query_panel() * map.channels + channel) * kernel.query_panel() +
              axis % kernel.query_panel()] = scheme.basis.axis[axis * map.channels + channel];
      }
    }
  }

  // Bytes that a cell takes in a chunk.
  int64_t cell_bytes() const {
    return scheme_.depth().numbers * 4 + scheme_.separate_count + sizeof(CoarseErrors) + sizeof(double) +
           5 * sizeof(float) + (reads_in_place() ? 0 : map_.channels * sizeof(float));
  }

  // Whether a patch that takes part has a norm too small for the bound. Known once all chunks have been packed.
  bool too_small() const { return too_small_; }

  CoarseChunk pack(size_t first, size_t end) {
    CoarseChunk chunk;
    chunk.contents = tiles_of(map_, tiles_, first, end);
    const ChunkLayout layout(tiles_, first, end, map_.patch_size);
    const int64_t cells = layout.cells;
    if (cells > capacity_) {
      capacity_ = cells;
      words_ = Buffer<int32_t>();
      words_ = Buffer<int32_t>(cells * scheme_.depth().numbers);
      separate_ = Buffer<int8_t>();
      separate_ = Buffer<int8_t>(cells * scheme_.separate_count);
      if (!reads_in_place()) {
        copies_ = Buffer<float>();
        copies_ = Buffer<float>(cells * map_.channels);
      }
      errors_.resize(cells);
      squares_.resize(cells);
      for (auto* array : {&factor_, &weight_, &refined_weight_, &scale_, &norm_}) array->resize(cells);
    }
    for (size_t i = 0; i < chunk.contents.size(); i++) {
      const Tile& tile = chunk.contents[i];
      const int64_t before = layout.cells_before[i];
      chunk.tiles.push_back({.words = {.tile = &tile,
                                       .slots = tile.slots,
                                       .depth = scheme_.depth(),
                                       .cells = words_.get() + before * scheme_.depth().numbers},
                             .factor = factor_.data() + before,
                             .weight = weight_.data() + before,
                             .refined_weight = refined_weight_.data() + before,
                             .separate = separate_.get() + before * scheme_.separate_count,
                             .scale = scale_.data() + before,
                             .norm = norm_.data() + before,
                             .cells = reader(tile, before)});
    }
    const int64_t grain = grain_size(32 * map_.channels), count = layout.rows.size();
    torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t until) {
      RowMemory memory(round_up(layout.most_slots, kEncodedTogether), padded_axes_, map_.channels);
      for (int64_t item = begin; item < until; item++) {
        const auto [i, row] = layout.rows[item];
        encode_row(chunk.contents[i], row, layout.cells_before[i], memory);
      }
    });
    torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t until) {
      for (int64_t item = begin; item < until; item++) {
        const auto [i, row] = layout.rows[item];
        if (row < chunk.contents[i].rows) bound_row(chunk.contents[i], row, layout.cells_before[i]);
      }
    });
    return chunk;
  }

 private:
  struct RowMemory {
    Buffer<float> packed, coordinates;
    std::vector<double> squares;
    int64_t slots;
    RowMemory(int64_t slots, int64_t axes, int64_t channels)
        : packed(slots * channels), coordinates(slots * axes), squares(slots), slots(slots) {}
  };

  bool reads_in_place() const { return std::is_same_v<Element, float> && map_.channel_stride == 1; }

  CellReader reader(const Tile& tile, int64_t before) const {
    if constexpr (std::is_same_v<Element, float>) {
      if (reads_in_place()) {
        return {.tile = &tile,
                .cells = map_.features + tile.first_row * map_.row_stride,
                .row_stride = map_.row_stride,
                .column_stride = map_.column_stride,
                .is_copy = false};
      }
    }
    return {.tile = &tile,
            .cells = copies_.get() + before * map_.channels,
            .row_stride = tile.slots * map_.channels,
            .column_stride = map_.channels,
            .is_copy = true};
  }

  void encode_row(const Tile& tile, int64_t row, int64_t before, RowMemory& memory) {
    const int64_t slots = round_up(tile.cells[row], kEncodedTogether), at = before + row * tile.slots;
    const int64_t present = std::min(slots, tile.slots);
    const int64_t panel = kernel_.key_panel(), channels = map_.channels;
    pack_row(map_, tile, row, slots, panel, memory.packed.get());
    std::fill(memory.squares.begin(), memory.squares.end(), 0.0);
    kernel_.add_squares(memory.packed.get(), slots, channels, memory.squares.data());
    std::copy_n(memory.squares.data(), present, squares_.data() + at);
    if (!reads_in_place()) {
      for (int64_t slot = 0; slot < tile.cells[row]; slot++) {
        const float* from = memory.packed.get() + slot / panel * panel * channels + slot % panel;
        float* to = copies_.get() + (at + slot) * channels;
        for (int64_t channel = 0; channel < channels; channel++) to[channel] = from[channel * panel];
      }
    }
    kernel_.basis.products.multiply(axes_.data(), padded_axes_, memory.packed.get(), slots, channels,
                                    memory.coordinates.get(), slots);
    kernel_.encode({.scheme = scheme_,
                    .factor = 1 / step_,
                    .coordinates = memory.coordinates.get(),
                    .square_norms = memory.squares.data(),
                    .slots = slots,
                    .is_query = is_query_,
                    .panel = panel_,
                    .word_slots = present,
                    .words = words_.get() + at * scheme_.depth().numbers,
                    .separate = separate_.get() + at * scheme_.separate_count,
                    .errors = errors_.data() + at});
  }

  void bound_row(const Tile& tile, int64_t row, int64_t before) {
    const int64_t at = before + row * tile.slots;
    inverse_norms(map_, tile, row, squares_.data() + at, scale_.data() + at);
    for (int64_t slot = 0; slot < tile.slots; slot++) {
      const bool valid = tile.patch[row * tile.slots + slot] >= 0;
      const double scale = scale_[at + slot], norm = scale > 0 ? 1 / scale : 0;
      factor_[at + slot] = static_cast<float>(step_ * scale);
      norm_[at + slot] = static_cast<float>(norm);
      weight_[at + slot] = is_query_ ? 0 : valid ? 0 : -kInfinity;
      if (!valid || scale == 0) continue;
      if (norm < kSmallestNorm) {
        too_small_ = true;
        continue;
      }
      if (is_query_ && norm / step_ > kMostSteps) continue;
      const PatchWeights weights = patch_weights(scheme_, tile, errors_.data() + before, row, slot, map_.patch_size,
                                                 norm / step_ * (1 + kWeightRounding));
      const double factor = (is_query_ ? 1 : step_ * scale) * (1 + kWeightRounding);
      weight_[at + slot] = static_cast<float>(weights.walk * factor);
      refined_weight_[at + slot] = static_cast<float>(weights.refined * factor);
    }
  }

  const Map<Element>& map_;
  const std::vector<Outline>& tiles_;
  const CoarseScheme& scheme_;
  const PrunedKernel& kernel_;
  double step_;
  bool is_query_;
  int64_t panel_, padded_axes_, capacity_ = 0;
  std::vector<float> axes_;  // [padded axes / panel][channels][panel]
  Buffer<int32_t> words_;
  Buffer<int8_t> separate_;
  Buffer<float> copies_;
  std::vector<CoarseErrors> errors_;
  std::vector<double> squares_;
  std::vector<float> factor_, weight_, refined_weight_, scale_, norm_;
  std::atomic<bool> too_small_ = false;
};

}  // namespace patchswap
