// Layer: CUDA kernels. Products by cuBLASLt: the library, found at run time, and plans of calls to it.
#ifndef MYLINEAR_CUDA_CUBLAS_LT_H_
#define MYLINEAR_CUDA_CUBLAS_LT_H_

#include <cublasLt.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/backend.h"
#include "cuda/column_major.h"
#include "cuda/lru_cache.h"
#include "kernels/gemm.h"

namespace mylinear::cuda {

// X(function of cublasLt.h), for each one that is used.
#define MYLINEAR_CUBLAS_LT_FUNCTIONS(X) \
  X(cublasLtGetVersion)                 \
  X(cublasLtGetStatusString)            \
  X(cublasLtCreate)                     \
  X(cublasLtMatmul)                     \
  X(cublasLtMatmulAlgoGetHeuristic)     \
  X(cublasLtMatmulDescCreate)           \
  X(cublasLtMatmulDescDestroy)          \
  X(cublasLtMatmulDescSetAttribute)     \
  X(cublasLtMatrixLayoutCreate)         \
  X(cublasLtMatrixLayoutDestroy)        \
  X(cublasLtMatmulPreferenceCreate)     \
  X(cublasLtMatmulPreferenceDestroy)    \
  X(cublasLtMatmulPreferenceSetAttribute)

struct CublasLt {
#define MYLINEAR_DECLARE(name) decltype(&::name) name;
  MYLINEAR_CUBLAS_LT_FUNCTIONS(MYLINEAR_DECLARE)
#undef MYLINEAR_DECLARE
};

// Returns the library that this process has, or else the one that the loader finds; once found, always the
// same. onnxruntime's CUDA provider is linked with cuBLASLt, so it is loaded wherever one of our kernels
// runs. Throws Error(kMissing) with the loader's message.
const CublasLt& cublas_lt();

// A Call, or some of the rows and columns of its Y, which lie `y_stride` apart. What goes to cuBLASLt has no
// activation, and its X, W and bias are of one type; Y may be float32 for any but float64.
struct Product : Call {
  uint64_t y_stride;
  int32_t y_type;
};

// Everything that decides how a product is computed.
struct PlanKey {
  uint64_t M, N, K, y_stride;
  uint32_t w_alignment, x_alignment, y_alignment;  // of the addresses, in bytes: powers of two up to 256
  uint32_t max_workspace;
  int32_t element_type;
  int32_t y_type;
  int32_t work;
  bool allows_tf32;
  bool adds_bias;

  bool operator==(const PlanKey& other) const;
};
struct PlanKeyHash {
  size_t operator()(const PlanKey& key) const;
};

PlanKey make_key(const Product& product, uint64_t max_workspace);

// The plan of one product (any Work but kSumOfRows) on one device: layouts, the algorithm that cuBLASLt's
// heuristics chose, and its memory. Thread-safe.
class Plan {
 public:
  // Throws Error if cuBLASLt fails; a product that it does not support gives a plan that says so.
  Plan(const CublasLt& lt, cublasLtHandle_t handle, const PlanKey& key);
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  bool is_supported() const { return is_supported_; }
  uint64_t workspace_nbytes() const { return workspace_nbytes_; }
  // Whether the bias is added by the product itself; else `run` expects it in y.
  bool has_epilogue() const { return has_epilogue_; }

  // Queues the product. Returns false if cuBLASLt does not support it after all; throws Error for any other
  // failure.
  bool run(const Product& product, void* workspace);

 private:
  ColumnMajorProduct layouts() const;
  cublasLtMatmulDesc_t make_desc(bool has_epilogue) const;
  bool find_algorithm(cublasLtMatmulDesc_t desc);
  void release();

  const CublasLt& lt_;
  cublasLtHandle_t handle_;
  PlanKey key_;
  cublasLtMatrixLayout_t a_ = nullptr;
  cublasLtMatrixLayout_t b_ = nullptr;
  cublasLtMatrixLayout_t d_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_{};
  uint64_t workspace_nbytes_ = 0;
  bool is_supported_ = false;
  bool has_epilogue_ = false;
  // A description holds the address of the bias, so each call has its own while it is queued.
  std::mutex mutex_;
  std::vector<cublasLtMatmulDesc_t> idle_;
};

// The handle and the plans of one device. Thread-safe.
class Products {
 public:
  explicit Products(const CublasLt& lt);  // on the current device

  // Returns the plan; makes and keeps it if there is none yet. While one thread makes a plan, others wait.
  std::shared_ptr<Plan> plan(const PlanKey& key);

 private:
  static constexpr size_t kMaxPlans = 1024;
  const CublasLt& lt_;
  cublasLtHandle_t handle_ = nullptr;
  std::mutex mutex_;
  LruCache<PlanKey, std::shared_ptr<Plan>, PlanKeyHash> plans_{kMaxPlans};
};

}  // namespace mylinear::cuda

#endif  // MYLINEAR_CUDA_CUBLAS_LT_H_
