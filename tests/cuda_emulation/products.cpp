// Matrix products, as warps and as warpgroups do them.
#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "emulated_device.h"
#include "scheduler.h"

namespace patchswap::emulation {

// ---- by warps

namespace {

// Tensor cores add exact products, a few at a time, to the accumulator: all terms are cut off, not rounded, at a common
// place some bits below the first one of the largest, and the sum is cut off at 24 bits (Fasi, Higham, Mikaitis,
// Pranesh: "Numerical behavior of NVIDIA tensor cores", 2021; Khattak, Mikaitis: "Accurate models of NVIDIA tensor
// cores", 2025). By the latter, Ampere and Ada add 8 products and keep 25 bits of the largest term, Hopper 16 and 26.
constexpr int kColumns = 8;

template <int kTermsAtOnce, int kKeptBits>
void add_products(const float* left, const float (*right)[kColumns], float* sum) {
  float product[kTermsAtOnce][kColumns], scale[kColumns], inverse_scale[kColumns];
  int32_t total[kColumns];
  uint32_t largest[kColumns];
  for (int n = 0; n < kColumns; n++) largest[n] = std::bit_cast<uint32_t>(sum[n]) & 0x7f800000u;
  for (int k = 0; k < kTermsAtOnce; k++) {
    for (int n = 0; n < kColumns; n++) {
      product[k][n] = left[k] * right[k][n];
      largest[n] = std::max(largest[n], std::bit_cast<uint32_t>(product[k][n]) & 0x7f800000u);
    }
  }
  for (int n = 0; n < kColumns; n++) {
    const uint32_t exponent = largest[n] >> 23;
    if (exponent < 64 || exponent > 190) {  // out of the range where the scales below are normal numbers
      for (int k = 0; k < kTermsAtOnce; k++) sum[n] += product[k][n];
      scale[n] = 0;
      inverse_scale[n] = 0;
      continue;
    }
    scale[n] = std::bit_cast<float>((254 - exponent + kKeptBits - 1) << 23);
    inverse_scale[n] = std::bit_cast<float>((exponent - (kKeptBits - 1)) << 23);
  }
  for (int n = 0; n < kColumns; n++) {
    total[n] = scale[n] != 0 ? static_cast<int32_t>(sum[n] * scale[n]) : 0;
  }
  for (int k = 0; k < kTermsAtOnce; k++) {
    for (int n = 0; n < kColumns; n++) {
      if (scale[n] != 0) total[n] += static_cast<int32_t>(product[k][n] * scale[n]);
    }
  }
  for (int n = 0; n < kColumns; n++) {
    if (scale[n] == 0) continue;
    const uint64_t bits = std::bit_cast<uint64_t>(static_cast<double>(total[n])) & ~((uint64_t{1} << 29) - 1);
    sum[n] = static_cast<float>(std::bit_cast<double>(bits)) * inverse_scale[n];
  }
}

float half_of(uint32_t word, int which) { return to_float(Half{static_cast<uint16_t>(word >> 16 * which)}); }

}  // namespace

void combine_products(Warp& warp) {
  float left[16][16], right[16][kColumns], sum[16][kColumns];
  for (int lane = 0; lane < kLanes; lane++) {
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int i = 0; i < 2; i++) {
      left[group][pair + i] = half_of(warp.left[lane][0], i);
      left[group + 8][pair + i] = half_of(warp.left[lane][1], i);
      left[group][pair + 8 + i] = half_of(warp.left[lane][2], i);
      left[group + 8][pair + 8 + i] = half_of(warp.left[lane][3], i);
      right[pair + i][group] = half_of(warp.right[lane][0], i);
      right[pair + 8 + i][group] = half_of(warp.right[lane][1], i);
      sum[group][pair + i] = warp.sum[lane][i];
      sum[group + 8][pair + i] = warp.sum[lane][2 + i];
    }
  }
  for (int row = 0; row < 16; row++) {
    for (int term = 0; term < 16; term += 8) add_products<8, 25>(&left[row][term], &right[term], sum[row]);
  }
  for (int lane = 0; lane < kLanes; lane++) {
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int i = 0; i < 2; i++) {
      warp.sum[lane][i] = sum[group][pair + i];
      warp.sum[lane][2 + i] = sum[group + 8][pair + i];
    }
  }
}

// ---- by warpgroups, with operands in shared memory

namespace {

// Where element (row, column) of an operand is, its columns being the terms of the sum: pieces of 8 rows of 16 bytes
// lie at the descriptor's two distances.
uint32_t operand_byte(uint64_t descriptor, int row, int column) {
  const uint32_t begin = static_cast<uint32_t>(descriptor & 0x3fff) * 16;
  const uint32_t to_next_columns = static_cast<uint32_t>(descriptor >> 16 & 0x3fff) * 16;
  const uint32_t to_next_rows = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) * 16;
  return begin + static_cast<uint32_t>(row / 8) * to_next_rows + static_cast<uint32_t>(column / 8) * to_next_columns +
         static_cast<uint32_t>(row % 8 * 16 + column % 8 * 2);
}

// The 16-byte pieces of rows that a warp's part of a product reads.
template <class Visit>
void for_each_piece(const Product& product, int warp, const Visit& visit) {
  for (int column = 0; column < 16; column += 8) {
    for (int row = 0; row < 16; row++) visit(operand_byte(product.left, warp % 4 * 16 + row, column));
    for (int row = 0; row < product.columns; row++) visit(operand_byte(product.right, row, column));
  }
}

float half_at(const Block& block, uint32_t byte) {
  uint16_t bits;
  std::memcpy(&bits, block.shared + byte, sizeof bits);
  return to_float(Half{bits});
}

