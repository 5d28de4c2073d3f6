// Layer: ORT, any operator. Tensors that onnxruntime owns, read through functions that differ by version.
#ifndef MYLINEAR_ORT_TENSOR_H_
#define MYLINEAR_ORT_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "ort/element_types.h"
#include "ort/status.h"

#pragma GCC visibility push(hidden)
namespace mylinear::ort {

// A view of dimensions that somebody else owns. A scalar has rank 0, and `data` may then be null.
struct Shape {
  const int64_t* data = nullptr;
  size_t rank = 0;
};

// Inline storage up to rank 16; heap beyond.
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

// Releases an OrtTensorTypeAndShapeInfo.
class OwnedInfo {
 public:
  explicit OwnedInfo(const abi::OrtApi* api) : api_(api) {}
  OwnedInfo(const OwnedInfo&) = delete;
  OwnedInfo& operator=(const OwnedInfo&) = delete;
  ~OwnedInfo() {
    if (info) api_->ReleaseTensorTypeAndShapeInfo(info);
  }
  abi::OrtTensorTypeAndShapeInfo* info = nullptr;

 private:
  const abi::OrtApi* api_;
};

// Type, data and shape of a tensor that onnxruntime owns. Not copyable: `shape` may point into `dims_`.
class TensorView {
 public:
  TensorView() = default;
  TensorView(const TensorView&) = delete;
  TensorView& operator=(const TensorView&) = delete;

  ElementType type = kUndefined;
  const void* data = nullptr;
  Shape shape;

  // The elements; T must be the C++ type of `type`.
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }

  // The product of the dimensions: 1 for a scalar.
  size_t count() const {
    size_t result = 1;
    for (size_t axis = 0; axis < shape.rank; ++axis) result *= static_cast<size_t>(shape.data[axis]);
    return result;
  }

  void read(const Runtime& runtime, const abi::OrtValue* value) {
    const abi::OrtApi* api = runtime.api;
    if (runtime.version >= 24) {  // no allocation, no copy: 7 ns against 95
      check(api->GetTensorElementTypeAndShapeDataReference(value, &type, &shape.data, &shape.rank));
    } else {
      OwnedInfo owned(api);
      check(api->GetTensorTypeAndShape(value, &owned.info));
      check(api->GetTensorElementType(owned.info, &type));
      check(api->GetDimensionsCount(owned.info, &shape.rank));
      int64_t* dims = dims_.resize(shape.rank);
      check(api->GetDimensions(owned.info, dims, shape.rank));
      shape.data = dims;
    }
    if (runtime.version >= 23) {
      check(api->GetTensorData(value, &data));
    } else {
      void* mutable_data = nullptr;
      check(api->GetTensorMutableData(const_cast<abi::OrtValue*>(value), &mutable_data));
      data = mutable_data;
    }
  }

 private:
  DimBuffer dims_;
};

}  // namespace mylinear::ort
#pragma GCC visibility pop

#endif  // MYLINEAR_ORT_TENSOR_H_
