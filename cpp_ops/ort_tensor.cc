// Layer: ORT op. The calls of ONNX Runtime that differ between its versions are made here.
#include "ort_tensor.h"

namespace mylinear {
namespace {

// An OrtTensorTypeAndShapeInfo that this library has to release.
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

}  // namespace

void TensorView::read(const Runtime& runtime, const abi::OrtValue* value) {
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

InferredInput::InferredInput(const abi::OrtApi* api, const abi::OrtShapeInferContext* context, size_t index) {
  abi::OrtTensorTypeAndShapeInfo* info = nullptr;  // belongs to the context
  check(api->ShapeInferContext_GetInputTypeShape(context, index, &info));
  if (!info) return;
  check(api->GetTensorElementType(info, &type));
  check(api->GetDimensionsCount(info, &rank));
  if (rank > kMaxRank) rank = 0;
  if (rank == 0) return;
  check(api->GetDimensions(info, dims, rank));
  check(api->GetSymbolicDimensions(info, names, rank));
}

void set_inferred_output(const abi::OrtApi* api, const abi::OrtShapeInferContext* context, size_t index,
                         abi::ONNXTensorElementDataType type, const int64_t* dims, const char** names,
                         size_t rank) {
  OwnedInfo owned(api);
  check(api->CreateTensorTypeAndShapeInfo(&owned.info));
  // The type first: it starts as float, and ORT from 1.19 on takes it over together with the shape.
  check(api->SetTensorElementType(owned.info, type));
  check(api->SetDimensions(owned.info, dims, rank));
  check(api->SetSymbolicDimensions(owned.info, names, rank));
  check(api->ShapeInferContext_SetOutputTypeShape(context, index, owned.info));
}

}  // namespace mylinear
