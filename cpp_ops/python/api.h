// Layer: Python. The boundary between this library and the Python package: operators whose kernels are Python
// callables.
//
// This library is not linked with Python. `trampoline.py` hands over the addresses of the functions of
// Python's stable C API that are needed (PythonApi), so that one binary serves every Python, and a host
// without Python never notices. The operators come in plain structs (PythonDomain), which are copied.
#ifndef MYLINEAR_PYTHON_API_H_
#define MYLINEAR_PYTHON_API_H_

#include <cstddef>
#include <cstdint>

#include "ort/status.h"

namespace mylinear::python {

struct PyObject;  // Python's own; only ever a pointer

// Functions of Python's stable C API, with their official names and signatures (Py_ssize_t is ptrdiff_t, a
// PyThreadState is as opaque as an object), and four objects. `trampoline.py` fills it in this order; a test
// compares the two.
struct PythonApi {
  int (*PyGILState_Ensure)();
  void (*PyGILState_Release)(int state);
  void (*Py_IncRef)(PyObject* object);
  void (*Py_DecRef)(PyObject* object);
  PyObject* (*PyTuple_New)(ptrdiff_t size);
  int (*PyTuple_SetItem)(PyObject* tuple, ptrdiff_t index, PyObject* item);  // takes over the item
  PyObject* (*PyTuple_GetItem)(PyObject* tuple, ptrdiff_t index);            // the tuple keeps the item
  ptrdiff_t (*PyTuple_Size)(PyObject* tuple);
  PyObject* (*PyLong_FromLongLong)(long long value);
  long long (*PyLong_AsLongLong)(PyObject* object);
  PyObject* (*PyBytes_FromStringAndSize)(const char* data, ptrdiff_t size);
  int (*PyBytes_AsStringAndSize)(PyObject* object, char** data, ptrdiff_t* size);
  PyObject* (*PyMemoryView_FromMemory)(char* data, ptrdiff_t size, int flags);
  PyObject* (*PyObject_CallObject)(PyObject* callable, PyObject* arguments);
  PyObject* (*PyErr_Occurred)();
  void (*PyErr_Clear)();
  void (*PyErr_Fetch)(PyObject** type, PyObject** value, PyObject** traceback);
  void (*PyErr_NormalizeException)(PyObject** type, PyObject** value, PyObject** traceback);
  int (*PyException_SetTraceback)(PyObject* exception, PyObject* traceback);
  PyObject* (*PyWeakref_NewRef)(PyObject* object, PyObject* callback);
  PyObject* (*PyEval_SaveThread)();
  void (*PyEval_RestoreThread)(PyObject* state);
  PyObject* none;
  PyObject* describe_failure;  // (exception, prepare or None, loans) -> (OrtErrorCode, message as bytes)
  PyObject* refuse_kept;       // (prepare, loans) -> None; raises if one of the loans is still kept
  PyObject* end_child;         // (exception or None); ends the process
};

// One overload of an operator: a name, a version and one combination of element types.
struct PythonOverload {
  const char* name;
  int32_t since_version;
  int32_t num_inputs;
  int32_t num_outputs;
  int32_t num_attributes;
  const int32_t* input_types;
  const int32_t* output_types;
  const int32_t* input_is_optional;  // 0 or 1 for each
  const int32_t* output_is_optional;
  const char* const* attributes;
  // (attributes) -> prepare, where each attribute is None or the result of `attribute_object`;
  // prepare(shapes, memory, memory, ...) -> (finish, shape, ...) with a shape for each output;
  // finish(memory, ...) fills the outputs. An absent input has None for shape and memory, an absent output
  // None for memory.
  PyObject* make_node;
  // (attributes, type, shape, type, shape, ...) -> (type, shape, ...); None for a shape that is not known.
  PyObject* infer;
};

// The operators of one domain at the time of registration; never changed.
struct PythonDomain {
  int64_t id;  // the same for the same content
  const char* name;
  int32_t num_overloads;
  const PythonOverload* overloads;
};

// Takes over the functions. Called once, with the GIL held, before anything else here.
void attach_python(const PythonApi& api);

// Lets no further call into Python, and waits for those under way, up to the timeout. Called without the GIL,
// before the interpreter goes: a thread that waits for the GIL of an interpreter that is gone never returns.
// Returns whether none is left.
bool detach_python(int timeout_ms);

// Adds the domains to `options`. Returns ORT's own status if it refuses.
abi::OrtStatus* add_python_domains(const ort::Runtime& runtime, const PythonDomain* domains,
                                   size_t num_domains, abi::OrtSessionOptions* options);

}  // namespace mylinear::python

#endif  // MYLINEAR_PYTHON_API_H_
