// The task of making a row of cells coarse. kernels/encode.h does it.
#pragma once

#include <cstdint>

#include "coarse.h"

namespace patchswap {

// A row of cells to be made coarse.
struct EncodeTask {
  const CoarseScheme& scheme;
  double factor;               // from coordinates to steps
  const float* coordinates;    // [axes][slots], slots a multiple of kEncodedTogether
  const double* square_norms;  // [slots]: of the cells themselves, not in steps
  int64_t slots;
  bool is_query;
  int64_t panel, word_slots;  // of the result; word_slots <= slots
  int32_t* words;             // [word_slots / panel][words][panel]
  int8_t* separate;           // [word_slots][scheme.separate_count]
  CoarseErrors* errors;       // [word_slots]
};

constexpr int64_t kEncodedTogether = 16;

}  // namespace patchswap
