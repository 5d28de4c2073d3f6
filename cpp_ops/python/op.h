// Layer: Python. An operator with a Python kernel, as onnxruntime sees it.
#ifndef MYLINEAR_PYTHON_OP_H_
#define MYLINEAR_PYTHON_OP_H_

#include <string>
#include <vector>

#include "ort/op_table.h"
#include "python/kernel.h"

namespace mylinear::python {

// One overload. onnxruntime holds a pointer to it for as long as a session lives, so it is never freed.
struct PythonOp : ort::OpBase {
  using Kernel = python::Kernel;

  PythonOp(const ort::Runtime& for_runtime, const PythonOverload& overload);
  PythonOp(const PythonOp&) = delete;
  PythonOp& operator=(const PythonOp&) = delete;

  Kernel make_kernel(const ort::KernelInfo& info) const { return Kernel(info, *this); }
  void call_infer(const ort::ShapeInference& shapes) const;

  std::string name;
  std::vector<ort::Slot> inputs;
  std::vector<ort::Slot> outputs;
  std::vector<std::string> attributes;
  PyObject* make_node;
  PyObject* infer;
};

}  // namespace mylinear::python

#endif  // MYLINEAR_PYTHON_OP_H_
