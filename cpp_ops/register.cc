// Layer: entry. The one list of operators, and the functions that a host or a tool calls; ceilings/measure.cc
// exports those that only benchmarks call.
//
//   RegisterCustomOps       called by onnxruntime for `register_custom_ops_library`
//   mylinear_describe       version, operators and instruction sets, for tools that ask without a session
//   mylinear_cuda_describe  the state of the CUDA backend
//   mylinear_python_*       for the Python package: operators with Python kernels
#include <cstdlib>
#include <string>
#include <utility>

#include "cuda/find_backend.h"
#include "kernels/isa/isa.h"
#include "operators/adamstep/cpu_op.h"
#include "operators/mylinear/cpu_op.h"
#include "operators/mylinear/cuda_op.h"
#include "operators/mylineargrad/cpu_op.h"
#include "operators/mylineargrad/cuda_op.h"
#include "ort/registration.h"
#include "python/api.h"

namespace mylinear {
namespace {

// Every operator with C++ kernels, and each of its kernels.
using Operators = ort::TypeList<my_linear::CpuOp, my_linear::CudaOp, my_linear_grad::CpuOp,
                                my_linear_grad::CudaOp, adam_step::CpuOp>;

// The start of this library's own messages.
constexpr const char* kLibrary = ort::first_name(Operators{});

constexpr char kIsaVariable[] = "MYLINEAR_ISA";
constexpr char kCudaVariable[] = "MYLINEAR_CUDA";
constexpr char kCudaEntry[] = "mylinear.cuda";

// What kernels may use on this machine.
struct Machine {
  const kernels::Isa* isa = nullptr;
  const cuda::Backend* backend = nullptr;  // null where the CPU's kernels serve

  bool operator==(const Machine& other) const { return isa == other.isa && backend == other.backend; }
};

// What the next registration in this thread is to add. RegisterCustomOps has no parameter for it, and it is
// the only way that a Python host has to its session options.
struct Selection {
  bool with_cpp_kernels = true;
  const python::PythonDomain* domains = nullptr;
  size_t num_domains = 0;
};
thread_local Selection selection;

// The names of the ISAs as text, with `between` between them.
std::string isa_names(bool usable_only, const char* before, const char* between, const char* after) {
  std::string names;
  size_t count = 0;
  const kernels::Isa* isas = kernels::compiled_isas(&count);
  for (size_t i = 0; i < count; ++i) {
    if (usable_only && !isas[i].is_usable()) continue;
    if (!names.empty()) names += between;
    names += std::string(before) + isas[i].name + after;
  }
  return names;
}

// The ISA to use, or null and a message in `error`.
const kernels::Isa* choose_isa(std::string* error) {
  const char* name = std::getenv(kIsaVariable);
  const kernels::Isa* isa = kernels::find_isa(name);
  if (!isa) {
    const std::string rule = "one of " + isa_names(true, "", ", ", "") + " on this machine";
    *error = ort::message(kLibrary, kIsaVariable, rule, name);
  }
  return isa;
}

std::string config_entry(const abi::OrtApi* api, const abi::OrtSessionOptions* options, const char* key) {
  size_t size = 0;  // with the final 0
  ort::check(api->GetSessionConfigEntry(options, key, nullptr, &size));
  std::string value(size, '\0');
  ort::check(api->GetSessionConfigEntry(options, key, &value[0], &size));
  return value.c_str();
}

// The CUDA backend if the session asks for it, by its config entry or else by the environment. Null if it
// does not, or if something is missing and the CPU's kernels serve. Throws for `require` and something
// missing.
const cuda::Backend* choose_backend(const abi::OrtApi* api, const abi::OrtSessionOptions* options) {
  const char* variable = std::getenv(kCudaVariable);
  std::string wanted = variable ? variable : "";
  std::string source = kCudaVariable;
  int has_entry = 0;
  ort::check(api->HasSessionConfigEntry(options, kCudaEntry, &has_entry));
  if (has_entry) {
    wanted = config_entry(api, options, kCudaEntry);
    source = std::string("session config entry ") + kCudaEntry;
  }
  if (wanted.empty() || wanted == "0") return nullptr;
  if (wanted != "1" && wanted != "require") {
    throw ort::ContractError(ort::message(kLibrary, source, "0, 1 or require", wanted));
  }
  const cuda::FoundBackend found = cuda::find_backend(MYLINEAR_VERSION);
  if (found.reason.empty()) return found.loaded;
  if (wanted == "1") return nullptr;
  throw ort::Error(abi::ORT_NOT_IMPLEMENTED,
                   std::string(kLibrary) + ": the CUDA kernel is not available: " + found.reason);
}

abi::OrtStatus* register_ops(abi::OrtSessionOptions* options, const abi::OrtApiBase* base) {
  ort::Runtime runtime{};
  if (abi::OrtStatus* status = ort::find_runtime(base, kLibrary, &runtime)) return status;
  if (!runtime.api) return nullptr;  // not an onnxruntime that could be told anything
  const Selection selected = std::exchange(selection, Selection{});
  return ort::guarded(runtime.api, kLibrary, [&] {
    if (selected.with_cpp_kernels) {
      std::string error;
      Machine machine;
      machine.isa = choose_isa(&error);
      if (!machine.isa) throw ort::ContractError(error);
      machine.backend = choose_backend(runtime.api, options);
      ort::add_operators(runtime, machine, options, Operators{});
    }
    ort::check(python::add_python_domains(runtime, selected.domains, selected.num_domains, options));
  });
}

std::string describe_cuda() {
  const cuda::FoundBackend found = cuda::find_backend(MYLINEAR_VERSION);
  std::string backend = "null";
  if (found.loaded) {
    backend.resize(found.loaded->describe(nullptr, 0));
    found.loaded->describe(&backend[0], backend.size() + 1);
  }
  return "{\"path\": " + quoted(found.path) +
         ", \"reason\": " + (found.reason.empty() ? "null" : quoted(found.reason)) +
         ", \"backend\": " + backend + "}";
}

std::string describe() {
  std::string error;
  const kernels::Isa* isa = choose_isa(&error);
  return std::string("{\"version\": \"" MYLINEAR_VERSION "\", \"compiler\": \"" MYLINEAR_COMPILER "\"") +
         ", \"isa\": " + (isa ? std::string("\"") + isa->name + "\"" : "null") +
         ", \"error\": " + (isa ? "null" : quoted(error)) + ", \"compiled\": [" +
         isa_names(false, "\"", ", ", "\"") + "]" + ", \"usable\": [" + isa_names(true, "\"", ", ", "\"") +
         "], \"operators\": " + ort::describe(Operators{}) + "}";
}

}  // namespace
}  // namespace mylinear

