#include "bindings/predictor.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <structmember.h>

#include <algorithm>
#include <cstddef>
#include <new>
#include <string>
#include <type_traits>
#include <vector>

#include "bindings/errors.hpp"
#include "bindings/gil.hpp"
#include "network/worth.hpp"
#include "runtime/dispatch.hpp"

namespace fp::bindings {
namespace py = pybind11;
namespace {

// Arithmetic from which the interpreter is worth giving to other threads: some 30 us.
constexpr double kReleaseFlop = 5e5;

struct Object {
  PyObject_HEAD;
  vectorcallfunc call;
  AnyPredictor predictor;
  PyObject* descr;  // of NumPy, which has one object for each of its types
  std::vector<py::ssize_t> in, out;
  PyObject* program;
  PyObject* input_shape;
  PyObject* output_shape;
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

template <class T>
bool run(const Predictor<T>& p, const void* x, int64_t rows, void* y) {
  const T* from = static_cast<const T*>(x);
  T* to = static_cast<T*>(y);
  if (p.flop() * static_cast<double>(rows) < kReleaseFlop) {
    p.run(from, rows, to, 1);
    return true;
  }
  const double most = kFlopPerPiece * static_cast<double>(kernels<T>().lanes) / p.flop();
  const int64_t piece = most < 256 ? 256 : most > 1e9 ? 1'000'000'000 : static_cast<int64_t>(most);
  for (int64_t at = 0; at < rows; at += piece) {
    {
      // Safe: the caller's arguments keep the arrays alive, and NumPy resizes no array that others refer to.
      const WithoutGil nogil;
      p.run(from + at * p.inputs(), std::min(piece, rows - at), to + at * p.outputs(), thread_count());
    }
    if (PyErr_CheckSignals() != 0) return false;
  }
  return true;
}

// x: an array that fits. A new reference to the result, or nullptr with an error set.
PyObject* predict(Object* self, PyObject* x, int fits, PyObject* out) {
  const auto* a = array_of(x);
  const int64_t rows = fits == 2 ? a->dimensions[0] : 1;
  PyObject* result = out;
  if (out) {
    Py_INCREF(out);
  } else {
    py::ssize_t shape[64];
    int nd = 0;
    if (fits == 2) shape[nd++] = rows;
    for (const py::ssize_t n : self->out) shape[nd++] = n;
    Py_INCREF(self->descr);  // for the array
    result = numpy->PyArray_NewFromDescr_(numpy->PyArray_Type_, self->descr, nd, shape, nullptr, nullptr, 0, nullptr);
    if (!result) return nullptr;
  }
  const bool finished =
      std::visit([&](const auto& p) { return run(*p, a->data, rows, array_of(result)->data); }, self->predictor);
  if (finished) return result;
  Py_DECREF(result);
  return nullptr;
}

bool out_fits(const Object* self, PyObject* x, int fits, PyObject* out) {
  if (!PyObject_TypeCheck(out, numpy->PyArray_Type_) || !is_plain(self, out, kWritable) ||
      shape_fits(array_of(out), self->out) != fits)
    return false;
  const auto *a = array_of(x), *b = array_of(out);
  if (fits == 2 && a->dimensions[0] != b->dimensions[0]) return false;
  const int64_t rows = fits == 2 ? a->dimensions[0] : 1;
  return std::visit(
      [&](const auto& p) {
        using T = std::remove_pointer_t<decltype(p.get())>;
        constexpr int64_t item = std::is_same_v<T, Predictor<float>> ? 4 : 8;
        return a->data + rows * p->inputs() * item <= b->data || b->data + rows * p->outputs() * item <= a->data;
      },
      self->predictor);
}

// Through Python, which converts x and names what is wrong with it or out.
PyObject* predict_converted(Object* self, PyObject* x, PyObject* out, bool one) {
  const py::object check = py::module_::import("fastperceptron.predictors").attr("checked_arguments");
  const py::object converted = check(py::handle(reinterpret_cast<PyObject*>(self)), py::handle(x),
                                     py::handle(out ? out : Py_None), py::bool_(one));
  PyObject* array = converted.ptr();
  const int fits = Py_TYPE(array) == numpy->PyArray_Type_ && is_plain(self, array, kPlain)
                       ? shape_fits(array_of(array), self->in)
                       : 0;
  if (fits == 0 || (out && !out_fits(self, array, fits, out)))
    throw py::type_error("predictor: the arguments were not converted");
  return predict(self, array, fits, out);
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

PyObject* predict_any(Object* self, PyObject* x, PyObject* out, bool one) {
  if (out == Py_None) out = nullptr;
  return guarded([&] {
    if (Py_TYPE(x) == numpy->PyArray_Type_ && is_plain(self, x, kPlain)) {
      const int fits = shape_fits(array_of(x), self->in);
      if (fits == 1 || (fits == 2 && !one))
        // Python looks closer at subclasses: a masked array must not be written to, a memory map may be.
        if (!out || (Py_TYPE(out) == numpy->PyArray_Type_ && out_fits(self, x, fits, out)))
          return predict(self, x, fits, out);
    }
    return predict_converted(self, x, out, one);
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
  return predict_any(reinterpret_cast<Object*>(me), given[0], given[1], false);
}

// For Model.predict_one: (x, out) for one sample; None when the weights have changed.
PyObject* one(PyObject* me, PyObject* const* args, py::ssize_t count) {
  auto* self = reinterpret_cast<Object*>(me);
  if (count != 2) {
    PyErr_SetString(PyExc_TypeError, "_one: expected x and out");
    return nullptr;
  }
  if (!std::visit([](const auto& p) { return p->current(); }, self->predictor)) return shared(Py_None);
  return predict_any(self, args[0], args[1], true);
}

void dealloc(PyObject* me) {
  auto* self = reinterpret_cast<Object*>(me);
  Py_XDECREF(self->descr);
  Py_XDECREF(self->program);
  Py_XDECREF(self->input_shape);
  Py_XDECREF(self->output_shape);
  self->in.~vector();
  self->out.~vector();
  self->predictor.~AnyPredictor();
  PyTypeObject* t = Py_TYPE(me);
  t->tp_free(me);
  Py_DECREF(t);
}

PyObject* get_input_shape(PyObject* me, void*) { return shared(reinterpret_cast<Object*>(me)->input_shape); }
PyObject* get_output_shape(PyObject* me, void*) { return shared(reinterpret_cast<Object*>(me)->output_shape); }
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
  auto* self = reinterpret_cast<Object*>(me);
  PyObject* path = get_product_path(me, nullptr);
  if (!path) return nullptr;
  PyObject* text = PyUnicode_FromFormat("<Predictor from %R to %R, %U>", self->input_shape, self->output_shape, path);
  Py_DECREF(path);
  return text;
}
PyObject* get_current(PyObject* me, void*) {
  return PyBool_FromLong(
      std::visit([](const auto& p) { return p->current(); }, reinterpret_cast<Object*>(me)->predictor));
}

// (program, parameters, shapes): what predictors.restored makes a predictor from.
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
    return py::make_tuple(
               py::module_::import("fastperceptron.predictors").attr("restored"),
               py::make_tuple(program, parameters, py::handle(self->input_shape), py::handle(self->output_shape)))
        .release()
        .ptr();
  });
}

PyGetSetDef properties[] = {
    {"input_shape", get_input_shape, nullptr, "Shape of one sample.", nullptr},
    {"output_shape", get_output_shape, nullptr, "Shape of one output.", nullptr},
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

}  // namespace

py::object make_predictor(AnyPredictor predictor, const py::object& program, const py::tuple& input_shape,
                          const py::tuple& output_shape) {
  if (std::visit([](const auto& p) { return p == nullptr; }, predictor)) return py::none();
  if (input_shape.size() > 60 || output_shape.size() > 60) return py::none();
  std::vector<py::ssize_t> in, out;
  int64_t inputs = 1, outputs = 1;
  for (py::handle n : input_shape) inputs *= in.emplace_back(py::cast<py::ssize_t>(n));
  for (py::handle n : output_shape) outputs *= out.emplace_back(py::cast<py::ssize_t>(n));
  std::visit(
      [&](const auto& p) {
        if (inputs != p->inputs() || outputs != p->outputs())
          raise_shape("predictor: the shapes must have " + std::to_string(p->inputs()) + " and " +
                      std::to_string(p->outputs()) + " elements; received " + std::to_string(inputs) + " and " +
                      std::to_string(outputs));
      },
      predictor);
  auto* self = reinterpret_cast<Object*>(type->tp_alloc(type, 0));
  if (!self) throw py::error_already_set();
  self->call = call;
  new (&self->in) std::vector<py::ssize_t>(std::move(in));
  new (&self->out) std::vector<py::ssize_t>(std::move(out));
  self->descr = (std::holds_alternative<std::unique_ptr<Predictor<float>>>(predictor) ? py::dtype::of<float>()
                                                                                      : py::dtype::of<double>())
                    .release()
                    .ptr();
  new (&self->predictor) AnyPredictor(std::move(predictor));
  self->program = shared(program.ptr());
  self->input_shape = shared(input_shape.ptr());
  self->output_shape = shared(output_shape.ptr());
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
