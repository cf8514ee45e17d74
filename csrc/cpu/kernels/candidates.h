// Candidates of the pruned search, from the coarse bound to the ranking.

// Where the patches of a candidate begin: rows and slots of their tiles.
struct PatchPair {
  int64_t query_row, query_slot, key_row, key_slot;

  PatchPair(const PrunedTask& task, const Candidate& candidate)
      : query_row(candidate.query / task.query.words.slots),
        query_slot(candidate.query % task.query.words.slots),
        key_row(candidate.key / task.key.words.slots),
        key_slot(candidate.key % task.key.words.slots) {}
};

// A bound on a pair's ranking that is tighter than the walk's: with the trailing integers that are stored separately.
template <int P>
float refine(const PrunedTask& task, const Candidate& candidate) {
  const CoarseTile &query = task.query, &key = task.key;
  const PatchPair pair(task, candidate);
  const int64_t count = task.settings.separate_count;
  int32_t sum = 0;
  for (int64_t dy = 0; dy < P; dy++) {
    const int64_t query_slot = query.words.tile->slot(dy, pair.query_row, pair.query_slot);
    const int64_t key_slot = key.words.tile->slot(dy, pair.key_row, pair.key_slot);
    const int64_t query_cell = (pair.query_row + dy) * query.words.slots + query_slot;
    const int64_t key_cell = (pair.key_row + dy) * key.words.slots + key_slot;
    sum += CoarseProducts::product_of_bytes(query.separate + query_cell * count, key.separate + key_cell * count,
                                            P * count);
  }
  return static_cast<float>(candidate.coarse + sum) * key.factor[candidate.key] +
         query.refined_weight[candidate.query] * key.refined_weight[candidate.key];
}

// Scores the candidates in float32, in any order of summation. Those that may still be among the best are kept, with
// `upper` now above their ranking by no more than rounding. Thresholds rise to the lower bounds of rankings.
template <int P>
void rescore(const PrunedTask& task) {
  const PrunedSettings& settings = task.settings;
  PrunedWorker& worker = task.worker;
  size_t& kept = worker.kept;
  Effort& effort = task.effort;
  effort.visited += std::exchange(worker.visited, 0);
  int64_t refined = 0, scored = 0;  // not yet reported
  for (size_t i = kept; i < worker.candidates.size(); i++) {
    const Candidate candidate = worker.candidates[i];
    float& threshold = worker.threshold[candidate.query];
    if (candidate.upper < threshold) continue;
    if (candidate.upper < kInfinity) {  // no seed
      if (refined + scored >= kReportedTogether) {
        effort.refined += std::exchange(refined, 0);
        effort.scored += std::exchange(scored, 0);
        effort.stop_if_hopeless();
        if (effort.has_stopped()) {
          kept = 0;
          break;
        }
      }
      if (settings.separate_count > 0) {
        refined++;
        if (refine<P>(task, candidate) < threshold) continue;
      }
      scored++;
    }
    if (++worker.scored[candidate.query] > settings.most_scored) {
      threshold = kInfinity;
      continue;
    }
    const PatchPair pair(task, candidate);
    const float product = fast_product<P>(task.query.cells, pair.query_row, pair.query_slot, task.key.cells,
                                          pair.key_row, pair.key_slot, settings.channels);
    const double ranking = static_cast<double>(product) * task.key.scale[candidate.key] / settings.query_step;
    const double slack = settings.rescore_rounding * task.query.norm[candidate.query] / settings.query_step;
    const float upper = static_cast<float>(ranking + slack), lower = static_cast<float>(ranking - slack);
    if (upper < threshold) continue;
    worker.lower_bounds.offer(candidate.query, lower, candidate.key);
    threshold = std::max(threshold, worker.lower_bounds.worst(candidate.query));
    worker.candidates[kept++] = {candidate.query, candidate.key, upper};
  }
  effort.refined += refined;
  effort.scored += scored;
  if (kept > kMostCandidates) {  // too many near-ties: the dense search takes these queries
    for (size_t i = 0; i < kept; i++) {
      const int32_t query = worker.candidates[i].query;
      worker.threshold[query] = kInfinity;
      worker.scored[query] = static_cast<int32_t>(settings.most_scored + 1);
    }
    kept = 0;
  }
  worker.candidates.resize(kept);
}

// Rankings, as the dense search would have them, of the candidates that are left.
template <int P>
void resolve(const PrunedTask& task) {
  rescore<P>(task);
  PrunedWorker& worker = task.worker;
  for (const Candidate& candidate : worker.candidates) {
    if (candidate.upper < worker.threshold[candidate.query]) continue;
    const PatchPair pair(task, candidate);
    const float ranking =
        dense_ranking<P>(task.query.cells, pair.query_row, pair.query_slot, task.key.cells, pair.key_row, pair.key_slot,
                         task.settings.channels, task.key.scale[candidate.key]);
    worker.resolved.push_back({candidate.query, task.key.words.tile->patch[candidate.key], ranking});
  }
  worker.candidates.clear();
  worker.kept = 0;
}
