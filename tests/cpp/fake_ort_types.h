// The objects of the fake onnxruntime, its counts of unreleased ones, and its injected failures.
#ifndef MYLINEAR_TESTS_FAKE_ORT_TYPES_H_
#define MYLINEAR_TESTS_FAKE_ORT_TYPES_H_

#include <atomic>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "ort/abi.h"

namespace mylinear::abi {

struct OrtStatus {
  OrtErrorCode code;
  std::string message;
};
struct OrtTensorTypeAndShapeInfo {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  std::vector<int64_t> dims;
  std::vector<std::string> names;
};
struct OrtMemoryInfo {
  int device = 0;
};
// Of the memory that kernels work in; what it gave out is in `live`.
struct OrtAllocator {
  std::set<void*>* live;
};
struct OrtValue {
  ONNXTensorElementDataType type;
  std::vector<int64_t> dims;
  std::vector<unsigned char> data;
  OrtTensorTypeAndShapeInfo
      info;  // handed out by GetTensorTypeAndShape, so that the fake itself allocates nothing
  OrtMemoryInfo memory = {};
};
struct OrtKernelInfo {
  size_t num_inputs;
  std::vector<const OrtValue*> constants;  // null where the input is computed
  std::map<std::string, float> floats;
  std::map<std::string, int64_t> integers;
  std::map<std::string, std::string> texts = {};
};
struct OrtKernelContext {
  std::vector<const OrtValue*> inputs;  // null for an absent one
  OrtValue* output;                     // with room for the result
  void* stream = nullptr;
  std::map<int, void*> resources = {};  // that the provider's stream knows
  bool has_scratch = true;
  std::vector<OrtValue*> more_outputs = {};  // outputs 1 and up; null for an absent one
};
struct OrtShapeInferContext {
  std::vector<OrtTensorTypeAndShapeInfo> inputs;
  OrtTensorTypeAndShapeInfo output;
  bool is_set = false;
  std::vector<size_t> set_outputs = {};  // in the order of the calls
};
struct OrtCustomOpDomain {
  std::string name;
  std::vector<const OrtCustomOp*> ops;
};
struct OrtSessionOptions {
  std::vector<OrtCustomOpDomain*> domains;
  std::map<std::string, std::string> entries = {};
};

}  // namespace mylinear::abi

namespace fake_ort {

using namespace mylinear::abi;

inline std::atomic<int> live_statuses{0};
inline std::atomic<int> live_infos{0};
inline std::atomic<int> live_domains{0};
inline std::atomic<int> live_allocators{0};
inline std::set<void*> live_scratch;
inline std::atomic<int> calls_until_failure{
    -1};                          // the call that counts it down to 0 fails; negative: none does
inline int num_pool_threads = 0;  // 0: ParallelFor is a plain loop

inline OrtStatus* make_status(OrtErrorCode code, const char* message) {
  ++live_statuses;
  return new OrtStatus{code, message};
}

// The status of a call that is to fail now, else null.
inline OrtStatus* injected() {
  if (calls_until_failure.load() < 0) return nullptr;
  return calls_until_failure.fetch_sub(1) == 0 ? make_status(ORT_FAIL, "injected") : nullptr;
}

#define FAKE_ORT_MAY_FAIL \
  if (OrtStatus* failure = injected()) return failure

}  // namespace fake_ort

#endif  // MYLINEAR_TESTS_FAKE_ORT_TYPES_H_
