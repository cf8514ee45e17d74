// The inner products of similarity, and the sums of its gradients. Compiled for each instruction set: see
// each_instruction_set.h.

#include "registers.h"

// The product of `rows` runs of `length` numbers, in whole vectors of 64 bytes.
template <class Sum>
Sum multiply_runs(const Sum* left, int64_t left_stride, const Sum* right, int64_t right_stride, int64_t rows,
                  int64_t length) {
  using Lanes = Registers<Sum>;
  using Vector = typename Lanes::Vector;
  constexpr int kLanes = Lanes::kLanes, kChains = 4;
  Vector sum[kChains] = {};
  for (int64_t row = 0; row < rows; row++, left += left_stride, right += right_stride) {
    int64_t i = 0;
    for (; i + kChains * kLanes <= length; i += kChains * kLanes) {
#pragma GCC unroll 8
      for (int chain = 0; chain < kChains; chain++) {
        sum[chain] += Lanes::load(left + i + chain * kLanes) * Lanes::load(right + i + chain * kLanes);
      }
    }
    for (; i < length; i += kLanes) sum[0] += Lanes::load(left + i) * Lanes::load(right + i);
  }
  Sum lane[kLanes];
  Lanes::at(lane) = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) lane[i] += lane[i + half];
  }
  return lane[0];
}

template <class Sum, int AtOnce>
void add_shares_of(const Share<Sum>* shares, int64_t count, const Sum* cells, int64_t pitch, const OwnShare<Sum>& own,
                   int64_t first, Sum* to) {
  using Lanes = Registers<Sum>;
  constexpr int kLanes = Lanes::kLanes;
  typename Lanes::Vector sum[AtOnce] = {};
  for (const Share<Sum>* share = shares; share != shares + count; share++) {
    const Sum* from = cells + share->cell * pitch + first;
#pragma GCC unroll 8
    for (int i = 0; i < AtOnce; i++) sum[i] += share->scale * (share->norm * Lanes::load(from + i * kLanes));
  }
#pragma GCC unroll 8
  for (int i = 0; i < AtOnce; i++) {
    const int64_t at = first + i * kLanes;
    // Without a share nothing is taken away, not even from NaN or infinity.
    Lanes::at(to + at) = own.root == 0 ? sum[i] : sum[i] - own.signed_root * (own.root * Lanes::load(own.numbers + at));
  }
}

// The gradient of one cell in all channels of a slab.
template <class Sum>
void add_shares(const Share<Sum>* shares, int64_t count, const Sum* cells, int64_t pitch, const OwnShare<Sum>& own,
                Sum* to) {
  constexpr int kLanes = Registers<Sum>::kLanes, kVectors = 4;
  int64_t first = 0;
  for (; first + kVectors * kLanes <= pitch; first += kVectors * kLanes) {
    add_shares_of<Sum, kVectors>(shares, count, cells, pitch, own, first, to);
  }
  for (; first < pitch; first += kLanes) {
    add_shares_of<Sum, 1>(shares, count, cells, pitch, own, first, to);
  }
}
