// Layer: kernels. See scratch.h.
#include "kernels/turned/scratch.h"

#include <cstdlib>
#include <memory>

namespace mylinear::kernels {
namespace {

struct Owner {
  void* memory = nullptr;
  Scratch* scratch = nullptr;
  ~Owner() { std::free(memory); }
};
thread_local Owner owner;

}  // namespace

Scratch* thread_scratch() {
  if (!owner.scratch) {
    // By malloc and by hand: Windows has no aligned_alloc.
    size_t space = sizeof(Scratch) + alignof(Scratch);
    void* place = owner.memory = std::malloc(space);
    if (!place) return nullptr;
    owner.scratch = static_cast<Scratch*>(std::align(alignof(Scratch), sizeof(Scratch), place, space));
    owner.scratch->held = {};
    owner.scratch->num_calls = 0;
  }
  return owner.scratch;
}

}  // namespace mylinear::kernels
