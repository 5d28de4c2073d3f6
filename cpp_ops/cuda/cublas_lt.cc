// Layer: CUDA kernels. See cublas_lt.h.
#include "cuda/cublas_lt.h"

#include <dlfcn.h>

#include "cuda/error.h"

namespace mylinear::cuda {
namespace {

using kernels::ElementType;

// The major versions that agree with the header of this build, newest first.
constexpr const char* kLibraries[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
constexpr uint32_t kMaxAlignment = 256;

void check(const CublasLt& lt, cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const Code code = status == CUBLAS_STATUS_ALLOC_FAILED ? kOutOfMemory : kFailed;
  throw Error(code, std::string(what) + ": " + lt.cublasLtGetStatusString(status));
}

void* open_library(std::string* error) {
  // First the one that is loaded already, of whichever major version: onnxruntime computes with it.
  for (const char* name : kLibraries) {
    if (void* library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD)) return library;
  }
  for (const char* name : kLibraries) {
    if (void* library = dlopen(name, RTLD_LAZY | RTLD_LOCAL)) return library;
    const char* text = dlerror();
    if (text) *error += (error->empty() ? "" : "; ") + std::string(text);
  }
  return nullptr;
}

cudaDataType_t data_type(ElementType type) {
  switch (type) {
    case ElementType::kFloat64:
      return CUDA_R_64F;
    case ElementType::kFloat32:
      return CUDA_R_32F;
    case ElementType::kFloat16:
      return CUDA_R_16F;
    case ElementType::kBfloat16:
      return CUDA_R_16BF;
  }
  throw Error(kFailed, "unknown element type");
}

uint32_t alignment(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  uint32_t bytes = 1;
  while (bytes < kMaxAlignment && address % (2 * bytes) == 0) bytes *= 2;
  return bytes;
}

}  // namespace

const CublasLt& cublas_lt() {
  static std::mutex mutex;
  static const CublasLt* loaded = nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  if (loaded) return *loaded;
  std::string error;
  void* library = open_library(&error);
  if (!library) throw Error(kMissing, "cuBLASLt cannot be loaded: " + error);
  auto made = std::make_unique<CublasLt>();
#define MYLINEAR_FIND(name)                                                \
  made->name = reinterpret_cast<decltype(&::name)>(dlsym(library, #name)); \
  if (!made->name) throw Error(kMissing, "this cuBLASLt has no function " #name);
  MYLINEAR_CUBLAS_LT_FUNCTIONS(MYLINEAR_FIND)
#undef MYLINEAR_FIND
  loaded = made.release();
  return *loaded;
}

bool PlanKey::operator==(const PlanKey& o) const {
  return M == o.M && N == o.N && K == o.K && y_stride == o.y_stride && w_alignment == o.w_alignment &&
         x_alignment == o.x_alignment && y_alignment == o.y_alignment && max_workspace == o.max_workspace &&
         element_type == o.element_type && y_type == o.y_type && work == o.work &&
         allows_tf32 == o.allows_tf32 && adds_bias == o.adds_bias;
}

size_t PlanKeyHash::operator()(const PlanKey& key) const {
  size_t hash = 0;
  for (const uint64_t part :
       {key.M, key.N, key.K, key.y_stride, uint64_t{key.w_alignment}, uint64_t{key.x_alignment},
        uint64_t{key.y_alignment}, uint64_t{key.max_workspace}, static_cast<uint64_t>(key.element_type),
        static_cast<uint64_t>(key.y_type), static_cast<uint64_t>(key.work), uint64_t{key.allows_tf32},
        uint64_t{key.adds_bias}}) {
    hash = (hash ^ part) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 32;
  }
  return hash;
}

PlanKey make_key(const Product& product, uint64_t max_workspace) {
  PlanKey key{};
  key.M = product.M;
  key.N = product.N;
  key.K = product.K;
  key.w_alignment = alignment(product.w);
  key.x_alignment = alignment(product.x);
  key.y_alignment = alignment(product.y);
  if (product.bias) {  // cuBLASLt has no preference for its alignment; it is read like y
    const uint32_t of_bias = alignment(product.bias);
    if (of_bias < key.y_alignment) key.y_alignment = of_bias;
  }
  key.max_workspace = static_cast<uint32_t>(max_workspace);
  key.y_stride = product.y_stride;
  key.element_type = product.element_type;
  key.y_type = product.y_type;
  key.work = product.work;
  key.allows_tf32 =
      product.allows_tf32 && product.element_type == static_cast<int32_t>(ElementType::kFloat32);
  key.adds_bias = product.bias != nullptr;
  return key;
}

Plan::Plan(const CublasLt& lt, cublasLtHandle_t handle, const PlanKey& key)
    : lt_(lt), handle_(handle), key_(key) {
  try {
    const cudaDataType_t type = data_type(static_cast<ElementType>(key.element_type));
    const cudaDataType_t y_type = data_type(static_cast<ElementType>(key.y_type));
    const ColumnMajorProduct product = layouts();
    const auto make_layout = [&](cublasLtMatrixLayout_t* layout, cudaDataType_t type, const ColumnMajor& m) {
      check(lt, lt.cublasLtMatrixLayoutCreate(layout, type, m.rows, m.columns, m.leading),
            "cublasLtMatrixLayoutCreate");
    };
    make_layout(&a_, type, product.a);
    make_layout(&b_, type, product.b);
    make_layout(&d_, y_type, product.d);
    for (const bool has_epilogue : {true, false}) {
      if (has_epilogue != key.adds_bias && has_epilogue) continue;
      cublasLtMatmulDesc_t desc = make_desc(has_epilogue);
      idle_.push_back(desc);
      if (find_algorithm(desc)) {
        is_supported_ = true;
        has_epilogue_ = has_epilogue;
        return;
      }
      idle_.pop_back();
      lt.cublasLtMatmulDescDestroy(desc);
    }
  } catch (...) {
    release();
    throw;
  }
}

Plan::~Plan() { release(); }

void Plan::release() {
  for (cublasLtMatmulDesc_t desc : idle_) lt_.cublasLtMatmulDescDestroy(desc);
  for (cublasLtMatrixLayout_t layout : {a_, b_, d_}) {
    if (layout) lt_.cublasLtMatrixLayoutDestroy(layout);
  }
}

ColumnMajorProduct Plan::layouts() const {
  ColumnMajorProduct found =
      column_major(key_.M, key_.N, key_.K, key_.work == kTransposedProduct, key_.work != kLinear);
  found.d.leading = static_cast<int64_t>(key_.y_stride);
  return found;
}

cublasLtMatmulDesc_t Plan::make_desc(bool has_epilogue) const {
  const auto element_type = static_cast<ElementType>(key_.element_type);
  const bool is_double = element_type == ElementType::kFloat64;
  cublasComputeType_t compute = is_double ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F;
  if (key_.allows_tf32) compute = CUBLAS_COMPUTE_32F_FAST_TF32;
  cublasLtMatmulDesc_t desc = nullptr;
  check(lt_, lt_.cublasLtMatmulDescCreate(&desc, compute, is_double ? CUDA_R_64F : CUDA_R_32F),
        "cublasLtMatmulDescCreate");
  try {
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
      check(lt_, lt_.cublasLtMatmulDescSetAttribute(desc, attribute, &value, sizeof value),
            "cublasLtMatmulDescSetAttribute");
    };
    const ColumnMajorProduct product = layouts();
    const auto operation = [](const ColumnMajor& m) -> int32_t {
      return m.is_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, operation(product.a));
    set(CUBLASLT_MATMUL_DESC_TRANSB, operation(product.b));
    if (has_epilogue) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(CUBLASLT_EPILOGUE_BIAS));
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(data_type(element_type)));
    }
  } catch (...) {
    lt_.cublasLtMatmulDescDestroy(desc);
    throw;
  }
  return desc;
}

