// Layer: ORT, any operator. Makes onnxruntime's ops from a description in C++.
//
// A Spec describes an operator and names its kernel:
//
//   struct Scale {
//     static constexpr char kDomain[] = "my.domain";
//     static constexpr char kName[] = "SCALE";
//     static constexpr int kSinceVersion = 1;
//     static constexpr ort::TypeVariable kTypes[] = {{"T", {ort::kFloat64, ort::kFloat32}}};
//     static constexpr ort::Parameter kInputs[] = {{"X", "T"}};
//     static constexpr ort::Parameter kOutputs[] = {{"Y", "T"}};
//     static constexpr ort::Attribute kAttributes[] = {ort::float_attribute("alpha", 1)};  // may be left out
//     static void infer_shapes(const ort::ShapeInference& shapes);                         // may be left out
//
//     class Kernel {
//      public:
//       explicit Kernel(const ort::KernelInfo& info);  // once for each node of each session
//       void compute(const ort::Call& call) const;     // on any number of threads at once
//     };
//   };
//
// It may also have `kProvider` (the CPU's by default), `kEndVersion` (`kSinceVersion` by default), the list
// of the combinations of element types that it has a kernel for (all of them by default), each in the order
// of kTypes,
//
//     static constexpr ort::ElementType kOverloads[][2] = {{ort::kFloat64, ort::kInt64}, ...};
//
// and `Resources`, which its ops keep and its kernels get: then the constructor is Kernel(info, resources).
// Put a Spec of your own into an anonymous namespace. Whatever a kernel throws becomes onnxruntime's error.
#ifndef MYLINEAR_ORT_CUSTOM_OP_H_
#define MYLINEAR_ORT_CUSTOM_OP_H_

#include <iterator>
#include <type_traits>

#include "ort/op_table.h"

#pragma GCC visibility push(hidden)
namespace mylinear::ort {

// The members that a Spec may leave out.
template <class Spec, class = void>
struct ProviderOf {
  static constexpr const char* value = kCpuProvider;
};
template <class Spec>
struct ProviderOf<Spec, std::void_t<decltype(Spec::kProvider)>> {
  static constexpr const char* value = Spec::kProvider;
};

template <class Spec, class = void>
struct EndVersionOf {
  static constexpr int value = Spec::kSinceVersion;
};
template <class Spec>
struct EndVersionOf<Spec, std::void_t<decltype(Spec::kEndVersion)>> {
  static constexpr int value = Spec::kEndVersion;
};

template <class Spec, class = void>
struct AttributesOf {
  static constexpr Span<Attribute> value = {};
};
template <class Spec>
struct AttributesOf<Spec, std::void_t<decltype(Spec::kAttributes)>> {
  static constexpr Span<Attribute> value = {Spec::kAttributes, std::size(Spec::kAttributes)};
};

template <class Spec, class = void>
struct HasShapeRule : std::false_type {};
template <class Spec>
struct HasShapeRule<Spec, std::void_t<decltype(&Spec::infer_shapes)>> : std::true_type {};

struct NoResources {};
template <class Spec, class = void>
struct ResourcesOf {
  using type = NoResources;
};
template <class Spec>
struct ResourcesOf<Spec, std::void_t<typename Spec::Resources>> {
  using type = typename Spec::Resources;
};

template <class Spec, class = void>
struct HasOverloads : std::false_type {};
template <class Spec>
struct HasOverloads<Spec, std::void_t<decltype(Spec::kOverloads)>> : std::true_type {};

// The number of choices of element types: those that the Spec lists, or the product over the type variables.
template <class Spec>
constexpr size_t num_overloads() {
  if constexpr (HasOverloads<Spec>::value) return std::size(Spec::kOverloads);
  size_t product = 1;
  for (const TypeVariable& variable : Spec::kTypes) product *= variable.count();
  return product;
}

// The element type that `name`, a type variable or an element type, has in a choice; kUndefined if it is
// none.
template <class Spec>
constexpr ElementType type_in_overload(const char* name, size_t overload) {
  size_t index = 0;
  size_t rest = overload;
  for (const TypeVariable& variable : Spec::kTypes) {
    const size_t count = variable.count();
    if (same_text(variable.name, name)) {
      if constexpr (HasOverloads<Spec>::value) return Spec::kOverloads[overload][index];
      return variable.types[rest % count];
    }
    rest /= count;
    ++index;
  }
  return element_type_called(name);
}

// Whether a list of overloads has a type of each variable in each row.
template <class Spec>
constexpr bool has_possible_overloads() {
  if constexpr (HasOverloads<Spec>::value) {
    for (const auto& overload : Spec::kOverloads) {
      if (std::size(overload) != std::size(Spec::kTypes)) return false;
      size_t index = 0;
      for (const TypeVariable& variable : Spec::kTypes) {
        bool is_there = false;
        for (size_t i = 0; i < variable.count(); ++i) is_there |= variable.types[i] == overload[index];
        if (!is_there) return false;
        ++index;
      }
    }
  }
  return true;
}

template <class Spec>
constexpr bool has_known_types() {
  for (const Parameter& parameter : Spec::kInputs) {
    if (type_in_overload<Spec>(parameter.type, 0) == kUndefined) return false;
  }
  for (const Parameter& parameter : Spec::kOutputs) {
    if (type_in_overload<Spec>(parameter.type, 0) == kUndefined) return false;
  }
  return true;
}

// The op of a Spec for one choice of element types, 0 to num_overloads<Spec>() - 1.
template <class Spec>
class CustomOp : public OpBase {
 public:
  using Kernel = typename Spec::Kernel;
  using Resources = typename ResourcesOf<Spec>::type;

