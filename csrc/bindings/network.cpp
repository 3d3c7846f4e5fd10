// Network<float> and Network<double> as Python classes: arguments become plain C++ first, then the GIL is released.
#include "network/network.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>

#include "bindings/errors.hpp"

namespace py = pybind11;

namespace fp {

namespace {

using Index = py::array_t<int64_t, py::array::c_style>;

using bindings::raise;

std::string shape_text(const py::array& a) { return py::str(a.attr("shape")); }

Element element_of(const py::array& a, const char* what) {
  const py::dtype d = a.dtype();
  const char kind = d.kind();
  const auto size = d.itemsize();
  const char order = d.byteorder();
  if (order == '=' || order == '|' || order == (PY_BIG_ENDIAN ? '>' : '<')) {
    if (kind == 'b') return Element::b1;
    if (kind == 'i') {
      if (size == 1) return Element::i8;
      if (size == 2) return Element::i16;
      if (size == 4) return Element::i32;
      if (size == 8) return Element::i64;
    }
    if (kind == 'u') {
      if (size == 1) return Element::u8;
      if (size == 2) return Element::u16;
      if (size == 4) return Element::u32;
      if (size == 8) return Element::u64;
    }
    if (kind == 'f') {
      if (size == 2) return Element::f16;
      if (size == 4) return Element::f32;
      if (size == 8) return Element::f64;
    }
  }
  raise("DTypeError", std::string(what) + ": expected a real dtype of at most 8 bytes in native byte order, received " +
                          std::string(py::str(d)));
}

// A view of the caller's memory; the caller keeps the array alive. `cols` < 0 takes a vector as one column.
DenseSource source_of(const py::array& a, int64_t cols, const char* what) {
  DenseSource s;
  s.element = element_of(a, what);
  if (cols < 0 ? a.ndim() != 1 : (a.ndim() != 2 || a.shape(1) != cols))
    raise("ShapeError", std::string(what) + ": expected shape (n" +
                            (cols < 0 ? std::string(",)") : ", " + std::to_string(cols) + ")") + ", received " +
                            shape_text(a));
  s.data = static_cast<const char*>(a.data());
  s.rows = a.shape(0);
  s.cols = cols < 0 ? 1 : cols;
  s.row_bytes = a.strides(0);
  s.col_bytes = cols < 0 ? a.dtype().itemsize() : a.strides(1);
  return s;
}

// The rows of a run; owns the views, refers to the arrays of the call.
struct Given {
  DenseSource x, y, weights;
  Sources sources;
  int64_t positions = 0;

  Given(const Program& program, bool labels, const py::array& x_, const py::object& y_, const py::object& w_,
        const py::object& rows, int64_t begin, int64_t end) {
    x = source_of(x_, program.widths[0], "x");
    sources.x = &x;
    positions = x.rows;
    if (!y_.is_none()) {
      const auto a = py::cast<py::array>(y_);
      y = source_of(a, labels ? -1 : program.widths[program.output], "y");
      if (y.rows != x.rows) different("y", y.rows);
      sources.y = &y;
      sources.labels = labels;
    }
    if (!w_.is_none()) {
      weights = source_of(py::cast<py::array>(w_), -1, "sample_weight");
      if (weights.rows != x.rows) different("sample_weight", weights.rows);
      sources.weights = &weights;
    }
    if (!rows.is_none()) {
      if (!py::isinstance<Index>(rows)) raise("DTypeError", "rows: expected a contiguous array of int64");
      const auto index = py::cast<Index>(rows);
      if (index.ndim() != 1) raise("ShapeError", "rows: expected shape (m,), received " + shape_text(index));
      positions = index.shape(0);
      sources.index = index.data();
    }
    if (begin < 0 || end < begin || end > positions)
      throw py::value_error("positions: expected 0 <= begin <= end <= " + std::to_string(positions) + ", received " +
                            std::to_string(begin) + " and " + std::to_string(end));
  }
  Given(const Given&) = delete;

