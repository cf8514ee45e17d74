// Schemas, the checks that all backends share, registration, and what the library says of itself.
// patchswap/contract.py holds the same checks in the same words for the fake kernels and the plain torch reference.

#include "ops.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

namespace patchswap {
namespace {

using torch::headeronly::ScalarType;

template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream text;
  text << "patchswap.";
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

std::string shape_text(const Tensor& tensor) {
  std::ostringstream text;
  text << "(";
  for (int64_t i = 0; i < tensor.dim(); i++) text << (i ? ", " : "") << tensor.size(i);
  text << ")";
  return text.str();
}

std::string dtype_text(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::UInt16:
      return "uint16";
    case ScalarType::UInt32:
      return "uint32";
    case ScalarType::UInt64:
      return "uint64";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::ComplexHalf:
      return "complex32";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    default:
      return torch::headeronly::toString(tensor.scalar_type());
  }
}

std::string device_text(const Tensor& tensor) {
  if (tensor.is_cpu()) return "cpu";
  return (tensor.is_cuda() ? "cuda:" : "device:") + std::to_string(tensor.get_device_index());
}

struct Grid {
  int64_t rows, columns;
};

Grid patch_grid(int64_t height, int64_t width, int64_t patch_size) {
  const int64_t rows = height - patch_size + 1, columns = width - patch_size + 1;
  return rows > 0 && columns > 0 ? Grid{rows, columns} : Grid{0, 0};
}

void check_features(const char* op, const char* name, const Tensor& features) {
  require(features.dim() == 4, op, ": ", name, " must have shape (B, C, H, W); got ", shape_text(features));
  const ScalarType dtype = features.scalar_type();
  require(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 ||
              dtype == ScalarType::Half,
          op, ": ", name, " must be float32, float64, bfloat16 or float16; got ", dtype_text(features),
          "; convert it first, for example with ", name, ".float()");
}

void check_device(const char* op, const char* name, const Tensor& tensor, const char* other_name, const Tensor& other) {
  require(device_text(tensor) == device_text(other), op, ": ", name, " and ", other_name,
          " must be on the same device; got ", device_text(tensor), " and ", device_text(other));
}

void check_like(const char* op, const char* name, const Tensor& tensor, const char* other_name, const Tensor& other) {
  require(tensor.scalar_type() == other.scalar_type(), op, ": ", name, " and ", other_name,
          " must have the same dtype; got ", dtype_text(tensor), " and ", dtype_text(other));
  check_device(op, name, tensor, other_name, other);
}

void check_patch_size(const char* op, int64_t patch_size) {
  require(patch_size >= 1 && patch_size <= kMaxPatch, op, ": patch_size must be from 1 to ", kMaxPatch, "; got ",
          patch_size);
}

void check_same_batch_and_channels(const char* op, const Tensor& query, const Tensor& key) {
  require(query.size(0) == key.size(0) && query.size(1) == key.size(1), op,
          ": query and key must agree in batch and channels; got ", shape_text(query), " and ", shape_text(key));
}

void check_patch_mask(const char* op, const char* name, const Tensor& mask, const char* features_name,
                      const Tensor& features, Grid grid, int64_t patch_size) {
  require(mask.scalar_type() == ScalarType::Bool, op, ": ", name, " must be bool; got ", dtype_text(mask),
          "; compare it first, as in mask > 0");
  require(
      mask.dim() == 3 && mask.size(0) == features.size(0) && mask.size(1) == grid.rows && mask.size(2) == grid.columns,
      op, ": ", name, " must have the shape of ", features_name, "'s patch grid (", features.size(0), ", ", grid.rows,
      ", ", grid.columns, ") at patch_size ", patch_size, "; got ", shape_text(mask));
  check_device(op, name, mask, features_name, features);
}

ScalarType score_dtype(const Tensor& features) {
  return features.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

void check_key_weight(const Tensor& weight, const Tensor& key, Grid grid, int64_t patch_size) {
  require(weight.scalar_type() == score_dtype(key), "match: key_weight must be ",
          score_dtype(key) == ScalarType::Double ? "float64" : "float32", " where key is ", dtype_text(key), "; got ",
          dtype_text(weight));
  require(weight.dim() == 3 && weight.size(0) == key.size(0) && weight.size(1) == grid.rows &&
              weight.size(2) == grid.columns,
          "match: key_weight must have the shape of key's patch grid (", key.size(0), ", ", grid.rows, ", ",
          grid.columns, ") at patch_size ", patch_size, "; got ", shape_text(weight));
  check_device("match", "key_weight", weight, "key", key);
}

int64_t ranks_of(const Tensor& index) { return index.dim() == 4 ? index.size(1) : 1; }

// Whether an index has one rank, without a dimension for it, or 1 to kMaxTopk of them.
bool has_ranks(const Tensor& index) {
  return (index.dim() == 3 || index.dim() == 4) && ranks_of(index) >= 1 && ranks_of(index) <= kMaxTopk;
}

std::vector<int64_t> shape_of(const Tensor& tensor) {
  std::vector<int64_t> shape;
  for (int64_t i = 0; i < tensor.dim(); i++) shape.push_back(tensor.size(i));
  return shape;
}

void check_index(const char* op, const Tensor& index, const char* like_name, const Tensor& like, int64_t height,
                 int64_t width, Grid grid, int64_t patch_size) {
  require(index.scalar_type() == ScalarType::Long, op, ": index must be int64; got ", dtype_text(index));
  require(has_ranks(index) && index.size(0) == like.size(0) && index.size(index.dim() - 2) == grid.rows &&
              index.size(index.dim() - 1) == grid.columns,
          op, ": index must have shape (", like.size(0), ", ", grid.rows, ", ", grid.columns,
          "), the patch grid of a (", height, ", ", width, ") output at patch_size ", patch_size,
          ", or with k from 1 to ", kMaxTopk, " ranks after the batch; got ", shape_text(index));
  check_device(op, "index", index, like_name, like);
}

void check_query_index(const char* op, const Tensor& index, const Tensor& query, Grid grid, int64_t patch_size) {
  require(index.scalar_type() == ScalarType::Long, op, ": index must be int64; got ", dtype_text(index));
  require(has_ranks(index) && index.size(0) == query.size(0) && index.size(index.dim() - 2) == grid.rows &&
              index.size(index.dim() - 1) == grid.columns,
          op, ": index must have the shape of query's patch grid (", query.size(0), ", ", grid.rows, ", ", grid.columns,
          ") at patch_size ", patch_size, ", or with k from 1 to ", kMaxTopk, " ranks after the batch; got ",
          shape_text(index));
  check_device(op, "index", index, "query", query);
}

std::optional<Tensor> contiguous(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<Tensor>(torch::stable::contiguous(*tensor)) : std::nullopt;
}

// The methods of one device, as in "dense" or "pruned".
std::string methods_of(bool Method::* is_there) {
  std::string text;
  int64_t left = std::count_if(std::begin(kMethods), std::end(kMethods), [&](auto& one) { return one.*is_there; }) - 1;
  for (const Method& method : kMethods) {
    if (!(method.*is_there) || &method == kMethods) continue;  // the first, "auto", is everywhere
    left--;
    text += "\"" + std::string(method.name) + (left > 1 ? "\", " : left == 1 ? "\" or " : "\"");
  }
  return text;
}

Metric metric_of(const char* op, const std::string& metric) {
  const NamedMetric* known =
      std::find_if(std::begin(kMetrics), std::end(kMetrics), [&](auto& one) { return one.name == metric; });
  require(known != std::end(kMetrics), op, ": metric must be \"ncc\", \"l2\" or \"dot\"; got \"", metric, "\"");
  return known->metric;
}

// The arguments of match, checked. Results are still missing.
MatchCall match_call(const Tensor& query, const Tensor& key, const std::optional<Tensor>& query_mask,
                     const std::optional<Tensor>& key_mask, int64_t patch_size, int64_t topk,
                     const std::string& precision, const std::string& method, const std::string& metric,
                     const std::optional<Tensor>& key_weight) {
  check_features("match", "query", query);
  check_features("match", "key", key);
  check_like("match", "query", query, "key", key);
  check_same_batch_and_channels("match", query, key);
  check_patch_size("match", patch_size);
  require(topk >= 1 && topk <= kMaxTopk, "match: topk must be from 1 to ", kMaxTopk, "; got ", topk);
  require(precision == "exact" || precision == "fast", "match: precision must be \"exact\" or \"fast\"; got \"",
          precision, "\"");
  const Method* known =
      std::find_if(std::begin(kMethods), std::end(kMethods), [&](auto& one) { return one.name == method; });
  require(known != std::end(kMethods), "match: method must be \"auto\", ", methods_of(&Method::is_on_cpu), " (CPU), ",
          methods_of(&Method::is_on_cuda), " (CUDA); got \"", method, "\"");
  const Metric known_metric = metric_of("match", metric);
  const Grid query_grid = patch_grid(query.size(2), query.size(3), patch_size);
  const Grid key_grid = patch_grid(key.size(2), key.size(3), patch_size);
  if (query_mask) check_patch_mask("match", "query_mask", *query_mask, "query", query, query_grid, patch_size);
  if (key_mask) check_patch_mask("match", "key_mask", *key_mask, "key", key, key_grid, patch_size);
  if (key_weight) check_key_weight(*key_weight, key, key_grid, patch_size);
  require(query.is_cuda() ? known->is_on_cuda : known->is_on_cpu, "match: method \"", method, "\" is not there on ",
          device_text(query), "; use \"auto\"");
  return {.query = query,
          .key = key,
          .query_mask = contiguous(query_mask),
          .key_mask = contiguous(key_mask),
          .batch = query.size(0),
          .channels = query.size(1),
          .query_height = query.size(2),
          .query_width = query.size(3),
          .key_height = key.size(2),
          .key_width = key.size(3),
          .query_rows = query_grid.rows,
          .query_columns = query_grid.columns,
          .key_rows = key_grid.rows,
          .key_columns = key_grid.columns,
          .patch_size = patch_size,
          .topk = topk,
          .fast = precision == "fast",
          .method = method,
          .metric = known_metric,
          .key_weight = contiguous(key_weight),
          .whole_height = key.size(2)};
}

// Runs a checked call, whose results are still missing.
void run_match(MatchCall& call, bool wants_ranking) {
  const int64_t shape[] = {call.batch, call.topk, call.query_rows, call.query_columns}, tally_shape[] = {2};
  call.index = torch::stable::new_empty(call.query, {shape, 4}, ScalarType::Long);
  call.score = torch::stable::new_empty(call.query, {shape, 4}, score_dtype(call.query));
  call.tally = torch::stable::new_empty(call.query, {tally_shape, 1}, ScalarType::Long);
  if (wants_ranking) call.ranking = torch::stable::new_empty(call.query, {shape, 4}, score_dtype(call.query));
#ifdef PATCHSWAP_CUDA
  if (call.query.is_cuda()) return match_cuda(call);
#endif
  torch::stable::fill_(call.tally, 0);
  torch::stable::fill_(call.index, -1);
  torch::stable::fill_(call.score, -std::numeric_limits<double>::infinity());
  if (call.ranking) torch::stable::fill_(*call.ranking, -std::numeric_limits<double>::infinity());
  match_cpu(call);
}

std::tuple<Tensor, Tensor, Tensor> match(Tensor query, Tensor key, std::optional<Tensor> query_mask,
                                         std::optional<Tensor> key_mask, int64_t patch_size, int64_t topk,
                                         std::string precision, std::string method, std::string metric,
                                         std::optional<Tensor> key_weight) {
  MatchCall call =
      match_call(query, key, query_mask, key_mask, patch_size, topk, precision, method, metric, key_weight);
  run_match(call, false);
  return {call.index, call.score, call.tally};
}

std::tuple<Tensor, Tensor, Tensor> match_part(Tensor query, Tensor key, std::optional<Tensor> query_mask,
                                              std::optional<Tensor> key_mask, int64_t patch_size, int64_t topk,
                                              std::string precision, std::string method, std::string metric,
                                              std::optional<Tensor> key_weight, int64_t whole_height) {
  MatchCall call =
      match_call(query, key, query_mask, key_mask, patch_size, topk, precision, method, metric, key_weight);
  require(whole_height >= key.size(2), "match_part: whole_height must be at least the rows of key, ", key.size(2),
          "; got ", whole_height);
  call.whole_height = whole_height;
  run_match(call, true);
  return {call.index, call.score, *call.ranking};
}

std::string explain(Tensor query, Tensor key, std::optional<Tensor> query_mask, std::optional<Tensor> key_mask,
                    int64_t patch_size, int64_t topk, std::string precision, std::string method, std::string metric,
                    std::optional<Tensor> key_weight) {
  const MatchCall call =
      match_call(query, key, query_mask, key_mask, patch_size, topk, precision, method, metric, key_weight);
  std::string lines;
  const auto add = [&](const KernelChoice& choice) { lines += choice.kernel + "\t" + choice.reason + "\n"; };
#ifdef PATCHSWAP_CUDA
  if (query.is_cuda()) {
    add(choose_cuda(call));
    return lines;
  }
#endif
  for (const KernelChoice& choice : choose_cpu(call)) add(choice);
  return lines;
}

std::tuple<Tensor, Tensor> cohere(Tensor index, Tensor query, Tensor key, std::optional<Tensor> query_mask,
                                  std::optional<Tensor> key_mask, double weight, int64_t sweeps, int64_t patch_size,
                                  std::string metric) {
  check_features("cohere", "query", query);
  check_features("cohere", "key", key);
  check_like("cohere", "query", query, "key", key);
  check_same_batch_and_channels("cohere", query, key);
  check_patch_size("cohere", patch_size);
  require(weight >= 0 && weight < std::numeric_limits<double>::infinity(),
          "cohere: weight must be a finite number, 0 or more; got ", number_text(weight));
  require(sweeps >= 0, "cohere: sweeps must not be negative; got ", sweeps);
  const Metric known_metric = metric_of("cohere", metric);
  const Grid query_grid = patch_grid(query.size(2), query.size(3), patch_size);
  const Grid key_grid = patch_grid(key.size(2), key.size(3), patch_size);
  check_query_index("cohere", index, query, query_grid, patch_size);
  if (query_mask) check_patch_mask("cohere", "query_mask", *query_mask, "query", query, query_grid, patch_size);
  if (key_mask) check_patch_mask("cohere", "key_mask", *key_mask, "key", key, key_grid, patch_size);

  const int64_t shape[] = {query.size(0), query_grid.rows, query_grid.columns};
  const ScalarType score_dtype = query.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const CohereCall call{.given = torch::stable::contiguous(index),
                        .query = query,
                        .key = key,
                        .query_mask = contiguous(query_mask),
                        .key_mask = contiguous(key_mask),
                        .batch = query.size(0),
                        .channels = query.size(1),
                        .ranks = ranks_of(index),
                        .query_rows = query_grid.rows,
                        .query_columns = query_grid.columns,
                        .key_rows = key_grid.rows,
                        .key_columns = key_grid.columns,
                        .patch_size = patch_size,
                        .sweeps = sweeps,
                        .weight = weight,
                        .metric = known_metric,
                        .index = torch::stable::new_empty(query, {shape, 3}, ScalarType::Long),
                        .score = torch::stable::new_empty(query, {shape, 3}, score_dtype)};
#ifdef PATCHSWAP_CUDA
  if (query.is_cuda()) {
    cohere_cuda(call);
    return {call.index, call.score};
  }
#endif
  cohere_cpu(call);
  return {call.index, call.score};
}

void check_weights(const char* op, const Tensor& weights, const Tensor& index, const char* features_name,
                   const Tensor& features) {
  const bool is_double = features.scalar_type() == ScalarType::Double;
  require(weights.scalar_type() == (is_double ? ScalarType::Double : ScalarType::Float), op, ": weights must be ",
          is_double ? "float64" : "float32", " where ", features_name, " is ", dtype_text(features), "; got ",
          dtype_text(weights));
  require(shape_of(weights) == shape_of(index), op, ": weights must have the shape of index ", shape_text(index),
          ", one for each query; got ", shape_text(weights));
  check_device(op, "weights", weights, features_name, features);
}

// A call of fold, or of one of its gradients, with a map of (height, width) and keys of (key_height, key_width) cells.
FoldCall fold_call(const Tensor& index, const Tensor& source, const std::optional<Tensor>& weights, int64_t height,
                   int64_t width, int64_t key_height, int64_t key_width, int64_t patch_size, const Tensor& result) {
  const Grid grid = patch_grid(height, width, patch_size), key_grid = patch_grid(key_height, key_width, patch_size);
  return {.index = torch::stable::contiguous(index),
          .source = source,
          .base = std::nullopt,
          .weights = contiguous(weights),
          .is_laid = false,
          .batch = source.size(0),
          .channels = source.size(1),
          .height = height,
          .width = width,
          .key_height = key_height,
          .key_width = key_width,
          .ranks = ranks_of(index),
          .rows = grid.rows,
          .columns = grid.columns,
          .key_rows = key_grid.rows,
          .key_columns = key_grid.columns,
          .patch_size = patch_size,
          .result = result};
}

Tensor fold(Tensor index, Tensor key, std::optional<Tensor> base, int64_t height, int64_t width, int64_t patch_size,
            std::optional<Tensor> weights) {
  check_features("fold", "key", key);
  check_patch_size("fold", patch_size);
  require(height >= 0 && width >= 0, "fold: output_size must not be negative; got (", height, ", ", width, ")");
  const Grid grid = patch_grid(height, width, patch_size);
  check_index("fold", index, "key", key, height, width, grid, patch_size);
  if (base) {
    check_features("fold", "base", *base);
    check_like("fold", "base", *base, "key", key);
    require(base->size(0) == key.size(0) && base->size(1) == key.size(1) && base->size(2) == height &&
                base->size(3) == width,
            "fold: base must have shape (", key.size(0), ", ", key.size(1), ", ", height, ", ", width,
            "), the batch and channels of key and output_size; got ", shape_text(*base));
  }
  if (weights) check_weights("fold", *weights, index, "key", key);
  const int64_t shape[] = {key.size(0), key.size(1), height, width};
  // A base of another layout is brought into the result's at once; a copy of it would have to be copied again.
  const bool is_laid = base && !base->is_contiguous();
  const Tensor result = is_laid ? torch::stable::contiguous(*base) : torch::stable::new_empty(key, {shape, 4});
  const Tensor source = is_channels_last(key) ? key : torch::stable::contiguous(key);
  FoldCall call = fold_call(index, source, weights, height, width, key.size(2), key.size(3), patch_size, result);
  call.base = is_laid ? std::nullopt : base;
  call.is_laid = is_laid;
#ifdef PATCHSWAP_CUDA
  if (key.is_cuda()) {
    fold_cuda(call);
    return call.result;
  }
#endif
  fold_cpu(call);
  return call.result;
}

Tensor fold_backward(Tensor grad_output, Tensor index, int64_t key_height, int64_t key_width, int64_t patch_size,
                     std::optional<Tensor> weights) {
  check_features("fold_backward", "grad_output", grad_output);
  check_patch_size("fold_backward", patch_size);
  require(key_height >= 0 && key_width >= 0, "fold_backward: the size of key must not be negative; got (", key_height,
          ", ", key_width, ")");
  const int64_t height = grad_output.size(2), width = grad_output.size(3);
  const Grid grid = patch_grid(height, width, patch_size);
  check_index("fold_backward", index, "grad_output", grad_output, height, width, grid, patch_size);
  if (weights) check_weights("fold_backward", *weights, index, "grad_output", grad_output);
  const int64_t shape[] = {grad_output.size(0), grad_output.size(1), key_height, key_width};
  const FoldCall call = fold_call(index, torch::stable::contiguous(grad_output), weights, height, width, key_height,
                                  key_width, patch_size, torch::stable::new_empty(grad_output, {shape, 4}));
#ifdef PATCHSWAP_CUDA
  if (grad_output.is_cuda()) {
    fold_backward_cuda(call);
    return call.result;
  }
#endif
  fold_backward_cpu(call);
  return call.result;
}

Tensor fold_weights_backward(Tensor grad_output, Tensor index, Tensor key, Tensor output, Tensor weights,
                             int64_t patch_size) {
  const char* const op = "fold_weights_backward";
  check_features(op, "grad_output", grad_output);
  check_patch_size(op, patch_size);
  const int64_t batch = grad_output.size(0), channels = grad_output.size(1);
  const int64_t height = grad_output.size(2), width = grad_output.size(3);
  const Grid grid = patch_grid(height, width, patch_size);
  check_index(op, index, "grad_output", grad_output, height, width, grid, patch_size);
  check_features(op, "key", key);
  check_like(op, "key", key, "grad_output", grad_output);
  require(key.size(0) == batch && key.size(1) == channels, op,
          ": key and grad_output must agree in batch and channels; got ", shape_text(key), " and ",
          shape_text(grad_output));
  check_features(op, "output", output);
  check_like(op, "output", output, "grad_output", grad_output);
  require(output.size(0) == batch && output.size(1) == channels && output.size(2) == height && output.size(3) == width,
          op, ": output must have the shape of grad_output ", shape_text(grad_output), "; got ", shape_text(output));
  check_weights(op, weights, index, "grad_output", grad_output);
  const FoldWeightsCall work{
      .call = fold_call(index, torch::stable::contiguous(grad_output), weights, height, width, key.size(2), key.size(3),
                        patch_size, torch::stable::new_empty(weights, shape_of(index))),
      .key = torch::stable::contiguous(key),
      .output = torch::stable::contiguous(output)};
#ifdef PATCHSWAP_CUDA
  if (grad_output.is_cuda()) {
    fold_weights_backward_cuda(work);
    return work.call.result;
  }
#endif
  fold_weights_backward_cpu(work);
  return work.call.result;
}

Tensor padded(const Tensor& features, int64_t padding) {
  if (padding == 0) return features;
  const int64_t sides[] = {padding, padding, padding, padding};
  return torch::stable::pad(features, {sides, 4}, "constant", 0.0);
}

// The inverse of padded.
Tensor cropped(const Tensor& features, int64_t padding) {
  if (padding == 0) return features;
  Tensor result = features;
  for (int64_t dimension = 2; dimension < 4; dimension++) {
    result = torch::stable::narrow(result, dimension, padding, result.size(dimension) - 2 * padding);
  }
  return torch::stable::contiguous(result);
}

// The arguments of similarity, checked, but for the score. Both maps are padded.
SimilarityCall similarity_call(const char* op, const Tensor& query, const Tensor& key, const Tensor& index,
                               int64_t patch_size, int64_t padding) {
  check_features(op, "query", query);
  check_features(op, "key", key);
  check_like(op, "query", query, "key", key);
  check_same_batch_and_channels(op, query, key);
  check_patch_size(op, patch_size);
  require(padding >= 0 && padding < patch_size, op, ": padding must be from 0 to ", patch_size - 1, " at patch_size ",
          patch_size, "; got ", padding);
  const Grid grid = patch_grid(query.size(2) + 2 * padding, query.size(3) + 2 * padding, patch_size);
  const Grid key_grid = patch_grid(key.size(2) + 2 * padding, key.size(3) + 2 * padding, patch_size);
  check_query_index(op, index, query, grid, patch_size);
  return {.query = padded(query, padding),
          .key = padded(key, padding),
          .index = torch::stable::contiguous(index),
          .batch = query.size(0),
          .channels = query.size(1),
          .ranks = ranks_of(index),
          .rows = grid.rows,
          .columns = grid.columns,
          .key_rows = key_grid.rows,
          .key_columns = key_grid.columns,
          .patch_size = patch_size};
}

Tensor similarity(Tensor query, Tensor key, Tensor index, int64_t patch_size, int64_t padding) {
  SimilarityCall call = similarity_call("similarity", query, key, index, patch_size, padding);
  call.score = torch::stable::new_empty(query, shape_of(index), score_dtype(query));
#ifdef PATCHSWAP_CUDA
  if (query.is_cuda()) {
    similarity_cuda(call);
    return call.score;
  }
#endif
  similarity_cpu(call);
  return call.score;
}

void check_score(const char* op, const char* name, const Tensor& tensor, const Tensor& index, const Tensor& query) {
  require(tensor.scalar_type() == score_dtype(query), op, ": ", name, " must be ",
          score_dtype(query) == ScalarType::Double ? "float64" : "float32", " where query is ", dtype_text(query),
          "; got ", dtype_text(tensor));
  require(shape_of(tensor) == shape_of(index), op, ": ", name, " must have the shape of index ", shape_text(index),
          "; got ", shape_text(tensor));
  check_device(op, name, tensor, "query", query);
}

// The arguments of a gradient of similarity, checked; the result has the shape of the map `of`, padded.
SimilarityGradientCall similarity_gradient_call(const char* op, const Tensor& grad_score, const Tensor& query,
                                                const Tensor& key, const Tensor& index, const Tensor& score,
                                                int64_t patch_size, int64_t padding, Tensor SimilarityCall::* of) {
  SimilarityGradientCall work{.call = similarity_call(op, query, key, index, patch_size, padding)};
  check_score(op, "grad_score", grad_score, index, query);
  check_score(op, "score", score, index, query);
  work.call.score = torch::stable::contiguous(score);
  work.grad_score = torch::stable::contiguous(grad_score);
  work.result = torch::stable::new_empty(work.call.*of, shape_of(work.call.*of));
  return work;
}

Tensor similarity_query_backward(Tensor grad_score, Tensor query, Tensor key, Tensor index, Tensor score,
                                 int64_t patch_size, int64_t padding) {
  const SimilarityGradientCall work = similarity_gradient_call(
      "similarity_query_backward", grad_score, query, key, index, score, patch_size, padding, &SimilarityCall::query);
#ifdef PATCHSWAP_CUDA
  if (query.is_cuda()) {
    similarity_query_backward_cuda(work);
    return cropped(work.result, padding);
  }
#endif
  similarity_query_backward_cpu(work);
  return cropped(work.result, padding);
}

Tensor similarity_key_backward(Tensor grad_score, Tensor query, Tensor key, Tensor index, Tensor score,
                               int64_t patch_size, int64_t padding) {
  const SimilarityGradientCall work = similarity_gradient_call("similarity_key_backward", grad_score, query, key, index,
                                                               score, patch_size, padding, &SimilarityCall::key);
#ifdef PATCHSWAP_CUDA
  if (query.is_cuda()) {
    similarity_key_backward_cuda(work);
    return cropped(work.result, padding);
  }
#endif
  similarity_key_backward_cpu(work);
  return cropped(work.result, padding);
}

void check_float(const char* op, const char* name, const Tensor& tensor) {
  require(tensor.scalar_type() == ScalarType::Float, op, ": ", name, " must be float32; got ", dtype_text(tensor));
}

// A (B, C, H, W) map as (B, H, W, C), copied only where the channels of a cell do not lie side by side.
Tensor as_cells(const Tensor& features) {
  const Tensor cells = torch::stable::transpose(torch::stable::transpose(features, 1, 3), 1, 2);
  return cells.stride(3) == 1 ? cells : torch::stable::contiguous(cells);
}

Tensor convolve(Tensor features, Tensor weight, std::optional<Tensor> bias, std::optional<Tensor> skip,
                int64_t dilation, bool doubled, bool replicate, double slope) {
  require(features.dim() == 4, "convolve: features must have shape (B, C, H, W); got ", shape_text(features));
  const auto check = [&](const char* name, const Tensor& tensor) {
    check_float("convolve", name, tensor);
    check_device("convolve", name, tensor, "features", features);
  };
  check("features", features);
  if (skip) check("skip", *skip);
  check("weight", weight);
  if (bias) check("bias", *bias);
  require(dilation >= 1 && dilation <= kMaxDilation && (dilation == 1 || !doubled),
          "convolve: dilation must be from 1 to ", kMaxDilation, ", and 1 where the map is doubled; got ", dilation);
  const int64_t scale = doubled ? 2 : 1;
  const int64_t batch = features.size(0), height = scale * features.size(2), width = scale * features.size(3);
  if (skip) {
    require(skip->dim() == 4 && skip->size(0) == batch && skip->size(2) == height && skip->size(3) == width,
            "convolve: skip must have shape (", batch, ", C, ", height, ", ", width, "), the size of the result; got ",
            shape_text(*skip));
  }
  const int64_t channels = features.size(1) + (skip ? skip->size(1) : 0);
  require(weight.dim() == 4 && weight.size(1) == channels && weight.size(2) == 3 && weight.size(3) == 3,
          "convolve: weight must have shape (O, ", channels, ", 3, 3), the channels of features and skip; got ",
          shape_text(weight));
  if (bias) {
    require(bias->dim() == 1 && bias->size(0) == weight.size(0), "convolve: bias must have shape (", weight.size(0),
            "), the first of weight; got ", shape_text(*bias));
  }
  const int64_t shape[] = {batch, height, width, weight.size(0)};
  const ConvolveCall call{.features = as_cells(features),
                          .skip = skip ? std::optional<Tensor>(as_cells(*skip)) : std::nullopt,
                          .weight = weight,
                          .bias = contiguous(bias),
                          .dilation = dilation,
                          .doubled = doubled,
                          .replicate = replicate,
                          .slope = slope,
                          .result = torch::stable::new_empty(features, {shape, 4})};
  convolve_cpu(call);
  return torch::stable::transpose(torch::stable::transpose(call.result, 1, 3), 2, 3);
}

Tensor fill_smoothly(Tensor image, Tensor hole) {
  check_features("fill_smoothly", "image", image);
  require(hole.scalar_type() == ScalarType::Bool, "fill_smoothly: hole must be bool with True = hole; got ",
          dtype_text(hole));
  require(hole.dim() == 3 && hole.size(0) == image.size(0) && hole.size(1) == image.size(2) &&
              hole.size(2) == image.size(3),
          "fill_smoothly: hole must have shape (", image.size(0), ", ", image.size(2), ", ", image.size(3),
          "), one value for each pixel; got ", shape_text(hole));
  check_device("fill_smoothly", "hole", hole, "image", image);
  check_float("fill_smoothly", "image", image);
  const FillCall call{.image = image, .hole = torch::stable::contiguous(hole), .result = torch::stable::clone(image)};
#ifdef PATCHSWAP_CUDA
  if (image.is_cuda()) {
    fill_smoothly_cuda(call);
    return call.result;
  }
#endif
  fill_smoothly_cpu(call);
  return call.result;
}

}  // namespace

std::string number_text(double number) {
  std::ostringstream text;
  text << number;
  return std::isnan(number) ? "nan" : text.str();
}

std::string metric_obstacle(const MatchCall& call) {
  for (const NamedMetric& one : kMetrics) {
    if (one.metric == call.metric && call.metric != Metric::kNcc) return "metric is \"" + std::string(one.name) + "\"";
  }
  return call.key_weight ? "key_weight is given" : "";
}

bool is_same_map(const Tensor& map, const Tensor& other) {
  if (map.const_data_ptr() != other.const_data_ptr()) return false;
  for (int64_t i = 0; i < map.dim(); i++) {
    if (map.size(i) != other.size(i) || map.stride(i) != other.stride(i)) return false;
  }
  return true;
}

bool is_channels_last(const Tensor& features) {
  const int64_t channels = features.size(1), height = features.size(2), width = features.size(3);
  return features.stride(1) == 1 && features.stride(3) == channels && features.stride(2) == width * channels &&
         features.stride(0) == height * width * channels;
}

void log_choice(const MatchCall& call, const KernelChoice& choice) {
  static const char* const variable = std::getenv("PATCHSWAP_LOG");
  static const bool is_wanted = variable && *variable && std::string_view(variable) != "0";
  if (!is_wanted) return;
  const std::string line =
      "patchswap.match: " + choice.kernel + " on " + device_text(call.query) + ": " + choice.reason + "\n";
  std::fputs(line.c_str(), stderr);
}

}  // namespace patchswap

