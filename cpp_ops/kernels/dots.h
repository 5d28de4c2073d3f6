// Layer: kernels. Whether an instruction for dot products may multiply rows of X and W: it takes denormal
// numbers for zero, so it serves where no sum can be denormal (simd.h's has_no_denormal_sums).
#ifndef MYLINEAR_KERNELS_DOTS_H_
#define MYLINEAR_KERNELS_DOTS_H_

#include <cstddef>
#include <cstdint>

#include "kernels/gemm.h"

namespace mylinear::kernels {
namespace {

// What a thread found out about the rows of X of one call, so that it need not look at them again for each
// tile of columns.
class Looks {
 public:
  static constexpr size_t kPlaces = 2048;

  // The answer of `look`, a bool, for a place of call `call`, where it is the same whenever it is asked.
  // Places from kPlaces on, and those of call 0, are looked at each time.
  template <class Look>
  bool answer(uint64_t call, size_t place, const Look& look) {
    if (call == 0 || place >= kPlaces) return look();
    if (call != call_) *this = Looks(call);
    const uint64_t bit = uint64_t{1} << place % 64;
    if (!(known_[place / 64] & bit)) {
      known_[place / 64] |= bit;
      if (look()) yes_[place / 64] |= bit;
    }
    return yes_[place / 64] & bit;
  }

  static Looks& of_thread() {
    static thread_local Looks looks(0);
    return looks;
  }

 private:
  constexpr explicit Looks(uint64_t call) : call_(call) {}

  uint64_t call_;
  uint64_t known_[kPlaces / 64] = {};
  uint64_t yes_[kPlaces / 64] = {};
};

}  // namespace

// For strips of `Micro`, a MicroKernel, in passes of kMr rows.
template <class Micro, size_t kMr>
struct Dots {
  using Simd = typename Micro::Simd;
  using Strip = typename Micro::Strip;

  // With fewer rows than this, looking for small weights would cost more than their products.
  static constexpr size_t kMinRows = 4;

  // Whether the rows of X of a strip are safe. False too where asking costs more than it saves.
  static bool are_safe(const Strip& s, size_t rows, bool w_can_dot) {
    if constexpr (Simd::kHasDot) {
      if (rows < kMinRows) {
        if (!w_can_dot) return false;
        for (size_t i = 0; i < rows; ++i) {
          if (!Simd::has_no_denormal_sums(s.x + i * s.x_stride, s.length)) return false;
        }
        return true;
      }
      return Simd::has_no_denormal_sums(s.x, s.x_stride, rows, s.length);
    } else {
      return false;
    }
  }

  // The same of the rows of a tile from `m` on. A thread looks at their first and last block of K once a
  // call.
  static bool are_safe_in_tile(const GemmParams& p, const Strip& s, size_t m, size_t rows) {
    if constexpr (Simd::kHasDot) {
      const bool is_kept = s.k == 0 || s.k + s.length == p.K;
      const size_t place = is_kept ? 2 * (m / kMr) + (s.k > 0) : Looks::kPlaces;
      return Looks::of_thread().answer(p.call, place, [&] { return are_safe(s, rows, p.w_can_dot); });
    } else {
      return false;
    }
  }
};

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_DOTS_H_
