// A bound on a pair's ranking that is tighter than the walk's: with the numbers that are kept apart.
template <int P>
float refine(const PrunedTask& task, const Candidate& candidate) {
  const int64_t y = candidate.query / task.query.slots, x = candidate.query % task.query.slots;
  const int64_t v = candidate.key / task.key.slots, u = candidate.key % task.key.slots;
  int32_t sum = 0;
  for (int64_t dy = 0; dy < P; dy++) {
    const int64_t query_cell = (y + dy) * task.query.slots + task.query.tile->slot(dy, y, x);
    const int64_t key_cell = (v + dy) * task.key.slots + task.key.tile->slot(dy, v, u);
    sum += CoarseProducts::product_of_bytes(task.query_apart + query_cell * task.kept_apart,
                                            task.key_apart + key_cell * task.kept_apart, P * task.kept_apart);
  }
  return static_cast<float>(candidate.coarse + sum) * task.key_factor[candidate.key] +
         task.query_refined[candidate.query] * task.key_refined[candidate.key];
}

// Scores the candidates in float32, in any order of summation. Those that may still be among the best are kept, with
// `upper` now above their ranking by no more than rounding; thresholds rise to what their rankings are sure to reach.
template <int P>
void rescore(const PrunedTask& task) {
  size_t& kept = *task.kept;
  Effort& effort = *task.effort;
  effort.visited += std::exchange(*task.visited, 0);
  int64_t refined = 0, scored = 0;  // not yet reported
  for (size_t i = kept; i < task.candidates.size(); i++) {
    const Candidate candidate = task.candidates[i];
    float& threshold = task.threshold[candidate.query];
    if (candidate.upper < threshold) continue;
    if (candidate.upper < kInfinity) {  // no seed
      if (refined + scored >= kReportedTogether) {
        effort.refined += std::exchange(refined, 0);
        effort.scored += std::exchange(scored, 0);
        if (task.is_worthwhile && effort.is_hopeless()) {
          *task.is_worthwhile = false;
          kept = 0;
          break;
        }
      }
      if (task.kept_apart > 0) {
        refined++;
        if (refine<P>(task, candidate) < threshold) continue;
      }
      scored++;
    }
    const int64_t y = candidate.query / task.query.slots, x = candidate.query % task.query.slots;
    const int64_t v = candidate.key / task.key.slots, u = candidate.key % task.key.slots;
    if (++task.spent[candidate.query] > task.most_spent) {
      threshold = kInfinity;
      continue;
    }
    const float product = fast_product<P>(task.query_cells, y, x, task.key_cells, v, u, task.channels);
    const double ranking = static_cast<double>(product) * task.key_scale[candidate.key] / task.to_ranking;
    const double slack = task.rescore_rounding * task.query_norm[candidate.query] / task.to_ranking;
    const float upper = static_cast<float>(ranking + slack), lower = static_cast<float>(ranking - slack);
    if (upper < threshold) continue;
    task.sure->offer(candidate.query, lower, candidate.key);
    threshold = std::max(threshold, task.sure->worst(candidate.query));
    task.candidates[kept++] = {candidate.query, candidate.key, upper};
  }
  effort.refined += refined;
  effort.scored += scored;
  if (kept > kMostCandidates) {  // too many near-ties: these queries are given up
    for (size_t i = 0; i < kept; i++) {
      task.threshold[task.candidates[i].query] = kInfinity;
      task.spent[task.candidates[i].query] = task.most_spent + 1;
    }
    kept = 0;
  }
  task.candidates.resize(kept);
}

// Rankings, as the dense search would have them, of the candidates that are left.
template <int P>
void resolve(const PrunedTask& task) {
  rescore<P>(task);
  for (const Candidate& candidate : task.candidates) {
    if (candidate.upper < task.threshold[candidate.query]) continue;
    const int64_t y = candidate.query / task.query.slots, x = candidate.query % task.query.slots;
    const int64_t v = candidate.key / task.key.slots, u = candidate.key % task.key.slots;
    const float ranking =
        dense_ranking<P>(task.query_cells, y, x, task.key_cells, v, u, task.channels, task.key_scale[candidate.key]);
    task.resolved.push_back({candidate.query, task.key.tile->patch[candidate.key], ranking});
  }
  task.candidates.clear();
  *task.kept = 0;
}
