// Layer: entry. Exports all that a host or a tool calls; ceilings/measure.cc exports what only `mylinear
// bench` does.
//
//   RegisterCustomOps   what onnxruntime calls for `register_custom_ops_library`
//   mylinear_describe   what this library is and which kernels it would use, for tools that ask without a
//   session
//   mylinear_cuda_describe  what there is of the CUDA backend, or what is missing
//   mylinear_python_*   for ort_ops/trampoline.py: operators with Python kernels
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "contract.h"
#include "cuda/cuda_op.h"
#include "cuda/find_backend.h"
#include "json_text.h"
#include "kernels/gemm.h"
#include "mylinear_op.h"
#include "ort_abi.h"
#include "python_op.h"

#define MYLINEAR_EXPORT extern "C" __attribute__((visibility("default")))

namespace mylinear {
namespace {

constexpr char kIsaVariable[] = "MYLINEAR_ISA";
constexpr char kCudaVariable[] = "MYLINEAR_CUDA";
constexpr char kCudaEntry[] = "mylinear.cuda";

// The ops of one onnxruntime, one ISA and one CUDA backend or none. ORT keeps pointers to ops and domain for
// as long as any session lives, and never says when the last one is gone; so these are made once per process
// and not freed.
struct Registration {
  const abi::OrtApi* api;
  const kernels::Isa* isa;
  const cuda::Backend* backend;
  MyLinearOp ops[kernels::kNumElementTypes];
  CudaOp cuda_ops[kernels::kNumElementTypes];
  abi::OrtCustomOpDomain* domain;
  Registration* next;
};

std::mutex registrations_mutex;
Registration* registrations = nullptr;

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
    *error = std::string(contract::kName) + ": " + kIsaVariable + " must be one of " +
             isa_names(true, "", ", ", "") + " on this machine, got " + name;
  }
  return isa;
}

// What the next registration in this thread is to add. RegisterCustomOps has no parameter for it, and it is
// the only way that a Python host has to its session options.
struct Selection {
  bool with_mylinear = true;
  const PythonDomain* domains = nullptr;
  size_t num_domains = 0;
};
thread_local Selection selection;

// Adds the ops to `options`; returns ORT's own status if it refuses.
abi::OrtStatus* add_domain(const Runtime& runtime, const kernels::Isa& isa, const cuda::Backend* backend,
                           abi::OrtSessionOptions* options) {
  const abi::OrtApi* api = runtime.api;
  const std::lock_guard<std::mutex> lock(registrations_mutex);
  Registration* found = registrations;
  while (found && (found->api != api || found->isa != &isa || found->backend != backend)) found = found->next;
  if (!found) {
    auto made = std::make_unique<Registration>();
    made->api = api;
    made->isa = &isa;
    made->backend = backend;
    if (abi::OrtStatus* status = api->CreateCustomOpDomain(contract::kDomain, &made->domain)) return status;
    const auto add = [&](const abi::OrtCustomOp* op) {
      abi::OrtStatus* status = api->CustomOpDomain_Add(made->domain, op);
      if (status) api->ReleaseCustomOpDomain(made->domain);
      return status;
    };
    for (int i = 0; i < kernels::kNumElementTypes; ++i) {
      const auto type = static_cast<kernels::ElementType>(i);
      init_op(&made->ops[i], runtime, isa, type);
      if (abi::OrtStatus* status = add(&made->ops[i])) return status;
      // One domain for both: onnxruntime takes a domain once, and chooses by the provider of the node.
      if (!backend) continue;
      init_cuda_op(&made->cuda_ops[i], runtime, isa, type, *backend);
      if (abi::OrtStatus* status = add(&made->cuda_ops[i])) return status;
    }
    made->next = registrations;
    found = registrations = made.release();
  }
  return api->AddCustomOpDomain(options, found->domain);
}

// The CUDA backend if the session is to have it, which its config entry says, or else the environment; null
// if not or if something is missing, when the CPU kernels serve. Returns a status for `require` and something
// missing.
abi::OrtStatus* choose_backend(const abi::OrtApi* api, const abi::OrtSessionOptions* options,
                               const cuda::Backend** out) {
  const char* variable = std::getenv(kCudaVariable);
  std::string wanted = variable ? variable : "";
  std::string source = kCudaVariable;
  int has_entry = 0;
  if (abi::OrtStatus* status = api->HasSessionConfigEntry(options, kCudaEntry, &has_entry)) return status;
  if (has_entry) {
    size_t size = 0;  // with the final 0
    if (abi::OrtStatus* status = api->GetSessionConfigEntry(options, kCudaEntry, nullptr, &size))
      return status;
    wanted.assign(size, '\0');
    if (abi::OrtStatus* status = api->GetSessionConfigEntry(options, kCudaEntry, &wanted[0], &size))
      return status;
    wanted = wanted.c_str();
    source = std::string("session config entry ") + kCudaEntry;
  }
  if (wanted.empty() || wanted == "0") return nullptr;
  if (wanted != "1" && wanted != "require") {
    const std::string text =
        std::string(contract::kName) + ": " + source + " must be 0, 1 or require, got " + wanted;
    return api->CreateStatus(abi::ORT_INVALID_ARGUMENT, text.c_str());
  }
  const cuda::FoundBackend found = cuda::find_backend(MYLINEAR_VERSION);
  if (found.reason.empty()) {
    *out = found.loaded;
  } else if (wanted == "require") {
    const std::string text =
        std::string(contract::kName) + ": the CUDA kernel is not available: " + found.reason;
    return api->CreateStatus(abi::ORT_NOT_IMPLEMENTED, text.c_str());
  }
  return nullptr;
}

