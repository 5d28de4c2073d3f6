// Layer: CUDA kernels. See compute.h.
#include "cuda/compute.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>

#include "cuda/cublas_lt.h"
#include "cuda/current_device.h"
#include "cuda/device/columns.h"
#include "cuda/device/elementwise.h"
#include "cuda/device/gemv.h"
#include "cuda/error.h"
#include "kernels/gemm.h"

namespace mylinear::cuda {
namespace {

using kernels::Activation;
using kernels::ElementType;

constexpr char kGemvVariable[] = "MYLINEAR_CUDA_GEMV_ROWS";
// cuBLAS's own workspace on Hopper; an algorithm that needs less gets less.
constexpr uint64_t kMaxWorkspace = 32 << 20;
// The float32 sums of a 16-bit Y, or the float32 copy of a 16-bit W, are held in parts of this size; or of
// one row, where that is larger.
#ifndef MYLINEAR_CUDA_SCRATCH_NBYTES  // tests take less
#define MYLINEAR_CUDA_SCRATCH_NBYTES (64 << 20)
#endif
constexpr uint64_t kMaxScratch = MYLINEAR_CUDA_SCRATCH_NBYTES;
// cuBLASLt's kernels count in 32 bits; more rows take more calls.
constexpr uint64_t kMaxRows = uint64_t{1} << 30;
constexpr uint64_t kMaxDimension = 0x7fffffff;
constexpr auto kFloat32 = static_cast<int32_t>(ElementType::kFloat32);

// A product with at most so many rows of X (or of W: the product is symmetric) is bound by reading the other
// matrix, and gemv.cu computes it. With W in 16 bits under float32 it reads 2 bytes of W for each 4 rows of
// X, and a product after widening 2 + 4 + 4 bytes: so up to 16 rows of X it reads less. To be tuned on
// hardware; MYLINEAR_CUDA_GEMV_ROWS replaces both.
constexpr uint64_t kMaxGemvRows = 4, kMaxMixedGemvRows = 16;

uint64_t max_gemv_rows(bool is_mixed) {
  static const long forced = [] {
    const char* text = std::getenv(kGemvVariable);
    return text && *text ? std::strtol(text, nullptr, 10) : -1;
  }();
  if (forced >= 0) return static_cast<uint64_t>(forced);
  return is_mixed ? kMaxMixedGemvRows : kMaxGemvRows;
}

// The memory of one call, for which its caller is asked once. What is queued on one stream may share it.
class Memory {
 public:
  explicit Memory(const Call& call) : call_(call) {}

  // The most that `workspace` returns.
  uint64_t most_workspace() const {
    return is_asked_ ? workspace_nbytes_ : call_.allocate ? kMaxWorkspace : 0;
  }
  void* workspace(uint64_t nbytes) {
    if (!is_asked_) scratch(0, nbytes);
    return nbytes <= workspace_nbytes_ ? workspace_ : nullptr;
  }
  // Returns memory aligned to 256, and keeps some beside it for `workspace`; null if there is none.
  void* scratch(uint64_t nbytes, uint64_t workspace_nbytes) {
    const uint64_t start = (nbytes + 255) / 256 * 256;
    is_asked_ = true;
    auto* data =
        call_.allocate ? static_cast<char*>(call_.allocate(call_.owner, start + workspace_nbytes)) : nullptr;
    if (!data) return nullptr;
    workspace_ = data + start;
    workspace_nbytes_ = workspace_nbytes;
    return data;
  }

