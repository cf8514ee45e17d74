// Memory for packed numbers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

namespace patchswap {

// Uninitialised memory on a cache line's boundary.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count = 0)
      : data_(static_cast<T*>(::operator new(sizeof(T) * std::max<int64_t>(count, 1), std::align_val_t(kAlignment)))) {}
  T* get() const { return data_.get(); }

 private:
  static constexpr int64_t kAlignment = 64;
  struct Free {
    void operator()(T* data) const { ::operator delete(data, std::align_val_t(kAlignment)); }
  };
  std::unique_ptr<T, Free> data_;
};

inline int64_t divide_up(int64_t number, int64_t by) { return (number + by - 1) / by; }
inline int64_t round_up(int64_t number, int64_t multiple) { return divide_up(number, multiple) * multiple; }

}  // namespace patchswap
