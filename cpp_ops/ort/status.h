// Layer: ORT, any operator. How errors become onnxruntime's statuses.
#ifndef MYLINEAR_ORT_STATUS_H_
#define MYLINEAR_ORT_STATUS_H_

#include <cstdint>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include "ort/abi.h"

#pragma GCC visibility push(hidden)
namespace mylinear::ort {

// An onnxruntime that loaded this library: its function table, and the API version to read the table as.
struct Runtime {
  const abi::OrtApi* api;
  uint32_t version;
};

// An error with the code that onnxruntime gets.
class Error : public std::runtime_error {
 public:
  Error(abi::OrtErrorCode code, const std::string& text) : std::runtime_error(text), code_(code) {}
  abi::OrtErrorCode code() const { return code_; }

 private:
  abi::OrtErrorCode code_;
};

// A shape, type or attribute breaks the operator's contract; see messages.h for the text.
class ContractError : public Error {
 public:
  explicit ContractError(const std::string& text) : Error(abi::ORT_INVALID_ARGUMENT, text) {}
};

// A status that an onnxruntime function returned, thrown up to the callback that hands it back.
struct StatusException {
  abi::OrtStatus* status;
};

inline void check(abi::OrtStatus* status) {
  if (status) throw StatusException{status};
}

// Releases the status of a function that is allowed to fail. Returns whether it succeeded.
inline bool succeeded(const abi::OrtApi* api, abi::OrtStatus* status) {
  if (status) api->ReleaseStatus(status);
  return !status;
}

// Runs `body` and turns whatever it throws into a status. `name` starts the messages that have no text of
// their own.
template <class Body>
abi::OrtStatus* guarded(const abi::OrtApi* api, const char* name, Body&& body) {
  try {
    body();
    return nullptr;
  } catch (const StatusException& error) {
    return error.status;
  } catch (const Error& error) {
    return api->CreateStatus(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return api->CreateStatus(abi::ORT_FAIL, (std::string(name) + ": out of memory").c_str());
  } catch (const std::exception& error) {
    return api->CreateStatus(abi::ORT_FAIL, error.what());
  } catch (...) {
    return api->CreateStatus(abi::ORT_FAIL, (std::string(name) + ": unknown C++ exception").c_str());
  }
}

}  // namespace mylinear::ort
#pragma GCC visibility pop

#endif  // MYLINEAR_ORT_STATUS_H_
