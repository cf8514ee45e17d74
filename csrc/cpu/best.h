// The best keys of a query so far.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace patchswap {

// A higher score goes first; of equal scores, the lower index. A total order: the order of offers does not matter.
template <class Sum>
bool goes_before(Sum score, int64_t index, Sum other_score, int64_t other_index) {
  return score > other_score || (score == other_score && index < other_index);
}

// `topk` scores and indices for each of many queries, best first. Holds -inf and -1 at first.
template <class Sum>
struct Best {
  int64_t topk;
  int64_t query_stride, rank_stride;  // distance between the entries of two queries, and of two ranks
  Sum* score;
  int64_t* index;
  Sum* ranking = nullptr;  // like score: gets the rankings that become scores, where they are wanted

  void offer(int64_t query, Sum new_score, int64_t new_index) const {
    Sum* scores = score + query * query_stride;
    int64_t* indices = index + query * query_stride;
    int64_t rank = topk;
    while (rank > 0 &&
           goes_before(new_score, new_index, scores[(rank - 1) * rank_stride], indices[(rank - 1) * rank_stride])) {
      rank--;
    }
    if (rank == topk) return;
    for (int64_t i = topk - 1; i > rank; i--) {
      scores[i * rank_stride] = scores[(i - 1) * rank_stride];
      indices[i * rank_stride] = indices[(i - 1) * rank_stride];
    }
    scores[rank * rank_stride] = new_score;
    indices[rank * rank_stride] = new_index;
  }

  // What was offered as the ranking of a query's key becomes its score.
  void to_score(int64_t query, int64_t rank, Sum scale, Sum most = std::numeric_limits<Sum>::infinity()) const {
    const int64_t at = query * query_stride + rank * rank_stride;
    if (ranking) ranking[at] = score[at];
    score[at] = std::min(score[at] * scale, most);
  }

  Sum worst(int64_t query) const { return score[query * query_stride + (topk - 1) * rank_stride]; }
};

}  // namespace patchswap
