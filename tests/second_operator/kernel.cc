// The C++ kernel of a test operator, as an author outside this project would write it: one file against
// cpp_ops/ort/*.h, built into a shared library of its own.
//
//   Y = alpha * X + SHIFT, and MASK = COUNT where Y > 0, else 0
//
// X has rank 1 or more, COUNT is a scalar, SHIFT (optional) is [last dimension of X], MASK is optional.
// float16 is computed in float32 and rounded once.
#include <cstring>
#include <string>

#include "ort/registration.h"

namespace {

namespace ort = mylinear::ort;

enum : size_t { kX, kCount, kShift };
enum : size_t { kY, kMask };

class ScaledClipKernel {
 public:
  explicit ScaledClipKernel(const ort::KernelInfo& info)
      : type_(info.input_type(kX)),
        count_type_(info.input_type(kCount)),
        alpha_(info.attributes().get_float("alpha")) {}

  void compute(const ort::Call& call) const {
    if (type_ == ort::kFloat64) return compute_as<double>(call);
    if (type_ == ort::kFloat32) return compute_as<float>(call);
    compute_as<ort::Float16>(call);
  }

 private:
  template <class S>
  void compute_as(const ort::Call& call) const {
    ort::TensorView x, shift, count;
    call.read_input(kX, &x);
    const bool has_shift = call.read_input(kShift, &shift);
    call.read_input(kCount, &count);
    check_shapes(x.shape, has_shift ? &shift.shape : nullptr, count.shape);
    const size_t columns = has_shift ? static_cast<size_t>(shift.shape.data[0]) : 1;
    const S* shifts = has_shift ? shift.as<S>() : nullptr;
    const ort::Output y = call.make_output(kY, x.shape);
    const ort::Output mask = call.make_output(kMask, x.shape);
    const auto run = [&](auto* mask_data, auto one) {
      for (size_t i = 0; i < x.count(); ++i) {
        auto value = static_cast<ort::Wide<S>>(alpha_) * ort::widen(x.as<S>()[i]);
        if (shifts) value += ort::widen(shifts[i % columns]);
        const S rounded = ort::narrow<S>(value);
        y.as<S>()[i] = rounded;
        if (mask_data) mask_data[i] = ort::widen(rounded) > 0 ? one : 0;
      }
    };
    if (count_type_ == ort::kInt32) return run(mask.as<int32_t>(), *count.as<int32_t>());
    run(mask.as<int64_t>(), *count.as<int64_t>());
  }

  static void check_shapes(const ort::Shape& x, const ort::Shape* shift, const ort::Shape& count) {
    if (x.rank == 0) {
      throw ort::ContractError(ort::message("SCALED_CLIP", "X", "of rank 1 or more", "[]"));
    }
    const ort::Shape last{x.data + x.rank - 1, 1};
    if (shift && (shift->rank != 1 || shift->data[0] != last.data[0])) {
      throw ort::ContractError(
          ort::message("SCALED_CLIP", "SHIFT", ort::format_shape(last), ort::format_shape(*shift)));
    }
    if (count.rank != 0) {
      throw ort::ContractError(ort::message("SCALED_CLIP", "COUNT", "a scalar", ort::format_shape(count)));
    }
  }

  ort::ElementType type_;
  ort::ElementType count_type_;
  float alpha_;
};

struct ScaledClip {
  static constexpr char kDomain[] = "example.ops";
  static constexpr char kName[] = "SCALED_CLIP";
  static constexpr int kSinceVersion = 1;
  static constexpr ort::TypeVariable kTypes[] = {{"T", {ort::kFloat64, ort::kFloat32, ort::kFloat16}},
                                                 {"I", {ort::kInt32, ort::kInt64}}};
  static constexpr ort::Parameter kInputs[] = {{"X", "T"}, {"COUNT", "I"}, {"SHIFT", "T", ort::kOptional}};
  static constexpr ort::Parameter kOutputs[] = {{"Y", "T"}, {"MASK", "I", ort::kOptional}};
  static constexpr ort::Attribute kAttributes[] = {ort::float_attribute("alpha", 1.0f)};
  using Kernel = ScaledClipKernel;

  static void infer_shapes(const ort::ShapeInference& shapes) {
    ort::InferredShape x;
    shapes.read_input(kX, &x);
    if (x.rank == 0) return;
    shapes.set_output(kY, x);
    shapes.set_output(kMask, x);
  }
};

}  // namespace

MYLINEAR_REGISTER(ScaledClip)
