// Layer: ORT op. See python_op.h.
//
// A kernel's memory is not copied: inputs reach Python as read-only memoryviews, outputs as writable ones.
// The GIL is held from the first Python object of a call to the last. Whatever Python raises becomes a
// status.
#include "python_op.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace mylinear {
namespace {

using abi::ONNXTensorElementDataType;
using abi::OrtAllocator;
using abi::OrtKernelContext;
using abi::OrtKernelInfo;
using abi::OrtStatus;
using abi::OrtValue;

constexpr char kWho[] = "a Python kernel";
constexpr int kReadOnly = 0x100;  // PyBUF_READ
constexpr int kWritable = 0x200;  // PyBUF_WRITE

PythonApi python{};
std::atomic<bool> is_closed{true};
std::atomic<int> num_calls{0};

// Something that Python raised, or that it returned and should not have.
class PythonError : public std::runtime_error {
 public:
  PythonError(abi::OrtErrorCode code, const std::string& text) : std::runtime_error(text), code_(code) {}
  abi::OrtErrorCode code() const { return code_; }

 private:
  abi::OrtErrorCode code_;
};

// The GIL, while the interpreter is there. Throws where it is not.
class Gil {
 public:
  Gil() {
    ++num_calls;
    if (is_closed) {
      --num_calls;
      throw PythonError(abi::ORT_FAIL, "a Python kernel cannot run: the Python interpreter is shutting down");
    }
    state_ = python.PyGILState_Ensure();
  }
  Gil(const Gil&) = delete;
  Gil& operator=(const Gil&) = delete;
  ~Gil() {
    python.PyGILState_Release(state_);
    --num_calls;
  }

 private:
  int state_;
};

// A reference to a Python object; with the GIL held.
class Reference {
 public:
  explicit Reference(PyObject* object = nullptr) : object_(object) {}
  Reference(Reference&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Reference& operator=(Reference&&) = delete;
  ~Reference() {
    if (object_) python.Py_DecRef(object_);
  }
  PyObject* get() const { return object_; }
  PyObject** out() { return &object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }

 private:
  PyObject* object_;
};

// Turns the exception that is set in this thread into ours. `describe_failure` may itself be interrupted by
// Ctrl-C, so there is a second try; after that the message is all that is lost.
[[noreturn]] void throw_python_error() {
  for (int i = 0; i < 2 && python.PyErr_Occurred(); ++i) {
    Reference type, value, traceback;
    python.PyErr_Fetch(type.out(), value.out(), traceback.out());
    python.PyErr_NormalizeException(type.out(), value.out(), traceback.out());
    if (!value.get()) break;
    if (traceback.get()) python.PyException_SetTraceback(value.get(), traceback.get());
    const Reference arguments(python.PyTuple_New(1));
    if (!arguments.get()) continue;
    python.PyTuple_SetItem(arguments.get(), 0, value.release());
    const Reference described(python.PyObject_CallObject(python.describe_failure, arguments.get()));
    if (!described.get()) continue;
    char* text = nullptr;
    ptrdiff_t size = 0;
    PyObject* code = python.PyTuple_GetItem(described.get(), 0);
    PyObject* bytes = python.PyTuple_GetItem(described.get(), 1);
    if (!code || !bytes || python.PyBytes_AsStringAndSize(bytes, &text, &size)) continue;
    const auto number = static_cast<abi::OrtErrorCode>(python.PyLong_AsLongLong(code));
    throw PythonError(number, std::string(text, static_cast<size_t>(size)));
  }
  python.PyErr_Clear();
  throw PythonError(abi::ORT_FAIL, "a Python kernel failed, and so did describing how");
}

// What a Python function returned, unless it raised.
Reference checked(PyObject* object) {
  if (!object) throw_python_error();
  return Reference(object);
}

Reference none() {
  python.Py_IncRef(python.none);
  return Reference(python.none);
}

// A tuple that is being filled.
class Tuple {
 public:
  explicit Tuple(size_t size) : tuple_(checked(python.PyTuple_New(static_cast<ptrdiff_t>(size)))) {}
  void set(size_t index, Reference item) {
    if (python.PyTuple_SetItem(tuple_.get(), static_cast<ptrdiff_t>(index), item.release()))
      throw_python_error();
  }
  void add(Reference item) { set(next_++, std::move(item)); }
  void add(int64_t number) { add(checked(python.PyLong_FromLongLong(number))); }
  PyObject* get() const { return tuple_.get(); }
  Reference take() { return std::move(tuple_); }

