// In a unit of its own: where the compiler sees both ends it takes malloc under operator new for a mistake.
#include "count_allocations.h"

#include <cstdlib>
#include <new>

std::atomic<bool> is_counting{false};
std::atomic<int> num_allocations{0};

void* operator new(size_t nbytes) {
  if (is_counting) ++num_allocations;
  if (void* memory = std::malloc(nbytes ? nbytes : 1)) return memory;
  throw std::bad_alloc();
}
void* operator new(size_t nbytes, std::align_val_t alignment) {
  if (is_counting) ++num_allocations;
  const size_t size = static_cast<size_t>(alignment);
  if (void* memory = std::aligned_alloc(size, (nbytes + size - 1) / size * size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
