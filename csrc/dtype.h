// From a tensor's dtype at run time to an element type at compile time.
#pragma once

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

namespace patchswap {

// The type in which sums over elements of type Element are formed.
template <class Element>
using Accumulate = std::conditional_t<std::is_same_v<Element, double>, double, float>;

// Calls function(Element{}) with the C++ type of dtype.
template <class Function>
void with_element_type(torch::headeronly::ScalarType dtype, Function function) {
  using torch::headeronly::ScalarType;
  switch (dtype) {
    case ScalarType::Float:
      return function(float{});
    case ScalarType::Double:
      return function(double{});
    case ScalarType::Half:
      return function(torch::headeronly::Half{});
    case ScalarType::BFloat16:
      return function(torch::headeronly::BFloat16{});
    default:
      STD_TORCH_CHECK(false, "patchswap: no kernel for this dtype");
  }
}

// Calls function(std::integral_constant<int, P>{}) with the patch size as a constant.
template <class Function>
void with_patch_size(int64_t patch_size, Function function) {
  switch (patch_size) {
    case 1:
      return function(std::integral_constant<int, 1>{});
    case 3:
      return function(std::integral_constant<int, 3>{});
    case 5:
      return function(std::integral_constant<int, 5>{});
    default:
      STD_TORCH_CHECK(false, "patchswap: patch_size must be 1, 3 or 5; got ", patch_size);
  }
}

// The same for the operators that take any patch size: P is 0 but for the usual sizes, and known at run time only.
template <class Function>
void with_usual_patch_size(int64_t patch_size, Function function) {
  const bool is_usual = patch_size == 1 || patch_size == 3 || patch_size == 5;
  is_usual ? with_patch_size(patch_size, function) : function(std::integral_constant<int, 0>{});
}

}  // namespace patchswap
