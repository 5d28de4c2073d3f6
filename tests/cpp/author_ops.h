// Operators as an author outside this project writes them, and a node of one of them on a fake onnxruntime.
#ifndef MYLINEAR_TESTS_AUTHOR_OPS_H_
#define MYLINEAR_TESTS_AUTHOR_OPS_H_

#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "check.h"
#include "fake_ort.h"
#include "ort/registration.h"

namespace mylinear {

using namespace abi;
using fake_ort::Release;

inline int behaviour = 0;  // what Scale's kernel throws

// Y = alpha * X + OFFSET; SIGNS = COUNT where Y > 0, else 0.
struct Scale {
  static constexpr char kDomain[] = "test.domain";
  static constexpr char kName[] = "SCALE";
  static constexpr int kSinceVersion = 3;
  static constexpr ort::TypeVariable kTypes[] = {{"T", {ort::kFloat64, ort::kFloat32}},
                                                 {"I", {ort::kInt32, ort::kInt64}}};
  static constexpr ort::Parameter kInputs[] = {
      {"X", "T"}, {"OFFSET", "T", ort::kOptional, "offset"}, {"COUNT", "I"}};
  static constexpr ort::Parameter kOutputs[] = {{"Y", "T"}, {"SIGNS", "I", ort::kOptional}};
  static constexpr ort::Attribute kAttributes[] = {
      ort::float_attribute("alpha", 0.5f), ort::int_attribute("steps", 1),
      ort::string_attribute("mode", "plain"), ort::ints_attribute("axes"), ort::floats_attribute("weights")};

  class Kernel {
   public:
    explicit Kernel(const ort::KernelInfo& info)
        : alpha_(info.attributes().get_float("alpha")), steps_(info.attributes().get_int("steps")) {
      CHECK(info.attributes().get_string("mode") == "plain" && info.attributes().get_ints("axes").empty());
      CHECK(info.attributes().get_floats("weights").empty() && info.num_inputs() == 3);
      CHECK(info.output_type(0) == info.input_type(0) && info.output_type(1) == info.input_type(2));
      if (info.input_type(0) == ort::kFloat32) has_constant_ = info.read_constant(1, &offset_);
    }

    void compute(const ort::Call& call) const {
      if (behaviour == 1) throw std::bad_alloc();
      if (behaviour == 2) throw 5;
      if (behaviour == 3) throw ort::Error(ORT_NOT_IMPLEMENTED, "SCALE: not today");
      if (behaviour == 4) call.parallel_for(7, 3, [](size_t, size_t) { throw 5; });
      ort::TensorView x, own_offset, count;
      call.read_input(0, &x);
      const bool has_offset = has_constant_ || call.read_input(1, &own_offset);
      call.read_input(2, &count);
      const float offset = has_constant_ ? *offset_.as<float>() : has_offset ? *own_offset.as<float>() : 0;
      const ort::Output y = call.make_output(0, x.shape);
      const ort::Output signs = call.make_output(1, x.shape);
      call.parallel_for(x.count(), 2, [&](size_t first, size_t last) {
        for (size_t i = first; i < last; ++i) {
          const float value = alpha_ * static_cast<float>(steps_) * x.as<float>()[i] + offset;
          y.as<float>()[i] = value;
          if (signs) signs.as<int32_t>()[i] = value > 0 ? *count.as<int32_t>() : 0;
        }
      });
    }

   private:
    float alpha_;
    int64_t steps_;
    bool has_constant_ = false;
    ort::TensorView offset_;
  };

  static void infer_shapes(const ort::ShapeInference& shapes) {
    ort::InferredShape x;
    shapes.read_input(0, &x);
    if (x.rank == 0) return;
    shapes.set_output(0, x);
    shapes.set_output(1, x);
  }
};

// Needs an attribute and a machine, has a fixed element type and no shape rule.
struct Other {
  static constexpr char kDomain[] = "test.domain";
  static constexpr char kName[] = "OTHER";
  static constexpr int kSinceVersion = 1;
  static constexpr int kEndVersion = 2;
  static constexpr const char* kProvider = ort::kCudaProvider;
  static constexpr ort::TypeVariable kTypes[] = {{"T", {ort::kBool}}};
  static constexpr ort::Parameter kInputs[] = {{"A", "T"}, {"B", "uint8"}};
  static constexpr ort::Parameter kOutputs[] = {{"C", "float16"}};
  static constexpr ort::Attribute kAttributes[] = {ort::required("size", ort::AttributeKind::kInt)};
  using Resources = int;

