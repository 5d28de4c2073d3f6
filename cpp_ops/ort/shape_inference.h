// Layer: ORT, any operator. The shapes that are known while a model is loaded.
#ifndef MYLINEAR_ORT_SHAPE_INFERENCE_H_
#define MYLINEAR_ORT_SHAPE_INFERENCE_H_

#include "ort/attributes.h"

#pragma GCC visibility push(hidden)
namespace mylinear::ort {

// What the graph says of one input. Rank 0 means unknown: onnxruntime shows an unknown rank, an absent input
// and a scalar alike.
struct InferredShape {
  static constexpr size_t kMaxRank = 64;
  ElementType type = kUndefined;
  size_t rank = 0;
  int64_t dims[kMaxRank];       // -1 where it is not a number
  const char* names[kMaxRank];  // "" where it has no name

  bool is_known(size_t axis) const { return dims[axis] >= 0 || (names[axis] && *names[axis]); }
};

// One run of an operator's shape rule. onnxruntime runs it for each node, perhaps several times, so the rule
// must depend on nothing else. An error that it returns is dropped; report contradictions from the kernel.
class ShapeInference {
 public:
  ShapeInference(const Runtime& runtime, const Signature& signature, abi::OrtShapeInferContext* context)
      : runtime_(runtime), signature_(signature), context_(context) {
    check(runtime.api->ShapeInferContext_GetInputCount(context, &num_inputs_));
  }

  size_t num_inputs() const { return num_inputs_; }

  // Reads input `index`; rank 0 for one that the node does not have.
  void read_input(size_t index, InferredShape* out) const {
    const abi::OrtApi* api = runtime_.api;
    out->type = kUndefined;
    out->rank = 0;
    if (index >= num_inputs_) return;
    abi::OrtTensorTypeAndShapeInfo* info = nullptr;  // belongs to the context
    check(api->ShapeInferContext_GetInputTypeShape(context_, index, &info));
    if (!info) return;
    check(api->GetTensorElementType(info, &out->type));
    check(api->GetDimensionsCount(info, &out->rank));
    if (out->rank > InferredShape::kMaxRank) out->rank = 0;
    if (out->rank == 0) return;
    check(api->GetDimensions(info, out->dims, out->rank));
    check(api->GetSymbolicDimensions(info, out->names, out->rank));
  }

  // Reads attribute `name` of the node, in the operator's table or not.
  void read_attribute(const char* name, FoundAttribute* out) const {
    ort::read_attribute(runtime_, context_, name, out);
  }

  Attributes<abi::OrtShapeInferContext> attributes() const { return {runtime_, signature_, context_}; }

  // States the shape of an output; the element type follows from the inputs that share its type variable.
  // Does nothing for an optional output, because onnxruntime does not tell whether the node has it and would
  // write past its end, and nothing where a dimension has neither number nor name, because it takes -1 for a
  // number.
  void set_output(size_t index, const InferredShape& shape) const {
    const ElementType type = output_type(index);
    if (signature_.outputs[index].is_optional || type == kUndefined) return;
    for (size_t axis = 0; axis < shape.rank; ++axis) {
      if (!shape.is_known(axis)) return;
    }
    set_typed_output(index, type, shape.dims, shape.names, shape.rank);
  }

  // States type and shape of an output that the node has; every dimension has a number, or -1 and a name.
  void set_typed_output(size_t index, ElementType type, const int64_t* dims, const char* const* names,
                        size_t rank) const {
    const abi::OrtApi* api = runtime_.api;
    OwnedInfo owned(api);
    check(api->CreateTensorTypeAndShapeInfo(&owned.info));
    // The type first: it starts as float, and onnxruntime from 1.19 on takes it over together with the shape.
    check(api->SetTensorElementType(owned.info, type));
    check(api->SetDimensions(owned.info, dims, rank));
    check(api->SetSymbolicDimensions(owned.info, const_cast<const char**>(names), rank));
    check(api->ShapeInferContext_SetOutputTypeShape(context_, index, owned.info));
  }

 private:
  // onnxruntime asks one op for all choices of element types, so the types of this one say nothing of the
  // node.
  ElementType output_type(size_t index) const {
    const char* variable = signature_.outputs[index].type_variable;
    const ElementType fixed = element_type_called(variable);
    if (fixed != kUndefined) return fixed;
    InferredShape input;
    for (size_t i = 0; i < num_inputs_ && i < signature_.inputs.size; ++i) {
      if (!same_text(signature_.inputs[i].type_variable, variable)) continue;
      read_input(i, &input);
      if (input.type != kUndefined) return input.type;
    }
    return kUndefined;
  }

  const Runtime& runtime_;
  const Signature& signature_;
  abi::OrtShapeInferContext* context_;
  size_t num_inputs_ = 0;
};

}  // namespace mylinear::ort
#pragma GCC visibility pop

#endif  // MYLINEAR_ORT_SHAPE_INFERENCE_H_
