#include "bindings/program.hpp"

#include <pybind11/stl.h>

#include <cstdint>
#include <utility>

namespace fp::bindings {
namespace {

std::vector<Parameter> arrays_from(const py::object& described) {
  std::vector<Parameter> arrays;
  for (py::handle h : described) {
    const auto shape = py::cast<std::vector<int64_t>>(h.attr("shape"));
    int64_t count = 1;
    for (int64_t d : shape) {
      if (d < 0 || (d > 0 && count > (int64_t(1) << 40) / d))
        throw py::value_error("program: a parameter is too large");
      count *= d;
    }
    if (shape.size() == 2)
      arrays.push_back({shape[0], shape[1]});
    else
      arrays.push_back({1, count});
  }
  return arrays;
}

MetricKind metric_kind(const std::string& name) {
  if (name == "binary_accuracy") return MetricKind::binary_accuracy;
  if (name == "categorical_accuracy") return MetricKind::categorical_accuracy;
  if (name == "sparse_categorical_accuracy") return MetricKind::sparse_categorical_accuracy;
  if (name == "mean_squared_error") return MetricKind::mean_squared_error;
  if (name == "mean_absolute_error") return MetricKind::mean_absolute_error;
  if (name == "r2") return MetricKind::r2;
  throw py::value_error("set_metrics: unknown metric " + name);
}

}  // namespace

Program program_from(const py::object& described) {
  Program p;
  p.mixed = py::cast<std::string>(described.attr("dtype")) == "mixed_bfloat16";
  for (py::handle w : described.attr("widths")) p.widths.push_back(py::cast<int64_t>(w));
  p.parameters = arrays_from(described.attr("parameters"));
  p.states = arrays_from(described.attr("states"));
  p.outputs = py::cast<std::vector<int>>(described.attr("outputs"));
  const auto names = py::module_::import("fastperceptron.program").attr("ACTIVATIONS");
  for (py::handle h : described.attr("operations")) {
    Operation op{};
    const auto kind = py::cast<std::string>(h.attr("kind"));
    op.inputs = py::cast<std::vector<int>>(h.attr("inputs"));
    op.output = py::cast<int>(h.attr("output"));
    op.activation = static_cast<Activation>(py::cast<int>(names.attr("index")(h.attr("activation"))));
    op.alpha = py::cast<double>(h.attr("alpha"));
    op.rate = py::cast<double>(h.attr("rate"));
    op.stream = py::cast<uint32_t>(h.attr("stream"));
    op.begin = py::cast<int64_t>(h.attr("begin"));
    const auto parameters = py::cast<std::vector<int>>(h.attr("parameters"));
    if (kind == "dense") {
      op.kind = OperationKind::dense;
      if (parameters.empty() || parameters.size() > 2) throw py::value_error("program: dense: expected (w,) or (w, b)");
      op.weights = parameters[0];
      op.bias = parameters.size() == 2 ? parameters[1] : -1;
      if (parameters.size() == 2 && op.bias < 0) throw py::value_error("program: dense: expected a bias number");
    } else if (kind == "activation") {
      op.kind = OperationKind::activation;
    } else if (kind == "dropout") {
      op.kind = OperationKind::dropout;
    } else if (kind == "add") {
      op.kind = OperationKind::add;
    } else if (kind == "multiply") {
      op.kind = OperationKind::multiply;
    } else if (kind == "concatenate") {
      op.kind = OperationKind::concatenate;
    } else if (kind == "columns") {
      op.kind = OperationKind::columns;
    } else if (kind == "python") {
      op.kind = OperationKind::python;
      op.parameters = parameters;
    } else {
      throw py::value_error(
          "program: expected a kind of dense, activation, dropout, add, multiply, concatenate, columns or python,"
          " received " +
          kind);
    }
    p.operations.push_back(std::move(op));
  }
  return p;
}

std::vector<Head> heads_from(const py::object& described, std::size_t outputs) {
  const auto names = py::module_::import("fastperceptron.program").attr("LOSSES");
  std::vector<Head> heads;
  for (py::handle h : described) {
    Head head;
    head.output = py::cast<int>(h.attr("output"));
    if (head.output < 0 || head.output >= static_cast<int>(outputs))
      throw py::value_error("set_heads: expected outputs from 0 to " + std::to_string(outputs - 1) + ", received " +
                            std::to_string(head.output));
    const py::object kind = h.attr("kind");
    if (!kind.is_none() && !py::cast<bool>(names.attr("__contains__")(kind)))
      throw py::value_error("set_heads: unknown loss " + std::string(py::str(kind)));
    if (!kind.is_none()) head.loss = static_cast<Loss>(py::cast<int>(names.attr("index")(kind)));
    head.parameter = py::cast<double>(h.attr("parameter"));
    head.weight = py::cast<double>(h.attr("weight"));
    const auto normaliser = py::cast<std::string>(h.attr("normaliser"));
    if (normaliser != "rows" && normaliser != "weights")
      throw py::value_error("set_heads: expected the normaliser rows or weights, received " + normaliser);
    head.normaliser = normaliser == "rows" ? Normaliser::rows : Normaliser::weights;
    heads.push_back(head);
  }
  if (heads.empty()) throw py::value_error("set_heads: expected at least one head, received none");
  return heads;
}

std::vector<Metric> metrics_from(const py::object& described, std::size_t heads) {
  std::vector<Metric> metrics;
  for (py::handle h : described) {
    const auto t = py::cast<py::tuple>(h);
    if (t.size() != 2 && t.size() != 3) throw py::value_error("set_metrics: expected (kind, parameter, head)");
    const int head = t.size() == 3 ? py::cast<int>(t[2]) : 0;
    if (head < 0 || head >= static_cast<int>(heads))
      throw py::value_error("set_metrics: expected heads from 0 to " + std::to_string(heads - 1) + ", received " +
                            std::to_string(head));
    metrics.push_back({metric_kind(py::cast<std::string>(t[0])), py::cast<double>(t[1]), head, {}});
  }
  return metrics;
}

std::optional<Sgd> optimizer_from(const py::object& name, const std::map<std::string, double>& hyper) {
  if (name.is_none()) return std::nullopt;
  const auto kind = py::cast<std::string>(name);
  if (kind != "sgd") throw py::value_error("set_optimizer: expected 'sgd' or None, received " + kind);
  Sgd sgd;
  for (const auto& [key, value] : hyper) {
    if (key == "learning_rate")
      sgd.learning_rate = value;
    else if (key == "momentum")
      sgd.momentum = value;
    else if (key == "nesterov")
      sgd.nesterov = value != 0;
    else
      throw py::value_error("sgd: expected learning_rate, momentum or nesterov, received " + key);
  }
  return sgd;
}

}  // namespace fp::bindings
