// What a call of a predictor's object does, from the arrays that came to those that go back.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <exception>
#include <new>
#include <vector>

#include "bindings/predictor.hpp"

namespace fp::bindings {
namespace py = pybind11;

// An input or an output.
struct Port {
  py::object name;
  std::vector<py::ssize_t> shape;  // of one sample
  int64_t width;
};
using Ports = std::vector<Port>;

struct PredictorObject;
// A new reference to the result, or nullptr with an error set. `given` and `out` as they came, out perhaps nullptr.
// one: no rows, but one sample.
using PredictFunction = PyObject* (*)(PredictorObject* self, PyObject* given, PyObject* out, bool one);

struct PredictorObject {
  PyObject_HEAD;
  vectorcallfunc call;
  PredictFunction predict;  // for its number of inputs and outputs
  AnyPredictor predictor;
  PyObject* descr;  // of NumPy, which has one object for each of its types
  Ports in, out;
  bool out_is_dict;
  PyObject* program;
  PyObject* signature;
};

// Before the first object is made.
void prepare_predictor_calls();
PredictFunction predict_function(std::size_t inputs, std::size_t outputs);

inline PyObject* shared(PyObject* o) {
  Py_INCREF(o);
  return o;
}

// Runs f, which returns a new reference or nullptr with an error set; C++ exceptions become errors.
template <class F>
PyObject* guarded(const F& f) {
  try {
    return f();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

}  // namespace fp::bindings