  static_assert(num_overloads<Spec>() > 0, "each type variable of a Spec must have an element type");
  static_assert(has_possible_overloads<Spec>(),
                "an overload must have a type of each type variable, in order");
  static_assert(has_known_types<Spec>(), "a parameter's type must be a type variable or an element type");

  CustomOp(const Runtime& for_runtime, size_t overload, const Resources& resources = {})
      : resources_(resources) {
    runtime = for_runtime;
    fill_slots(Spec::kInputs, overload, inputs_);
    fill_slots(Spec::kOutputs, overload, outputs_);
    signature = {Spec::kName,
                 ProviderOf<Spec>::value,
                 Spec::kSinceVersion,
                 EndVersionOf<Spec>::value,
                 {inputs_, std::size(inputs_)},
                 {outputs_, std::size(outputs_)},
                 AttributesOf<Spec>::value};
    if constexpr (HasShapeRule<Spec>::value) {
      infer_shapes = [](const OpBase&, const ShapeInference& shapes) { Spec::infer_shapes(shapes); };
    }
    fill_callbacks(this);
  }
  CustomOp(const CustomOp&) = delete;
  CustomOp& operator=(const CustomOp&) = delete;

  const Resources& resources() const { return resources_; }

  Kernel make_kernel(const KernelInfo& info) const {
    if constexpr (std::is_constructible_v<Kernel, const KernelInfo&, const Resources&>) {
      return Kernel(info, resources_);
    } else {
      return Kernel(info);
    }
  }

 private:
  template <size_t kCount>
  static void fill_slots(const Parameter (&parameters)[kCount], size_t overload, Slot (&slots)[kCount]) {
    for (size_t i = 0; i < kCount; ++i) {
      const Parameter& from = parameters[i];
      slots[i] = {type_in_overload<Spec>(from.type, overload), from.is_optional,
                  from.argument ? from.argument : from.name, from.type};
    }
  }

  Slot inputs_[std::size(Spec::kInputs)];
  Slot outputs_[std::size(Spec::kOutputs)];
  Resources resources_;
};

}  // namespace mylinear::ort
#pragma GCC visibility pop

#endif  // MYLINEAR_ORT_CUSTOM_OP_H_
