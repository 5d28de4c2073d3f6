// Layer: ORT, any operator. Fills onnxruntime's table of callbacks, once for all operators.
#ifndef MYLINEAR_ORT_OP_TABLE_H_
#define MYLINEAR_ORT_OP_TABLE_H_

#include "ort/call.h"
#include "ort/shape_inference.h"

#pragma GCC visibility push(hidden)
namespace mylinear::ort {

// onnxruntime's view of an operator, for one choice of element types. onnxruntime holds a pointer to it for as
// long as a session lives.
struct OpBase : abi::OrtCustomOp {
  Runtime runtime;
  Signature signature;
};

// A kernel with what its callbacks need.
template <class Op>
struct Node {
  const Op& op;
  size_t num_inputs;
  typename Op::Kernel kernel;
};

// The callbacks for `Op`, which derives from OpBase and has: Kernel, make_kernel(const KernelInfo&) -> Kernel,
// and infer_shapes(const ShapeInference&).
template <class Op>
struct Callbacks {
  static const Op& self(const abi::OrtCustomOp* op) { return *static_cast<const Op*>(op); }

  static abi::OrtStatus* create_kernel(const abi::OrtCustomOp* raw, const abi::OrtApi*,
                                       const abi::OrtKernelInfo* handle, void** out) {
    const Op& op = self(raw);
    return guarded(op.runtime.api, op.signature.name, [&] {
      const KernelInfo info(op.runtime, op.signature, handle);
      *out = new Node<Op>{op, info.num_inputs(), op.make_kernel(info)};
    });
  }

  static abi::OrtStatus* compute(void* raw, abi::OrtKernelContext* context) {
    const auto& node = *static_cast<const Node<Op>*>(raw);
    const Op& op = node.op;
    return guarded(op.runtime.api, op.signature.name, [&] {
      node.kernel.compute(Call(op.runtime, op.signature, context, node.num_inputs));
    });
  }

  static void destroy(void* raw) { delete static_cast<Node<Op>*>(raw); }

  static abi::OrtStatus* infer_shapes(const abi::OrtCustomOp* raw, abi::OrtShapeInferContext* context) {
    const Op& op = self(raw);
    return guarded(op.runtime.api, op.signature.name,
                   [&] { op.infer_shapes(ShapeInference(op.runtime, op.signature, context)); });
  }
};

constexpr abi::OrtCustomOpInputOutputCharacteristic characteristic_of(const Slot& slot) {
  return slot.is_optional ? abi::INPUT_OUTPUT_OPTIONAL : abi::INPUT_OUTPUT_REQUIRED;
}

// Fills the table of `op`, whose runtime and signature are set.
template <class Op>
void fill_callbacks(Op* op) {
  using abi::OrtCustomOp;
  using Table = Callbacks<Op>;
  static_cast<OrtCustomOp&>(*op) = OrtCustomOp{};
  const uint32_t version = op->runtime.version;
  op->version = version < abi::kCustomOpVersion ? version : abi::kCustomOpVersion;
  op->GetName = [](const OrtCustomOp* self) { return Table::self(self).signature.name; };
  op->GetExecutionProviderType = [](const OrtCustomOp* self) { return Table::self(self).signature.provider; };
  op->GetInputTypeCount = [](const OrtCustomOp* self) { return Table::self(self).signature.inputs.size; };
  op->GetInputType = [](const OrtCustomOp* self, size_t index) {
    return Table::self(self).signature.inputs[index].type;
  };
  op->GetInputCharacteristic = [](const OrtCustomOp* self, size_t index) {
    return characteristic_of(Table::self(self).signature.inputs[index]);
  };
  op->GetInputMemoryType = [](const OrtCustomOp*, size_t) { return abi::OrtMemTypeDefault; };
  op->GetOutputTypeCount = [](const OrtCustomOp* self) { return Table::self(self).signature.outputs.size; };
  op->GetOutputType = [](const OrtCustomOp* self, size_t index) {
    return Table::self(self).signature.outputs[index].type;
  };
  op->GetOutputCharacteristic = [](const OrtCustomOp* self, size_t index) {
    return characteristic_of(Table::self(self).signature.outputs[index]);
  };
  op->GetVariadicInputMinArity = [](const OrtCustomOp*) { return 0; };
  op->GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op->GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
  op->GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op->GetStartVersion = [](const OrtCustomOp* self) { return Table::self(self).signature.since_version; };
  op->GetEndVersion = [](const OrtCustomOp* self) { return Table::self(self).signature.end_version; };
  op->CreateKernelV2 = Table::create_kernel;
  op->KernelComputeV2 = Table::compute;
  op->KernelDestroy = Table::destroy;
  if (version >= abi::kShapeInferenceIsSafeSince) op->InferOutputShapeFn = Table::infer_shapes;
}

}  // namespace mylinear::ort
#pragma GCC visibility pop

#endif  // MYLINEAR_ORT_OP_TABLE_H_