void compute(Product& product, const Block& block, int warp) {
  float left[16][16], right[16][kColumns], sum[16][kColumns];
  for (int row = 0; row < 16; row++) {
    for (int term = 0; term < 16; term++) {
      left[row][term] = half_at(block, operand_byte(product.left, warp % 4 * 16 + row, term));
    }
  }
  for (int first = 0; first < product.columns; first += kColumns) {
    for (int column = 0; column < kColumns; column++) {
      for (int term = 0; term < 16; term++) {
        right[term][column] = half_at(block, operand_byte(product.right, first + column, term));
      }
    }
    for (int row = 0; row < 16; row++) {
      for (int column = 0; column < kColumns; column++) {
        const int lane = row % 8 * 4 + column / 2, place = first / 2 + row / 8 * 2 + column % 2;
        sum[row][column] = product.accumulate ? product.sum[lane][place] : 0.0f;
      }
      add_products<16, 26>(left[row], right, sum[row]);
      for (int column = 0; column < kColumns; column++) {
        product.sum[row % 8 * 4 + column / 2][first / 2 + row / 8 * 2 + column % 2] = sum[row][column];
      }
    }
  }
  product.done = true;
}

// Those that are not done yet, in order, as they may have the same registers.
void compute(std::vector<Product>& products, const Block& block, int warp) {
  for (Product& product : products) {
    if (!product.done) compute(product, block, warp);
  }
}

}  // namespace

void fence_products(Where where) {
  if (meet_warp("the fence of matrix products", where)) {
    current_warp().products_fenced = true;
    leave_warp();
  }
}

void issue_product(float* sum, int columns, uint64_t left, uint64_t right, bool accumulate, Where where) {
  Warp& warp = current_warp();
  const int lane = current->lane;
  warp.sum[lane] = sum;
  warp.descriptor[0][lane] = left;
  warp.descriptor[1][lane] = right;
  if (!meet_warp("a matrix product of a warpgroup", where)) return;
  Thread& thread = *current;
  Block& block = *thread.block;
  if (!warp.products_fenced) fault(where, "no fence between an access to the registers of a product and this product");
  Product product = {};
  product.columns = columns;
  product.left = left;
  product.right = right;
  product.accumulate = accumulate;
  product.where = where;
  for (int i = 0; i < kLanes; i++) {
    product.sum[i] = warp.sum[i];
    if (warp.descriptor[0][i] != left || warp.descriptor[1][i] != right) {
      fault(where, "lanes of one warp have different matrix descriptors");
    }
  }
  if (left >> 62 != 0 || right >> 62 != 0) fault(where, "swizzled operands are not emulated");
  for_each_piece(product, thread.warp, [&](uint32_t byte) {
    if (byte + 16 > static_cast<uint32_t>(block.shared_bytes)) {
      fault(where, "byte %u of shared memory is beyond its %d bytes", byte, block.shared_bytes);
    }
    for (uint32_t granule = byte / kGranule; granule < (byte + 16) / kGranule; granule++) {
      const LastWrite& write = block.writes[granule];
      if (is_unordered(thread, write) || write.stamp == 0) report_access("read", thread, granule * kGranule, where);
      if (write.thread != static_cast<uint32_t>(block.thread_count) && write.stamp > block.fenced[write.thread]) {
        fault(where, "no fence makes byte %u of shared memory, which thread %u wrote, visible to matrix products",
              granule * kGranule, write.thread);
      }
      block.reads[granule * static_cast<uint32_t>(block.warp_count) + static_cast<uint32_t>(thread.warp)] = {
          kUnderWay, 0xffffffffu};
    }
  });
  if (!accumulate) {  // nobody must use the result before waiting
    for (float* result : product.sum) std::fill_n(result, columns / 2, std::numeric_limits<float>::quiet_NaN());
  }
  warp.products.push_back(product);
  if (arrives_at_once()) {
    for (std::vector<Product>& group : warp.product_groups) compute(group, block, thread.warp);
    compute(warp.products, block, thread.warp);
  }
  warp.products_issued++;
  leave_warp();
}

void commit_products(Where where) {
  if (!meet_warp("the commit of matrix products", where)) return;
  Warp& warp = current_warp();
  warp.product_groups.push_back(std::move(warp.products));
  warp.products.clear();
  leave_warp();
}

void wait_for_products(int pending, Where where) {
  if (!meet_warp("the wait for matrix products", where)) return;
  Warp& warp = current_warp();
  Thread& thread = *current;
  Block& block = *thread.block;
  std::vector<Product> finished;
  while (static_cast<int>(warp.product_groups.size()) > pending) {
    std::vector<Product>& group = warp.product_groups.front();
    compute(group, block, thread.warp);
    finished.insert(finished.end(), group.begin(), group.end());
    warp.product_groups.erase(warp.product_groups.begin());
  }
  const auto mark = [&](const Product& product, uint32_t stamp) {
    for_each_piece(product, thread.warp, [&](uint32_t byte) {
      for (uint32_t granule = byte / kGranule; granule < (byte + 16) / kGranule; granule++) {
        block.reads[granule * static_cast<uint32_t>(block.warp_count) + static_cast<uint32_t>(thread.warp)] = {
            stamp, 1u << thread.lane};
      }
    });
  };
  for (const Product& product : finished) mark(product, thread.stamp);
  for (const auto& group : warp.product_groups) {
    for (const Product& product : group) mark(product, kUnderWay);  // may share operands with those that are done
  }
  for (const Product& product : warp.products) mark(product, kUnderWay);
  if (pending == 0) warp.products_fenced = false;  // as the registers will be used
  leave_warp();
}

}  // namespace patchswap::emulation
