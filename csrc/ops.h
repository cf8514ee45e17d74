// The operators: what they compute, once for every backend.
//
// Letters: B samples, C channels, p patch size (1 to 7), query features (B, C, H, W), key features
// (B, C, H', W'). A patch is the p x p window of cells below and right of its top-left cell, over all channels; only
// windows wholly inside the map count. Patch grids are (H-p+1, W-p+1), empty where no patch fits, and indices are
// row-major in them.
//
// match(Tensor query, Tensor key, Tensor? query_mask, Tensor? key_mask, int patch_size, int topk,
//       str precision="exact", str method="auto", str metric="ncc", Tensor? key_weight=None)
//     -> (Tensor index, Tensor score, Tensor tally)
//
//   For every query patch its topk (1 to 8) best key patches, those with the highest score.
//
//   - metric: "ncc", score <q, k> / (|q| |k|), the normalised cross-correlation; "l2", score -|q - k|^2; "dot", score
//     <q, k>. l2 is summed as 2 <q, k> - |k|^2 - |q|^2, and exact up to rounding relative to |q|^2 + |k|^2.
//   - key_weight: (B, H'-p+1, W'-p+1), float32 (float64 for float64 features), finite and 0 or more: a score is
//     multiplied by that of its key; absent = 1. Other values: an error on the CPU, on CUDA such a key is never chosen.
//   - query, key: float32, bfloat16, float16 (accumulated in float32) or float64 (in float64), same dtype and device.
//   - query_mask: bool (B, H-p+1, W-p+1), True = take part; key_mask the same on the key's grid; absent = all.
//   - precision: "exact", or "fast": a kernel may rank keys in half precision only.
//   - method: "auto", or the kernel to use: "dense" or "pruned" on the CPU, "direct", "mma" or "wgmma" on CUDA.
//     An error where that kernel does not exist for the given device, dtype, patch_size, topk, metric or key_weight.
//   - index: int64 (B, topk, H-p+1, W-p+1), best first; score: the same shape, float32 or float64.
//   - Ties: of equal rankings (metric.h: scores before what is the same for all keys of a query) the lowest key index
//     comes first. Equal patches of equal weight have equal scores, bit for bit.
//   - Zero norm: a patch whose squared norm is below the smallest normal number has score 0 by ncc with every other. It
//     stays a valid key; as a query it takes the lowest valid index.
//   - No match: queries that take no part, and ranks beyond the number of valid keys, hold index -1 and score -inf.
//   - Not finite: NaN, Inf and squared patch norms beyond float32 are an error on the CPU. The CUDA kernel does not
//     wait for the device to find out: such a query gets index -1 and score NaN, such a key is never chosen. Nor is a
//     key whose score leaves the range of its dtype downwards.
//
//   - tally: int64 (2,): key patches scored in full precision after a coarse score had let them through, and queries
//     for which the coarse scores could not decide, which were searched in full. Zeros where nothing is scored
//     coarsely. Not deterministic: how many keys a bound rules out depends on which thread or block comes first.
//
// match_part(Tensor query, Tensor key, Tensor? query_mask, Tensor? key_mask, int patch_size, int topk, str precision,
//            str method, str metric, Tensor? key_weight, int whole_height)
//     -> (Tensor index, Tensor score, Tensor ranking)
//
//   match for a key that is some rows of a map of whole_height rows. Where the same kernel runs for all parts, and each
//   key patch lies in one part at least, the best of their results by ranking, then lowest index, are those of match
//   with the whole map, bit for bit: a score does not depend on the other rows.
//
//   - index: as match, counting the patches of this part.
//   - ranking: shape and dtype of score, what keys are ordered by (metric.h); -inf where index is -1. Several rankings
//     may round to one score.
//   - whole_height: at least the rows of key.
//
// explain(Tensor query, Tensor key, Tensor? query_mask, Tensor? key_mask, int patch_size, int topk,
//         str precision="exact", str method="auto", str metric="ncc", Tensor? key_weight=None) -> str
//
//   Which kernel match runs for these arguments, and why, without running it: a line "kernel<tab>reason" for each
//   sample on the CPU, where the masks count, and one for the batch on CUDA.
//
// cohere(Tensor index, Tensor query, Tensor key, Tensor? query_mask, Tensor? key_mask, float weight, int sweeps,
//        int patch_size, str metric="ncc") -> (Tensor index, Tensor score)
//
//   Chooses the keys of a match anew so that neighbouring queries agree. The offset of query i with key k is k - i, a
//   difference of rows and of columns. Its neighbours are the up to eight queries around it that have a key. In each
//   sweep every query takes, of its own offset and its neighbours', the offset o with the highest
//       score of q and k by metric + weight * (neighbours whose offset is o) / 8,    k the key at i + o.
//   An offset is left out where i + o is no key: outside the key's grid, or masked. All queries choose at once, by the
//   offsets of the sweep before. This climbs, as a rule, an energy of Potts' kind: the scores plus the weight of
//   all neighbours that agree. It need not reach the highest, a sweep may go down, and two neighbours may go on
//   exchanging their offsets.
//
//   - index: int64 (B, H-p+1, W-p+1) or (B, k, H-p+1, W-p+1), as match returns it; k from 1 to 8. A query has a key
//     where its first rank is a key and query_mask is not False; else it gets index -1 and score -inf.
//   - The further ranks count in the first sweep only. A query may take an offset of any of its own ranks, and a
//     neighbour agrees with o where any of its ranks has this offset. (First ranks alone would make others useless: an
//     offset without support is worth no more than the first.)
//   - Ties: its own offset goes first, then those of its ranks, then its neighbours' in row-major order.
//   - weight: finite, 0 or more. At 0, as with no sweeps, every query keeps its key.
//   - query, key, masks: as for match. Zero norm: as for match. The result is on the query's grid, (B, H-p+1, W-p+1);
//     score is that of the key chosen, float32 or float64.
//   - metric: as for match. The weight counts in units of the score.
//   - A key beyond the last: an error on the CPU, taken as -1 by the CUDA kernel.
//   - Not finite: a patch with NaN, Inf or a squared norm beyond float32 has score NaN with every other. A key is never
//     taken for it, and a query with such a score keeps its key and has score NaN. Nothing is checked.
//   - CUDA takes fewer than 2^30 cells in one channel of one sample.
//
// fold(Tensor index, Tensor key, Tensor? base, SymInt height, SymInt width, int patch_size, Tensor? weights=None)
//     -> Tensor
//
//   Every cell of the (B, C, height, width) result is the mean of the matched key patches that cover it, up to k * p *
//   p of them; a cell that none covers takes base, or 0. With weights it is their weighted mean
//       out = sum of w_i k_i / W,    W = sum of w_i,
//   over the copies i that cover the cell, where k_i is what copy i has there. It is summed as (w_i / W) k_i, rank by
//   rank.
//
//   - index: int64 (B, height-p+1, width-p+1), or (B, k, height-p+1, width-p+1) for copies of k keys, k from 1 to 8,
//     into the key's patch grid, -1 = no patch. Beyond the last key patch: an error on the CPU, taken as -1 by the CUDA
//     kernel.
//   - patch_size: the kernels are compiled apart for 1, 3 and 5.
//   - key, base: dtypes as query above, the same for both; the result has their dtype.
//   - weights: the shape of index, float32, or float64 for float64 keys; from 0 to 1e37, or to 1e35 where k * p * p is
//     above 25, so that those of a cell have a finite sum. A patch of weight 0 counts as no patch. Other values: an
//     error on the CPU, taken as 0 by the CUDA kernel.
//   - CUDA takes fewer than 2^30 cells in one channel of one sample.
//
// fold_backward(Tensor grad_output, Tensor index, SymInt key_height, SymInt key_width, int patch_size,
//     Tensor? weights=None) -> Tensor
//
//   Gradient of fold with respect to key: (B, C, key_height, key_width) in grad_output's dtype.
//
// fold_weights_backward(Tensor grad_output, Tensor index, Tensor key, Tensor output, Tensor weights, int patch_size)
//     -> Tensor
//
//   Gradient of fold with respect to weights: of copy i the sum of <grad, k_i - out> / W over the cells that it covers,
//   with k_i and W as above and out from output, the result of fold. 0 where there is no patch. Cells whose W is 0, at
//   which fold has a step, are left out. Shape and dtype of weights. Without a gradient.
//
// similarity(Tensor query, Tensor key, Tensor index, int patch_size, int padding=0) -> Tensor
//
//   The normalised cross-correlation s = <q, k> / (|q| |k|) of every query patch q with each key patch k that index
//   names: the score of match, with a gradient.
//
//   - query, key: as for match, of any strides.
//   - padding: cells of zeros around both maps, from 0 to p - 1; H, W and the key's grid count them. Maps that were
//     padded outside would be kept for the gradient.
//   - index: int64 (B, H-p+1, W-p+1) or (B, k, H-p+1, W-p+1), k from 1 to 8. -1 = no key: score -inf, no gradient.
//     Beyond the last key patch: an error on the CPU, taken as -1 by the CUDA kernel.
//   - score: the shape of index, float32, or float64 for float64 features.
//   - Zero norm: as for match the score is 0, and so is its gradient.
//   - Not finite: a patch with NaN, Inf or a squared norm beyond float32 has score NaN with every other.
//   - CUDA takes fewer than 2^30 cells in one channel of one sample.
//
// similarity_query_backward(Tensor grad_score, Tensor query, Tensor key, Tensor index, Tensor score, int patch_size,
//     int padding=0) -> Tensor
// similarity_key_backward(the same) -> Tensor
//
//   Gradients of similarity: with g = grad_score a pair of patches adds g / |q| (k / |k| - s q / |q|) to the cells of
//   q, and g / |k| (q / |q| - s k / |k|) to those of k. score is the result of similarity, grad_score has its shape and
//   dtype and may hold anything where there is no key. Contiguous, in the shape and dtype of query or key. Without a
//   gradient.
//
// convolve(Tensor features, Tensor weight, Tensor? bias, Tensor? skip, int dilation, bool doubled, bool replicate,
//     float slope) -> Tensor
//
//   leaky_relu(conv2d(pad(cat([x, skip], dim=1)), weight, bias, dilation), slope), where x is features, each cell of it
//   repeated 2 x 2 times if doubled, and pad adds `dilation` cells on each side: the outermost one if replicate, else
//   zeros. What the networks that make features, and pictures of them, consist of. A slope of 0 is a ReLU, 1 nothing.
//   For inference: it has no gradient, and a kernel on the CPU only.
//
//   - features (B, C, H, W), skip (B, C', H', W') or none, weight (O, C + C', 3, 3), bias (O): float32.
//   - The result, (B, O, H', W') with H' = 2 H if doubled, is channels last in memory. It differs from the
//     direct sum by rounding, some ten times as much as that sum itself.
//
// fill_smoothly(Tensor image, Tensor hole) -> Tensor
//
//   A smooth interpolation of the known pixels into the hole by pull-push (Gortler et al. 1996, section 3.4.2). Every
//   cell has a value and a weight, which says how much of it is known: at level 0, the picture, 0 in the hole and 1
//   elsewhere.
//   Pull: each level has half the rows and columns of the last, rounded up, until one cell is left. Its cells take the
//   weighted mean of the up to 2 x 2 cells below, and twice the mean of their weights, at most 1.
//   Push: from the top down, a cell becomes weight * value + (1 - weight) * x, where x is the level above, interpolated
//   bilinearly with half-pixel centres; then twice the same with x the mean of the 3 x 3 cells around, where beyond the
//   border the outermost cells are repeated.
//
//   - image (B, C, H, W): float32, of any strides. What it holds inside the hole does not matter.
//   - hole: bool (B, H, W), True = hole.
//   - The result, laid out in memory as torch.empty_like(image), holds known pixels bit for bit. In the hole it is in
//     the range of the known pixels of the same sample and channel, up to rounding, and 0 where a sample has none.
//     Known pixels that are not finite may spread through the hole of their sample and channel.
//   - It has no gradient; patchswap.ops.fill_smoothly takes the reference where one is asked for, and other dtypes.
//   - CUDA takes fewer than 2^30 cells in one channel of one sample.
//
// All results but tally are deterministic: sums have a fixed order, no feature is added atomically, and the number of
// threads does not matter. None stores anything of the size queries x keys.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "metric.h"

