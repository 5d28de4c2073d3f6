// Layer: Python. See op.h and api.h.
#include "python/op.h"

#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "ort/registration.h"
#include "python/attributes.h"
#include "python/failure.h"

namespace mylinear::python {
namespace {

constexpr char kWho[] = "a Python kernel";

std::vector<ort::Slot> make_slots(const int32_t* types, const int32_t* is_optional, int32_t count,
                                  const char* argument) {
  std::vector<ort::Slot> slots;
  for (int32_t i = 0; i < count; ++i) {
    slots.push_back({static_cast<ort::ElementType>(types[i]), is_optional[i] != 0, argument, nullptr});
  }
  return slots;
}

// A shape as numbers, names as bytes, and None for an unknown dimension; None for an unknown rank.
Reference shape_object(const ort::InferredShape& input) {
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

// States an output whose shape is a tuple of numbers and of names as bytes.
void set_output(const ort::ShapeInference& shapes, size_t index, int64_t type, PyObject* shape) {
  const size_t rank = size_of(shape);
  std::vector<int64_t> dims(rank + 1, -1);
  std::vector<const char*> names(rank + 1, "");
  for (size_t axis = 0; axis < rank; ++axis) {
    PyObject* dim = item_at(shape, axis);
    char* name = nullptr;
    ptrdiff_t length = 0;
    if (api.PyBytes_AsStringAndSize(dim, &name, &length) == 0) {
      names[axis] = name;
    } else {
      api.PyErr_Clear();
      dims[axis] = number_at(shape, axis);
    }
  }
  shapes.set_typed_output(index, static_cast<ort::ElementType>(type), dims.data(), names.data(), rank);
}

// The domains made so far, one for each id and onnxruntime; never freed.
using DomainKey = std::pair<const abi::OrtApi*, int64_t>;
std::mutex domains_mutex;
std::map<DomainKey, abi::OrtCustomOpDomain*>* made_domains = nullptr;

abi::OrtCustomOpDomain* make_domain(const ort::Runtime& runtime, const PythonDomain& domain) {
  ort::DomainBuilder builder(runtime.api, domain.name);
  for (int32_t i = 0; i < domain.num_overloads; ++i) {
    builder.add(std::make_unique<PythonOp>(runtime, domain.overloads[i]));
  }
  return builder.finish();
}

}  // namespace

PythonOp::PythonOp(const ort::Runtime& for_runtime, const PythonOverload& overload)
    : name(overload.name),
      inputs(make_slots(overload.input_types, overload.input_is_optional, overload.num_inputs, "an input")),
      outputs(
          make_slots(overload.output_types, overload.output_is_optional, overload.num_outputs, "an output")),
      attributes(overload.attributes, overload.attributes + overload.num_attributes),
      make_node(overload.make_node),
      infer(overload.infer) {
  runtime = for_runtime;
  signature = {name.c_str(),
               ort::kCpuProvider,
               overload.since_version,
               std::numeric_limits<int>::max(),
               {inputs.data(), inputs.size()},
               {outputs.data(), outputs.size()},
               {}};
  infer_shapes = [](const ort::OpBase& op, const ort::ShapeInference& shapes) {
    static_cast<const PythonOp&>(op).call_infer(shapes);
  };
  ort::fill_callbacks(this);
}

void PythonOp::call_infer(const ort::ShapeInference& shapes) const {
  with_gil([&] {
    Tuple read(attributes.size());
    for (const std::string& attribute : attributes) {
      ort::FoundAttribute found;
      shapes.read_attribute(attribute.c_str(), &found);
      read.add(attribute_object(found));
    }
    Tuple arguments(1 + 2 * shapes.num_inputs());
    arguments.add(read.take());
    for (size_t i = 0; i < shapes.num_inputs(); ++i) {
      ort::InferredShape input;
      shapes.read_input(i, &input);
      arguments.add(input.type);
      arguments.add(shape_object(input));
    }
    const Reference inferred = call(infer, arguments);
    for (size_t i = 0; i < outputs.size(); ++i) {
      PyObject* shape = item_at(inferred.get(), 2 * i + 1);
      // onnxruntime does not tell whether a node has an optional output, and would write past its end.
      if (outputs[i].is_optional || shape == api.none) continue;
      set_output(shapes, i, number_at(inferred.get(), 2 * i), shape);
    }
  });
}

void attach_python(const PythonApi& handed_over) {
  api = handed_over;
  open_gil();
}

bool detach_python(int timeout_ms) { return close_gil(timeout_ms); }

abi::OrtStatus* add_python_domains(const ort::Runtime& runtime, const PythonDomain* domains,
                                   size_t num_domains, abi::OrtSessionOptions* options) {
  return ort::guarded(runtime.api, kWho, [&] {
    const std::lock_guard<std::mutex> lock(domains_mutex);
    if (!made_domains) made_domains = new std::map<DomainKey, abi::OrtCustomOpDomain*>;
    for (size_t i = 0; i < num_domains; ++i) {
      abi::OrtCustomOpDomain*& made = (*made_domains)[{runtime.api, domains[i].id}];
      if (!made) made = make_domain(runtime, domains[i]);
      ort::check(runtime.api->AddCustomOpDomain(options, made));
    }
  });
}

}  // namespace mylinear::python
