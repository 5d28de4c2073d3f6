// Layer: Python. A node's attributes, as the kernels in Python get them.
#ifndef MYLINEAR_PYTHON_ATTRIBUTES_H_
#define MYLINEAR_PYTHON_ATTRIBUTES_H_

#include "ort/attributes.h"
#include "python/objects.h"

namespace mylinear::python {

// The size of one element. Throws ort::Error for a type that no Python kernel takes.
size_t element_nbytes(ort::ElementType type);

// An attribute of any type as (kind, data), or None for an absent one. `_present` in python_kernels/node.py
// decodes it and compares the kind with the one that the operator wants.
Reference attribute_object(const ort::FoundAttribute& found);

}  // namespace mylinear::python

#endif  // MYLINEAR_PYTHON_ATTRIBUTES_H_
