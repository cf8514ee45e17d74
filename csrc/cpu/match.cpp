// match on the CPU: each sample's maps, checked, and the search that suits them.

#include <limits>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

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
                    int64_t rows, int64_t columns, int64_t patch_size, Metric metric,
                    const std::optional<Tensor>& weight) {
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
          .index_column_stride = 1,
          .metric = metric,
          .weight = weight ? weight->const_data_ptr<Accumulate<Element>>() + sample * rows * columns : nullptr};
}

template <class Element>
void check_weight(const Map<Element>& key) {
  if (!key.weight) return;
  for (int64_t i = 0; i < key.rows * key.columns; i++) {
    if (key.weight[i] >= 0 && key.weight[i] <= std::numeric_limits<Accumulate<Element>>::max()) continue;
    std::ostringstream text;
    text << "patchswap.match: key_weight must be finite and 0 or more; got " << number_text(key.weight[i]);
    throw std::runtime_error(text.str());
  }
}

// The search of one sample. The reason tells the sizes that decide.
template <class Sum, class Element>
KernelChoice choose(const MatchCall& call, const Map<Element>& query, const Map<Element>& key) {
  if (call.method == "pruned" && std::is_same_v<Sum, double>) {
    throw std::runtime_error("patchswap.match: method \"pruned\" needs float32, bfloat16 or float16; got float64");
  }
  const std::string obstacle = metric_obstacle(call);
  if (call.method == "pruned" && !obstacle.empty()) {
    throw std::runtime_error("patchswap.match: method \"pruned\" takes metric \"ncc\" without key_weight; " + obstacle);
  }
  if (call.method != "auto") return {call.method, "the method asked for"};
  if (std::is_same_v<Sum, double>) return {"dense", "bounds are for features of up to 32 bits, these are float64"};
  if (!obstacle.empty()) return {"dense", "bounds are for metric \"ncc\" without key_weight, and " + obstacle};
  const std::string work = std::to_string(query.patches_taking_part()) + " queries x " +
                           std::to_string(key.patches_taking_part()) + " keys x " + std::to_string(query.channels) +
                           " channels, where bounds that rule out keys ";
  if (!pruning_may_pay(query, key)) return {"dense", work + "are not expected to pay for themselves"};
  return {"pruned", work +
                        "may pay for themselves; where a sample or the search itself tells that they do not, the dense "
                        "search takes over"};
}

template <class Sum, class Element>
void match_sample(const MatchCall& call, const Map<Element>& query, const Map<Element>& key, int64_t sample) {
  check_finite<Sum>(query);
  if (!is_same_map(call.query, call.key)) check_finite<Sum>(key);
  check_weight(key);
  const int64_t queries = query.rows * query.columns;
  const Best<Sum> found{
      .topk = call.topk,
      .query_stride = 1,
      .rank_stride = queries,
      .score = call.score.mutable_data_ptr<Sum>() + sample * call.topk * queries,
      .index = call.index.mutable_data_ptr<int64_t>() + sample * call.topk * queries,
      .ranking = call.ranking ? call.ranking->mutable_data_ptr<Sum>() + sample * call.topk * queries : nullptr};
  const KernelChoice choice = choose<Sum>(call, query, key);
  log_choice(call, choice);
  if constexpr (std::is_same_v<Sum, float>) {
    if (choice.kernel == "pruned") {
      const auto [resolved, left] = search_pruned(query, key, found, call.method == "pruned");
      int64_t* tally = call.tally.mutable_data_ptr<int64_t>();
      tally[0] += resolved;
      tally[1] += left;
      return;
    }
  }
  search_all<Sum>(query, key, found);
}

// Calls work(query, key, sample) with the maps of each sample.
template <class Work>
void for_each_sample(const MatchCall& call, const Work& work) {
  with_element_type(call.query.scalar_type(), [&](auto element) {
    using Element = decltype(element);
    for (int64_t sample = 0; sample < call.batch; sample++) {
      const auto query = map_of<Element>("query", call.query, call.query_mask, sample, call.query_rows,
                                         call.query_columns, call.patch_size, call.metric, std::nullopt);
      const auto key = map_of<Element>("key", call.key, call.key_mask, sample, call.key_rows, call.key_columns,
                                       call.patch_size, call.metric, call.key_weight);
      const auto [arranged_query, arranged_key] = arrange(query, key, call.whole_height);
      work(arranged_query, arranged_key, sample);
    }
  });
}

}  // namespace

std::vector<KernelChoice> choose_cpu(const MatchCall& call) {
  std::vector<KernelChoice> choices;
  for_each_sample(call, [&]<class Element>(const Map<Element>& query, const Map<Element>& key, int64_t) {
    choices.push_back(choose<Accumulate<Element>>(call, query, key));
  });
  return choices;
}

void match_cpu(const MatchCall& call) {
  for_each_sample(call, [&]<class Element>(const Map<Element>& query, const Map<Element>& key, int64_t sample) {
    match_sample<Accumulate<Element>>(call, query, key, sample);
  });
}

}  // namespace patchswap
