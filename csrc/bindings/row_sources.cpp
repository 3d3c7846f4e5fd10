#include "bindings/row_sources.hpp"

#include <string>

#include "bindings/arrays.hpp"

namespace fp::bindings {
namespace {

// A view of the array's memory. `cols` < 0 takes a vector as one column.
DenseSource source_of(const py::array& a, int64_t cols, const char* what) {
  DenseSource s;
  s.element = element_of(a, what);
  if (cols < 0 ? a.ndim() != 1 : (a.ndim() != 2 || a.shape(1) != cols))
    raise_shape(std::string(what) + ": expected shape (n" +
                (cols < 0 ? std::string(",)") : ", " + std::to_string(cols) + ")") + ", received " + text(a));
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
    raise_shape(std::string(what) + ": expected " + std::to_string(count) + " arrays, one per loss head, received " +
                std::to_string(found.size()));
  return found;
}

}  // namespace

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
  raise_dtype(std::string(what) + ": expected a real dtype of at most 8 bytes in native byte order, received " +
              std::string(py::str(py::handle(d))));
}

GivenRows::GivenRows(const Program& program, const py::object& x, const py::object& rows, int64_t begin, int64_t end) {
  read_inputs(program, x);
  if (!rows.is_none()) read_row_numbers(rows);
  if (begin < 0 || end < begin || end > positions_)
    throw py::value_error("positions: expected 0 <= begin <= end <= " + std::to_string(positions_) + ", received " +
                          std::to_string(begin) + " and " + std::to_string(end));
}

py::array GivenRows::kept(const py::object& given, const char* what) {
  if (!py::isinstance<py::array>(given))
    raise_dtype(std::string(what) + ": expected an array, received " + std::string(py::str(py::type::of(given))));
  return arrays_.emplace_back(py::reinterpret_borrow<py::array>(given));
}

GivenRows::GivenRows(const Program& program, const std::vector<Head>& heads, const std::vector<Metric>& metrics,
                     uint64_t configuration, const py::object& x, const py::object& y, const py::object& sample_weight,
                     const py::object& rows, int64_t begin, int64_t end)
    : GivenRows(program, x, rows, begin, end) {
  sources_.configuration = configuration;
  targets_.resize(heads.size());
  weights_.resize(heads.size());
  const auto ys = entries(y, heads.size(), "y"), ws = entries(sample_weight, heads.size(), "sample_weight");
  for (std::size_t h = 0; h < heads.size(); ++h) {
    Targets t;
    t.classes = program.widths[program.output(heads[h].output)];
    if (!ys[h].is_none()) {
      const py::array a = kept(ys[h], "y");
      // Without a built-in loss the targets' form says what they are.
      t.labels = heads[h].loss ? loss_takes_labels(*heads[h].loss) : a.ndim() == 1;
      for (const Metric& m : metrics)
        if (m.head == static_cast<int>(h) && metric_takes_labels(m.kind) != t.labels)
          raise_shape(std::string("y: expected ") + (t.labels ? "targets as wide as the output" : "labels") +
                      " for a metric, received others");
      targets_[h] = source_of(a, t.labels ? -1 : t.classes, "y");
      check_rows("y", targets_[h]);
      t.y = &targets_[h];
    }
    if (!ws[h].is_none()) {
      weights_[h] = source_of(kept(ws[h], "sample_weight"), -1, "sample_weight");
      check_rows("sample_weight", weights_[h]);
      t.weights = &weights_[h];
    }
    sources_.heads.push_back(t);
  }
}

void GivenRows::need_targets(const std::vector<Head>& heads, const std::vector<Metric>& metrics) const {
  for (std::size_t h = 0; h < heads.size(); ++h) {
    bool read = heads.size() == 1 || heads[h].loss;
    for (const Metric& m : metrics) read |= m.head == static_cast<int>(h);
    if (read && !sources_.heads[h].y)
      raise_shape("y: expected targets for loss head " + std::to_string(h) + ", received None");
  }
}

void GivenRows::read_inputs(const Program& program, const py::object& x) {
  const auto given = entries(x, 0, "x");
  const bool single = given.size() == 1;
  parts_.reserve(given.size());
  for (const py::object& part : given) {
    const py::array a = kept(part, "x");
    parts_.push_back(source_of(a, single || a.ndim() != 2 ? program.widths[0] : a.shape(1), "x"));
    if (parts_.back().rows != parts_.front().rows)
      raise_shape("x: expected arrays of as many rows, " + std::to_string(parts_.front().rows) + ", received " +
                  std::to_string(parts_.back().rows));
    together_.append(parts_.back());
  }
  if (together_.cols != program.widths[0])
    raise_shape("x: expected " + std::to_string(program.widths[0]) + " columns in all, received " +
                std::to_string(together_.cols));
  sources_.x = single ? static_cast<const RowSource*>(&parts_[0]) : &together_;
  positions_ = sources_.x->rows;
}

void GivenRows::read_row_numbers(const py::object& rows) {
  using Index = py::array_t<int64_t, py::array::c_style>;
  const bool aligned =
      py::isinstance<Index>(rows) && py::cast<bool>(rows.attr("flags").attr("aligned"));  // pybind11 does not ask
  if (!aligned) raise_dtype("rows: expected a contiguous, aligned array of int64");
  const auto index = py::cast<Index>(rows);
  arrays_.push_back(index);
  if (index.ndim() != 1) raise_shape("rows: expected shape (m,), received " + text(index));
  positions_ = index.shape(0);
  sources_.index = index.data();
}

void GivenRows::check_rows(const char* what, const DenseSource& source) const {
  if (source.rows != sources_.x->rows)
    raise_shape(std::string(what) + ": expected as many rows as x, " + std::to_string(sources_.x->rows) +
                ", received " + std::to_string(source.rows));
}

}  // namespace fp::bindings
