// Layer: kernels. A program: it prints the ISAs that this CPU has, for MYLINEAR_ISAS=usable.
#include <cstdio>

#include "kernels/isa/isa.cc"

int main() {
  size_t count = 0;
  const mylinear::kernels::Isa* isas = mylinear::kernels::compiled_isas(&count);
  for (size_t i = 0; i < count; ++i) {
    if (isas[i].is_usable()) std::printf("%s;", isas[i].name);
  }
}
