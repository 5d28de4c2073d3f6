// An onnxruntime of a few hundred lines: as much of the C API as the library uses, at any API version, with a
// function table of exactly that version's length, injected failures, and counts of what is not released.
#ifndef MYLINEAR_TESTS_FAKE_ORT_H_
#define MYLINEAR_TESTS_FAKE_ORT_H_

#include <atomic>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <thread>
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

struct Functions {
  static OrtStatus* CreateStatus(OrtErrorCode code, const char* message) {
    return make_status(code, message);
  }
  static const char* GetErrorMessage(const OrtStatus* status) { return status->message.c_str(); }
  static void ReleaseStatus(OrtStatus* status) {
    --live_statuses;
    delete status;
  }
  static OrtStatus* CreateCustomOpDomain(const char* name, OrtCustomOpDomain** out) {
    FAKE_ORT_MAY_FAIL;
    ++live_domains;
    *out = new OrtCustomOpDomain{name, {}};
    return nullptr;
  }
  static void ReleaseCustomOpDomain(OrtCustomOpDomain* domain) {
    --live_domains;
    delete domain;
  }
  static OrtStatus* CustomOpDomain_Add(OrtCustomOpDomain* domain, const OrtCustomOp* op) {
    FAKE_ORT_MAY_FAIL;
    domain->ops.push_back(op);
    return nullptr;
  }
  static OrtStatus* AddCustomOpDomain(OrtSessionOptions* options, OrtCustomOpDomain* domain) {
    FAKE_ORT_MAY_FAIL;
    options->domains.push_back(domain);
    return nullptr;
  }
  static OrtStatus* GetTensorMutableData(OrtValue* value, void** out) {
    FAKE_ORT_MAY_FAIL;
    *out = value->data.data();
    return nullptr;
  }
  static OrtStatus* GetTensorData(const OrtValue* value, const void** out) {
    FAKE_ORT_MAY_FAIL;
    *out = value->data.data();
    return nullptr;
  }
  static OrtStatus* CreateTensorTypeAndShapeInfo(OrtTensorTypeAndShapeInfo** out) {
    FAKE_ORT_MAY_FAIL;
    ++live_infos;
    *out = new OrtTensorTypeAndShapeInfo;
    return nullptr;
  }
  static void ReleaseTensorTypeAndShapeInfo(OrtTensorTypeAndShapeInfo* info) {
    --live_infos;
    if (!info->names.empty() && info->names[0] == "owned by its value") return;
    delete info;
  }
  static OrtStatus* SetTensorElementType(OrtTensorTypeAndShapeInfo* info, ONNXTensorElementDataType type) {
    FAKE_ORT_MAY_FAIL;
    info->type = type;
    return nullptr;
  }
  static OrtStatus* SetDimensions(OrtTensorTypeAndShapeInfo* info, const int64_t* dims, size_t rank) {
    FAKE_ORT_MAY_FAIL;
    info->dims.assign(dims, dims + rank);
    return nullptr;
  }
  static OrtStatus* SetSymbolicDimensions(OrtTensorTypeAndShapeInfo* info, const char** names, size_t rank) {
    FAKE_ORT_MAY_FAIL;
    info->names.assign(names, names + rank);
    return nullptr;
  }
  static OrtStatus* GetTensorElementType(const OrtTensorTypeAndShapeInfo* info,
                                         ONNXTensorElementDataType* out) {
    FAKE_ORT_MAY_FAIL;
    *out = info->type;
    return nullptr;
  }
  static OrtStatus* GetDimensionsCount(const OrtTensorTypeAndShapeInfo* info, size_t* out) {
    FAKE_ORT_MAY_FAIL;
    *out = info->dims.size();
    return nullptr;
  }
  static OrtStatus* GetDimensions(const OrtTensorTypeAndShapeInfo* info, int64_t* dims, size_t rank) {
    FAKE_ORT_MAY_FAIL;
    if (rank) std::memcpy(dims, info->dims.data(), rank * sizeof(int64_t));
    return nullptr;
  }
  static OrtStatus* GetSymbolicDimensions(const OrtTensorTypeAndShapeInfo* info, const char** names,
                                          size_t rank) {
    FAKE_ORT_MAY_FAIL;
    for (size_t i = 0; i < rank; ++i) names[i] = info->names[i].c_str();
    return nullptr;
  }
  static OrtStatus* GetTensorTypeAndShape(const OrtValue* value, OrtTensorTypeAndShapeInfo** out) {
    FAKE_ORT_MAY_FAIL;
    ++live_infos;
    *out = const_cast<OrtTensorTypeAndShapeInfo*>(&value->info);
    return nullptr;
  }
  static OrtStatus* GetTensorElementTypeAndShapeDataReference(const OrtValue* value,
                                                              ONNXTensorElementDataType* type,
                                                              const int64_t** dims, size_t* rank) {
    FAKE_ORT_MAY_FAIL;
    *type = value->type;
    *dims = value->dims.data();
    *rank = value->dims.size();
    return nullptr;
  }
  static OrtStatus* KernelInfoGetAttribute_float(const OrtKernelInfo* info, const char* name, float* out) {
    const auto found = info->floats.find(name);
    if (found == info->floats.end()) return make_status(ORT_FAIL, "No attribute with this name");
    *out = found->second;
    return nullptr;
  }
  static OrtStatus* KernelInfoGetAttribute_int64(const OrtKernelInfo* info, const char* name, int64_t* out) {
    const auto found = info->integers.find(name);
    if (found == info->integers.end()) return make_status(ORT_FAIL, "No attribute with this name");
    *out = found->second;
    return nullptr;
  }
  // Lists, strings and tensors: absent.
  static OrtStatus* KernelInfoGetAttribute_string(const OrtKernelInfo*, const char*, char*, size_t*) {
    return make_status(ORT_FAIL, "No attribute with this name");
  }
  static OrtStatus* KernelInfoGetAttributeArray_float(const OrtKernelInfo*, const char*, float*, size_t*) {
    return make_status(ORT_FAIL, "No attribute with this name");
  }
  static OrtStatus* KernelInfoGetAttributeArray_int64(const OrtKernelInfo*, const char*, int64_t*, size_t*) {
    return make_status(ORT_FAIL, "No attribute with this name");
  }
  static OrtStatus* KernelInfoGetAttributeArray_string(const OrtKernelInfo*, const char*, OrtAllocator*,
                                                       char***, size_t*) {
    return make_status(ORT_FAIL, "No attribute with this name");
  }
  static OrtStatus* KernelInfoGetAttribute_tensor(const OrtKernelInfo*, const char*, OrtAllocator*,
                                                  OrtValue**) {
    return make_status(ORT_FAIL, "No attribute with this name");
  }
  static OrtStatus* GetAllocatorWithDefaultOptions(OrtAllocator** out) {
    *out = nullptr;
    return nullptr;
  }
  static OrtStatus* AllocatorFree(OrtAllocator* allocator, void* memory) {
    if (allocator && allocator->live->erase(memory)) std::free(memory);
    return injected();
  }
  static void ReleaseAllocator(OrtAllocator* allocator) {
    --live_allocators;
    delete allocator;
  }
  static OrtStatus* KernelInfoGetAllocator(const OrtKernelInfo*, OrtMemType, OrtAllocator** out) {
    FAKE_ORT_MAY_FAIL;
    ++live_allocators;
    *out = new OrtAllocator{&live_scratch};
    return nullptr;
  }
  static OrtStatus* KernelContext_GetScratchBuffer(const OrtKernelContext* context, const OrtMemoryInfo*,
                                                   size_t nbytes, void** out) {
    if (!context->has_scratch) return make_status(ORT_FAIL, "the arena is full");
    FAKE_ORT_MAY_FAIL;
    *out = std::malloc(nbytes);
    live_scratch.insert(*out);
    return nullptr;
  }
  static OrtStatus* KernelContext_GetGPUComputeStream(const OrtKernelContext* context, void** out) {
    FAKE_ORT_MAY_FAIL;
    *out = context->stream;
    return nullptr;
  }
  static OrtStatus* KernelContext_GetResource(const OrtKernelContext* context, int version, int id,
                                              void** out) {
    if (version != 1) return make_status(ORT_FAIL, "resource version unsupported!");
    const auto found = context->resources.find(id);
    *out = found == context->resources.end() ? nullptr : found->second;
    return nullptr;
  }
  static OrtStatus* GetTensorMemoryInfo(const OrtValue* value, const OrtMemoryInfo** out) {
    FAKE_ORT_MAY_FAIL;
    *out = &value->memory;
    return nullptr;
  }
  static OrtStatus* MemoryInfoGetId(const OrtMemoryInfo* info, int* out) {
    FAKE_ORT_MAY_FAIL;
    *out = info->device;
    return nullptr;
  }
  static OrtStatus* HasSessionConfigEntry(const OrtSessionOptions* options, const char* key, int* out) {
    FAKE_ORT_MAY_FAIL;
    *out = options->entries.count(key) != 0;
    return nullptr;
  }
  static OrtStatus* GetSessionConfigEntry(const OrtSessionOptions* options, const char* key, char* out,
                                          size_t* size) {
    FAKE_ORT_MAY_FAIL;
    const std::string& value = options->entries.at(key);
    const bool has_room = *size > value.size();
    *size = value.size() + 1;
    if (!out) return nullptr;
    if (!has_room) return make_status(ORT_INVALID_ARGUMENT, "result buffer is not large enough");
    std::memcpy(out, value.c_str(), value.size() + 1);
    return nullptr;
  }
  static void ReleaseValue(OrtValue*) {}
  static OrtStatus* ShapeInferContext_GetAttribute(const OrtShapeInferContext*, const char*,
                                                   const OrtOpAttr**) {
    return make_status(ORT_FAIL, "No attribute with this name");
  }
  static OrtStatus* ReadOpAttr(const OrtOpAttr*, OrtOpAttrType, void*, size_t, size_t*) {
    return make_status(ORT_FAIL, "No attribute with this name");
  }
  static OrtStatus* KernelInfo_GetInputCount(const OrtKernelInfo* info, size_t* out) {
    FAKE_ORT_MAY_FAIL;
    *out = info->num_inputs;
    return nullptr;
  }
  static OrtStatus* KernelInfoGetConstantInput_tensor(const OrtKernelInfo* info, size_t index,
                                                      int* is_constant, const OrtValue** out) {
    FAKE_ORT_MAY_FAIL;
    *out = info->constants.at(index);
    *is_constant = *out != nullptr;
    return nullptr;
  }
  static OrtStatus* KernelContext_GetInput(const OrtKernelContext* context, size_t index,
                                           const OrtValue** out) {
    FAKE_ORT_MAY_FAIL;
    *out = context->inputs.at(index);
    return nullptr;
  }
  static OrtStatus* KernelContext_GetOutput(OrtKernelContext* context, size_t index, const int64_t* dims,
                                            size_t rank, OrtValue** out) {
    FAKE_ORT_MAY_FAIL;
    const bool is_there = index == 0 || index <= context->more_outputs.size();
    *out = index == 0 ? context->output : is_there ? context->more_outputs[index - 1] : nullptr;
    if (*out) (*out)->dims.assign(dims, dims + rank);
    return nullptr;
  }
  static OrtStatus* KernelContext_ParallelFor(const OrtKernelContext*, void (*body)(void*, size_t),
                                              size_t total, size_t, void* data) {
    FAKE_ORT_MAY_FAIL;
    std::vector<std::thread> pool;
    for (int t = 0; t < num_pool_threads; ++t) {
      pool.emplace_back([=] {
        for (size_t i = static_cast<size_t>(t); i < total; i += static_cast<size_t>(num_pool_threads))
          body(data, i);
      });
    }
    for (std::thread& thread : pool) thread.join();
    for (size_t i = 0; pool.empty() && i < total; ++i) body(data, i);
    return nullptr;
  }
  static OrtStatus* ShapeInferContext_GetInputCount(const OrtShapeInferContext* context, size_t* out) {
    FAKE_ORT_MAY_FAIL;
    *out = context->inputs.size();
    return nullptr;
  }
  static OrtStatus* ShapeInferContext_GetInputTypeShape(const OrtShapeInferContext* context, size_t index,
                                                        OrtTensorTypeAndShapeInfo** out) {
    FAKE_ORT_MAY_FAIL;
    *out = const_cast<OrtTensorTypeAndShapeInfo*>(&context->inputs.at(index));
    return nullptr;
  }
  static OrtStatus* ShapeInferContext_SetOutputTypeShape(const OrtShapeInferContext* context, size_t index,
                                                         const OrtTensorTypeAndShapeInfo* info) {
    FAKE_ORT_MAY_FAIL;
    auto* mutable_context = const_cast<OrtShapeInferContext*>(context);
    mutable_context->output = *info;
    mutable_context->is_set = true;
    mutable_context->set_outputs.push_back(index);
    return nullptr;
  }
};