 private:
  Reference tuple_;
  size_t next_ = 0;
};

Reference call(PyObject* callable, const Tuple& arguments) {
  return checked(python.PyObject_CallObject(callable, arguments.get()));
}

Reference shape_tuple(const int64_t* dims, size_t rank) {
  Tuple shape(rank);
  for (size_t axis = 0; axis < rank; ++axis) shape.add(dims[axis]);
  return shape.take();
}

Reference bytes(const void* data, size_t nbytes) {
  return checked(
      python.PyBytes_FromStringAndSize(static_cast<const char*>(data), static_cast<ptrdiff_t>(nbytes)));
}

// A tuple's item that is a number, or -1 for None.
int64_t number_at(PyObject* tuple, size_t index) {
  PyObject* item = python.PyTuple_GetItem(tuple, static_cast<ptrdiff_t>(index));
  if (!item) throw_python_error();
  if (item == python.none) return -1;
  const long long number = python.PyLong_AsLongLong(item);
  if (number == -1 && python.PyErr_Occurred()) throw_python_error();
  return number;
}

size_t size_of(PyObject* tuple) {
  const ptrdiff_t size = python.PyTuple_Size(tuple);
  if (size < 0) throw_python_error();
  return static_cast<size_t>(size);
}

size_t element_nbytes(int32_t type) {
  switch (type) {
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL:
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
      return 1;
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16:
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16:
      return 2;
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32:
      return 4;
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE:
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
    case abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64:
      return 8;
    default:
      throw PythonError(abi::ORT_INVALID_ARGUMENT,
                        "a Python kernel takes no tensors of ONNX element type " + std::to_string(type));
  }
}

// The memory of a tensor as a memoryview; a tensor without elements may have none.
Reference memory_of(const void* data, const int64_t* dims, size_t rank, int32_t type, int flags) {
  static char nothing;
  size_t nbytes = element_nbytes(type);
  for (size_t axis = 0; axis < rank; ++axis) {
    if (__builtin_mul_overflow(nbytes, static_cast<size_t>(dims[axis]), &nbytes)) {
      throw PythonError(abi::ORT_INVALID_ARGUMENT, "a Python kernel's tensor is larger than memory can be");
    }
  }
  char* start = nbytes ? const_cast<char*>(static_cast<const char*>(data)) : &nothing;
  return checked(python.PyMemoryView_FromMemory(start, static_cast<ptrdiff_t>(nbytes), flags));
}

// ---- the op
// ---------------------------------------------------------------------------------------------------

// One overload as ORT sees it. ORT holds a pointer to it for as long as a session lives, so it is never
// freed.
struct PythonOp : abi::OrtCustomOp {
  Runtime runtime;
  std::string name;
  int since_version;
  size_t num_required;
  std::vector<int32_t> input_types;
  std::vector<int32_t> output_types;
  std::vector<std::string> attributes;
  PyObject* make_node;
  PyObject* infer;
};

const PythonOp& self(const abi::OrtCustomOp* op) { return *static_cast<const PythonOp*>(op); }

template <class Body>
OrtStatus* guarded_python(const abi::OrtApi* api, Body&& body) {
  return guarded(api, kWho, [&] {
    try {
      body();
    } catch (const PythonError& error) {
      throw StatusException{api->CreateStatus(error.code(), error.what())};
    }
  });
}

// ---- attributes
// -----------------------------------------------------------------------------------------------

// Whether an ORT function succeeded; its status is released.
bool succeeded(const abi::OrtApi* api, OrtStatus* status) {
  if (status) api->ReleaseStatus(status);
  return !status;
}

// (kind, data) for Python, where kind is an AttributeProto.AttributeType.
Reference attribute(int64_t kind, Reference data) {
  Tuple result(2);
  result.add(kind);
  result.add(std::move(data));
  return result.take();
}

constexpr int64_t kFloat = 1, kInt = 2, kString = 3, kTensor = 4, kFloats = 6, kInts = 7, kStrings = 8;
// Not in ONNX: what onnxruntime shows of a list without elements; before 1.25 one of strings looks like that.
constexpr int64_t kEmptyList = -1, kEmptyListOrStrings = -2;

Reference tensor_attribute(const Runtime& runtime, const OrtValue* value) {
  TensorView view;
  view.read(runtime, value);
  size_t nbytes = element_nbytes(view.type);
  for (size_t axis = 0; axis < view.shape.rank; ++axis) nbytes *= static_cast<size_t>(view.shape.data[axis]);
  Tuple tensor(3);
  tensor.add(view.type);
  tensor.add(shape_tuple(view.shape.data, view.shape.rank));
  tensor.add(bytes(view.data, nbytes));
  return attribute(kTensor, tensor.take());
}

Reference strings_attribute(const abi::OrtApi* api, OrtAllocator* allocator, char** strings, size_t size) {
  const auto free_all = [&](char** array) {
    for (size_t i = 0; i < size; ++i) succeeded(api, api->AllocatorFree(allocator, array[i]));
    succeeded(api, api->AllocatorFree(allocator, array));
  };
  const std::unique_ptr<char*, decltype(free_all)> owner(strings, free_all);
  Tuple list(size);
  for (size_t i = 0; i < size; ++i) list.add(bytes(strings[i], std::strlen(strings[i])));
  return attribute(kStrings, list.take());
}

// An attribute of any type, or None. ORT does not tell an absent attribute from one of another type, and a
// wrong type must not become a silent default; so every type is tried, and Python compares.
Reference read_attribute(const Runtime& runtime, const OrtKernelInfo* info, const char* name) {
  const abi::OrtApi* api = runtime.api;
  float number = 0;
  int64_t integer = 0;
  size_t size = 0;
  if (succeeded(api, api->KernelInfoGetAttribute_float(info, name, &number))) {
    return attribute(kFloat, bytes(&number, sizeof number));
  }
  if (succeeded(api, api->KernelInfoGetAttribute_int64(info, name, &integer))) {
    return attribute(kInt, bytes(&integer, sizeof integer));
  }
  if (succeeded(api, api->KernelInfoGetAttribute_string(info, name, nullptr, &size))) {
    std::string text(size, '\0');
    check(api->KernelInfoGetAttribute_string(info, name, &text[0], &size));
    return attribute(kString, bytes(text.data(), size ? size - 1 : 0));  // without the final 0
  }
  // The functions for lists also succeed on a list of another type, with size 0.
  bool is_list = false;
  size = 0;
  if (succeeded(api, api->KernelInfoGetAttributeArray_float(info, name, nullptr, &size))) {
    is_list = true;
    std::vector<float> numbers(size);
    if (size) check(api->KernelInfoGetAttributeArray_float(info, name, numbers.data(), &size));
    if (size) return attribute(kFloats, bytes(numbers.data(), size * sizeof(float)));
  }
  size = 0;
  if (succeeded(api, api->KernelInfoGetAttributeArray_int64(info, name, nullptr, &size))) {
    is_list = true;
    std::vector<int64_t> integers(size);
    if (size) check(api->KernelInfoGetAttributeArray_int64(info, name, integers.data(), &size));
    if (size) return attribute(kInts, bytes(integers.data(), size * sizeof(int64_t)));
  }
  OrtAllocator* allocator = nullptr;
  check(api->GetAllocatorWithDefaultOptions(&allocator));
  if (runtime.version >= 25) {
    char** strings = nullptr;
    size = 0;
    if (succeeded(api, api->KernelInfoGetAttributeArray_string(info, name, allocator, &strings, &size))) {
      is_list = true;
      if (size) return strings_attribute(api, allocator, strings, size);
    }
  }
  OrtValue* value = nullptr;
  if (succeeded(api, api->KernelInfoGetAttribute_tensor(info, name, allocator, &value))) {
    const auto release = [api](OrtValue* p) { api->ReleaseValue(p); };
    const std::unique_ptr<OrtValue, decltype(release)> owner(value, release);
    return tensor_attribute(runtime, value);
  }
  if (!is_list) return none();
  return attribute(runtime.version >= 25 ? kEmptyList : kEmptyListOrStrings, none());
}

// The same during shape inference, where ORT offers numbers and strings only.
Reference read_attribute(const abi::OrtApi* api, const abi::OrtShapeInferContext* context, const char* name) {
  const abi::OrtOpAttr* found = nullptr;
  if (!succeeded(api, api->ShapeInferContext_GetAttribute(context, name, &found)) || !found) return none();
  constexpr std::pair<abi::OrtOpAttrType, int64_t> kinds[] = {{abi::ORT_OP_ATTR_FLOAT, kFloat},
                                                              {abi::ORT_OP_ATTR_INT, kInt},
                                                              {abi::ORT_OP_ATTR_STRING, kString},
                                                              {abi::ORT_OP_ATTR_FLOATS, kFloats},
                                                              {abi::ORT_OP_ATTR_INTS, kInts}};
  for (const auto& [type, kind] : kinds) {
    // A buffer that is too small fails like a wrong type, but then says how large it must be.
    std::string data(256, '\0');
    size_t needed = 0;
    bool is_read = succeeded(api, api->ReadOpAttr(found, type, &data[0], data.size(), &needed));
    if (!is_read && needed > data.size()) {
      data.resize(needed);
      is_read = succeeded(api, api->ReadOpAttr(found, type, &data[0], data.size(), &needed));
    }
    if (is_read) return attribute(kind, bytes(data.data(), needed));
  }
  return none();
}

// ---- the kernel
// -----------------------------------------------------------------------------------------------

// One node of one session. `compute` may run on any number of threads at once: it changes no member.
class Kernel {
 public:
  Kernel(const PythonOp& op, const OrtKernelInfo* info) : op_(op) {
    check(op.runtime.api->KernelInfo_GetInputCount(info, &num_inputs_));
    const Gil gil;
    Tuple attributes(op.attributes.size());
    for (const std::string& name : op.attributes) {
      attributes.add(read_attribute(op.runtime, info, name.c_str()));
    }
    prepare_ = call(op.make_node, attributes).release();
  }
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;
  ~Kernel() {
    try {
      const Gil gil;
      python.Py_DecRef(prepare_);
    } catch (const PythonError&) {  // the interpreter is gone, and the object with it
    }
  }

