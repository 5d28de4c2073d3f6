// An onnxruntime of a few hundred lines, at any API version: its function table has exactly that version's
// length.
#ifndef MYLINEAR_TESTS_FAKE_ORT_H_
#define MYLINEAR_TESTS_FAKE_ORT_H_

#include <atomic>
#include <cstdlib>
#include <string>
#include <vector>

#include "fake_ort_functions.h"

namespace fake_ort {

// One release: the table of its API version ends after that version's last function, in memory of its own.
class Release {
 public:
  explicit Release(const char* version_text, uint32_t api_version)
      : version_(api_version), text_(version_text) {
    size_t slots = 0;
#define FAKE_ORT_COUNT(slot, since, name) \
  if (since <= api_version) slots = slot + 1;
    MYLINEAR_ORT_API_SLOTS(FAKE_ORT_COUNT)
#undef FAKE_ORT_COUNT
    table_ = static_cast<void**>(std::calloc(slots, sizeof(void*)));
    // Kept, as the library keeps what it made for each table: a new one must not get the address of an old
    // one.
    static auto* tables = new std::vector<void*>;
    tables->push_back(table_);
#define FAKE_ORT_FILL(slot, since, name) \
  if (since <= api_version) table_[slot] = reinterpret_cast<void*>(&Functions::name);
    MYLINEAR_ORT_API_SLOTS(FAKE_ORT_FILL)
#undef FAKE_ORT_FILL
  }
  Release(const Release&) = delete;

  // An OrtApiBase has no state, so that of the release last made current is what it speaks of.
  const OrtApiBase* base() const {
    current() = this;
    static const OrtApiBase kBase = {[](uint32_t version) -> const OrtApi* {
                                       current()->asked_for_ = version;
                                       return version <= current()->version_ ? current()->api() : nullptr;
                                     },
                                     [] { return current()->text_; }};
    return &kBase;
  }
  const OrtApi* api() const { return reinterpret_cast<const OrtApi*>(table_); }
  uint32_t asked_for() const { return asked_for_; }

 private:
  static const Release*& current() {
    static const Release* release = nullptr;
    return release;
  }
  uint32_t version_;
  const char* text_;
  void** table_;
  mutable std::atomic<uint32_t> asked_for_{0};
};

}  // namespace fake_ort

#endif  // MYLINEAR_TESTS_FAKE_ORT_H_
