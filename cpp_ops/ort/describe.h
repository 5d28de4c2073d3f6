// Layer: ORT, any operator. What a library says of its operators, as JSON.
#ifndef MYLINEAR_ORT_DESCRIBE_H_
#define MYLINEAR_ORT_DESCRIBE_H_

#include <cmath>
#include <cstdio>
#include <string>

#include "ort/custom_op.h"
#include "ort/json_text.h"

#pragma GCC visibility push(hidden)
namespace mylinear::ort {

template <class... Specs>
struct TypeList {};

// The name that starts the messages of a library with these Specs.
template <class First, class... Others>
constexpr const char* first_name(TypeList<First, Others...>) {
  return First::kName;
}

// `[item(a), item(b)]`.
template <class Items, class Item>
std::string json_list(const Items& items, const Item& item) {
  std::string text = "[";
  for (const auto& one : items) text += (text.size() > 1 ? ", " : "") + item(one);
  return text + "]";
}

inline std::string describe_parameter(const Parameter& parameter) {
  return "{\"name\": " + quoted(parameter.name) + ", \"type\": " + quoted(parameter.type) +
         ", \"optional\": " + (parameter.is_optional ? "true" : "false") +
         ", \"argument\": " + quoted(parameter.argument ? parameter.argument : parameter.name) + "}";
}

inline std::string describe_types(const TypeVariable& variable) {
  const Span<ElementType> types{variable.types, variable.count()};
  return "{\"name\": " + quoted(variable.name) +
         ", \"types\": " + json_list(types, [](ElementType type) { return quoted(element_name(type)); }) +
         "}";
}

// Nine digits, which give the same float back; NaN and infinities as Python's json reads them.
inline std::string json_number(float value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.9g", static_cast<double>(value));
  return digits;
}

inline std::string describe_attribute(const Attribute& attribute) {
  std::string value = "null";
  if (!attribute.is_required) {
    switch (attribute.kind) {
      case AttributeKind::kFloat:
        value = json_number(attribute.default_float);
        break;
      case AttributeKind::kInt:
        value = std::to_string(attribute.default_int);
        break;
      case AttributeKind::kString:
        value = quoted(attribute.default_string);
        break;
      default:
        value = "[]";
    }
  }
  return "{\"name\": " + quoted(attribute.name) +
         ", \"kind\": " + std::to_string(static_cast<int>(attribute.kind)) +
         ", \"required\": " + (attribute.is_required ? "true" : "false") + ", \"default\": " + value + "}";
}

// The combinations of element types that have a kernel, in the order of the type variables; empty for all of
// them.
template <class Spec>
std::string describe_overloads() {
  if constexpr (HasOverloads<Spec>::value) {
    return json_list(Spec::kOverloads, [](const auto& overload) {
      return json_list(overload, [](ElementType type) { return quoted(element_name(type)); });
    });
  }
  return "[]";
}

// Keys: domain, name, since_version and end_version (those that it serves), provider, types (name, types),
// overloads, inputs and outputs (name, type, optional, argument), attributes (name, kind as in
// AttributeProto.AttributeType, required, default).
template <class Spec>
std::string describe_spec() {
  return "{\"domain\": " + quoted(Spec::kDomain) + ", \"name\": " + quoted(Spec::kName) +
         ", \"since_version\": " + std::to_string(Spec::kSinceVersion) +
         ", \"end_version\": " + std::to_string(EndVersionOf<Spec>::value) +
         ", \"provider\": " + quoted(ProviderOf<Spec>::value) +
         ", \"types\": " + json_list(Spec::kTypes, describe_types) +
         ", \"overloads\": " + describe_overloads<Spec>() +
         ", \"inputs\": " + json_list(Spec::kInputs, describe_parameter) +
         ", \"outputs\": " + json_list(Spec::kOutputs, describe_parameter) +
         ", \"attributes\": " + json_list(AttributesOf<Spec>::value, describe_attribute) + "}";
}

// A list with one entry for each Spec.
template <class... Specs>
std::string describe(TypeList<Specs...>) {
  std::string text = "[";
  ((text += (text.size() > 1 ? ", " : "") + describe_spec<Specs>()), ...);
  return text + "]";
}

}  // namespace mylinear::ort
#pragma GCC visibility pop

#endif  // MYLINEAR_ORT_DESCRIBE_H_
