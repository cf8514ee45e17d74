// The products of a walk in full precision: a chain of multiply-adds for each pair of cells.
template <class Sum>
struct FullProducts : Registers<Sum> {
  using Number = Sum;
  using Base = Registers<Sum>;
  using Base::kLanes;
  using typename Base::Vector;

  // result[i][j] = sum over channels of query[i][channel] * key[j][channel], for Rows query cells and Columns panels of
  // key cells.
  template <int Rows, int Columns>
  static void multiply(const Sum* query, const Sum* key, CellDepth depth, Sum* result, int64_t stride) {
    Vector sum[Rows][Columns] = {};
    const int64_t query_step = depth.numbers * kQueryPanel, key_step = depth.numbers * kLanes;
    for (int64_t channel = 0; channel < depth.numbers; channel++, query += kQueryPanel, key += kLanes) {
      Vector right[Columns];
#pragma GCC unroll 8
      for (int j = 0; j < Columns; j++) right[j] = Base::load(key + j * key_step);
#pragma GCC unroll 16
      for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 8
        for (int j = 0; j < Columns; j++) sum[i][j] += query[i / kQueryPanel * query_step + i % kQueryPanel] * right[j];
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 8
      for (int j = 0; j < Columns; j++) Base::at(result + i * stride + j * kLanes) = sum[i][j];
    }
  }
};
