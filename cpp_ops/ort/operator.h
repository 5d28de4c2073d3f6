// Layer: ORT, any operator. How a kernel's author describes an operator, and what onnxruntime is told of it.
#ifndef MYLINEAR_ORT_OPERATOR_H_
#define MYLINEAR_ORT_OPERATOR_H_

#include <cstddef>
#include <cstdint>

#include "ort/element_types.h"

#pragma GCC visibility push(hidden)
namespace mylinear::ort {

inline constexpr char kCpuProvider[] = "CPUExecutionProvider";
inline constexpr char kCudaProvider[] = "CUDAExecutionProvider";

// A name that stands for one of several element types, the same for every parameter that has it.
struct TypeVariable {
  static constexpr size_t kMaxTypes = 13;
  const char* name;
  ElementType types[kMaxTypes];  // kUndefined after the last

  constexpr size_t count() const {
    size_t count = 0;
    while (count < kMaxTypes && types[count] != kUndefined) ++count;
    return count;
  }
};

inline constexpr bool kOptional = true;

// An input or an output.
struct Parameter {
  const char* name;  // as in the Python operator
  const char* type;  // the name of a type variable, or of an element type such as "int64"
  bool is_optional = false;
  const char* argument = nullptr;  // the word for it in messages; null for `name`
};

enum class AttributeKind : int32_t {  // the numbers are those of ONNX's AttributeProto.AttributeType
  kAbsent = 0,
  kFloat = 1,
  kInt = 2,
  kString = 3,
  kTensor = 4,
  kFloats = 6,
  kInts = 7,
  kStrings = 8,
  // Not in ONNX: onnxruntime does not tell the type of a list without elements, and up to 1.24 it shows a
  // list
  // of strings as one.
  kEmptyList = -1,
  kEmptyListOrStrings = -2,
};

// An attribute. One that is not required has a default; a list defaults to the empty list.
struct Attribute {
  const char* name;
  AttributeKind kind;
  bool is_required = false;
  float default_float = 0;
  int64_t default_int = 0;
  const char* default_string = "";
};

constexpr Attribute required(const char* name, AttributeKind kind) { return {name, kind, true}; }
constexpr Attribute float_attribute(const char* name, float value) {
  return {name, AttributeKind::kFloat, false, value};
}
constexpr Attribute int_attribute(const char* name, int64_t value) {
  return {name, AttributeKind::kInt, false, 0, value};
}
constexpr Attribute string_attribute(const char* name, const char* value) {
  return {name, AttributeKind::kString, false, 0, 0, value};
}
constexpr Attribute floats_attribute(const char* name) { return {name, AttributeKind::kFloats}; }
constexpr Attribute ints_attribute(const char* name) { return {name, AttributeKind::kInts}; }

// A view of an array that somebody else owns.
template <class T>
struct Span {
  const T* data = nullptr;
  size_t size = 0;

  const T& operator[](size_t index) const { return data[index]; }
  const T* begin() const { return data; }
  const T* end() const { return data + size; }
};

// One input or output of a kernel, with its element type chosen.
struct Slot {
  ElementType type;
  bool is_optional;
  const char* argument;       // the word for it in messages
  const char* type_variable;  // what Parameter::type says; null if unknown
};

// What onnxruntime asks of an operator, for one choice of element types. Whoever owns the op owns the arrays.
struct Signature {
  const char* name;
  const char* provider;
  int since_version;
  int end_version;  // the last version that it serves
  Span<Slot> inputs;
  Span<Slot> outputs;
  Span<Attribute> attributes;
};

}  // namespace mylinear::ort
#pragma GCC visibility pop

#endif  // MYLINEAR_ORT_OPERATOR_H_
