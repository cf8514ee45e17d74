// fill_smoothly on the GPU. Not measured on a GPU yet.
//
//   pull_levels    the large levels, up to five in a launch; a block has a tile of the lowest, and what lies above it
//   fill_top       one launch: a block has all small levels of one channel, up and down again, in shared memory
//   push_level     a launch for each large level, going down; a block has a tile, and works out two cells around it
//
// A picture of 512 x 512 takes one launch of pull_levels, one of fill_top and three of push_level. Where all levels are
// small fill_top is the only launch. The result holds a copy of the image, of which only the hole is written.
//
// The weights are the same in all channels. Blocks work them out anew for their channel; those of the first channel of
// a sample keep them.
#pragma once

#include <cstdint>

#include "device.cuh"

namespace patchswap {

constexpr int kPullLevels = 5;  // of a launch
constexpr int kPullTile = 1 << kPullLevels;
constexpr int kPullThreads = kPullTile / 2 * (kPullTile / 2);                  // one for each cell of the first level
constexpr int kPullCells = (kPullTile * kPullTile - 1) / 3;                    // of all levels of a tile, 16 x 16 to 1
constexpr int kPullShared = 2 * kPullCells * static_cast<int>(sizeof(float));  // bytes
constexpr int kTopThreads = 512;
constexpr int kTopNumbers = 12288;  // two for each cell of the levels of fill_top: 64 x 64 cells and those above fit
constexpr int kTopShared = kTopNumbers * static_cast<int>(sizeof(float));
constexpr int kPushThreads = 256;
constexpr int kPushTile = 32;
constexpr int kPushWide = kPushTile + 4, kPushOnce = kPushTile + 2;  // with a rim of two cells, and of one
constexpr int kPushNumbers = kPushWide * kPushWide + kPushOnce * kPushOnce;
constexpr int kPushShared = (kPushNumbers + kPushThreads / kWarp) * static_cast<int>(sizeof(float));
constexpr int64_t kMostPixels = 1 << 30;  // of one channel, which are counted in 32 bits
constexpr int kMostFillLevels = 32;       // so many pixels have fewer
constexpr float kSmallestWeight = 1e-8f;  // by which totals are divided

// The picture, which is level 0. Strides count numbers: of samples, channels, rows and columns.
struct FillPicture {
  const float* image;
  float* result;
  const bool* hole;  // [B][cells]
  int64_t image_strides[4], result_strides[4];
  int64_t batch, channels;

  int64_t planes() const { return batch * channels; }
};

// How much of a cell is known, and its value times this.
struct FillCell {
  float total, weight;
};

// All pointers of level 0 are null.
struct FillLevel {
  int height, width;
  float* total;   // [B][C][cells]
  float* weight;  // [B][cells]
  float* filled;  // [B][C][cells] what the push makes of total

  PATCHSWAP_HOST_DEVICE int64_t cells() const { return static_cast<int64_t>(height) * width; }
  PATCHSWAP_HOST_DEVICE bool is_picture() const { return total == nullptr; }

  // How many tiles lie side by side, and how many there are.
  PATCHSWAP_HOST_DEVICE int tiles_along(int side) const { return (width + side - 1) / side; }
  PATCHSWAP_HOST_DEVICE int64_t tiles(int side) const {
    return static_cast<int64_t>((height + side - 1) / side) * tiles_along(side);
  }

  // `plane` counts channels through the batch. What the image holds in the hole is not read.
  PATCHSWAP_DEVICE FillCell cell(const FillPicture& picture, int64_t plane, int y, int x) const {
    const int64_t sample = plane / picture.channels, place = static_cast<int64_t>(y) * width + x;
    if (!is_picture()) return {total[plane * cells() + place], weight[sample * cells() + place]};
    if (picture.hole[sample * cells() + place]) return {0, 0};
    const int64_t* strides = picture.image_strides;
    return {
        picture.image[sample * strides[0] + plane % picture.channels * strides[1] + y * strides[2] + x * strides[3]],
        1};
  }
  // Keeps what a cell has become. Of the picture known pixels stay.
  PATCHSWAP_DEVICE void store(const FillPicture& picture, int64_t plane, int y, int x, FillCell known,
                              float value) const {
    if (!is_picture()) {
      filled[plane * cells() + static_cast<int64_t>(y) * width + x] = value;
    } else if (known.weight < 1) {
      const int64_t* strides = picture.result_strides;
      picture.result[plane / picture.channels * strides[0] + plane % picture.channels * strides[1] + y * strides[2] +
                     x * strides[3]] = value;
    }
  }
};

// The levels from the picture to the one that fill_top begins with, levels[last].
struct FillPlan {
  FillLevel levels[kMostFillLevels];
  int last;
  int levels_above;  // of levels[last], up to a single cell; at least one
  int64_t numbers;   // of the workspace

