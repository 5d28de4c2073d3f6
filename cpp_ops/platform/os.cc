// Layer: platform. See os.h.
#include "platform/os.h"

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include <cstdlib>
#else
#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>
#endif

namespace mylinear::platform {

#ifdef _WIN32

const char kLibraryEnding[] = ".dll";

namespace {

// Paths are UTF-8 in this library and UTF-16 in Windows.
std::wstring wide(const std::string& text) {
  const int size = MultiByteToWideChar(CP_UTF8, 0, text.data(), static_cast<int>(text.size()), nullptr, 0);
  std::wstring result(static_cast<size_t>(size), L'\0');
  MultiByteToWideChar(CP_UTF8, 0, text.data(), static_cast<int>(text.size()), &result[0], size);
  return result;
}

std::string narrow(const std::wstring& text) {
  const int size = WideCharToMultiByte(CP_UTF8, 0, text.data(), static_cast<int>(text.size()), nullptr, 0,
                                       nullptr, nullptr);
  std::string result(static_cast<size_t>(size), '\0');
  WideCharToMultiByte(CP_UTF8, 0, text.data(), static_cast<int>(text.size()), &result[0], size, nullptr,
                      nullptr);
  return result;
}

std::string last_error() { return "Windows error " + std::to_string(GetLastError()); }

}  // namespace

bool exists(const std::string& path) {
  return GetFileAttributesW(wide(path).c_str()) != INVALID_FILE_ATTRIBUTES;
}

std::string folder_of(const void* address) {
  HMODULE module = nullptr;
  constexpr DWORD kOfAddress =
      GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT;
  if (!GetModuleHandleExW(kOfAddress, static_cast<LPCWSTR>(address), &module)) return "";
  std::wstring path(MAX_PATH, L'\0');
  DWORD size = 0;
  while ((size = GetModuleFileNameW(module, &path[0], static_cast<DWORD>(path.size()))) == path.size()) {
    path.resize(2 * path.size());
  }
  path.resize(size);
  return narrow(path.substr(0, path.find_last_of(L"\\/") + 1));
}

void* open_library(const std::string& path, std::string* reason) {
  void* library = LoadLibraryW(wide(path).c_str());
  if (!library) *reason = last_error();
  return library;
}

void* find_function(void* library, const char* name, std::string* reason) {
  const FARPROC found = GetProcAddress(static_cast<HMODULE>(library), name);
  if (!found) *reason = last_error();
  return reinterpret_cast<void*>(found);
}

void call_in_children(void (*)()) {}

void end_process(int status) {
  TerminateProcess(GetCurrentProcess(), static_cast<UINT>(status));
  std::abort();  // not reached
}

#else

#ifdef __APPLE__
const char kLibraryEnding[] = ".dylib";
#else
const char kLibraryEnding[] = ".so";
#endif

namespace {

std::string last_error() {
  const char* text = dlerror();
  return text ? text : "no reason given";
}

}  // namespace

bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

std::string folder_of(const void* address) {
  Dl_info info{};
  if (!dladdr(address, &info) || !info.dli_fname) return "";
  const std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/') + 1);
}

void* open_library(const std::string& path, std::string* reason) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) *reason = last_error();
  return library;
}

void* find_function(void* library, const char* name, std::string* reason) {
  void* found = dlsym(library, name);
  if (!found) *reason = last_error();
  return found;
}

void call_in_children(void (*handler)()) { pthread_atfork(nullptr, nullptr, handler); }

void end_process(int status) { _exit(status); }

#endif

}  // namespace mylinear::platform
