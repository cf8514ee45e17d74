// The pruned search: visits diagonals and lists the pairs that the bound does not rule out.

template <int P, bool IsSeeding>
struct PrunedVisitor {
  using Products = CoarseProducts;
  using Lanes = Registers<float>;
  static constexpr int kLanes = Lanes::kLanes;

  const PrunedTask& task;

  bool wants(int64_t y, int64_t x) const {
    const int64_t query = y * task.query.words.slots + x;
    return task.query.weight[query] > 0 && task.worker.threshold[query] < kInfinity && !task.effort.has_stopped();
  }

  void visit(int64_t y, int64_t x, int64_t v, const int32_t* const (&summed)[P]) const {
    PrunedWorker& worker = task.worker;
    const int64_t slots = task.key.words.slots, query = y * task.query.words.slots + x;
    const float *factor = task.key.factor + v * slots, *key_weight = task.key.weight + v * slots;
    // A coarse score takes the weight only to leave out keys of weight -inf.
    const float weight = IsSeeding ? 1e-30f : task.query.weight[query];
    const float threshold = IsSeeding ? worker.lower_bounds.worst(query) : worker.threshold[query];
    float* const upper = worker.upper.data();
    int32_t* const coarse = worker.coarse.data();
    Products::Vector passes = {};
    for (int64_t u = 0; u < slots; u += kLanes) {
      Products::Vector total = Products::load(summed[0] + u);
#pragma GCC unroll 8
      for (int dy = 1; dy < P; dy++) total += Products::load(summed[dy] + u);
      const Lanes::Vector bound = __builtin_convertvector(total, Lanes::Vector) * Lanes::load(factor + u) +
                                  weight * Lanes::load(key_weight + u);
      if constexpr (!kTakesQuads) Products::at(coarse + u) = total;
      Lanes::at(upper + u) = bound;
      passes |= ~(bound < threshold);
    }
    worker.visited += slots;
    if (!Products::any(passes)) return;
    if constexpr (IsSeeding) {
      const Best<float>& best = worker.lower_bounds;
      for (int64_t u = 0; u < slots; u++) {
        if (upper[u] > best.worst(query)) best.offer(query, upper[u], v * slots + u);
      }
    } else {
      for (int64_t first = 0; first < slots; first += kLanes) {
        if (!Products::any(~(Lanes::load(upper + first) < threshold))) continue;
        for (int64_t u = first; u < first + kLanes; u++) {
          // "Not less" keeps a pair whose bound overflows to NaN.
          if (!(upper[u] < threshold) && upper[u] != -kInfinity) {
            worker.candidates.push_back(
                {static_cast<int32_t>(query), static_cast<int32_t>(v * slots + u), upper[u], coarse[u]});
          }
        }
      }
      if (worker.candidates.size() >= worker.kept + kMostCandidates) rescore<P>(task);
    }
  }
};

template <int P>
void walk(const PrunedTask& task, int64_t difference) {
  if (task.is_seeding) {
    PrunedVisitor<P, true> visitor{task};
    Walk<CoarseProducts>::diagonal<P>(task.query.words, task.key.words, difference, task.worker.buffers, visitor);
  } else {
    PrunedVisitor<P, false> visitor{task};
    Walk<CoarseProducts>::diagonal<P>(task.query.words, task.key.words, difference, task.worker.buffers, visitor);
  }
}

inline void search_coarsely(int64_t patch_size, const PrunedTask& task, int64_t difference) {
  with_patch_size(patch_size, [&](auto size) { walk<size.value>(task, difference); });
}

inline void resolve_all(int64_t patch_size, const PrunedTask& task) {
  with_patch_size(patch_size, [&](auto size) { resolve<size.value>(task); });
}

inline PrunedKernel pruned_kernel() {
  return {.basis = {.products = {kQueryPanel, Registers<float>::kLanes, &multiply_panels<float>},
                    .precise_products = {kQueryPanel, Registers<double>::kLanes, &multiply_panels<double>},
                    .inner_product = &inner_product,
                    .orthonormalise = &orthonormalise_block},
          .takes_quads = kTakesQuads,
          .add_squares = &add_squares<float, Registers<float>::kLanes>,
          .encode = &encode_row,
          .search = &search_coarsely,
          .resolve = &resolve_all};
}
