// A cuBLASLt that works on the CPU, in plain loops, with the column-major meaning that the real one
// documents. It holds callers to what they must give, counts what they leave behind, and refuses what the
// tests tell it to.
#include <cublasLt.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "fake_cublas_lt.h"
#include "kernels/half.h"

namespace {

using namespace mylinear::kernels;

std::mutex mutex;
FakeCublasLt state;

struct Attributes {
  std::map<int, std::vector<unsigned char>> values;

  cublasStatus_t set(int attribute, const void* buffer, size_t size, const std::map<int, size_t>& sizes) {
    const auto known = sizes.find(attribute);
    if (known == sizes.end() || known->second != size) return CUBLAS_STATUS_INVALID_VALUE;
    const auto* bytes = static_cast<const unsigned char*>(buffer);
    values[attribute].assign(bytes, bytes + size);
    return CUBLAS_STATUS_SUCCESS;
  }
  template <class T>
  T get(int attribute, T otherwise) const {
    const auto found = values.find(attribute);
    if (found == values.end()) return otherwise;
    T value;
    std::memcpy(&value, found->second.data(), sizeof value);
    return value;
  }
};

struct Desc : Attributes {
  cublasComputeType_t compute;
  cudaDataType_t scale;
};
struct Layout {
  cudaDataType_t type;
  uint64_t rows, columns;
  int64_t leading;
};

const Desc& desc_of(cublasLtMatmulDesc_t desc) { return *reinterpret_cast<const Desc*>(desc); }
const Layout& layout_of(cublasLtMatrixLayout_t layout) { return *reinterpret_cast<const Layout*>(layout); }

double read(const void* data, cudaDataType_t type, uint64_t index) {
  switch (type) {
    case CUDA_R_64F:
      return static_cast<const double*>(data)[index];
    case CUDA_R_32F:
      return static_cast<const float*>(data)[index];
    case CUDA_R_16F:
      return to_float(static_cast<const Float16*>(data)[index]);
    case CUDA_R_16BF:
      return to_float(static_cast<const Bfloat16*>(data)[index]);
    default:
      std::abort();
  }
}

void write(void* data, cudaDataType_t type, uint64_t index, double value) {
  const float single = static_cast<float>(value);
  switch (type) {
    case CUDA_R_64F:
      static_cast<double*>(data)[index] = value;
      break;
    case CUDA_R_32F:
      static_cast<float*>(data)[index] = single;
      break;
    case CUDA_R_16F:
      static_cast<Float16*>(data)[index] = to_float16(single);
      break;
    case CUDA_R_16BF:
      static_cast<Bfloat16*>(data)[index] = to_bfloat16(single);
      break;
    default:
      std::abort();
  }
}

bool adds_bias(const Desc& desc) {
  return desc.get<uint32_t>(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT) ==
         CUBLASLT_EPILOGUE_BIAS;
}

bool is_valid(const Desc& desc, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
  const bool a_t = desc.get<int32_t>(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_N) == CUBLAS_OP_T;
  const bool b_t = desc.get<int32_t>(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N) == CUBLAS_OP_T;
  const uint64_t m = a_t ? a.columns : a.rows, k = a_t ? a.rows : a.columns;
  const uint64_t n = b_t ? b.rows : b.columns, k_of_b = b_t ? b.columns : b.rows;
  for (const Layout* layout : {&a, &b, &c, &d}) {
    if (layout->leading < static_cast<int64_t>(layout->rows)) return false;
  }
  // Y has the type of the others, or is the sums of two 16-bit matrices, which take no bias of 16 bits.
  const bool is_small = a.type == CUDA_R_16F || a.type == CUDA_R_16BF;
  if (b.type != a.type || c.type != d.type) return false;
  if (d.type != a.type && !(is_small && d.type == CUDA_R_32F && !adds_bias(desc))) return false;
  const bool is_double = a.type == CUDA_R_64F;
  const bool has_right_sum = is_double ? desc.compute == CUBLAS_COMPUTE_64F && desc.scale == CUDA_R_64F
                                       : desc.compute != CUBLAS_COMPUTE_64F && desc.scale == CUDA_R_32F;
  const bool is_tf32 = desc.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
  return has_right_sum && k == k_of_b && d.rows == m && d.columns == n && c.rows == m && c.columns == n &&
         (!is_tf32 || a.type == CUDA_R_32F);
}

}  // namespace

