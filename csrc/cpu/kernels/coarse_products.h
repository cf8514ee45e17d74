// Inner products of coarse cells. The words of a cell are pairs of leading integers, one word of its own, and quads of
// trailing integers. A key's quads hold the integers plus 128, as VNNI multiplies signed by unsigned bytes. The query's
// own word is -128 times the sum of its trailing integers, which takes the 128 off again.
struct CoarseProducts : Registers<int32_t> {
  using Number = int32_t;
  using Base = Registers<int32_t>;
  using Base::kLanes;
  using Base::Vector;

  // sum + the inner products of two leading integers of a query with two of a key, in each lane.
  static void add_pairs(Vector& sum, const Vector& query, const Vector& key) {
#if defined(__x86_64__)
    if constexpr (kTakesQuads && kVectorBytes > 16) {
      Vector total = sum;  // GCC keeps a variable in a register, but an element of an array in memory
      asm("vpdpwssd %2, %1, %0" : "+v"(total) : "v"(key), "v"(query));
      sum = total;
    } else if constexpr (kVectorBytes > 16) {
      Vector products;
      asm("vpmaddwd %2, %1, %0" : "=v"(products) : "v"(key), "v"(query));
      sum += products;
    } else {
      Vector products = query;
      asm("pmaddwd %1, %0" : "+x"(products) : "x"(key));
      sum += products;
    }
#else
    sum += ((query << 16) >> 16) * ((key << 16) >> 16) + (query >> 16) * (key >> 16);
#endif
  }

  // sum + the inner products of the query's four trailing integers with each key's unsigned ones.
  static void add_quads(Vector& sum, int32_t query, const Vector& key) {
#if defined(__x86_64__)
    if constexpr (kTakesQuads && kVectorBytes > 16) {
      Vector total = sum;  // GCC keeps a variable in a register, but an element of an array in memory
      asm("vpdpbusd %2, %1, %0" : "+v"(total) : "v"(key), "v"(Vector{} + query));
      sum = total;
      return;
    }
#endif
    // Where a test takes quads on any machine.
#pragma GCC unroll 4
    for (int byte = 0; byte < 4; byte++) sum += static_cast<int8_t>(query >> 8 * byte) * ((key >> 8 * byte) & 255);
  }

  using Bytes = Registers<int8_t, kVectorBytes / 2>;

  // Bytes as numbers of 16 bits.
  static void widen(const int8_t* from, Vector& to) {
#if defined(__x86_64__)
    if constexpr (kVectorBytes > 16) {  // GCC needs several instructions for the conversion below
      asm("vpmovsxbw %1, %0" : "=v"(to) : "m"(Bytes::load(from)));
      return;
    }
#endif
    using Halves = Registers<int16_t>::Vector;
    reinterpret_cast<Halves&>(to) = __builtin_convertvector(Bytes::load(from), Halves);
  }

  // The inner product of `count` bytes, a multiple of kSeparateMultiple.
  static int32_t product_of_bytes(const int8_t* left, const int8_t* right, int64_t count) {
    Vector sum = {};
    for (int64_t i = 0; i < count; i += Bytes::kLanes) {
      Vector a, b;
      widen(left + i, a);
      widen(right + i, b);
      add_pairs(sum, a, b);
    }
    int32_t total = 0;
    for (int lane = 0; lane < kLanes; lane++) total += sum[lane];
    return total;
  }

  // coarse() of Rows query cells and Columns panels of key cells.
  template <int Rows, int Columns>
  static void multiply(const int32_t* query, const int32_t* key, CellDepth depth, int32_t* result, int64_t stride) {
    Vector sum[Rows][Columns] = {};
    const int64_t query_step = depth.numbers * kQueryPanel, key_step = depth.numbers * kLanes;
    int64_t word = 0;
    for (; word < depth.leading; word++, query += kQueryPanel, key += kLanes) {
      Vector right[Columns];
#pragma GCC unroll 8
      for (int j = 0; j < Columns; j++) right[j] = Base::load(key + j * key_step);
#pragma GCC unroll 16
      for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 8
        for (int j = 0; j < Columns; j++) {
          add_pairs(sum[i][j], Vector{} + query[i / kQueryPanel * query_step + i % kQueryPanel], right[j]);
        }
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 8
      for (int j = 0; j < Columns; j++) {
        sum[i][j] = (sum[i][j] >> 2 * kLeadingShift) + query[i / kQueryPanel * query_step + i % kQueryPanel];
      }
    }
    word++, query += kQueryPanel, key += kLanes;
    for (; word < depth.numbers; word++, query += kQueryPanel, key += kLanes) {
      Vector right[Columns];
#pragma GCC unroll 8
      for (int j = 0; j < Columns; j++) right[j] = Base::load(key + j * key_step);
#pragma GCC unroll 16
      for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 8
        for (int j = 0; j < Columns; j++) {
          add_quads(sum[i][j], query[i / kQueryPanel * query_step + i % kQueryPanel], right[j]);
        }
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 8
      for (int j = 0; j < Columns; j++) Base::at(result + i * stride + j * kLanes) = sum[i][j];
    }
  }
};
