// The Python class of a predictor, a plain type without pybind11's dispatch: a call costs little beside its arithmetic.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <variant>

#include "network/predictor.hpp"

namespace fp::bindings {

using AnyPredictor = std::variant<std::unique_ptr<Predictor<float>>, std::unique_ptr<Predictor<double>>>;

// None for nullptr. signature: a predictors.Signature; it is kept with the program for pickling.
pybind11::object make_predictor(AnyPredictor predictor, const pybind11::object& program,
                                const pybind11::object& signature);

// The predictor within a Python object; nullptr, without an error set, when it is something else.
const AnyPredictor* predictor_of(PyObject* object);

}  // namespace fp::bindings