// Adds the operators with C++ kernels to `options`, or what `mylinear_python_select` chose. Thread-safe.
// Returns null, or a status that the caller releases.
MYLINEAR_EXPORT mylinear::abi::OrtStatus* RegisterCustomOps(mylinear::abi::OrtSessionOptions* options,
                                                            const mylinear::abi::OrtApiBase* base) {
  try {
    return mylinear::register_ops(options, base);
  } catch (...) {  // out of memory while refusing an old runtime
    return nullptr;
  }
}

// Writes JSON into `buffer`, cut off at `size` bytes including the final 0. Returns the length of the whole
// text without the 0; 0 if out of memory. Keys: version, compiler, isa (null and an `error` where
// MYLINEAR_ISA asks for one that this machine lacks), compiled and usable ISAs in the order in which they are
// preferred, and operators, with an entry for each kernel; see ort/describe.h.
MYLINEAR_EXPORT size_t mylinear_describe(char* buffer, size_t size) {
  return mylinear::write_text(buffer, size, [] { return mylinear::describe(); });
}

// The same for the CUDA backend, which this loads. Keys: path, reason (null if a session can have it) and
// backend (the backend's own description, or null): toolkit, architectures, driver, cublaslt, cublaslt_error,
// devices.
MYLINEAR_EXPORT size_t mylinear_cuda_describe(char* buffer, size_t size) {
  return mylinear::write_text(buffer, size, [] { return mylinear::describe_cuda(); });
}

// Hands over Python's functions, once. `nbytes` is the size of the caller's PythonApi, PythonOverload and
// PythonDomain together; returns 0 if it is another than here.
MYLINEAR_EXPORT int mylinear_python_attach(const mylinear::python::PythonApi* api, size_t nbytes) {
  using namespace mylinear::python;
  if (nbytes != sizeof(PythonApi) + sizeof(PythonOverload) + sizeof(PythonDomain)) return 0;
  attach_python(*api);
  return 1;
}

// Before the interpreter goes; without the GIL. Returns whether no call into Python is left.
MYLINEAR_EXPORT int mylinear_python_detach(int timeout_ms) {
  return mylinear::python::detach_python(timeout_ms);
}

// Chooses what the next RegisterCustomOps of this thread adds: the operators with C++ kernels or not, and
// these domains, which must live until then.
MYLINEAR_EXPORT void mylinear_python_select(int with_cpp_kernels,
                                            const mylinear::python::PythonDomain* domains,
                                            size_t num_domains) {
  mylinear::selection = {with_cpp_kernels != 0, domains, num_domains};
}
