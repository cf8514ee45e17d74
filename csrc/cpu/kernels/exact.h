// The full-precision ranking of one pair of patches.

// Inner product of two patches, channels in the lanes of `Lanes`: within rescore_rounding() of the true one.
template <int P>
float fast_product(const CellReader& query, int64_t y, int64_t x, const CellReader& key, int64_t v, int64_t u,
                   int64_t channels) {
  using Lanes = Registers<float>;
  using Vector = Lanes::Vector;
  constexpr int kLanes = Lanes::kLanes, kChains = 4;
  Vector sum[kChains] = {};
  float rest = 0;
  for (int dy = 0; dy < P; dy++) {
    const float *left = query.at(y, x, dy), *right = key.at(v, u, dy);
    for (int dx = 0; dx < P; dx++, left += query.column_stride, right += key.column_stride) {
      int64_t channel = 0;
      for (; channel + kChains * kLanes <= channels; channel += kChains * kLanes) {
#pragma GCC unroll 8
        for (int i = 0; i < kChains; i++) {
          sum[i] += Lanes::load(left + channel + i * kLanes) * Lanes::load(right + channel + i * kLanes);
        }
      }
      for (; channel < channels; channel++) rest += left[channel] * right[channel];
    }
  }
  float lane[kLanes];
  Lanes::at(lane) = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) lane[i] += lane[i + half];
  }
  return lane[0] + rest;
}

// The ranking <q, k> / |k| with every rounding as in the dense walk: a chain over the channels for each pair of cells,
// then dx, then dy.
template <int P>
float dense_ranking(const CellReader& query, int64_t y, int64_t x, const CellReader& key, int64_t v, int64_t u,
                    int64_t channels, float scale) {
  const float *left[P * P], *right[P * P];
  float sum[P * P] = {};
  for (int i = 0; i < P * P; i++) {
    left[i] = query.at(y, x, i / P) + i % P * query.column_stride;
    right[i] = key.at(v, u, i / P) + i % P * key.column_stride;
  }
  for (int64_t channel = 0; channel < channels; channel++) {
#pragma GCC unroll 32
    for (int i = 0; i < P * P; i++) {
      // Said outright, as the compiler contracts the walk's products but need not do so here.
      if constexpr (kHasFma) {
        sum[i] = __builtin_fmaf(left[i][channel], right[i][channel], sum[i]);
      } else {
        sum[i] += left[i][channel] * right[i][channel];
      }
    }
  }
  float total = 0;
  for (int dy = 0; dy < P; dy++) {
    float row = sum[dy * P];
    for (int dx = 1; dx < P; dx++) row += sum[dy * P + dx];
    total = dy == 0 ? row : total + row;
  }
  return total * scale + 0.0f;
}