  struct Kernel {
    Kernel(const ort::KernelInfo& info, int resources)
        : size(info.attributes().get_int("size") + resources) {}
    void compute(const ort::Call&) const {}
    int64_t size;
  };

  template <class Machine>
  static bool is_offered(const Machine& machine) {
    return machine.number > 0;
  }
  template <class Machine>
  static Resources resources(const Machine& machine) {
    return machine.number;
  }
};

// Has kernels for some combinations of its element types only.
struct Some {
  static constexpr char kDomain[] = "test.domain";
  static constexpr char kName[] = "SOME";
  static constexpr int kSinceVersion = 1;
  static constexpr int kEndVersion = 7;
  static constexpr ort::TypeVariable kTypes[] = {{"T", {ort::kFloat64, ort::kFloat32}},
                                                 {"U", {ort::kFloat32, ort::kFloat16, ort::kInt8}}};
  static constexpr ort::ElementType kOverloads[][2] = {
      {ort::kFloat64, ort::kFloat32}, {ort::kFloat32, ort::kInt8}, {ort::kFloat32, ort::kFloat16}};
  static constexpr ort::Parameter kInputs[] = {{"X", "T"}, {"Z", "U"}, {"I", "int64"}};
  static constexpr ort::Parameter kOutputs[] = {{"Y", "U"}};

  struct Kernel {
    explicit Kernel(const ort::KernelInfo&) {}
    void compute(const ort::Call&) const {}
  };
};
struct WithoutFloat64 : Some {
  static constexpr ort::ElementType kOverloads[][2] = {{ort::kFloat32, ort::kInt8}};
};
struct WithImpossible : Some {
  static constexpr ort::ElementType kOverloads[][2] = {{ort::kFloat32, ort::kInt8}, {ort::kInt8, ort::kInt8}};
};
struct WithTooFew : Some {
  static constexpr ort::ElementType kOverloads[][1] = {{ort::kFloat32}};
};

struct Elsewhere : Scale {
  static constexpr char kDomain[] = "test.other";
};

struct Machine {
  int number;
  bool operator==(const Machine& other) const { return number == other.number; }
};

inline OrtValue make_value(ONNXTensorElementDataType type, std::vector<int64_t> dims,
                           std::vector<float> values) {
  OrtValue value{
      type, dims, std::vector<unsigned char>(values.size() * 4), {type, dims, {"owned by its value"}}};
  value.dims.reserve(8);
  for (size_t i = 0; i < values.size(); ++i) {
    const auto number = static_cast<int32_t>(values[i]);
    const void* from =
        type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 ? static_cast<const void*>(&number) : &values[i];
    std::memcpy(value.data.data() + i * 4, from, 4);
  }
  return value;
}

inline std::string take_message(OrtStatus* status, OrtErrorCode* code = nullptr) {
  if (!status) return "";
  const std::string message = status->message;
  if (code) *code = status->code;
  fake_ort::Functions::ReleaseStatus(status);
  return message;
}

inline constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
inline constexpr auto kInt32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
inline constexpr size_t kFloatAndInt32 = 1;  // the overload

// One node of SCALE: X [2, 2], COUNT 9.
struct Node {
  explicit Node(const Release& release, uint32_t version,
                OrtKernelInfo with = {3, {nullptr, nullptr, nullptr}, {}, {}})
      : op({release.api(), version}, kFloatAndInt32), info(std::move(with)) {
    context = {{&x, &offset, &count}, &y};
    context.more_outputs = {&signs};
    creation = take_message(op.CreateKernelV2(&op, release.api(), &info, &kernel));
  }
  Node(const Node&) = delete;
  ~Node() {
    if (kernel) op.KernelDestroy(kernel);
  }
  std::string compute(OrtErrorCode* code = nullptr) {
    return take_message(op.KernelComputeV2(kernel, &context), code);
  }
  template <class T>
  std::vector<T> read(const OrtValue& value) const {
    std::vector<T> result(value.data.size() / sizeof(T));
    std::memcpy(result.data(), value.data.data(), value.data.size());
    return result;
  }

  OrtValue x = make_value(kFloat, {2, 2}, {1, -2, 3, -4}), offset = make_value(kFloat, {1}, {10}),
           count = make_value(kInt32, {}, {9}), y = make_value(kFloat, {2, 2}, {0, 0, 0, 0}),
           signs = make_value(kInt32, {2, 2}, {0, 0, 0, 0});
  ort::CustomOp<Scale> op;
  OrtKernelInfo info;
  OrtKernelContext context;
  void* kernel = nullptr;
  std::string creation;
};

}  // namespace mylinear

#endif  // MYLINEAR_TESTS_AUTHOR_OPS_H_