  FillPlan(const FillPicture& picture, int height, int width) : levels(), last(0), levels_above(0), numbers(0) {
    levels[0].height = height;
    levels[0].width = width;
    while (!fits(levels[last])) {
      const FillLevel& below = levels[last++];
      levels[last].height = (below.height + 1) / 2;
      levels[last].width = (below.width + 1) / 2;
      numbers += levels[last].cells() * (2 * picture.planes() + picture.batch);
    }
    levels_above = above(levels[last]).levels;
  }

  void place(const FillPicture& picture, float* workspace) {
    for (int level = 1; level <= last; level++) {
      const int64_t cells = levels[level].cells();
      levels[level].total = workspace;
      levels[level].filled = workspace + cells * picture.planes();
      levels[level].weight = workspace + cells * picture.planes() * 2;
      workspace += cells * (2 * picture.planes() + picture.batch);
    }
  }

 private:
  struct Above {
    int levels;
    int64_t cells;
  };

  static Above above(const FillLevel& level) {
    int64_t height = level.height, width = level.width;
    Above result = {0, 0};
    do {
      height = (height + 1) / 2;
      width = (width + 1) / 2;
      result.levels++;
      result.cells += height * width;
    } while (height > 1 || width > 1);
    return result;
  }
  static bool fits(const FillLevel& level) { return 2 * (level.cells() + above(level).cells) <= kTopNumbers; }
};

// A launch of pull_levels: levels[1] to levels[count] from levels[0].
struct FillPull {
  FillLevel levels[kPullLevels + 1];
  int count;

  FillPull(const FillPlan& plan, int first) : levels(), count(0) {
    levels[0] = plan.levels[first];
    while (count < kPullLevels && first + count < plan.last) {
      count++;
      levels[count] = plan.levels[first + count];
    }
  }
};

PATCHSWAP_DEVICE int smaller(int left, int right) { return left < right ? left : right; }
PATCHSWAP_DEVICE int within(int place, int size) { return place < 0 ? 0 : smaller(place, size - 1); }

// A cell from the four below, which are given by row and column, 0 or 1. Half of a cell's pixels are as good as all.
template <class Below>
PATCHSWAP_DEVICE FillCell pull_cell(const Below& below) {
  const FillCell a = below(0, 0), b = below(0, 1), c = below(1, 0), d = below(1, 1);
  const float mean = ((a.weight + c.weight) + (b.weight + d.weight)) * 0.25f;
  const float weight = mean < 0.5f ? 2 * mean : 1;
  const float factor = 0.25f * weight / larger(mean, kSmallestWeight);
  return {((a.total + c.total) + (b.total + d.total)) * factor, weight};
}

// Where a cell lies in the level above, along one axis: between cells `first` and `first` + 1, the second's share being
// `share`. Centres of cells correspond: cell i lies at (i + 1/2) ceil(size / 2) / size - 1/2, which is i / 2 - 1/4
// where the size is even, and (2 i + 1) / (4 size) further on where it is odd.
struct FillPlace {
  int first;
  float share;

