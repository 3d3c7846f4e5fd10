// Network<float> and Network<double> as Python classes: arguments become plain C++ first, then the GIL is released.
#include "network/network.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>

#include "bindings/errors.hpp"
#include "bindings/predictor.hpp"
#include "runtime/dispatch.hpp"

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

// One array per entry: a tuple or list, or an array alone (None: none).
std::vector<py::object> entries(const py::object& given, std::size_t count, const char* what) {
  std::vector<py::object> found;
  if (py::isinstance<py::tuple>(given) || py::isinstance<py::list>(given))
    for (py::handle h : given) found.push_back(py::reinterpret_borrow<py::object>(h));
  else if (given.is_none())
    found.assign(count, py::none());
  else
    found.push_back(given);
  if (count > 0 && found.size() != count)
    raise("ShapeError", std::string(what) + ": expected " + std::to_string(count) +
                            " arrays, one per loss head, received " + std::to_string(found.size()));
  return found;
}

// The rows of a run; owns the views, refers to the arrays of the call.
struct Given {
  std::vector<DenseSource> parts, targets, weights;
  SideBySide together;
  Sources sources;
  int64_t positions = 0;

  // Inputs alone.
  Given(const Program& program, const py::object& x, const py::object& rows, int64_t begin, int64_t end) {
    read_x(program, x);
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
  // And what each head is judged by.
  template <class T>
  Given(const Network<T>& net, const py::object& x, const py::object& y, const py::object& w, const py::object& rows,
        int64_t begin, int64_t end)
      : Given(net.program, x, rows, begin, end) {
    const auto& heads = net.heads();
    targets.resize(heads.size());
    weights.resize(heads.size());
    const auto ys = entries(y, heads.size(), "y"), ws = entries(w, heads.size(), "sample_weight");
    for (std::size_t h = 0; h < heads.size(); ++h) {
      Targets t;
      t.classes = net.program.widths[net.program.output(heads[h].output)];
      if (!ys[h].is_none()) {
        const auto a = py::cast<py::array>(ys[h]);
        // Without a built-in loss the targets' form says what they are.
        t.labels = heads[h].loss ? loss_takes_labels(*heads[h].loss) : a.ndim() == 1;
        for (const Metric& m : net.metrics())
          if (m.head == static_cast<int>(h) && metric_takes_labels(m.kind) != t.labels)
            raise("ShapeError", std::string("y: expected ") + (t.labels ? "targets as wide as the output" : "labels") +
                                    " for a metric, received others");
        targets[h] = source_of(a, t.labels ? -1 : t.classes, "y");
        if (targets[h].rows != sources.x->rows) different("y", targets[h].rows);
        t.y = &targets[h];
      }
      if (!ws[h].is_none()) {
        weights[h] = source_of(py::cast<py::array>(ws[h]), -1, "sample_weight");
        if (weights[h].rows != sources.x->rows) different("sample_weight", weights[h].rows);
        t.weights = &weights[h];
      }
      sources.heads.push_back(t);
    }
  }
  Given(const Given&) = delete;

  template <class T>
  void need_targets(const Network<T>& net) const {
    for (std::size_t h = 0; h < sources.heads.size(); ++h) {
      bool read = sources.heads.size() == 1 || net.heads()[h].loss;
      for (const Metric& m : net.metrics()) read |= m.head == static_cast<int>(h);
      if (read && !sources.heads[h].y)
        raise("ShapeError", "y: expected targets for loss head " + std::to_string(h) + ", received None");
    }
  }

 private:
  void read_x(const Program& program, const py::object& x) {
    const auto given = entries(x, 0, "x");
    const bool single = given.size() == 1;
    parts.reserve(given.size());
    for (const py::object& part : given) {
      const auto a = py::cast<py::array>(part);
      parts.push_back(source_of(a, single || a.ndim() != 2 ? program.widths[0] : a.shape(1), "x"));
      if (parts.back().rows != parts.front().rows)
        raise("ShapeError", "x: expected arrays of as many rows, " + std::to_string(parts.front().rows) +
                                ", received " + std::to_string(parts.back().rows));
      together.append(parts.back());
    }
    if (together.cols != program.widths[0])
      raise("ShapeError", "x: expected " + std::to_string(program.widths[0]) + " columns in all, received " +
                              std::to_string(together.cols));
    sources.x = single ? static_cast<const RowSource*>(&parts[0]) : &together;
    positions = sources.x->rows;
  }
  void different(const char* what, int64_t n) const {
    raise("ShapeError", std::string(what) + ": expected as many rows as x, " + std::to_string(sources.x->rows) +
                            ", received " + std::to_string(n));
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

std::vector<Parameter> arrays_from(const py::object& given) {
  std::vector<Parameter> arrays;
  for (py::handle h : given) {
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

Program program_from(const py::object& given) {
  Program p;
  p.mixed = py::cast<std::string>(given.attr("dtype")) == "mixed_bfloat16";
  for (py::handle w : given.attr("widths")) p.widths.push_back(py::cast<int64_t>(w));
  p.parameters = arrays_from(given.attr("parameters"));
  p.states = arrays_from(given.attr("states"));
  p.outputs = py::cast<std::vector<int>>(given.attr("outputs"));
  const auto names = py::module_::import("fastperceptron.program").attr("ACTIVATIONS");
  for (py::handle h : given.attr("operations")) {
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

  using Shapes = std::vector<std::vector<py::ssize_t>>;

  explicit PyNetwork(py::object program) : program_(std::move(program)), net_(made(program_from(program_))) {
    for (py::handle h : program_.attr("parameters"))
      shapes_.push_back(py::cast<std::vector<py::ssize_t>>(h.attr("shape")));
    for (py::handle h : program_.attr("states"))
      state_shapes_.push_back(py::cast<std::vector<py::ssize_t>>(h.attr("shape")));
  }

  py::object program_;
  std::unique_ptr<Net> net_;

  Array get(typename Net::Part part, int i) {
    Array out(shape_of(part, i));
    net_->read(part, i, out.mutable_data());
    return out;
  }
  void set(typename Net::Part part, int i, const py::array& value) {
    net_->write(part, i, fitting(part, i, value).data());
  }
  std::vector<std::string> slot_names() const { return net_->slot_names(); }
  Array get_slot(const std::string& slot, int i) {
    Array out(shape_of(Net::Part::parameter, i));
    check_slot(slot);
    net_->read_slot(slot, i, out.mutable_data());
    return out;
  }
  void set_slot(const std::string& slot, int i, const py::array& value) {
    const Array a = fitting(Net::Part::parameter, i, value);
    check_slot(slot);
    net_->write_slot(slot, i, a.data());
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
  void set_rates(const std::vector<double>& rates) {
    if (rates.size() != shapes_.size())
      throw py::value_error("set_rates: expected " + std::to_string(shapes_.size()) + " rates, received " +
                            std::to_string(rates.size()));
    net_->set_rates(rates);
  }
  void set_heads(const py::object& given) {
    const auto names = py::module_::import("fastperceptron.program").attr("LOSSES");
    std::vector<Head> heads;
    for (py::handle h : given) {
      Head head;
      head.output = py::cast<int>(h.attr("output"));
      if (head.output < 0 || head.output >= static_cast<int>(net_->program.outputs.size()))
        throw py::value_error("set_heads: expected outputs from 0 to " +
                              std::to_string(net_->program.outputs.size() - 1) + ", received " +
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
    net_->set_heads(std::move(heads));
  }
  void set_loss(const py::object& kind, double parameter) {
    const auto head = py::module_::import("fastperceptron.program").attr("Head");
    set_heads(py::make_tuple(head(0, kind, parameter)));
  }
  void set_metrics(const py::object& given) {
    std::vector<Metric> metrics;
    for (py::handle h : given) {
      const auto t = py::cast<py::tuple>(h);
      if (t.size() != 2 && t.size() != 3) throw py::value_error("set_metrics: expected (kind, parameter, head)");
      const int head = t.size() == 3 ? py::cast<int>(t[2]) : 0;
      if (head < 0 || head >= static_cast<int>(net_->heads().size()))
        throw py::value_error("set_metrics: expected heads from 0 to " + std::to_string(net_->heads().size() - 1) +
                              ", received " + std::to_string(head));
      metrics.push_back({metric_kind(py::cast<std::string>(t[0])), py::cast<double>(t[1]), head, {}});
    }
    net_->set_metrics(std::move(metrics));
  }
  py::list get_metrics() const {
    py::list out;
    const auto add = [&out](const double* v, std::size_t count, py::ssize_t rows) {
      const auto n = static_cast<py::ssize_t>(count);
      std::vector<py::ssize_t> shape{n};
      if (rows > 1) shape = {rows, n / rows};
      py::array_t<double> a(shape);
      std::copy(v, v + count, a.mutable_data());
      out.append(std::move(a));
    };
    for (const Head& head : net_->heads()) add(head.sums, 2, 1);
    for (const Metric& m : net_->metrics()) add(m.sums.data(), m.sums.size(), m.kind == MetricKind::r2 ? 4 : 1);
    return out;
  }

  int64_t steps(bool training, const py::object& x, const py::object& y, const py::object& w, const py::object& rows,
                int64_t batch_size, int64_t begin, int64_t end, double budget) {
    if (batch_size < 1)
      throw py::value_error("batch_size: expected at least 1, received " + std::to_string(batch_size));
    const Given given(*net_, x, y, w, rows, begin, end);
    given.need_targets(*net_);
    return long_run(budget, [&](const Limits& limits) {
      return training ? net_->train_steps(given.sources, batch_size, begin, end, limits)
                      : net_->evaluate_steps(given.sources, batch_size, begin, end, limits);
    });
  }
  int64_t predict(const py::object& x, const py::object& out, int64_t begin, int64_t end, double budget) {
    const Given given(net_->program, x, py::none(), begin, end);
    const auto& outputs = net_->program.outputs;
    std::vector<py::object> arrays{out};
    if (py::isinstance<py::tuple>(out) || py::isinstance<py::list>(out))
      arrays = py::cast<std::vector<py::object>>(out);
    if (arrays.size() != outputs.size())
      raise("ShapeError", "predict: expected " + std::to_string(outputs.size()) + " arrays for the outputs, received " +
                              std::to_string(arrays.size()));
    std::vector<T*> to;
    for (std::size_t k = 0; k < outputs.size(); ++k) {
      const py::object& a = arrays[k];
      const int64_t rows = given.sources.x->rows, cols = width(outputs[k]);
      if (!py::isinstance<Array>(a) || py::cast<py::array>(a).ndim() != 2 || py::cast<py::array>(a).shape(0) != rows ||
          py::cast<py::array>(a).shape(1) != cols)
        raise("ShapeError",
              "predict: out must be a contiguous array of shape (" + std::to_string(rows) + ", " +
                  std::to_string(cols) + ") and the model's dtype; received " +
                  (py::isinstance<py::array>(a) ? shape_text(py::cast<py::array>(a)) : std::string(py::str(a))));
      to.push_back(py::cast<Array>(a).mutable_data());
    }
    return long_run(budget,
                    [&](const Limits& limits) { return net_->predict(*given.sources.x, to, begin, end, limits); });
  }

  void load_batch(const py::object& x, const py::object& y, const py::object& w, const py::object& rows, int64_t begin,
                  int64_t end) {
    const Given given(*net_, x, y, w, rows, begin, end);
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
  Shapes shapes_, state_shapes_;

  static std::unique_ptr<Net> made(Program program) {
    if (program.mixed) {
      try {
        products16();
      } catch (const std::runtime_error& error) {
        raise("BackendUnavailableError", error.what());
      }
    }
    return std::make_unique<Net>(std::move(program));
  }

  int64_t width(int v) const { return net_->program.widths[static_cast<std::size_t>(v)]; }
  const std::vector<py::ssize_t>& shape_of(typename Net::Part part, int i) const {
    const bool state = part == Net::Part::state;
    const Shapes& shapes = state ? state_shapes_ : shapes_;
    if (i < 0 || i >= static_cast<int>(shapes.size()))
      throw py::index_error(std::string(state ? "state" : "parameter") + ": expected 0 to " +
                            std::to_string(shapes.size()) + ", received " + std::to_string(i));
    return shapes[static_cast<std::size_t>(i)];
  }
  // The value as an array of the network's dtype, or an error.
  Array fitting(typename Net::Part part, int i, const py::array& value) const {
    const auto& want = shape_of(part, i);
    bool same = value.ndim() == static_cast<py::ssize_t>(want.size());
    for (std::size_t d = 0; same && d < want.size(); ++d) same = value.shape(static_cast<py::ssize_t>(d)) == want[d];
    if (!same) {
      const char* kind = part == Net::Part::state ? "state" : "parameter";
      const py::object named = program_.attr(part == Net::Part::state ? "states" : "parameters")[py::int_(i)];
      raise("ShapeError", std::string(kind) + " " + std::string(py::str(named.attr("name"))) + ": expected shape " +
                              std::string(py::str(py::cast(want))) + ", received " + shape_text(value));
    }
    return as_array(value);
  }
  void check_slot(const std::string& slot) const {
    for (const std::string& name : net_->slot_names())
      if (name == slot) return;
    throw py::key_error("no slot named " + slot);
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
      .def(
          "get_state", [](Py& p, int i) { return p.get(Part::state, i); }, py::arg("index"))
      .def(
          "set_state", [](Py& p, int i, const py::array& v) { p.set(Part::state, i, v); }, py::arg("index"),
          py::arg("value"))
      .def("slot_names", [](const Py& p) { return py::tuple(py::cast(p.slot_names())); })
      .def(
          "get_slot", [](Py& p, const std::string& s, int i) { return p.get_slot(s, i); }, py::arg("name"),
          py::arg("index"))
      .def(
          "set_slot", [](Py& p, const std::string& s, int i, const py::array& v) { p.set_slot(s, i, v); },
          py::arg("name"), py::arg("index"), py::arg("value"))
      .def(
          "set_threads", [](Py& p, int n) { p.net_->set_threads(n); }, py::arg("threads"))
      .def("set_trainable", &Py::set_trainable, py::arg("flags"))
      .def("set_rates", &Py::set_rates, py::arg("rates"))
      .def("set_optimizer", &Py::set_optimizer, py::arg("name"), py::arg("hyper"))
      .def("set_hyper", &Py::set_hyper, py::arg("name"), py::arg("value"))
      .def("set_heads", &Py::set_heads, py::arg("heads"))
      .def("set_loss", &Py::set_loss, py::arg("kind"), py::arg("parameter"))
      .def("set_metrics", &Py::set_metrics, py::arg("metrics"))
      .def("reset_metrics", [](Py& p) { p.net_->reset_metrics(); })
      .def("get_metrics", &Py::get_metrics)
      .def(
          "train_steps",
          [](Py& p, const py::object& x, const py::object& y, const py::object& w, const py::object& rows, int64_t size,
             int64_t begin, int64_t end,
             double budget) { return p.steps(true, x, y, w, rows, size, begin, end, budget); },
          py::arg("x"), py::arg("y"), py::arg("sample_weight"), py::arg("rows"), py::arg("batch_size"),
          py::arg("begin"), py::arg("end"), py::arg("budget"))
      .def(
          "evaluate_steps",
          [](Py& p, const py::object& x, const py::object& y, const py::object& w, const py::object& rows, int64_t size,
             int64_t begin, int64_t end,
             double budget) { return p.steps(false, x, y, w, rows, size, begin, end, budget); },
          py::arg("x"), py::arg("y"), py::arg("sample_weight"), py::arg("rows"), py::arg("batch_size"),
          py::arg("begin"), py::arg("end"), py::arg("budget"))
      .def("predict", &Py::predict, py::arg("x"), py::arg("out"), py::arg("begin"), py::arg("end"), py::arg("budget"))
      .def(
          "predictor",
          [](Py& p, const py::tuple& in, const py::tuple& out) {
            return bindings::make_predictor(p.net_->predictor(), p.program_, in, out);
          },
          py::arg("input_shape"), py::arg("output_shape"))
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
      .def("advance", [](Py& p) { p.net_->advance(); })
      .def("is_finite", [](Py& p) { return p.net_->is_finite(); })
      .def("product_path", [](Py& p) { return p.net_->product_path(); })
      .def(
          "useful_threads",
          [](const Py& p, int64_t rows, bool training) { return p.net_->useful_threads(rows, training); },
          py::arg("rows"), py::arg("training"))
      .def("step_threads", [](Py& p, int64_t rows) { return p.net_->step_threads(rows); }, py::arg("rows"));
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
        if (dtype == "float32" || dtype == "mixed_bfloat16")
          return py::cast(std::make_unique<PyNetwork<float>>(program));
        if (dtype == "float64") return py::cast(std::make_unique<PyNetwork<double>>(program));
        raise("DTypeError", "Network: expected float32, float64 or mixed_bfloat16, received " + dtype);
      },
      py::arg("program"), "The network of a program, of the class that its dtype asks for.");
}

}  // namespace fp
