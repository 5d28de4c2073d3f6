// Layer: ORT, any operator. Fills onnxruntime's table of callbacks, once for all operators.
#ifndef MYLINEAR_ORT_OP_TABLE_H_
#define MYLINEAR_ORT_OP_TABLE_H_

#include "ort/call.h"
#include "ort/shape_inference.h"

#pragma GCC visibility push(hidden)
namespace mylinear::ort {

// onnxruntime's view of an operator, for one choice of element types. onnxruntime holds a pointer to it for
// as long as a session lives.
struct OpBase : abi::OrtCustomOp {
  Runtime runtime;
  Signature signature;
  void (*infer_shapes)(const OpBase& op, const ShapeInference& shapes) = nullptr;  // null: no shape rule
};

inline const OpBase& base_of(const abi::OrtCustomOp* op) { return *static_cast<const OpBase*>(op); }

constexpr abi::OrtCustomOpInputOutputCharacteristic characteristic_of(const Slot& slot) {
  return slot.is_optional ? abi::INPUT_OUTPUT_OPTIONAL : abi::INPUT_OUTPUT_REQUIRED;
}

// Fills in the callbacks that say what the operator is. Runtime, signature and shape rule are set before.
inline void fill_description(OpBase* op) {
  using abi::OrtCustomOp;
  static_cast<OrtCustomOp&>(*op) = OrtCustomOp{};
  const uint32_t version = op->runtime.version;
  op->version = version < abi::kCustomOpVersion ? version : abi::kCustomOpVersion;
  op->GetName = [](const OrtCustomOp* self) { return base_of(self).signature.name; };
  op->GetExecutionProviderType = [](const OrtCustomOp* self) { return base_of(self).signature.provider; };
  op->GetInputTypeCount = [](const OrtCustomOp* self) { return base_of(self).signature.inputs.size; };
  op->GetInputType = [](const OrtCustomOp* self, size_t i) { return base_of(self).signature.inputs[i].type; };
  op->GetInputCharacteristic = [](const OrtCustomOp* self, size_t i) {
    return characteristic_of(base_of(self).signature.inputs[i]);
  };
  op->GetInputMemoryType = [](const OrtCustomOp*, size_t) { return abi::OrtMemTypeDefault; };
  op->GetOutputTypeCount = [](const OrtCustomOp* self) { return base_of(self).signature.outputs.size; };
  op->GetOutputType = [](const OrtCustomOp* self, size_t i) {
    return base_of(self).signature.outputs[i].type;
  };
  op->GetOutputCharacteristic = [](const OrtCustomOp* self, size_t i) {
    return characteristic_of(base_of(self).signature.outputs[i]);
  };
  op->GetVariadicInputMinArity = [](const OrtCustomOp*) { return 0; };
  op->GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op->GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
  op->GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op->GetStartVersion = [](const OrtCustomOp* self) { return base_of(self).signature.since_version; };
  op->GetEndVersion = [](const OrtCustomOp* self) { return base_of(self).signature.end_version; };
  if (!op->infer_shapes || version < abi::kShapeInferenceIsSafeSince) return;
  op->InferOutputShapeFn = [](const OrtCustomOp* self, abi::OrtShapeInferContext* context) {
    const OpBase& base = base_of(self);
    return guarded(base.runtime.api, base.signature.name,
                   [&] { base.infer_shapes(base, ShapeInference(base.runtime, base.signature, context)); });
  };
}

// A kernel with what its callbacks need.
template <class Op>
struct Node {
  const Op& op;
  size_t num_inputs;
  typename Op::Kernel kernel;
};

// Fills in all callbacks of `op`, whose type derives from OpBase and has Kernel and
// make_kernel(const KernelInfo&) -> Kernel.
template <class Op>
void fill_callbacks(Op* op) {
  fill_description(op);
  op->CreateKernelV2 = [](const abi::OrtCustomOp* raw, const abi::OrtApi*, const abi::OrtKernelInfo* handle,
                          void** out) {
    const Op& self = *static_cast<const Op*>(raw);
    return guarded(self.runtime.api, self.signature.name, [&] {
      const KernelInfo info(self.runtime, self.signature, handle);
      *out = new Node<Op>{self, info.num_inputs(), self.make_kernel(info)};
    });
  };
  op->KernelComputeV2 = [](void* raw, abi::OrtKernelContext* context) {
    const auto& node = *static_cast<const Node<Op>*>(raw);
    const OpBase& base = node.op;
    return guarded(base.runtime.api, base.signature.name, [&] {
      node.kernel.compute(Call(base.runtime, base.signature, context, node.num_inputs));
    });
  };
  op->KernelDestroy = [](void* raw) { delete static_cast<Node<Op>*>(raw); };
}

}  // namespace mylinear::ort
#pragma GCC visibility pop

#endif  // MYLINEAR_ORT_OP_TABLE_H_
