// What finds the axes.

// All products of `rows` packed rows with `columns` packed ones, a multiple of the lanes, as numbers of one depth.
template <class Number>
void multiply_panels(const Number* left, int64_t rows, const Number* right, int64_t columns, int64_t depth,
                     Number* result, int64_t stride) {
  using Rows = Walk<FullProducts<Number>>;
  constexpr int64_t kLanes = Rows::kLanes;
  int64_t j = 0;
  for (; j + 2 * kLanes <= columns; j += 2 * kLanes) {
    Rows::template multiply_rows<2>(left, rows, right + j * depth, {.numbers = depth}, result + j, stride);
  }
  if (j < columns)
    Rows::template multiply_rows<1>(left, rows, right + j * depth, {.numbers = depth}, result + j, stride);
}

inline float inner_product(const float* left, const float* right, int64_t count) {
  constexpr int64_t kLanes = 64;
  float lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t n = 0; n < kLanes; n++) lane[n] += left[i + n] * right[i + n];
  }
  for (int64_t n = 0; i + n < count; n++) lane[n] += left[i + n] * right[i + n];
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t n = 0; n < half; n++) lane[n] += lane[n + half];
  }
  return lane[0];
}

// Gram-Schmidt on the vectors [begin, end), which are orthogonal to all before them. `norms` are those that the vectors
// had at first: one of which little is left, as it lies in the span of those before it, is replaced by a coordinate
// axis that does not. Fewer axes lie in that span than there are, so one of them is found.
inline void orthonormalise_block(float* vectors, int64_t begin, int64_t end, int64_t length, float* norms) {
  int64_t coordinate = begin;
  for (int64_t i = begin; i < end; i++) {
    float* vector = vectors + i * length;
    for (int64_t first = begin; true; first = 0) {
      for (int64_t j = first; j < i; j++) {
        const float* other = vectors + j * length;
        const float along = inner_product(vector, other, length);
        for (int64_t n = 0; n < length; n++) vector[n] -= along * other[n];
      }
      const float norm = std::sqrt(inner_product(vector, vector, length));
      if (norm > 1e-3f * norms[i] && norm > 1e-20f) {
        for (int64_t n = 0; n < length; n++) vector[n] /= norm;
        break;
      }
      std::fill_n(vector, length, 0.0f);
      vector[coordinate++ % length] = 1;
      norms[i] = 1;
    }
  }
}
