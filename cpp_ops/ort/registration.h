// Layer: ORT, any operator. Adds the operators of a library to session options.
//
// A library of your own ends with one line, outside of all namespaces:
//
//   MYLINEAR_REGISTER(Scale, AnotherSpec)
//
// It exports RegisterCustomOps, which onnxruntime calls for `register_custom_ops_library`, and
// mylinear_operators, which says in JSON what the library has (describe.h). Build it with
// `g++ -std=c++17 -O2 -shared -fPIC -I<cpp_ops> scale.cc -o libscale.so`.
#ifndef MYLINEAR_ORT_REGISTRATION_H_
#define MYLINEAR_ORT_REGISTRATION_H_

#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "ort/custom_op.h"
#include "ort/describe.h"

#pragma GCC visibility push(hidden)
namespace mylinear::ort {

// Finds the function table to use with this onnxruntime. Returns a status if it is too old; `out->api` stays
// null where there is nobody to return a status to. `name` starts the message.
inline abi::OrtStatus* find_runtime(const abi::OrtApiBase* base, const char* name, Runtime* out) {
  const char* version_text = base->GetVersionString();
  unsigned major = 0;
  unsigned minor = 0;
  const bool is_read = std::sscanf(version_text, "%u.%u", &major, &minor) == 2;
  // A later major version would still have to offer these tables. Asking for more than there is prints a
  // warning.
  const bool is_new = is_read && (major > 1 || minor >= abi::kMaxApiVersion);
  const uint32_t version = is_new ? abi::kMaxApiVersion : minor;
  const abi::OrtApi* api = version >= abi::kMinApiVersion ? base->GetApi(version) : nullptr;
  if (is_read && major >= 1 && api) {
    *out = {api, version};
    return nullptr;
  }
  const abi::OrtApi* first = base->GetApi(1);
  if (!first) return nullptr;
  const std::string oldest = "1." + std::to_string(abi::kMinApiVersion) + " or newer";
  const std::string text = message(name, "onnxruntime", oldest, version_text);
  return first->CreateStatus(abi::ORT_NOT_IMPLEMENTED, text.c_str());
}

// A domain that is being filled. onnxruntime keeps pointers to the domain and its ops for as long as any
// session lives, and never says when the last one is gone; so what is finished is never freed.
class DomainBuilder {
 public:
  DomainBuilder(const abi::OrtApi* api, const char* name) : api_(api) {
    check(api->CreateCustomOpDomain(name, &domain_));
  }
  DomainBuilder(DomainBuilder&& other) noexcept
      : api_(other.api_), domain_(other.domain_), ops_(std::move(other.ops_)) {
    other.domain_ = nullptr;
  }
  DomainBuilder& operator=(DomainBuilder&&) = delete;
  ~DomainBuilder() {
    if (domain_) api_->ReleaseCustomOpDomain(domain_);
  }

  template <class Op>
  void add(std::unique_ptr<Op> op) {
    const abi::OrtCustomOp* added = op.get();
    ops_.emplace_back(std::move(op));
    check(api_->CustomOpDomain_Add(domain_, added));
  }

  // Gives up the domain and its ops, which then live for ever.
  abi::OrtCustomOpDomain* finish() {
    static std::mutex mutex;
    static auto* kept = new Ops;  // reachable, so that no tool takes the ops for lost
    const std::lock_guard<std::mutex> lock(mutex);
    kept->insert(kept->end(), ops_.begin(), ops_.end());
    abi::OrtCustomOpDomain* domain = domain_;
    domain_ = nullptr;
    return domain;
  }

 private:
  using Ops = std::vector<std::shared_ptr<void>>;

