// Layer: kernels. The tables of every ISA, made of those that the units define.
#ifndef MYLINEAR_KERNELS_ISA_TABLES_H_
#define MYLINEAR_KERNELS_ISA_TABLES_H_

#include <cstddef>
#include <cstring>

#include "kernels/isa/isa.h"
#include "kernels/isa/isa_list.h"

namespace mylinear::kernels {

#define MYLINEAR_ISA_ONE(isa, general) +1
inline constexpr size_t kNumIsas = 0 MYLINEAR_ISA_LIST(MYLINEAR_ISA_ONE);
#undef MYLINEAR_ISA_ONE

// A table of kCount kernels for each ISA. Made where it is first asked for, and not as a constant: no unit
// knows the functions of another, which have internal linkage.
template <class Kernel, int kCount>
class Tables {
 public:
  struct Source {
    const char* isa;
    const Kernel* kernels;  // of the same ISA, or of a more general one
  };

  explicit Tables(const Source (&sources)[kNumIsas]) {
    for (size_t i = 0; i < kNumIsas; ++i) {
      for (int k = 0; k < kCount; ++k) {
        kernels_[i][k] = sources[i].kernels[k];
        kernels_[i][k].isa = sources[i].isa;
      }
    }
  }

  // Gives the ISA that `kernel` names a kernel of its own.
  void replace(int index, const Kernel& kernel) {
    for (auto& table : kernels_) {
      if (std::strcmp(table[index].isa, kernel.isa) == 0) table[index] = kernel;
    }
  }

  const Kernel* of(const Isa& isa) const { return kernels_[isa.index]; }

 private:
  Kernel kernels_[kNumIsas][kCount];
};

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_ISA_TABLES_H_
