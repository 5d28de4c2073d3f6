// Layer: ORT, any operator. What a kernel gets: the node that it is made for, and each call.
#ifndef MYLINEAR_ORT_CALL_H_
#define MYLINEAR_ORT_CALL_H_

#include <atomic>
#include <string>

#include "ort/attributes.h"

#pragma GCC visibility push(hidden)
namespace mylinear::ort {

// Throws unless a tensor has the element type of the kernel that onnxruntime chose. It has matched them
// already; this is for a runtime that did not.
[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_type(const Signature& signature, size_t index,
                                                               const TensorView& view) {
  const Slot& slot = signature.inputs[index];
  const std::string rule = std::string(element_name(slot.type)) + " (the kernel that ORT chose)";
  throw ContractError(
      message(signature.name, slot.argument, rule, "ONNX element type " + std::to_string(view.type)));
}

inline void check_type(const Signature& signature, size_t index, const TensorView& view) {
  if (view.type != signature.inputs[index].type) refuse_type(signature, index, view);
}

[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_absence(const Signature& signature, size_t index) {
  throw ContractError(message(signature.name, signature.inputs[index].argument, "given", "nothing"));
}

// The node that a kernel is made for. Lives for the constructor only, except `runtime` and `signature`, which
// live as long as every session.
class KernelInfo {
 public:
  KernelInfo(const Runtime& runtime, const Signature& signature, const abi::OrtKernelInfo* info)
      : runtime_(runtime), signature_(signature), info_(info) {
    check(runtime.api->KernelInfo_GetInputCount(info, &num_inputs_));
  }

  const Runtime& runtime() const { return runtime_; }
  const Signature& signature() const { return signature_; }
  const abi::OrtKernelInfo* handle() const { return info_; }

  // How many inputs the node lists. Trailing optional ones may be left out, others may be empty.
  size_t num_inputs() const { return num_inputs_; }

  ElementType input_type(size_t index) const { return signature_.inputs[index].type; }
  ElementType output_type(size_t index) const { return signature_.outputs[index].type; }

  Attributes<abi::OrtKernelInfo> attributes() const { return {runtime_, signature_, info_}; }

  // Reads an input if it is a constant, whose memory then lives as long as the session. Returns whether it
  // is.
  bool read_constant(size_t index, TensorView* out) const {
    if (index >= num_inputs_) return false;
    int is_constant = 0;
    const abi::OrtValue* value = nullptr;
    check(runtime_.api->KernelInfoGetConstantInput_tensor(info_, index, &is_constant, &value));
    if (!is_constant || !value) return false;
    out->read(runtime_, value);
    check_type(signature_, index, *out);
    return true;
  }

 private:
  const Runtime& runtime_;
  const Signature& signature_;
  const abi::OrtKernelInfo* info_;
  size_t num_inputs_ = 0;
};

// The memory of an output; both null for an optional one that the node does not have.
struct Output {
  abi::OrtValue* value = nullptr;
  void* data = nullptr;

  explicit operator bool() const { return value; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

// One call of a kernel. Nothing here allocates except onnxruntime for outputs.
class Call {
 public:
  Call(const Runtime& runtime, const Signature& signature, abi::OrtKernelContext* context, size_t num_inputs)
      : runtime_(runtime), signature_(signature), context_(context), num_inputs_(num_inputs) {}

  const Runtime& runtime() const { return runtime_; }
  abi::OrtKernelContext* handle() const { return context_; }

  // Reads an input; returns false for an absent optional one. Throws ContractError for an absent required
  // one.
  bool read_input(size_t index, TensorView* out) const {
    const abi::OrtValue* value = nullptr;
    if (index < num_inputs_) check(runtime_.api->KernelContext_GetInput(context_, index, &value));
    if (!value) {
      if (signature_.inputs[index].is_optional) return false;
      refuse_absence(signature_, index);
    }
    out->read(runtime_, value);
    check_type(signature_, index, *out);
    return true;
  }

  // Allocates an output of this shape.
  Output make_output(size_t index, const Shape& shape) const {
    Output output;
    check(runtime_.api->KernelContext_GetOutput(context_, index, shape.data, shape.rank, &output.value));
    if (output.value) check(runtime_.api->GetTensorMutableData(output.value, &output.data));
    return output;
  }

  // Cuts `size` items into `num_chunks` contiguous pieces (1 to `size`), and runs body(first, last) for each
  // on the session's threads.
  template <class Body>
  void parallel_for(size_t size, size_t num_chunks, const Body& body) const {
    struct Work {
      const Body* body;
      size_t size;
      size_t num_chunks;
      std::atomic<bool> has_failed{false};

      static void run_chunk(void* data, size_t chunk) {
        auto* work = static_cast<Work*>(data);
        const size_t length = work->size / work->num_chunks, longer = work->size % work->num_chunks;
        const size_t first = length * chunk + (chunk < longer ? chunk : longer);
        // An exception that escapes into a thread of the pool kills the process.
        try {
          (*work->body)(first, first + length + (chunk < longer));
        } catch (...) {
          work->has_failed.store(true, std::memory_order_relaxed);
        }
      }
    };
    Work work{&body, size, num_chunks};
    check(runtime_.api->KernelContext_ParallelFor(context_, Work::run_chunk, num_chunks, 0, &work));
    if (!work.has_failed) return;
    throw Error(abi::ORT_FAIL, std::string(signature_.name) + ": a kernel failed in the thread pool");
  }

 private:
  Runtime runtime_;  // a copy: one load less for each use
  const Signature& signature_;
  abi::OrtKernelContext* context_;
  size_t num_inputs_;
};

}  // namespace mylinear::ort
#pragma GCC visibility pop

#endif  // MYLINEAR_ORT_CALL_H_
