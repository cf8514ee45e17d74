// The dense search: visits diagonals and offers each query its best keys by the ranking of metric.h.

// Adds the squares of each slot's numbers, of a packed row in panels of Width.
template <class Sum, int Width>
void add_squares(const Sum* row, int64_t slots, int64_t channels, double* squares) {
  for (int64_t slot = 0; slot < slots; slot += Width, squares += Width) {
    double sum[Width] = {};
    for (int64_t channel = 0; channel < channels; channel++, row += Width) {
      for (int i = 0; i < Width; i++) sum[i] += static_cast<double>(row[i]) * row[i];
    }
    for (int i = 0; i < Width; i++) squares[i] += sum[i];
  }
}

template <class Sum, int P>
struct DenseVisitor {
  using Rows = Walk<FullProducts<Sum>>;
  using Vector = typename Rows::Vector;
  static constexpr int kLanes = Rows::kLanes;
  static constexpr Sum kNone = -std::numeric_limits<Sum>::infinity();

  const DenseTask<Sum>& task;

  bool wants(int64_t y, int64_t x) const { return task.query_bias[y * task.query.slots + x] != kNone; }

  void visit(int64_t y, int64_t x, int64_t v, const Sum* const (&summed)[P]) const {
    const int64_t slots = task.key.slots, query = y * task.query.slots + x;
    const Sum *scale = task.key_scale + v * slots, *bias = task.key_bias + v * slots;
    const Sum query_bias = task.query_bias[query];
    Sum* ranking = task.ranking;
    Vector highest = Vector{} + kNone;
    for (int64_t u = 0; u < slots; u += kLanes) {
      Vector total = Rows::load(summed[0] + u);
#pragma GCC unroll 8
      for (int dy = 1; dy < P; dy++) total += Rows::load(summed[dy] + u);
      total = (total + query_bias) * Rows::load(scale + u) + Rows::load(bias + u);
      Rows::at(ranking + u) = total;
      highest = total > highest ? total : highest;
    }
    Sum best = highest[0];
    for (int lane = 1; lane < kLanes; lane++) best = highest[lane] > best ? highest[lane] : best;
    // Equal to the worst kept score may still win by a lower index, which offer() decides.
    if (best < task.best.worst(query) || best == kNone) return;
    for (int64_t u = 0; u < slots; u++) {
      if (ranking[u] >= task.best.worst(query) && ranking[u] != kNone) {
        task.best.offer(query, ranking[u], task.key.tile->patch[v * slots + u]);
      }
    }
  }
};

template <class Sum>
void search_dense(int64_t patch_size, const DenseTask<Sum>& task, int64_t difference) {
  with_patch_size(patch_size, [&](auto size) {
    DenseVisitor<Sum, size.value> visitor{task};
    Walk<FullProducts<Sum>>::template diagonal<size.value>(task.query, task.key, difference, task.buffers, visitor);
  });
}

template <class Sum>
DenseKernel<Sum> dense_kernel() {
  constexpr int kLanes = Registers<Sum>::kLanes;
  return {{kQueryPanel, &add_squares<Sum, kQueryPanel>}, {kLanes, &add_squares<Sum, kLanes>}, &search_dense<Sum>};
}
