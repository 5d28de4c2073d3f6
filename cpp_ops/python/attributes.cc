// Layer: Python. See attributes.h.
#include "python/attributes.h"

#include <string>
#include <utility>

namespace mylinear::python {
namespace {

using ort::AttributeKind;

Reference tensor_object(const ort::TensorView& view) {
  Tuple tensor(3);
  tensor.add(view.type);
  tensor.add(shape_tuple(view.shape.data, view.shape.rank));
  tensor.add(bytes(view.data, element_nbytes(view.type) * view.count()));
  return tensor.take();
}

Reference strings_object(const std::vector<std::string>& strings) {
  Tuple list(strings.size());
  for (const std::string& text : strings) list.add(bytes(text.data(), text.size()));
  return list.take();
}

}  // namespace

size_t element_nbytes(ort::ElementType type) {
  if (const ort::ElementTypeRow* row = ort::find_element_type(type)) return row->nbytes;
  throw ort::Error(abi::ORT_INVALID_ARGUMENT,
                   "a Python kernel takes no tensors of ONNX element type " + std::to_string(type));
}

Reference attribute_object(const ort::FoundAttribute& found) {
  if (found.kind == AttributeKind::kAbsent) return none();
  Tuple result(2);
  result.add(static_cast<int64_t>(found.kind));
  switch (found.kind) {
    case AttributeKind::kTensor:
      result.add(tensor_object(found.tensor));
      break;
    case AttributeKind::kStrings:
      result.add(strings_object(found.strings));
      break;
    case AttributeKind::kEmptyList:
    case AttributeKind::kEmptyListOrStrings:
      result.add(none());
      break;
    default:
      result.add(bytes(found.data.data(), found.data.size()));
  }
  return result.take();
}

}  // namespace mylinear::python
