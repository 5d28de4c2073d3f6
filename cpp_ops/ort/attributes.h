// Layer: ORT, any operator. Reading a node's attributes, when a kernel is made and during shape inference.
//
// onnxruntime does not tell an absent attribute from one of another type, and a wrong type must not become a
// silent default. So every type is tried.
#ifndef MYLINEAR_ORT_ATTRIBUTES_H_
#define MYLINEAR_ORT_ATTRIBUTES_H_

#include <cassert>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "ort/messages.h"
#include "ort/operator.h"

#pragma GCC visibility push(hidden)
namespace mylinear::ort {

// An attribute of any kind, as a node has it.
class FoundAttribute {
 public:
  FoundAttribute() = default;
  FoundAttribute(const FoundAttribute&) = delete;
  FoundAttribute& operator=(const FoundAttribute&) = delete;
  ~FoundAttribute() {
    if (value_) api_->ReleaseValue(value_);
  }

  AttributeKind kind = AttributeKind::kAbsent;
  std::string data;                  // the bytes of one number, of a list of numbers, or of a string
  std::vector<std::string> strings;  // of kStrings
  TensorView tensor;                 // of kTensor; valid for as long as this is

  void set(AttributeKind found, const void* bytes, size_t nbytes) {
    kind = found;
    data.assign(static_cast<const char*>(bytes), nbytes);
  }
  void set_tensor(const Runtime& runtime, abi::OrtValue* value) {
    api_ = runtime.api;
    value_ = value;
    tensor.read(runtime, value);
    kind = AttributeKind::kTensor;
  }

 private:
  const abi::OrtApi* api_ = nullptr;
  abi::OrtValue* value_ = nullptr;
};

// Takes over a list of strings that onnxruntime allocated.
inline void take_strings(const abi::OrtApi* api, abi::OrtAllocator* allocator, char** strings, size_t size,
                         FoundAttribute* out) {
  const auto free_all = [&] {
    for (size_t i = 0; i < size; ++i) succeeded(api, api->AllocatorFree(allocator, strings[i]));
    succeeded(api, api->AllocatorFree(allocator, strings));
  };
  try {
    out->strings.assign(strings, strings + size);
  } catch (...) {
    free_all();
    throw;
  }
  free_all();
  out->kind = AttributeKind::kStrings;
}

// Reads attribute `name` of a node whose kernel is being made.
inline void read_attribute(const Runtime& runtime, const abi::OrtKernelInfo* info, const char* name,
                           FoundAttribute* out) {
  const abi::OrtApi* api = runtime.api;
  float number = 0;
  int64_t integer = 0;
  size_t size = 0;
  if (succeeded(api, api->KernelInfoGetAttribute_float(info, name, &number))) {
    return out->set(AttributeKind::kFloat, &number, sizeof number);
  }
  if (succeeded(api, api->KernelInfoGetAttribute_int64(info, name, &integer))) {
    return out->set(AttributeKind::kInt, &integer, sizeof integer);
  }
  if (succeeded(api, api->KernelInfoGetAttribute_string(info, name, nullptr, &size))) {
    std::string text(size, '\0');
    check(api->KernelInfoGetAttribute_string(info, name, &text[0], &size));
    return out->set(AttributeKind::kString, text.data(), size ? size - 1 : 0);  // without the final 0
  }
  // The functions for lists also succeed on a list of another type, with size 0.
  bool is_list = false;
  size = 0;
  if (succeeded(api, api->KernelInfoGetAttributeArray_float(info, name, nullptr, &size))) {
    is_list = true;
    std::vector<float> numbers(size);
    if (size) check(api->KernelInfoGetAttributeArray_float(info, name, numbers.data(), &size));
    if (size) return out->set(AttributeKind::kFloats, numbers.data(), size * sizeof(float));
  }
  size = 0;
  if (succeeded(api, api->KernelInfoGetAttributeArray_int64(info, name, nullptr, &size))) {
    is_list = true;
    std::vector<int64_t> integers(size);
    if (size) check(api->KernelInfoGetAttributeArray_int64(info, name, integers.data(), &size));
    if (size) return out->set(AttributeKind::kInts, integers.data(), size * sizeof(int64_t));
  }
  abi::OrtAllocator* allocator = nullptr;
  check(api->GetAllocatorWithDefaultOptions(&allocator));
  if (runtime.version >= 25) {
    char** strings = nullptr;
    size = 0;
    if (succeeded(api, api->KernelInfoGetAttributeArray_string(info, name, allocator, &strings, &size))) {
      is_list = true;
      if (size) return take_strings(api, allocator, strings, size, out);
    }
  }
  abi::OrtValue* value = nullptr;
  if (succeeded(api, api->KernelInfoGetAttribute_tensor(info, name, allocator, &value))) {
    return out->set_tensor(runtime, value);
  }
  if (is_list) {
    out->kind = runtime.version >= 25 ? AttributeKind::kEmptyList : AttributeKind::kEmptyListOrStrings;
  }
}

// Reads attribute `name` during shape inference, where onnxruntime offers numbers and strings only.
inline void read_attribute(const Runtime& runtime, const abi::OrtShapeInferContext* context, const char* name,
                           FoundAttribute* out) {
  const abi::OrtApi* api = runtime.api;
  const abi::OrtOpAttr* found = nullptr;
  if (!succeeded(api, api->ShapeInferContext_GetAttribute(context, name, &found)) || !found) return;
  constexpr std::pair<abi::OrtOpAttrType, AttributeKind> kinds[] = {
      {abi::ORT_OP_ATTR_FLOAT, AttributeKind::kFloat},
      {abi::ORT_OP_ATTR_INT, AttributeKind::kInt},
      {abi::ORT_OP_ATTR_STRING, AttributeKind::kString},
      {abi::ORT_OP_ATTR_FLOATS, AttributeKind::kFloats},
      {abi::ORT_OP_ATTR_INTS, AttributeKind::kInts}};
  for (const auto& [type, kind] : kinds) {
    // A buffer that is too small fails like a wrong type, but then says how large it must be.
    std::string data(256, '\0');
    size_t needed = 0;
    bool is_read = succeeded(api, api->ReadOpAttr(found, type, &data[0], data.size(), &needed));
    if (!is_read && needed > data.size()) {
      data.resize(needed);
      is_read = succeeded(api, api->ReadOpAttr(found, type, &data[0], data.size(), &needed));
    }
    if (is_read) return out->set(kind, data.data(), needed);
  }
}

constexpr const char* kind_name(AttributeKind kind) {
  switch (kind) {
    case AttributeKind::kFloat:
      return "a float";
    case AttributeKind::kInt:
      return "an int";
    case AttributeKind::kString:
      return "a string";
    case AttributeKind::kTensor:
      return "a tensor";
    case AttributeKind::kFloats:
      return "a list of floats";
    case AttributeKind::kInts:
      return "a list of ints";
    case AttributeKind::kStrings:
      return "a list of strings";
    case AttributeKind::kEmptyList:
    case AttributeKind::kEmptyListOrStrings:
      return "an empty list";
    case AttributeKind::kAbsent:
      break;
  }
  return "nothing";
}

// The attributes of a node by the operator's table: checked, and with the defaults. `Source` is
// abi::OrtKernelInfo or abi::OrtShapeInferContext. All functions throw ContractError for an attribute of
// another kind than the table says, or one that is required and absent.
template <class Source>
class Attributes {
 public:
  Attributes(const Runtime& runtime, const Signature& signature, const Source* source)
      : runtime_(runtime), signature_(signature), source_(source) {}