// One release: the table of its API version ends after that version's last function, in memory of its own.
class Release {
 public:
  explicit Release(const char* version_text, uint32_t api_version)
      : version_(api_version), text_(version_text) {
    size_t slots = 0;
#define FAKE_ORT_COUNT(slot, since, name) \
  if (since <= api_version) slots = slot + 1;
    MYLINEAR_ORT_API_SLOTS(FAKE_ORT_COUNT)
#undef FAKE_ORT_COUNT
    table_ = static_cast<void**>(std::calloc(slots, sizeof(void*)));
    // Kept, as the library keeps what it made for each table: a new one must not get the address of an old
    // one.
    static auto* tables = new std::vector<void*>;
    tables->push_back(table_);
#define FAKE_ORT_FILL(slot, since, name) \
  if (since <= api_version) table_[slot] = reinterpret_cast<void*>(&Functions::name);
    MYLINEAR_ORT_API_SLOTS(FAKE_ORT_FILL)
#undef FAKE_ORT_FILL
  }
  Release(const Release&) = delete;

  // An OrtApiBase has no state, so that of the release last made current is what it speaks of.
  const OrtApiBase* base() const {
    current() = this;
    static const OrtApiBase kBase = {[](uint32_t version) -> const OrtApi* {
                                       current()->asked_for_ = version;
                                       return version <= current()->version_ ? current()->api() : nullptr;
                                     },
                                     [] { return current()->text_; }};
    return &kBase;
  }
  const OrtApi* api() const { return reinterpret_cast<const OrtApi*>(table_); }
  uint32_t asked_for() const { return asked_for_; }

 private:
  static const Release*& current() {
    static const Release* release = nullptr;
    return release;
  }
  uint32_t version_;
  const char* text_;
  void** table_;
  mutable std::atomic<uint32_t> asked_for_{0};
};

}  // namespace fake_ort

#endif  // MYLINEAR_TESTS_FAKE_ORT_H_
