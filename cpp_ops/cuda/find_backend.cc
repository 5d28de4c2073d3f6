// Layer: entry. See find_backend.h.
#include "cuda/find_backend.h"

#include <cstdlib>
#include <cstring>

#include "platform/os.h"

namespace mylinear::cuda {
namespace {

constexpr char kFileName[] = "libmylinear_cuda";
constexpr char kPathVariable[] = "MYLINEAR_CUDA_LIBRARY";

// Opens the file and asks for its functions. It stays open: sessions have pointers into it.
const Backend* open_backend(const std::string& path, const char* package_version, std::string* reason) {
  if (!platform::exists(path)) {
    *reason = path + " is not there: this installation was built without the CUDA backend";
    return nullptr;
  }
  std::string why;
  void* library = platform::open_library(path, &why);
  if (!library) {
    *reason = path + " cannot be loaded: " + why;
    return nullptr;
  }
  const auto entry = reinterpret_cast<BackendEntry>(platform::find_function(library, kBackendEntry, &why));
  if (!entry) {
    *reason = path + " is no backend of this library: " + why;
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
  found.path = named && *named ? named
                               : platform::folder_of(reinterpret_cast<const void*>(&find_backend)) +
                                     kFileName + platform::kLibraryEnding;
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