extern "C" {

FakeCublasLt* fake_cublas_lt() { return &state; }

size_t cublasLtGetVersion() { return 130000; }
const char* cublasLtGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_EXECUTION_FAILED ? "the fake was told to fail" : "a status of the fake";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  const std::lock_guard<std::mutex> lock(mutex);
  ++state.num_handles;
  *handle = reinterpret_cast<cublasLtHandle_t>(&state);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  const std::lock_guard<std::mutex> lock(mutex);
  ++state.live_objects;
  ++state.num_descs;
  auto* made = new Desc;
  made->compute = compute;
  made->scale = scale;
  *desc = reinterpret_cast<cublasLtMatmulDesc_t>(made);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  const std::lock_guard<std::mutex> lock(mutex);
  --state.live_objects;
  delete reinterpret_cast<Desc*>(desc);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute, const void* buffer,
                                              size_t size) {
  static const std::map<int, size_t> sizes = {{CUBLASLT_MATMUL_DESC_TRANSA, 4},
                                              {CUBLASLT_MATMUL_DESC_TRANSB, 4},
                                              {CUBLASLT_MATMUL_DESC_EPILOGUE, 4},
                                              {CUBLASLT_MATMUL_DESC_BIAS_POINTER, 8},
                                              {CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, 4}};
  return reinterpret_cast<Desc*>(desc)->set(attribute, buffer, size, sizes);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t leading) {
  const std::lock_guard<std::mutex> lock(mutex);
  ++state.live_objects;
  *layout = reinterpret_cast<cublasLtMatrixLayout_t>(new Layout{type, rows, columns, leading});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  const std::lock_guard<std::mutex> lock(mutex);
  --state.live_objects;
  delete reinterpret_cast<Layout*>(layout);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  const std::lock_guard<std::mutex> lock(mutex);
  ++state.live_objects;
  *preference = reinterpret_cast<cublasLtMatmulPreference_t>(new Attributes);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  const std::lock_guard<std::mutex> lock(mutex);
  --state.live_objects;
  delete reinterpret_cast<Attributes*>(preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* buffer, size_t size) {
  static const std::map<int, size_t> sizes = {
      {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 8},   {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, 4},
      {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, 4}, {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, 4},
      {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, 4}, {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, 4}};
  return reinterpret_cast<Attributes*>(preference)->set(attribute, buffer, size, sizes);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[], int* count) {
  const std::lock_guard<std::mutex> lock(mutex);
  ++state.num_heuristics;
  *count = 0;
  const auto& wanted = *reinterpret_cast<const Attributes*>(preference);
  if (handle != reinterpret_cast<cublasLtHandle_t>(&state) || requested < 1)
    return CUBLAS_STATUS_INVALID_VALUE;
  if (!is_valid(desc_of(desc), layout_of(a), layout_of(b), layout_of(c), layout_of(d)))
    return CUBLAS_STATUS_INVALID_VALUE;
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    state.alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES] =
        wanted.get<uint32_t>(attribute, 256);
  }
  const bool has_epilogue = adds_bias(desc_of(desc));
  if (state.refuses_products || (state.refuses_epilogue && has_epilogue)) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (state.finds_nothing) return CUBLAS_STATUS_SUCCESS;
  results[0] = {};
  const uint64_t most = wanted.get<uint64_t>(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 0);
  results[0].workspaceSize = state.workspace <= most ? state.workspace : 0;
  results[0].algo.data[0] = 42 + results[0].workspaceSize;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, size_t workspace_size, cudaStream_t stream) {
  const Desc& described = desc_of(desc);
  const Layout &la = layout_of(a_layout), &lb = layout_of(b_layout), &lc = layout_of(c_layout),
               &ld = layout_of(d_layout);
  {
    const std::lock_guard<std::mutex> lock(mutex);
    ++state.num_products;
    state.last_stream = stream;
    state.last_is_tf32 = described.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    if (state.fails) return CUBLAS_STATUS_EXECUTION_FAILED;
    if (state.refuses_to_run) return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  if (!is_valid(described, la, lb, lc, ld) || algo->data[0] != 42 + workspace_size)
    return CUBLAS_STATUS_INVALID_VALUE;
  if (workspace_size && !workspace) return CUBLAS_STATUS_INVALID_VALUE;
  if (workspace_size) std::memset(workspace, 0xcc, workspace_size);
  const bool is_double = la.type == CUDA_R_64F;
  const double alpha_value =
      is_double ? *static_cast<const double*>(alpha) : *static_cast<const float*>(alpha);
  const double beta_value = is_double ? *static_cast<const double*>(beta) : *static_cast<const float*>(beta);
  const bool a_t = described.get<int32_t>(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_N) == CUBLAS_OP_T;
  const bool b_t = described.get<int32_t>(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N) == CUBLAS_OP_T;
  const bool has_bias = adds_bias(described);
  const void* bias = described.get<const void*>(CUBLASLT_MATMUL_DESC_BIAS_POINTER, nullptr);
  const auto bias_type =
      static_cast<cudaDataType_t>(described.get<int32_t>(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, ld.type));
  const uint64_t k = a_t ? la.rows : la.columns;
  for (uint64_t i = 0; i < ld.rows; ++i) {
    for (uint64_t j = 0; j < ld.columns; ++j) {
      double sum = 0;
      for (uint64_t l = 0; l < k; ++l) {
        const uint64_t at_a =
            a_t ? l + i * static_cast<uint64_t>(la.leading) : i + l * static_cast<uint64_t>(la.leading);
        const uint64_t at_b =
            b_t ? j + l * static_cast<uint64_t>(lb.leading) : l + j * static_cast<uint64_t>(lb.leading);
        sum += read(a, la.type, at_a) * read(b, lb.type, at_b);
      }
      sum *= alpha_value;
      if (beta_value != 0) sum += beta_value * read(c, lc.type, i + j * static_cast<uint64_t>(lc.leading));
      if (has_bias) sum += read(bias, bias_type, i);
      write(d, ld.type, i + j * static_cast<uint64_t>(ld.leading), sum);
    }
  }
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
