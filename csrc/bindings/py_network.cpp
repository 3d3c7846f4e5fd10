#include "bindings/py_network.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <utility>

#include "bindings/arrays.hpp"
#include "bindings/errors.hpp"
#include "bindings/gil.hpp"
#include "bindings/program.hpp"
#include "bindings/row_sources.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/fpstate.hpp"

namespace fp::bindings {
namespace {

struct Signals {
  const FpState::Word state = FpState::now();  // of the caller, in which handlers run
  bool raised = false;
};

// Python's signal handlers, asked from inside a run. The error they raise stays set for long_run to throw.
bool signals_pending(void* context) {
  Signals& signals = *static_cast<Signals*>(context);
  const WithGil gil;
  const FpState theirs(signals.state);
  if (PyErr_CheckSignals() == 0) return false;
  signals.raised = true;
  return true;
}

template <class F>
int64_t long_run(double budget, F&& f) {
  Signals signals;
  int64_t reached = 0;
  try {
    // Safe: everything f touches is C++ or memory of arrays that the caller keeps alive, GivenRows or arguments.
    const WithoutGil nogil;
    reached = f(Limits{budget, signals_pending, &signals});
  } catch (...) {
    if (!signals.raised) throw;  // or what a handler raised comes first
  }
  if (signals.raised) throw py::error_already_set();
  return reached;
}

template <class T>
std::unique_ptr<Network<T>> made(Program program) {
  if (program.mixed) available(products16);
  return std::make_unique<Network<T>>(std::move(program));
}

// Aligned, contiguous and of the network's dtype; a copy when the given array is not.
template <class T>
py::array_t<T, py::array::c_style> plain(const py::array& value) {
  element_of(value, "array");
  auto numpy = py::module_::import("numpy");
  return py::cast<py::array_t<T, py::array::c_style>>(
      numpy.attr("require")(value, py::dtype::of<T>(), py::make_tuple("C", "A")));
}

}  // namespace

template <class T>
PyNetwork<T>::PyNetwork() = default;

template <class T>
void PyNetwork<T>::make(const py::object& program) {
  program_ = program;
  network_ = made<T>(program_from(program_));
  for (py::handle h : program_.attr("parameters"))
    shapes_.push_back(py::cast<std::vector<py::ssize_t>>(h.attr("shape")));
  for (py::handle h : program_.attr("states"))
    state_shapes_.push_back(py::cast<std::vector<py::ssize_t>>(h.attr("shape")));
}

template <class T>
PyNetwork<T>::~PyNetwork() = default;

template <class T>
typename PyNetwork<T>::Array PyNetwork<T>::get(Part part, int i) {
  Array out(shape_of(part, i));
  network_->read(part, i, out.mutable_data());
  return out;
}

template <class T>
void PyNetwork<T>::set(Part part, int i, const py::array& value) {
  network_->write(part, i, fitting(part, i, value).data());
}

template <class T>
typename PyNetwork<T>::Array PyNetwork<T>::get_slot(const std::string& slot, int i) {
  Array out(shape_of(Part::parameter, i));
  check_slot(slot);
  network_->read_slot(slot, i, out.mutable_data());
  return out;
}

template <class T>
void PyNetwork<T>::set_slot(const std::string& slot, int i, const py::array& value) {
  const Array a = fitting(Part::parameter, i, value);
  check_slot(slot);
  network_->write_slot(slot, i, a.data());
}

template <class T>
void PyNetwork<T>::set_optimizer(const py::object& name, const std::map<std::string, double>& hyper) {
  network_->set_sgd(optimizer_from(name, hyper));
}

template <class T>
void PyNetwork<T>::set_trainable(const std::vector<bool>& flags) {
  if (flags.size() != shapes_.size())
    throw py::value_error("set_trainable: expected " + std::to_string(shapes_.size()) + " flags, received " +
                          std::to_string(flags.size()));
  network_->set_trainable(std::vector<char>(flags.begin(), flags.end()));
}

template <class T>
void PyNetwork<T>::set_rates(const std::vector<double>& rates) {
  if (rates.size() != shapes_.size())
    throw py::value_error("set_rates: expected " + std::to_string(shapes_.size()) + " rates, received " +
                          std::to_string(rates.size()));
  network_->set_rates(rates);
}

template <class T>
void PyNetwork<T>::set_heads(const py::object& heads) {
  network_->set_heads(heads_from(heads, network_->program.outputs.size()));
}

template <class T>
void PyNetwork<T>::set_loss(const py::object& kind, double parameter) {
  const auto head = py::module_::import("fastperceptron.program").attr("Head");
  set_heads(py::make_tuple(head(0, kind, parameter)));
}

template <class T>
void PyNetwork<T>::set_metrics(const py::object& metrics) {
  network_->set_metrics(metrics_from(metrics, network_->heads().size()));
}

template <class T>
py::list PyNetwork<T>::get_metrics() const {
  py::list out;
  const std::size_t heads = network_->heads().size();
  for (const std::vector<double>& sums : network_->logs()) {
    const bool is_r2 = out.size() >= heads && network_->metrics()[out.size() - heads].kind == MetricKind::r2;
    const auto n = static_cast<py::ssize_t>(sums.size());
    std::vector<py::ssize_t> shape{n};
    constexpr auto r2_rows = static_cast<py::ssize_t>(kR2Rows);
    if (is_r2) shape = {r2_rows, n / r2_rows};
    py::array_t<double> a(shape);
    std::copy(sums.begin(), sums.end(), a.mutable_data());
    out.append(std::move(a));
  }
  return out;
}

template <class T>
int64_t PyNetwork<T>::steps(bool training, const py::object& x, const py::object& y, const py::object& sample_weight,
                            const py::object& rows, int64_t batch_size, int64_t begin, int64_t end, double budget) {
  if (batch_size < 1) throw py::value_error("batch_size: expected at least 1, received " + std::to_string(batch_size));
  const GivenRows given(network_->program, network_->heads(), network_->metrics(), network_->configuration(), x, y,
                        sample_weight, rows, begin, end);
  given.need_targets(network_->heads(), network_->metrics());
  return long_run(budget, [&](const Limits& limits) {
    return training ? network_->train_steps(given.sources(), batch_size, begin, end, limits)
                    : network_->evaluate_steps(given.sources(), batch_size, begin, end, limits);
  });
}

template <class T>
int64_t PyNetwork<T>::predict(const py::object& x, const py::object& out, int64_t begin, int64_t end, double budget) {
  const GivenRows given(network_->program, x, py::none(), begin, end);
  const auto& outputs = network_->program.outputs;
  std::vector<py::object> arrays{out};
  if (py::isinstance<py::tuple>(out) || py::isinstance<py::list>(out)) arrays = py::cast<std::vector<py::object>>(out);
  if (arrays.size() != outputs.size())
    raise_shape("predict: expected " + std::to_string(outputs.size()) + " arrays for the outputs, received " +
                std::to_string(arrays.size()));
  std::vector<T*> to;
  for (std::size_t k = 0; k < outputs.size(); ++k) {
    const py::object& a = arrays[k];
    const int64_t rows = given.sources().x->rows, cols = width(outputs[k]);
    if (!py::isinstance<Array>(a) || py::cast<py::array>(a).ndim() != 2 || py::cast<py::array>(a).shape(0) != rows ||
        py::cast<py::array>(a).shape(1) != cols)
      raise_shape("predict: out must be a contiguous array of shape (" + std::to_string(rows) + ", " +
                  std::to_string(cols) + ") and the model's dtype; received " +
                  (py::isinstance<py::array>(a) ? text(py::cast<py::array>(a)) : std::string(py::str(a))));
    to.push_back(py::cast<Array>(a).mutable_data());
  }
  return long_run(budget,
                  [&](const Limits& limits) { return network_->predict(*given.sources().x, to, begin, end, limits); });
}

template <class T>
void PyNetwork<T>::load_batch(const py::object& x, const py::object& y, const py::object& sample_weight,
                              const py::object& rows, int64_t begin, int64_t end) {
  const GivenRows given(network_->program, network_->heads(), network_->metrics(), network_->configuration(), x, y,
                        sample_weight, rows, begin, end);
  const WithoutGil nogil;  // as in long_run
  network_->load_batch(given.sources(), begin, end);
}

template <class T>
typename PyNetwork<T>::Array PyNetwork<T>::get_value(int v, bool of_gradient) {
  check_value(v);
  const int64_t rows = network_->batch_rows();
  Array out(std::vector<py::ssize_t>{rows, width(v)});
  if (of_gradient)
    network_->read_value_gradient(v, rows, out.mutable_data());
  else
    network_->read_value(v, rows, out.mutable_data());
  return out;
}

template <class T>
void PyNetwork<T>::set_value(int v, const py::array& value, bool of_gradient) {
  check_value(v);
  const int64_t rows = network_->batch_rows();
  if (value.ndim() != 2 || value.shape(0) != rows || value.shape(1) != width(v))
    raise_shape(std::string(of_gradient ? "gradient of value " : "value ") + std::to_string(v) + ": expected shape (" +
                std::to_string(rows) + ", " + std::to_string(width(v)) + "), received " + text(value));
  const Array a = plain<T>(value);
  if (of_gradient)
    network_->write_value_gradient(v, rows, a.data());
  else
    network_->write_value(v, rows, a.data());
}

template <class T>
const std::vector<py::ssize_t>& PyNetwork<T>::shape_of(Part part, int i) const {
  const bool state = part == Part::state;
  const Shapes& shapes = state ? state_shapes_ : shapes_;
  if (i < 0 || i >= static_cast<int>(shapes.size()))
    throw py::index_error(std::string(state ? "state" : "parameter") + ": expected 0 to " +
                          std::to_string(shapes.size()) + ", received " + std::to_string(i));
  return shapes[static_cast<std::size_t>(i)];
}

template <class T>
typename PyNetwork<T>::Array PyNetwork<T>::fitting(Part part, int i, const py::array& value) const {
  const auto& want = shape_of(part, i);
  bool same = value.ndim() == static_cast<py::ssize_t>(want.size());
  for (std::size_t d = 0; same && d < want.size(); ++d) same = value.shape(static_cast<py::ssize_t>(d)) == want[d];
  if (!same) {
    const char* kind = part == Part::state ? "state" : "parameter";
    const py::object named = program_.attr(part == Part::state ? "states" : "parameters")[py::int_(i)];
    raise_shape(std::string(kind) + " " + std::string(py::str(named.attr("name"))) + ": expected shape " +
                std::string(py::str(py::cast(want))) + ", received " + text(value));
  }
  return plain<T>(value);
}

template <class T>
void PyNetwork<T>::check_slot(const std::string& slot) const {
  for (const std::string& name : network_->slot_names())
    if (name == slot) return;
  throw py::key_error("no slot named " + slot);
}

template <class T>
void PyNetwork<T>::check_value(int v) const {
  if (v < 0 || v >= static_cast<int>(network_->program.widths.size()))
    throw py::index_error("value: not one of the program's: " + std::to_string(v));
}

template class PyNetwork<float>;
template class PyNetwork<double>;

}  // namespace fp::bindings
