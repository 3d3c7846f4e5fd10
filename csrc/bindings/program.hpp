// Programs and heads as fastperceptron.program describes them, and metrics and optimizers, in C++. Needs the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "network/network.hpp"

namespace fp::bindings {

namespace py = pybind11;

Program program_from(const py::object& described);

// Of a program with so many outputs.
std::vector<Head> heads_from(const py::object& described, std::size_t outputs);

// Each (kind, parameter) or (kind, parameter, head), of a network with so many heads.
std::vector<Metric> metrics_from(const py::object& described, std::size_t heads);

// nullopt for None.
std::optional<Sgd> optimizer_from(const py::object& name, const std::map<std::string, double>& hyper);

}  // namespace fp::bindings
