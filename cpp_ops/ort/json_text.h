// Layer: text. JSON for what a library says of itself; includes no onnxruntime.
#ifndef MYLINEAR_ORT_JSON_TEXT_H_
#define MYLINEAR_ORT_JSON_TEXT_H_

#include <cstddef>
#include <cstdio>
#include <string>

#pragma GCC visibility push(hidden)
namespace mylinear {

inline std::string quoted(const std::string& text) {
  std::string escaped = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') escaped += '\\';
    escaped += static_cast<unsigned char>(c) < ' ' ? '?' : c;
  }
  return escaped + "\"";
}

// Writes the text that `describe` returns into `buffer`, cut off at `size` bytes including the final 0.
// Returns the length of the whole text without the 0; 0 if out of memory.
template <class Describe>
size_t write_text(char* buffer, size_t size, Describe&& describe) {
  try {
    const std::string text = describe();
    if (buffer && size) std::snprintf(buffer, size, "%s", text.c_str());
    return text.size();
  } catch (...) {
    return 0;
  }
}

}  // namespace mylinear
#pragma GCC visibility pop

#endif  // MYLINEAR_ORT_JSON_TEXT_H_
