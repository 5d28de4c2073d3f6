// Layer: kernels. See isa.h.
#include "kernels/isa/isa.h"

#include <cstring>

#include "kernels/isa/isa_list.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

// The registers of AMX are so large that Linux, since 5.16, has a process ask for them once.
[[maybe_unused]] bool amx_bf16_is_usable() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;  // of EDX, CPUID leaf 7
  constexpr long kRequestPermission = 0x1023, kTileData = 18;   // ARCH_REQ_XCOMP_PERM, a state component
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return avx512_is_usable() && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & kAmxBf16) &&
         (edx & kAmxTile) && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
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

enum Index : size_t {
#define MYLINEAR_ISA_INDEX(isa) k_##isa,
  MYLINEAR_ISA_LIST(MYLINEAR_ISA_INDEX)
#undef MYLINEAR_ISA_INDEX
};

#define MYLINEAR_ISA_ROW(isa) {#isa, isa##_is_usable, k_##isa},
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
