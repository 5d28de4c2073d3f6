// Layer: Python. See failure.h.
#include "python/failure.h"

#include <exception>
#include <string>
#include <thread>

#include "platform/os.h"

namespace mylinear::python {
namespace {

// Describes an exception; throws if `describe_failure` raised itself.
Reference described(PyObject* exception, PyObject* prepare, PyObject* loans) {
  Tuple arguments(3);
  arguments.add(same(exception));
  arguments.add(same(prepare));
  arguments.add(same(loans));
  return call(api.describe_failure, arguments);
}

// The same in its own thread, where Python runs no signal handler. Null if that fails too.
Reference described_undisturbed(PyObject* exception, PyObject* prepare, PyObject* loans) {
  Reference result;
  PyObject* state = api.PyEval_SaveThread();
  try {
    std::thread([&] {
      const int gil = api.PyGILState_Ensure();
      try {
        result = described(exception, prepare, loans);
      } catch (const Raised&) {  // twice in a row: not an interrupt, and nothing is left to try
      } catch (const ort::Error&) {
      }
      api.PyGILState_Release(gil);
    }).join();
  } catch (const std::exception&) {  // no thread could be started
  }
  api.PyEval_RestoreThread(state);
  return result;
}

}  // namespace

Reference weak(PyObject* object) { return checked(api.PyWeakref_NewRef(object, nullptr)); }

void throw_described(Reference exception, PyObject* prepare, PyObject* loans) {
  Reference result;
  try {
    result = described(exception.get(), prepare, loans);
  } catch (Raised& raised) {  // most likely Ctrl-C meanwhile: describe that one
    exception = Reference(raised.exception.release());
    result = described_undisturbed(exception.get(), prepare, loans);
  }
  if (!result.get()) throw ort::Error(abi::ORT_FAIL, "a Python kernel failed, and so did describing how");
  char* text = nullptr;
  ptrdiff_t size = 0;
  const auto code = static_cast<abi::OrtErrorCode>(number_at(result.get(), 0));
  if (api.PyBytes_AsStringAndSize(item_at(result.get(), 1), &text, &size)) throw_python_error();
  throw ort::Error(code, std::string(text, static_cast<size_t>(size)));
}

bool is_any_kept(PyObject* loans) {
  for (size_t i = 0; i < size_of(loans); ++i) {
    PyObject* loan = item_at(loans, i);
    if (loan != api.none && checked(api.PyObject_CallObject(loan, nullptr)).get() != api.none) return true;
  }
  return false;
}

void refuse_kept(PyObject* prepare, PyObject* loans) {
  try {
    Tuple arguments(2);
    arguments.add(same(prepare));
    arguments.add(same(loans));
    call(api.refuse_kept, arguments);
  } catch (Raised& raised) {
    throw_described(std::move(raised.exception), prepare, Tuple(0).get());
  }
}

void end_child(PyObject* exception) {
  try {
    Tuple arguments(1);
    arguments.add(same(exception));
    call(api.end_child, arguments);
  } catch (const Raised&) {
  } catch (const ort::Error&) {
  }
  platform::end_process(1);
}

}  // namespace mylinear::python
