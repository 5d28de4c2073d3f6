// Layer: what both libraries say of themselves, as JSON.
#ifndef MYLINEAR_JSON_TEXT_H_
#define MYLINEAR_JSON_TEXT_H_

#include <cstddef>
#include <cstdio>
#include <string>

namespace mylinear {

inline std::string quoted(const std::string& text) {
  std::string escaped = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') escaped += '\\';
    escaped += static_cast<unsigned char>(c) < ' ' ? '?' : c;
  }
  return escaped + "\"";
}

// Writes what `describe` returns into `buffer`, cut off at `size` bytes with the final 0, and returns the
// length that it has whole, without the 0; 0 if there is not enough memory.
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

#endif  // MYLINEAR_JSON_TEXT_H_
