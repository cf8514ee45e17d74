// fill_smoothly on the CPU.
//
// The levels end where no cell lacks anything, or at one cell. Pull: threads take rows of the next level, all channels
// of them. Push: threads take strips of rows of one channel and go through them row by row, with the last three rows of
// what is interpolated and of what is smoothed once, so that all of it stays in the cache. What a row of a level
// computes lies between its first and its last lacking cell, or those of its neighbours: the work goes with the hole.

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "../ops.h"
#include "buffer.h"
#include "grain.h"

namespace patchswap {
namespace {

constexpr int64_t kStripRows = 32;        // each strip computes up to four rows of its neighbours once more
constexpr float kSmallestWeight = 1e-8f;  // by which totals are divided

// Columns of a row; none where begin >= end.
struct Span {
  int64_t begin, end;

  bool empty() const { return begin >= end; }
  // With `reach` more columns on either side, of a row of `width`.
  Span widened(int64_t reach, int64_t width) const {
    return empty() ? Span{0, 0} : Span{std::max<int64_t>(begin - reach, 0), std::min(end + reach, width)};
  }
};

// One level: how much is known of each cell (weight, 0 to 1), its value times this weight (total), and what the push
// makes of it. At level 0 these are the picture and the hole themselves, and no numbers are kept here.
struct Level {
  int64_t height, width;
  Buffer<float> total, filled;  // [B][C][height][width]
  Buffer<float> weight;         // [B][height][width]
  std::vector<Span> lacking;    // [B][height] from the first cell whose weight is below 1 to the last

  Span lacking_around(int64_t sample, int64_t y, int64_t reach) const {
    Span hull{width, 0};
    for (int64_t row = std::max<int64_t>(y - reach, 0); row < std::min(y + reach + 1, height); row++) {
      const Span& span = lacking[sample * height + row];
      if (!span.empty()) hull = {std::min(hull.begin, span.begin), std::max(hull.end, span.end)};
    }
    return hull.widened(reach, width);
  }
  bool lacks() const {
    return std::any_of(lacking.begin(), lacking.end(), [](const Span& span) { return !span.empty(); });
  }
};

// (B, C, H, W) of any strides.
template <class Number>
struct Picture {
  Number* data;
  std::array<int64_t, 4> strides;

