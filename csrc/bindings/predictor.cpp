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
#include "bindings/predictor_call.hpp"

namespace fp::bindings {
namespace {

using Object = PredictorObject;

PyTypeObject* type = nullptr;
PyObject* out_name = nullptr;  // "out"

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
  self->predict = predict_function(self->in.size(), self->out.size());
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
  prepare_predictor_calls();
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
