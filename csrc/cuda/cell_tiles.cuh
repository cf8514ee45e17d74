// How kernels share a map among blocks: tiles of neighbouring cells by slabs of channels.
#pragma once

#include <cstdint>

#include "device.cuh"

namespace patchswap {

constexpr int kTileCells = 512;    // most cells of a block, a thread each
constexpr int kSlabChannels = 16;  // channels of a block

// A map (B, channels, cells), shared among blocks.
struct CellTiles {
  int64_t channels, slabs;
  int cells, tiles;
  int threads;  // of a block: the cells of a tile, in whole warps

  int64_t blocks(int64_t batch) const { return batch * slabs * tiles; }
};

inline CellTiles cell_tiles(int64_t cells, int64_t channels, int most_cells = kTileCells) {
  const int64_t tiles = (cells + most_cells - 1) / most_cells, tile_cells = (cells + tiles - 1) / tiles;
  return {.channels = channels,
          .slabs = (channels + kSlabChannels - 1) / kSlabChannels,
          .cells = static_cast<int>(cells),
          .tiles = static_cast<int>(tiles),
          .threads = static_cast<int>((tile_cells + kWarp - 1) / kWarp * kWarp)};
}

// What a thread has of the map: one cell, in up to kSlabChannels channels.
struct CellShare {
  int64_t sample, first_plane;  // planes are counted through the batch
  int cell, channels;           // cell is tiles.cells or more for threads without work

  PATCHSWAP_DEVICE explicit CellShare(const CellTiles& tiles) {
    const int64_t slab = block_index() / tiles.tiles, first_channel = slab % tiles.slabs * kSlabChannels;
    const int64_t left = tiles.channels - first_channel;
    sample = slab / tiles.slabs;
    first_plane = sample * tiles.channels + first_channel;
    cell = block_index() % tiles.tiles * tiles.threads + thread_index();
    channels = left < kSlabChannels ? static_cast<int>(left) : kSlabChannels;
  }
};

}  // namespace patchswap