  Number* row(int64_t sample, int64_t channel, int64_t y) const {
    return data + sample * strides[0] + channel * strides[1] + y * strides[2];
  }
};

struct Fill {
  int64_t batch, channels;
  Picture<const float> image;
  Picture<float> result;
  const bool* hole;  // [B][H][W]
  std::vector<Level> levels;
};

// Loads of level 0, where what lies in the hole is not looked at. A constant stride of 1 lets the compiler use vectors.
template <class Store>
void known_values(const float* row, int64_t stride, const bool* hole, Span span, const Store& store) {
  if (stride == 1) {
    for (int64_t x = span.begin; x < span.end; x++) {
      const float value = row[x];
      store(x, hole[x] ? 0.0f : value);
    }
  } else {
    for (int64_t x = span.begin; x < span.end; x++) {
      const float value = row[x * stride];
      store(x, hole[x] ? 0.0f : value);
    }
  }
}

Span lacking_pixels(const bool* hole, int64_t width) {
  const void* first = std::memchr(hole, true, width);
  if (first == nullptr) return {0, 0};
  int64_t end = width;
  while (!hole[end - 1]) end--;
  return {static_cast<const bool*>(first) - hole, end};
}

Span lacking_cells(const float* weight, int64_t width) {
  const float* first = std::find_if(weight, weight + width, [](float known) { return known < 1; });
  if (first == weight + width) return {0, 0};
  int64_t end = width;
  while (!(weight[end - 1] < 1)) end--;
  return {first - weight, end};
}

// ---- pull

// One row of the level above, in all channels. Where a size is odd the last row or column counts twice, which leaves
// the mean as it is.
void pull_row(const Fill& fill, const Level& below, bool is_picture, Level& level, int64_t item, float* memory) {
  const int64_t sample = item / level.height, y = item % level.height;
  const int64_t rows[] = {2 * y, std::min(2 * y + 1, below.height - 1)};
  float* const sums = memory;                       // of two rows, one more at the end
  float* const factors = memory + below.width + 1;  // from the sum of four totals to the total above
  const auto repeat_last = [&] { sums[below.width] = sums[below.width - 1]; };
  const Span all{0, below.width};

  float* weight = level.weight.get() + item * level.width;
  if (is_picture) {
    const bool* hole[2];
    for (int i = 0; i < 2; i++) hole[i] = fill.hole + (sample * below.height + rows[i]) * below.width;
    for (int64_t x = 0; x < below.width; x++) sums[x] = static_cast<float>(2 - hole[0][x] - hole[1][x]);
  } else {
    const float* known[2];
    for (int i = 0; i < 2; i++) known[i] = below.weight.get() + (sample * below.height + rows[i]) * below.width;
    for (int64_t x = 0; x < below.width; x++) sums[x] = known[0][x] + known[1][x];
  }
  repeat_last();
  for (int64_t x = 0; x < level.width; x++) {
    const float mean = (sums[2 * x] + sums[2 * x + 1]) * 0.25f;
    weight[x] = std::min(2 * mean, 1.0f);  // half of a cell's pixels are as good as all of them
    factors[x] = 0.25f * weight[x] / std::max(mean, kSmallestWeight);
  }
  level.lacking[item] = lacking_cells(weight, level.width);

  for (int64_t channel = 0; channel < fill.channels; channel++) {
    const int64_t plane = sample * fill.channels + channel;
    if (is_picture) {
      const bool* hole = fill.hole + sample * below.height * below.width;
      known_values(fill.image.row(sample, channel, rows[0]), fill.image.strides[3], hole + rows[0] * below.width, all,
                   [&](int64_t x, float value) { sums[x] = value; });
      known_values(fill.image.row(sample, channel, rows[1]), fill.image.strides[3], hole + rows[1] * below.width, all,
                   [&](int64_t x, float value) { sums[x] += value; });
    } else {
      const float* total = below.total.get() + plane * below.height * below.width;
      for (int64_t x = 0; x < below.width; x++) {
        sums[x] = total[rows[0] * below.width + x] + total[rows[1] * below.width + x];
      }
    }
    repeat_last();
    float* total = level.total.get() + (plane * level.height + y) * level.width;
    for (int64_t x = 0; x < level.width; x++) total[x] = (sums[2 * x] + sums[2 * x + 1]) * factors[x];
  }
}

void pull(Fill& fill) {
  const auto is_one_cell = [](const Level& level) { return level.height == 1 && level.width == 1; };
  while (fill.levels.back().lacks() && (fill.levels.size() == 1 || !is_one_cell(fill.levels.back()))) {
    const Level& last = fill.levels.back();
    const int64_t height = divide_up(last.height, 2), width = divide_up(last.width, 2);
    const int64_t rows = fill.batch * height, numbers = rows * width;
    fill.levels.push_back({height, width, Buffer<float>(numbers * fill.channels),
                           Buffer<float>(numbers * fill.channels), Buffer<float>(numbers), std::vector<Span>(rows)});
    const bool is_picture = fill.levels.size() == 2;
    const Level& below = fill.levels[fill.levels.size() - 2];
    const int64_t operations = 4 * below.width * (fill.channels + 1);
    torch::stable::parallel_for(0, rows, grain_size(operations), [&](int64_t begin, int64_t end) {
      const Buffer<float> memory(below.width + 1 + width);
      for (int64_t item = begin; item < end; item++) {
        pull_row(fill, below, is_picture, fill.levels.back(), item, memory.get());
      }
    });
  }
}

// ---- push

// Where the cells of a level lie in the level above, along one axis: between cells `first` and `first` + 1, the
// second's share being `share`. Centres of cells correspond: cell i lies at (i + 1/2) ceil(size / 2) / size - 1/2,
// which is i / 2 - 1/4 where the size is even, and (2 i + 1) / (4 size) further on where it is odd.
struct Places {
  std::vector<int32_t> first;
  std::vector<float> share;