  const abi::OrtApi* api() const { return op_.runtime.api; }

  void compute(OrtKernelContext* context) const {
    const Gil gil;
    Tuple shapes(op_.input_types.size());
    Tuple arguments(1 + op_.input_types.size());
    for (size_t i = 0; i < op_.input_types.size(); ++i) add_input(context, i, &shapes, &arguments);
    arguments.set(0, shapes.take());
    const Reference prepared = call(prepare_, arguments);

    PyObject* finish = python.PyTuple_GetItem(prepared.get(), 0);
    if (!finish) throw_python_error();
    Tuple outputs(op_.output_types.size());
    for (size_t i = 0; i < op_.output_types.size(); ++i) {
      PyObject* shape = python.PyTuple_GetItem(prepared.get(), static_cast<ptrdiff_t>(i) + 1);
      if (!shape) throw_python_error();
      outputs.add(allocate_output(context, i, shape));
    }
    call(finish, outputs);
  }

 private:
  void add_input(const OrtKernelContext* context, size_t index, Tuple* shapes, Tuple* arguments) const {
    const OrtValue* value = nullptr;
    if (index < num_inputs_) check(api()->KernelContext_GetInput(context, index, &value));
    if (!value) {
      if (index < op_.num_required)
        throw PythonError(abi::ORT_INVALID_ARGUMENT, op_.name + ": an input is missing");
      shapes->add(none());
      arguments->set(1 + index, none());
      return;
    }
    TensorView view;
    view.read(op_.runtime, value);
    // ORT has matched the model's types with this overload's already; this is for a runtime that did not.
    if (view.type != op_.input_types[index]) {
      throw PythonError(abi::ORT_INVALID_ARGUMENT, op_.name + ": an input has the wrong element type");
    }
    shapes->add(shape_tuple(view.shape.data, view.shape.rank));
    arguments->set(1 + index, memory_of(view.data, view.shape.data, view.shape.rank, view.type, kReadOnly));
  }