// Returns whether cuBLASLt has an algorithm, and keeps it in this plan.
bool Plan::find_algorithm(cublasLtMatmulDesc_t desc) {
  cublasLtMatmulPreference_t preference = nullptr;
  check(lt_, lt_.cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  struct Destroy {
    const CublasLt& lt;
    cublasLtMatmulPreference_t preference;
    ~Destroy() { lt.cublasLtMatmulPreferenceDestroy(preference); }
  } const destroy{lt_, preference};
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    check(lt_, lt_.cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
          "cublasLtMatmulPreferenceSetAttribute");
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{key_.max_workspace});
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key_.w_alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key_.x_alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key_.y_alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key_.y_alignment);
  // Partial sums stay in the type of the sum: a 16-bit element is rounded once.
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  cublasLtMatmulHeuristicResult_t result{};
  int count = 0;
  const cublasStatus_t status =
      lt_.cublasLtMatmulAlgoGetHeuristic(handle_, desc, a_, b_, d_, d_, preference, 1, &result, &count);
  // Any of these may say that a product is not supported.
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return false;
  check(lt_, status, "cublasLtMatmulAlgoGetHeuristic");
  if (count == 0 || result.state != CUBLAS_STATUS_SUCCESS || result.workspaceSize > key_.max_workspace) {
    return false;
  }
  algorithm_ = result.algo;
  workspace_nbytes_ = result.workspaceSize;
  return true;
}

bool Plan::run(const Product& product, void* workspace) {
  cublasLtMatmulDesc_t desc = nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      desc = idle_.back();
      idle_.pop_back();
    }
  }
  if (!desc) desc = make_desc(has_epilogue_);
  struct PutBack {
    Plan& plan;
    cublasLtMatmulDesc_t desc;
    ~PutBack() {
      try {
        const std::lock_guard<std::mutex> lock(plan.mutex_);
        plan.idle_.push_back(desc);
      } catch (...) {  // no memory for the list
        plan.lt_.cublasLtMatmulDescDestroy(desc);
      }
    }
  } const put_back{*this, desc};
  if (has_epilogue_) {
    check(lt_,
          lt_.cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &product.bias,
                                             sizeof product.bias),
          "cublasLtMatmulDescSetAttribute");
  }
  const bool adds_to_y = key_.adds_bias && !has_epilogue_;
  const double one64 = 1, beta64 = adds_to_y;
  const float one32 = 1, beta32 = adds_to_y;
  const bool is_double = static_cast<ElementType>(key_.element_type) == ElementType::kFloat64;
  const void* alpha = is_double ? static_cast<const void*>(&one64) : &one32;
  const void* beta = is_double ? static_cast<const void*>(&beta64) : &beta32;
  const cublasStatus_t status = lt_.cublasLtMatmul(
      handle_, desc, alpha, product.w, a_, product.x, b_, beta, product.y, d_, product.y, d_, &algorithm_,
      workspace, workspace_nbytes_, static_cast<cudaStream_t>(product.stream));
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) return false;
  check(lt_, status, "cublasLtMatmul");
  return true;
}

Products::Products(const CublasLt& lt) : lt_(lt) { check(lt, lt.cublasLtCreate(&handle_), "cublasLtCreate"); }

std::shared_ptr<Plan> Products::plan(const PlanKey& key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::shared_ptr<Plan> found = plans_.find(key);
  if (!found) {
    found = std::make_shared<Plan>(lt_, handle_, key);
    plans_.put(key, found);
  }
  return found;
}

}  // namespace mylinear::cuda
