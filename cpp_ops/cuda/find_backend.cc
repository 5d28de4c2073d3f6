// Layer: entry. See find_backend.h.
#include "cuda/find_backend.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace mylinear::cuda {
namespace {

constexpr char kFileName[] = "libmylinear_cuda.so";
constexpr char kPathVariable[] = "MYLINEAR_CUDA_LIBRARY";

// Returns the directory of this library's file, with its last slash.
std::string own_directory() {
  Dl_info info{};
  if (!dladdr(reinterpret_cast<const void*>(&find_backend), &info) || !info.dli_fname) return "";
  const std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/') + 1);
}

std::string loader_error() {
  const char* text = dlerror();
  return text ? text : "no reason given";
}

// Opens the file and asks for its functions. The handle is never closed: sessions have pointers into it, and
// opening a file again gives the same one.
const Backend* open_backend(const std::string& path, const char* package_version, std::string* reason) {
  if (access(path.c_str(), F_OK) != 0) {
    *reason = path + " is not there: this installation was built without the CUDA backend";
    return nullptr;
  }
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    *reason = path + " cannot be loaded: " + loader_error();
    return nullptr;
  }
  const auto entry = reinterpret_cast<BackendEntry>(dlsym(library, kBackendEntry));
  if (!entry) {
    *reason = path + " is no backend of this library: " + loader_error();
    return nullptr;
  }
  const Backend* backend = entry(kBackendVersion);
  if (!backend || backend->version != kBackendVersion || backend->nbytes != sizeof(Backend)) {
    *reason = path + " is of another build than this library (its interface is not version " +
              std::to_string(kBackendVersion) + ")";
    return nullptr;
  }
  if (std::strcmp(backend->package_version, package_version) != 0) {
    *reason =
        path + " is of version " + backend->package_version + ", and this library of " + package_version;
    return nullptr;
  }
  return backend;
}

}  // namespace

FoundBackend find_backend(const char* package_version) {
  FoundBackend found;
  const char* named = std::getenv(kPathVariable);
  found.path = named && *named ? named : own_directory() + kFileName;
  found.loaded = open_backend(found.path, package_version, &found.reason);
  if (!found.loaded) return found;
  Failure failure{};
  if (found.loaded->probe(&failure) != kOk) {
    failure.text[sizeof failure.text - 1] = 0;
    found.reason = failure.text;
    if (found.reason.empty()) found.reason = "the CUDA backend fails, and does not say why";
  }
  return found;
}

}  // namespace mylinear::cuda
