// Layer: ORT op. What every op shares: statuses, tensors of a call, shapes known when a model is loaded.
#ifndef MYLINEAR_ORT_TENSOR_H_
#define MYLINEAR_ORT_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <string>

#include "ort_abi.h"
#include "shape_check.h"

namespace mylinear {

// An onnxruntime that loaded this library: its function table, and which API version the table is read as.
struct Runtime {
  const abi::OrtApi* api;
  uint32_t version;
};

// A status that an ORT function returned, on its way to the callback that returns it to ORT.
struct StatusException {
  abi::OrtStatus* status;
};

inline void check(abi::OrtStatus* status) {
  if (status) throw StatusException{status};
}

// Runs `body`; whatever it throws becomes a status. `who` begins the messages that are not its own.
template <class Body>
abi::OrtStatus* guarded(const abi::OrtApi* api, const char* who, Body&& body) {
  try {
    body();
    return nullptr;
  } catch (const StatusException& error) {
    return error.status;
  } catch (const ContractError& error) {
    return api->CreateStatus(abi::ORT_INVALID_ARGUMENT, error.what());
  } catch (const std::bad_alloc&) {
    return api->CreateStatus(abi::ORT_FAIL, (std::string(who) + ": out of memory").c_str());
  } catch (const std::exception& error) {
    return api->CreateStatus(abi::ORT_FAIL, error.what());
  } catch (...) {
    return api->CreateStatus(abi::ORT_FAIL, (std::string(who) + ": unknown C++ exception").c_str());
  }
}

// Dimensions without an allocation up to a rank that no model has been seen to exceed.
class DimBuffer {
 public:
  int64_t* resize(size_t rank) {
    if (rank <= kInlineRank) return inline_;
    heap_.reset(new int64_t[rank]);
    return heap_.get();
  }

 private:
  static constexpr size_t kInlineRank = 16;
  int64_t inline_[kInlineRank];
  std::unique_ptr<int64_t[]> heap_;
};

// Type, data and shape of a tensor that ORT owns. Not copyable: `shape` may point into `dims_`.
class TensorView {
 public:
  TensorView() = default;
  TensorView(const TensorView&) = delete;
  TensorView& operator=(const TensorView&) = delete;

  abi::ONNXTensorElementDataType type = abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  const void* data = nullptr;
  Shape shape;

  void read(const Runtime& runtime, const abi::OrtValue* value);

 private:
  DimBuffer dims_;
};

// What the graph says of one input. ORT shows an unknown rank, an absent input and a scalar alike, as rank 0.
struct InferredInput {
  static constexpr size_t kMaxRank = 64;
  abi::ONNXTensorElementDataType type = abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  size_t rank = 0;
  int64_t dims[kMaxRank];       // -1 where it is not a number
  const char* names[kMaxRank];  // "" where it has no name

  InferredInput(const abi::OrtApi* api, const abi::OrtShapeInferContext* context, size_t index);

  bool is_known(size_t axis) const { return dims[axis] >= 0 || (names[axis] && *names[axis]); }
};

// States type and shape of an output; every dimension has a number, or -1 and a name.
void set_inferred_output(const abi::OrtApi* api, const abi::OrtShapeInferContext* context, size_t index,
                         abi::ONNXTensorElementDataType type, const int64_t* dims, const char** names,
                         size_t rank);

}  // namespace mylinear

#endif  // MYLINEAR_ORT_TENSOR_H_
