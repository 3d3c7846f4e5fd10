// What was built, what is in use, and the few settings of the whole process.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "bindings/errors.hpp"
#include "bindings/gil.hpp"
#include "kernels/table.hpp"
#include "ops/peak.hpp"
#include "runtime/cpu_limits.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/fpstate.hpp"
#include "runtime/parallel.hpp"

namespace fp::bindings {
namespace py = pybind11;
namespace {

py::dict activation_numbers() {
  using A = Activation;
  py::dict d;
  auto add = [&](const char* name, A a) { d[name] = static_cast<int>(a); };
  add("linear", A::linear);
  add("relu", A::relu);
  add("leaky_relu", A::leaky_relu);
  add("elu", A::elu);
  add("selu", A::selu);
  add("gelu", A::gelu);
  add("gelu_tanh", A::gelu_tanh);
  add("silu", A::silu);
  add("mish", A::mish);
  add("softplus", A::softplus);
  add("softsign", A::softsign);
  add("sigmoid", A::sigmoid);
  add("tanh", A::tanh);
  add("step", A::step);
  add("softmax", A::softmax);
  return d;
}

py::dict loss_numbers() {
  using L = Loss;
  py::dict d;
  auto add = [&](const char* name, L l) { d[name] = static_cast<int>(l); };
  add("mean_squared_error", L::mean_squared_error);
  add("mean_absolute_error", L::mean_absolute_error);
  add("huber", L::huber);
  add("binary_cross_entropy", L::binary_cross_entropy);
  add("binary_cross_entropy_logits", L::binary_cross_entropy_logits);
  add("categorical_cross_entropy", L::categorical_cross_entropy);
  add("categorical_cross_entropy_logits", L::categorical_cross_entropy_logits);
  add("sparse_categorical_cross_entropy", L::sparse_categorical_cross_entropy);
  add("sparse_categorical_cross_entropy_logits", L::sparse_categorical_cross_entropy_logits);
  add("hinge", L::hinge);
  add("perceptron", L::perceptron);
  return d;
}

// Bounds that keep a slip from occupying the machine.
void check_measurement(const char* operation, int threads, double seconds) {
  const std::string name = operation;
  if (threads < 1 || threads > kMostThreads)
    raise_value(name + ": threads must lie in [1, " + std::to_string(kMostThreads) + "]; received " +
                std::to_string(threads));
  if (!(seconds > 0 && seconds <= 60))
    raise_value(name + ": seconds must lie in (0, 60]; received " + std::to_string(seconds));
}

double peak_of(const std::string& dtype, int threads, double seconds) {
  check_measurement("measure_peak", threads, seconds);
  available(table);
  double (*measure)(int, double) = dtype == "float32"    ? &measure_peak<float>
                                   : dtype == "float64"  ? &measure_peak<double>
                                   : dtype == "bfloat16" ? &measure_peak16
                                                         : nullptr;
  if (!measure) raise_dtype("measure_peak: dtype must be float32, float64 or bfloat16; received " + dtype);
  if (dtype == "bfloat16") available(products16);
  const WithoutGil release;  // nothing of Python's is used
  return measure(threads, seconds);
}

py::dict bandwidth_of(int threads, double bytes, double seconds) {
  check_measurement("measure_bandwidth", threads, seconds);
  if (!(bytes >= 1e6 && bytes <= 1e12))
    raise_value("measure_bandwidth: bytes must lie in [1e6, 1e12]; received " + std::to_string(bytes));
  available(table);
  Bandwidth measured;
  {
    const WithoutGil release;
    measured = measure_bandwidth(threads, bytes, seconds);
  }
  py::dict d;
  d["read"] = measured.read;
  d["update"] = measured.update;
  return d;
}

double round_trip_of(double seconds) {
  check_measurement("measure_round_trip", 2, seconds);
  const WithoutGil release;  // nothing of Python's is used
  return measure_round_trip(seconds);
}

}  // namespace

void register_config(py::module_& m) {
  m.attr("__version__") = FP_VERSION;
  m.attr("compiler") = FP_COMPILER;
  m.attr("compiler_flags") = FP_FLAGS;
  m.attr("build_type") = FP_BUILD_TYPE;
  m.attr("sanitizers") = FP_SANITIZE;
  m.attr("activation_numbers") = activation_numbers();
  m.attr("loss_numbers") = loss_numbers();

  m.def(
      "derivative_needs_z", [](int activation) { return derivative_needs_z(static_cast<Activation>(activation)); },
      py::arg("activation"));

  m.def("instruction_set", [] { return std::string(available(table).name); });
  m.def("instruction_set_reason", &instruction_set_reason);
  m.def("instruction_sets_built", &instruction_sets_built);
  m.def("instruction_sets_usable", &instruction_sets_usable);
  m.def("bfloat16_path", [] { return std::string(available(products16).name); });
  m.def("bfloat16_path_reason", &bfloat16_path_reason);
  m.def("bfloat16_paths_built", &bfloat16_paths_built);
  m.def("bfloat16_paths_usable", &bfloat16_paths_usable);
  m.def(
      "set_instruction_set", [](const std::string& name) { available([&] { set_instruction_set(name); }); },
      py::arg("name"));

  m.def("thread_count", &thread_count);
  m.def("thread_count_reason", &thread_count_reason);
  m.def("set_thread_count", &set_thread_count, py::arg("threads"));
  m.def("openmp_runtime", &openmp_runtime);
  m.def("affinity_cpus", &affinity_cpus);
  m.def("cgroup_cpus", &cgroup_cpus, py::arg("root") = "");
  m.def("floating_point_state", &FpState::bits);

  m.def("measure_peak", &peak_of, py::arg("dtype"), py::arg("threads"), py::arg("seconds"));
  m.def("measure_bandwidth", &bandwidth_of, py::arg("threads"), py::arg("bytes"), py::arg("seconds"));
  m.def("measure_round_trip", &round_trip_of, py::arg("seconds"));
}

}  // namespace fp::bindings