 private:
  const Call& call_;
  bool is_asked_ = false;
  char* workspace_ = nullptr;
  uint64_t workspace_nbytes_ = 0;
};

cudaStream_t stream_of(const Call& call) { return static_cast<cudaStream_t>(call.stream); }
ElementType type_of(const Call& call) { return static_cast<ElementType>(call.element_type); }
Activation activation_of(const Call& call) { return static_cast<Activation>(call.activation); }
uint64_t element_size(int32_t type) { return kernels::kElementSizes[type]; }

const void* advance(const void* data, uint64_t elements, int32_t type) {
  return data ? static_cast<const char*>(data) + elements * element_size(type) : nullptr;
}

Product rows_of(const Product& whole, uint64_t first, uint64_t count) {
  Product some = whole;
  some.M = count;
  some.x = advance(whole.x, first * whole.K, whole.element_type);
  some.y = const_cast<void*>(advance(whole.y, first * whole.y_stride, whole.y_type));
  return some;
}

Product columns_of(const Product& whole, uint64_t first, uint64_t count) {
  Product some = whole;
  some.N = count;
  some.w = advance(whole.w, first * whole.K, whole.weight_type);
  some.bias = advance(whole.bias, first, whole.element_type);
  some.y = const_cast<void*>(advance(whole.y, first, whole.y_type));
  return some;
}

// Computes y = activation(sums + bias); null sums are 0.
void run_epilogue(const Product& p, const void* sums, uint64_t sums_stride, Activation activation) {
  check(launch_epilogue(
            {type_of(p), p.M, p.N, sums, sums_stride, p.bias, activation, p.y, p.y_stride, stream_of(p)}),
        "launch of epilogue_kernel");
}

// Computes a kLinear by our own kernel, at any size. Reads the larger matrix once if the smaller has few
// rows; W in any case, where it alone is in 16 bits.
void run_gemv(const Product& call, const Device& device) {
  GemvParams p{};
  p.type = type_of(call);
  p.row_type = static_cast<ElementType>(call.weight_type);
  p.K = call.K;
  p.bias = call.bias;
  p.y = call.y;
  p.activation = activation_of(call);
  p.num_multiprocessors = device.num_multiprocessors;
  p.stream = stream_of(call);
  if (call.M <= call.N || call.weight_type != call.element_type) {
    p.rows = call.w;
    p.num_rows = call.N;
    p.row_stride = 1;
    p.vectors = call.x;
    p.num_vectors = call.M;
    p.vector_stride = call.y_stride;
  } else {
    p.rows = call.x;
    p.num_rows = call.M;
    p.row_stride = call.y_stride;
    p.vectors = call.w;
    p.num_vectors = call.N;
    p.vector_stride = 1;
    p.has_bias_of_vectors = true;
  }
  check(launch_gemv(p), "launch of gemv_kernel");
}

// Computes any other work by our own kernel, at any size. Products are slow.
void run_columns(const Product& call) {
  ColumnParams p{};
  p.type = type_of(call);
  p.M = call.M;
  p.N = call.N;
  p.K = call.K;
  p.x = call.x;
  p.x_row = call.work == kTransposedProduct ? 1 : call.K;
  p.x_step = call.work == kTransposedProduct ? call.M : 1;
  p.w = call.w;
  p.y = call.y;
  p.stream = stream_of(call);
  check(launch_columns(p), "launch of column_kernel");
}

bool fits_cublas_lt(const Product& product) {
  return product.y_stride <= kMaxDimension && product.K <= kMaxDimension;
}

// Computes a product by cuBLASLt; returns false if it has no algorithm.
bool run_product(const Product& product, Device& device, Memory& memory) {
  if (!fits_cublas_lt(product)) return false;
  Products& products = products_of(device);
  std::shared_ptr<Plan> plan = products.plan(make_key(product, memory.most_workspace()));
  void* workspace = nullptr;
  if (plan->is_supported() && plan->workspace_nbytes()) {
    workspace = memory.workspace(plan->workspace_nbytes());
    if (!workspace) plan = products.plan(make_key(product, 0));
  }
  if (!plan->is_supported()) return false;
  if (product.bias && !plan->has_epilogue()) run_epilogue(product, nullptr, 0, Activation::kNone);
  return plan->run(product, workspace);
}

// Returns the workspace that cuBLASLt would like.
uint64_t wanted_workspace(const Product& product, Device& device) {
  if (!fits_cublas_lt(product)) return 0;
  return products_of(device).plan(make_key(product, kMaxWorkspace))->workspace_nbytes();
}

// What cuBLASLt computes of a part with an activation: its sums, at `sums`.
Product sums_of(const Product& part, void* sums, uint64_t sums_stride) {
  Product product = part;
  product.bias = nullptr;
  product.activation = 0;
  product.y = sums;
  product.y_stride = sums_stride;
  if (part.element_type != static_cast<int32_t>(ElementType::kFloat64)) product.y_type = kFloat32;
  return product;
}

// Computes a kLinear whose W has the type of X. With an activation the sums stay in their own type until it:
// float64 and float32 sums lie in Y, others in memory of the call. Without such memory our own kernel serves.
void run_linear(const Product& whole, Device& device, Memory& memory) {
  const uint64_t few = max_gemv_rows(false);
  if (whole.M <= few || whole.N <= few) return run_gemv(whole, device);
  const bool activates = activation_of(whole) != Activation::kNone;
  const bool has_own_sums = activates && element_size(whole.element_type) == 2;
  uint64_t rows = std::min(whole.M, kMaxRows);
  void* sums = nullptr;
  if (has_own_sums) {
    rows = std::min(rows, std::max(uint64_t{1}, kMaxScratch / sizeof(float) / whole.N));
    const Product first = sums_of(rows_of(whole, 0, rows), nullptr, whole.N);
    sums = memory.scratch(rows * whole.N * sizeof(float), wanted_workspace(first, device));
    if (!sums) return run_gemv(whole, device);
  }
  for (uint64_t first = 0; first < whole.M; first += rows) {
    const Product part = rows_of(whole, first, std::min(rows, whole.M - first));
    const uint64_t sums_stride = has_own_sums ? whole.N : whole.y_stride;
    const Product product = activates ? sums_of(part, has_own_sums ? sums : part.y, sums_stride) : part;
    if (!run_product(product, device, memory)) {
      run_gemv(part, device);
    } else if (activates) {
      run_epilogue(part, product.y, sums_stride, activation_of(part));
    }
  }
}

// Computes a kLinear with W in 16 bits under float32. For many rows of X it widens W, which is exact, some
// rows of W at a time, and never allows TF32.
void run_mixed_linear(Product whole, Device& device, Memory& memory) {
  whole.allows_tf32 = 0;
  if (whole.M <= max_gemv_rows(true)) return run_gemv(whole, device);
  const uint64_t columns = std::min(whole.N, std::max(uint64_t{1}, kMaxScratch / sizeof(float) / whole.K));
  const auto widened = [&](uint64_t first, uint64_t count, void* w) {
    Product part = columns_of(whole, first, count);
    part.weight_type = part.element_type;
    part.w = w;
    return part;
  };
  const uint64_t workspace =
      columns <= max_gemv_rows(false) ? 0 : wanted_workspace(widened(0, columns, nullptr), device);
  void* wide = memory.scratch(columns * whole.K * sizeof(float), workspace);
  if (!wide) return run_gemv(whole, device);
  for (uint64_t first = 0; first < whole.N; first += columns) {
    const uint64_t count = std::min(columns, whole.N - first);
    check(launch_widen(static_cast<ElementType>(whole.weight_type), count * whole.K,
                       columns_of(whole, first, count).w, static_cast<float*>(wide), stream_of(whole)),
          "launch of widen_kernel");
    run_linear(widened(first, count, wide), device, memory);
  }
}

// Computes a product of a backward, or a sum of rows.
void run_other(const Product& whole, Device& device, Memory& memory) {
  // Rows of a transposed X do not lie together, and a layer has fewer of them than one call takes.
  if (whole.work == kSumOfRows || (whole.work == kTransposedProduct && whole.M > kMaxRows)) {
    return run_columns(whole);
  }
  for (uint64_t first = 0; first < whole.M; first += kMaxRows) {
    const Product part = rows_of(whole, first, std::min(kMaxRows, whole.M - first));
    if (!run_product(part, device, memory)) run_columns(part);
  }
}

void check_call(const Call& call) {
  const auto is_type = [](int32_t type) { return type >= 0 && type < kernels::kNumElementTypes; };
  if (!is_type(call.element_type))
    throw Error(kFailed, "unknown element type " + std::to_string(call.element_type));
  if (call.work < kLinear || call.work > kSumOfRows)
    throw Error(kFailed, "unknown work " + std::to_string(call.work));
  if (call.work != kLinear) return;
  if (!is_type(call.weight_type) ||
      kernels::gemm_kernel_index(type_of(call), static_cast<ElementType>(call.weight_type)) < 0) {
    throw Error(kFailed, "no weights of element type " + std::to_string(call.weight_type) + " under " +
                             std::to_string(call.element_type));
  }
  if (call.activation < 0 || call.activation >= kernels::kNumActivations)
    throw Error(kFailed, "unknown activation " + std::to_string(call.activation));
}

}  // namespace

void compute_call(const Call& call) {
  check_call(call);
  const CurrentDevice current(call.device);
  Device& device = device_state(call.device);
  Product whole{call, call.N, call.element_type};
  Memory memory(call);
  if (call.work != kLinear) {
    whole.weight_type = call.element_type;
    whole.activation = 0;
  }
  if (call.K == 0) return run_epilogue(whole, nullptr, 0, activation_of(whole));
  if (call.work != kLinear) return run_other(whole, device, memory);
  if (whole.weight_type != whole.element_type) return run_mixed_linear(whole, device, memory);
  run_linear(whole, device, memory);
}

}  // namespace mylinear::cuda
