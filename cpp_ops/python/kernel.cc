// Layer: Python. See kernel.h.
#include "python/kernel.h"

#include <utility>

#include "python/attributes.h"
#include "python/failure.h"
#include "python/op.h"

namespace mylinear::python {
namespace {

constexpr int kReadOnly = 0x100;  // PyBUF_READ
constexpr int kWritable = 0x200;  // PyBUF_WRITE

// The memory of a tensor as a memoryview; a tensor without elements may have none.
Reference memory_of(const void* data, const ort::Shape& shape, ort::ElementType type, int flags) {
  static char nothing;
  size_t nbytes = element_nbytes(type);
  for (size_t axis = 0; axis < shape.rank; ++axis) {
    if (__builtin_mul_overflow(nbytes, static_cast<size_t>(shape.data[axis]), &nbytes)) {
      throw ort::Error(abi::ORT_INVALID_ARGUMENT, "a Python kernel's tensor is larger than memory can be");
    }
  }
  char* start = nbytes ? const_cast<char*>(static_cast<const char*>(data)) : &nothing;
  return checked(api.PyMemoryView_FromMemory(start, static_cast<ptrdiff_t>(nbytes), flags));
}

Reference add_input(const ort::Call& call, size_t index, Tuple* shapes) {
  ort::TensorView view;
  if (!call.read_input(index, &view)) {
    shapes->add(none());
    return none();
  }
  shapes->add(shape_tuple(view.shape.data, view.shape.rank));
  return memory_of(view.data, view.shape, view.type, kReadOnly);
}

Reference allocate_output(const ort::Call& call, size_t index, ort::ElementType type, PyObject* shape) {
  const size_t rank = size_of(shape);
  ort::DimBuffer buffer;
  int64_t* dims = buffer.resize(rank);
  for (size_t axis = 0; axis < rank; ++axis) dims[axis] = number_at(shape, axis);
  const ort::Output output = call.make_output(index, {dims, rank});
  if (!output) return none();
  return memory_of(output.data, {dims, rank}, type, kWritable);
}

}  // namespace

Kernel::Kernel(const ort::KernelInfo& info, const PythonOp& op) : signature_(op.signature) {
  with_gil([&] {
    Tuple attributes(op.attributes.size());
    for (const std::string& name : op.attributes) {
      ort::FoundAttribute found;
      ort::read_attribute(info.runtime(), info.handle(), name.c_str(), &found);
      attributes.add(attribute_object(found));
    }
    prepare_ = python::call(op.make_node, attributes).release();
  });
}

Kernel::~Kernel() {
  try {
    const Gil gil;
    api.Py_DecRef(prepare_);
  } catch (const ort::Error&) {  // the interpreter is gone, and the object with it
  }
}

void Kernel::compute(const ort::Call& call) const {
  with_gil([&] {
    const int num_forks_before = num_forks();
    Tuple loans(signature_.inputs.size + signature_.outputs.size);
    try {
      run(call, &loans);
      if (num_forks() != num_forks_before) end_child(api.none);
    } catch (Raised& raised) {
      if (num_forks() != num_forks_before) end_child(raised.exception.get());
      throw_described(std::move(raised.exception), prepare_, loans.get());
    }
    if (is_any_kept(loans.get())) refuse_kept(prepare_, loans.get());
  });
}

// Calls the kernel. `loans` gets a weak reference to each tensor's memory, None for an absent one. No other
// Python object of the call is left when this returns or throws.
void Kernel::run(const ort::Call& call, Tuple* loans) const {
  const size_t num_inputs = signature_.inputs.size, num_outputs = signature_.outputs.size;
  for (size_t i = 0; i < num_inputs + num_outputs; ++i) loans->set(i, none());
  const Reference prepared = prepare(call, loans);
  PyObject* finish = item_at(prepared.get(), 0);
  Tuple outputs(num_outputs);
  for (size_t i = 0; i < num_outputs; ++i) {
    Reference memory = allocate_output(call, i, signature_.outputs[i].type, item_at(prepared.get(), i + 1));
    if (memory.get() != api.none) loans->set(num_inputs + i, weak(memory.get()));
    outputs.add(std::move(memory));
  }
  python::call(finish, outputs);
}

Reference Kernel::prepare(const ort::Call& call, Tuple* loans) const {
  const size_t num_inputs = signature_.inputs.size;
  Tuple shapes(num_inputs);
  Tuple arguments(1 + num_inputs);
  for (size_t i = 0; i < num_inputs; ++i) {
    Reference memory = add_input(call, i, &shapes);
    if (memory.get() != api.none) loans->set(i, weak(memory.get()));
    arguments.set(1 + i, std::move(memory));
  }
  arguments.set(0, shapes.take());
  return python::call(prepare_, arguments);
}

}  // namespace mylinear::python
