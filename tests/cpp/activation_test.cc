// The activations of every ISA against libm in a wider type, and their bits in every lane. Of floats it takes
// one in 4099, or in as many as the first argument says: `activation_test 1` takes all 2^32 in some minutes,
// `activation_test 1 3 16` the third of sixteen parts of them, which are counted from 1.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "exact_activations.h"
#include "kernel_support.h"

namespace mylinear::kernels {
namespace {

constexpr Activation kAll[] = {Activation::kRelu, Activation::kGelu,    Activation::kGeluTanh,
                               Activation::kSilu, Activation::kSigmoid, Activation::kTanh};

// How many units of the last place of T at `place` are 1.
template <class T, class Wide>
Wide ulps_in_one(Wide place) {
  if (!std::isfinite(place)) return 1;
  int exponent = 0;
  std::frexp(place, &exponent);
  exponent = std::max(exponent, std::numeric_limits<T>::min_exponent) - std::numeric_limits<T>::digits;
  return std::ldexp(Wide{1}, -exponent);
}

// The errors that activation.h states: for x >= 0, and for negative x, that of gelu_tanh in units of the last
// place of x.
struct Stated {
  double positive;
  double negative;
};
Stated stated(Activation activation, bool is_double) {
  switch (activation) {
    case Activation::kGelu:
      return {4, is_double ? 14.0 : 9.0};
    case Activation::kGeluTanh:
      return {3, 1.2};
    case Activation::kSilu:
      return {3.5, 3.5};
    case Activation::kSigmoid:
      return {2.5, 2.5};
    case Activation::kTanh:
      return {3, 3};
    case Activation::kRelu:
    case Activation::kNone:
      break;
  }
  return {0, 0};
}

struct Worst {
  double ulps = 0;
  double at = 0;
  void take(double error, double x) {
    if (!(error <= ulps)) {
      ulps = error;
      at = x;
    }
  }
  void take(const Worst& other) { take(other.ulps, other.at); }
};

template <class T>
std::vector<const ActivationKernel*> kernels_for() {
  std::vector<const ActivationKernel*> found;
  size_t num_isas = 0;
  const Isa* isas = compiled_isas(&num_isas);
  for (size_t i = 0; i < num_isas; ++i) {
    if (isas[i].is_usable()) found.push_back(&activation_kernels(isas[i])[sizeof(T) == sizeof(float)]);
  }
  return found;
}

template <class T>
struct Result {
  Worst worst[kNumActivations][8][2];  // by kernel, and whether x is negative
  bool is_right[kNumActivations][8];
  Result() {
    for (auto& kernels : is_right) std::fill(std::begin(kernels), std::end(kernels), true);
  }
};

template <class T>
void measure(const std::vector<T>& x, Result<T>* result) {
  using Wide = std::conditional_t<sizeof(T) == sizeof(float), double, long double>;
  const auto kernels = kernels_for<T>();
  std::vector<T> y(x.size()), before(x.size());
  std::vector<Wide> expected(x.size()), ulps(x.size());
  for (const Activation activation : kAll) {
    const int a = static_cast<int>(activation);
    for (size_t i = 0; i < x.size(); ++i) {
      const Wide wide = static_cast<Wide>(x[i]);
      expected[i] = exact(activation, wide);
      const bool is_cancelled = activation == Activation::kGeluTanh && x[i] < 0;
      ulps[i] = ulps_in_one<T>(is_cancelled ? wide : expected[i]);
    }
    for (size_t k = 0; k < kernels.size(); ++k) {
      kernels[k]->run(activation, x.data(), y.data(), x.size());
      if (k > 0 && std::memcmp(y.data(), before.data(), y.size() * sizeof(T)) == 0) {
        for (int sign : {0, 1}) result->worst[a][k][sign].take(result->worst[a][k - 1][sign]);
        result->is_right[a][k] = result->is_right[a][k] && result->is_right[a][k - 1];
        continue;
      }
      before = y;
      for (size_t i = 0; i < x.size(); ++i) {
        const double error = static_cast<double>(std::fabs(static_cast<Wide>(y[i]) - expected[i]) * ulps[i]);
        if (std::isfinite(error)) {
          result->worst[a][k][x[i] < 0].take(error, static_cast<double>(x[i]));
        } else {
          const bool is_same =
              std::isnan(expected[i]) ? std::isnan(y[i]) : y[i] == static_cast<T>(expected[i]);
          result->is_right[a][k] = result->is_right[a][k] && is_same;
        }
      }
    }
  }
}

// `next(i, &x)` makes the i-th of `count` blocks.
template <class T, class Next>
void check_errors(size_t count, const Next& next) {
  constexpr size_t kThreads = 2;
  std::vector<Result<T>> results(kThreads);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::vector<T> x;
      for (size_t i = t; i < count; i += kThreads) {
        next(i, &x);
        measure(x, &results[t]);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const auto kernels = kernels_for<T>();
  for (const Activation activation : kAll) {
    const int a = static_cast<int>(activation);
    const Stated bound = stated(activation, sizeof(T) == sizeof(double));
    for (size_t k = 0; k < kernels.size(); ++k) {
      Worst worst[2];
      for (const Result<T>& result : results) {
        for (int sign : {0, 1}) worst[sign].take(result.worst[a][k][sign]);
        CHECK_MESSAGE(result.is_right[a][k],
                      std::string(kernels[k]->isa) + " " + name_of(activation) + ": wrong NaN or infinity");
      }
      std::printf("%s float%zu %s: %.3f ULP at %.9g, negative %.3f at %.9g\n", kernels[k]->isa, 8 * sizeof(T),
                  name_of(activation), worst[0].ulps, worst[0].at, worst[1].ulps, worst[1].at);
      CHECK(worst[0].ulps <= bound.positive && worst[1].ulps <= bound.negative);
    }
  }
}

void test_floats(uint64_t stride, uint64_t part, uint64_t parts) {
  constexpr uint64_t kNumFloats = uint64_t{1} << 32, kBlock = 1 << 14;
  const uint64_t count = (kNumFloats - 1) / stride + 1, blocks = (count - 1) / kBlock + 1;
  const uint64_t first = (part - 1) * blocks / parts, last = part * blocks / parts;
  check_errors<float>(last - first, [&](size_t block, std::vector<float>* x) {
    x->clear();
    const uint64_t begin = (first + block) * kBlock;
    for (uint64_t i = begin; i < std::min(count, begin + kBlock); ++i) {
      x->push_back(float_from_bits(static_cast<uint32_t>(i * stride)));
    }
  });
}

void test_doubles(size_t blocks) {
  constexpr size_t kBlock = 1 << 14;
  check_errors<double>(blocks, [&](size_t block, std::vector<double>* x) {
    Random random(block);
    x->clear();
    const double inf = std::numeric_limits<double>::infinity();
    for (const double special : {0.0, -0.0, inf, -inf, std::nan(""), 1e308, -1e308, 5e-324, -5e-324}) {
      x->push_back(special);
    }
    while (x->size() < kBlock) {
      const double uniform = random.uniform() + random.uniform() * 0x1p-32;
      switch (random.bits() % 4) {
        case 0:
          x->push_back(uniform * 4);
          break;
        case 1:
          x->push_back(uniform * 45);
          break;
        case 2:
          x->push_back(uniform * 800);
          break;
        default:
          x->push_back(std::ldexp(uniform, static_cast<int>(random.bits() % 2100) - 1080));
      }
    }
  });
}

// Every element alone, and at every distance from the end of a row, in place or not.
template <class T>
void test_lanes() {
  Random random(7);
  std::vector<T> x(67);
  for (T& value : x) value = static_cast<T>(random.uniform() * 20);
  x[3] = std::numeric_limits<T>::quiet_NaN();
  x[20] = -std::numeric_limits<T>::infinity();
  x[40] = std::numeric_limits<T>::infinity();
  for (const ActivationKernel* kernel : kernels_for<T>()) {
    for (int a = 0; a < kNumActivations; ++a) {
      const Activation activation = static_cast<Activation>(a);
      std::vector<T> expected(x.size());
      for (size_t i = 0; i < x.size(); ++i) kernel->run(activation, &x[i], &expected[i], 1);
      for (size_t first = 0; first < x.size(); first += 5) {
        const size_t count = x.size() - first;
        Buffer from(count * sizeof(T)), to(count * sizeof(T));
        std::memcpy(from.data(), &x[first], from.nbytes());
        kernel->run(activation, from.data(), to.data(), count);
        kernel->run(activation, from.data(), from.data(), count);
        CHECK_MESSAGE(std::memcmp(to.data(), &expected[first], to.nbytes()) == 0 && from.same_bytes(to),
                      std::string(kernel->isa) + " " + name_of(activation) + ": other bits in other lanes");
      }
    }
  }
}

}  // namespace
}  // namespace mylinear::kernels

int main(int argc, char** argv) {
  const auto argument = [&](int index, uint64_t otherwise) {
    return argc > index ? std::strtoull(argv[index], nullptr, 10) : otherwise;
  };
  const uint64_t stride = argument(1, 4099), part = argument(2, 1), parts = argument(3, 1);
  if (argc > 4 || stride < 1 || part < 1 || part > parts) {
    std::fprintf(stderr, "usage: activation_test [STRIDE [PART PARTS]], with 1 <= PART <= PARTS\n");
    return 2;
  }
  mylinear::kernels::test_lanes<float>();
  mylinear::kernels::test_lanes<double>();
  mylinear::kernels::test_floats(stride, part, parts);
  mylinear::kernels::test_doubles(stride == 1 && part == 1 ? 2000 : 20);
  return report();
}