  const abi::OrtApi* api_;
  abi::OrtCustomOpDomain* domain_ = nullptr;
  Ops ops_;
};

// What a library has beside its Specs: nothing. A library may pass another type with operator==; then its
// Specs may have `static bool is_offered(const Machine&)` and, with Resources, must have
// `static Resources resources(const Machine&)`.
struct NoMachine {
  bool operator==(const NoMachine&) const { return true; }
};

template <class Spec, class Machine, class = void>
struct OfferOf {
  static bool is_offered(const Machine&) { return true; }
};
template <class Spec, class Machine>
struct OfferOf<Spec, Machine, std::void_t<decltype(Spec::is_offered(std::declval<const Machine&>()))>> {
  static bool is_offered(const Machine& machine) { return Spec::is_offered(machine); }
};

template <class Spec, class Machine>
void add_ops(DomainBuilder* domain, const Runtime& runtime, const Machine& machine) {
  if (!OfferOf<Spec, Machine>::is_offered(machine)) return;
  for (size_t overload = 0; overload < num_overloads<Spec>(); ++overload) {
    if constexpr (std::is_same_v<typename ResourcesOf<Spec>::type, NoResources>) {
      domain->add(std::make_unique<CustomOp<Spec>>(runtime, overload));
    } else {
      domain->add(std::make_unique<CustomOp<Spec>>(runtime, overload, Spec::resources(machine)));
    }
  }
}

// The finished domains of a library, by onnxruntime and machine.
template <class Machine>
struct MadeDomains {
  const abi::OrtApi* api;
  Machine machine;
  std::vector<abi::OrtCustomOpDomain*> domains;
};

template <class Machine, class... Specs>
std::vector<abi::OrtCustomOpDomain*> make_domains(const Runtime& runtime, const Machine& machine,
                                                  TypeList<Specs...>) {
  // One domain for all Specs of a name, since onnxruntime takes a domain once.
  std::vector<std::pair<const char*, DomainBuilder>> builders;
  const auto builder = [&](const char* name) {
    for (auto& [known, domain] : builders) {
      if (std::strcmp(known, name) == 0) return &domain;
    }
    builders.emplace_back(name, DomainBuilder(runtime.api, name));
    return &builders.back().second;
  };
  (add_ops<Specs>(builder(Specs::kDomain), runtime, machine), ...);
  std::vector<abi::OrtCustomOpDomain*> domains;
  domains.reserve(builders.size());
  for (auto& [name, domain] : builders) domains.push_back(domain.finish());
  return domains;
}

// Adds the domains of these Specs to `options`. They are made once per process. Thread-safe. Throws.
template <class Machine, class Specs>
void add_operators(const Runtime& runtime, const Machine& machine, abi::OrtSessionOptions* options,
                   Specs specs) {
  static std::mutex mutex;
  static auto* all = new std::vector<MadeDomains<Machine>>;  // never freed: sessions have pointers into it
  const std::lock_guard<std::mutex> lock(mutex);
  const MadeDomains<Machine>* found = nullptr;
  for (const MadeDomains<Machine>& made : *all) {
    if (made.api == runtime.api && made.machine == machine) found = &made;
  }
  if (!found) {
    all->reserve(all->size() + 1);  // so that nothing made is lost
    all->push_back({runtime.api, machine, make_domains(runtime, machine, specs)});
    found = &all->back();
  }
  for (abi::OrtCustomOpDomain* domain : found->domains) {
    check(runtime.api->AddCustomOpDomain(options, domain));
  }
}

// RegisterCustomOps of a library that has these Specs and nothing else.
template <class First, class... Others>
abi::OrtStatus* register_library(abi::OrtSessionOptions* options, const abi::OrtApiBase* base) {
  Runtime runtime{};
  try {
    if (abi::OrtStatus* status = find_runtime(base, First::kName, &runtime)) return status;
  } catch (...) {  // out of memory while refusing an old runtime
    return nullptr;
  }
  if (!runtime.api) return nullptr;
  return guarded(runtime.api, First::kName,
                 [&] { add_operators(runtime, NoMachine{}, options, TypeList<First, Others...>{}); });
}

}  // namespace mylinear::ort
#pragma GCC visibility pop

#ifdef _WIN32
#define MYLINEAR_EXPORT extern "C" __attribute__((dllexport))
#else
#define MYLINEAR_EXPORT extern "C" __attribute__((visibility("default")))
#endif

// A .cu file includes the CPU's kernel with this defined, and registers both at its end (cuda/kernel.h).
#ifdef MYLINEAR_REGISTER_LATER
#define MYLINEAR_REGISTER(...)
#else
#define MYLINEAR_REGISTER(...)                                                                           \
  MYLINEAR_EXPORT mylinear::abi::OrtStatus* RegisterCustomOps(mylinear::abi::OrtSessionOptions* options, \
                                                              const mylinear::abi::OrtApiBase* base) {   \
    return mylinear::ort::register_library<__VA_ARGS__>(options, base);                                  \
  }                                                                                                      \
  MYLINEAR_EXPORT size_t mylinear_operators(char* buffer, size_t size) {                                 \
    return mylinear::write_text(                                                                         \
        buffer, size, [] { return mylinear::ort::describe(mylinear::ort::TypeList<__VA_ARGS__>{}); });   \
  }
#endif

#endif  // MYLINEAR_ORT_REGISTRATION_H_
