// Layer: ORT op. See python_attributes.h.
#include "python_attributes.h"

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace mylinear {
namespace {

using abi::OrtAllocator;
using abi::OrtKernelInfo;
using abi::OrtStatus;
using abi::OrtValue;

// Whether an ORT function succeeded; its status is released.
bool succeeded(const abi::OrtApi* api, OrtStatus* status) {
  if (status) api->ReleaseStatus(status);
  return !status;
}

// (kind, data) for Python, where kind is an AttributeProto.AttributeType.
Reference attribute(int64_t kind, Reference data) {
  Tuple result(2);
  result.add(kind);
  result.add(std::move(data));
  return result.take();
}

constexpr int64_t kFloat = 1, kInt = 2, kString = 3, kTensor = 4, kFloats = 6, kInts = 7, kStrings = 8;
// Not in ONNX: what onnxruntime shows of a list without elements; before 1.25 one of strings looks like that.
constexpr int64_t kEmptyList = -1, kEmptyListOrStrings = -2;

Reference tensor_attribute(const Runtime& runtime, const OrtValue* value) {
  TensorView view;
  view.read(runtime, value);
  size_t nbytes = element_nbytes(view.type);
  for (size_t axis = 0; axis < view.shape.rank; ++axis) nbytes *= static_cast<size_t>(view.shape.data[axis]);
  Tuple tensor(3);
  tensor.add(view.type);
  tensor.add(shape_tuple(view.shape.data, view.shape.rank));
  tensor.add(bytes(view.data, nbytes));
  return attribute(kTensor, tensor.take());
}

Reference strings_attribute(const abi::OrtApi* api, OrtAllocator* allocator, char** strings, size_t size) {
  const auto free_all = [&](char** array) {
    for (size_t i = 0; i < size; ++i) succeeded(api, api->AllocatorFree(allocator, array[i]));
    succeeded(api, api->AllocatorFree(allocator, array));
  };
  const std::unique_ptr<char*, decltype(free_all)> owner(strings, free_all);
  Tuple list(size);
  for (size_t i = 0; i < size; ++i) list.add(bytes(strings[i], std::strlen(strings[i])));
  return attribute(kStrings, list.take());
}

}  // namespace

size_t element_nbytes(int32_t type) {
  switch (type) {
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL:
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
      return 1;
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16:
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16:
      return 2;
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32:
      return 4;
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE:
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64:
      return 8;
    default:
      throw PythonError(abi::ORT_INVALID_ARGUMENT,
                        "a Python kernel takes no tensors of ONNX element type " + std::to_string(type));
  }
}

Reference read_attribute(const Runtime& runtime, const OrtKernelInfo* info, const char* name) {
  const abi::OrtApi* api = runtime.api;
  float number = 0;
  int64_t integer = 0;
  size_t size = 0;
  if (succeeded(api, api->KernelInfoGetAttribute_float(info, name, &number))) {
    return attribute(kFloat, bytes(&number, sizeof number));
  }
  if (succeeded(api, api->KernelInfoGetAttribute_int64(info, name, &integer))) {
    return attribute(kInt, bytes(&integer, sizeof integer));
  }
  if (succeeded(api, api->KernelInfoGetAttribute_string(info, name, nullptr, &size))) {
    std::string text(size, '\0');
    check(api->KernelInfoGetAttribute_string(info, name, &text[0], &size));
    return attribute(kString, bytes(text.data(), size ? size - 1 : 0));  // without the final 0
  }
  // The functions for lists also succeed on a list of another type, with size 0.
  bool is_list = false;
  size = 0;
  if (succeeded(api, api->KernelInfoGetAttributeArray_float(info, name, nullptr, &size))) {
    is_list = true;
    std::vector<float> numbers(size);
    if (size) check(api->KernelInfoGetAttributeArray_float(info, name, numbers.data(), &size));
    if (size) return attribute(kFloats, bytes(numbers.data(), size * sizeof(float)));
  }
  size = 0;
  if (succeeded(api, api->KernelInfoGetAttributeArray_int64(info, name, nullptr, &size))) {
    is_list = true;
    std::vector<int64_t> integers(size);
    if (size) check(api->KernelInfoGetAttributeArray_int64(info, name, integers.data(), &size));
    if (size) return attribute(kInts, bytes(integers.data(), size * sizeof(int64_t)));
  }
  OrtAllocator* allocator = nullptr;
  check(api->GetAllocatorWithDefaultOptions(&allocator));
  if (runtime.version >= 25) {
    char** strings = nullptr;
    size = 0;
    if (succeeded(api, api->KernelInfoGetAttributeArray_string(info, name, allocator, &strings, &size))) {
      is_list = true;
      if (size) return strings_attribute(api, allocator, strings, size);
    }
  }
  OrtValue* value = nullptr;
  if (succeeded(api, api->KernelInfoGetAttribute_tensor(info, name, allocator, &value))) {
    const auto release = [api](OrtValue* p) { api->ReleaseValue(p); };
    const std::unique_ptr<OrtValue, decltype(release)> owner(value, release);
    return tensor_attribute(runtime, value);
  }
  if (!is_list) return none();
  return attribute(runtime.version >= 25 ? kEmptyList : kEmptyListOrStrings, none());
}

Reference read_attribute(const abi::OrtApi* api, const abi::OrtShapeInferContext* context, const char* name) {
  const abi::OrtOpAttr* found = nullptr;
  if (!succeeded(api, api->ShapeInferContext_GetAttribute(context, name, &found)) || !found) return none();
  constexpr std::pair<abi::OrtOpAttrType, int64_t> kinds[] = {{abi::ORT_OP_ATTR_FLOAT, kFloat},
                                                              {abi::ORT_OP_ATTR_INT, kInt},
                                                              {abi::ORT_OP_ATTR_STRING, kString},
                                                              {abi::ORT_OP_ATTR_FLOATS, kFloats},
                                                              {abi::ORT_OP_ATTR_INTS, kInts}};
  for (const auto& [type, kind] : kinds) {
    // A buffer that is too small fails like a wrong type, but then says how large it must be.
    std::string data(256, '\0');
    size_t needed = 0;
    bool is_read = succeeded(api, api->ReadOpAttr(found, type, &data[0], data.size(), &needed));
    if (!is_read && needed > data.size()) {
      data.resize(needed);
      is_read = succeeded(api, api->ReadOpAttr(found, type, &data[0], data.size(), &needed));
    }
    if (is_read) return attribute(kind, bytes(data.data(), needed));
  }
  return none();
}

}  // namespace mylinear