  explicit Places(int64_t size) : first(size), share(size) {
    for (int64_t i = 0; i < size; i++) {
      const float further = size % 2 == 0 ? 0.0f : static_cast<float>(2 * i + 1) / static_cast<float>(4 * size);
      const float place = (i % 2 == 0 ? -0.25f : 0.25f) + further;  // from cell i / 2
      const bool is_before = place < 0;
      first[i] = static_cast<int32_t>(std::max<int64_t>(i / 2 - is_before, 0));
      share[i] = !is_before ? place : i == 0 ? 0.0f : 1 + place;
    }
  }
};

// total + (1 - weight) * the mean of the 3 x 3 cells around, in three rows; beyond the border the outermost count.
void smooth(const float* const (&rows)[3], const float* total, const float* weight, Span span, int64_t width,
            float* sums, float* to) {
  const Span seen = span.widened(1, width);
  for (int64_t x = seen.begin; x < seen.end; x++) sums[x + 1] = rows[0][x] + rows[1][x] + rows[2][x];
  if (span.begin == 0) sums[0] = sums[1];
  if (span.end == width) sums[width + 1] = sums[width];
  for (int64_t x = span.begin; x < span.end; x++) {
    to[x] = total[x] + (1 - weight[x]) * ((sums[x] + sums[x + 1] + sums[x + 2]) * (1.0f / 9));
  }
}

// A strip of rows of one channel, going down. A row of the level is interpolated, the one before it smoothed, the one
// before that smoothed again and put into its place.
class Strip {
 public:
  Strip(const Fill& fill, size_t number, const Places& rows, const Places& columns)
      : fill_(fill),
        level_(fill.levels[number]),
        above_(fill.levels[number + 1]),
        is_picture_(number == 0),
        rows_(rows),
        columns_(columns),
        pitch_(level_.width + 2),
        memory_(kRowsInMemory * pitch_) {}

  void run(int64_t sample, int64_t channel, int64_t first, int64_t end) {
    sample_ = sample;
    channel_ = channel;
    plane_ = sample * fill_.channels + channel;
    for (int64_t y = std::max<int64_t>(first - 2, 0); y < end + 2; y++) {
      if (y < level_.height) interpolate(y);
      if (y >= 1 && y - 1 >= first - 1 && y - 1 < std::min(end + 1, level_.height)) smooth_once(y - 1);
      if (y - 2 >= first) finish(y - 2);
    }
  }

 private:
  static constexpr int64_t kRowsInMemory = 3 * 4 + 2;

  float* memory(int64_t row) { return memory_.get() + row * pitch_; }
  float* interpolated(int64_t y) { return memory(y % 3); }
  float* smoothed(int64_t y) { return memory(3 + y % 3); }
  float* sums() { return memory(12); }
  float* scratch() { return memory(13); }

  // Rows y - 1, y and y + 1 of those that `row` gives.
  template <class Row>
  void smooth_row(const Row& row, int64_t y, Span span, float* to) {
    const float* const rows[] = {row(std::max<int64_t>(y - 1, 0)), row(y), row(std::min(y + 1, level_.height - 1))};
    smooth(rows, total_[y % 3], weight_[y % 3], span, level_.width, sums(), to);
  }

  // Sets total_ and weight_ for this row, where they are looked at.
  void find_numbers(int64_t y, Span span) {
    const int64_t sample_row = sample_ * level_.height + y;
    if (!is_picture_) {
      total_[y % 3] = level_.total.get() + (plane_ * level_.height + y) * level_.width;
      weight_[y % 3] = level_.weight.get() + sample_row * level_.width;
      return;
    }
    float* const total = memory(6 + y % 3);
    float* const weight = memory(9 + y % 3);
    const bool* hole = fill_.hole + sample_row * level_.width;
    known_values(fill_.image.row(sample_, channel_, y), fill_.image.strides[3], hole, span,
                 [&](int64_t x, float value) { total[x] = value; });
    for (int64_t x = span.begin; x < span.end; x++) weight[x] = hole[x] ? 0.0f : 1.0f;
    total_[y % 3] = total;
    weight_[y % 3] = weight;
  }

