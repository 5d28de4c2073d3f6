// Layer: kernels. See scratch.h.
#include "kernels/turned/scratch.h"

#include <cstdlib>

namespace mylinear::kernels {
namespace {

struct Owner {
  Scratch* scratch = nullptr;
  ~Owner() { std::free(scratch); }
};
thread_local Owner owner;

}  // namespace

Scratch* thread_scratch() {
  if (!owner.scratch) {
    owner.scratch = static_cast<Scratch*>(std::aligned_alloc(alignof(Scratch), sizeof(Scratch)));
    if (owner.scratch) {
      owner.scratch->held = {};
      owner.scratch->num_calls = 0;
    }
  }
  return owner.scratch;
}

}  // namespace mylinear::kernels
