// The check of an index that callers hand in.
#pragma once

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <stdexcept>

namespace patchswap {

// Throws unless all numbers are from -1 to keys - 1.
inline void check_index_range(const char* operation, const int64_t* index, int64_t count, int64_t keys) {
  if (count == 0) return;
  const auto [lowest, highest] = std::minmax_element(index, index + count);
  if (*lowest >= -1 && *highest < keys) return;
  std::ostringstream text;
  text << "patchswap." << operation << ": index must be from -1 to " << keys - 1 << ", the last key patch; got "
       << *lowest << " to " << *highest;
  throw std::runtime_error(text.str());
}

}  // namespace patchswap
