// Layer: ORT, any operator. The element types of tensors: their ONNX numbers, names, sizes and C++ types.
#ifndef MYLINEAR_ORT_ELEMENT_TYPES_H_
#define MYLINEAR_ORT_ELEMENT_TYPES_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/half.h"
#include "ort/abi.h"

#pragma GCC visibility push(hidden)
namespace mylinear::ort {

using ElementType = abi::ONNXTensorElementDataType;

inline constexpr ElementType kUndefined = abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
inline constexpr ElementType kFloat64 = abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE;
inline constexpr ElementType kFloat32 = abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
inline constexpr ElementType kFloat16 = abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
inline constexpr ElementType kBfloat16 = abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
inline constexpr ElementType kInt64 = abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
inline constexpr ElementType kInt32 = abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
inline constexpr ElementType kInt16 = abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16;
inline constexpr ElementType kInt8 = abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
inline constexpr ElementType kUint64 = abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64;
inline constexpr ElementType kUint32 = abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32;
inline constexpr ElementType kUint16 = abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16;
inline constexpr ElementType kUint8 = abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
inline constexpr ElementType kBool = abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;

// Storage of the two small floating-point types. Compute with to_float, to_float16 and to_bfloat16.
using Float16 = kernels::Float16;
using Bfloat16 = kernels::Bfloat16;
using kernels::to_bfloat16;
using kernels::to_float;
using kernels::to_float16;

// What an element is computed in: float for the two small types, so that a result is rounded once; otherwise
// itself. In a .cu file these may be called on the device.
MYLINEAR_ON_DEVICE_TOO inline double widen(double value) { return value; }
MYLINEAR_ON_DEVICE_TOO inline float widen(float value) { return value; }
MYLINEAR_ON_DEVICE_TOO inline float widen(Float16 value) { return to_float(value); }
MYLINEAR_ON_DEVICE_TOO inline float widen(Bfloat16 value) { return to_float(value); }
template <class T>
using Wide = decltype(widen(T{}));

// Rounds a result to the element type.
template <class T>
MYLINEAR_ON_DEVICE_TOO T narrow(Wide<T> value) {
  if constexpr (std::is_same_v<T, Float16>) {
    return to_float16(value);
  } else if constexpr (std::is_same_v<T, Bfloat16>) {
    return to_bfloat16(value);
  } else {
    return value;
  }
}

struct ElementTypeRow {
  ElementType type;
  const char* name;  // NumPy's
  size_t nbytes;
};
inline constexpr ElementTypeRow kElementTypes[] = {
    {kFloat64, "float64", 8}, {kFloat32, "float32", 4}, {kFloat16, "float16", 2}, {kBfloat16, "bfloat16", 2},
    {kInt64, "int64", 8},     {kInt32, "int32", 4},     {kInt16, "int16", 2},     {kInt8, "int8", 1},
    {kUint64, "uint64", 8},   {kUint32, "uint32", 4},   {kUint16, "uint16", 2},   {kUint8, "uint8", 1},
    {kBool, "bool", 1},
};

constexpr bool same_text(const char* a, const char* b) {
  while (*a && *a == *b) ++a, ++b;
  return *a == *b;
}

// The row of a type; null for a type without fixed size, such as string.
constexpr const ElementTypeRow* find_element_type(ElementType type) {
  for (const ElementTypeRow& row : kElementTypes) {
    if (row.type == type) return &row;
  }
  return nullptr;
}

// The element type called `name`; kUndefined if there is none.
constexpr ElementType element_type_called(const char* name) {
  for (const ElementTypeRow& row : kElementTypes) {
    if (same_text(row.name, name)) return row.type;
  }
  return kUndefined;
}

constexpr const char* element_name(ElementType type) {
  const ElementTypeRow* row = find_element_type(type);
  return row ? row->name : "another element type";
}

}  // namespace mylinear::ort
#pragma GCC visibility pop

#endif  // MYLINEAR_ORT_ELEMENT_TYPES_H_