 private:
  void different(const char* what, int64_t n) const {
    raise("ShapeError", std::string(what) + ": expected as many rows as x, " + std::to_string(x.rows) + ", received " +
                            std::to_string(n));
  }
};

// Python's signal handlers, asked from inside a run. The error they raise stays set for finish() to throw.
bool signals_pending(void* context) {
  py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() == 0) return false;
  *static_cast<bool*>(context) = true;
  return true;
}

template <class F>
int64_t long_run(double budget, F&& f) {
  bool raised = false;
  int64_t reached;
  {
    // Safe: everything f touches is C++ or memory of arrays that the caller's arguments keep alive.
    py::gil_scoped_release nogil;
    reached = f(Limits{budget, signals_pending, &raised});
  }
  if (raised) throw py::error_already_set();
  return reached;
}

Program program_from(const py::object& given) {
  Program p;
  for (py::handle w : given.attr("widths")) p.widths.push_back(py::cast<int64_t>(w));
  for (py::handle h : given.attr("parameters")) {
    const auto shape = py::cast<std::vector<int64_t>>(h.attr("shape"));
    int64_t count = 1;
    for (int64_t d : shape) {
      if (d < 0 || (d > 0 && count > (int64_t(1) << 40) / d))
        throw py::value_error("program: a parameter is too large");
      count *= d;
    }
    if (shape.size() == 2)
      p.parameters.push_back({shape[0], shape[1]});
    else
      p.parameters.push_back({1, count});
  }
  p.output = py::cast<int>(given.attr("output"));
  const auto names = py::module_::import("fastperceptron.program").attr("ACTIVATIONS");
  for (py::handle h : given.attr("operations")) {
    Operation op{};
    const auto kind = py::cast<std::string>(h.attr("kind"));
    const auto inputs = py::cast<std::vector<int>>(h.attr("inputs"));
    if (inputs.size() != 1) throw py::value_error("program: operation " + kind + ": expected one input");
    op.input = inputs[0];
    op.output = py::cast<int>(h.attr("output"));
    op.activation = static_cast<Activation>(py::cast<int>(names.attr("index")(h.attr("activation"))));
    op.alpha = py::cast<double>(h.attr("alpha"));
    op.rate = py::cast<double>(h.attr("rate"));
    op.stream = py::cast<uint32_t>(h.attr("stream"));
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
    } else if (kind == "python") {
      op.kind = OperationKind::python;
      op.parameters = parameters;
    } else {
      throw py::value_error("program: expected a kind of dense, activation, dropout or python, received " + kind);
    }
    p.operations.push_back(std::move(op));
  }
  return p;
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

template <class T>
class PyNetwork {
 public:
  using Net = Network<T>;
  using Array = py::array_t<T, py::array::c_style>;

  explicit PyNetwork(py::object program)
      : program_(std::move(program)), net_(std::make_unique<Net>(program_from(program_))) {
    for (py::handle h : program_.attr("parameters"))
      shapes_.push_back(py::cast<std::vector<py::ssize_t>>(h.attr("shape")));
  }

  py::object program_;
  std::unique_ptr<Net> net_;

  Array get(typename Net::Part part, int i) {
    check_parameter(i);
    Array out(shapes_[static_cast<std::size_t>(i)]);
    net_->read(part, i, out.mutable_data());
    return out;
  }
  void set(typename Net::Part part, int i, const py::array& value) {
    check_parameter(i);
    const auto& want = shapes_[static_cast<std::size_t>(i)];
    bool same = value.ndim() == static_cast<py::ssize_t>(want.size());
    for (std::size_t d = 0; same && d < want.size(); ++d) same = value.shape(static_cast<py::ssize_t>(d)) == want[d];
    if (!same)
      raise("ShapeError", "parameter " + name(i) + ": expected shape " + std::string(py::str(py::cast(want))) +
                              ", received " + shape_text(value));
    net_->write(part, i, as_array(value).data());
  }
  std::vector<std::string> slot_names() const {
    if (net_->sgd() && net_->sgd()->momentum != 0) return {"momentum"};
    return {};
  }
  typename Net::Part slot(const std::string& slot_name) const {
    if (slot_name == "momentum" && !slot_names().empty()) return Net::Part::momentum;
    throw py::key_error("no slot named " + slot_name);
  }

