// Layer: Python. See objects.h.
#include "python/objects.h"

#include <chrono>
#include <thread>

#include "platform/os.h"

namespace mylinear::python {
namespace {

std::atomic<bool> is_closed{true};
std::atomic<int> num_calls{0};
std::atomic<int> forks{0};
thread_local int num_calls_of_thread = 0;

// The child of a fork has one thread.
void forget_other_threads() {
  ++forks;
  num_calls = num_calls_of_thread;
}

}  // namespace

PythonApi api{};

Gil::Gil() {
  ++num_calls;
  if (is_closed) {
    --num_calls;
    throw ort::Error(abi::ORT_FAIL, "a Python kernel cannot run: the Python interpreter is shutting down");
  }
  ++num_calls_of_thread;
  state_ = api.PyGILState_Ensure();
}

Gil::~Gil() {
  api.PyGILState_Release(state_);
  --num_calls_of_thread;
  --num_calls;
}

bool close_gil(int timeout_ms) {
  is_closed = true;
  for (int waited = 0; num_calls > 0 && waited < timeout_ms; ++waited) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return num_calls == 0;
}

void open_gil() {
  static const bool is_told = (platform::call_in_children(forget_other_threads), true);
  static_cast<void>(is_told);
  is_closed = false;
}

int num_forks() { return forks; }

void throw_python_error() {
  Reference type, value, traceback;
  api.PyErr_Fetch(type.out(), value.out(), traceback.out());
  api.PyErr_NormalizeException(type.out(), value.out(), traceback.out());
  if (!value.get()) throw ort::Error(abi::ORT_FAIL, "a Python kernel failed and raised nothing");
  if (traceback.get()) api.PyException_SetTraceback(value.get(), traceback.get());
  throw Raised{std::move(value)};
}

Reference checked(PyObject* object) {
  if (!object) throw_python_error();
  return Reference(object);
}

Reference same(PyObject* object) {
  api.Py_IncRef(object);
  return Reference(object);
}

Reference none() { return same(api.none); }

Reference call(PyObject* callable, const Tuple& arguments) {
  return checked(api.PyObject_CallObject(callable, arguments.get()));
}

Reference shape_tuple(const int64_t* dims, size_t rank) {
  Tuple shape(rank);
  for (size_t axis = 0; axis < rank; ++axis) shape.add(dims[axis]);
  return shape.take();
}

Reference bytes(const void* data, size_t nbytes) {
  return checked(
      api.PyBytes_FromStringAndSize(static_cast<const char*>(data), static_cast<ptrdiff_t>(nbytes)));
}

PyObject* item_at(PyObject* tuple, size_t index) {
  PyObject* item = api.PyTuple_GetItem(tuple, static_cast<ptrdiff_t>(index));
  if (!item) throw_python_error();
  return item;
}

int64_t number_at(PyObject* tuple, size_t index) {
  PyObject* item = item_at(tuple, index);
  if (item == api.none) return -1;
  const long long number = api.PyLong_AsLongLong(item);
  if (number == -1 && api.PyErr_Occurred()) throw_python_error();
  return number;
}

size_t size_of(PyObject* tuple) {
  const ptrdiff_t size = api.PyTuple_Size(tuple);
  if (size < 0) throw_python_error();
  return static_cast<size_t>(size);
}

}  // namespace mylinear::python
