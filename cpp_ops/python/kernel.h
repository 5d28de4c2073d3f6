// Layer: Python. Calls a Python kernel for a node.
//
// A call's memory is not copied: inputs reach Python as read-only memoryviews, outputs as writable ones. The
// GIL is held from the first Python object of a call to the last. A Python exception becomes a status. If
// anything still refers to the memory after a call, the call is an error.
#ifndef MYLINEAR_PYTHON_KERNEL_H_
#define MYLINEAR_PYTHON_KERNEL_H_

#include "ort/call.h"
#include "python/objects.h"

namespace mylinear::python {

struct PythonOp;

// One node of one session. `compute` may run on any number of threads at once: it changes no member.
class Kernel {
 public:
  Kernel(const ort::KernelInfo& info, const PythonOp& op);
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;
  ~Kernel();

  void compute(const ort::Call& call) const;

 private:
  void run(const ort::Call& call, Tuple* loans) const;
  Reference prepare(const ort::Call& call, Tuple* loans) const;

  const ort::Signature& signature_;
  PyObject* prepare_ = nullptr;
};

}  // namespace mylinear::python

#endif  // MYLINEAR_PYTHON_KERNEL_H_