abi::OrtStatus* register_ops(abi::OrtSessionOptions* options, const abi::OrtApiBase* base) {
  const char* version_text = base->GetVersionString();
  unsigned major = 0;
  unsigned minor = 0;
  const bool is_read = std::sscanf(version_text, "%u.%u", &major, &minor) == 2;
  // A later major version would still have to offer these tables; asking for more than there is prints a
  // warning.
  const bool is_new = is_read && (major > 1 || minor >= abi::kMaxApiVersion);
  const uint32_t version = is_new ? abi::kMaxApiVersion : minor;
  const abi::OrtApi* api = version >= abi::kMinApiVersion ? base->GetApi(version) : nullptr;
  if (!is_read || major < 1 || !api) {
    const abi::OrtApi* first = base->GetApi(1);
    if (!first) return nullptr;  // not an onnxruntime that could be told anything
    const std::string text = std::string(contract::kName) + ": onnxruntime must be 1." +
                             std::to_string(abi::kMinApiVersion) + " or newer, got " + version_text;
    return first->CreateStatus(abi::ORT_NOT_IMPLEMENTED, text.c_str());
  }
  const Selection selected = std::exchange(selection, Selection{});
  try {
    if (selected.with_mylinear) {
      std::string error;
      const kernels::Isa* isa = choose_isa(&error);
      if (!isa) return api->CreateStatus(abi::ORT_INVALID_ARGUMENT, error.c_str());
      const cuda::Backend* backend = nullptr;
      if (abi::OrtStatus* status = choose_backend(api, options, &backend)) return status;
      if (abi::OrtStatus* status = add_domain({api, version}, *isa, backend, options)) return status;
    }
    return add_python_domains({api, version}, selected.domains, selected.num_domains, options);
  } catch (const std::exception& error) {
    return api->CreateStatus(abi::ORT_FAIL, error.what());
  } catch (...) {
    return api->CreateStatus(abi::ORT_FAIL, "MYLINEAR: unknown C++ exception");
  }
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
         "]}";
}

}  // namespace
}  // namespace mylinear

// Adds MYLINEAR to `options`, or what `mylinear_python_select` said. Thread-safe. Returns null, or a status
// that the caller releases.
MYLINEAR_EXPORT mylinear::abi::OrtStatus* RegisterCustomOps(mylinear::abi::OrtSessionOptions* options,
                                                            const mylinear::abi::OrtApiBase* base) {
  try {
    return mylinear::register_ops(options, base);
  } catch (...) {  // out of memory while refusing an old runtime
    return nullptr;
  }
}

// Writes JSON into `buffer`, cut off at `size` bytes with the final 0, and returns the length that it has
// whole, without the 0; 0 if there is not enough memory. Keys: version, compiler, isa (null and an `error`
// where MYLINEAR_ISA asks for what this machine lacks), compiled and usable ISAs in the order
// in which they are preferred.
MYLINEAR_EXPORT size_t mylinear_describe(char* buffer, size_t size) {
  return mylinear::write_text(buffer, size, [] { return mylinear::describe(); });
}

// The same for the CUDA backend, which this loads. Keys: path, reason (null if a session can have it) and
// backend (what the backend says of itself, or null): toolkit, architectures, driver, cublaslt,
// cublaslt_error, devices.
MYLINEAR_EXPORT size_t mylinear_cuda_describe(char* buffer, size_t size) {
  return mylinear::write_text(buffer, size, [] { return mylinear::describe_cuda(); });
}

// Hands over Python's functions, once. Returns 0 if the caller's idea of PythonApi has another size.
MYLINEAR_EXPORT int mylinear_python_attach(const mylinear::PythonApi* api, size_t nbytes) {
  if (nbytes != sizeof(mylinear::PythonApi)) return 0;
  mylinear::attach_python(*api);
  return 1;
}

// Before the interpreter goes; without the GIL. Returns whether no call into Python is left.
MYLINEAR_EXPORT int mylinear_python_detach(int timeout_ms) { return mylinear::detach_python(timeout_ms); }

// Says what the next RegisterCustomOps of this thread adds: MYLINEAR's C++ kernels or not, and these domains,
// which must live until then.
MYLINEAR_EXPORT void mylinear_python_select(int with_mylinear, const mylinear::PythonDomain* domains,
                                            size_t num_domains) {
  mylinear::selection = {with_mylinear != 0, domains, num_domains};
}
