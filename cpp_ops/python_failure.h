// Layer: ORT op. What becomes of what a Python kernel raised, kept, or forked.
//
// The GIL is held. `prepare` is what `make_node` returned, or None; `loans` a tuple of weak references to the
// memory that a call lent to Python, with None where there was none.
#ifndef MYLINEAR_PYTHON_FAILURE_H_
#define MYLINEAR_PYTHON_FAILURE_H_

#include "python_objects.h"

namespace mylinear {

// A weak reference to an object.
Reference weak(PyObject* object);

// Throws the PythonError that tells ORT of an exception. What Python keeps of it refers to no loan.
[[noreturn]] void throw_described(Reference exception, PyObject* prepare, PyObject* loans);

// Whether anything still refers to a loan.
bool is_any_kept(PyObject* loans);

// Throws PythonError unless what refers to a loan was garbage.
void refuse_kept(PyObject* prepare, PyObject* loans);

// Ends the child of a fork that was about to return into onnxruntime, none of whose other threads it has.
[[noreturn]] void end_child(PyObject* exception);

}  // namespace mylinear

#endif  // MYLINEAR_PYTHON_FAILURE_H_
