// What the tests of the kernels share: memory without slack, random numbers, and the kernels that this CPU
// has.
#ifndef MYLINEAR_TESTS_KERNEL_SUPPORT_H_
#define MYLINEAR_TESTS_KERNEL_SUPPORT_H_

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/gemm.h"
#include "kernels/half.h"

namespace mylinear::kernels {

#ifdef MYLINEAR_HAS_TILE_MODEL
extern const GemmKernel tile_model_kernel;  // tile_model.cc
#endif

// Bytes at an odd address, to hold kernels to "no alignment needed", or at a multiple of 64; nothing behind
// them.
class Buffer {
 public:
  explicit Buffer(size_t nbytes, size_t offset = 1) : nbytes_(nbytes), offset_(offset) {
    if (posix_memalign(&memory_, 64, nbytes + offset)) std::abort();
    std::memset(data(), 0xa5, nbytes);
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(memory_); }
  unsigned char* data() const { return static_cast<unsigned char*>(memory_) + offset_; }
  size_t nbytes() const { return nbytes_; }
  bool same_bytes(const Buffer& other) const {
    return nbytes_ == other.nbytes_ && std::memcmp(data(), other.data(), nbytes_) == 0;
  }

 private:
  size_t nbytes_;
  size_t offset_;
  void* memory_ = nullptr;
};

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2862933555777941757u + 3037000493u) {}
  uint32_t bits() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state_ >> 32);
  }
  double uniform() { return bits() * 0x1p-31 - 1; }  // [-1, 1)

 private:
  uint64_t state_;
};

inline size_t size_of(ElementType type) { return kElementSizes[static_cast<int>(type)]; }

// What a number of each type loses: in a sum, when the sum is rounded, and at least.
struct Precision {
  double sum_roundoff;
  double roundoff;
  double smallest;
};
inline constexpr Precision kPrecisions[] = {{0x1p-53, 0, 0x1p-1074},
                                            {0x1p-24, 0, 0x1p-149},
                                            {0x1p-24, 0x1p-11, 0x1p-24},
                                            {0x1p-24, 0x1p-8, 0x1p-133}};

inline void store_element(ElementType type, void* to, size_t index, double value) {
  unsigned char* at = static_cast<unsigned char*>(to) + index * size_of(type);
  const float single = static_cast<float>(value);
  switch (type) {
    case ElementType::kFloat64:
      std::memcpy(at, &value, 8);
      break;
    case ElementType::kFloat32:
      std::memcpy(at, &single, 4);
      break;
    case ElementType::kFloat16: {
      const Float16 half = to_float16(single);
      std::memcpy(at, &half, 2);
      break;
    }
    case ElementType::kBfloat16: {
      const Bfloat16 half = to_bfloat16(single);
      std::memcpy(at, &half, 2);
      break;
    }
  }
}

inline double load_element(ElementType type, const void* from, size_t index) {
  const unsigned char* at = static_cast<const unsigned char*>(from) + index * size_of(type);
  double value = 0;
  float single = 0;
  Float16 half{};
  Bfloat16 brain{};
  switch (type) {
    case ElementType::kFloat64:
      std::memcpy(&value, at, 8);
      return value;
    case ElementType::kFloat32:
      std::memcpy(&single, at, 4);
      return single;
    case ElementType::kFloat16:
      std::memcpy(&half, at, 2);
      return to_float(half);
    case ElementType::kBfloat16:
      std::memcpy(&brain, at, 2);
      return to_float(brain);
  }
  return value;
}

// With `is_wide`, one number in eight is of any size from 2^-150 to 4: denormals, and sums that end in
// them.
inline void fill(ElementType type, const Buffer& buffer, bool is_wide, Random* random) {
  for (size_t i = 0; i < buffer.nbytes() / size_of(type); ++i) {
    double value = random->uniform();
    if (is_wide && random->bits() % 8 == 0)
      value = std::ldexp(value, 2 - static_cast<int>(random->bits() % 150));
    store_element(type, buffer.data(), i, value);
  }
}

// Those that this CPU can run.
inline std::vector<const GemmKernel*> kernels_of(ElementType type, ElementType weight_type) {
  std::vector<const GemmKernel*> found;
  size_t num_isas = 0;
  const Isa* isas = compiled_isas(&num_isas);
  for (size_t i = 0; i < num_isas; ++i) {
    if (isas[i].is_usable()) found.push_back(&gemm_kernels(isas[i])[gemm_kernel_index(type, weight_type)]);
  }
#ifdef MYLINEAR_HAS_TILE_MODEL
  if (type == ElementType::kBfloat16 && find_isa("avx512")) found.push_back(&tile_model_kernel);
#endif
  return found;
}
inline std::vector<const GemmKernel*> kernels_of(ElementType type) { return kernels_of(type, type); }

}  // namespace mylinear::kernels

#endif  // MYLINEAR_TESTS_KERNEL_SUPPORT_H_
