// Layer: ORT op. See python_op.h.
//
// A kernel's memory is not copied: inputs reach Python as read-only memoryviews, outputs as writable ones.
// The GIL is held from the first Python object of a call to the last. Whatever Python raises becomes a
// status, and nothing that is left of a call refers to the memory, or the call is an error.
#include "python_op.h"

#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "python_attributes.h"
#include "python_failure.h"
#include "python_objects.h"

namespace mylinear {
namespace {

using abi::ONNXTensorElementDataType;
using abi::OrtKernelContext;
using abi::OrtKernelInfo;
using abi::OrtStatus;
using abi::OrtValue;

constexpr char kWho[] = "a Python kernel";
constexpr int kReadOnly = 0x100;  // PyBUF_READ
constexpr int kWritable = 0x200;  // PyBUF_WRITE

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

// Runs `body` with the GIL; what Python raises in it is described without a call's memory.
template <class Body>
void with_gil(Body&& body) {
  const Gil gil;
  try {
    body();
  } catch (Raised& raised) {
    throw_described(std::move(raised.exception), python.none, Tuple(0).get());
  }
}

// ---- the kernel
// -----------------------------------------------------------------------------------------------

// One node of one session. `compute` may run on any number of threads at once: it changes no member.
class Kernel {
 public:
  Kernel(const PythonOp& op, const OrtKernelInfo* info) : op_(op) {
    check(op.runtime.api->KernelInfo_GetInputCount(info, &num_inputs_));
    with_gil([&] {
      Tuple attributes(op.attributes.size());
      for (const std::string& name : op.attributes) {
        attributes.add(read_attribute(op.runtime, info, name.c_str()));
      }
      prepare_ = call(op.make_node, attributes).release();
    });
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
    with_gil([&] {
      const int num_forks_before = num_forks();
      Tuple loans(op_.input_types.size() + op_.output_types.size());
      try {
        run(context, &loans);
        if (num_forks() != num_forks_before) end_child(python.none);
      } catch (Raised& raised) {
        if (num_forks() != num_forks_before) end_child(raised.exception.get());
        throw_described(std::move(raised.exception), prepare_, loans.get());
      }
      if (is_any_kept(loans.get())) refuse_kept(prepare_, loans.get());
    });
  }

 private:
  // Calls the kernel; `loans` gets a weak reference to each tensor's memory, None for an absent one. Nothing
  // else that this makes is left when it returns or throws.
  void run(OrtKernelContext* context, Tuple* loans) const {
    for (size_t i = 0; i < op_.input_types.size() + op_.output_types.size(); ++i) loans->set(i, none());
    const Reference prepared = prepare(context, loans);
    PyObject* finish = item_at(prepared.get(), 0);
    Tuple outputs(op_.output_types.size());
    for (size_t i = 0; i < op_.output_types.size(); ++i) {
      Reference memory = allocate_output(context, i, item_at(prepared.get(), i + 1));
      loans->set(op_.input_types.size() + i, weak(memory.get()));
      outputs.add(std::move(memory));
    }
    call(finish, outputs);
  }

  Reference prepare(const OrtKernelContext* context, Tuple* loans) const {
    Tuple shapes(op_.input_types.size());
    Tuple arguments(1 + op_.input_types.size());
    for (size_t i = 0; i < op_.input_types.size(); ++i) {
      Reference memory = add_input(context, i, &shapes);
      if (memory.get() != python.none) loans->set(i, weak(memory.get()));
      arguments.set(1 + i, std::move(memory));
    }
    arguments.set(0, shapes.take());
    return call(prepare_, arguments);
  }

  Reference add_input(const OrtKernelContext* context, size_t index, Tuple* shapes) const {
    const OrtValue* value = nullptr;
    if (index < num_inputs_) check(api()->KernelContext_GetInput(context, index, &value));
    if (!value) {
      if (index < op_.num_required)
        throw PythonError(abi::ORT_INVALID_ARGUMENT, op_.name + ": an input is missing");
      shapes->add(none());
      return none();
    }
    TensorView view;
    view.read(op_.runtime, value);
    // ORT has matched the model's types with this overload's already; this is for a runtime that did not.
    if (view.type != op_.input_types[index]) {
      throw PythonError(abi::ORT_INVALID_ARGUMENT, op_.name + ": an input has the wrong element type");
    }
    shapes->add(shape_tuple(view.shape.data, view.shape.rank));
    return memory_of(view.data, view.shape.data, view.shape.rank, view.type, kReadOnly);
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
    PyObject* shape = item_at(inferred.get(), 2 * i + 1);
    if (shape == python.none) continue;
    const size_t rank = size_of(shape);
    std::vector<int64_t> dims(rank + 1, -1);
    std::vector<const char*> names(rank + 1, "");
    for (size_t axis = 0; axis < rank; ++axis) {
      PyObject* dim = item_at(shape, axis);
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
  return guarded_python(self(op).runtime.api,
                        [&] { with_gil([&] { infer_output_shapes(self(op), context); }); });
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
  open_gil();
}

bool detach_python(int timeout_ms) { return close_gil(timeout_ms); }

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
