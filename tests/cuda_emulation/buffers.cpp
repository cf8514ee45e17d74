// Memory for kernels between inaccessible pages.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "scheduler.h"

namespace patchswap::emulation {

namespace {

// A buffer for the kernels: guard page, `before` bytes of garbage, the bytes, garbage up to the next guard page.
struct Buffer {
  unsigned char* mapping;
  size_t mapping_bytes, before, bytes;
  std::string name;

  unsigned char* data() const { return mapping + page() + before; }
  static size_t page() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }
};

std::mutex buffers_mutex;
std::vector<Buffer> buffers;

void fill_with_garbage(unsigned char* begin, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) begin[i] = kGarbage[reinterpret_cast<uintptr_t>(begin + i) % 2];
}

bool is_garbage(const unsigned char* begin, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) {
    if (begin[i] != kGarbage[reinterpret_cast<uintptr_t>(begin + i) % 2]) return false;
  }
  return true;
}

}  // namespace

std::string describe_buffer(const volatile void* address) {
  const uintptr_t place = reinterpret_cast<uintptr_t>(address);
  const std::lock_guard<std::mutex> lock(buffers_mutex);
  for (const Buffer& buffer : buffers) {
    const uintptr_t mapping = reinterpret_cast<uintptr_t>(buffer.mapping);
    if (place < mapping || place >= mapping + buffer.mapping_bytes) continue;
    const auto byte = static_cast<std::ptrdiff_t>(place - reinterpret_cast<uintptr_t>(buffer.data()));
    return "byte " + std::to_string(byte) + " of the " + std::to_string(buffer.bytes) + " bytes of " + buffer.name;
  }
  return "";
}

extern "C" {

// `bytes` of garbage that begin at an inaccessible page, or end at one up to a multiple of 16; near the other end an
// access out of bounds reads garbage, and guarded_free tells of writes. Null where the system gives no memory.
void* guarded_allocate(size_t bytes, bool at_begin, const char* buffer_name) {
  const size_t page = Buffer::page(), padded = (bytes + 15) / 16 * 16;
  const size_t pages = std::max<size_t>(1, (padded + page - 1) / page) * page;
  Buffer buffer;
  buffer.mapping_bytes = pages + 2 * page;
  void* mapping = mmap(nullptr, buffer.mapping_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  buffer.mapping = static_cast<unsigned char*>(mapping);
  buffer.before = at_begin ? 0 : pages - padded;
  buffer.bytes = bytes;
  buffer.name = buffer_name;
  if (mprotect(buffer.mapping + page, pages, PROT_READ | PROT_WRITE) != 0) return nullptr;
  fill_with_garbage(buffer.mapping + page, pages);
  const std::lock_guard<std::mutex> lock(buffers_mutex);
  buffers.push_back(buffer);
  return buffer.data();
}

// From here on a write is a fault.
int guarded_protect(void* data) {
  const std::lock_guard<std::mutex> lock(buffers_mutex);
  for (const Buffer& buffer : buffers) {
    if (buffer.data() != data) continue;
    return mprotect(buffer.mapping + Buffer::page(), buffer.mapping_bytes - 2 * Buffer::page(), PROT_READ);
  }
  return -1;
}

// 0 if nothing was written next to the buffer's bytes, 1 if something was, -1 if there is no such buffer.
int guarded_free(void* data) {
  const std::lock_guard<std::mutex> lock(buffers_mutex);
  for (size_t i = 0; i < buffers.size(); i++) {
    const Buffer buffer = buffers[i];
    if (buffer.data() != data) continue;
    const size_t behind = buffer.mapping_bytes - 2 * Buffer::page() - buffer.before - buffer.bytes;
    const bool intact =
        is_garbage(buffer.mapping + Buffer::page(), buffer.before) && is_garbage(buffer.data() + buffer.bytes, behind);
    munmap(buffer.mapping, buffer.mapping_bytes);
    buffers.erase(buffers.begin() + static_cast<std::ptrdiff_t>(i));
    return intact ? 0 : 1;
  }
  return -1;
}

}  // extern "C"

}  // namespace patchswap::emulation
