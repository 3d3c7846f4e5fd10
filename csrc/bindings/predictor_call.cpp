#include "bindings/predictor_call.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <utility>

#include "bindings/gil.hpp"
#include "network/worth.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/few.hpp"

namespace fp::bindings {
namespace {

// Arithmetic from which the interpreter is worth giving to other threads: some 30 us.
constexpr double kReleaseFlop = 5e5;

const py::detail::npy_api* numpy = nullptr;
constexpr int kPlain = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
constexpr int kWritable = kPlain | py::detail::npy_api::NPY_ARRAY_WRITEABLE_;

const py::detail::PyArray_Proxy* array_of(PyObject* o) { return reinterpret_cast<py::detail::PyArray_Proxy*>(o); }

// Of our type, in native byte order, without gaps and aligned.
bool is_plain(const PredictorObject* self, PyObject* o, int flags) {
  const auto* a = array_of(o);
  return (a->descr == self->descr || numpy->PyArray_EquivTypes_(a->descr, self->descr)) && (a->flags & flags) == flags;
}

// Whether the array has this shape, perhaps behind a number of rows: 0 no, 1 one sample, 2 rows.
int shape_fits(const py::detail::PyArray_Proxy* a, const std::vector<py::ssize_t>& shape) {
  const int rank = static_cast<int>(shape.size()), before = a->nd - rank;
  if (before != 0 && before != 1) return 0;
  for (int i = 0; i < rank; ++i)
    if (a->dimensions[before + i] != shape[static_cast<std::size_t>(i)]) return 0;
  return 1 + before;
}

// An array for each input or output. They are held, since a list that they came in may change while the interpreter is
// given away. Each: Few, or Single with one input and one output, where each nanosecond counts.
template <template <class> class Each>
class Arrays {
 public:
  explicit Arrays(const Ports& ports) : each_(ports.size()) {}
  ~Arrays() {
    for (std::size_t i = 0; i < size(); ++i) Py_XDECREF(each_[i]);
  }
  Arrays(const Arrays&) = delete;

  void set(std::size_t i, PyObject* owned) { each_[i] = owned; }
  PyObject* release(std::size_t i) { return std::exchange(each_[i], nullptr); }
  std::size_t size() const { return each_.size(); }
  PyObject* object(std::size_t i) const { return each_[i]; }
  const py::detail::PyArray_Proxy* operator[](std::size_t i) const { return array_of(each_[i]); }

  int fits = 0;  // all of them, as shape_fits says
  int64_t rows = 0;