STABLE_TORCH_LIBRARY(patchswap, library) {
  library.def(
      "match(Tensor query, Tensor key, Tensor? query_mask, Tensor? "
      "key_mask, int patch_size, int topk, str precision=\"exact\", str "
      "method=\"auto\", str metric=\"ncc\", Tensor? key_weight=None) -> "
      "(Tensor index, Tensor score, Tensor tally)");
  library.def(
      "match_part(Tensor query, Tensor key, Tensor? query_mask, Tensor? "
      "key_mask, int patch_size, int topk, str precision, str method, str "
      "metric, Tensor? key_weight, int whole_height) -> (Tensor index, "
      "Tensor score, Tensor ranking)");
  library.def(
      "explain(Tensor query, Tensor key, Tensor? query_mask, Tensor? "
      "key_mask, int patch_size, int topk, str precision=\"exact\", str "
      "method=\"auto\", str metric=\"ncc\", Tensor? key_weight=None) -> str");
  library.def(
      "cohere(Tensor index, Tensor query, Tensor key, Tensor? query_mask, "
      "Tensor? key_mask, float weight, int sweeps, int patch_size, str metric=\"ncc\") -> "
      "(Tensor index, Tensor score)");
  library.def(
      "fold(Tensor index, Tensor key, Tensor? base, SymInt height, SymInt "
      "width, int patch_size, Tensor? weights=None) -> Tensor");
  library.def(
      "fold_backward(Tensor grad_output, Tensor index, SymInt key_height, "
      "SymInt key_width, int patch_size, Tensor? weights=None) -> Tensor");
  library.def(
      "fold_weights_backward(Tensor grad_output, Tensor index, Tensor key, "
      "Tensor output, Tensor weights, int patch_size) -> Tensor");
  library.def("similarity(Tensor query, Tensor key, Tensor index, int patch_size, int padding=0) -> Tensor");
  library.def(
      "similarity_query_backward(Tensor grad_score, Tensor query, Tensor key, "
      "Tensor index, Tensor score, int patch_size, int padding=0) -> Tensor");
  library.def(
      "similarity_key_backward(Tensor grad_score, Tensor query, Tensor key, "
      "Tensor index, Tensor score, int patch_size, int padding=0) -> Tensor");
  library.def(
      "convolve(Tensor features, Tensor weight, Tensor? bias, Tensor? "
      "skip, int dilation, bool doubled, bool replicate, float slope) -> Tensor");
  library.def("fill_smoothly(Tensor image, Tensor hole) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(patchswap, CPU, library) {
  library.impl("match", TORCH_BOX(&patchswap::match));
  library.impl("match_part", TORCH_BOX(&patchswap::match_part));
  library.impl("explain", TORCH_BOX(&patchswap::explain));
  library.impl("cohere", TORCH_BOX(&patchswap::cohere));
  library.impl("fold", TORCH_BOX(&patchswap::fold));
  library.impl("fold_backward", TORCH_BOX(&patchswap::fold_backward));
  library.impl("fold_weights_backward", TORCH_BOX(&patchswap::fold_weights_backward));
  library.impl("similarity", TORCH_BOX(&patchswap::similarity));
  library.impl("similarity_query_backward", TORCH_BOX(&patchswap::similarity_query_backward));
  library.impl("similarity_key_backward", TORCH_BOX(&patchswap::similarity_key_backward));
  library.impl("convolve", TORCH_BOX(&patchswap::convolve));
  library.impl("fill_smoothly", TORCH_BOX(&patchswap::fill_smoothly));
}

#ifdef PATCHSWAP_CUDA
STABLE_TORCH_LIBRARY_IMPL(patchswap, CUDA, library) {
  library.impl("match", TORCH_BOX(&patchswap::match));
  library.impl("match_part", TORCH_BOX(&patchswap::match_part));
  library.impl("explain", TORCH_BOX(&patchswap::explain));
  library.impl("cohere", TORCH_BOX(&patchswap::cohere));
  library.impl("fold", TORCH_BOX(&patchswap::fold));
  library.impl("fold_backward", TORCH_BOX(&patchswap::fold_backward));
  library.impl("fold_weights_backward", TORCH_BOX(&patchswap::fold_weights_backward));
  library.impl("similarity", TORCH_BOX(&patchswap::similarity));
  library.impl("similarity_query_backward", TORCH_BOX(&patchswap::similarity_query_backward));
  library.impl("similarity_key_backward", TORCH_BOX(&patchswap::similarity_key_backward));
  library.impl("fill_smoothly", TORCH_BOX(&patchswap::fill_smoothly));
}
#endif

// What was built, for patchswap.build_info(). Plain C functions: with them the library needs nothing of Python.
#define PATCHSWAP_EXPORT extern "C" __attribute__((visibility("default")))

PATCHSWAP_EXPORT const char* patchswap_cpu_kernel() { return patchswap::cpu_kernel_name(); }

// The compute capabilities that the CUDA kernels were compiled for, joined by commas, as setup.py names them.
PATCHSWAP_EXPORT const char* patchswap_cuda_architectures() { return PATCHSWAP_CUDA_ARCHITECTURES; }

#ifdef PATCHSWAP_CUDA
PATCHSWAP_EXPORT const char* patchswap_cuda_toolkit() { return patchswap::cuda_toolkit(); }
#else
PATCHSWAP_EXPORT const char* patchswap_cuda_toolkit() { return ""; }
#endif
