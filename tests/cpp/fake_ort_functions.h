// The functions of the fake onnxruntime: as much of the C API as the library uses.
#ifndef MYLINEAR_TESTS_FAKE_ORT_FUNCTIONS_H_
#define MYLINEAR_TESTS_FAKE_ORT_FUNCTIONS_H_

#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "fake_ort_types.h"

namespace fake_ort {

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
  static OrtStatus* KernelInfoGetAttribute_string(const OrtKernelInfo* info, const char* name, char* out,
                                                  size_t* size) {
    const auto found = info->texts.find(name);
    if (found == info->texts.end()) return make_status(ORT_FAIL, "No attribute with this name");
    if (out) std::memcpy(out, found->second.c_str(), *size);
    *size = found->second.size() + 1;  // with the final 0
    return nullptr;
  }
  // Lists and tensors: absent.
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

}  // namespace fake_ort

#endif  // MYLINEAR_TESTS_FAKE_ORT_FUNCTIONS_H_
