// fastperceptron._core: table of contents.
#include <pybind11/pybind11.h>

#include "runtime/parallel.hpp"

namespace fp::bindings {
void register_config(pybind11::module_& m);     // config.cpp: build, threads, instruction sets
void register_kernels(pybind11::module_& m);    // kernels.cpp: the stateless functions
void register_c_api(pybind11::module_& m);      // c_api.cpp: the table of include/fastperceptron.h
void register_predictor(pybind11::module_& m);  // predictor.cpp: class Predictor
void register_network(pybind11::module_& m);    // network.cpp: class Network
}  // namespace fp::bindings

PYBIND11_MODULE(_core, m) {
  m.doc() = "The native core of fastperceptron. Use the public modules instead: they check and explain.";
  fp::install_fork_handlers();
  fp::bindings::register_config(m);
  fp::bindings::register_kernels(m);
  fp::bindings::register_predictor(m);
  fp::bindings::register_c_api(m);
  fp::bindings::register_network(m);
}
