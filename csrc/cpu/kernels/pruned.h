// The pruned search: visits diagonals and lists the pairs that the bound does not rule out.

template <int P, bool IsSeeding>
struct PrunedVisitor {
  using Products = CoarseProducts;
  using Lanes = Registers<float>;
  static constexpr int kLanes = Lanes::kLanes;

  const PrunedTask& task;

  bool wants(int64_t y, int64_t x) const {
    const int64_t query = y * task.query.slots + x;
    return task.query_weight[query] > 0 && task.threshold[query] < kInfinity &&
           (!task.is_worthwhile || task.is_worthwhile->load(std::memory_order_relaxed));
  }

  void visit(int64_t y, int64_t x, int64_t v, const int32_t* const (&summed)[P]) const {
    const int64_t slots = task.key.slots, query = y * task.query.slots + x;
    const float *factor = task.key_factor + v * slots, *key_weight = task.key_weight + v * slots;
    const float weight = IsSeeding ? 1e-30f : task.query_weight[query];
    const float threshold = IsSeeding ? task.sure->worst(query) : task.threshold[query];
    Products::Vector passes = {};
    for (int64_t u = 0; u < slots; u += kLanes) {
      Products::Vector total = Products::load(summed[0] + u);
#pragma GCC unroll 8
      for (int dy = 1; dy < P; dy++) total += Products::load(summed[dy] + u);
      const Lanes::Vector upper = __builtin_convertvector(total, Lanes::Vector) * Lanes::load(factor + u) +
                                  weight * Lanes::load(key_weight + u);
      if constexpr (!kTakesQuads) Products::at(task.coarse + u) = total;
      Lanes::at(task.upper + u) = upper;
      passes |= ~(upper < threshold);
    }
    *task.visited += slots;
    if (!Products::any(passes)) return;
    if constexpr (IsSeeding) {
      for (int64_t u = 0; u < slots; u++) {
        if (task.upper[u] > task.sure->worst(query)) task.sure->offer(query, task.upper[u], v * slots + u);
      }
    } else {
      for (int64_t first = 0; first < slots; first += kLanes) {
        if (!Products::any(~(Lanes::load(task.upper + first) < threshold))) continue;
        for (int64_t u = first; u < first + kLanes; u++) {
          // Not less rather than greater: should the bound overflow to NaN, the pair stays in.
          if (!(task.upper[u] < threshold) && task.upper[u] != -kInfinity) {
            task.candidates.push_back(
                {static_cast<int32_t>(query), static_cast<int32_t>(v * slots + u), task.upper[u], task.coarse[u]});
          }
        }
      }
      if (task.candidates.size() < *task.kept + kMostCandidates) return;
      rescore<P>(task);
    }
  }
};

template <int P>
void walk(const PrunedTask& task, int64_t difference) {
  if (task.is_seeding) {
    PrunedVisitor<P, true> visitor{task};
    Walk<CoarseProducts>::diagonal<P>(task.query, task.key, difference, task.buffers, visitor);
  } else {
    PrunedVisitor<P, false> visitor{task};
    Walk<CoarseProducts>::diagonal<P>(task.query, task.key, difference, task.buffers, visitor);
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
