// Words and errors of kEncodedTogether slots, from the given one on.
inline void encode_slots(const EncodeTask& task, int64_t first) {
  using Floats = Registers<float, kEncodedTogether * 4>;
  using Ints = Registers<int32_t, kEncodedTogether * 4>;
  using Values = Floats::Vector;
  using Numbers = Ints::Vector;
  const CoarseScheme& scheme = task.scheme;
  const Basis& basis = scheme.basis;
  const int64_t words = scheme.depth().numbers, panel = task.panel;
  const int64_t present = std::min(kEncodedTogether, task.word_slots - first);
  int32_t* const to = task.words + first / panel * words * panel;
  const float* from = task.coordinates + first;
  const float trailing_factor = static_cast<float>(task.factor);
  const float leading_factor = trailing_factor * (1 << kLeadingShift);
  Values size = {}, error = {}, along = {};
  int32_t word[kEncodedTogether];

  auto store = [&](int64_t index) __attribute__((always_inline)) {
    for (int64_t i = 0; i < present; i += panel) {
      for (int64_t n = 0; n < panel; n++) to[(i / panel * words + index) * panel + n] = word[i + n];
    }
  };

  for (int64_t pair = 0; pair < scheme.pairs; pair++) {
    Numbers packed = {};
    for (int64_t i = 2 * pair; i < std::min(2 * pair + 2, basis.leading); i++, from += task.slots) {
      const Values value = Floats::load(from) * leading_factor;
      Values clipped = value > kMostLeading ? Values{} + kMostLeading : value;
      clipped = clipped < -kMostLeading ? Values{} - kMostLeading : clipped;
      const Numbers number =
          __builtin_convertvector(clipped + (clipped < 0 ? Values{} - 0.5f : Values{} + 0.5f), Numbers);
      const Values rounded = __builtin_convertvector(number, Values), lost = value - rounded;
      size += rounded * rounded;
      error += lost * lost;
      along += value * value;
      packed |= (number & 0xffff) << (i % 2 * 16);
    }
    Ints::at(word) = packed;
    store(pair);
  }
  constexpr float kFine = 1.0f / (1 << 2 * kLeadingShift);
  float leading_size[kEncodedTogether], leading_error[kEncodedTogether];
  Floats::at(leading_size) = size * kFine;
  Floats::at(leading_error) = error * kFine;
  along *= kFine;
  for (int64_t i = 0; i < present; i++) {
    if (leading_size[i] < kMostLeadingSquare * kFine) continue;
    // Too large for the products: nothing is coarsely known of this cell's leading part.
    for (int64_t pair = 0; pair < scheme.pairs; pair++) to[(i / panel * words + pair) * panel + i % panel] = 0;
    leading_error[i] = along[i];
    leading_size[i] = 0;
  }

  const Values along_leading = along;
  size = error = Values{};
  Numbers sum = {};
  if (scheme.kept_apart > 0) {
    std::fill_n(task.kept_apart + first * scheme.kept_apart, present * scheme.kept_apart, int8_t(0));
  }
  const int32_t offset = task.is_query ? 0 : 128;
  for (int64_t quad = 0; quad < divide_up(basis.axes - basis.leading, 4); quad++) {
    Numbers packed = {};
    const int64_t begin = basis.leading + 4 * quad;
    for (int64_t i = begin; i < std::min(begin + 4, basis.axes); i++, from += task.slots) {
      const Values value = Floats::load(from) * trailing_factor;
      Values clipped = value > kMostTrailing ? Values{} + kMostTrailing : value;
      clipped = clipped < -kMostTrailing ? Values{} - kMostTrailing : clipped;
      const Numbers number =
          __builtin_convertvector(clipped + (clipped < 0 ? Values{} - 0.5f : Values{} + 0.5f), Numbers);
      const Values rounded = __builtin_convertvector(number, Values), lost = value - rounded;
      size += rounded * rounded;
      error += lost * lost;
      along += value * value;
      sum += number;
      packed |= ((number + offset) & 0xff) << static_cast<int32_t>((i - begin) * 8);
      for (int64_t n = 0; scheme.kept_apart > 0 && n < present; n++) {
        task.kept_apart[(first + n) * scheme.kept_apart + i - basis.leading] = static_cast<int8_t>(number[n]);
      }
    }
    if (quad >= scheme.quads) continue;
    Ints::at(word) = packed;
    store(scheme.pairs + 1 + quad);
  }
  Ints::at(word) = task.is_query && scheme.quads > 0 ? sum * -128 : Numbers{};
  store(scheme.pairs);

  constexpr float kUp = 1 + 1e-4f;  // covers the rounding of these sums themselves
  for (int64_t i = 0; i < present; i++) {
    // What lies off the axes: at most |x|^2 minus the square of what is surely along them.
    const double square = task.square_norms[first + i] * task.factor * task.factor;
    auto off = [&](float square_along) {
      const double surely =
          std::max(0.0, std::sqrt(square_along * (1 - 1e-4)) - scheme.coordinate_rounding * std::sqrt(square));
      return static_cast<float>(std::max(0.0, square - surely * surely * (1 - scheme.basis.deviation)) +
                                1e-12 * square);
    };
    task.errors[first + i] = {leading_error[i] * kUp, leading_size[i] * kUp,       error[i] * kUp,
                              size[i] * kUp,          off(along_leading[i]) * kUp, off(along[i]) * kUp};
  }
}

inline void encode_row(const EncodeTask& task) {
  for (int64_t slot = 0; slot < task.word_slots; slot += kEncodedTogether) encode_slots(task, slot);
}