  void interpolate(int64_t y) {
    const Span span = level_.lacking_around(sample_, y, 2);
    find_numbers(y, span);
    if (span.empty()) return;
    const int64_t width = above_.width, first = rows_.first[y];
    const float* upper = above_.filled.get() + (plane_ * above_.height + first) * width;
    const float* lower = first + 1 < above_.height ? upper + width : upper;
    const float share = rows_.share[y];
    float* const row = scratch();
    const int64_t end = std::min<int64_t>(columns_.first[span.end - 1] + 2, width);
    for (int64_t x = columns_.first[span.begin]; x < end; x++) row[x] = upper[x] * (1 - share) + lower[x] * share;
    if (end == width) row[width] = row[width - 1];
    const float* const total = total_[y % 3];
    const float* const weight = weight_[y % 3];
    float* const to = interpolated(y);
    for (int64_t x = span.begin; x < span.end; x++) {
      const float* const left = row + columns_.first[x];
      to[x] = total[x] + (1 - weight[x]) * (left[0] * (1 - columns_.share[x]) + left[1] * columns_.share[x]);
    }
  }

  void smooth_once(int64_t y) {
    const Span span = level_.lacking_around(sample_, y, 1);
    if (!span.empty()) smooth_row([&](int64_t row) { return interpolated(row); }, y, span, smoothed(y));
  }

  void finish(int64_t y) {
    const Span span = level_.lacking_around(sample_, y, 0);
    const auto from = [&](int64_t row) { return smoothed(row); };
    if (!is_picture_) {
      float* const filled = level_.filled.get() + (plane_ * level_.height + y) * level_.width;
      std::copy_n(total_[y % 3], level_.width, filled);
      if (!span.empty()) smooth_row(from, y, span, filled);
    } else if (!span.empty()) {
      smooth_row(from, y, span, scratch());
      const bool* hole = fill_.hole + (sample_ * level_.height + y) * level_.width;
      float* const result = fill_.result.row(sample_, channel_, y);
      for (int64_t x = span.begin; x < span.end; x++) {
        if (hole[x]) result[x * fill_.result.strides[3]] = scratch()[x];
      }
    }
  }

  const Fill& fill_;
  const Level& level_;
  const Level& above_;
  const bool is_picture_;
  const Places& rows_;
  const Places& columns_;
  const int64_t pitch_;
  const Buffer<float> memory_;
  int64_t sample_ = 0, channel_ = 0, plane_ = 0;
  const float* total_[3] = {};
  const float* weight_[3] = {};
};

void push(Fill& fill) {
  Level& top = fill.levels.back();
  const int64_t planes = fill.batch * fill.channels;
  if (top.lacks()) {  // then it is one cell
    for (int64_t plane = 0; plane < planes; plane++) {
      const float weight = top.weight.get()[plane / fill.channels];
      top.filled.get()[plane] = top.total.get()[plane] / std::max(weight, kSmallestWeight);
    }
  } else {
    std::swap(top.total, top.filled);
  }
  for (size_t number = fill.levels.size() - 1; number-- > 0;) {
    const Level& level = fill.levels[number];
    const Places rows(level.height), columns(level.width);
    const int64_t strips = divide_up(level.height, kStripRows);
    int64_t operations = number == 0 ? 0 : planes * level.height * level.width;
    for (const Span& span : level.lacking) operations += (span.end - span.begin) * fill.channels * 20;
    share_items(planes * strips, operations, [&](int64_t item) {
      const int64_t plane = item / strips, first = item % strips * kStripRows;
      Strip(fill, number, rows, columns)
          .run(plane / fill.channels, plane % fill.channels, first, std::min(first + kStripRows, level.height));
    });
  }
}

template <class Number>
Picture<Number> picture_of(const Tensor& tensor, Number* data) {
  return {data, {tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)}};
}

}  // namespace

void fill_smoothly_cpu(const FillCall& call) {
  if (call.result.numel() == 0) return;
  Fill fill{.batch = call.image.size(0),
            .channels = call.image.size(1),
            .image = picture_of(call.image, call.image.const_data_ptr<float>()),
            .result = picture_of(call.result, call.result.mutable_data_ptr<float>()),
            .hole = call.hole.const_data_ptr<bool>(),
            .levels = {}};
  const int64_t height = call.image.size(2), width = call.image.size(3), rows = fill.batch * height;
  fill.levels.push_back({height, width, Buffer<float>(), Buffer<float>(), Buffer<float>(), std::vector<Span>(rows)});
  std::vector<Span>& lacking = fill.levels[0].lacking;
  torch::stable::parallel_for(0, rows, grain_size(width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) lacking[row] = lacking_pixels(fill.hole + row * width, width);
  });
  if (!fill.levels[0].lacks()) return;
  pull(fill);
  push(fill);
}

}  // namespace patchswap
