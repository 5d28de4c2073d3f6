// Layer: ORT op. A node's attributes, as the kernels in Python get them.
#ifndef MYLINEAR_PYTHON_ATTRIBUTES_H_
#define MYLINEAR_PYTHON_ATTRIBUTES_H_

#include "ort_abi.h"
#include "ort_tensor.h"
#include "python_objects.h"

namespace mylinear {

// Bytes of one element. Throws PythonError for a type that no Python kernel takes.
size_t element_nbytes(int32_t type);

// An attribute of any type as (kind, data), or None; `_present` in ort_ops/python_node.py decodes it. ORT
// does not tell an absent attribute from one of another type, and a wrong type must not become a silent
// default; so every type is tried, and Python compares.
Reference read_attribute(const Runtime& runtime, const abi::OrtKernelInfo* info, const char* name);

// The same during shape inference, where ORT offers numbers and strings only.
Reference read_attribute(const abi::OrtApi* api, const abi::OrtShapeInferContext* context, const char* name);

}  // namespace mylinear

#endif  // MYLINEAR_PYTHON_ATTRIBUTES_H_
