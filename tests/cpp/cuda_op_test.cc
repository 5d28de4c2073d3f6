// Which kernels for CUDA a session gets, against a fake backend: what is loaded and when, and what is said of
// what is missing.
#include "cuda_node.h"

#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "cuda/find_backend.h"
#include "operators/mylinear/cpu_op.h"
#include "operators/mylinear/cuda_op.h"

namespace mylinear {
namespace {

void test_nothing_is_loaded_unless_a_session_asks() {
  const Release release("1.32.0", 32);
  OrtSessionOptions plain;
  CHECK(take_message(RegisterCustomOps(&plain, release.base())).empty());
  CHECK(ops_of(plain, kCpu).size() == kernels::kNumGemmKernels && ops_of(plain, kCuda).empty());
  registered(release, "0");
  setenv("MYLINEAR_CUDA", "1", 1);
  const OrtSessionOptions off = registered(release, "0");  // the session's word goes before the environment's
  CHECK(ops_of(off, kCuda).empty());
  CHECK(!last_call_function());
  OrtSessionOptions asked;
  CHECK(take_message(RegisterCustomOps(&asked, release.base())).empty());
  CHECK(ops_of(asked, kCuda).size() == kernels::kNumGemmKernels);
  CHECK(last_call_function());
  unsetenv("MYLINEAR_CUDA");
}

void test_both_kernels_are_in_one_domain_with_one_signature() {
  for (const auto& [text, version] :
       {std::pair{"1.17.3", 17u}, {"1.18.1", 18u}, {"1.24.4", 24u}, {"1.32.0", 32u}}) {
    const Release release(text, version);
    const OrtSessionOptions options = registered(release);
    CHECK(options.domains.size() == 1);
    CHECK(ops_of(options, kCpu).size() == kernels::kNumGemmKernels);
    const OrtCustomOp& cpu = *options.domains[0]->ops[0];
    CHECK(cpu.GetExecutionProviderType(&cpu) ==
          std::string("CPUExecutionProvider"));  // whose inference ORT takes
    std::set<std::pair<int, int>> types, of_cpu;
    for (const OrtCustomOp* op : ops_of(options, kCpu))
      of_cpu.emplace(op->GetInputType(op, 0), op->GetInputType(op, 1));
    for (const OrtCustomOp* op : ops_of(options, kCuda)) {
      types.emplace(op->GetInputType(op, 0), op->GetInputType(op, 1));
      CHECK(op->GetInputType(op, 2) == op->GetInputType(op, 0) &&
            op->GetOutputType(op, 0) == op->GetInputType(op, 0));
      CHECK(op->version == cpu.version && op->GetName(op) == std::string("MYLINEAR"));
      CHECK(op->InferOutputShapeFn == cpu.InferOutputShapeFn);
      CHECK(&my_linear::CpuOp::infer_shapes == &my_linear::CudaOp::infer_shapes);
      CHECK(op->GetInputTypeCount(op) == 3 && op->GetOutputTypeCount(op) == 1);
      for (size_t i = 0; i < 3; ++i) {
        CHECK(op->GetInputCharacteristic(op, i) == cpu.GetInputCharacteristic(&cpu, i));
        CHECK(op->GetInputMemoryType(op, i) == OrtMemTypeDefault);
      }
    }
    CHECK(types.size() == kernels::kNumGemmKernels && types == of_cpu);
    OrtSessionOptions plain;
    CHECK(take_message(RegisterCustomOps(&plain, release.base())).empty());
    CHECK(plain.domains.at(0) != options.domains[0] && ops_of(plain, kCuda).empty());
    CHECK(registered(release).domains == options.domains);
  }
}

void test_what_is_missing_is_said_and_the_cpu_serves() {
  const Release release("1.32.0", 32);
  const std::string fake = directory + "libmylinear_cuda.so";
  const std::string damaged = directory + "damaged.so";
  FILE* file = std::fopen(damaged.c_str(), "w");
  CHECK(file && std::fputs("not a library", file) >= 0 && std::fclose(file) == 0);
  struct Row {
    std::string library;
    const char* behaviour;
    std::string reason;
  };
  const Row rows[] = {
      {directory + "nothing.so", "", "is not there: this installation was built without the CUDA backend"},
      {damaged, "", "damaged.so cannot be loaded: "},
      {"libc.so.6", "", "is not there"},  // a bare name is not looked for in the loader's path
      {fake, "speak another version", "is of another build than this library"},
      {fake, "have another size", "is of another build than this library"},
      {fake, "be of another release", "is of version 0.0.9, and this library of test"},
      {fake, "have no device", "the driver finds no CUDA device"},
      {fake, "say nothing", "the CUDA backend fails, and does not say why"},
  };
  for (const Row& row : rows) {
    setenv("MYLINEAR_CUDA_LIBRARY", row.library.c_str(), 1);
    setenv("FAKE_BACKEND", row.behaviour, 1);
    const OrtSessionOptions served = registered(release, "1");
    CHECK(ops_of(served, kCuda).empty() && ops_of(served, kCpu).size() == kernels::kNumGemmKernels);
    OrtSessionOptions required;
    required.entries["mylinear.cuda"] = "require";
    const std::string message = take_message(RegisterCustomOps(&required, release.base()));
    CHECK_MESSAGE(message.find("MYLINEAR: the CUDA kernel is not available: ") == 0, message);
    CHECK_MESSAGE(message.find(row.reason) != std::string::npos, message);
    char text[2048];
    CHECK(mylinear_cuda_describe(text, sizeof text) == std::strlen(text));
    CHECK_MESSAGE(std::strstr(text, "\"reason\": \"") != nullptr, text);
  }
  std::remove(damaged.c_str());
  unsetenv("FAKE_BACKEND");
  unsetenv("MYLINEAR_CUDA_LIBRARY");
  // A library that is no backend: one that is here for certain is that of this function.
  Dl_info info;
  CHECK(dladdr(reinterpret_cast<const void*>(&std::fopen), &info));
  setenv("MYLINEAR_CUDA_LIBRARY", info.dli_fname, 1);
  const std::string reason = cuda::find_backend("test").reason;
  CHECK_MESSAGE(
      reason.find("is no backend of this library: ") != std::string::npos || access(info.dli_fname, F_OK),
      reason);
  unsetenv("MYLINEAR_CUDA_LIBRARY");

  OrtSessionOptions wrong;
  wrong.entries["mylinear.cuda"] = "yes";
  CHECK(take_message(RegisterCustomOps(&wrong, release.base())) ==
        "MYLINEAR: session config entry mylinear.cuda must be 0, 1 or require, got yes");
  wrong.entries["mylinear.cuda"] = std::string(100, 'y');
  CHECK(take_message(RegisterCustomOps(&wrong, release.base())).find("got yyyyyyyyyyyyyyyyyyyyyyyy") !=
        std::string::npos);
  setenv("MYLINEAR_CUDA", "on", 1);
  OrtSessionOptions from_environment;
  CHECK(take_message(RegisterCustomOps(&from_environment, release.base())) ==
        "MYLINEAR: MYLINEAR_CUDA must be 0, 1 or require, got on");
  unsetenv("MYLINEAR_CUDA");
  char text[2048];
  CHECK(mylinear_cuda_describe(text, sizeof text) == std::strlen(text));
  CHECK(std::strstr(text, "\"reason\": null, \"backend\": {\"toolkit\": \"none\""));
}

}  // namespace
}  // namespace mylinear

int main() {
  if (!mylinear::set_up()) return 1;
  // Argument 0 may be relative, and so what dladdr says of this program; the library says it whole.
  setenv("MYLINEAR_CUDA_LIBRARY", (mylinear::directory + "libmylinear_cuda.so").c_str(), 1);
  mylinear::test_nothing_is_loaded_unless_a_session_asks();
  unsetenv("MYLINEAR_CUDA_LIBRARY");
  mylinear::test_both_kernels_are_in_one_domain_with_one_signature();
  mylinear::test_what_is_missing_is_said_and_the_cpu_serves();
  return report();
}