  void set_optimizer(const py::object& optimizer, const std::map<std::string, double>& hyper) {
    if (optimizer.is_none()) return net_->set_sgd(std::nullopt);
    const auto kind = py::cast<std::string>(optimizer);
    if (kind != "sgd") throw py::value_error("set_optimizer: expected 'sgd' or None, received " + kind);
    Sgd sgd;
    for (const auto& [key, value] : hyper) assign(sgd, key, value);
    net_->set_sgd(sgd);
  }
  void set_hyper(const std::string& key, double value) {
    if (!net_->sgd()) throw py::value_error("set_hyper: no optimizer is set");
    Sgd sgd = *net_->sgd();
    assign(sgd, key, value);
    net_->set_sgd(sgd);
  }
  void set_trainable(const std::vector<bool>& flags) {
    if (flags.size() != shapes_.size())
      throw py::value_error("set_trainable: expected " + std::to_string(shapes_.size()) + " flags, received " +
                            std::to_string(flags.size()));
    net_->set_trainable(std::vector<char>(flags.begin(), flags.end()));
  }
  void set_loss(const py::object& kind, double parameter) {
    if (kind.is_none()) {
      labels_ = false;
      return net_->set_loss(std::nullopt, 0);
    }
    const auto names = py::module_::import("fastperceptron.program").attr("LOSSES");
    const auto loss = static_cast<Loss>(py::cast<int>(names.attr("index")(kind)));
    labels_ = loss_takes_labels(loss);
    net_->set_loss(loss, parameter);
  }
  void set_metrics(const std::vector<std::pair<std::string, double>>& metrics) {
    std::vector<Metric> m;
    for (const auto& [kind, parameter] : metrics) m.push_back({metric_kind(kind), parameter, {}});
    net_->set_metrics(std::move(m));
  }
  py::list get_metrics() const {
    py::list out;
    const auto add = [&out](const std::vector<double>& v, py::ssize_t rows) {
      const auto n = static_cast<py::ssize_t>(v.size());
      std::vector<py::ssize_t> shape{n};
      if (rows > 1) shape = {rows, n / rows};
      py::array_t<double> a(shape);
      std::copy(v.begin(), v.end(), a.mutable_data());
      out.append(std::move(a));
    };
    add(net_->loss_sums(), 1);
    for (const Metric& m : net_->metrics()) add(m.sums, m.kind == MetricKind::r2 ? 4 : 1);
    return out;
  }

  int64_t steps(bool training, const py::array& x, const py::object& y, const py::object& w, const py::object& rows,
                int64_t batch_size, int64_t begin, int64_t end, double budget) {
    if (batch_size < 1)
      throw py::value_error("batch_size: expected at least 1, received " + std::to_string(batch_size));
    const Given given(net_->program, labels(y), x, y, w, rows, begin, end);
    if (!given.sources.y) raise("ShapeError", "y: expected targets, received None");
    return long_run(budget, [&](const Limits& limits) {
      return training ? net_->train_steps(given.sources, batch_size, begin, end, limits)
                      : net_->evaluate_steps(given.sources, batch_size, begin, end, limits);
    });
  }
  int64_t predict(const py::array& x, const py::array& out, int64_t begin, int64_t end, double budget) {
    const Given given(net_->program, false, x, py::none(), py::none(), py::none(), begin, end);
    if (!py::isinstance<Array>(out) || out.ndim() != 2 || out.shape(0) != given.x.rows ||
        out.shape(1) != width(net_->program.output))
      raise("ShapeError", "predict: out must be a contiguous array of shape (" + std::to_string(given.x.rows) + ", " +
                              std::to_string(width(net_->program.output)) + ") and the model's dtype; received " +
                              shape_text(out));
    auto target = py::cast<Array>(out);
    T* to = target.mutable_data();
    return long_run(budget, [&](const Limits& limits) { return net_->predict(given.x, to, begin, end, limits); });
  }

  void load_batch(const py::array& x, const py::object& y, const py::object& w, const py::object& rows, int64_t begin,
                  int64_t end) {
    const Given given(net_->program, labels(y), x, y, w, rows, begin, end);
    py::gil_scoped_release nogil;  // as in long_run
    net_->load_batch(given.sources, begin, end);
  }
  Array get_value(int v, bool of_gradient) {
    check_value(v);
    Array out(std::vector<py::ssize_t>{net_->batch_rows(), width(v)});
    if (of_gradient)
      net_->read_value_gradient(v, out.mutable_data());
    else
      net_->read_value(v, out.mutable_data());
    return out;
  }
  void set_value(int v, const py::array& value, bool of_gradient) {
    check_value(v);
    if (value.ndim() != 2 || value.shape(0) != net_->batch_rows() || value.shape(1) != width(v))
      raise("ShapeError", std::string(of_gradient ? "gradient of value " : "value ") + std::to_string(v) +
                              ": expected shape (" + std::to_string(net_->batch_rows()) + ", " +
                              std::to_string(width(v)) + "), received " + shape_text(value));
    const Array a = as_array(value);
    if (of_gradient)
      net_->write_value_gradient(v, a.data());
    else
      net_->write_value(v, a.data());
  }

