// How patches are compared. Whatever the metric, keys are ranked by
//     (<q, k> + query_bias) * key_scale + key_bias,
// and the score of a query's key is its ranking times query_scale, with w the weight of the key:
//
//               query_bias    query_scale    key_scale    key_bias
//     ncc       0             1 / |q|        w / |k|      0
//     l2        -|q|^2 / 2    1              2 w          -w |k|^2
//     dot       0             1              w            0
//
// A score of l2, -w |q - k|^2, is at most 0; what rounding puts above is cut off.
#pragma once

namespace patchswap {

enum class Metric { kNcc, kL2, kDot };

}  // namespace patchswap
