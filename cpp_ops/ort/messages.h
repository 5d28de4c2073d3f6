// Layer: ORT, any operator. The one form of an error message, as in the Python package.
#ifndef MYLINEAR_ORT_MESSAGES_H_
#define MYLINEAR_ORT_MESSAGES_H_

#include <string>

#include "ort/tensor.h"

#pragma GCC visibility push(hidden)
namespace mylinear::ort {

// `NAME: <argument> must be <rule>, got <value>[; hint]`.
inline std::string message(const char* name, const std::string& argument, const std::string& rule,
                           const std::string& got, const char* hint = "") {
  std::string text = std::string(name) + ": " + argument + " must be " + rule + ", got " + got;
  if (*hint) text = text + "; " + hint;
  return text;
}

// `[2, 3]`.
inline std::string format_shape(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.rank; ++i) {
    if (i) text += ", ";
    text += std::to_string(shape.data[i]);
  }
  return text + "]";
}

}  // namespace mylinear::ort
#pragma GCC visibility pop

#endif  // MYLINEAR_ORT_MESSAGES_H_