namespace patchswap {

using torch::stable::Tensor;

constexpr int64_t kMaxTopk = 8;
constexpr int64_t kMaxDilation = 1024;
constexpr int64_t kMaxPatch = 7;
// Of fold, by the copies that may lie on a cell: as many of them have a finite sum in float32.
constexpr double max_weight(int64_t copies) { return copies <= 25 ? 1e37 : 1e35; }

// A checked call of match. Tensors are contiguous, but for query and key, which may have any strides; rows and columns
// count patches. On the CPU index, score and ranking arrive holding -1 and -inf, and tally zeros; on CUDA they hold
// nothing yet and match_cuda writes every entry.
struct MatchCall {
  Tensor query, key;
  std::optional<Tensor> query_mask, key_mask;
  int64_t batch, channels;
  int64_t query_height, query_width, key_height, key_width;
  int64_t query_rows, query_columns, key_rows, key_columns;
  int64_t patch_size, topk;
  bool fast;           // precision is "fast"
  std::string method;  // one of kMethods
  Metric metric;
  std::optional<Tensor> key_weight;  // in the dtype of scores
  int64_t whole_height;              // of the map that key is a part of, or all of
  Tensor index, score, tally;
  std::optional<Tensor> ranking;  // like score; of match_part

  int64_t queries() const { return batch * query_rows * query_columns; }
};

// Every value of `method`, and where it may be given: the one list of them in C++, as METHODS is in contract.py.
struct Method {
  const char* name;
  bool is_on_cpu, is_on_cuda;
};
constexpr Method kMethods[] = {{"auto", true, true},    {"dense", true, false}, {"pruned", true, false},
                               {"direct", false, true}, {"mma", false, true},   {"wgmma", false, true}};

// Every value of `metric`, as METRICS in contract.py.
struct NamedMetric {
  const char* name;
  Metric metric;
};
constexpr NamedMetric kMetrics[] = {{"ncc", Metric::kNcc}, {"l2", Metric::kL2}, {"dot", Metric::kDot}};

// What of a call a search by bounds or in half precision does not take, as these know the plain NCC only; empty where
// it is that.
std::string metric_obstacle(const MatchCall& call);

// A number as errors write it: nan without a sign.
std::string number_text(double number);

// Whether two maps of the same dimensions are one: the same numbers in the same layout.
bool is_same_map(const Tensor& map, const Tensor& other);

// Whether the channels of each cell lie side by side, and the cells as they do in a contiguous map.
bool is_channels_last(const Tensor& features);

// The kernel that a call of match runs, by its name among kMethods, and why it is this one.
struct KernelChoice {
  std::string kernel, reason;
};
// Writes a choice to stderr where the environment variable PATCHSWAP_LOG is set.
void log_choice(const MatchCall& call, const KernelChoice& choice);

// A checked call of cohere. Index and masks are contiguous, query and key may have any strides; rows and columns count
// patches. index and score arrive holding nothing.
struct CohereCall {
  Tensor given;  // [B][ranks][query_rows][query_columns]
  Tensor query, key;
  std::optional<Tensor> query_mask, key_mask;
  int64_t batch, channels, ranks;
  int64_t query_rows, query_columns, key_rows, key_columns;
  int64_t patch_size, sweeps;
  double weight;
  Metric metric;
  Tensor index, score;
};

// A checked call of fold or fold_backward. Tensors are contiguous, but for the source of fold, which may be channels
// last. index and weights are [batch][ranks][rows][columns]; `key_rows` and `key_columns` count key patches. Where
// is_laid, the cells of the result that no patch covers hold their values already; else they take base, or 0.
//   fold: source is key (B, C, key_height, key_width), result is (B, C, height, width).
//   fold_backward: source is grad_output (B, C, height, width), result is (B, C, key_height, key_width).
// weights are in the dtype of sums, float32 or float64.
struct FoldCall {
  Tensor index, source;
  std::optional<Tensor> base, weights;
  bool is_laid;
  int64_t batch, channels;
  int64_t height, width, key_height, key_width;
  int64_t ranks, rows, columns, key_rows, key_columns;
  int64_t patch_size;
  Tensor result;

