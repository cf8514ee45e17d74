// A register full of numbers, or as many registers as `VectorBytes` take; in memory at any address. load() and at()
// give references, as vectors wider than a register cannot be returned.
template <class Number, int VectorBytes = kVectorBytes>
struct Registers {
  static constexpr int kLanes = VectorBytes / sizeof(Number);
  typedef Number Vector __attribute__((vector_size(VectorBytes)));
  typedef Number Unaligned __attribute__((vector_size(VectorBytes), aligned(alignof(Number)), may_alias));

  static const Unaligned& load(const Number* from) { return *reinterpret_cast<const Unaligned*>(from); }
  static Unaligned& at(Number* to) { return *reinterpret_cast<Unaligned*>(to); }

  // Whether any bit of the vector is set.
  static bool any(const Vector& vector) {
    uint64_t part[VectorBytes / 8], all = 0;
    __builtin_memcpy(part, &vector, VectorBytes);
    for (const uint64_t bits : part) all |= bits;
    return all != 0;
  }
};
