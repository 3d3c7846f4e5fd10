#include "bindings/predictor.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <structmember.h>

#include <algorithm>
#include <cstddef>
#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "bindings/errors.hpp"
#include "bindings/gil.hpp"
#include "network/worth.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/few.hpp"

namespace fp::bindings {
namespace py = pybind11;
namespace {

// Arithmetic from which the interpreter is worth giving to other threads: some 30 us.
constexpr double kReleaseFlop = 5e5;

// An input or an output.
struct Port {
  py::object name;
  std::vector<py::ssize_t> shape;  // of one sample
  int64_t width;
};
using Ports = std::vector<Port>;

struct Object {
  PyObject_HEAD;
  vectorcallfunc call;
  PyObject* (*predict)(Object* self, PyObject* given, PyObject* out, bool one);  // for its number of inputs and outputs
  AnyPredictor predictor;
  PyObject* descr;  // of NumPy, which has one object for each of its types
  Ports in, out;
  bool out_is_dict;
  PyObject* program;
  PyObject* signature;
};

PyObject* shared(PyObject* o) {
  Py_INCREF(o);
  return o;
}
PyTypeObject* type = nullptr;
PyObject* out_name = nullptr;  // "out"
const py::detail::npy_api* numpy = nullptr;
constexpr int kPlain = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
constexpr int kWritable = kPlain | py::detail::npy_api::NPY_ARRAY_WRITEABLE_;

const py::detail::PyArray_Proxy* array_of(PyObject* o) { return reinterpret_cast<py::detail::PyArray_Proxy*>(o); }

// Of our type, in native byte order, without gaps and aligned.
bool is_plain(const Object* self, PyObject* o, int flags) {
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
bool take(const Object* self, const Ports& ports, PyObject* given, int flags, bool derived, Arrays<Each>& to) {
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
PyObject* fresh(const Object* self, const Port& port, int fits, py::ssize_t rows) {
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
PyObject* predict(const Object* self, const Arrays<Each>& x, PyObject* out, Arrays<Each>& y) {
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
bool can_take(const Object* self, const Arrays<Each>& y, const Arrays<Each>& x) {
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
PyObject* predict_converted(Object* self, PyObject* given, PyObject* out, bool one) {
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

// Runs f, which returns a new reference or nullptr with an error set; C++ exceptions become errors.
template <class F>
PyObject* guarded(const F& f) {
  try {
    return f();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

// `given` and `out` as they came, out perhaps nullptr. one: no rows, but one sample.
template <template <class> class Each>
PyObject* predict_any(Object* self, PyObject* given, PyObject* out, bool one) {
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

// p(x, out=None)
PyObject* call(PyObject* me, PyObject* const* args, size_t flags, PyObject* names) {
  const py::ssize_t count = PyVectorcall_NARGS(flags), named = names ? PyTuple_GET_SIZE(names) : 0;
  PyObject* given[2] = {nullptr, nullptr};  // x, out
  bool fine = count + named <= 2;
  for (py::ssize_t i = 0; fine && i < count; ++i) given[i] = args[i];
  for (py::ssize_t i = 0; fine && i < named; ++i) {
    PyObject* name = PyTuple_GET_ITEM(names, i);
    const int place = name == out_name || PyUnicode_CompareWithASCIIString(name, "out") == 0 ? 1
                      : PyUnicode_CompareWithASCIIString(name, "x") == 0                     ? 0
                                                                                             : 2;
    fine = place < 2 && !given[place];
    if (fine) given[place] = args[count + i];
  }
  if (!fine || !given[0]) {
    if (named)
      PyErr_Format(PyExc_TypeError, "predictor: expected (x, out=None); received %zd arguments, with the names %R",
                   count + named, names);
    else
      PyErr_Format(PyExc_TypeError, "predictor: expected (x, out=None); received %zd arguments", count);
    return nullptr;
  }
  auto* self = reinterpret_cast<Object*>(me);
  return self->predict(self, given[0], given[1], false);
}

// For Model.predict_one: (x, out) for one sample; None when the weights have changed.
PyObject* one(PyObject* me, PyObject* const* args, py::ssize_t count) {
  auto* self = reinterpret_cast<Object*>(me);
  if (count != 2) {
    PyErr_SetString(PyExc_TypeError, "_one: expected x and out");
    return nullptr;
  }
  return guarded([&] {
    const bool current = std::visit([](const auto& p) { return p->current(); }, self->predictor);
    return current ? self->predict(self, args[0], args[1], true) : shared(Py_None);
  });
}

void dealloc(PyObject* me) {
  auto* self = reinterpret_cast<Object*>(me);
  Py_XDECREF(self->descr);
  Py_XDECREF(self->program);
  Py_XDECREF(self->signature);
  self->in.~Ports();
  self->out.~Ports();
  self->predictor.~AnyPredictor();
  PyTypeObject* t = Py_TYPE(me);
  t->tp_free(me);
  Py_DECREF(t);
}

// The shape of the only port, or a list of all.
PyObject* get_shapes(PyObject* me, void* field) {
  return guarded([&] {
    const py::tuple shapes = py::handle(reinterpret_cast<Object*>(me)->signature).attr(static_cast<const char*>(field));
    return (shapes.size() == 1 ? py::object(shapes[0]) : py::list(shapes)).release().ptr();
  });
}
PyObject* get_dtype(PyObject* me, void*) { return shared(reinterpret_cast<Object*>(me)->descr); }
PyObject* get_backend(PyObject*, void*) { return PyUnicode_FromString("native"); }
PyObject* get_product_path(PyObject* me, void*) {
  return guarded([&] {
    const std::string path =
        std::visit([](const auto& p) { return p->product_path(); }, reinterpret_cast<Object*>(me)->predictor);
    return PyUnicode_FromStringAndSize(path.data(), static_cast<py::ssize_t>(path.size()));
  });
}
PyObject* repr(PyObject* me) {
  return guarded([&] {
    const auto own = py::reinterpret_borrow<py::object>(me);
    return py::str("<Predictor from {!r} to {!r}, {}>")
        .format(own.attr("input_shape"), own.attr("output_shape"), own.attr("product_path"))
        .release()
        .ptr();
  });
}
PyObject* get_current(PyObject* me, void*) {
  return guarded([&] {
    return PyBool_FromLong(
        std::visit([](const auto& p) { return p->current(); }, reinterpret_cast<Object*>(me)->predictor));
  });
}

// (program, parameters, signature): what predictors.restored makes a predictor from.
PyObject* reduce(PyObject* me, PyObject*) {
  return guarded([&] {
    auto* self = reinterpret_cast<Object*>(me);
    py::list parameters;
    const py::object program = py::reinterpret_borrow<py::object>(self->program);
    int index = 0;
    for (py::handle p : program.attr("parameters")) {
      std::visit(
          [&](const auto& predictor) {
            using T =
                std::conditional_t<std::is_same_v<std::decay_t<decltype(*predictor)>, Predictor<float>>, float, double>;
            py::array_t<T> a(py::cast<std::vector<py::ssize_t>>(p.attr("shape")));
            predictor->read(index, a.mutable_data());
            parameters.append(std::move(a));
          },
          self->predictor);
      ++index;
    }
    return py::make_tuple(py::module_::import("fastperceptron.predictors").attr("restored"),
                          py::make_tuple(program, parameters, py::handle(self->signature)))
        .release()
        .ptr();
  });
}

char kInputShapes[] = "input_shapes", kOutputShapes[] = "output_shapes";  // fields of the signature
PyGetSetDef properties[] = {
    {"input_shape", get_shapes, nullptr, "Shape of one sample; a list of them with several inputs.", kInputShapes},
    {"output_shape", get_shapes, nullptr, "Shape of one output; a list of them with several outputs.", kOutputShapes},
    {"dtype", get_dtype, nullptr, "Of inputs that need no conversion, and of outputs.", nullptr},
    {"backend", get_backend, nullptr, "\"native\".", nullptr},
    {"product_path", get_product_path, nullptr, "What computes the dense products.", nullptr},
    {"current", get_current, nullptr, "Whether the network has not been written to since.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};
PyMethodDef methods[] = {
    {"_one", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(one)), METH_FASTCALL, "For Model.predict_one."},
    {"__reduce__", reduce, METH_NOARGS, "For pickle."},
    {nullptr, nullptr, 0, nullptr}};
PyMemberDef members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, static_cast<py::ssize_t>(offsetof(Object, call)), READONLY, nullptr},
    {nullptr, 0, 0, 0, nullptr}};

// The ports of these names and shapes, for values of these widths.
Ports ports(const std::string& what, const py::tuple& names, const py::tuple& shapes,
            const std::vector<int64_t>& widths) {
  if (names.size() != widths.size() || shapes.size() != widths.size())
    raise_shape("predictor: expected " + std::to_string(widths.size()) + " " + what + "s; received " +
                std::to_string(names.size()) + " names and " + std::to_string(shapes.size()) + " shapes");
  Ports found;
  for (std::size_t i = 0; i < widths.size(); ++i) {
    Port port{names[i], py::cast<std::vector<py::ssize_t>>(shapes[i]), 1};
    for (const py::ssize_t n : port.shape) port.width *= n;
    if (port.width != widths[i])
      raise_shape("predictor: the shape of " + what + " " + std::to_string(i) + " must have " +
                  std::to_string(widths[i]) + " elements; received " + std::to_string(port.width));
    found.push_back(std::move(port));
  }
  return found;
}

}  // namespace

py::object make_predictor(AnyPredictor predictor, const py::object& program, const py::object& signature) {
  if (std::visit([](const auto& p) { return p == nullptr; }, predictor)) return py::none();
  const auto side = [&](const std::string& what, const std::vector<int64_t>& widths) {
    return ports(what, signature.attr((what + "_names").c_str()), signature.attr((what + "_shapes").c_str()), widths);
  };
  Ports in, out;
  std::visit(
      [&](const auto& p) {
        in = side("input", p->inputs());
        out = side("output", p->outputs());
      },
      predictor);
  const auto has_many_axes = [](const Port& port) { return port.shape.size() > 60; };
  if (std::any_of(in.begin(), in.end(), has_many_axes) || std::any_of(out.begin(), out.end(), has_many_axes))
    return py::none();
  const bool out_is_dict = py::cast<bool>(signature.attr("output_is_dict"));
  auto* self = reinterpret_cast<Object*>(type->tp_alloc(type, 0));
  if (!self) throw py::error_already_set();
  self->call = call;
  new (&self->in) Ports(std::move(in));
  new (&self->out) Ports(std::move(out));
  self->predict = self->in.size() == 1 && self->out.size() == 1 ? predict_any<Single> : predict_any<Few>;
  self->out_is_dict = out_is_dict;
  self->descr = (std::holds_alternative<std::unique_ptr<Predictor<float>>>(predictor) ? py::dtype::of<float>()
                                                                                      : py::dtype::of<double>())
                    .release()
                    .ptr();
  new (&self->predictor) AnyPredictor(std::move(predictor));
  self->program = shared(program.ptr());
  self->signature = shared(signature.ptr());
  return py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(self));
}

const AnyPredictor* predictor_of(PyObject* object) {
  return Py_TYPE(object) == type ? &reinterpret_cast<Object*>(object)->predictor : nullptr;
}

void register_predictor(py::module_& m) {
  numpy = &py::detail::npy_api::get();
  out_name = PyUnicode_InternFromString("out");
  PyType_Slot slots[] = {{Py_tp_doc, const_cast<char*>("See fastperceptron.Predictor.")},
                         {Py_tp_dealloc, reinterpret_cast<void*>(dealloc)},
                         {Py_tp_repr, reinterpret_cast<void*>(repr)},
                         {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
                         {Py_tp_getset, properties},
                         {Py_tp_methods, methods},
                         {Py_tp_members, members},
                         {0, nullptr}};
  PyType_Spec spec{"fastperceptron._core.Predictor", sizeof(Object), 0,
                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
  type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
  if (!type || !out_name) throw py::error_already_set();
  m.attr("Predictor") = py::handle(reinterpret_cast<PyObject*>(type));
}

}  // namespace fp::bindings
