// Raising the classes of fastperceptron.errors. Messages read "operation: expected; received". Needs the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

namespace fp::bindings {

[[noreturn]] inline void raise(const char* error_class, const std::string& message) {
  pybind11::object type = pybind11::module_::import("fastperceptron.errors").attr(error_class);
  PyErr_SetString(type.ptr(), message.c_str());
  throw pybind11::error_already_set();
}

[[noreturn]] inline void raise_shape(const std::string& message) { raise("ShapeError", message); }
[[noreturn]] inline void raise_dtype(const std::string& message) { raise("DTypeError", message); }
[[noreturn]] inline void raise_value(const std::string& message) { throw pybind11::value_error(message); }

// Calls f: a wish for an instruction set or a path that cannot be had is the error of an unavailable backend.
template <class F>
decltype(auto) available(const F& f) {
  try {
    return f();
  } catch (const std::runtime_error& error) {
    raise("BackendUnavailableError", error.what());
  }
}

}  // namespace fp::bindings
