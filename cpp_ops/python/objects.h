// Layer: Python. Python's objects in C++: the GIL, references, tuples, and what Python raises.
//
// Everything here but `Gil` is for a thread that holds the GIL.
#ifndef MYLINEAR_PYTHON_OBJECTS_H_
#define MYLINEAR_PYTHON_OBJECTS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "python/api.h"

namespace mylinear::python {

extern PythonApi api;  // set by `attach_python`

// The GIL, while the interpreter is there. Throws ort::Error if it is gone.
class Gil {
 public:
  Gil();
  Gil(const Gil&) = delete;
  Gil& operator=(const Gil&) = delete;
  ~Gil();

 private:
  int state_;
};

// Prevents further `Gil`s, and waits for those that exist, up to the timeout. Returns whether none is left.
bool close_gil(int timeout_ms);
void open_gil();

// The number of forks between the process that loaded the library and this one.
int num_forks();

// A reference to a Python object.
class Reference {
 public:
  explicit Reference(PyObject* object = nullptr) : object_(object) {}
  Reference(Reference&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Reference& operator=(Reference&& other) noexcept {
    const Reference before(std::exchange(object_, other.release()));
    return *this;
  }
  ~Reference() {
    if (object_) api.Py_DecRef(object_);
  }
  PyObject* get() const { return object_; }
  PyObject** out() { return &object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }

 private:
  PyObject* object_;
};

// An exception that Python raised, taken from the thread, on its way to the callback that ORT called.
struct Raised {
  Reference exception;
};

// Throws the exception that is set in this thread, as Raised; ort::Error if none is set.
[[noreturn]] void throw_python_error();

// Takes over the result of a Python function. Throws if it raised.
Reference checked(PyObject* object);

Reference none();
Reference same(PyObject* object);  // one more reference to it

// A tuple that is being filled.
class Tuple {
 public:
  explicit Tuple(size_t size) : tuple_(checked(api.PyTuple_New(static_cast<ptrdiff_t>(size)))) {}
  void set(size_t index, Reference item) {
    if (api.PyTuple_SetItem(tuple_.get(), static_cast<ptrdiff_t>(index), item.release()))
      throw_python_error();
  }
  void add(Reference item) { set(next_++, std::move(item)); }
  void add(int64_t number) { add(checked(api.PyLong_FromLongLong(number))); }
  PyObject* get() const { return tuple_.get(); }
  Reference take() { return std::move(tuple_); }

 private:
  Reference tuple_;
  size_t next_ = 0;
};

Reference call(PyObject* callable, const Tuple& arguments);
Reference shape_tuple(const int64_t* dims, size_t rank);
Reference bytes(const void* data, size_t nbytes);

// A tuple's item; the tuple keeps it.
PyObject* item_at(PyObject* tuple, size_t index);
// A tuple's item that is a number, or -1 for None.
int64_t number_at(PyObject* tuple, size_t index);
size_t size_of(PyObject* tuple);

}  // namespace mylinear::python

#endif  // MYLINEAR_PYTHON_OBJECTS_H_
