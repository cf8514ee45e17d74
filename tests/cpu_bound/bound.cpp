// Checks the pruned CPU search's bound on every pair of patches of two small maps, with the search's own code: axes,
// coarse cells, the walk, the refined bound and the full scores. test_bound.py has the inputs.

#include "cpu/coarse_packer.h"
#include "cpu/plan.h"

// The search that takes quads, as with VNNI, on any machine.
namespace patchswap::plain_quads {
namespace {
constexpr int kVectorBytes = 16, kQueryPanel = 2;
constexpr bool kHasFma = false, kTakesQuads = true;
#include "cpu/kernels/match.h"
}  // namespace
}  // namespace patchswap::plain_quads

namespace patchswap {
namespace {

struct Input {
  const float *query, *key;  // [C][H][W]
  int64_t channels, query_height, query_width, key_height, key_width, patch_size;
  int64_t
      kernel;  // 0: trailing integers stored separately, 1: in the walk, both of 16 bytes; 2 to 4: AVX2, AVX-512, VNNI
  const float* axis;  // [axes][C]; null: all as the search plans it
  int64_t leading, axes;
  double query_step, key_step, leading_balance, trailing_balance;
  bool exact_coordinates;  // they are computed without rounding
};

struct Output {
  int64_t pairs;
  // Pairs whose dense ranking is above the upper bound of the walk, and of the refined bound;
  int64_t above_walk, above_refined;
  // whose coarse score is off by more than the bound; whose score is off the dense ranking by more than is allowed for.
  int64_t off_coarse, off_score;
  // Cells of which an error or a size is larger than the search believes.
  int64_t wrong_cells;
  bool refused;
};

template <class Element>
Map<Element> map_of(const Element* features, int64_t channels, int64_t height, int64_t width, int64_t patch_size) {
  const int64_t rows = height - patch_size + 1, columns = width - patch_size + 1;
  return {.name = "map",
          .features = features,
          .mask = nullptr,
          .channels = channels,
          .height = height,
          .width = width,
          .channel_stride = height * width,
          .row_stride = width,
          .column_stride = 1,
          .rows = rows,
          .columns = columns,
          .patch_size = patch_size,
          .index_row_stride = columns,
          .index_column_stride = 1};
}

struct Variant {
  PrunedKernel kernel;
  bool has_fma;
};

bool find_kernel(int64_t number, Variant& variant) {
  if (number == 0) variant = {generic::pruned_kernel(), false};
  if (number == 1) variant = {plain_quads::pruned_kernel(), false};
#ifdef PATCHSWAP_ALL_VARIANTS
  if (number == 2 && __builtin_cpu_supports("avx2")) variant = {avx2::pruned_kernel(), true};
  if (number == 3 && __builtin_cpu_supports("avx512bw")) variant = {avx512::pruned_kernel(), true};
  if (number == 4 && __builtin_cpu_supports("avx512vnni")) variant = {avx512vnni::pruned_kernel(), true};
#endif
  return variant.kernel.search != nullptr;
}

// The squared norms of what lies off the span of the first axes, by Gram-Schmidt in long double.
class Span {
 public:
  Span(const Basis& basis, int64_t count) : channels_(basis.channels) {
    for (int64_t i = 0; i < count; i++) {
      std::vector<long double> vector(&basis.axis[i * channels_], &basis.axis[i * channels_] + channels_);
      for (int pass = 0; pass < 2; pass++) remove(vector);
      const long double norm = std::sqrt(square(vector));
      for (long double& number : vector) number /= norm;
      vectors_.push_back(vector);
    }
  }
  double square_off(const std::vector<float>& cell) const {
    std::vector<long double> rest(cell.begin(), cell.end());
    for (int pass = 0; pass < 2; pass++) remove(rest);
    return static_cast<double>(square(rest));
  }