  Reference allocate_output(OrtKernelContext* context, size_t index, PyObject* shape) const {
    const size_t rank = size_of(shape);
    DimBuffer buffer;
    int64_t* dims = buffer.resize(rank);
    for (size_t axis = 0; axis < rank; ++axis) dims[axis] = number_at(shape, axis);
    OrtValue* value = nullptr;
    check(api()->KernelContext_GetOutput(context, index, dims, rank, &value));
    void* data = nullptr;
    check(api()->GetTensorMutableData(value, &data));
    return memory_of(data, dims, rank, op_.output_types[index], kWritable);
  }

  const PythonOp& op_;
  size_t num_inputs_ = 0;
  PyObject* prepare_ = nullptr;
};

// ---- shape inference
// ------------------------------------------------------------------------------------------

// What is known of a shape: numbers, names as bytes, and None; None for an unknown rank.
Reference shape_of(const InferredInput& input) {
  if (input.rank == 0) return none();
  Tuple shape(input.rank);
  for (size_t axis = 0; axis < input.rank; ++axis) {
    if (input.dims[axis] >= 0) {
      shape.add(input.dims[axis]);
    } else if (input.is_known(axis)) {
      shape.add(bytes(input.names[axis], std::strlen(input.names[axis])));
    } else {
      shape.add(none());
    }
  }
  return shape.take();
}

void infer_output_shapes(const PythonOp& op, const abi::OrtShapeInferContext* context) {
  const abi::OrtApi* api = op.runtime.api;
  size_t num_inputs = 0;
  check(api->ShapeInferContext_GetInputCount(context, &num_inputs));
  const Gil gil;
  Tuple attributes(op.attributes.size());
  for (const std::string& name : op.attributes) attributes.add(read_attribute(api, context, name.c_str()));
  Tuple arguments(1 + 2 * num_inputs);
  arguments.add(attributes.take());
  for (size_t i = 0; i < num_inputs; ++i) {
    const InferredInput input(api, context, i);
    arguments.add(input.type);
    arguments.add(shape_of(input));
  }
  const Reference inferred = call(op.infer, arguments);
  for (size_t i = 0; i < op.output_types.size(); ++i) {
    const int64_t type = number_at(inferred.get(), 2 * i);
    PyObject* shape = python.PyTuple_GetItem(inferred.get(), static_cast<ptrdiff_t>(2 * i + 1));
    if (!shape) throw_python_error();
    if (shape == python.none) continue;
    const size_t rank = size_of(shape);
    std::vector<int64_t> dims(rank + 1, -1);
    std::vector<const char*> names(rank + 1, "");
    for (size_t axis = 0; axis < rank; ++axis) {
      PyObject* dim = python.PyTuple_GetItem(shape, static_cast<ptrdiff_t>(axis));
      char* name = nullptr;
      ptrdiff_t length = 0;
      if (python.PyBytes_AsStringAndSize(dim, &name, &length) == 0) {
        names[axis] = name;
      } else {
        python.PyErr_Clear();
        dims[axis] = number_at(shape, axis);
      }
    }
    set_inferred_output(api, context, i, static_cast<ONNXTensorElementDataType>(type), dims.data(),
                        names.data(), rank);
  }
}

// ---- callbacks
// ------------------------------------------------------------------------------------------------

OrtStatus* create_kernel(const abi::OrtCustomOp* op, const abi::OrtApi*, const OrtKernelInfo* info,
                         void** out) {
  return guarded_python(self(op).runtime.api, [&] { *out = new Kernel(self(op), info); });
}

OrtStatus* compute(void* kernel, OrtKernelContext* context) {
  const auto& self = *static_cast<const Kernel*>(kernel);
  return guarded_python(self.api(), [&] { self.compute(context); });
}

OrtStatus* infer_shape(const abi::OrtCustomOp* op, abi::OrtShapeInferContext* context) {
  return guarded_python(self(op).runtime.api, [&] { infer_output_shapes(self(op), context); });
}

void init_op(PythonOp* op, const Runtime& runtime, const PythonOverload& overload) {
  *op = PythonOp{};
  op->runtime = runtime;
  op->name = overload.name;
  op->since_version = overload.since_version;
  op->num_required = static_cast<size_t>(overload.num_required);
  op->input_types.assign(overload.input_types, overload.input_types + overload.num_inputs);
  op->output_types.assign(overload.output_types, overload.output_types + overload.num_outputs);
  op->attributes.assign(overload.attributes, overload.attributes + overload.num_attributes);
  op->make_node = overload.make_node;
  op->infer = overload.infer;
  op->version = runtime.version < abi::kCustomOpVersion ? runtime.version : abi::kCustomOpVersion;
  op->GetName = [](const abi::OrtCustomOp* op) { return self(op).name.c_str(); };
  op->GetExecutionProviderType = [](const abi::OrtCustomOp*) { return "CPUExecutionProvider"; };
  op->GetInputTypeCount = [](const abi::OrtCustomOp* op) { return self(op).input_types.size(); };
  op->GetInputType = [](const abi::OrtCustomOp* op, size_t index) {
    return static_cast<ONNXTensorElementDataType>(self(op).input_types[index]);
  };
  op->GetInputCharacteristic = [](const abi::OrtCustomOp* op, size_t index) {
    return index < self(op).num_required ? abi::INPUT_OUTPUT_REQUIRED : abi::INPUT_OUTPUT_OPTIONAL;
  };
  op->GetInputMemoryType = [](const abi::OrtCustomOp*, size_t) { return abi::OrtMemTypeDefault; };
  op->GetOutputTypeCount = [](const abi::OrtCustomOp* op) { return self(op).output_types.size(); };
  op->GetOutputType = [](const abi::OrtCustomOp* op, size_t index) {
    return static_cast<ONNXTensorElementDataType>(self(op).output_types[index]);
  };
  op->GetOutputCharacteristic = [](const abi::OrtCustomOp*, size_t) { return abi::INPUT_OUTPUT_REQUIRED; };
  op->GetVariadicInputMinArity = [](const abi::OrtCustomOp*) { return 0; };
  op->GetVariadicInputHomogeneity = [](const abi::OrtCustomOp*) { return 0; };
  op->GetVariadicOutputMinArity = [](const abi::OrtCustomOp*) { return 0; };
  op->GetVariadicOutputHomogeneity = [](const abi::OrtCustomOp*) { return 0; };
  op->GetStartVersion = [](const abi::OrtCustomOp* op) { return self(op).since_version; };
  op->GetEndVersion = [](const abi::OrtCustomOp*) { return std::numeric_limits<int>::max(); };
  op->CreateKernelV2 = create_kernel;
  op->KernelComputeV2 = compute;
  op->KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  if (runtime.version >= abi::kShapeInferenceIsSafeSince) op->InferOutputShapeFn = infer_shape;
}

// The domains made so far, one for each id and onnxruntime; never freed, as in register.cc.
using DomainKey = std::pair<const abi::OrtApi*, int64_t>;
std::mutex domains_mutex;
std::map<DomainKey, abi::OrtCustomOpDomain*>* made_domains = nullptr;

abi::OrtCustomOpDomain* make_domain(const Runtime& runtime, const PythonDomain& domain) {
  const abi::OrtApi* api = runtime.api;
  abi::OrtCustomOpDomain* made = nullptr;
  check(api->CreateCustomOpDomain(domain.name, &made));
  for (int32_t i = 0; i < domain.num_overloads; ++i) {
    auto op = std::make_unique<PythonOp>();
    init_op(op.get(), runtime, domain.overloads[i]);
    if (OrtStatus* status = api->CustomOpDomain_Add(made, op.get())) {
      api->ReleaseCustomOpDomain(made);
      throw StatusException{status};
    }
    op.release();  // NOLINT: ORT keeps it
  }
  return made;
}

}  // namespace

void attach_python(const PythonApi& api) {
  python = api;
  is_closed = false;
}

bool detach_python(int timeout_ms) {
  is_closed = true;
  for (int waited = 0; num_calls > 0 && waited < timeout_ms; ++waited) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return num_calls == 0;
}

OrtStatus* add_python_domains(const Runtime& runtime, const PythonDomain* domains, size_t num_domains,
                              abi::OrtSessionOptions* options) {
  return guarded_python(runtime.api, [&] {
    const std::lock_guard<std::mutex> lock(domains_mutex);
    if (!made_domains) made_domains = new std::map<DomainKey, abi::OrtCustomOpDomain*>;
    for (size_t i = 0; i < num_domains; ++i) {
      abi::OrtCustomOpDomain*& made = (*made_domains)[{runtime.api, domains[i].id}];
      if (!made) made = make_domain(runtime, domains[i]);
      check(runtime.api->AddCustomOpDomain(options, made));
    }
  });
}

}  // namespace mylinear