 private:
  Each<PyObject*> each_;
};

// What the caller gave for one of the ports, borrowed; nullptr where that is not so plain to see.
PyObject* part(const Ports& ports, PyObject* given, std::size_t i) {
  const auto size = static_cast<py::ssize_t>(ports.size()), place = static_cast<py::ssize_t>(i);
  if (PyList_CheckExact(given)) return PyList_GET_SIZE(given) == size ? PyList_GET_ITEM(given, place) : nullptr;
  if (PyTuple_CheckExact(given)) return PyTuple_GET_SIZE(given) == size ? PyTuple_GET_ITEM(given, place) : nullptr;
  if (!PyDict_CheckExact(given) || PyDict_GET_SIZE(given) != size) return nullptr;
  PyObject* found = PyDict_GetItemWithError(given, ports[i].name.ptr());
  if (!found && PyErr_Occurred()) throw py::error_already_set();
  return found;
}

// Whether plain arrays that fit are all that was given; then `to` has them. derived: of subclasses, too.
template <template <class> class Each>
bool take(const PredictorObject* self, const Ports& ports, PyObject* given, int flags, bool derived, Arrays<Each>& to) {
  for (std::size_t i = 0; i < to.size(); ++i) {
    PyObject* o = to.size() == 1 ? given : part(ports, given, i);
    if (!o || !(Py_TYPE(o) == numpy->PyArray_Type_ || (derived && PyObject_TypeCheck(o, numpy->PyArray_Type_))))
      return false;
    to.set(i, shared(o));
    const int fits = is_plain(self, o, flags) ? shape_fits(to[i], ports[i].shape) : 0;
    const int64_t rows = fits == 2 ? to[i]->dimensions[0] : 1;
    if (fits == 0 || (i > 0 && (fits != to.fits || rows != to.rows))) return false;
    to.fits = fits;
    to.rows = rows;
  }
  return true;
}

// Of the rows from `begin` on.
template <class E, template <class> class Each>
Each<Place<E>> places(const std::vector<int64_t>& widths, const Arrays<Each>& arrays, int64_t begin) {
  Each<Place<E>> found(arrays.size());
  for (std::size_t i = 0; i < arrays.size(); ++i)
    found[i] = {reinterpret_cast<E*>(arrays[i]->data) + begin * widths[i], widths[i]};
  return found;
}

// Rows between two looks at whether somebody wants to stop. wanted: as many as take some ten milliseconds. Few rows
// make poor use of weights that must be read anew for each piece, so pieces may take eight times as long.
int64_t rows_per_piece(double wanted) {
  return static_cast<int64_t>(std::clamp(wanted, std::clamp(8 * wanted, 16.0, 256.0), 1e9));
}

template <class T, template <class> class Each>
bool run(const Predictor<T>& p, const Arrays<Each>& x, const Arrays<Each>& y) {
  const int64_t rows = x.rows;
  const auto run_rows = [&](int64_t begin, int64_t n, int threads) {
    p.run(places<const T>(p.inputs(), x, begin).data(), places<T>(p.outputs(), y, begin).data(), n, threads);
  };
  if (p.flop() * static_cast<double>(rows) < kReleaseFlop) {
    run_rows(0, rows, 1);
    return true;
  }
  const int64_t piece = rows_per_piece(kFlopPerPiece * static_cast<double>(kernels<T>().lanes) / p.flop());
  for (int64_t at = 0; at < rows; at += piece) {
    {
      // Safe: the arrays are held, and NumPy resizes no array that others refer to.
      const WithoutGil nogil;
      run_rows(at, std::min(piece, rows - at), thread_count());
    }
    if (PyErr_CheckSignals() != 0) return false;
  }
  return true;
}

// A new reference.
PyObject* fresh(const PredictorObject* self, const Port& port, int fits, py::ssize_t rows) {
  py::ssize_t shape[64];
  int nd = 0;
  if (fits == 2) shape[nd++] = rows;
  for (const py::ssize_t n : port.shape) shape[nd++] = n;
  Py_INCREF(self->descr);  // for the array
  PyObject* made =
      numpy->PyArray_NewFromDescr_(numpy->PyArray_Type_, self->descr, nd, shape, nullptr, nullptr, 0, nullptr);
  if (!made) throw py::error_already_set();
  return made;
}

// Fills y, whose arrays are those of `out`, or made here where that is nullptr. A new reference to the result, or
// nullptr with an error set.
template <template <class> class Each>
PyObject* predict(const PredictorObject* self, const Arrays<Each>& x, PyObject* out, Arrays<Each>& y) {
  const Ports& ports = self->out;
  if (!out)
    for (std::size_t i = 0; i < y.size(); ++i) y.set(i, fresh(self, ports[i], x.fits, x.rows));
  if (!std::visit([&](const auto& p) { return run(*p, x, y); }, self->predictor)) return nullptr;
  if (out) return shared(out);
  if (y.size() == 1) return y.release(0);
  if (self->out_is_dict) {
    py::dict found;
    for (std::size_t i = 0; i < ports.size(); ++i) found[ports[i].name] = py::handle(y.object(i));
    return found.release().ptr();
  }
  py::list found(ports.size());
  for (std::size_t i = 0; i < ports.size(); ++i) found[i] = py::handle(y.object(i));
  return found.release().ptr();
}

// Whether the arrays y can take what comes of x: as many rows, apart from x and each other.
template <template <class> class Each>
bool can_take(const PredictorObject* self, const Arrays<Each>& y, const Arrays<Each>& x) {
  if (y.fits != x.fits || y.rows != x.rows) return false;
  const int64_t item = std::holds_alternative<std::unique_ptr<Predictor<float>>>(self->predictor) ? 4 : 8;
  const auto end = [&](const Arrays<Each>& arrays, const Ports& ports, std::size_t i) {
    return arrays[i]->data + arrays.rows * ports[i].width * item;
  };
  const auto apart = [&](std::size_t i, const Arrays<Each>& others, const Ports& ports, std::size_t j) {
    return y[i] != others[j] && (end(y, self->out, i) <= others[j]->data || end(others, ports, j) <= y[i]->data);
  };
  for (std::size_t i = 0; i < y.size(); ++i) {
    for (std::size_t j = 0; j < x.size(); ++j)
      if (!apart(i, x, self->in, j)) return false;
    for (std::size_t j = 0; j < i; ++j)
      if (!apart(i, y, self->out, j)) return false;
  }
  return true;
}

// Through Python, which converts x and names what is wrong with it or out.
template <template <class> class Each>
PyObject* predict_converted(PredictorObject* self, PyObject* given, PyObject* out, bool one) {
  const py::object check = py::module_::import("fastperceptron.predictors").attr("checked_arguments");
  const py::list converted = check(py::handle(self->signature), py::handle(self->descr), py::handle(given),
                                   py::handle(out ? out : Py_None), py::bool_(one));
  const auto side = [](py::list arrays) { return arrays.size() == 1 ? py::object(arrays[0]) : arrays; };
  Arrays<Each> x(self->in), y(self->out);
  if (!take(self, self->in, side(converted[0]).ptr(), kPlain, false, x) ||
      (out && !(take(self, self->out, side(converted[1]).ptr(), kWritable, true, y) && can_take(self, y, x))))
    throw py::type_error("predictor: the arguments were not converted");
  return predict(self, x, out, y);
}

template <template <class> class Each>
PyObject* predict_any(PredictorObject* self, PyObject* given, PyObject* out, bool one) {
  if (out == Py_None) out = nullptr;
  return guarded([&] {
    {
      Arrays<Each> x(self->in), y(self->out);
      // Python looks closer at subclasses: a masked array must not be written to, a memory map may be.
      if (take(self, self->in, given, kPlain, false, x) && !(one && x.fits == 2) &&
          (!out || (take(self, self->out, out, kWritable, false, y) && can_take(self, y, x))))
        return predict(self, x, out, y);
    }
    return predict_converted<Each>(self, given, out, one);
  });
}

}  // namespace

void prepare_predictor_calls() { numpy = &py::detail::npy_api::get(); }

PredictFunction predict_function(std::size_t inputs, std::size_t outputs) {
  return inputs == 1 && outputs == 1 ? predict_any<Single> : predict_any<Few>;
}

}  // namespace fp::bindings
