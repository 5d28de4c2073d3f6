// How an author's library adds its operators to a session, and what it says of them.
#include "author_ops.h"

namespace mylinear {
namespace {

void test_description() {
  const std::string text = ort::describe(ort::TypeList<Scale, Other, Some>{});
  for (const char* part :
       {"[{\"domain\": \"test.domain\", \"name\": \"SCALE\", \"since_version\": 3",
        "\"since_version\": 3, \"end_version\": 3", "\"since_version\": 1, \"end_version\": 7",
        "{\"name\": \"T\", \"types\": [\"float64\", \"float32\"]}", "\"overloads\": []",
        "\"overloads\": [[\"float64\", \"float32\"], [\"float32\", \"int8\"], [\"float32\", \"float16\"]]",
        "{\"name\": \"OFFSET\", \"type\": \"T\", \"optional\": true, \"argument\": \"offset\"}",
        "{\"name\": \"alpha\", \"kind\": 1, \"required\": false, \"default\": 0.5}",
        "{\"name\": \"mode\", \"kind\": 3, \"required\": false, \"default\": \"plain\"}",
        "{\"name\": \"size\", \"kind\": 2, \"required\": true, \"default\": null}"}) {
    CHECK_MESSAGE(text.find(part) != std::string::npos, text);
  }
}

void test_registration() {
  const Release release("1.24.4", 24);
  OrtSessionOptions options, again, without, elsewhere;
  const auto add = [&](int number, OrtSessionOptions* to) {
    ort::add_operators(ort::Runtime{release.api(), 24}, Machine{number}, to,
                       ort::TypeList<Scale, Other, Elsewhere>{});
  };
  add(1, &options);
  CHECK(options.domains.size() == 2 && options.domains[0]->name == "test.domain");
  CHECK(options.domains[0]->ops.size() == 5 && options.domains[1]->ops.size() == 4);
  add(1, &again);
  CHECK(again.domains == options.domains);  // one domain serves all sessions
  add(0, &without);
  CHECK(without.domains.size() == 2 && without.domains[0]->ops.size() == 4 &&
        without.domains != options.domains);
  for (int n = 0;; ++n) {
    const int domains = fake_ort::live_domains;
    OrtSessionOptions failing;
    fake_ort::calls_until_failure = n;
    std::string message;
    const Release injecting("1.24.4", 24);
    message = take_message(ort::register_library<Scale, Elsewhere>(&failing, injecting.base()));
    const bool was_reached = fake_ort::calls_until_failure < 0;
    fake_ort::calls_until_failure = -1;
    if (!was_reached) {
      CHECK(message.empty() && failing.domains.size() == 2);
      break;
    }
    CHECK(message == "injected");
    CHECK(fake_ort::live_domains == domains || fake_ort::live_domains == domains + 2);
  }
  const Release old("1.16.3", 16);
  CHECK(take_message(ort::register_library<Scale>(&elsewhere, old.base())) ==
        "SCALE: onnxruntime must be 1.17 or newer, got 1.16.3");
  CHECK(elsewhere.domains.empty() && fake_ort::live_statuses == 0);
}

}  // namespace
}  // namespace mylinear

int main() {
  mylinear::test_description();
  mylinear::test_registration();
  return report();
}