  float get_float(const char* name) const {
    const Attribute& attribute = find(name, AttributeKind::kFloat);
    const std::vector<float> read = numbers<float>(attribute);
    return read.empty() ? attribute.default_float : read[0];
  }
  int64_t get_int(const char* name) const {
    const Attribute& attribute = find(name, AttributeKind::kInt);
    const std::vector<int64_t> read = numbers<int64_t>(attribute);
    return read.empty() ? attribute.default_int : read[0];
  }
  std::string get_string(const char* name) const {
    const Attribute& attribute = find(name, AttributeKind::kString);
    FoundAttribute found;
    return read(attribute, &found) ? found.data : attribute.default_string;
  }
  std::vector<float> get_floats(const char* name) const {
    return numbers<float>(find(name, AttributeKind::kFloats));
  }
  std::vector<int64_t> get_ints(const char* name) const {
    return numbers<int64_t>(find(name, AttributeKind::kInts));
  }

  // The kind that an attribute has in this node, in the table or not.
  AttributeKind kind_of(const char* name) const {
    FoundAttribute found;
    read_attribute(runtime_, source_, name, &found);
    return found.kind;
  }

 private:
  const Attribute& find(const char* name, [[maybe_unused]] AttributeKind kind) const {
    for (const Attribute& attribute : signature_.attributes) {
      if (!same_text(attribute.name, name)) continue;
      assert(attribute.kind == kind);
      return attribute;
    }
    throw Error(abi::ORT_FAIL, std::string(signature_.name) + ": the kernel reads attribute " + name +
                                   ", which its Spec does not have");
  }

  // Returns whether the node has the attribute.
  bool read(const Attribute& attribute, FoundAttribute* out) const {
    read_attribute(runtime_, source_, attribute.name, out);
    const std::string argument = std::string("attribute ") + attribute.name;
    if (out->kind == AttributeKind::kAbsent) {
      if (!attribute.is_required) return false;
      throw ContractError(message(signature_.name, argument, "given", "nothing"));
    }
    const bool is_list = attribute.kind == AttributeKind::kFloats || attribute.kind == AttributeKind::kInts;
    const bool is_empty =
        out->kind == AttributeKind::kEmptyList || out->kind == AttributeKind::kEmptyListOrStrings;
    if (out->kind == attribute.kind || (is_list && is_empty)) return true;
    throw ContractError(message(signature_.name, argument, kind_name(attribute.kind), kind_name(out->kind)));
  }

  template <class T>
  std::vector<T> numbers(const Attribute& attribute) const {
    FoundAttribute found;
    std::vector<T> result;
    if (!read(attribute, &found)) return result;
    result.resize(found.data.size() / sizeof(T));
    if (!result.empty()) std::memcpy(result.data(), found.data.data(), result.size() * sizeof(T));
    return result;
  }

  const Runtime& runtime_;
  const Signature& signature_;
  const Source* source_;
};

}  // namespace mylinear::ort
#pragma GCC visibility pop

#endif  // MYLINEAR_ORT_ATTRIBUTES_H_