 private:
  std::vector<std::vector<py::ssize_t>> shapes_;
  bool labels_ = false;

  // Without a built-in loss the targets' form says what they are.
  bool labels(const py::object& y) const {
    if (labels_) return true;
    if (y.is_none()) return false;
    for (const Metric& m : net_->metrics())
      if (m.kind == MetricKind::sparse_categorical_accuracy) return true;
    return false;
  }
  int64_t width(int v) const { return net_->program.widths[static_cast<std::size_t>(v)]; }
  std::string name(int i) const { return py::str(py::object(program_.attr("parameters")[py::int_(i)].attr("name"))); }
  void check_parameter(int i) const {
    if (i < 0 || i >= static_cast<int>(shapes_.size()))
      throw py::index_error("parameter: expected 0 to " + std::to_string(shapes_.size()) + ", received " +
                            std::to_string(i));
  }
  void check_value(int v) const {
    if (v < 0 || v >= static_cast<int>(net_->program.widths.size()))
      throw py::index_error("value: not one of the program's: " + std::to_string(v));
  }
  // Aligned, contiguous and of the network's dtype; a copy when the given array is not.
  static Array as_array(const py::array& value) {
    element_of(value, "array");
    auto numpy = py::module_::import("numpy");
    return py::cast<Array>(numpy.attr("require")(value, py::dtype::of<T>(), py::make_tuple("C", "A")));
  }
  static void assign(Sgd& sgd, const std::string& key, double value) {
    if (key == "learning_rate")
      sgd.learning_rate = value;
    else if (key == "momentum")
      sgd.momentum = value;
    else if (key == "nesterov")
      sgd.nesterov = value != 0;
    else
      throw py::value_error("sgd: expected learning_rate, momentum or nesterov, received " + key);
  }
};

template <class T>
void bind(py::module_& m, const char* name) {
  using Py = PyNetwork<T>;
  using Part = typename Network<T>::Part;
  py::class_<Py>(m, name, "A program with its whole state; see fastperceptron.backends.protocol.Network.")
      .def(py::init<py::object>(), py::arg("program"))
      .def_property_readonly_static("backend", [](const py::object&) { return "native"; })
      .def_property_readonly("program", [](const Py& p) { return p.program_; })
      .def_property(
          "step", [](const Py& p) { return p.net_->step; }, [](Py& p, uint64_t v) { p.net_->step = v; })
      .def_property(
          "key", [](const Py& p) { return p.net_->key; }, [](Py& p, uint64_t v) { p.net_->key = v; })
      .def(
          "get_parameter", [](Py& p, int i) { return p.get(Part::parameter, i); }, py::arg("index"))
      .def(
          "set_parameter", [](Py& p, int i, const py::array& v) { p.set(Part::parameter, i, v); }, py::arg("index"),
          py::arg("value"))
      .def(
          "get_gradient", [](Py& p, int i) { return p.get(Part::gradient, i); }, py::arg("index"))
      .def(
          "set_gradient", [](Py& p, int i, const py::array& v) { p.set(Part::gradient, i, v); }, py::arg("index"),
          py::arg("value"))
      .def("slot_names", [](const Py& p) { return py::tuple(py::cast(p.slot_names())); })
      .def(
          "get_slot", [](Py& p, const std::string& s, int i) { return p.get(p.slot(s), i); }, py::arg("name"),
          py::arg("index"))
      .def(
          "set_slot", [](Py& p, const std::string& s, int i, const py::array& v) { p.set(p.slot(s), i, v); },
          py::arg("name"), py::arg("index"), py::arg("value"))
      .def(
          "set_threads", [](Py& p, int n) { p.net_->set_threads(n); }, py::arg("threads"))
      .def("set_trainable", &Py::set_trainable, py::arg("flags"))
      .def("set_optimizer", &Py::set_optimizer, py::arg("name"), py::arg("hyper"))
      .def("set_hyper", &Py::set_hyper, py::arg("name"), py::arg("value"))
      .def("set_loss", &Py::set_loss, py::arg("kind"), py::arg("parameter"))
      .def("set_metrics", &Py::set_metrics, py::arg("metrics"))
      .def("reset_metrics", [](Py& p) { p.net_->reset_metrics(); })
      .def("get_metrics", &Py::get_metrics)
      .def(
          "train_steps",
          [](Py& p, const py::array& x, const py::object& y, const py::object& w, const py::object& rows, int64_t size,
             int64_t begin, int64_t end,
             double budget) { return p.steps(true, x, y, w, rows, size, begin, end, budget); },
          py::arg("x"), py::arg("y"), py::arg("sample_weight"), py::arg("rows"), py::arg("batch_size"),
          py::arg("begin"), py::arg("end"), py::arg("budget"))
      .def(
          "evaluate_steps",
          [](Py& p, const py::array& x, const py::object& y, const py::object& w, const py::object& rows, int64_t size,
             int64_t begin, int64_t end,
             double budget) { return p.steps(false, x, y, w, rows, size, begin, end, budget); },
          py::arg("x"), py::arg("y"), py::arg("sample_weight"), py::arg("rows"), py::arg("batch_size"),
          py::arg("begin"), py::arg("end"), py::arg("budget"))
      .def("predict", &Py::predict, py::arg("x"), py::arg("out"), py::arg("begin"), py::arg("end"), py::arg("budget"))
      .def("load_batch", &Py::load_batch, py::arg("x"), py::arg("y"), py::arg("sample_weight"), py::arg("rows"),
           py::arg("begin"), py::arg("end"))
      .def(
          "forward",
          [](Py& p, int first, int last, bool training) {
            py::gil_scoped_release nogil;  // C++ state only
            p.net_->forward(first, last, training);
          },
          py::arg("first"), py::arg("last"), py::arg("training"))
      .def(
          "get_value", [](Py& p, int v) { return p.get_value(v, false); }, py::arg("value"))
      .def(
          "set_value", [](Py& p, int v, const py::array& a) { p.set_value(v, a, false); }, py::arg("value"),
          py::arg("array"))
      .def(
          "loss",
          [](Py& p, bool training) {
            py::gil_scoped_release nogil;  // C++ state only
            return p.net_->judge(training);
          },
          py::arg("training"))
      .def(
          "get_value_gradient", [](Py& p, int v) { return p.get_value(v, true); }, py::arg("value"))
      .def(
          "set_value_gradient", [](Py& p, int v, const py::array& a) { p.set_value(v, a, true); }, py::arg("value"),
          py::arg("array"))
      .def(
          "backward",
          [](Py& p, int first, int last) {
            py::gil_scoped_release nogil;  // C++ state only
            p.net_->backward(first, last);
          },
          py::arg("first"), py::arg("last"))
      .def("update",
           [](Py& p) {
             py::gil_scoped_release nogil;  // C++ state only
             p.net_->update();
           })
      .def("advance", [](Py& p) { p.net_->advance(); });
}

}  // namespace

void register_network(py::module_& m) {
  py::register_exception_translator([](std::exception_ptr e) {
    try {
      if (e) std::rethrow_exception(e);
    } catch (const Busy& busy) {
      py::set_error(py::module_::import("fastperceptron.errors").attr("ModelBusyError"), busy.what());
    }
  });
  bind<float>(m, "NetworkFloat32");
  bind<double>(m, "NetworkFloat64");
  m.def(
      "Network",
      [](const py::object& program) -> py::object {
        const auto dtype = py::cast<std::string>(program.attr("dtype"));
        if (dtype == "float32") return py::cast(std::make_unique<PyNetwork<float>>(program));
        if (dtype == "float64") return py::cast(std::make_unique<PyNetwork<double>>(program));
        raise("DTypeError", "Network: expected float32 or float64, received " + dtype);
      },
      py::arg("program"), "The network of a program, of the class that its dtype asks for.");
}

}  // namespace fp