  PATCHSWAP_DEVICE FillPlace(int i, int size) {
    const float further = size % 2 == 0 ? 0.0f : static_cast<float>(2 * i + 1) / (4 * static_cast<float>(size));
    const float place = (i % 2 == 0 ? -0.25f : 0.25f) + further;  // from cell i / 2
    const bool is_before = place < 0;
    first = is_before && i > 0 ? i / 2 - 1 : i / 2;
    share = !is_before ? place : i == 0 ? 0.0f : 1 + place;
  }
};

// The level above at cell (y, x) of a level, where above(y, x) gives its cells.
template <class Above>
PATCHSWAP_DEVICE float interpolate(int y, int x, int height, int width, const Above& above) {
  const FillPlace row(y, height), column(x, width);
  const int last_row = (height + 1) / 2 - 1, last_column = (width + 1) / 2 - 1;
  const int lower = smaller(row.first + 1, last_row), right = smaller(column.first + 1, last_column);
  const float upper_left = above(row.first, column.first), upper_right = above(row.first, right);
  const float lower_left = above(lower, column.first), lower_right = above(lower, right);
  const float at_left = upper_left * (1 - row.share) + lower_left * row.share;
  const float at_right = upper_right * (1 - row.share) + lower_right * row.share;
  return at_left * (1 - column.share) + at_right * column.share;
}

// The mean of the 3 x 3 cells around (y, x), where from(y, x) gives them; beyond the border the outermost count.
template <class From>
PATCHSWAP_DEVICE float mean_around(int y, int x, int height, int width, const From& from) {
  float sums[3];
#pragma unroll
  for (int column = 0; column < 3; column++) {
    const int at = within(x + column - 1, width);
    sums[column] = from(within(y - 1, height), at) + from(y, at) + from(within(y + 1, height), at);
  }
  return (sums[0] + sums[1] + sums[2]) * (1.0f / 9);
}

PATCHSWAP_DEVICE float complete(FillCell known, float lacking) { return known.total + (1 - known.weight) * lacking; }

// Grid: planes * levels[0].tiles(kPullTile) blocks of kPullThreads threads.
PATCHSWAP_KERNEL(kPullThreads)
pull_levels(const FillPicture picture, const FillPull pull) {
  const Shared<float> totals = shared_memory<float>(0, kPullCells);
  const Shared<float> weights = shared_memory<float>(kPullCells * 4, kPullCells);
  const int64_t tiles = pull.levels[0].tiles(kPullTile), plane = block_index() / tiles;
  const int tile = static_cast<int>(block_index() % tiles), along = pull.levels[0].tiles_along(kPullTile);
  const int64_t sample = plane / picture.channels;
  int place = 0;  // of the level in shared memory
#pragma unroll 1
  for (int n = 1; n <= pull.count; n++) {
    const FillLevel& below = pull.levels[n - 1];
    const FillLevel& level = pull.levels[n];
    const int side = kPullTile >> n, row = thread_index() / side, column = thread_index() % side;
    const int top = tile / along * side, left = tile % along * side, y = top + row, x = left + column;
    if (row < side && y < level.height && x < level.width) {
      const FillCell cell = pull_cell([&](int down, int right) -> FillCell {
        const int below_y = smaller(2 * y + down, below.height - 1), below_x = smaller(2 * x + right, below.width - 1);
        if (n == 1) return below.cell(picture, plane, below_y, below_x);
        const int at = place - 4 * side * side + (below_y - 2 * top) * 2 * side + below_x - 2 * left;
        return {totals.load(at), weights.load(at)};
      });
      const int64_t to = static_cast<int64_t>(y) * level.width + x;
      level.total[plane * level.cells() + to] = cell.total;
      if (plane % picture.channels == 0) level.weight[sample * level.cells() + to] = cell.weight;
      totals.store(place + thread_index(), cell.total);
      weights.store(place + thread_index(), cell.weight);
    }
    place += side * side;
    block_barrier();  // the level is there
  }
}

// Grid: planes blocks of kTopThreads threads. `level` and the `levels_above` it, each half the last, fit into shared
// memory: their totals and weights, but for those of `level`, and two numbers more for each cell of `level`, which hold
// what is filled of one level and what is being made of the next.
PATCHSWAP_KERNEL(kTopThreads)
fill_top(const FillPicture picture, const FillLevel level, int levels_above) {
  const int cells = static_cast<int>(level.cells()), room = (kTopNumbers - 2 * cells) / 2;
  const Shared<float> totals = shared_memory<float>(0, room);
  const Shared<float> weights = shared_memory<float>(4 * room, room);
  const Shared<float> values = shared_memory<float>(8 * room, 2 * cells);
  const int64_t plane = block_index();
  const auto height_of = [&](int n) { return static_cast<int>((level.height + (int64_t{1} << n) - 1) >> n); };
  const auto width_of = [&](int n) { return static_cast<int>((level.width + (int64_t{1} << n) - 1) >> n); };

  int place = 0;  // of level n in totals and weights
#pragma unroll 1
  for (int n = 1; n <= levels_above; n++) {
    const int height = height_of(n), width = width_of(n), below_height = height_of(n - 1),
              below_width = width_of(n - 1);
    if (n > 1) place += below_height * below_width;
#pragma unroll 1
    for (int i = thread_index(); i < height * width; i += kTopThreads) {
      const FillCell cell = pull_cell([&](int down, int right) -> FillCell {
        const int y = smaller(i / width * 2 + down, below_height - 1);
        const int x = smaller(i % width * 2 + right, below_width - 1);
        if (n == 1) return level.cell(picture, plane, y, x);
        const int at = place - below_height * below_width + y * below_width + x;
        return {totals.load(at), weights.load(at)};
      });
      totals.store(place + i, cell.total);
      weights.store(place + i, cell.weight);
    }
    block_barrier();  // level n is there
  }

  int from = 0, to = cells;  // of the two parts of values
  if (thread_index() == 0) values.store(from, totals.load(place) / larger(weights.load(place), kSmallestWeight));
  block_barrier();
#pragma unroll 1
  for (int n = levels_above - 1; n >= 0; n--) {
    const int height = height_of(n), width = width_of(n), above_width = width_of(n + 1);
    place -= height * width;  // meaningless where n is 0, as the cells are those of `level`
#pragma unroll 1
    for (int pass = 0; pass < 3; pass++) {
#pragma unroll 1
      for (int i = thread_index(); i < height * width; i += kTopThreads) {
        const int y = i / width, x = i % width;
        const FillCell known =
            n == 0 ? level.cell(picture, plane, y, x) : FillCell{totals.load(place + i), weights.load(place + i)};
        const float value =
            complete(known, pass == 0 ? interpolate(y, x, height, width,
                                                    [&](int above_y, int above_x) {
                                                      return values.load(from + above_y * above_width + above_x);
                                                    })
                                      : mean_around(y, x, height, width, [&](int near_y, int near_x) {
                                          return values.load(from + near_y * width + near_x);
                                        }));
        if (n == 0 && pass == 2) {
          level.store(picture, plane, y, x, known, value);
        } else {
          values.store(to + i, value);
        }
      }
      block_barrier();  // the pass is done
      const int before = from;
      from = to;
      to = before;
    }
  }
}

// Grid: planes * level.tiles(kPushTile) blocks of kPushThreads threads.
PATCHSWAP_KERNEL(kPushThreads)
push_level(const FillPicture picture, const FillLevel level, const FillLevel above) {
  const Shared<float> wide = shared_memory<float>(0, kPushWide * kPushWide);
  const Shared<float> once = shared_memory<float>(kPushWide * kPushWide * 4, kPushOnce * kPushOnce);
  const Shared<int> votes = shared_memory<int>(kPushNumbers * 4, kPushThreads / kWarp);
  const int64_t tiles = level.tiles(kPushTile), plane = block_index() / tiles;
  const int tile = static_cast<int>(block_index() % tiles), along = level.tiles_along(kPushTile);
  const int top = tile / along * kPushTile, left = tile % along * kPushTile;

  // Calls work(y, x, place) for the cells of the map in this tile with a rim of `rim` cells, numbered row by row.
  const auto for_cells = [&](int rim, const auto& work) {
    const int side = kPushTile + 2 * rim;
#pragma unroll 1
    for (int i = thread_index(); i < side * side; i += kPushThreads) {
      const int y = top - rim + i / side, x = left - rim + i % side;
      if (y >= 0 && y < level.height && x >= 0 && x < level.width) work(y, x, i);
    }
  };

  bool lacks = false;
  for_cells(0, [&](int y, int x, int) { lacks |= level.cell(picture, plane, y, x).weight < 1; });
  const bool warp_lacks = any_lane(lacks);
  if (thread_index() % kWarp == 0) votes.store(thread_index() / kWarp, warp_lacks);
  block_barrier();  // all have voted
  bool block_lacks = false;
  for (int warp = 0; warp < kPushThreads / kWarp; warp++) block_lacks |= votes.load(warp) != 0;
  if (!block_lacks) {
    for_cells(0, [&](int y, int x, int) {
      const FillCell known = level.cell(picture, plane, y, x);
      level.store(picture, plane, y, x, known, known.total);
    });
    return;
  }

  const float* filled = above.filled + plane * above.cells();
  for_cells(2, [&](int y, int x, int place) {
    const float value = interpolate(y, x, level.height, level.width, [&](int above_y, int above_x) {
      return filled[static_cast<int64_t>(above_y) * above.width + above_x];
    });
    wide.store(place, complete(level.cell(picture, plane, y, x), value));
  });
  block_barrier();  // interpolated
  for_cells(1, [&](int y, int x, int place) {
    const float value = mean_around(y, x, level.height, level.width, [&](int near_y, int near_x) {
      return wide.load((near_y - top + 2) * kPushWide + near_x - left + 2);
    });
    once.store(place, complete(level.cell(picture, plane, y, x), value));
  });
  block_barrier();  // smoothed once
  for_cells(0, [&](int y, int x, int) {
    const FillCell known = level.cell(picture, plane, y, x);
    const float value = mean_around(y, x, level.height, level.width, [&](int near_y, int near_x) {
      return once.load((near_y - top + 1) * kPushOnce + near_x - left + 1);
    });
    level.store(picture, plane, y, x, known, complete(known, value));
  });
}

}  // namespace patchswap