  double most_weight() const { return max_weight(ranks * patch_size * patch_size); }
};

// A checked call of fold_weights_backward. Tensors are contiguous. Of `call` the source is grad_output, and the result
// has the shape of weights.
struct FoldWeightsCall {
  FoldCall call;
  Tensor key, output;  // of fold: (B, C, key_height, key_width) and (B, C, height, width)
};

// A checked call of similarity. query and key may have any strides, index and score are contiguous
// [batch][ranks][rows][columns]. score arrives holding nothing.
struct SimilarityCall {
  Tensor query, key, index;
  int64_t batch, channels;
  int64_t ranks, rows, columns, key_rows, key_columns;
  int64_t patch_size;
  Tensor score;
};

// A checked call of similarity_query_backward or similarity_key_backward. Of `call` the score is given. grad_score is
// like it; result, of query's or key's shape, is contiguous.
struct SimilarityGradientCall {
  SimilarityCall call;
  Tensor grad_score, result;
};

// A checked call of convolve. Cells lie channels last, [B][H][W][C] with any strides but that of the channels, which is
// 1; the result is contiguous (B, H', W', O). The weight may have any strides; the bias is contiguous.
struct ConvolveCall {
  Tensor features;
  std::optional<Tensor> skip;
  Tensor weight;
  std::optional<Tensor> bias;
  int64_t dilation;
  bool doubled, replicate;
  double slope;
  Tensor result;
};

// A checked call of fill_smoothly. hole is contiguous, image and result may have any strides; the result holds a copy
// of image, of which the hole is to be written.
struct FillCall {
  Tensor image, hole;
  Tensor result;
};

// The one place on each device where a kernel of match is chosen; match_cpu and match_cuda run what it says. For the
// CPU one choice for each sample, for CUDA one for the batch. Both throw where the method cannot be had for such a
// call.
std::vector<KernelChoice> choose_cpu(const MatchCall& call);
KernelChoice choose_cuda(const MatchCall& call);

void match_cpu(const MatchCall& call);
void cohere_cpu(const CohereCall& call);
void fold_cpu(const FoldCall& call);
void fold_backward_cpu(const FoldCall& call);
void fold_weights_backward_cpu(const FoldWeightsCall& work);
void similarity_cpu(const SimilarityCall& call);
void similarity_query_backward_cpu(const SimilarityGradientCall& work);
void similarity_key_backward_cpu(const SimilarityGradientCall& work);
void convolve_cpu(const ConvolveCall& call);
void fill_smoothly_cpu(const FillCall& call);

// Instruction set that match_cpu uses on this machine: "avx512vnni", "avx512", "avx2" or "generic".
const char* cpu_kernel_name();

#ifdef PATCHSWAP_CUDA
void match_cuda(const MatchCall& call);
void cohere_cuda(const CohereCall& call);
void fold_cuda(const FoldCall& call);
void fold_backward_cuda(const FoldCall& call);
void fold_weights_backward_cuda(const FoldWeightsCall& work);
void similarity_cuda(const SimilarityCall& call);
void similarity_query_backward_cuda(const SimilarityGradientCall& work);
void similarity_key_backward_cuda(const SimilarityGradientCall& work);
void fill_smoothly_cuda(const FillCall& call);

// Version of the CUDA toolkit that compiled the kernels.
const char* cuda_toolkit();
#endif

}  // namespace patchswap
