// Layer: kernels. See isa.h.
#include "kernels/isa/isa.h"

#include <cstdint>
#include <cstring>

#include "kernels/isa/isa_list.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace mylinear::kernels {
namespace {

// What the CPU has, by CPUID, and whose registers the operating system saves, by XGETBV. Not by the
// compiler's
// __builtin_cpu_supports: where Clang comes without its runtime library, as in zig, that is false for
// everything. Source: Intel's Software Developer's Manual, volume 1, chapter 13, and volume 2, CPUID.
#if defined(__x86_64__)
struct Cpu {
  bool has_avx2 = false;  // with FMA and F16C, as all that follow
  bool has_avx512 = false;
  bool has_avx512_bf16 = false;
  bool has_amx_bf16 = false;

  Cpu() {
    constexpr unsigned kFma = 1u << 12, kOsXsave = 1u << 27, kAvx = 1u << 28,
                       kF16c = 1u << 29;  // leaf 1, ECX
    constexpr unsigned kAvx2 = 1u << 5, kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30,
                       kVl = 1u << 31;                            // 7, EBX
    constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;  // 7, EDX
    constexpr unsigned kAvx512Bf16 = 1u << 5;                     // 7.1, EAX
    constexpr uint64_t kYmm = 0x6, kZmm = 0xe6;                   // XCR0
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !has(ecx, kFma | kOsXsave | kAvx | kF16c)) return;
    const uint64_t saved = saved_registers();
    if (!has(saved, kYmm) || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return;
    has_avx2 = has(ebx, kAvx2);
    has_avx512 = has_avx2 && has(ebx, kF | kDq | kBw | kVl) && has(saved, kZmm);
    has_amx_bf16 = has_avx512 && has(edx, kAmxBf16 | kAmxTile);
    has_avx512_bf16 =
        has_avx512 && eax >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && has(eax, kAvx512Bf16);
  }

 private:
  static bool has(uint64_t bits, uint64_t wanted) { return (bits & wanted) == wanted; }

  static uint64_t saved_registers() {
    unsigned low = 0, high = 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    const uint64_t saved = uint64_t{high} << 32 | low;
#if defined(__APPLE__)
    return saved | (saved & 0x4 ? 0xe0 : 0);  // macOS saves those of AVX-512 from a thread's first use on
#else
    return saved;
#endif
  }
};

const Cpu& cpu() {
  static const Cpu found;
  return found;
}
#endif

[[maybe_unused]] bool avx2_is_usable() {
#if defined(__x86_64__)
  return cpu().has_avx2;
#else
  return false;
#endif
}

[[maybe_unused]] bool avx512_is_usable() {
#if defined(__x86_64__)
  return cpu().has_avx512;
#else
  return false;
#endif
}

[[maybe_unused]] bool avx512_bf16_is_usable() {
#if defined(__x86_64__)
  return cpu().has_avx512_bf16;
#else
  return false;
#endif
}

// The registers of AMX are so large that Linux, since 5.16, has a process ask for them once.
[[maybe_unused]] bool amx_bf16_is_usable() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, a state component
  return cpu().has_amx_bf16 && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

[[maybe_unused]] bool neon_is_usable() { return true; }  // compiled for arm64 only, where it is mandatory

bool baseline_is_usable() { return true; }

enum Index : size_t {
#define MYLINEAR_ISA_INDEX(isa, general) k_##isa,
  MYLINEAR_ISA_LIST(MYLINEAR_ISA_INDEX)
#undef MYLINEAR_ISA_INDEX
};

#define MYLINEAR_ISA_ROW(isa, general) {#isa, isa##_is_usable, k_##isa},
constexpr Isa kIsas[] = {MYLINEAR_ISA_LIST(MYLINEAR_ISA_ROW)};
#undef MYLINEAR_ISA_ROW

// The size of a core's first data cache in bytes, or 0 if the CPU does not say.
size_t l1_bytes() {
#if defined(__x86_64__) && defined(__linux__)
  // Intel's leaf, and the same of AMD, list the caches; all have the type in EAX, 0 after the last.
  constexpr unsigned kLeaves[] = {4, 0x8000001d};
  for (const unsigned leaf : kLeaves) {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    for (unsigned cache = 0; cache < 8; ++cache) {
      if (!__get_cpuid_count(leaf, cache, &eax, &ebx, &ecx, &edx) || (eax & 31) == 0) break;
      const bool is_data = (eax & 31) != 2, is_first = (eax >> 5 & 7) == 1;
      if (!is_data || !is_first) continue;
      return (size_t{ebx >> 22} + 1) * ((ebx >> 12 & 1023) + 1) * ((ebx & 4095) + 1) * (size_t{ecx} + 1);
    }
  }
#endif
  return 0;
}

}  // namespace

bool has_large_l1() {
  static const bool is_large = l1_bytes() >= 48 * 1024;
  return is_large;
}

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
