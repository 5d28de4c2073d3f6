// Layer: Python. After a Python kernel raised, kept memory, or forked.
//
// The GIL is held. `prepare` is what `make_node` returned, or None; `loans` a tuple of weak references to the
// memory that a call lent to Python, with None where there was none.
#ifndef MYLINEAR_PYTHON_FAILURE_H_
#define MYLINEAR_PYTHON_FAILURE_H_

#include "python/objects.h"

namespace mylinear::python {

// A weak reference to an object.
Reference weak(PyObject* object);

// Throws the ort::Error that tells onnxruntime of an exception. The exception that Python keeps refers to no
// loan.
[[noreturn]] void throw_described(Reference exception, PyObject* prepare, PyObject* loans);

// Runs `body` with the GIL. For use outside of a call: an exception is described without loans.
template <class Body>
void with_gil(Body&& body) {
  const Gil gil;
  try {
    body();
  } catch (Raised& raised) {
    throw_described(std::move(raised.exception), api.none, Tuple(0).get());
  }
}

// Whether anything still refers to a loan.
bool is_any_kept(PyObject* loans);

// Throws ort::Error unless only garbage refers to a loan.
void refuse_kept(PyObject* prepare, PyObject* loans);

// Ends the child of a fork that was about to return into onnxruntime without onnxruntime's other threads.
[[noreturn]] void end_child(PyObject* exception);

}  // namespace mylinear::python

#endif  // MYLINEAR_PYTHON_FAILURE_H_
