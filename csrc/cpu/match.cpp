// match on the CPU: each sample's maps, checked, and the search that suits them.

#include <sstream>
#include <stdexcept>

#include "../dtype.h"
#include "../ops.h"
#include "arrange.h"
#include "dense.h"
#include "map.h"
#include "pruned.h"

namespace patchswap {
namespace {

template <class Element>
Map<Element> map_of(const char* name, const Tensor& features, const std::optional<Tensor>& mask, int64_t sample,
                    int64_t rows, int64_t columns, int64_t patch_size) {
  return {.name = name,
          .features = features.const_data_ptr<Element>() + sample * features.stride(0),
          .mask = mask ? mask->const_data_ptr<bool>() + sample * rows * columns : nullptr,
          .channels = features.size(1),
          .height = features.size(2),
          .width = features.size(3),
          .channel_stride = features.stride(1),
          .row_stride = features.stride(2),
          .column_stride = features.stride(3),
          .rows = rows,
          .columns = columns,
          .patch_size = patch_size,
          .index_row_stride = columns,
          .index_column_stride = 1};
}

template <class Sum, class Element>
void match_sample(const MatchCall& call, const Map<Element>& query, const Map<Element>& key, int64_t sample) {
  check_finite<Sum>(query);
  if (key.features != query.features) check_finite<Sum>(key);
  const int64_t queries = query.rows * query.columns;
  const Best<Sum> found{.topk = call.topk,
                        .query_stride = 1,
                        .rank_stride = queries,
                        .score = call.score.mutable_data_ptr<Sum>() + sample * call.topk * queries,
                        .index = call.index.mutable_data_ptr<int64_t>() + sample * call.topk * queries};
  if constexpr (std::is_same_v<Sum, float>) {
    if (call.method == "pruned" || (call.method == "auto" && pruning_may_pay(query, key))) {
      const auto [resolved, left] = search_pruned(query, key, found, call.method == "pruned");
      int64_t* tally = call.tally.mutable_data_ptr<int64_t>();
      tally[0] += resolved;
      tally[1] += left;
      return;
    }
  }
  search_all<Sum>(query, key, found);
}

}  // namespace

void match_cpu(const MatchCall& call) {
  if (call.method != "auto" && call.method != "dense" && call.method != "pruned") {
    throw std::runtime_error("patchswap.match: method must be \"auto\", \"dense\" or \"pruned\" on the CPU; got \"" +
                             call.method + "\"");
  }
  if (call.method == "pruned" && call.query.scalar_type() == torch::headeronly::ScalarType::Double) {
    throw std::runtime_error("patchswap.match: method \"pruned\" needs float32, bfloat16 or float16; got float64");
  }
  with_element_type(call.query.scalar_type(), [&](auto element) {
    using Element = decltype(element);
    using Sum = Accumulate<Element>;
    for (int64_t sample = 0; sample < call.batch; sample++) {
      const auto query = map_of<Element>("query", call.query, call.query_mask, sample, call.query_rows,
                                         call.query_columns, call.patch_size);
      const auto key =
          map_of<Element>("key", call.key, call.key_mask, sample, call.key_rows, call.key_columns, call.patch_size);
      const auto [arranged_query, arranged_key] = arrange(query, key);
      match_sample<Sum>(call, arranged_query, arranged_key, sample);
    }
  });
}

}  // namespace patchswap