 private:
  void remove(std::vector<long double>& vector) const {
    for (const auto& other : vectors_) {
      long double along = 0;
      for (int64_t n = 0; n < channels_; n++) along += vector[n] * other[n];
      for (int64_t n = 0; n < channels_; n++) vector[n] -= along * other[n];
    }
  }
  static long double square(const std::vector<long double>& vector) {
    long double sum = 0;
    for (const long double number : vector) sum += number * number;
    return sum;
  }
  int64_t channels_;
  std::vector<std::vector<long double>> vectors_;
};

// What encode() says of the cells of a map, against the sums themselves.
int64_t count_wrong_cells(const Map<float>& map, const CoarseScheme& scheme, const PrunedKernel& kernel, double step) {
  const Basis& basis = scheme.basis;
  const int64_t channels = map.channels, count = map.height * map.width, slots = round_up(count, kEncodedTogether);
  std::vector<float> cells(slots * channels);
  std::vector<double> squares(slots);
  for (int64_t i = 0; i < count; i++) {
    const std::pair<int64_t, int64_t> cell{i / map.width, i % map.width};
    map.copy_cells(&cell, 1, cells.data() + i * channels);
    for (int64_t n = 0; n < channels; n++)
      squares[i] += static_cast<double>(cells[i * channels + n]) * cells[i * channels + n];
  }
  const ProductKernel<float>& products = kernel.basis.products;
  const PackedRows<float> axes(basis.axis.data(), basis.axes, channels, channels, 1, products.left_panel);
  const PackedRows<float> packed(cells.data(), slots, channels, channels, 1, products.right_panel);
  std::vector<float> coordinates(round_up(basis.axes, kRowsTogether) * slots);
  multiply(products, axes, packed, coordinates.data(), slots, false);
  const int64_t words = scheme.depth().numbers, panel = kernel.key_panel();
  std::vector<int32_t> word(words * slots);
  std::vector<int8_t> separate(slots * scheme.separate_count + 1);
  std::vector<CoarseErrors> errors(slots);
  kernel.encode({.scheme = scheme,
                 .factor = 1 / step,
                 .coordinates = coordinates.data(),
                 .square_norms = squares.data(),
                 .slots = slots,
                 .is_query = true,
                 .panel = panel,
                 .word_slots = slots,
                 .words = word.data(),
                 .separate = separate.data(),
                 .errors = errors.data()});
  const Span leading(basis, basis.leading), all(basis, basis.axes);
  const float factor = static_cast<float>(1 / step);
  int64_t wrong = 0;
  for (int64_t i = 0; i < count; i++) {
    auto word_at = [&](int64_t index) { return word[(i / panel * words + index) * panel + i % panel]; };
    double leading_error = 0, leading_size = 0, trailing_error = 0, trailing_size = 0;
    for (int64_t n = 0; n < basis.axes; n++) {
      const float coordinate = coordinates[n * slots + i];
      if (n < basis.leading) {
        const double number = static_cast<int16_t>(word_at(n / 2) >> n % 2 * 16) / 8.0;
        const double lost = static_cast<double>(coordinate * (factor * 8)) / 8 - number;
        leading_error += lost * lost;
        leading_size += number * number;
      } else {
        const int64_t m = n - basis.leading;
        const double number = scheme.separate_count > 0
                                  ? separate[i * scheme.separate_count + m]
                                  : static_cast<int8_t>(word_at(scheme.pairs + 1 + m / 4) >> m % 4 * 8);
        const double lost = static_cast<double>(coordinate * factor) - number;
        trailing_error += lost * lost;
        trailing_size += number * number;
      }
    }
    const std::vector<float> cell(cells.data() + i * channels, cells.data() + (i + 1) * channels);
    const CoarseErrors& believed = errors[i];
    wrong += !(believed.leading_error >= leading_error) || !(believed.leading_size >= leading_size) ||
             !(believed.trailing_error >= trailing_error) || !(believed.trailing_size >= trailing_size) ||
             !(believed.off_leading >= leading.square_off(cell) / step / step) ||
             !(believed.off_axis >= all.square_off(cell) / step / step);
  }
  return wrong;
}

template <int P>
void check_pair(const PrunedTask& task, const Candidate& pair, double query_step, double key_step, bool takes_quads,
                bool has_fma, Output& output) {
  const CoarseTile &query = task.query, &key = task.key;
  const int64_t y = pair.query / query.words.slots, x = pair.query % query.words.slots;
  const int64_t v = pair.key / key.words.slots, u = pair.key % key.words.slots;
  const int64_t channels = task.settings.channels, separate_count = task.settings.separate_count;
  const float scale = key.scale[pair.key];
#ifdef PATCHSWAP_ALL_VARIANTS
  const auto dense_ranking = has_fma ? &avx2::dense_ranking<P> : &generic::dense_ranking<P>;
#else
  const auto dense_ranking = &generic::dense_ranking<P>;
#endif
  const float ranking = dense_ranking(query.cells, y, x, key.cells, v, u, channels, scale);
  const float threshold = ranking / task.settings.query_step;
  output.pairs++;
  output.above_walk += pair.upper < threshold;
  double exact = 0;
  int64_t trailing = 0;
  for (int dy = 0; dy < P; dy++) {
    const float *left = query.cells.at(y, x, dy), *right = key.cells.at(v, u, dy);
    const int64_t query_cell = (y + dy) * query.words.slots + query.words.tile->slot(dy, y, x);
    const int64_t key_cell = (v + dy) * key.words.slots + key.words.tile->slot(dy, v, u);
    for (int64_t n = 0; n < P * channels; n++) exact += static_cast<double>(left[n]) * right[n];
    for (int64_t n = 0; n < P * separate_count; n++) {
      trailing += query.separate[query_cell * separate_count + n] * key.separate[key_cell * separate_count + n];
    }
  }
  if (!takes_quads) {
    auto is_off = [&](double coarse, double query_weight, double key_weight) {
      const double bound = query_weight * key_weight / key.factor[pair.key] * (1 + 1e-6);
      return std::abs(exact / query_step / key_step - coarse) > bound;
    };
    output.off_coarse += is_off(pair.coarse, query.weight[pair.query], key.weight[pair.key]) ||
                         is_off(static_cast<double>(pair.coarse) + trailing, query.refined_weight[pair.query],
                                key.refined_weight[pair.key]);
    if (separate_count > 0) output.above_refined += generic::refine<P>(task, pair) < threshold;
  }
  const float product = generic::fast_product<P>(query.cells, y, x, key.cells, v, u, channels);
  output.off_score += std::abs(static_cast<double>(product) * scale - ranking) >
                      task.settings.rescore_rounding * query.norm[pair.query];
}

void check(const Input& input, const Variant& variant, Output& output) {
  const PrunedKernel& kernel = variant.kernel;
  const Map<float> query_map =
      map_of(input.query, input.channels, input.query_height, input.query_width, input.patch_size);
  const Map<float> key_map = map_of(input.key, input.channels, input.key_height, input.key_width, input.patch_size);
  CoarsePlan plan{.scheme = {}, .query_step = input.query_step, .key_step = input.key_step};
  CoarseScheme& scheme = plan.scheme;
  if (input.axis) {
    Basis& basis = scheme.basis;
    basis.channels = input.channels;
    basis.leading = input.leading;
    basis.axes = input.axes;
    basis.axis.assign(input.axis, input.axis + input.axes * input.channels);
    basis.deviation = deviation(basis, kernel.basis.precise_products);
    lay_out(scheme, kernel.takes_quads);
    scheme.leading_balance = input.leading_balance;
    scheme.trailing_balance = input.trailing_balance;
    scheme.coordinate_rounding = input.exact_coordinates ? 0 : coordinate_rounding(basis);
    scheme.score_rounding = score_rounding(basis, input.patch_size);
  } else {
    const auto planned = plan_coarse_cells(query_map, query_map.rows * query_map.columns, key_map,
                                           key_map.rows * key_map.columns, 1, kernel, true);
    output.refused = !planned;
    if (output.refused) return;
    plan = *planned;
  }
  output.wrong_cells = count_wrong_cells(query_map, scheme, kernel, plan.query_step) +
                       count_wrong_cells(key_map, scheme, kernel, plan.key_step);

  const std::vector<Outline> queries = cut_compactly(query_map, {kernel.query_panel(), 60, 64});
  const std::vector<Outline> keys = cut_evenly(key_map, {kernel.key_panel(), 128, 64});
  CoarsePacker<float> query_packer(query_map, queries, scheme, kernel, plan.query_step, true);
  CoarsePacker<float> key_packer(key_map, keys, scheme, kernel, plan.key_step, false);
  const CoarseChunk query = query_packer.pack(0, queries.size()), key = key_packer.pack(0, keys.size());
  output.refused = key_packer.too_small();
  if (output.refused) return;

  const PrunedSettings settings{.channels = input.channels,
                                .separate_count = scheme.separate_count,
                                .query_step = static_cast<float>(plan.query_step),
                                .rescore_rounding = rescore_rounding(input.channels, input.patch_size),
                                .most_scored = 0};
  Effort effort({}, 0, true);
  for (size_t q = 0; q < queries.size(); q++) {
    for (size_t k = 0; k < keys.size(); k++) {
      const int64_t query_patches = queries[q].rows * queries[q].slots, key_patches = keys[k].rows * keys[k].slots;
      if (query_patches * key_patches >= static_cast<int64_t>(kMostCandidates)) throw std::runtime_error("too large");
      PrunedWorker worker(queries[q].slots, keys[k].slots, query_patches, input.patch_size, 1);
      std::fill(worker.threshold.begin(), worker.threshold.end(), -kInfinity);
      const PrunedTask task{.query = query.tiles[q],
                            .key = key.tiles[k],
                            .settings = settings,
                            .worker = worker,
                            .effort = effort,
                            .is_seeding = false};
      for (int64_t d = 1 - keys[k].rows; d < queries[q].rows; d++) kernel.search(input.patch_size, task, d);
      for (const Candidate& pair : worker.candidates) {
        if (task.key.scale[pair.key] == 0) continue;  // a key of zero norm
        with_patch_size(input.patch_size, [&](auto size) {
          check_pair<size.value>(task, pair, plan.query_step, plan.key_step, kernel.takes_quads, variant.has_fma,
                                 output);
        });
      }
    }
  }
}

}  // namespace
}  // namespace patchswap

// False where this machine, or this library, does not have the kernel.
extern "C" bool check_bound(const patchswap::Input* input, patchswap::Output* output) {
  patchswap::Variant variant{};
  *output = {};
  if (!patchswap::find_kernel(input->kernel, variant)) return false;
  patchswap::check(*input, variant, *output);
  return true;
}
