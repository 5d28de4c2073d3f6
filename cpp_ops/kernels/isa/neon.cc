// Layer: kernels. NEON of arm64, where it is always there; float16 is converted by it, not summed in it.
#include <arm_neon.h>

#include "kernels/activation/rows.h"
#include "kernels/adam/adam_loop.h"
#include "kernels/gemm_list.h"
#include "kernels/gemm_tiles.h"
#include "kernels/half.h"
#include "kernels/matmul/matmul_list.h"
#include "kernels/matmul/tables.h"

namespace mylinear::kernels {
namespace {

struct Neon {
  static constexpr bool kDefersSums = true;

  struct Double : NoDot {
    using Scalar = double;
    using Vec = float64x2_t;
    static constexpr size_t kLanes = 2;

    static Vec zero() { return vdupq_n_f64(0); }
    static Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f64(c, a, b); }
    static Vec add(Vec a, Vec b) { return vaddq_f64(a, b); }
    static void keep(Vec* value) { asm("" : "+w"(*value)); }
    static void sum4(const Vec* v, double* out) {
      vst1q_f64(out, vpaddq_f64(v[0], v[1]));
      vst1q_f64(out + 2, vpaddq_f64(v[2], v[3]));
    }
    static Vec load(const double* from) { return vld1q_f64(from); }
    static Vec load_partial(const double* from, size_t count) { return load_copied<Double>(from, count); }
    static Vec broadcast(const double* from) { return vld1q_dup_f64(from); }
    static void store(double* to, Vec value) { vst1q_f64(to, value); }
    static void store_first(double* to, Vec value, size_t count) { store_partial<Double>(to, value, count); }
  };

  struct Float : NoDot {
    using Scalar = float;
    using Vec = float32x4_t;
    static constexpr size_t kLanes = 4;

    static Vec zero() { return vdupq_n_f32(0); }
    static Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
    static Vec add(Vec a, Vec b) { return vaddq_f32(a, b); }
    static void keep(Vec* value) { asm("" : "+w"(*value)); }
    static void sum4(const Vec* v, float* out) {
      vst1q_f32(out, vpaddq_f32(vpaddq_f32(v[0], v[1]), vpaddq_f32(v[2], v[3])));
    }
    static Vec load(const float* from) { return vld1q_f32(from); }
    static Vec load(const Float16* from) {
      return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t*>(from))));
    }
    static Vec load(const Bfloat16* from) {
      return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(reinterpret_cast<const uint16_t*>(from)), 16));
    }
    template <class S>
    static Vec load_partial(const S* from, size_t count) {
      return load_copied<Float>(from, count);
    }
    static Vec broadcast(const float* from) { return vld1q_dup_f32(from); }
    static void store(float* to, Vec value) { vst1q_f32(to, value); }
    static void store_first(float* to, Vec value, size_t count) { store_partial<Float>(to, value, count); }
    static void store(Float16* to, Vec value) {
      vst1_u16(reinterpret_cast<uint16_t*>(to), vreinterpret_u16_f16(vcvt_f16_f32(value)));
    }
    static void store(Bfloat16* to, Vec value) {  // half.h's to_bfloat16, four at a time
      const uint32x4_t bits = vreinterpretq_u32_f32(value);
      const uint32x4_t upper = vshrq_n_u32(bits, 16);
      const uint32x4_t carry = vaddq_u32(vandq_u32(upper, vdupq_n_u32(1)), vdupq_n_u32(0x7fff));
      const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, carry), 16);
      const uint32x4_t is_number = vceqq_f32(value, value);
      const uint32x4_t words = vbslq_u32(is_number, rounded, vorrq_u32(upper, vdupq_n_u32(0x40)));
      vst1_u16(reinterpret_cast<uint16_t*>(to), vmovn_u32(words));
    }
  };
  using Bfloat = Float;
};

}  // namespace

MYLINEAR_DEFINE_KERNELS(neon, Neon)

MYLINEAR_DEFINE_MATMUL_KERNELS(neon, Neon)

MYLINEAR_DEFINE_ADAM_KERNELS(neon, Neon)

MYLINEAR_DEFINE_ACTIVATION_KERNELS(neon, Neon)

}  // namespace mylinear::kernels
