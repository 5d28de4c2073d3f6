// What the library says of itself, and of an instruction set that there is not.
#include <cstdlib>
#include <cstring>
#include <string>

#include "check.h"
#include "fake_ort.h"

extern "C" mylinear::abi::OrtStatus* RegisterCustomOps(mylinear::abi::OrtSessionOptions* options,
                                                       const mylinear::abi::OrtApiBase* base);
extern "C" size_t mylinear_describe(char* buffer, size_t size);

namespace mylinear {
namespace {

using namespace abi;
using fake_ort::Release;

std::string take_message(OrtStatus* status) {
  if (!status) return "";
  const std::string message = status->message;
  fake_ort::Functions::ReleaseStatus(status);
  return message;
}

void test_isa_variable() {
  const Release release("1.24.4", 24);
  OrtSessionOptions options;
  setenv("MYLINEAR_ISA", "no \"such\"", 1);
  const std::string message = take_message(RegisterCustomOps(&options, release.base()));
  CHECK_MESSAGE(message.find("MYLINEAR: MYLINEAR_ISA must be one of ") == 0, message);
  char text[8192];
  CHECK(mylinear_describe(text, sizeof text) == std::strlen(text));
  CHECK(std::strstr(text, "got no \\\"such\\\"") && std::strstr(text, "\"isa\": null"));
  setenv("MYLINEAR_ISA", "baseline", 1);
  CHECK(mylinear_describe(text, sizeof text) == std::strlen(text));
  CHECK(std::strstr(text, "\"isa\": \"baseline\", \"error\": null"));
  CHECK(mylinear_describe(text, 5) > 5 && std::strlen(text) == 4);
  CHECK(mylinear_describe(nullptr, 0) > 5);
  unsetenv("MYLINEAR_ISA");
}

}  // namespace
}  // namespace mylinear

int main() {
  unsetenv("MYLINEAR_ISA");
  mylinear::test_isa_variable();
  return report();
}
