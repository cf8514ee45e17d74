// The inner products of cohere. Compiled for each instruction set: see each_instruction_set.h.

#include "registers.h"

// Sums in one order, whichever patches they are of. A patch has `rows` rows of `length` numbers.
template <class Sum>
Products<Sum> multiply_patches(const Sum* query, int64_t query_stride, const Sum* key, int64_t key_stride, int64_t rows,
                               int64_t length) {
  using Lanes = Registers<Sum>;
  using Vector = typename Lanes::Vector;
  constexpr int kLanes = Lanes::kLanes, kChains = 4;
  Vector product[kChains] = {}, square[kChains] = {};
  Sum last_product = 0, last_square = 0;
  for (int64_t row = 0; row < rows; row++, query += query_stride, key += key_stride) {
    int64_t i = 0;
    for (; i + kChains * kLanes <= length; i += kChains * kLanes) {
#pragma GCC unroll 8
      for (int chain = 0; chain < kChains; chain++) {
        const Vector right = Lanes::load(key + i + chain * kLanes);
        product[chain] += Lanes::load(query + i + chain * kLanes) * right;
        square[chain] += right * right;
      }
    }
    for (; i < length; i++) {
      last_product += query[i] * key[i];
      last_square += key[i] * key[i];
    }
  }
  Sum lane[2][kLanes];
  Lanes::at(lane[0]) = (product[0] + product[1]) + (product[2] + product[3]);
  Lanes::at(lane[1]) = (square[0] + square[1]) + (square[2] + square[3]);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) {
      lane[0][i] += lane[0][i + half];
      lane[1][i] += lane[1][i + half];
    }
  }
  return {lane[0][0] + last_product, lane[1][0] + last_square};
}
