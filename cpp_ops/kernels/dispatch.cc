// Layer: kernels. Which ISAs this binary has, and which of them this CPU has.
#include <cstring>

#include "kernels/kernel_list.h"

namespace mylinear::kernels {
namespace {

[[maybe_unused]] bool avx512_is_usable() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

[[maybe_unused]] bool avx512_bf16_is_usable() {
#if defined(__x86_64__)
  return avx512_is_usable() && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

[[maybe_unused]] bool avx2_is_usable() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
  return false;
#endif
}

[[maybe_unused]] bool neon_is_usable() { return true; }  // compiled for arm64 only, where it is mandatory

bool baseline_is_usable() { return true; }

#define MYLINEAR_ISA_ROW(isa, mr) {#isa, isa##_is_usable, isa##_kernels},
constexpr Isa kIsas[] = {MYLINEAR_ISA_LIST(MYLINEAR_ISA_ROW)};
#undef MYLINEAR_ISA_ROW

}  // namespace

const Isa* compiled_isas(size_t* count) {
  *count = sizeof kIsas / sizeof kIsas[0];
  return kIsas;
}

const Isa* find_isa(const char* name) {
  const bool any = !name || !*name;
  for (const Isa& isa : kIsas) {
    if ((any || std::strcmp(name, isa.name) == 0) && isa.is_usable()) return &isa;
  }
  return nullptr;
}

}  // namespace mylinear::kernels
