// Cells made coarse: coordinates rounded to integers, and how much that loses.

// kEncodedTogether numbers, one for each slot.
using SlotFloats = Registers<float, kEncodedTogether * sizeof(float)>;
using SlotIntegers = Registers<int32_t, kEncodedTogether * sizeof(int32_t)>;

// Sums of squares over coordinates: of the integers, of what rounding lost, and of the coordinates themselves.
struct SlotSums {
  SlotFloats::Vector size = {}, error = {}, along = {};
};

// Clips a coordinate of each slot to +-most, rounds it to an integer, and adds to the sums.
inline void clip_and_round(const SlotFloats::Vector& value, float most, SlotIntegers::Vector& number, SlotSums& sums) {
  using Values = SlotFloats::Vector;
  Values clipped = value > most ? Values{} + most : value;
  clipped = clipped < -most ? Values{} - most : clipped;
  number = __builtin_convertvector(clipped + (clipped < 0 ? Values{} - 0.5f : Values{} + 0.5f), SlotIntegers::Vector);
  const Values rounded = __builtin_convertvector(number, Values), lost = value - rounded;
  sums.size += rounded * rounded;
  sums.error += lost * lost;
  sums.along += value * value;
}

// Words and errors of kEncodedTogether slots, from the given one on.
inline void encode_slots(const EncodeTask& task, int64_t first) {
  using Numbers = SlotIntegers::Vector;
  const CoarseScheme& scheme = task.scheme;
  const Basis& basis = scheme.basis;
  const int64_t words = scheme.depth().numbers, panel = task.panel;
  const int64_t present = std::min(kEncodedTogether, task.word_slots - first);
  int32_t* const to = task.words + first / panel * words * panel;
  const float* from = task.coordinates + first;
  const float trailing_factor = static_cast<float>(task.factor);
  const float leading_factor = trailing_factor * (1 << kLeadingShift);
  int32_t word[kEncodedTogether];

  auto store = [&](int64_t index) {
    for (int64_t i = 0; i < present; i += panel) {
      for (int64_t n = 0; n < panel; n++) to[(i / panel * words + index) * panel + n] = word[i + n];
    }
  };

  SlotSums leading;  // in eighths of a step
  for (int64_t pair = 0; pair < scheme.pairs; pair++) {
    Numbers packed = {};
    for (int64_t i = 2 * pair; i < std::min(2 * pair + 2, basis.leading); i++, from += task.slots) {
      Numbers number;
      clip_and_round(SlotFloats::load(from) * leading_factor, kMostLeading, number, leading);
      packed |= (number & 0xffff) << (i % 2 * 16);
    }
    SlotIntegers::at(word) = packed;
    store(pair);
  }
  constexpr float kFine = 1.0f / (1 << 2 * kLeadingShift);  // from squares of eighths to squares of steps
  float leading_size[kEncodedTogether], leading_error[kEncodedTogether];
  SlotFloats::at(leading_size) = leading.size * kFine;
  SlotFloats::at(leading_error) = leading.error * kFine;
  const SlotFloats::Vector along_leading = leading.along * kFine;
  for (int64_t i = 0; i < present; i++) {
    if (leading_size[i] < kMostLeadingSquare * kFine) continue;
    // Products of these integers could overflow: zeros take their place, and all of the leading part counts as lost.
    for (int64_t pair = 0; pair < scheme.pairs; pair++) to[(i / panel * words + pair) * panel + i % panel] = 0;
    leading_error[i] = along_leading[i];
    leading_size[i] = 0;
  }

  SlotSums trailing;
  trailing.along = along_leading;
  Numbers sum = {};
  if (scheme.separate_count > 0) {
    std::fill_n(task.separate + first * scheme.separate_count, present * scheme.separate_count, int8_t(0));
  }
  const int32_t offset = task.is_query ? 0 : 128;
  for (int64_t quad = 0; quad < divide_up(basis.axes - basis.leading, 4); quad++) {
    Numbers packed = {};
    const int64_t begin = basis.leading + 4 * quad;
    for (int64_t i = begin; i < std::min(begin + 4, basis.axes); i++, from += task.slots) {
      Numbers number;
      clip_and_round(SlotFloats::load(from) * trailing_factor, kMostTrailing, number, trailing);
      sum += number;
      packed |= ((number + offset) & 0xff) << static_cast<int32_t>((i - begin) * 8);
      for (int64_t n = 0; scheme.separate_count > 0 && n < present; n++) {
        task.separate[(first + n) * scheme.separate_count + i - basis.leading] = static_cast<int8_t>(number[n]);
      }
    }
    if (quad >= scheme.quads) continue;
    SlotIntegers::at(word) = packed;
    store(scheme.pairs + 1 + quad);
  }
  SlotIntegers::at(word) = task.is_query && scheme.quads > 0 ? sum * -128 : Numbers{};
  store(scheme.pairs);

  constexpr float kUp = static_cast<float>(1 + kSquaresRounding);
  for (int64_t i = 0; i < present; i++) {
    const double square = task.square_norms[first + i] * task.factor * task.factor;
    // The square of what lies off the axes: at most |x|^2 minus the least that lies along them.
    auto off = [&](float square_along) {
      const double along = std::sqrt(square_along * (1 - kSquaresRounding));
      const double least = std::max(0.0, along - scheme.coordinate_rounding * std::sqrt(square));
      const double rest = std::max(0.0, square - least * least * (1 - scheme.basis.deviation));
      return static_cast<float>(rest + kSubtractionRounding * square) * kUp;
    };
    task.errors[first + i] = {.leading_error = leading_error[i] * kUp,
                              .leading_size = leading_size[i] * kUp,
                              .trailing_error = trailing.error[i] * kUp,
                              .trailing_size = trailing.size[i] * kUp,
                              .off_leading = off(along_leading[i]),
                              .off_axis = off(trailing.along[i])};
  }
}

inline void encode_row(const EncodeTask& task) {
  for (int64_t slot = 0; slot < task.word_slots; slot += kEncodedTogether) encode_slots(task, slot);
}
