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

// Calls function(std::integral_constant<int, P>{}) with the patch size, 1 to 7, as a constant.
template <class Function>
void with_patch_size(int64_t patch_size, Function function) {
  switch (patch_size) {
    case 1:
      return function(std::integral_constant<int, 1>{});
    case 2:
      return function(std::integral_constant<int, 2>{});
    case 3:
      return function(std::integral_constant<int, 3>{});
    case 4:
      return function(std::integral_constant<int, 4>{});
    case 5:
      return function(std::integral_constant<int, 5>{});
    case 6:
      return function(std::integral_constant<int, 6>{});
    case 7:
      return function(std::integral_constant<int, 7>{});
    default:
      STD_TORCH_CHECK(false, "patchswap: patch_size must be from 1 to 7; got ", patch_size);
  }
}

// The same where speed needs the constant for the usual sizes only: P is 0 for the others, and known at run time.
template <class Function>
void with_usual_patch_size(int64_t patch_size, Function function) {
  switch (patch_size) {
    case 1:
      return function(std::integral_constant<int, 1>{});
    case 3:
      return function(std::integral_constant<int, 3>{});
    case 5:
      return function(std::integral_constant<int, 5>{});
    default:
      return function(std::integral_constant<int, 0>{});
  }
}

}  // namespace patchswap
